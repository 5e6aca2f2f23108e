//! What was deleted and is still stored: the records of a room, and the notification mutes of a
//! client, up to the revision of a tombstone. They count for nothing from the commit of the
//! tombstone on, on every replica and after every restart, because the tombstone is a record like
//! the others. The sweeper removes them a few at a time, and then the tombstone.

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

/// What a room had.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RoomRemains {
    /// Of the tombstone.
    pub(super) revision: Revision,
    pub(super) ban: Option<Versioned<Restriction>>,
    pub(super) muted: UserMap<Versioned<Restriction>>,
    pub(super) allowed: UserMap<Versioned<Restriction>>,
    /// Who wanted no push from it. The records are the clients'.
    pub(super) push_muted: UserMap<Versioned<Expire>>,
}

/// The notification mutes that a client had.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClientRemains {
    /// Of the tombstone.
    pub(super) revision: Revision,
    pub(super) muted: Vec<MutedRoom>,
}

/// The rooms and clients that have remains, in no order that matters.
#[derive(Default)]
pub(super) struct Owners(Mutex<BTreeSet<Owner>>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) app: Arc<str>,
    pub(super) is_room: bool,
    pub(super) id: Arc<str>,
}

/// The tombstones of one app's rooms: notification mutes of them that are no newer count for
/// nothing.
#[derive(Default)]
pub(super) struct DeletedRooms(RwLock<HashMap<Box<str>, Revision>>);

impl RoomRemains {
    /// Notes a record of the room. False: a room has none under such a key that could remain.
    pub(super) fn apply(
        &mut self,
        key: Key<'_>,
        value: Option<&Value>,
        revision: Revision,
    ) -> bool {
        match (key, value) {
            // A registration goes in the commit of its tombstone; what is read here is older.
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

    /// Forgets what was stored under this key: it is gone, or something newer is stored there.
    pub(super) fn remove(&mut self, key: Key<'_>) {
        match key {
            Key::Ban { .. } => self.ban = None,
            Key::MemberMute { user, .. } => drop(self.muted.remove(user)),
            Key::Allowed { user, .. } => drop(self.allowed.remove(user)),
            _ => {}
        }
    }

    /// Keys of what is left, at most `limit`; the tombstone's where nothing is.
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

impl ClientRemains {
    pub(super) fn keys(&self, app: &str, user: &str, limit: usize) -> Vec<(Vec<u8>, Revision)> {
        let muted = self.muted.iter().map(|muted| {
            let key = Key::NotificationMute { app, user, room: &muted.room };
            (key, muted.restriction.revision)
        });
        encoded(muted.take(limit), (Key::DeletedClient { app, user }, self.revision))
    }
}

/// The tombstone goes in a commit of its own, after everything else: whatever fails, nothing comes
/// back.
fn encoded<'a>(
    keys: impl Iterator<Item = (Key<'a>, Revision)>,
    tombstone: (Key<'a>, Revision),
) -> Vec<(Vec<u8>, Revision)> {
    let encode = |(key, revision): (Key<'_>, Revision)| (codec::encode_key(key), revision);
    let keys: Vec<_> = keys.map(encode).collect();
    if keys.is_empty() { vec![encode(tombstone)] } else { keys }
}

impl Owners {
    pub(super) fn set(&self, has_remains: bool, app: &str, is_room: bool, id: &str) {
        let owner = Owner { app: app.into(), is_room, id: id.into() };
        let mut owners = self.all();
        if has_remains {
            owners.insert(owner)
        } else {
            owners.remove(&owner)
        };
    }

    /// The first of them, at most so many.
    pub(super) fn first(&self, limit: usize) -> Vec<Owner> {
        self.all().iter().take(limit).cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeSet<Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeletedRooms {
    /// Notes the tombstone of a room, or that it has none any more.
    pub(super) fn set(&self, room: &str, revision: Option<Revision>) {
        let mut rooms = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let _ = match revision {
            Some(revision) => rooms.insert(room.into(), revision),
            None => rooms.remove(room),
        };
    }

    /// Whether the mute is of a room as it was before its deletion.
    pub(super) fn outlives(&self, muted: &MutedRoom) -> bool {
        let rooms = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rooms.get(muted.room.as_str()).is_none_or(|revision| muted.restriction.revision > *revision)
    }
}
