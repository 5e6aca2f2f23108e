//! One client: its profile, the rooms whose notifications it has muted, in the order of muting, and
//! its user mute.

use std::{ops::Deref, sync::Arc};

use super::{
    index::Entity,
    tombstone::{ClientRemains, DeletedRooms},
    versioned::{MutedRoom, Versioned},
};
use crate::{
    model::{ClientProfile, Key, Restriction, Value},
    store::Revision,
};

/// Everything known of one client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Nothing where the directory does not have it.
    pub profile: Option<Box<Versioned<ClientProfile>>>,
    /// In the order of `place`, then of `room`; some may have ended, or be of rooms that were
    /// deleted since. Few enough to be looked through.
    pub(super) muted: Vec<MutedRoom>,
    /// May have ended. Shared with the app's list of them.
    pub user_mute: Option<Arc<Versioned<Restriction>>>,
    /// Its tombstone, with the notification mutes it had when it was deleted and that are still
    /// stored.
    pub(super) remains: Option<Box<ClientRemains>>,
    /// When the sweeper is to look at it, in Unix milliseconds.
    pub(super) scheduled_ms: Option<u64>,
}

/// A client as a reader sees it: without the notification mutes of rooms that were deleted since.
#[derive(Clone, Copy)]
pub struct KnownClient<'a> {
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
            && self.remains.is_none()
    }
}

impl Client {
    /// Whether the directory has it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.profile.is_some()
    }

    /// The user mute, where one is in force.
    #[must_use]
    pub fn user_mute_in_force(&self, now_ms: u64) -> Option<&Arc<Versioned<Restriction>>> {
        self.user_mute.as_ref().filter(|mute| mute.value.expire.in_force(now_ms))
    }

    /// Applies one change of the feed; nothing as value is a removal.
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
                match &mut self.remains {
                    Some(remains) if revision <= remains.revision => remains.muted.push(muted),
                    _ => {
                        let at = self.muted.partition_point(|other| {
                            (other.place, other.room.as_str()) < (place, room)
                        });
                        self.muted.insert(at, muted);
                    }
                }
            }
            (Key::NotificationMute { room, .. }, _) => self.remove(room),
            (Key::UserMute { .. }, Some(Value::Restriction(value))) => {
                self.user_mute = Some(Arc::new(Versioned { value, revision }))
            }
            (Key::UserMute { .. }, _) => self.user_mute = None,
            (Key::DeletedClient { .. }, Some(_)) => self.delete(revision),
            (Key::DeletedClient { .. }, None) => self.remains = None,
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

    /// Whether a notification mute of this revision was deleted with the client.
    pub(super) fn has_deleted(&self, revision: Revision) -> bool {
        self.remains.as_ref().is_some_and(|remains| revision <= remains.revision)
    }

    /// Forgets all records up to this commit but the user mute, but for where they are stored.
    fn delete(&mut self, revision: Revision) {
        if self.profile.as_ref().is_some_and(|profile| profile.revision <= revision) {
            self.profile = None;
        }
        let remains = self.remains.get_or_insert_default();
        remains.revision = revision;
        remains
            .muted
            .extend(self.muted.extract_if(.., |muted| muted.restriction.revision <= revision));
    }

    fn remove(&mut self, room: &str) {
        self.muted.retain(|muted| muted.room != room);
        if let Some(remains) = &mut self.remains {
            remains.muted.retain(|muted| muted.room != room);
        }
    }
}

impl<'a> KnownClient<'a> {
    pub(super) fn of(client: &'a Client, deleted_rooms: &'a DeletedRooms) -> Self {
        Self { client, deleted_rooms }
    }

    /// The notification mutes, in the order of muting; some may have ended.
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

    /// The revision of what is stored under the key of this room's notification mute: also of one
    /// that has ended or was deleted.
    #[must_use]
    pub fn stored_muted_room(self, room: &str) -> Option<Revision> {
        let remains = self.client.remains.iter().flat_map(|remains| &remains.muted);
        self.client
            .muted
            .iter()
            .chain(remains)
            .find(|muted| muted.room == room)
            .map(|muted| muted.restriction.revision)
    }

    /// The place of the next room to be muted: after all others.
    #[must_use]
    pub fn next_place(self) -> u64 {
        self.client.muted.last().map_or(1, |muted| muted.place.saturating_add(1))
    }
}

impl Deref for KnownClient<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}
