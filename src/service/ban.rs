//! Room bans: nobody may speak but owner, admins and allow list.

use super::{
    Answer, Committed, RequestContext, Service,
    registration::{expect_registration, expect_room},
};
use crate::{
    auth::Action,
    error::Error,
    model::{Event, EventKind, Expire, Key, Restriction, RoomId, RoomProfile, Value},
    store::Batch,
};

/// What is known of a room.
pub struct RoomInfo {
    /// Nothing where the directory, an open one, does not have it.
    pub profile: Option<RoomProfile>,
    /// The ban in force.
    pub ban: Option<Restriction>,
    /// Member mutes, those included that have ended and are not swept yet.
    pub muted: usize,
    /// Users on the allow list.
    pub allowed: usize,
}

impl Service {
    /// Bans the room. Answers the ban.
    pub async fn ban_room<A: Answer>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        duration_ms: Option<u64>,
        reason: &str,
        answer: impl Fn(Restriction) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        self.change(call, answer, |now_ms| {
            let registration = self.moderate(call, room)?;
            let expire = Expire::after(self.clock.now_ms(), duration_ms)?;
            let event = call.room_event(EventKind::Banned, now_ms, room, &[], reason);
            let mut batch = Batch::of(&Event { expire, ..event });
            expect_registration(&mut batch, call.key(), room, registration);
            let restriction = call.restriction(now_ms, expire, reason);
            let key = Key::Ban { app: call.key(), room: room.as_str() };
            batch.expect(key, self.view.room(call.key(), room.as_str(), |room| room?.stored_ban()));
            batch.put(key, &Value::Restriction(restriction.clone()));
            Ok((Some(batch), restriction))
        })
        .await
    }

    /// Ends the ban. Answers whether one was in force.
    pub async fn unban_room<A: Answer>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        reason: &str,
        answer: impl Fn(bool) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        self.change(call, answer, |now_ms| {
            let registration = self.moderate(call, room)?;
            let ban = self.view.room(call.key(), room.as_str(), |room| room?.ban.clone());
            let Some(ban) = ban else { return Ok((None, false)) };
            let mut batch =
                Batch::of(&call.room_event(EventKind::Unbanned, now_ms, room, &[], reason));
            expect_room(&mut batch, call.key(), room, registration);
            let key = Key::Ban { app: call.key(), room: room.as_str() };
            batch.expect(key, Some(ban.revision));
            batch.delete(key);
            Ok((Some(batch), ban.value.expire.in_force(now_ms)))
        })
        .await
    }

    /// What is known of the room.
    pub fn get_room(&self, call: &RequestContext, room: &RoomId) -> Result<RoomInfo, Error> {
        call.permit(Action::SeeRoom)?;
        self.require_room(call, room)?;
        let now_ms = self.clock.now_ms();
        Ok(self.view.room(call.key(), room.as_str(), |room| RoomInfo {
            profile: room.and_then(|room| Some(room.profile.as_ref()?.value.clone())),
            ban: room.and_then(|room| Some(room.ban_in_force(now_ms)?.value.clone())),
            muted: room.map_or(0, |room| room.muted.len()),
            allowed: room.map_or(0, |room| room.allowed.len()),
        }))
    }
}
