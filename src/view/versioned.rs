//! What a record says, with the revision it was written at.

use std::sync::Arc;

use ecow::EcoString;

use super::user_map::Ends;
use crate::{
    model::{Expire, Restriction},
    store::Revision,
};

/// A value and the revision it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// What it says.
    pub value: T,
    /// For expectations.
    pub revision: Revision,
}

impl Ends for Versioned<Restriction> {
    fn end_ms(&self) -> Option<u64> {
        self.value.expire.ms()
    }
}

impl Ends for Arc<Versioned<Restriction>> {
    fn end_ms(&self) -> Option<u64> {
        self.value.expire.ms()
    }
}

impl Ends for Versioned<Expire> {
    fn end_ms(&self) -> Option<u64> {
        self.value.ms()
    }
}

/// One notification mute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MutedRoom {
    pub room: EcoString,
    /// Counts up with each mute of the client; two made at the same moment may share one.
    pub place: u64,
    pub restriction: Versioned<Restriction>,
}
