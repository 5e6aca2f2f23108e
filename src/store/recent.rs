//! The newest commits in memory, for all watchers of an embedded engine together.

use std::{collections::VecDeque, sync::Arc};

use super::{Commit, Operation};

/// Commits kept in memory for watchers: at most so many, and so many bytes beside the newest group. 4,096 is several full groups.
const RECENT_COMMITS: usize = 4_096;
const RECENT_BYTES: usize = 4 << 20;

/// The newest commits, without gaps.
#[derive(Default)]
pub(super) struct Recent {
    pub(super) commits: VecDeque<Arc<Commit>>,
    bytes: usize,
}

impl Recent {
    /// Adds the commits of a group, and forgets the oldest.
    pub(super) fn push(&mut self, group: Vec<Arc<Commit>>) {
        let newest = group.len();
        self.bytes += group.iter().map(|commit| size_of_commit(commit)).sum::<usize>();
        self.commits.extend(group);
        while self.commits.len() > newest && (self.commits.len() > RECENT_COMMITS || self.bytes > RECENT_BYTES) {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.bytes -= size_of_commit(&oldest);
        }
    }
}

fn size_of_commit(commit: &Commit) -> usize {
    let size = |operation: &Operation| match operation {
        Operation::Put { key, value } => key.len() + value.len(),
        Operation::Delete { key } => key.len(),
        Operation::DeletePrefix { prefix } => prefix.len(),
    };
    commit.event.len() + commit.operations.iter().map(|operation| size_of::<Operation>() + size(operation)).sum::<usize>()
}
