//! Allow lists: the users who may speak during a room ban.

use super::{
    Answer, Committed, RequestContext, Service, change::remove_stored, registration::expect_room,
};
use crate::{
    auth::Action,
    error::Error,
    model::{EventKind, Expire, Key, Restriction, RoomId, UserId, Value},
    store::{Batch, Revision},
};

impl Service {
    /// Adds the users to the allow list. Existing entries do not change. Errors: PERMISSION_DENIED,
    /// ROOM_NOT_FOUND, CLIENT_NOT_FOUND.
    pub async fn allow_members<A: Answer>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
        reason: &str,
        answer: impl Fn(()) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        self.change(call, answer, |now_ms| {
            let registration = self.moderate(call, room)?;
            self.require_clients(call, users.iter().map(UserId::as_str))?;
            let stored = self.view.room(call.key(), room.as_str(), |room| {
                users.iter().map(|user| room?.stored_allowed(user.as_str())).collect::<Vec<_>>()
            });
            let current = self.allowed_revisions(call, room, users);
            let new: Vec<_> = users
                .iter()
                .zip(&current)
                .filter(|(_, current)| current.is_none())
                .map(|(user, _)| user.clone())
                .collect();
            if new.is_empty() {
                return Ok((None, ()));
            }
            let mut batch =
                Batch::of(&call.room_event(EventKind::Allowed, now_ms, room, &new, reason));
            expect_room(&mut batch, call.key(), room, registration);
            let key = |user| Key::Allowed { app: call.key(), room: room.as_str(), user };
            // Also for existing entries: the result holds only if they still exist.
            let value = Value::Restriction(call.restriction(now_ms, Expire::NEVER, reason));
            for ((user, revision), current) in users.iter().zip(stored).zip(current) {
                batch.expect(key(user.as_str()), revision);
                if current.is_none() {
                    batch.put(key(user.as_str()), value.clone());
                }
            }
            Ok((Some(batch), ()))
        })
        .await
    }

    /// Removes the users from the allow list, and returns whether each was on it. Errors:
    /// PERMISSION_DENIED, ROOM_NOT_FOUND.
    pub async fn disallow_members<A: Answer>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
        reason: &str,
        answer: impl Fn(Vec<bool>) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        self.change(call, answer, |now_ms| {
            let registration = self.moderate(call, room)?;
            let key = |user| Key::Allowed { app: call.key(), room: room.as_str(), user };
            let event = |removed: &[UserId]| {
                call.room_event(EventKind::Disallowed, now_ms, room, removed, reason)
            };
            let current = self.allowed_revisions(call, room, users);
            let was_allowed = current.iter().map(Option::is_some).collect();
            let mut batch = remove_stored(users, current, key, event);
            batch.iter_mut().for_each(|batch| expect_room(batch, call.key(), room, registration));
            Ok((batch, was_allowed))
        })
        .await
    }

    /// At most `size` users of the allow list, in order, after the user `after`. Errors:
    /// PERMISSION_DENIED, ROOM_NOT_FOUND.
    pub fn list_allowed(
        &self,
        call: &RequestContext,
        room: &RoomId,
        after: Option<&str>,
        size: usize,
    ) -> Result<Vec<(String, Restriction)>, Error> {
        self.permit_in_room(call, room, |is_staff| Action::ListRoom { is_staff })?;
        self.require_room(call, room)?;
        Ok(self.view.room(call.key(), room.as_str(), |room| {
            let Some(room) = room else { return Vec::new() };
            room.allowed_after(after)
                .take(size)
                .map(|(user, restriction)| (user.to_owned(), restriction.clone()))
                .collect()
        }))
    }

    /// Those of `users` that are on the allow list. Errors: PERMISSION_DENIED, ROOM_NOT_FOUND.
    pub fn find_allowed(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
    ) -> Result<Vec<(String, Restriction)>, Error> {
        self.permit_in_room(call, room, |is_staff| Action::ListRoom { is_staff })?;
        self.require_room(call, room)?;
        Ok(self.view.room(call.key(), room.as_str(), |room| {
            let allowed = |user: &UserId| {
                Some((user.to_string(), room?.allowed.get(user.as_str())?.value.clone()))
            };
            users.iter().filter_map(allowed).collect()
        }))
    }

    /// The revision of each user's entry. `None`: the user is not on the allow list.
    fn allowed_revisions(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserId],
    ) -> Vec<Option<Revision>> {
        self.view.room(call.key(), room.as_str(), |room| {
            let revision = |user: &UserId| Some(room?.allowed.get(user.as_str())?.revision);
            users.iter().map(revision).collect()
        })
    }
}
