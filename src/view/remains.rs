//! What was deleted and is still stored: the records of a room, and the notification mutes of a client, up to the revision of a tombstone. They count
//! for nothing from the commit of the tombstone on, on every replica and after every restart, because the tombstone is a record like the others. The
//! sweeper removes them a few at a time, and then the tombstone.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{
    client::{Client, MutedRoom},
    room::{Held, Room},
    state::State,
    user_map::Sorted,
};
use crate::{
    model::{Expire, Key, Mark, Value},
    store::{Revision, codec},
};

/// What a room had.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RoomRemains {
    /// Of the tombstone.
    pub(super) revision: Revision,
    pub(super) ban: Option<Held<Mark>>,
    pub(super) muted: Sorted<Held<Mark>>,
    pub(super) allowed: Sorted<Held<Mark>>,
    /// Who wanted no push from it. The records are the clients'.
    pub(super) silenced: Sorted<Held<Expire>>,
}

/// The notification mutes that a client had.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClientRemains {
    /// Of the tombstone.
    pub(super) revision: Revision,
    pub(super) muted: Vec<MutedRoom>,
}

/// Records that are to be removed, by the revision that each has.
#[derive(Debug)]
pub struct Leftover {
    /// Their app.
    pub app: Arc<str>,
    /// Keys as bytes.
    pub keys: Vec<(Vec<u8>, Revision)>,
}

/// The rooms and clients that have remains, in no order that matters.
#[derive(Default)]
pub(super) struct Owners(Mutex<BTreeSet<Place>>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    app: Arc<str>,
    is_room: bool,
    id: Arc<str>,
}

/// The tombstones of one app's rooms: notification mutes of them that are no newer count for nothing.
#[derive(Default)]
pub(super) struct DeletedRooms(RwLock<HashMap<Box<str>, Revision>>);

impl RoomRemains {
    /// Notes a record of the room. False: a room has none under such a key that could remain.
    pub(super) fn apply(&mut self, key: Key<'_>, value: Option<&Value>, revision: Revision) -> bool {
        match (key, value) {
            // A registration goes in the commit of its tombstone; what is read here is older.
            (Key::Room { .. }, _) => {}
            (Key::Ban { .. }, Some(Value::Mark(value))) => self.ban = Some(Held { value: value.clone(), revision }),
            (Key::MemberMute { user, .. }, Some(Value::Mark(value))) => {
                self.muted.insert(user, Held { value: value.clone(), revision });
            }
            (Key::Allowed { user, .. }, Some(Value::Mark(value))) => {
                self.allowed.insert(user, Held { value: value.clone(), revision });
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
    fn keys(&self, app: &str, room: &str, limit: usize) -> Vec<(Vec<u8>, Revision)> {
        let ban = self.ban.iter().map(|ban| (Key::Ban { app, room }, ban.revision));
        let muted = self.muted.iter().map(|(user, mute)| (Key::MemberMute { app, room, user }, mute.revision));
        let allowed = self.allowed.iter().map(|(user, mark)| (Key::Allowed { app, room, user }, mark.revision));
        let silenced = self.silenced.iter().map(|(user, until)| (Key::NotificationMute { app, user, room }, until.revision));
        encoded(ban.chain(muted).chain(allowed).chain(silenced).take(limit), (Key::DeletedRoom { app, room }, self.revision))
    }
}

impl ClientRemains {
    fn keys(&self, app: &str, user: &str, limit: usize) -> Vec<(Vec<u8>, Revision)> {
        let muted = self.muted.iter().map(|muted| {
            let key = Key::NotificationMute { app, user, room: &muted.room };
            (key, muted.mark.revision)
        });
        encoded(muted.take(limit), (Key::DeletedClient { app, user }, self.revision))
    }
}

/// The tombstone goes in a commit of its own, after everything else: whatever fails, nothing comes back.
fn encoded<'a>(keys: impl Iterator<Item = (Key<'a>, Revision)>, tombstone: (Key<'a>, Revision)) -> Vec<(Vec<u8>, Revision)> {
    let encode = |(key, revision): (Key<'_>, Revision)| (codec::encode_key(key), revision);
    let keys: Vec<_> = keys.map(encode).collect();
    if keys.is_empty() { vec![encode(tombstone)] } else { keys }
}

impl Owners {
    pub(super) fn set(&self, has_remains: bool, app: &str, is_room: bool, id: &str) {
        let place = Place { app: app.into(), is_room, id: id.into() };
        let mut places = self.places();
        if has_remains {
            places.insert(place)
        } else {
            places.remove(&place)
        };
    }

    /// What is to be removed, at most about `limit` keys: those of one app that follow each other together.
    pub(super) fn leftovers(&self, state: &State, limit: usize) -> Vec<Leftover> {
        let places: Vec<_> = self.places().iter().take(limit).cloned().collect();
        let mut leftovers: Vec<Leftover> = Vec::new();
        let mut left = limit;
        for Place { app: key, is_room, id } in places {
            let Some(app) = state.app(&key).filter(|_| left > 0) else { continue };
            let of_room = |room: Option<&Room>| Some(room?.remains.as_ref()?.keys(&key, &id, left));
            let of_client = |client: Option<&Client>| Some(client?.remains.as_ref()?.keys(&key, &id, left));
            let keys = if is_room { app.rooms.read(&id, of_room) } else { app.clients.read(&id, of_client) };
            let keys = keys.unwrap_or_default();
            left = left.saturating_sub(keys.len());
            match leftovers.last_mut().filter(|last| last.app == key) {
                Some(last) => last.keys.extend(keys),
                None => leftovers.push(Leftover { app: key, keys }),
            }
        }
        leftovers
    }

    fn places(&self) -> MutexGuard<'_, BTreeSet<Place>> {
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
        rooms.get(muted.room.as_str()).is_none_or(|revision| muted.mark.revision > *revision)
    }
}
