//! The registration of a room: what a call requires of it, and a precondition of a batch.

use super::{RequestContext, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{Key, RoomId},
    store::{Batch, Revision},
    view::Room,
};

/// The revisions at which a room was registered or deleted.
#[derive(Clone, Copy)]
pub(super) struct Registration {
    /// Revision of the room's profile. `None`: the room is not registered.
    pub(super) profile: Option<Revision>,
    /// Revision of the room's tombstone. `None`: the room was not deleted, or its tombstone is
    /// gone.
    pub(super) tombstone: Option<Revision>,
}

impl Registration {
    /// Errors: ROOM_NOT_FOUND if the app is strict and the room is not registered.
    pub(super) fn require(self, call: &RequestContext, room: &RoomId) -> Result<Self, Error> {
        if call.app.strict && self.profile.is_none() {
            Err(Error::room_not_found(room.as_str()))
        } else {
            Ok(self)
        }
    }
}

impl Service {
    /// Checks that the caller may moderate the room, and that a strict app has the room. Returns
    /// the room's registration as a precondition of the batch. It is read before the permission is
    /// checked: if the caller loses the permission afterwards, the batch fails. Errors:
    /// PERMISSION_DENIED, ROOM_NOT_FOUND, RATE_LIMITED.
    pub(super) fn moderate(
        &self,
        call: &RequestContext,
        room: &RoomId,
    ) -> Result<Registration, Error> {
        let registration = self.registration(call, room);
        self.permit_in_room(call, room, |is_staff| Action::Moderate { is_staff })?;
        registration.require(call, room)
    }

    /// The room's registration. Errors: ROOM_NOT_FOUND if the app is strict and the room is not
    /// registered.
    pub(super) fn require_room(
        &self,
        call: &RequestContext,
        room: &RoomId,
    ) -> Result<Registration, Error> {
        self.registration(call, room).require(call, room)
    }

    pub(super) fn registration(&self, call: &RequestContext, room: &RoomId) -> Registration {
        self.view.room(call.key(), room.as_str(), |room| Registration {
            profile: room.and_then(|room| Some(room.profile.as_ref()?.revision)),
            tombstone: room.and_then(Room::tombstone),
        })
    }
}

/// Adds the precondition that the room is registered, or is not, as when the batch was planned.
/// Enough for a batch that does not depend on the room's other records.
pub(super) fn expect_registration<'a>(
    batch: &mut Batch<'a>,
    app: &'a str,
    room: &'a RoomId,
    registration: Registration,
) {
    batch.expect(Key::Room { app, room: room.as_str() }, registration.profile);
}

/// Adds the precondition that the registration has not changed since the batch was planned, so the
/// room's other records still count. In an open app, a room that is not registered can be deleted
/// too; only its tombstone shows that.
pub(super) fn expect_room<'a>(
    batch: &mut Batch<'a>,
    app: &'a str,
    room: &'a RoomId,
    registration: Registration,
) {
    expect_registration(batch, app, room, registration);
    if registration.profile.is_none() {
        batch.expect(Key::DeletedRoom { app, room: room.as_str() }, registration.tombstone);
    }
}
