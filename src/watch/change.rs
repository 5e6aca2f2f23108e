//! A change as callers are told of it, and what they watch.

use crate::{
    model::{Event, EventKind},
    store::{Revision, StoreError, codec},
};

/// One commit, as callers are told of it.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Change {
    pub revision: Revision,
    pub event: Event,
}

impl Change {
    /// Nothing where the commit is our own matter. Errors: [`StoreError::Corrupt`].
    pub fn read(revision: Revision, event: &[u8]) -> Result<Option<Self>, StoreError> {
        if event.is_empty() {
            return Ok(None);
        }
        let event = codec::decode_event(event)?;
        Ok((!event.kind.is_internal()).then_some(Self { revision, event }))
    }

    /// About as much memory as it takes.
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
    /// Whether the event stands for changes that nobody can be told one by one.
    pub(super) fn lost_to(&self, event: &Event) -> bool {
        event.kind == EventKind::Imported && self.app == event.app
    }

    pub(super) fn covers(&self, event: &Event) -> bool {
        self.app == event.app && self.room.as_ref().is_none_or(|room| *room == event.room)
    }
}
