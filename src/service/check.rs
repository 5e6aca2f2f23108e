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
    /// May this user speak in this room now? Touches nothing but the view.
    pub fn check_send(&self, call: &Call<'_>, room: &RoomId, user: &UserId) -> Result<Answer, Error> {
        call.permit(Action::CheckSend { user: user.as_str() })?;
        let now_ms = self.clock.now_ms();
        let answer = self.view.room(call.key(), room.as_str(), |room| {
            if call.app.strict && room.is_none_or(|room| room.profile.is_none()) {
                return Err(Error::room_not_found());
            }
            let decision = may_speak(room, user.as_str(), now_ms);
            Ok(Answer { allowed: decision.allowed, rule: decision.rule, mark: decision.mark.cloned() })
        })?;
        self.require_clients(call, std::iter::once(user.as_str()))?;
        Ok(answer)
    }
}
