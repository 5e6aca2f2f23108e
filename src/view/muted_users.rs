//! The users of one app who may not speak in any of its rooms, in order: the list that is asked for
//! by pages. The marks are the clients', where a check finds them, and only shared here. Written by
//! the feed while it holds the client.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering},
};

use super::{page::Page, user_map::UserMap, versioned::Versioned};
use crate::model::Restriction;

#[derive(Default)]
pub(super) struct MutedUsers {
    users: RwLock<UserMap<Arc<Versioned<Restriction>>>>,
    /// How many, so that a check in an app without any need not look for a client.
    len: AtomicUsize,
}

impl MutedUsers {
    /// Notes the user's mute, or that there is none.
    pub(super) fn set(&self, user: &str, mute: Option<Arc<Versioned<Restriction>>>) {
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        match mute {
            Some(mute) => users.insert(user, mute),
            None => drop(users.remove(user)),
        }
        self.len.store(users.len(), Ordering::Release);
    }

    /// Whether there is none, in force or not.
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Those whose mute is in force.
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
