//! One client: its profile, the rooms whose notifications it has muted, in the order of muting, and its user mute.

use std::sync::Arc;

use ecow::EcoString;

use super::{index::Entity, room::Held};
use crate::{
    model::{ClientProfile, Key, Mark, Value},
    store::Revision,
};

/// Everything known of one client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Nothing where the directory does not have it.
    pub profile: Option<Box<Held<ClientProfile>>>,
    /// In the order of `place`, then of `room`; some may have ended. Few enough to be looked through.
    pub muted: Vec<MutedRoom>,
    /// May have ended. Shared with the app's list of them.
    pub user_mute: Option<Arc<Held<Mark>>>,
    /// When the sweeper is to look at it, in Unix milliseconds.
    pub(super) scheduled_ms: Option<u64>,
}

/// One notification mute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MutedRoom {
    pub room: EcoString,
    /// Counts up with each mute of the client; two made at the same moment may share one.
    pub place: u64,
    pub mark: Held<Mark>,
}

impl Entity for Client {
    fn is_registered(&self) -> bool {
        self.is_registered()
    }

    fn is_empty(&self) -> bool {
        self.profile.is_none() && self.muted.is_empty() && self.user_mute.is_none()
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
    pub fn user_mute_in_force(&self, now_ms: u64) -> Option<&Arc<Held<Mark>>> {
        self.user_mute.as_ref().filter(|mute| mute.value.expire.in_force(now_ms))
    }

    /// The notification mutes in force, in the order of muting.
    pub fn muted_in_force(&self, now_ms: u64) -> impl Iterator<Item = &MutedRoom> {
        self.muted.iter().filter(move |muted| muted.mark.value.expire.in_force(now_ms))
    }

    /// The notification mute of this room, in force or not.
    #[must_use]
    pub fn muted_room(&self, room: &str) -> Option<&MutedRoom> {
        self.muted.iter().find(|muted| muted.room == room)
    }

    /// The place of the next room to be muted: after all others.
    #[must_use]
    pub fn next_place(&self) -> u64 {
        self.muted.last().map_or(1, |muted| muted.place + 1)
    }

    /// Applies one change of the feed; nothing as value is a removal.
    pub(super) fn apply(&mut self, key: Key<'_>, value: Option<Value>, revision: Revision) {
        match (key, value) {
            (Key::Client { .. }, Some(Value::Client(value))) => self.profile = Some(Box::new(Held { value, revision })),
            (Key::Client { .. }, _) => self.profile = None,
            (Key::NotificationMute { room, .. }, Some(Value::NotificationMute(value, place))) => {
                self.remove(room);
                let muted = MutedRoom { room: room.into(), place, mark: Held { value, revision } };
                let at = self.muted.partition_point(|other| (other.place, other.room.as_str()) < (place, room));
                self.muted.insert(at, muted);
            }
            (Key::NotificationMute { room, .. }, _) => self.remove(room),
            (Key::UserMute { .. }, Some(Value::Mark(value))) => self.user_mute = Some(Arc::new(Held { value, revision })),
            (Key::UserMute { .. }, _) => self.user_mute = None,
            (Key::Room { .. } | Key::Ban { .. } | Key::MemberMute { .. } | Key::Allowed { .. } | Key::Request { .. }, _) => {}
        }
    }

    /// Forgets all but the user mute, and answers the notification mutes that it had.
    pub(super) fn delete(&mut self) -> Vec<MutedRoom> {
        self.profile = None;
        std::mem::take(&mut self.muted)
    }

    fn remove(&mut self, room: &str) {
        self.muted.retain(|muted| muted.room != room);
    }
}
