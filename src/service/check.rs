//! Checks: may this user speak in this room? Chat servers ask on every message.

use std::sync::Arc;

use super::{RequestContext, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{Restriction, RoomId, UserId},
    view::{AppView, Decision, Room, Versioned, may_speak},
};

/// A user, with the facts that do not depend on the room.
struct Speaker<'a> {
    user: &'a str,
    /// The user is registered, or the app's directory is open.
    is_accepted: bool,
    /// The user mute, in force or not.
    mute: Option<Arc<Versioned<Restriction>>>,
}

impl Service {
    /// May this user speak in this room now? Reads only the view. `answer` makes the response from
    /// the decision while the room is locked, so it must be fast. Errors: PERMISSION_DENIED,
    /// ROOM_NOT_FOUND, CLIENT_NOT_FOUND, STORE_UNAVAILABLE.
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
        let answer = answer.ok_or_else(|| Error::room_not_found(room.as_str()))?;
        if speaker.is_accepted {
            Ok(answer)
        } else {
            Err(Error::clients_not_found(vec![user.to_string()]))
        }
    }

    /// The same for many pairs, at one time. `answer` gets no decision if the app is strict and the
    /// room or the user is not registered. Errors: PERMISSION_DENIED, STORE_UNAVAILABLE.
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
        let view = self.view.app(call.key());
        let now_ms = self.clock.now_ms();
        let check = |(room, user): &(RoomId, UserId)| {
            let speaker = speaker(call, &view, user.as_str());
            decide(call, &view, room, &speaker, now_ms, |decision| {
                answer(decision.filter(|_| speaker.is_accepted))
            })
        };
        Ok(pairs.iter().map(check).collect())
    }
}

/// Looks the user up. Call it before the room is locked: lock order is client before room. There is
/// no lookup if the directory is open and the app has no user mutes.
fn speaker<'a>(call: &RequestContext, view: &AppView, user: &'a str) -> Speaker<'a> {
    if !call.app.strict && !view.has_muted_users() {
        return Speaker { user, is_accepted: true, mute: None };
    }
    view.client(user, |client| Speaker {
        user,
        is_accepted: !call.app.strict || client.is_some_and(|client| client.is_registered()),
        mute: client.and_then(|client| client.user_mute.clone()),
    })
}

/// Decides. `answer` gets no decision if the app is strict and the room is not registered.
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
        let is_accepted = !call.app.strict || room.is_some_and(Room::is_registered);
        answer(is_accepted.then(|| may_speak(room, mute, speaker.user, now_ms)))
    })
}
