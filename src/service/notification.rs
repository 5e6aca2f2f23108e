//! Notification mutes: the rooms from which a user wants no pushes.

use super::{
    Answer, ClientInfo, Committed, RequestContext, Service,
    directory::MAX_MUTED_ROOMS,
    registration::{Registration, expect_room},
};
use crate::{
    auth::Action,
    error::Error,
    model::{ClientProfile, Event, EventKind, Expire, Key, Restriction, RoomId, UserId, Value},
    store::{Batch, Revision},
    view::MutedRoom,
};

/// What a change of a client's notification mute is planned from.
struct PreconditionSnapshot {
    client: ClientInfo,
    /// Revision of the client's profile. `None`: it is not registered.
    client_revision: Option<Revision>,
    /// The mute of the room, expired or not. `None` if it was deleted with its room.
    muted: Option<MutedRoom>,
    /// The revision stored under the key of the mute, even if the mute no longer counts.
    stored_revision: Option<Revision>,
    /// Position after all of the client's mutes, in the order of muting.
    next_place: u64,
    /// Number of the client's notification mutes, including expired ones that are not swept yet.
    count: usize,
}

impl Service {
    /// Mutes the room's notifications for the user, and returns the client. No duration: the mute
    /// does not expire. Errors: PERMISSION_DENIED, CLIENT_NOT_FOUND, ROOM_NOT_FOUND,
    /// INVALID_ARGUMENT on `duration`, or on `room` beyond `MAX_MUTED_ROOMS`.
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
            let (snapshot, registration) = self.precondition_snapshot(call, user, room, now_ms)?;
            let expire = Expire::after(self.clock.now_ms(), duration_ms)?;
            let in_force = snapshot
                .muted
                .as_ref()
                .filter(|muted| muted.restriction.value.expire.in_force(now_ms));
            if expire == Expire::NEVER
                && in_force.is_some_and(|muted| muted.restriction.value.expire == expire)
            {
                return Ok((None, snapshot.client));
            }
            if in_force.is_none() && snapshot.count >= MAX_MUTED_ROOMS {
                return Err(Error::invalid(
                    "room",
                    "a user can mute the notifications of at most 1000 rooms; unmute one first",
                ));
            }
            let stored_revision = snapshot.stored_revision;
            let is_new = in_force.is_none();
            let place = in_force.map_or(snapshot.next_place, |muted| muted.place);
            let event = call.room_event(
                EventKind::NotificationsMuted,
                now_ms,
                room,
                std::slice::from_ref(user),
                "",
            );
            let (mut batch, mut client) =
                update_client(call, user, snapshot, &Event { expire, ..event });
            expect_room(&mut batch, call.key(), room, registration);
            let key =
                Key::NotificationMute { app: call.key(), user: user.as_str(), room: room.as_str() };
            batch.expect(key, stored_revision);
            batch.put(key, Value::NotificationMute(call.restriction(now_ms, expire, ""), place));
            // The list is in the order of muting.
            client.muted_rooms.extend(is_new.then(|| room.to_string()));
            Ok((Some(batch), client))
        })
        .await
    }

    /// Unmutes the room's notifications for the user. Returns the client, and whether a mute was in
    /// force. Errors: PERMISSION_DENIED, CLIENT_NOT_FOUND, ROOM_NOT_FOUND.
    pub async fn unmute_notifications<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        room: &RoomId,
        answer: impl Fn((ClientInfo, bool)) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::MuteNotifications { user: user.as_str() })?;
        self.change(call, answer, |now_ms| {
            let (snapshot, registration) = self.precondition_snapshot(call, user, room, now_ms)?;
            let Some(muted) = snapshot.muted.clone() else {
                return Ok((None, (snapshot.client, false)));
            };
            let event = call.room_event(
                EventKind::NotificationsUnmuted,
                now_ms,
                room,
                std::slice::from_ref(user),
                "",
            );
            let (mut batch, mut client) = update_client(call, user, snapshot, &event);
            expect_room(&mut batch, call.key(), room, registration);
            let key =
                Key::NotificationMute { app: call.key(), user: user.as_str(), room: room.as_str() };
            batch.expect(key, Some(muted.restriction.revision));
            batch.delete(key);
            client.muted_rooms.retain(|muted| muted != room.as_str());
            Ok((Some(batch), (client, muted.restriction.value.expire.in_force(now_ms))))
        })
        .await
    }

    /// At most `size` of the notification mutes in force, in the order of muting, after this place
    /// and room. Errors: PERMISSION_DENIED, CLIENT_NOT_FOUND.
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

    /// Reads what the batch depends on, before anything is decided on it. Errors: CLIENT_NOT_FOUND,
    /// ROOM_NOT_FOUND.
    fn precondition_snapshot(
        &self,
        call: &RequestContext,
        user: &UserId,
        room: &RoomId,
        now_ms: u64,
    ) -> Result<(PreconditionSnapshot, Registration), Error> {
        let registration = self.registration(call, room);
        let snapshot = self.view.client(call.key(), user.as_str(), |client| PreconditionSnapshot {
            client: ClientInfo::new(user.as_str(), client, now_ms),
            client_revision: client.and_then(|client| Some(client.profile.as_ref()?.revision)),
            muted: client.and_then(|client| client.muted_room(room.as_str()).cloned()),
            stored_revision: client.and_then(|client| client.stored_muted_room(room.as_str())),
            next_place: client.map_or(1, |client| client.next_place()),
            count: client.map_or(0, |client| client.muted().count()),
        });
        if call.app.strict && snapshot.client_revision.is_none() {
            return Err(Error::clients_not_found(vec![user.to_string()]));
        }
        Ok((snapshot, registration.require(call, room)?))
    }
}

/// A batch that updates the client's `update_time`, and the client after it. The batch fails if the
/// client has changed concurrently, so two concurrent mutes get different places.
fn update_client<'a>(
    call: &'a RequestContext,
    user: &'a UserId,
    snapshot: PreconditionSnapshot,
    event: &Event,
) -> (Batch<'a>, ClientInfo) {
    let PreconditionSnapshot { client, client_revision, .. } = snapshot;
    let mut batch = Batch::of(event);
    let key = Key::Client { app: call.key(), user: user.as_str() };
    batch.expect(key, client_revision);
    let created_ms =
        if client_revision.is_some() { client.profile.created_ms } else { event.at_ms };
    let profile = ClientProfile { created_ms, updated_ms: event.at_ms, ..client.profile };
    batch.put(key, Value::Client(profile.clone()));
    (batch, ClientInfo { profile, ..client })
}
