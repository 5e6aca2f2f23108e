//! What a room was registered by, for a batch to expect.

use super::{RequestContext, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{Key, RoomId},
    store::{Batch, Revision},
    view::Room,
};

/// What a room was registered by, or deleted, for a batch to expect.
#[derive(Clone, Copy)]
pub(super) struct Registration {
    /// Nothing where it is not registered.
    pub(super) profile: Option<Revision>,
    pub(super) tombstone: Option<Revision>,
}

impl Registration {
    /// Errors: ROOM_NOT_FOUND where the app is strict and the room is not registered.
    pub(super) fn require(self, call: &RequestContext) -> Result<Self, Error> {
        if call.app.strict && self.profile.is_none() {
            Err(Error::room_not_found())
        } else {
            Ok(self)
        }
    }
}

impl Service {
    /// What is needed to change what holds in a room: the right to, and the room, where the app is
    /// strict. Answers the room's registration for the batch to expect, which was read before all
    /// else: when the right goes, the batch fails. Errors: PERMISSION_DENIED, ROOM_NOT_FOUND.
    pub(super) fn moderate(
        &self,
        call: &RequestContext,
        room: &RoomId,
    ) -> Result<Registration, Error> {
        let registration = self.registration(call, room);
        self.permit_in_room(call, room, |is_staff| Action::Moderate { is_staff })?;
        registration.require(call)
    }

    /// A strict app refuses a room that is not registered. Errors: ROOM_NOT_FOUND.
    pub(super) fn require_room(
        &self,
        call: &RequestContext,
        room: &RoomId,
    ) -> Result<Registration, Error> {
        self.registration(call, room).require(call)
    }

    pub(super) fn registration(&self, call: &RequestContext, room: &RoomId) -> Registration {
        self.view.room(call.key(), room.as_str(), |room| Registration {
            profile: room.and_then(|room| Some(room.profile.as_ref()?.revision)),
            tombstone: room.and_then(Room::tombstone),
        })
    }
}

/// Lets a batch through only while the room is registered, or is not, as it was when the batch was
/// planned. Enough where nothing depends on what the room had.
pub(super) fn expect_registration(
    batch: &mut Batch,
    app: &str,
    room: &RoomId,
    registration: Registration,
) {
    batch.expect(Key::Room { app, room: room.as_str() }, registration.profile);
}

/// The same, and while the room has what it had. One that is not registered can be deleted too, in
/// an open app: its tombstone alone tells it.
pub(super) fn expect_room(batch: &mut Batch, app: &str, room: &RoomId, registration: Registration) {
    expect_registration(batch, app, room, registration);
    if registration.profile.is_none() {
        batch.expect(Key::DeletedRoom { app, room: room.as_str() }, registration.tombstone);
    }
}
