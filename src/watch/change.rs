//! A change as watchers receive it, and what they watch.

use crate::{
    model::{Event, EventKind},
    store::{Revision, StoreError, codec},
};

/// One commit, as watchers receive it.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Change {
    pub revision: Revision,
    pub event: Event,
}

impl Change {
    /// None: the commit is internal, and no watcher receives it. Errors: [`StoreError::Corrupt`].
    pub fn decode(revision: Revision, event: &[u8]) -> Result<Option<Self>, StoreError> {
        if event.is_empty() {
            return Ok(None);
        }
        let event = codec::decode_event(event)?;
        Ok((!event.kind.is_internal()).then_some(Self { revision, event }))
    }

    /// Approximate size in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Event { app, room, users, actor, reason, request_id, .. } = &self.event;
        let texts = [app, room, actor, reason, request_id].map(String::len).iter().sum::<usize>();
        size_of::<Self>()
            + texts
            + users.iter().map(|user| size_of::<String>() + user.len()).sum::<usize>()
    }
}

/// What is watched: an app, or one room of it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Subject {
    pub app: String,
    pub room: Option<String>,
}

impl Subject {
    /// Whether the event is an import of the app: its changes are not listed one by one, so the
    /// watcher must read a snapshot again.
    pub(super) fn is_reset_by(&self, event: &Event) -> bool {
        event.kind == EventKind::Imported && self.app == event.app
    }

    pub(super) fn covers(&self, event: &Event) -> bool {
        self.app == event.app && self.room.as_ref().is_none_or(|room| *room == event.room)
    }
}
