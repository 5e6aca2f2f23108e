//! The stored records of deleted rooms and clients, which the sweeper removes next.

use std::sync::Arc;

use super::{client::Client, room::Room, state::State, tombstone::Tombstoned};
use crate::store::Revision;

/// Records of one app that were deleted and are still stored.
#[derive(Debug)]
pub struct Leftover {
    /// The app.
    pub app: Arc<str>,
    /// The key of each record in bytes, and its revision as a precondition.
    pub keys: Vec<(Vec<u8>, Revision)>,
}

/// At most about `limit` keys. Adjacent entities of one app share a leftover.
pub(super) fn leftovers(state: &State, limit: usize) -> Vec<Leftover> {
    let mut leftovers: Vec<Leftover> = Vec::new();
    let mut remaining = limit;
    for Tombstoned { app: app_key, is_room, id } in state.tombstoned.first(limit) {
        let Some(app) = state.app(&app_key).filter(|_| remaining > 0) else { continue };
        let keys = if is_room {
            app.rooms.read(&id, |room: Option<&Room>| {
                Some(room?.tombstone.as_ref()?.keys(&app_key, &id, remaining))
            })
        } else {
            app.clients.read(&id, |client: Option<&Client>| {
                Some(client?.tombstone.as_ref()?.keys(&app_key, &id, remaining))
            })
        };
        let keys = keys.unwrap_or_default();
        remaining = remaining.saturating_sub(keys.len());
        match leftovers.last_mut().filter(|last| last.app == app_key) {
            Some(last) => last.keys.extend(keys),
            None => leftovers.push(Leftover { app: app_key, keys }),
        }
    }
    leftovers
}
