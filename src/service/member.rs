//! Member mutes: the users who may not speak in a room.

use super::{
    Answer, Committed, RequestContext, Service,
    change::remove_stored,
    registration::{expect_registration, expect_room},
};
use crate::{
    auth::Action,
    error::{Error, Reason, Subject},
    model::{Event, EventKind, Expire, Key, Restriction, RoomId, UserId, Value},
    store::{Batch, Revision},
};

impl Service {
    /// Mutes all of the users or none, in one commit, and returns the mute that each of them has.
    /// No duration: it does not expire. Errors: PERMISSION_DENIED, ROOM_NOT_FOUND,
    /// CLIENT_NOT_FOUND, OWNER_NOT_MUTABLE, INVALID_ARGUMENT on `duration`.
    pub async fn mute_members<A: Answer>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
        duration_ms: Option<u64>,
        reason: &str,
        answer: impl Fn(Restriction) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        self.change(call, answer, |now_ms| {
            let registration = self.moderate(call, room)?;
            let expire = Expire::after(self.clock.now_ms(), duration_ms)?;
            self.require_clients(call, users.iter().map(UserId::as_str))?;
            self.refuse_owner(call, room, users)?;
            let event = call.room_event(EventKind::Muted, now_ms, room, users, reason);
            let mut batch = Batch::of(&Event { expire, ..event });
            expect_registration(&mut batch, call.key(), room, registration);
            let restriction = call.restriction(now_ms, expire, reason);
            let value = Value::Restriction(restriction.clone());
            for (user, revision) in users.iter().zip(self.stored_mutes(call, room, users)) {
                let key =
                    Key::MemberMute { app: call.key(), room: room.as_str(), user: user.as_str() };
                batch.expect(key, revision);
                batch.put(key, value.clone());
            }
            Ok((Some(batch), restriction))
        })
        .await
    }

    /// Unmutes the users, and returns whether a mute of each was in force. Errors:
    /// PERMISSION_DENIED, ROOM_NOT_FOUND.
    pub async fn unmute_members<A: Answer>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
        reason: &str,
        answer: impl Fn(Vec<bool>) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        self.change(call, answer, |now_ms| {
            let registration = self.moderate(call, room)?;
            let mutes = self.view.room(call.key(), room.as_str(), |room| {
                let mute = |user: &UserId| Some(room?.muted.get(user.as_str())?.clone());
                users.iter().map(mute).collect::<Vec<_>>()
            });
            let was_muted = mutes
                .iter()
                .map(|mute| mute.as_ref().is_some_and(|mute| mute.value.expire.in_force(now_ms)))
                .collect();
            let stored = mutes.into_iter().map(|mute| mute.map(|mute| mute.revision)).collect();
            let key = |user| Key::MemberMute { app: call.key(), room: room.as_str(), user };
            let event = |removed: &[UserId]| {
                call.room_event(EventKind::Unmuted, now_ms, room, removed, reason)
            };
            let mut batch = remove_stored(users, stored, key, event);
            batch.iter_mut().for_each(|batch| expect_room(batch, call.key(), room, registration));
            Ok((batch, was_muted))
        })
        .await
    }

    /// At most `size` of the mutes in force, ordered by user: those after the user `after`, without
    /// the first `skip` of them. Errors: PERMISSION_DENIED, ROOM_NOT_FOUND.
    pub fn list_muted(
        &self,
        call: &RequestContext,
        room: &RoomId,
        after: Option<&str>,
        skip: usize,
        size: usize,
    ) -> Result<Vec<(String, Restriction)>, Error> {
        self.permit_in_room(call, room, |is_staff| Action::ListRoom { is_staff })?;
        self.require_room(call, room)?;
        let now_ms = self.clock.now_ms();
        Ok(self.view.room(call.key(), room.as_str(), |room| {
            let Some(room) = room else { return Vec::new() };
            let mutes = room.mutes_after(after, now_ms).skip(skip).take(size);
            mutes.map(|(user, restriction)| (user.to_owned(), restriction.clone())).collect()
        }))
    }

    /// The revision stored under the key of each user's mute, even if the mute no longer counts.
    fn stored_mutes(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
    ) -> Vec<Option<Revision>> {
        self.view.room(call.key(), room.as_str(), |room| {
            users.iter().map(|user| room?.stored_mute(user.as_str())).collect()
        })
    }

    /// Errors: OWNER_NOT_MUTABLE if one of the users owns the room.
    fn refuse_owner(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
    ) -> Result<(), Error> {
        let owner = self.view.room(call.key(), room.as_str(), |room| {
            let profile = &room?.profile.as_ref()?.value;
            users.iter().any(|user| user.as_str() == profile.owner).then(|| profile.owner.clone())
        });
        match owner {
            None => Ok(()),
            Some(owner) => Err(Error {
                subject: Subject::Users(vec![owner]),
                ..Error::new(
                    Reason::OwnerNotMutable,
                    "the owner of a room cannot be muted in it; a mute from before the user became \
                     the owner stays in force: it can be removed, but not changed",
                )
            }),
        }
    }
}
