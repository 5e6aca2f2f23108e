//! Batches as parts of a transaction.
//!
//! etcd refuses a transaction that changes a key twice. So [`CommitPlan`] reduces the operations of
//! a batch to the last one on each key. [`TouchedKeys`] decides which batches can share a
//! transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    kv::KeyRange,
    layout::{Layout, cluster_revision},
};
use crate::store::{EncodedBatch, Operation, Precondition};

/// The net effect of a batch, and its preconditions.
#[derive(Debug, Default)]
pub(super) struct CommitPlan {
    /// Each with its index in the batch: a reader who sees one must also see those before it.
    puts: BTreeMap<Vec<u8>, (usize, Vec<u8>)>,
    deletes: BTreeSet<Vec<u8>>,
    /// The cluster revision that last wrote each key; `None`: the key is absent.
    pub(super) expected: BTreeMap<Vec<u8>, Option<u64>>,
    /// Whether the preconditions require two different revisions of one key.
    pub(super) cannot_hold: bool,
    /// Whether it needs a transaction of its own: [`Batch::is_alone`].
    is_alone: bool,
}

impl CommitPlan {
    pub(super) fn of(batch: EncodedBatch) -> Self {
        let mut plan = Self { is_alone: batch.is_alone, ..Self::default() };
        for Precondition { key, revision } in batch.preconditions {
            let revision = revision.map(cluster_revision);
            let before = plan.expected.insert(key, revision);
            plan.cannot_hold |= before.is_some_and(|before| before != revision);
        }
        for (index, operation) in batch.operations.into_iter().enumerate() {
            match operation {
                Operation::Put { key, value } => {
                    plan.deletes.remove(&key);
                    plan.puts.insert(key, (index, value));
                }
                Operation::Delete { key } => {
                    plan.puts.remove(&key);
                    plan.deletes.insert(key);
                }
            }
        }
        plan
    }

    /// The number of operations it adds to a transaction.
    pub(super) fn changes(&self) -> usize {
        self.puts.len() + self.deletes.len()
    }

    /// The bytes of keys and values it adds to a transaction.
    pub(super) fn bytes(&self) -> usize {
        let puts = self.puts.iter().map(|(key, (_, value))| key.len() + value.len());
        puts.chain(self.deletes.iter().chain(self.expected.keys()).map(Vec::len)).sum()
    }

    /// The puts, in the order of the batch.
    pub(super) fn puts(&self, layout: &Layout) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut puts: Vec<_> = self.puts.iter().collect();
        puts.sort_unstable_by_key(|(_, (index, _))| *index);
        puts.into_iter().map(|(key, (_, value))| (layout.record(key), value.clone())).collect()
    }

    /// The deletes. None of them is of a key that is put.
    pub(super) fn deletes(&self, layout: &Layout) -> impl Iterator<Item = KeyRange> {
        self.deletes.iter().map(|key| KeyRange::single(layout.record(key)))
    }
}

/// The keys that several batches change, and those that their preconditions name.
#[derive(Debug, Default)]
pub(super) struct TouchedKeys {
    changed: HashSet<Vec<u8>>,
    expected: HashMap<Vec<u8>, Option<u64>>,
    is_empty: bool,
    has_alone: bool,
}

impl TouchedKeys {
    pub(super) fn new() -> Self {
        Self { is_empty: true, ..Self::default() }
    }

    pub(super) fn add(&mut self, plan: &CommitPlan) {
        self.changed.extend(plan.puts.keys().chain(&plan.deletes).cloned());
        self.expected.extend(plan.expected.iter().map(|(key, revision)| (key.clone(), *revision)));
        self.is_empty = false;
        self.has_alone |= plan.is_alone;
    }

    /// Whether the batch must not share a transaction with the batches added so far.
    ///
    /// It conflicts if it changes a key that they change or expect, expects a key that they change,
    /// or expects another revision of a key than they do. A batch that needs a transaction of its
    /// own conflicts with all others.
    pub(super) fn conflicts_with(&self, plan: &CommitPlan) -> bool {
        let changed = |key: &Vec<u8>| self.changed.contains(key) || self.expected.contains_key(key);
        let differs = |(key, revision): (&Vec<u8>, &Option<u64>)| {
            self.expected.get(key).is_some_and(|other| other != revision)
        };
        self.has_alone
            || plan.is_alone && !self.is_empty
            || plan.puts.keys().chain(&plan.deletes).any(changed)
            || plan.expected.keys().any(|key| self.changed.contains(key))
            || plan.expected.iter().any(differs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Operation {
        Operation::Put { key: key.into(), value: value.into() }
    }

    fn delete(key: &str) -> Operation {
        Operation::Delete { key: key.into() }
    }

    fn plan(operations: &[Operation], expected: &[&str], is_alone: bool) -> CommitPlan {
        let preconditions: Vec<_> = expected
            .iter()
            .map(|key| Precondition { key: key.as_bytes().to_vec(), revision: None })
            .collect();
        CommitPlan::of(EncodedBatch {
            operations: operations.to_vec(),
            preconditions,
            is_alone,
            ..EncodedBatch::default()
        })
    }

    #[test]
    fn a_plan_has_the_last_operation_on_each_key() {
        let plan = plan(
            &[put("b", "1"), put("a", "1"), delete("c"), put("b", "2"), delete("a"), put("c", "1")],
            &[],
            false,
        );
        let puts: Vec<_> =
            plan.puts.iter().map(|(key, (_, value))| (&key[..], &value[..])).collect();
        assert_eq!(puts, [(&b"b"[..], &b"2"[..]), (b"c", b"1")]);
        assert_eq!((plan.deletes, plan.expected.len()), (BTreeSet::from([b"a".to_vec()]), 0));
    }

    #[test]
    fn batches_conflict_if_one_touches_what_the_other_relies_on() {
        let mut touched = TouchedKeys::new();
        touched.add(&plan(&[put("r/1/m", "x")], &["r/1/p"], false));
        for (operations, expected, is_alone, conflicts) in [
            (vec![put("r/2/m", "x")], vec![], false, false),
            (vec![put("r/1/n", "x")], vec!["r/1/p"], false, false),
            (vec![delete("r/1/m")], vec![], false, true),
            (vec![put("r/1/p", "x")], vec![], false, true),
            (vec![], vec!["r/1/m"], false, true),
            (vec![], vec!["r/2/m"], false, false),
            (vec![put("r/2/m", "x")], vec![], true, true),
        ] {
            let other = plan(&operations, &expected, is_alone);
            assert_eq!(
                touched.conflicts_with(&other),
                conflicts,
                "{operations:?} {expected:?} {is_alone}"
            );
        }
        let other_revision = Precondition { key: b"r/1/p".to_vec(), revision: Some(128) };
        assert!(touched.conflicts_with(&CommitPlan::of(EncodedBatch {
            preconditions: vec![other_revision],
            ..EncodedBatch::default()
        })));
        touched = TouchedKeys::new();
        assert!(!touched.conflicts_with(&plan(&[put("s/1", "x")], &[], true)));
        touched.add(&plan(&[put("r/1", "x")], &[], true));
        assert!(touched.conflicts_with(&plan(&[put("s/1", "x")], &[], false)));
    }
}
