//! The question the service exists for.

use std::sync::Arc;

use super::{RequestContext, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{Restriction, RoomId, UserId},
    view::{AppView, Decision, Room, Versioned, may_speak},
};

/// A user, and what matters of it whatever the room.
struct Speaker<'a> {
    user: &'a str,
    /// The directory has it, or does not have to.
    is_known: bool,
    /// In force or not.
    mute: Option<Arc<Versioned<Restriction>>>,
}

impl Service {
    /// May this user speak in this room now? Touches nothing but the view; `answer` makes what is
    /// wanted of the decision, while the room is held. Errors: PERMISSION_DENIED, ROOM_NOT_FOUND,
    /// CLIENT_NOT_FOUND, STORE_UNAVAILABLE.
    pub fn check_send<T>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        user: &UserId,
        answer: impl FnOnce(Decision<'_>) -> T,
    ) -> Result<T, Error> {
        call.permit(Action::CheckSend { user: user.as_str() })?;
        self.require_new_view()?;
        let view = self.view.app(call.key());
        let speaker = speaker(call, &view, user.as_str());
        let answer = decide(call, &view, room, &speaker, self.clock.now_ms(), |decision| {
            decision.map(answer)
        });
        let answer = answer.ok_or_else(Error::room_not_found)?;
        if speaker.is_known {
            Ok(answer)
        } else {
            Err(Error::clients_not_found(vec![user.to_string()]))
        }
    }

    /// The same for many, at one moment; no decision where the room or the user is not registered
    /// and has to be. Errors: PERMISSION_DENIED, STORE_UNAVAILABLE.
    pub fn batch_check_send<T>(
        &self,
        call: &RequestContext,
        pairs: &[(RoomId, UserId)],
        answer: impl Fn(Option<Decision<'_>>) -> T,
    ) -> Result<Vec<T>, Error> {
        pairs
            .iter()
            .try_for_each(|(_, user)| call.permit(Action::CheckSend { user: user.as_str() }))?;
        self.require_new_view()?;
        let (view, now_ms) = (self.view.app(call.key()), self.clock.now_ms());
        let one = |(room, user): &(RoomId, UserId)| {
            let speaker = speaker(call, &view, user.as_str());
            decide(call, &view, room, &speaker, now_ms, |decision| {
                answer(decision.filter(|_| speaker.is_known))
            })
        };
        Ok(pairs.iter().map(one).collect())
    }
}

/// To be asked for before the room is held: nobody holds a room and then asks for a client. One
/// look, and none where nothing can come of it.
fn speaker<'a>(call: &RequestContext, view: &AppView, user: &'a str) -> Speaker<'a> {
    if !call.app.strict && !view.has_muted_users() {
        return Speaker { user, is_known: true, mute: None };
    }
    view.client(user, |client| Speaker {
        user,
        is_known: !call.app.strict || client.is_some_and(|client| client.is_registered()),
        mute: client.and_then(|client| client.user_mute.clone()),
    })
}

/// No decision where the app is strict and the room not registered.
fn decide<T>(
    call: &RequestContext,
    view: &AppView,
    room: &RoomId,
    speaker: &Speaker<'_>,
    now_ms: u64,
    answer: impl FnOnce(Option<Decision<'_>>) -> T,
) -> T {
    let mute = speaker.mute.as_ref().map(|mute| &mute.value);
    view.room(room.as_str(), |room| {
        let is_there = !call.app.strict || room.is_some_and(Room::is_registered);
        answer(is_there.then(|| may_speak(room, mute, speaker.user, now_ms)))
    })
}
