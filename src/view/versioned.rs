//! What a record says, with the revision it was written at.

use std::sync::Arc;

use ecow::EcoString;

use super::user_map::Ends;
use crate::{
    model::{Expire, Mark},
    store::Revision,
};

/// A value and the revision it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<T> {
    /// What it says.
    pub value: T,
    /// For expectations.
    pub revision: Revision,
}

impl Ends for Held<Mark> {
    fn end_ms(&self) -> Option<u64> {
        self.value.expire.ms()
    }
}

impl Ends for Arc<Held<Mark>> {
    fn end_ms(&self) -> Option<u64> {
        self.value.expire.ms()
    }
}

impl Ends for Held<Expire> {
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
    pub mark: Held<Mark>,
}
