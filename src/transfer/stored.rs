//! Classifies the records of a store, read in key order: is a record live, or was its room or
//! client deleted after it was written? The keys of tombstones sort before all others, so a single
//! pass is enough.

use std::collections::HashMap;

use super::record::KnownRecord;
use crate::{
    model::Key,
    store::{Entry, Revision, StoreError, codec},
};

/// The class of a stored record.
pub enum Stored {
    /// It is exported: neither its room nor its client was deleted since.
    Live(Box<KnownRecord>),
    /// It has no effect: its room or client was deleted after it was written.
    Deleted,
    /// It is internal to the service, or its key is unknown.
    Other,
}

/// The tombstones read so far, by app and id.
#[derive(Clone, Default)]
pub struct Tombstones {
    rooms: HashMap<(String, String), Revision>,
    clients: HashMap<(String, String), Revision>,
}

impl Tombstones {
    /// Classifies the next record in key order. Errors: [`StoreError::Corrupt`].
    pub fn classify(&mut self, entry: &Entry) -> Result<Stored, StoreError> {
        let Ok(key) = codec::decode_key(&entry.key) else {
            tracing::warn!(key = %entry.key.escape_ascii(), "skipping a record with an unknown key");
            return Ok(Stored::Other);
        };
        match key {
            Key::DeletedRoom { app, room } => {
                self.rooms.insert(owner_id(app, room), entry.revision);
            }
            Key::DeletedClient { app, user } => {
                self.clients.insert(owner_id(app, user), entry.revision);
            }
            _ if self.has_deleted(key, entry.revision) => return Ok(Stored::Deleted),
            _ => {}
        }
        Ok(KnownRecord::of(entry)?.map_or(Stored::Other, |record| Stored::Live(Box::new(record))))
    }

    fn has_deleted(&self, key: Key<'_>, written: Revision) -> bool {
        let room_tombstone = |app, room| self.rooms.get(&owner_id(app, room));
        let client_tombstone = |app, user| self.clients.get(&owner_id(app, user));
        let [first, second] = match key {
            Key::Room { app, room }
            | Key::Ban { app, room }
            | Key::MemberMute { app, room, .. }
            | Key::Allowed { app, room, .. } => [room_tombstone(app, room), None],
            Key::NotificationMute { app, user, room } => {
                [room_tombstone(app, room), client_tombstone(app, user)]
            }
            Key::Client { app, user } => [client_tombstone(app, user), None],
            Key::UserMute { .. }
            | Key::Request { .. }
            | Key::DeletedRoom { .. }
            | Key::DeletedClient { .. } => [None; 2],
        };
        first.max(second).is_some_and(|tombstone| written <= *tombstone)
    }
}

fn owner_id(app: &str, id: &str) -> (String, String) {
    (app.to_owned(), id.to_owned())
}
