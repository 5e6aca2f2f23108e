//! Recipients: which users receive pushes from a room.

use super::{RequestContext, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{RoomId, UserRef},
    view::Room,
};

impl Service {
    /// Whether each user receives pushes from the room: no notification mute of the user for the
    /// room is in force. The users need not be registered. Errors: PERMISSION_DENIED,
    /// ROOM_NOT_FOUND, STORE_UNAVAILABLE.
    pub fn filter_recipients(
        &self,
        call: &RequestContext,
        room: &RoomId,
        users: &[UserRef<'_>],
    ) -> Result<Vec<bool>, Error> {
        call.permit(Action::FilterRecipients)?;
        self.require_new_view()?;
        let now_ms = self.clock.now_ms();
        self.view.room(call.key(), room.as_str(), |found| {
            if call.app.strict && !found.is_some_and(Room::is_registered) {
                return Err(Error::room_not_found(room.as_str()));
            }
            let is_push_muted = |user: &UserRef<'_>| {
                found.is_some_and(|room| room.is_push_muted(user.as_str(), now_ms))
            };
            Ok(users.iter().map(|user| !is_push_muted(user)).collect())
        })
    }
}
