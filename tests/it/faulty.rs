//! Decides which operation of a disk fails: the Nth of its kind since the count began, once or from
//! then on. `lossy_disk.rs` asks before each operation.

use std::collections::BTreeMap;

use fuser::Errno;

/// A kind of operation on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Open,
    Create,
    Write,
    Fsync,
    Fdatasync,
    Rename,
    Unlink,
    Truncate,
    SyncDirectory,
}

/// An operation that fails.
#[derive(Clone, Copy)]
pub struct Fault {
    pub kind: Kind,
    /// From 1.
    pub nth: usize,
    pub errno: Errno,
    /// Every later operation of its kind fails too.
    pub forever: bool,
    /// For a write: its first half is written, and the next write fails.
    pub short: bool,
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    Short,
    Failed(i32),
}

/// The count of operations, and which of them fails.
#[derive(Default)]
pub struct Faults {
    counts: BTreeMap<Kind, usize>,
    faults: Vec<Fault>,
    failed: usize,
}

impl Faults {
    /// Counts from zero, with at most one fault of each kind.
    pub fn set(&mut self, faults: &[Fault]) {
        *self = Self { faults: faults.to_vec(), ..Self::default() };
    }

    /// How many operations of each kind there were.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        self.counts.clone()
    }

    /// How many have failed, or were short.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Counts one more operation.
    pub fn next(&mut self, kind: Kind) -> Fate {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let Some(fault) = self.faults.iter().find(|fault| fault.kind == kind) else {
            return Fate::Done;
        };
        // A failing write follows the short one.
        let first = fault.nth + usize::from(fault.short);
        let fate = match *count {
            count if fault.short && count == fault.nth => Fate::Short,
            count if count == first || (count > first && fault.forever) => {
                Fate::Failed(fault.errno.code())
            }
            _ => Fate::Done,
        };
        self.failed += usize::from(fate != Fate::Done);
        fate
    }
}
