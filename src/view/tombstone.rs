//! Tombstones: the records of a deleted room, and the notification mutes of a deleted client, up to
//! the revision of the deletion. These records are still stored, but have no effect from the
//! tombstone's commit on, on every replica and after every restart, because the tombstone is a
//! record itself. The sweeper removes them in batches, and the tombstone last.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{
    user_map::UserMap,
    versioned::{MutedRoom, Versioned},
};
use crate::{
    model::{Expire, Key, Restriction, Value},
    store::{Revision, codec},
};

/// The tombstone of a room, and the room's records that it covers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RoomTombstone {
    /// The commit of the deletion: records up to it are covered.
    pub(super) revision: Revision,
    pub(super) ban: Option<Versioned<Restriction>>,
    pub(super) muted: UserMap<Versioned<Restriction>>,
    pub(super) allowed: UserMap<Versioned<Restriction>>,
    /// Notification mutes of the room, by user. Their records belong to the clients.
    pub(super) push_muted: UserMap<Versioned<Expire>>,
}

/// The tombstone of a client, and the notification mutes that it covers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClientTombstone {
    /// The commit of the deletion: mutes up to it are covered.
    pub(super) revision: Revision,
    pub(super) muted: Vec<MutedRoom>,
}

/// The rooms and clients that have a tombstone, grouped by app.
#[derive(Default)]
pub(super) struct TombstonedSet(Mutex<BTreeSet<Tombstoned>>);

/// A room or a client that has a tombstone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tombstoned {
    pub(super) app: Arc<str>,
    pub(super) is_room: bool,
    pub(super) id: Arc<str>,
}

/// The tombstones of one app's rooms. Notification mutes of a room up to its tombstone have no
/// effect.
#[derive(Default)]
pub(super) struct DeletedRooms(RwLock<HashMap<Box<str>, Revision>>);

impl RoomTombstone {
    /// Adds a covered record of the room. False: a tombstone covers no record with such a key.
    pub(super) fn apply(
        &mut self,
        key: Key<'_>,
        value: Option<&Value>,
        revision: Revision,
    ) -> bool {
        match (key, value) {
            // The commit of the tombstone deletes the registration itself: one that arrives here
            // was read before it.
            (Key::Room { .. }, _) => {}
            (Key::Ban { .. }, Some(Value::Restriction(value))) => {
                self.ban = Some(Versioned { value: value.clone(), revision })
            }
            (Key::MemberMute { user, .. }, Some(Value::Restriction(value))) => {
                self.muted.insert(user, Versioned { value: value.clone(), revision });
            }
            (Key::Allowed { user, .. }, Some(Value::Restriction(value))) => {
                self.allowed.insert(user, Versioned { value: value.clone(), revision });
            }
            _ => return false,
        }
        true
    }

    /// Drops the record with this key: it was deleted, or replaced by a newer one.
    pub(super) fn remove(&mut self, key: Key<'_>) {
        match key {
            Key::Ban { .. } => self.ban = None,
            Key::MemberMute { user, .. } => drop(self.muted.remove(user)),
            Key::Allowed { user, .. } => drop(self.allowed.remove(user)),
            _ => {}
        }
    }

    /// The keys of covered records, at most `limit`. The key of the tombstone when no record is
    /// left.
    pub(super) fn keys(&self, app: &str, room: &str, limit: usize) -> Vec<(Vec<u8>, Revision)> {
        let ban = self.ban.iter().map(|ban| (Key::Ban { app, room }, ban.revision));
        let muted = self
            .muted
            .iter()
            .map(|(user, mute)| (Key::MemberMute { app, room, user }, mute.revision));
        let allowed = self
            .allowed
            .iter()
            .map(|(user, restriction)| (Key::Allowed { app, room, user }, restriction.revision));
        let push_muted = self
            .push_muted
            .iter()
            .map(|(user, until)| (Key::NotificationMute { app, user, room }, until.revision));
        encoded(
            ban.chain(muted).chain(allowed).chain(push_muted).take(limit),
            (Key::DeletedRoom { app, room }, self.revision),
        )
    }
}

impl ClientTombstone {
    /// As [`RoomTombstone::keys`].
    pub(super) fn keys(&self, app: &str, user: &str, limit: usize) -> Vec<(Vec<u8>, Revision)> {
        let muted = self.muted.iter().map(|muted| {
            let key = Key::NotificationMute { app, user, room: &muted.room };
            (key, muted.restriction.revision)
        });
        encoded(muted.take(limit), (Key::DeletedClient { app, user }, self.revision))
    }
}

/// The tombstone is deleted in a commit of its own, after the records it covers. So no failure in
/// between brings a record back.
fn encoded<'a>(
    keys: impl Iterator<Item = (Key<'a>, Revision)>,
    tombstone: (Key<'a>, Revision),
) -> Vec<(Vec<u8>, Revision)> {
    let encode = |(key, revision): (Key<'_>, Revision)| (codec::encode_key(key), revision);
    let keys: Vec<_> = keys.map(encode).collect();
    if keys.is_empty() { vec![encode(tombstone)] } else { keys }
}

impl TombstonedSet {
    pub(super) fn set(&self, has_tombstone: bool, app: &str, is_room: bool, id: &str) {
        let tombstoned = Tombstoned { app: app.into(), is_room, id: id.into() };
        let mut all = self.all();
        if has_tombstone {
            all.insert(tombstoned)
        } else {
            all.remove(&tombstoned)
        };
    }

    /// At most `limit` of them, from the first on.
    pub(super) fn first(&self, limit: usize) -> Vec<Tombstoned> {
        self.all().iter().take(limit).cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeSet<Tombstoned>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeletedRooms {
    /// Sets or removes the tombstone of a room.
    pub(super) fn set(&self, room: &str, revision: Option<Revision>) {
        let mut rooms = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let _ = match revision {
            Some(revision) => rooms.insert(room.into(), revision),
            None => rooms.remove(room),
        };
    }

    /// Whether no tombstone of its room covers the notification mute.
    pub(super) fn outlives(&self, muted: &MutedRoom) -> bool {
        let rooms = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rooms.get(muted.room.as_str()).is_none_or(|revision| muted.restriction.revision > *revision)
    }
}
