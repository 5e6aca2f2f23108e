//! A batch as etcd takes it: in one transaction no key may be put twice, or put and deleted, so only what is left of the operations in the end is
//! sent. And which batches can be sent together.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{Layout, after, with_prefix};
use crate::store::{Expectation, Operation, etcd::Span};

/// What a batch changes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) puts: BTreeMap<Vec<u8>, Vec<u8>>,
    deletes: BTreeSet<Vec<u8>>,
    /// All with this prefix go, but for the puts. None is the prefix of another.
    pub(super) prefixes: BTreeSet<Vec<u8>>,
    expected: BTreeSet<Vec<u8>>,
}

impl Plan {
    pub(super) fn of(operations: Vec<Operation>, expectations: &[Expectation]) -> Self {
        let mut plan =
            Self { expected: expectations.iter().map(|expectation| expectation.key.clone()).collect(), ..Self::default() };
        for operation in operations {
            match operation {
                Operation::Put { key, value } => {
                    plan.deletes.remove(&key);
                    plan.puts.insert(key, value);
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

    /// How many operations, or how many expectations, the transaction has: etcd limits both.
    pub(super) fn weight(&self) -> usize {
        // Each put may part a prefix in two.
        let changes = self.puts.len() + self.deletes.len() + self.prefixes.len() + self.puts_within_prefixes();
        changes.max(self.expected.len())
    }

    pub(super) fn bytes(&self) -> usize {
        let puts = self.puts.iter().map(|(key, value)| key.len() + value.len());
        puts.chain(self.deletes.iter().chain(&self.expected).map(Vec::len)).sum()
    }

    /// Whether one changes what the other changes or expects.
    pub(super) fn touches(&self, other: &Self) -> bool {
        self.changes_any_of(other) || other.changes_any_of(self)
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

    fn puts_within_prefixes(&self) -> usize {
        self.puts.keys().filter(|key| self.deletes_with_prefix(key)).count()
    }

    fn changes_any_of(&self, other: &Self) -> bool {
        let touched = || other.puts.keys().chain(&other.deletes).chain(&other.expected);
        let change = |key: &Vec<u8>| self.puts.contains_key(key) || self.deletes.contains(key) || self.deletes_with_prefix(key);
        let overlap = |prefix: &Vec<u8>| {
            let Span { from, until } = with_prefix(prefix.clone());
            let below = |key: &Vec<u8>| *key >= from && *key < until;
            self.puts.keys().chain(&self.deletes).any(below) || self.deletes_with_prefix(prefix)
        };
        touched().any(change) || other.prefixes.iter().any(overlap)
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
        Plan::of(operations.to_vec(), &expectations)
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
        assert_eq!(plan.weight(), 5);
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
        let one = plan(&[put("r/1/m", "x"), delete("r/2/m")], &["r/1/p"]);
        for (operations, expected, touches) in [
            (vec![put("r/3/m", "x")], vec!["r/1/p"], false),
            (vec![put("r/1/m", "y")], vec![], true),
            (vec![put("r/2/m", "y")], vec![], true),
            (vec![delete("r/1/p")], vec![], true),
            (vec![], vec!["r/1/m"], true),
            (vec![], vec!["r/2/m"], true),
            (vec![delete_prefix("r/1/")], vec![], true),
            (vec![delete_prefix("r/2/")], vec![], true),
            (vec![delete_prefix("r/3/")], vec![], false),
        ] {
            let other = plan(&operations, &expected);
            assert_eq!((one.touches(&other), other.touches(&one)), (touches, touches), "{operations:?} {expected:?}");
        }
        let (outer, inner) = (plan(&[delete_prefix("r/")], &[]), plan(&[delete_prefix("r/1/")], &[]));
        assert!(outer.touches(&inner) && inner.touches(&outer));
    }
}
