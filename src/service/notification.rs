//! Notification mutes: which rooms a user wants no push from.

use super::{
    Answer, ClientInfo, Committed, RequestContext, Service,
    registration::{Registration, expect_room},
};
use crate::{
    auth::Action,
    error::Error,
    model::{ClientProfile, Event, EventKind, Expire, Key, Restriction, RoomId, UserId, Value},
    store::{Batch, Revision},
    view::MutedRoom,
};

/// A client's list is told whole with the client, and looked through with every change of it.
const MAX_MUTED_ROOMS: usize = 1_000;

/// What a change of a client's notification mutes is planned from.
struct PreconditionSnapshot {
    seen: ClientInfo,
    /// That of the client's registration.
    revision: Option<Revision>,
    /// Nothing where it was deleted with its room.
    muted: Option<MutedRoom>,
    /// Of what is stored under its key, whether or not it counts.
    stored: Option<Revision>,
    next_place: u64,
    /// Notification mutes of the client, those included that have ended and are not swept yet.
    count: usize,
}

impl Service {
    /// Mutes the room's notifications for the user. Answers the client.
    pub async fn mute_notifications<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        room: &RoomId,
        duration_ms: Option<u64>,
        answer: impl Fn(ClientInfo) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::MuteNotifications { user: user.as_str() })?;
        self.change(call, answer, |now_ms| {
            let (basis, registration) = self.basis(call, user, room, now_ms)?;
            let expire = Expire::after(self.clock.now_ms(), duration_ms)?;
            let in_force = basis
                .muted
                .as_ref()
                .filter(|muted| muted.restriction.value.expire.in_force(now_ms));
            if expire == Expire::NEVER
                && in_force.is_some_and(|muted| muted.restriction.value.expire == expire)
            {
                return Ok((None, basis.seen));
            }
            if in_force.is_none() && basis.count >= MAX_MUTED_ROOMS {
                return Err(Error::invalid(
                    "room",
                    "a user may mute the notifications of 1000 rooms",
                ));
            }
            let stored = basis.stored;
            let (is_new, place) =
                (in_force.is_none(), in_force.map_or(basis.next_place, |muted| muted.place));
            let event = call.room_event(
                EventKind::NotificationsMuted,
                now_ms,
                room,
                std::slice::from_ref(user),
                "",
            );
            let (mut batch, mut seen) = touch(call, user, basis, &Event { expire, ..event });
            expect_room(&mut batch, call.key(), room, registration);
            let key =
                Key::NotificationMute { app: call.key(), user: user.as_str(), room: room.as_str() };
            batch.expect(key, stored);
            batch.put(key, &Value::NotificationMute(call.restriction(now_ms, expire, ""), place));
            // A new one has the last place.
            seen.muted_rooms.extend(is_new.then(|| room.to_string()));
            Ok((Some(batch), seen))
        })
        .await
    }

    /// Unmutes the room's notifications for the user. Answers the client, and whether a mute was in
    /// force.
    pub async fn unmute_notifications<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        room: &RoomId,
        answer: impl Fn((ClientInfo, bool)) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::MuteNotifications { user: user.as_str() })?;
        self.change(call, answer, |now_ms| {
            let (basis, registration) = self.basis(call, user, room, now_ms)?;
            let Some(muted) = basis.muted.clone() else { return Ok((None, (basis.seen, false))) };
            let event = call.room_event(
                EventKind::NotificationsUnmuted,
                now_ms,
                room,
                std::slice::from_ref(user),
                "",
            );
            let (mut batch, mut seen) = touch(call, user, basis, &event);
            expect_room(&mut batch, call.key(), room, registration);
            let key =
                Key::NotificationMute { app: call.key(), user: user.as_str(), room: room.as_str() };
            batch.expect(key, Some(muted.restriction.revision));
            batch.delete(key);
            seen.muted_rooms.retain(|muted| muted != room.as_str());
            Ok((Some(batch), (seen, muted.restriction.value.expire.in_force(now_ms))))
        })
        .await
    }

    /// The notification mutes in force, in the order of muting, after this place and room; at most
    /// `size`.
    pub fn list_muted_rooms(
        &self,
        call: &RequestContext,
        user: &UserId,
        after: Option<(u64, &str)>,
        size: usize,
    ) -> Result<Vec<(MutedRoom, Restriction)>, Error> {
        call.permit(Action::SeeClient { user: user.as_str() })?;
        self.require_clients(call, std::iter::once(user.as_str()))?;
        let now_ms = self.clock.now_ms();
        Ok(self.view.client(call.key(), user.as_str(), |client| {
            let Some(client) = client else { return Vec::new() };
            let rooms = client.muted_in_force(now_ms).filter(|muted| {
                after.is_none_or(|after| (muted.place, muted.room.as_str()) > after)
            });
            rooms.take(size).map(|muted| (muted.clone(), muted.restriction.value.clone())).collect()
        }))
    }

    /// What the batch expects is read before what depends on it. Errors: CLIENT_NOT_FOUND,
    /// ROOM_NOT_FOUND.
    fn basis(
        &self,
        call: &RequestContext,
        user: &UserId,
        room: &RoomId,
        now_ms: u64,
    ) -> Result<(PreconditionSnapshot, Registration), Error> {
        let registration = self.registration(call, room);
        let basis = self.view.client(call.key(), user.as_str(), |client| PreconditionSnapshot {
            seen: ClientInfo::of(user.as_str(), client, now_ms),
            revision: client.and_then(|client| Some(client.profile.as_ref()?.revision)),
            muted: client.and_then(|client| client.muted_room(room.as_str()).cloned()),
            stored: client.and_then(|client| client.stored_muted_room(room.as_str())),
            next_place: client.map_or(1, |client| client.next_place()),
            count: client.map_or(0, |client| client.muted().count()),
        });
        if call.app.strict && basis.revision.is_none() {
            return Err(Error::clients_not_found(vec![user.to_string()]));
        }
        Ok((basis, registration.require(call)?))
    }
}

/// A batch that notes on the client that it has changed, and fails if somebody else has changed it
/// meanwhile: so that each of two mutes at the same moment gets a place of its own. With the client
/// as it will be.
fn touch(
    call: &RequestContext,
    user: &UserId,
    basis: PreconditionSnapshot,
    event: &Event,
) -> (Batch, ClientInfo) {
    let PreconditionSnapshot { seen, revision, .. } = basis;
    let mut batch = Batch::of(event);
    let key = Key::Client { app: call.key(), user: user.as_str() };
    batch.expect(key, revision);
    let created_ms = if revision.is_some() { seen.profile.created_ms } else { event.at_ms };
    let profile = ClientProfile { created_ms, updated_ms: event.at_ms, ..seen.profile };
    batch.put(key, &Value::Client(profile.clone()));
    (batch, ClientInfo { profile, ..seen })
}
