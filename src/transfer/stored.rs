//! What a stored record is to whoever reads all records of a store, in the order of keys: one that
//! counts, or one that was deleted with its room or client and is only stored still. Tombstones
//! come before all others, so that this is known when a record comes.

use std::collections::HashMap;

use super::record::KnownRecord;
use crate::{
    model::Key,
    store::{Entry, Revision, StoreError, codec},
};

/// A record.
pub enum Stored {
    /// It counts, and goes in and out.
    Live(Box<KnownRecord>),
    /// It counts for nothing: its room or client was deleted after it was written.
    Deleted,
    /// It is the service's own matter, or somebody else's.
    Other,
}

/// The tombstones that have come, by app and id.
#[derive(Clone, Default)]
pub struct Tombstones {
    rooms: HashMap<(String, String), Revision>,
    clients: HashMap<(String, String), Revision>,
}

impl Tombstones {
    /// What the next record is. Errors: [`StoreError::Corrupt`].
    pub fn look_at(&mut self, entry: &Entry) -> Result<Stored, StoreError> {
        let Ok(key) = codec::decode_key(&entry.key) else {
            tracing::warn!(key = %entry.key.escape_ascii(), "a record whose key is none of this service's is passed over");
            return Ok(Stored::Other);
        };
        match key {
            Key::DeletedRoom { app, room } => {
                self.rooms.insert(names(app, room), entry.revision);
            }
            Key::DeletedClient { app, user } => {
                self.clients.insert(names(app, user), entry.revision);
            }
            _ if self.ends(key, entry.revision) => return Ok(Stored::Deleted),
            _ => {}
        }
        Ok(KnownRecord::of(entry)?.map_or(Stored::Other, |known| Stored::Live(Box::new(known))))
    }

    fn ends(&self, key: Key<'_>, written: Revision) -> bool {
        let room = |app, room| self.rooms.get(&names(app, room));
        let client = |app, user| self.clients.get(&names(app, user));
        let [first, second] = match key {
            Key::Room { app, room: id }
            | Key::Ban { app, room: id }
            | Key::MemberMute { app, room: id, .. }
            | Key::Allowed { app, room: id, .. } => [room(app, id), None],
            Key::NotificationMute { app, user, room: id } => [room(app, id), client(app, user)],
            Key::Client { app, user } => [client(app, user), None],
            Key::UserMute { .. }
            | Key::Request { .. }
            | Key::DeletedRoom { .. }
            | Key::DeletedClient { .. } => [None; 2],
        };
        first.max(second).is_some_and(|tombstone| written <= *tombstone)
    }
}

fn names(app: &str, id: &str) -> (String, String) {
    (app.to_owned(), id.to_owned())
}
