//! Records of deleted rooms and clients that the sweeper is to remove next.

use std::sync::Arc;

use super::{client::Client, room::Room, state::State, tombstone::Owner};
use crate::store::Revision;

/// Records that are to be removed, by the revision that each has.
#[derive(Debug)]
pub struct Leftover {
    /// Their app.
    pub app: Arc<str>,
    /// Keys as bytes.
    pub keys: Vec<(Vec<u8>, Revision)>,
}

/// What is to be removed, at most about `limit` keys: those of one app that follow each other
/// together.
pub(super) fn leftovers(state: &State, limit: usize) -> Vec<Leftover> {
    let mut leftovers: Vec<Leftover> = Vec::new();
    let mut left = limit;
    for Owner { app: key, is_room, id } in state.deleted.first(limit) {
        let Some(app) = state.app(&key).filter(|_| left > 0) else { continue };
        let of_room = |room: Option<&Room>| Some(room?.remains.as_ref()?.keys(&key, &id, left));
        let of_client =
            |client: Option<&Client>| Some(client?.remains.as_ref()?.keys(&key, &id, left));
        let keys =
            if is_room { app.rooms.read(&id, of_room) } else { app.clients.read(&id, of_client) };
        let keys = keys.unwrap_or_default();
        left = left.saturating_sub(keys.len());
        match leftovers.last_mut().filter(|last| last.app == key) {
            Some(last) => last.keys.extend(keys),
            None => leftovers.push(Leftover { app: key, keys }),
        }
    }
    leftovers
}
