//! The value of a record, with the revision of its last write.

use std::sync::Arc;

use ecow::EcoString;

use super::user_map::Expires;
use crate::{
    model::{Expire, Restriction},
    store::Revision,
};

/// A value and the revision of the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// For the preconditions of a write.
    pub revision: Revision,
}

impl Expires for Versioned<Restriction> {
    fn expire_ms(&self) -> Option<u64> {
        self.value.expire.ms()
    }
}

impl Expires for Arc<Versioned<Restriction>> {
    fn expire_ms(&self) -> Option<u64> {
        self.value.expire.ms()
    }
}

impl Expires for Versioned<Expire> {
    fn expire_ms(&self) -> Option<u64> {
        self.value.ms()
    }
}

/// One notification mute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MutedRoom {
    pub room: EcoString,
    /// Rises with each mute of the client. Two concurrent mutes may have the same place.
    pub place: u64,
    pub restriction: Versioned<Restriction>,
}
