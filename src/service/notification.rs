//! Notification mutes: which rooms a user wants no push from.

use super::{Call, ClientSeen, Service, Written, expect_room};
use crate::{
    auth::Action,
    error::Error,
    model::{ClientProfile, Event, EventKind, Expire, Key, Mark, RoomId, UserId, Value},
    store::{Batch, Revision},
    view::{Held, MutedRoom},
};

/// A client's list is told whole with the client, and looked through with every change of it.
const MAX_MUTED_ROOMS: usize = 1_000;

/// What a change of a client's notification mutes is planned from.
struct Basis {
    profile: Option<Box<Held<ClientProfile>>>,
    muted: Option<MutedRoom>,
    next_place: u64,
    /// Notification mutes of the client, those included that have ended and are not swept yet.
    count: usize,
}

impl Service {
    /// Mutes the room's notifications for the user. Answers the client.
    pub async fn mute_notifications(
        &self,
        call: &Call<'_>,
        user: &UserId,
        room: &RoomId,
        duration_ms: Option<u64>,
    ) -> Result<Written<ClientSeen>, Error> {
        call.permit(Action::MuteNotifications { user: user.as_str() })?;
        let written = self
            .change(|now_ms| {
                let (basis, registered) = self.basis(call, user, room)?;
                let expire = Expire::after(now_ms, duration_ms)?;
                let in_force = basis.muted.as_ref().filter(|muted| muted.mark.value.expire.in_force(now_ms));
                if expire == Expire::NEVER && in_force.is_some_and(|muted| muted.mark.value.expire == expire) {
                    return Ok((None, ()));
                }
                if in_force.is_none() && basis.count >= MAX_MUTED_ROOMS {
                    return Err(Error::invalid("room", "a user may mute the notifications of 1000 rooms"));
                }
                let place = in_force.map_or(basis.next_place, |muted| muted.place);
                let event = call.room_event(EventKind::NotificationsMuted, now_ms, room, std::slice::from_ref(user), "");
                let mut batch = touch(call, user, basis.profile, &Event { expire, ..event });
                expect_room(&mut batch, call.key(), room, registered);
                let key = Key::NotificationMute { app: call.key(), user: user.as_str(), room: room.as_str() };
                batch.expect(key, basis.muted.as_ref().map(|muted| muted.mark.revision));
                batch.put(key, &Value::NotificationMute(call.mark(now_ms, expire, ""), place));
                Ok((Some(batch), ()))
            })
            .await?;
        Ok(Written { answer: self.client_seen(call, user), revision: written.revision })
    }

    /// Unmutes the room's notifications for the user. Answers the client, and whether a mute was in force.
    pub async fn unmute_notifications(
        &self,
        call: &Call<'_>,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Written<(ClientSeen, bool)>, Error> {
        call.permit(Action::MuteNotifications { user: user.as_str() })?;
        let Written { answer: was_muted, revision } = self
            .change(|now_ms| {
                let (basis, _) = self.basis(call, user, room)?;
                let in_force = basis.muted.filter(|muted| muted.mark.value.expire.in_force(now_ms));
                let Some(muted) = in_force else { return Ok((None, false)) };
                let event = call.room_event(EventKind::NotificationsUnmuted, now_ms, room, std::slice::from_ref(user), "");
                let mut batch = touch(call, user, basis.profile, &event);
                let key = Key::NotificationMute { app: call.key(), user: user.as_str(), room: room.as_str() };
                batch.expect(key, Some(muted.mark.revision));
                batch.delete(key);
                Ok((Some(batch), true))
            })
            .await?;
        Ok(Written { answer: (self.client_seen(call, user), was_muted), revision })
    }

    /// The notification mutes in force, in the order of muting, after this place and room; at most `size`.
    pub fn list_muted_rooms(
        &self,
        call: &Call<'_>,
        user: &UserId,
        after: Option<(u64, &str)>,
        size: usize,
    ) -> Result<Vec<(MutedRoom, Mark)>, Error> {
        call.permit(Action::SeeClient { user: user.as_str() })?;
        self.require_clients(call, std::iter::once(user.as_str()))?;
        let now_ms = self.clock.now_ms();
        Ok(self.view.client(call.key(), user.as_str(), |client| {
            let Some(client) = client else { return Vec::new() };
            let rooms = client
                .muted_in_force(now_ms)
                .filter(|muted| after.is_none_or(|after| (muted.place, muted.room.as_str()) > after));
            rooms.take(size).map(|muted| (muted.clone(), muted.mark.value.clone())).collect()
        }))
    }

    /// Errors: CLIENT_NOT_FOUND, ROOM_NOT_FOUND.
    fn basis(&self, call: &Call<'_>, user: &UserId, room: &RoomId) -> Result<(Basis, Option<Revision>), Error> {
        self.require_clients(call, std::iter::once(user.as_str()))?;
        let registered = self.require_room(call, room)?;
        let basis = self.view.client(call.key(), user.as_str(), |client| Basis {
            profile: client.and_then(|client| client.profile.clone()),
            muted: client.and_then(|client| client.muted_room(room.as_str()).cloned()),
            next_place: client.map_or(1, |client| client.next_place()),
            count: client.map_or(0, |client| client.muted.len()),
        });
        Ok((basis, registered))
    }
}

/// A batch that notes on the client that it has changed, and fails if somebody else has changed it meanwhile: so that each of two mutes at the
/// same moment gets a place of its own.
fn touch(call: &Call<'_>, user: &UserId, profile: Option<Box<Held<ClientProfile>>>, event: &Event) -> Batch {
    let mut batch = Batch::of(event);
    let key = Key::Client { app: call.key(), user: user.as_str() };
    batch.expect(key, profile.as_ref().map(|profile| profile.revision));
    let profile =
        profile.map_or_else(|| ClientProfile { created_ms: event.at_ms, ..ClientProfile::default() }, |profile| profile.value);
    batch.put(key, &Value::Client(ClientProfile { updated_ms: event.at_ms, ..profile }));
    batch
}
