//! The question the service exists for.

use super::{Call, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{RoomId, UserId},
    view::{AppView, Client, Decision, Room, may_speak},
};

impl Service {
    /// May this user speak in this room now? Touches nothing but the view; `answer` makes what is wanted of the decision, while the room is held.
    /// Errors: PERMISSION_DENIED, ROOM_NOT_FOUND, CLIENT_NOT_FOUND.
    pub fn check_send<T>(
        &self,
        call: &Call<'_>,
        room: &RoomId,
        user: &UserId,
        answer: impl FnOnce(Decision<'_>) -> T,
    ) -> Result<T, Error> {
        call.permit(Action::CheckSend { user: user.as_str() })?;
        let view = self.view.app(call.key());
        let answer = decide(call, &view, room, user, self.clock.now_ms(), |decision| decision.map(answer));
        let answer = answer.ok_or_else(Error::room_not_found)?;
        self.require_clients(call, std::iter::once(user.as_str()))?;
        Ok(answer)
    }

    /// The same for many, at one moment; no decision where the room or the user is not registered and has to be. Errors: PERMISSION_DENIED.
    pub fn batch_check_send<T>(
        &self,
        call: &Call<'_>,
        pairs: &[(RoomId, UserId)],
        answer: impl Fn(Option<Decision<'_>>) -> T,
    ) -> Result<Vec<T>, Error> {
        pairs.iter().try_for_each(|(_, user)| call.permit(Action::CheckSend { user: user.as_str() }))?;
        let (view, now_ms) = (self.view.app(call.key()), self.clock.now_ms());
        let one = |(room, user): &(RoomId, UserId)| {
            // Before the room is held: nobody holds a room and then asks for a client.
            let is_known = !call.app.strict || view.client(user.as_str(), |client| client.is_some_and(Client::is_registered));
            decide(call, &view, room, user, now_ms, |decision| answer(decision.filter(|_| is_known)))
        };
        Ok(pairs.iter().map(one).collect())
    }
}

/// No decision where the app is strict and the room not registered.
fn decide<T>(
    call: &Call<'_>,
    view: &AppView,
    room: &RoomId,
    user: &UserId,
    now_ms: u64,
    answer: impl FnOnce(Option<Decision<'_>>) -> T,
) -> T {
    view.room(room.as_str(), |room| {
        let is_there = !call.app.strict || room.is_some_and(Room::is_registered);
        answer(is_there.then(|| may_speak(room, user.as_str(), now_ms)))
    })
}
