//! A batch as a transaction of the cluster takes it: no key may be put twice in one, or put and
//! deleted, so only what is left of the operations in the end is sent. And which batches can be
//! sent in one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    client::KeyRange,
    layout::{Layout, cluster},
};
use crate::store::{Batch, Operation, Precondition};

/// What a batch changes.
#[derive(Debug, Default)]
pub(super) struct CommitPlan {
    /// Each with its place among them, because whoever sees one of them is to see those before it.
    puts: BTreeMap<Vec<u8>, (usize, Vec<u8>)>,
    deletes: BTreeSet<Vec<u8>>,
    /// The revision of the cluster a key was last written at; nothing where it must be absent.
    pub(super) expected: BTreeMap<Vec<u8>, Option<u64>>,
    /// Some key is expected to be of two revisions at once.
    pub(super) cannot_hold: bool,
    /// It goes in a transaction of its own.
    is_alone: bool,
}

impl CommitPlan {
    pub(super) fn of(batch: Batch) -> Self {
        let mut plan = Self { is_alone: batch.is_alone, ..Self::default() };
        for Precondition { key, revision } in batch.preconditions {
            let revision = revision.map(cluster);
            let before = plan.expected.insert(key, revision);
            plan.cannot_hold |= before.is_some_and(|before| before != revision);
        }
        for (place, operation) in batch.operations.into_iter().enumerate() {
            match operation {
                Operation::Put { key, value } => {
                    plan.deletes.remove(&key);
                    plan.puts.insert(key, (place, value));
                }
                Operation::Delete { key } => {
                    plan.puts.remove(&key);
                    plan.deletes.insert(key);
                }
            }
        }
        plan
    }

    /// How many operations the transaction has.
    pub(super) fn changes(&self) -> usize {
        self.puts.len() + self.deletes.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let puts = self.puts.iter().map(|(key, (_, value))| key.len() + value.len());
        puts.chain(self.deletes.iter().chain(self.expected.keys()).map(Vec::len)).sum()
    }

    /// What is to be put, in order.
    pub(super) fn put(&self, layout: &Layout) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut puts: Vec<_> = self.puts.iter().collect();
        puts.sort_unstable_by_key(|(_, (place, _))| *place);
        puts.into_iter().map(|(key, (_, value))| (layout.record(key), value.clone())).collect()
    }

    /// What is to be deleted, and nothing of what is put.
    pub(super) fn deleted(&self, layout: &Layout) -> impl Iterator<Item = KeyRange> {
        self.deletes.iter().map(|key| KeyRange::of(layout.record(key)))
    }
}

/// What batches that are looked at one after the other change and expect.
#[derive(Debug, Default)]
pub(super) struct TouchedKeys {
    changed: HashSet<Vec<u8>>,
    expected: HashMap<Vec<u8>, Option<u64>>,
    is_empty: bool,
    has_one_alone: bool,
}

impl TouchedKeys {
    pub(super) fn nothing() -> Self {
        Self { is_empty: true, ..Self::default() }
    }

    pub(super) fn add(&mut self, plan: &CommitPlan) {
        self.changed.extend(plan.puts.keys().chain(&plan.deletes).cloned());
        self.expected.extend(plan.expected.iter().map(|(key, revision)| (key.clone(), *revision)));
        self.is_empty = false;
        self.has_one_alone |= plan.is_alone;
    }

    /// Whether the batch changes what one of them changes or expects, or expects what one of them
    /// changes, or something else than one of them. One that goes alone meets every other.
    pub(super) fn meets(&self, plan: &CommitPlan) -> bool {
        let changed = |key: &Vec<u8>| self.changed.contains(key) || self.expected.contains_key(key);
        let differs = |(key, revision): (&Vec<u8>, &Option<u64>)| {
            self.expected.get(key).is_some_and(|other| other != revision)
        };
        self.has_one_alone
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
        CommitPlan::of(Batch {
            operations: operations.to_vec(),
            preconditions,
            is_alone,
            ..Batch::default()
        })
    }

    #[test]
    fn only_what_is_left_in_the_end_is_sent() {
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
    fn batches_meet_where_one_touches_what_the_other_relies_on() {
        let mut touched = TouchedKeys::nothing();
        touched.add(&plan(&[put("r/1/m", "x")], &["r/1/p"], false));
        for (operations, expected, is_alone, meets) in [
            (vec![put("r/2/m", "x")], vec![], false, false),
            (vec![put("r/1/n", "x")], vec!["r/1/p"], false, false),
            (vec![delete("r/1/m")], vec![], false, true),
            (vec![put("r/1/p", "x")], vec![], false, true),
            (vec![], vec!["r/1/m"], false, true),
            (vec![], vec!["r/2/m"], false, false),
            (vec![put("r/2/m", "x")], vec![], true, true),
        ] {
            let other = plan(&operations, &expected, is_alone);
            assert_eq!(touched.meets(&other), meets, "{operations:?} {expected:?} {is_alone}");
        }
        let other_revision = Precondition { key: b"r/1/p".to_vec(), revision: Some(128) };
        assert!(touched.meets(&CommitPlan::of(Batch {
            preconditions: vec![other_revision],
            ..Batch::default()
        })));
        touched = TouchedKeys::nothing();
        assert!(!touched.meets(&plan(&[put("s/1", "x")], &[], true)));
        touched.add(&plan(&[put("r/1", "x")], &[], true));
        assert!(touched.meets(&plan(&[put("s/1", "x")], &[], false)));
    }
}
