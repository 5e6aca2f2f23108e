//! The question the service exists for.

use super::{Call, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{Mark, RoomId, UserId},
    view::{Rule, may_speak},
};

/// May the user speak, what decided it, and the mute or ban that did.
pub struct Answer {
    /// May the user speak.
    pub allowed: bool,
    /// What decided.
    pub rule: Rule,
    /// Until when, who and why.
    pub mark: Option<Mark>,
}

impl Service {
    /// May this user speak in this room now? Touches nothing but the view. Errors: ROOM_NOT_FOUND, CLIENT_NOT_FOUND.
    pub fn check_send(&self, call: &Call<'_>, room: &RoomId, user: &UserId) -> Result<Answer, Error> {
        call.permit(Action::CheckSend { user: user.as_str() })?;
        match self.decide(call, room, user, self.clock.now_ms()) {
            Some(answer) => {
                self.require_clients(call, std::iter::once(user.as_str()))?;
                Ok(answer)
            }
            None => Err(Error::room_not_found()),
        }
    }

    /// The same for many, at one moment; nothing where the room or the user is not registered and has to be.
    pub fn batch_check_send(&self, call: &Call<'_>, pairs: &[(RoomId, UserId)]) -> Result<Vec<Option<Answer>>, Error> {
        pairs.iter().try_for_each(|(_, user)| call.permit(Action::CheckSend { user: user.as_str() }))?;
        let now_ms = self.clock.now_ms();
        let registered = |user: &UserId| !call.app.strict || self.has_client(call, user.as_str());
        let answer = |(room, user): &(RoomId, UserId)| self.decide(call, room, user, now_ms).filter(|_| registered(user));
        Ok(pairs.iter().map(answer).collect())
    }

    /// Nothing where the app is strict and the room not registered.
    fn decide(&self, call: &Call<'_>, room: &RoomId, user: &UserId, now_ms: u64) -> Option<Answer> {
        self.view.room(call.key(), room.as_str(), |room| {
            if call.app.strict && room.is_none_or(|room| room.profile.is_none()) {
                return None;
            }
            let decision = may_speak(room, user.as_str(), now_ms);
            Some(Answer { allowed: decision.allowed, rule: decision.rule, mark: decision.mark.cloned() })
        })
    }
}
