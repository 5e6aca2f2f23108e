//! Requests to the cluster and their answers, in the engine's own types. `client.rs` sends them.

/// One key with its value.
#[derive(Debug, Default)]
pub(super) struct KeyValue {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// The cluster revision that last wrote the key.
    pub(super) revision: u64,
}

/// The first records of a range, as of one cluster revision.
pub(super) struct RangePage {
    /// The latest cluster revision when the request was served.
    pub(super) revision: u64,
    pub(super) records: Vec<KeyValue>,
    /// Whether the limit cut the range short.
    pub(super) has_more: bool,
    /// The number of keys in the whole range.
    pub(super) count: u64,
}

/// The keys from `start`, inclusive, to `end`, exclusive. If `end` is empty: only `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) start: Vec<u8>,
    pub(super) end: Vec<u8>,
}

impl KeyRange {
    /// One key.
    pub(super) fn single(key: Vec<u8>) -> Self {
        Self { start: key, end: Vec::new() }
    }
}

/// Options of a range request.
#[derive(Clone, Copy, Default)]
pub(super) struct RangeOptions {
    /// Read as of this cluster revision. 0: the latest, which no member serves without a quorum.
    pub(super) revision: u64,
    /// Maximum number of records. 0: no limit.
    pub(super) limit: u64,
    /// Return the count and no records.
    pub(super) count_only: bool,
}

/// A transaction. Its changes take effect together, and only if all preconditions hold. It must not
/// change a key twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Txn {
    /// The cluster revision that last wrote each key; `None`: the key is absent.
    pub(super) preconditions: Vec<(Vec<u8>, Option<u64>)>,
    pub(super) deletes: Vec<KeyRange>,
    /// In this order.
    pub(super) puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys to read if a precondition does not hold.
    pub(super) failure_reads: Vec<Vec<u8>>,
}

/// The answer to a transaction.
pub(super) struct TxnResult {
    /// The cluster revision of its changes; if it had no effect, the latest.
    pub(super) revision: u64,
    pub(super) outcome: TxnOutcome,
    /// Whether an earlier attempt was not answered. That attempt may still take effect.
    pub(super) was_retried: bool,
}

pub(super) enum TxnOutcome {
    /// The changes took effect.
    Committed,
    /// A precondition did not hold. Contains the results of the failure reads, in their order.
    CompareFailed(Vec<Option<KeyValue>>),
}

/// A change of one key; without a value, its deletion.
pub(super) struct KeyChange {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) revision: u64,
}
