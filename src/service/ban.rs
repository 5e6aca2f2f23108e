//! Room bans: only the owner, the admins and the allow list may speak in the room.

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

/// A room's profile, ban and counts.
pub struct RoomInfo {
    /// `None`: the room is not registered, in an app whose directory is open.
    pub profile: Option<RoomProfile>,
    /// The ban, if one is in force.
    pub ban: Option<Restriction>,
    /// Number of member mutes, including expired ones that are not swept yet.
    pub muted_count: usize,
    /// Number of users on the allow list.
    pub allowed_count: usize,
}

impl Service {
    /// Bans the room, and returns the ban. No duration: the ban does not expire. Errors:
    /// PERMISSION_DENIED, ROOM_NOT_FOUND, INVALID_ARGUMENT on `duration`.
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
            batch.put(key, Value::Restriction(restriction.clone()));
            Ok((Some(batch), restriction))
        })
        .await
    }

    /// Removes the ban, and returns whether it was in force. Errors: PERMISSION_DENIED,
    /// ROOM_NOT_FOUND.
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

    /// The room's profile, ban and counts. Errors: PERMISSION_DENIED, ROOM_NOT_FOUND.
    pub fn get_room(&self, call: &RequestContext, room: &RoomId) -> Result<RoomInfo, Error> {
        call.permit(Action::SeeRoom)?;
        self.require_room(call, room)?;
        let now_ms = self.clock.now_ms();
        Ok(self.view.room(call.key(), room.as_str(), |room| RoomInfo {
            profile: room.and_then(|room| Some(room.profile.as_ref()?.value.clone())),
            ban: room.and_then(|room| Some(room.ban_in_force(now_ms)?.value.clone())),
            muted_count: room.map_or(0, |room| room.muted.len()),
            allowed_count: room.map_or(0, |room| room.allowed.len()),
        }))
    }
}
