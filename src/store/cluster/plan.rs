//! A batch as a transaction of the cluster takes it: no key may be put twice in one, or put and deleted, so only what is left of the operations in
//! the end is sent. And which batches can be sent in one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::layout::{Layout, after, cluster};
use crate::store::{Expectation, Operation, etcd::Span};

/// What a batch changes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Each with its place among them, because whoever sees one of them is to see those before it.
    puts: BTreeMap<Vec<u8>, (usize, Vec<u8>)>,
    deletes: BTreeSet<Vec<u8>>,
    /// All with this prefix go, but for the puts. None is the prefix of another.
    pub(super) prefixes: BTreeSet<Vec<u8>>,
    /// The revision of the cluster a key was last written at; nothing where it must be absent.
    pub(super) expected: BTreeMap<Vec<u8>, Option<u64>>,
    /// Some key is expected to be of two revisions at once.
    pub(super) cannot_hold: bool,
}

impl Plan {
    pub(super) fn of(operations: Vec<Operation>, expectations: Vec<Expectation>) -> Self {
        let mut plan = Self::default();
        for Expectation { key, revision } in expectations {
            let revision = revision.map(cluster);
            let before = plan.expected.insert(key, revision);
            plan.cannot_hold |= before.is_some_and(|before| before != revision);
        }
        for (place, operation) in operations.into_iter().enumerate() {
            match operation {
                Operation::Put { key, value } => {
                    plan.deletes.remove(&key);
                    plan.puts.insert(key, (place, value));
                }
                Operation::Delete { key } => {
                    plan.puts.remove(&key);
                    if !plan.deletes_with_prefix(&key) {
                        plan.deletes.insert(key);
                    }
                }
                Operation::DeletePrefix { prefix } => {
                    plan.puts.retain(|key, _| !key.starts_with(&prefix));
                    plan.deletes.retain(|key| !key.starts_with(&prefix));
                    plan.prefixes.retain(|shorter| !shorter.starts_with(&prefix));
                    if !plan.deletes_with_prefix(&prefix) {
                        plan.prefixes.insert(prefix);
                    }
                }
            }
        }
        plan
    }

    /// How many operations the transaction has.
    pub(super) fn changes(&self) -> usize {
        // Each put may part a prefix in two.
        let within_prefixes = self.puts.keys().filter(|key| self.deletes_with_prefix(key)).count();
        self.puts.len() + self.deletes.len() + self.prefixes.len() + within_prefixes
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
    pub(super) fn deleted(&self, layout: &Layout) -> Vec<Span> {
        let mut spans: Vec<_> = self.deletes.iter().map(|key| Span { from: layout.record(key), until: Vec::new() }).collect();
        for prefix in &self.prefixes {
            let Span { mut from, until } = layout.records(prefix);
            for put in self.puts.keys().filter(|key| key.starts_with(prefix)).map(|key| layout.record(key)) {
                if from < put {
                    spans.push(Span { from, until: put.clone() });
                }
                from = after(put);
            }
            spans.push(Span { from, until });
        }
        spans
    }

    fn deletes_with_prefix(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

/// What batches that are looked at one after the other change and expect.
#[derive(Debug, Default)]
pub(super) struct Touched {
    changed: HashSet<Vec<u8>>,
    expected: HashMap<Vec<u8>, Option<u64>>,
    /// More than keys tell.
    with_prefixes: bool,
}

impl Touched {
    pub(super) fn add(&mut self, plan: &Plan) {
        self.changed.extend(plan.puts.keys().chain(&plan.deletes).cloned());
        self.expected.extend(plan.expected.iter().map(|(key, revision)| (key.clone(), *revision)));
        self.with_prefixes |= !plan.prefixes.is_empty();
    }

    /// Whether the batch changes what one of them changes or expects, or expects what one of them changes, or something else than one of them. One
    /// that deletes prefixes is taken to meet every other.
    pub(super) fn meets(&self, plan: &Plan) -> bool {
        let is_first = self.changed.is_empty() && self.expected.is_empty() && !self.with_prefixes;
        let changed = |key: &Vec<u8>| self.changed.contains(key) || self.expected.contains_key(key);
        let differs = |(key, revision): (&Vec<u8>, &Option<u64>)| self.expected.get(key).is_some_and(|other| other != revision);
        self.with_prefixes
            || !plan.prefixes.is_empty() && !is_first
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

    fn delete_prefix(prefix: &str) -> Operation {
        Operation::DeletePrefix { prefix: prefix.into() }
    }

    fn plan(operations: &[Operation], expected: &[&str]) -> Plan {
        let expectations: Vec<_> =
            expected.iter().map(|key| Expectation { key: key.as_bytes().to_vec(), revision: None }).collect();
        Plan::of(operations.to_vec(), expectations)
    }

    fn spans(plan: &Plan) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace('\0', "+");
        plan.deleted(&Layout::below("")).into_iter().map(|span| (text(span.from), text(span.until))).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(from, until)| ((*from).to_owned(), (*until).to_owned())).collect()
    }

    #[test]
    fn what_is_left_in_the_end_is_sent_and_nothing_is_put_and_deleted() {
        let plan = plan(
            &[put("a/3", "x"), delete_prefix("a/"), put("a/4", "y"), delete("b"), put("c", "1"), put("c", "2"), delete("a/9")],
            &[],
        );
        assert_eq!(plan.puts.keys().collect::<Vec<_>>(), [b"a/4".as_slice(), b"c"]);
        assert_eq!(spans(&plan), pairs(&[("db", ""), ("da/", "da/4"), ("da/4+", "da0")]));
        assert_eq!(plan.changes(), 5);
        let order: Vec<_> = plan.put(&Layout::below("")).into_iter().map(|(key, _)| key).collect();
        assert_eq!(order, [b"da/4".as_slice(), b"dc"]);
    }

    #[test]
    fn a_prefix_within_another_is_deleted_once() {
        assert_eq!(
            spans(&plan(&[delete_prefix("a/b"), delete_prefix("a/"), delete_prefix("a/c")], &[])),
            pairs(&[("da/", "da0")])
        );
    }

    #[test]
    fn batches_that_touch_each_other_are_not_sent_together() {
        let mut touched = Touched::default();
        assert!(!touched.meets(&plan(&[delete_prefix("r/1/")], &["r/1/p"])));
        touched.add(&plan(&[put("r/1/m", "x"), delete("r/2/m")], &["r/1/p"]));
        for (operations, expected, meets) in [
            (vec![put("r/3/m", "x")], vec!["r/1/p"], false),
            (vec![put("r/1/m", "y")], vec![], true),
            (vec![put("r/2/m", "y")], vec![], true),
            (vec![delete("r/1/p")], vec![], true),
            (vec![], vec!["r/1/m"], true),
            (vec![], vec!["r/2/m"], true),
            (vec![delete_prefix("r/3/")], vec![], true),
        ] {
            assert_eq!(touched.meets(&plan(&operations, &expected)), meets, "{operations:?} {expected:?}");
        }
        let other_revision = Expectation { key: b"r/1/p".to_vec(), revision: Some(128) };
        assert!(touched.meets(&Plan::of(Vec::new(), vec![other_revision])));
        touched = Touched::default();
        touched.add(&plan(&[delete_prefix("r/")], &[]));
        assert!(touched.meets(&plan(&[put("s/1", "x")], &[])));
    }
}
