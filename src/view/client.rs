//! One client: its profile, its notification mutes in the order of muting, and its user mute.

use std::{ops::Deref, sync::Arc};

use super::{
    index::Entity,
    tombstone::{ClientTombstone, DeletedRooms},
    versioned::{MutedRoom, Versioned},
};
use crate::{
    model::{ClientProfile, Key, Restriction, Value},
    store::Revision,
};

/// All records of one client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// None: the directory does not contain the client.
    pub profile: Option<Box<Versioned<ClientProfile>>>,
    /// Sorted by `place`, then by `room`. Some may have expired, or be of rooms that were deleted
    /// since. Few enough for a linear search.
    pub(super) muted: Vec<MutedRoom>,
    /// May have expired. Shared with the app's list of user mutes.
    pub user_mute: Option<Arc<Versioned<Restriction>>>,
    /// Its tombstone, with the deleted notification mutes that are still stored.
    pub(super) tombstone: Option<Box<ClientTombstone>>,
    /// When the sweeper visits it next, in Unix milliseconds.
    pub(super) scheduled_ms: Option<u64>,
}

/// A borrowed client, without the notification mutes of rooms that were deleted since.
#[derive(Clone, Copy)]
pub struct ClientRef<'a> {
    client: &'a Client,
    deleted_rooms: &'a DeletedRooms,
}

impl Entity for Client {
    fn is_registered(&self) -> bool {
        self.is_registered()
    }

    fn is_empty(&self) -> bool {
        self.profile.is_none()
            && self.muted.is_empty()
            && self.user_mute.is_none()
            && self.tombstone.is_none()
    }
}

impl Client {
    /// Whether the directory contains it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.profile.is_some()
    }

    /// The user mute, if it is in force.
    #[must_use]
    pub fn user_mute_in_force(&self, now_ms: u64) -> Option<&Arc<Versioned<Restriction>>> {
        self.user_mute.as_ref().filter(|mute| mute.value.expire.in_force(now_ms))
    }

    /// Applies one change of the feed. `None` removes the record.
    pub(super) fn apply(&mut self, key: Key<'_>, value: Option<Value>, revision: Revision) {
        match (key, value) {
            (Key::Client { .. }, Some(Value::Client(value))) => {
                self.profile = Some(Box::new(Versioned { value, revision }))
            }
            (Key::Client { .. }, _) => self.profile = None,
            (Key::NotificationMute { room, .. }, Some(Value::NotificationMute(value, place))) => {
                self.remove(room);
                let muted = MutedRoom {
                    room: room.into(),
                    place,
                    restriction: Versioned { value, revision },
                };
                match &mut self.tombstone {
                    Some(tombstone) if revision <= tombstone.revision => {
                        tombstone.muted.push(muted)
                    }
                    _ => {
                        let index = self.muted.partition_point(|other| {
                            (other.place, other.room.as_str()) < (place, room)
                        });
                        self.muted.insert(index, muted);
                    }
                }
            }
            (Key::NotificationMute { room, .. }, _) => self.remove(room),
            (Key::UserMute { .. }, Some(Value::Restriction(value))) => {
                self.user_mute = Some(Arc::new(Versioned { value, revision }))
            }
            (Key::UserMute { .. }, _) => self.user_mute = None,
            (Key::DeletedClient { .. }, Some(_)) => self.delete(revision),
            (Key::DeletedClient { .. }, None) => self.tombstone = None,
            (
                Key::Room { .. }
                | Key::Ban { .. }
                | Key::MemberMute { .. }
                | Key::Allowed { .. }
                | Key::Request { .. }
                | Key::DeletedRoom { .. },
                _,
            ) => {}
        }
    }

    /// Whether the tombstone covers a notification mute of this revision.
    pub(super) fn has_deleted(&self, revision: Revision) -> bool {
        self.tombstone.as_ref().is_some_and(|tombstone| revision <= tombstone.revision)
    }

    /// Drops the profile, and moves all other records up to this revision under the tombstone,
    /// except the user mute.
    fn delete(&mut self, revision: Revision) {
        if self.profile.as_ref().is_some_and(|profile| profile.revision <= revision) {
            self.profile = None;
        }
        let tombstone = self.tombstone.get_or_insert_default();
        tombstone.revision = revision;
        tombstone
            .muted
            .extend(self.muted.extract_if(.., |muted| muted.restriction.revision <= revision));
    }

    fn remove(&mut self, room: &str) {
        self.muted.retain(|muted| muted.room != room);
        if let Some(tombstone) = &mut self.tombstone {
            tombstone.muted.retain(|muted| muted.room != room);
        }
    }
}

impl<'a> ClientRef<'a> {
    pub(super) fn of(client: &'a Client, deleted_rooms: &'a DeletedRooms) -> Self {
        Self { client, deleted_rooms }
    }

    /// The notification mutes, in the order of muting. Some may have expired.
    pub fn muted(self) -> impl Iterator<Item = &'a MutedRoom> {
        self.client.muted.iter().filter(move |muted| self.deleted_rooms.outlives(muted))
    }

    /// The notification mutes in force, in the order of muting.
    pub fn muted_in_force(self, now_ms: u64) -> impl Iterator<Item = &'a MutedRoom> {
        self.muted().filter(move |muted| muted.restriction.value.expire.in_force(now_ms))
    }

    /// The notification mute of this room, in force or not.
    #[must_use]
    pub fn muted_room(self, room: &str) -> Option<&'a MutedRoom> {
        self.muted().find(|muted| muted.room == room)
    }

    /// The revision of the stored notification mute of this room, even if it has expired or was
    /// deleted.
    #[must_use]
    pub fn stored_muted_room(self, room: &str) -> Option<Revision> {
        let tombstoned = self.client.tombstone.iter().flat_map(|tombstone| &tombstone.muted);
        self.client
            .muted
            .iter()
            .chain(tombstoned)
            .find(|muted| muted.room == room)
            .map(|muted| muted.restriction.revision)
    }

    /// The place of the next notification mute: after all others.
    #[must_use]
    pub fn next_place(self) -> u64 {
        self.client.muted.last().map_or(1, |muted| muted.place.saturating_add(1))
    }
}

impl Deref for ClientRef<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}
