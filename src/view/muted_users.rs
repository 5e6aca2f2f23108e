//! The users of one app that have a user mute, sorted, for the list by pages. The mutes belong to
//! the clients, where a check reads them, and are only shared here. The feed writes both under the
//! lock of the client.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering},
};

use super::{page::Page, user_map::UserMap, versioned::Versioned};
use crate::model::Restriction;

#[derive(Default)]
pub(super) struct MutedUsers {
    users: RwLock<UserMap<Arc<Versioned<Restriction>>>>,
    /// Kept outside the lock: a check in an app without user mutes need not read the client.
    len: AtomicUsize,
}

impl MutedUsers {
    /// Sets or removes the mute of a user.
    pub(super) fn set(&self, user: &str, mute: Option<Arc<Versioned<Restriction>>>) {
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        match mute {
            Some(mute) => users.insert(user, mute),
            None => drop(users.remove(user)),
        }
        self.len.store(users.len(), Ordering::Release);
    }

    /// Whether there is no user mute, in force or not.
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// The users whose mute is in force, sorted.
    pub(super) fn in_force(&self, page: Page<'_>, now_ms: u64) -> Vec<(String, Restriction)> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        let in_force =
            users.after(page.after).filter(|(_, mute)| mute.value.expire.in_force(now_ms));
        in_force
            .skip(page.skip)
            .take(page.size)
            .map(|(user, mute)| (user.to_owned(), mute.value.clone()))
            .collect()
    }
}
