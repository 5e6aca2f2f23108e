//! The records of the double: every version of every key since the last compaction, by revision, as
//! etcd keeps them.
//!
//! It is plain data that one call at a time changes. Its errors have etcd's texts.

use std::{collections::BTreeMap, ops::Bound};

use tonic::Status;

use super::wire as pb;

/// Operations of one transaction, and bytes of one request: etcd's defaults.
const MAX_OPERATIONS: usize = 128;
const MAX_REQUEST_BYTES: usize = 1_572_864;

#[derive(Clone)]
pub struct Mvcc {
    /// The latest revision.
    revision: i64,
    /// Earlier revisions are dropped.
    compacted: i64,
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    /// By revision, in the order of the operations.
    changes: BTreeMap<i64, Vec<pb::Event>>,
    /// The quota is exhausted: puts are refused.
    pub is_full: bool,
}

#[derive(Clone)]
struct Version {
    revision: i64,
    /// How often the key was put since it was last absent. 0 is a deletion.
    number: i64,
    value: Vec<u8>,
}

/// What a watch sends next.
pub enum Watched {
    /// All changes of some revisions, and the revision to continue from.
    Changes(Vec<pb::Event>, i64),
    /// The revisions are dropped; the oldest that can be watched from.
    Compacted(i64),
}

impl Default for Mvcc {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            changes: BTreeMap::new(),
            is_full: false,
        }
    }
}

impl Mvcc {
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader { revision: self.revision }
    }

    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        require_key(&request.key)?;
        self.require_kept(request.revision)?;
        Ok(self.range_as_of(request, self.revision))
    }

    fn require_kept(&self, revision: i64) -> Result<(), Status> {
        if revision > self.revision {
            return Err(Status::out_of_range(
                "etcdserver: mvcc: required revision is a future revision",
            ));
        }
        if revision > 0 && revision < self.compacted {
            return Err(Status::out_of_range(
                "etcdserver: mvcc: required revision has been compacted",
            ));
        }
        Ok(())
    }

    fn range_as_of(&self, request: &pb::RangeRequest, latest: i64) -> pb::RangeResponse {
        let as_of = if request.revision > 0 { request.revision } else { latest };
        let mut kvs = Vec::new();
        let mut count = 0;
        for (key, versions) in self.keys.range(bounds(&request.key, &request.range_end)) {
            let Some(version) = live(versions, as_of) else { continue };
            count += 1;
            if !request.count_only && (request.limit <= 0 || count <= request.limit) {
                kvs.push(pb::KeyValue {
                    key: key.clone(),
                    mod_revision: version.revision,
                    value: version.value.clone(),
                });
            }
        }
        let more = !request.count_only && request.limit > 0 && count > request.limit;
        pb::RangeResponse {
            header: Some(pb::ResponseHeader { revision: latest }),
            kvs,
            more,
            count,
        }
    }

    pub fn transact(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        check(request)?;
        let puts = |request: &pb::RequestOp| {
            matches!(request.request, Some(pb::request_op::Request::RequestPut(_)))
        };
        if self.is_full && request.success.iter().chain(&request.failure).any(puts) {
            return Err(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
        }
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let operations = if succeeded { &request.success } else { &request.failure };
        for operation in operations {
            if let Some(pb::request_op::Request::RequestRange(range)) = &operation.request {
                self.require_kept(range.revision)?;
            }
        }
        let next = self.revision + 1;
        let mut changes = Vec::new();
        let mut responses = Vec::new();
        for operation in operations {
            responses.push(pb::ResponseOp { response: self.apply(operation, next, &mut changes) });
        }
        if !changes.is_empty() {
            self.revision = next;
            self.changes.insert(next, changes);
        }
        Ok(pb::TxnResponse { header: Some(self.header()), succeeded, responses })
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        use pb::compare::TargetUnion::{ModRevision, Version as Number};
        let version =
            self.keys.get(&compare.key).and_then(|versions| live(versions, self.revision));
        match compare.target_union {
            Some(ModRevision(revision)) => {
                version.map_or(0, |version| version.revision) == revision
            }
            Some(Number(number)) => version.map_or(0, |version| version.number) == number,
            None => version.is_none(),
        }
    }

    fn apply(
        &mut self,
        operation: &pb::RequestOp,
        next: i64,
        changes: &mut Vec<pb::Event>,
    ) -> Option<pb::response_op::Response> {
        use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange};
        match &operation.request {
            Some(RequestRange(request)) => {
                let latest = if changes.is_empty() { self.revision } else { next };
                return Some(pb::response_op::Response::ResponseRange(
                    self.range_as_of(request, latest),
                ));
            }
            Some(RequestPut(put)) => {
                self.write(put.key.clone(), Some(put.value.clone()), next, changes)
            }
            Some(RequestDeleteRange(request)) => {
                let range = self.keys.range(bounds(&request.key, &request.range_end));
                let deleted = range
                    .filter(|(_, versions)| live(versions, next).is_some())
                    .map(|(key, _)| key.clone());
                for key in deleted.collect::<Vec<_>>() {
                    self.write(key, None, next, changes);
                }
            }
            None => {}
        }
        None
    }

    fn write(
        &mut self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        revision: i64,
        changes: &mut Vec<pb::Event>,
    ) {
        let versions = self.keys.entry(key.clone()).or_default();
        let number =
            if value.is_some() { versions.last().map_or(0, |last| last.number) + 1 } else { 0 };
        let kind =
            if value.is_some() { pb::event::EventType::Put } else { pb::event::EventType::Delete };
        let value = value.unwrap_or_default();
        versions.push(Version { revision, number, value: value.clone() });
        changes.push(pb::Event {
            r#type: kind.into(),
            kv: Some(pb::KeyValue { key, mod_revision: revision, value }),
        });
    }

    /// Drops what was before this revision. Deletions of the revision itself are dropped too, as in
    /// etcd before 3.4.36 and 3.5.19.
    pub fn compact(&mut self, revision: i64) {
        if revision <= self.compacted || revision > self.revision {
            return;
        }
        self.compacted = revision;
        for versions in self.keys.values_mut() {
            let latest = versions.iter().rposition(|version| version.revision <= revision);
            let Some(latest) = latest else { continue };
            let first = if versions[latest].number == 0 { latest + 1 } else { latest };
            versions.drain(..first);
        }
        self.keys.retain(|_, versions| !versions.is_empty());
        self.changes = self.changes.split_off(&revision);
        // Of the revision itself, only what can still be read is kept.
        let Some(mut changes) = self.changes.remove(&revision) else { return };
        let is_there = |kv: &pb::KeyValue| {
            self.keys.get(&kv.key).is_some_and(|versions| versions[0].revision == revision)
        };
        changes.retain(|change| {
            change.r#type() == pb::event::EventType::Put && change.kv.as_ref().is_some_and(is_there)
        });
        if !changes.is_empty() {
            self.changes.insert(revision, changes);
        }
    }

    /// As after `etcdutl snapshot restore --bump-revision --mark-compacted`: no earlier revision
    /// can be read.
    pub fn bump(&mut self, by: i64) {
        self.revision += by;
        self.compact(self.revision);
    }

    /// Changes of a range of keys from this revision on, of at most this many revisions.
    pub fn changes(
        &self,
        key: &[u8],
        range_end: &[u8],
        from: i64,
        max_revisions: usize,
    ) -> Watched {
        if from < self.compacted {
            return Watched::Compacted(self.compacted);
        }
        let is_watched = |change: &&pb::Event| {
            change.kv.as_ref().is_some_and(|kv| is_within(&kv.key, key, range_end))
        };
        let mut events = Vec::new();
        let mut revision_count = 0;
        let mut next = from.max(self.revision + 1);
        for (revision, changes) in self.changes.range(from..) {
            if revision_count == max_revisions {
                next = *revision;
                break;
            }
            let before = events.len();
            events.extend(changes.iter().filter(is_watched).cloned());
            revision_count += usize::from(events.len() > before);
        }
        Watched::Changes(events, next)
    }
}

/// The version as of this revision, if the key existed.
fn live(versions: &[Version], as_of: i64) -> Option<&Version> {
    versions.iter().rfind(|version| version.revision <= as_of).filter(|version| version.number > 0)
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// An empty end means the key alone; a zero byte means all keys from this one on.
fn bounds(key: &[u8], range_end: &[u8]) -> Bounds {
    let from = Bound::Included(key.to_vec());
    match range_end {
        [] => (from, Bound::Included(key.to_vec())),
        [0] => (from, Bound::Unbounded),
        // A range that ends before its start is empty.
        end if end <= key => (Bound::Included(Vec::new()), Bound::Excluded(Vec::new())),
        end => (from, Bound::Excluded(end.to_vec())),
    }
}

fn is_within(key: &[u8], from: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => key == from,
        [0] => key >= from,
        end => key >= from && key < end,
    }
}

fn require_key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() {
        Err(Status::invalid_argument("etcdserver: key is not provided"))
    } else {
        Ok(())
    }
}

fn check(request: &pb::TxnRequest) -> Result<(), Status> {
    let operations = request.compare.len().max(request.success.len()).max(request.failure.len());
    if operations > MAX_OPERATIONS {
        return Err(Status::invalid_argument("etcdserver: too many operations in txn request"));
    }
    request.compare.iter().try_for_each(|compare| require_key(&compare.key))?;
    check_operations(&request.success)?;
    check_operations(&request.failure)?;
    if prost::Message::encoded_len(request) > MAX_REQUEST_BYTES {
        return Err(Status::invalid_argument("etcdserver: request is too large"));
    }
    Ok(())
}

/// No key is put twice, or both put and deleted. etcd 3.4 does not check this for a deletion of all
/// keys from one on.
fn check_operations(operations: &[pb::RequestOp]) -> Result<(), Status> {
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange};
    let mut puts = Vec::new();
    let mut deletes = Vec::new();
    for operation in operations {
        match &operation.request {
            Some(RequestPut(put)) => puts.push(&put.key),
            Some(RequestDeleteRange(delete)) => deletes.push(delete),
            Some(RequestRange(range)) => require_key(&range.key)?,
            None => return Err(Status::invalid_argument("etcdserver: key not found")),
        }
    }
    puts.iter().try_for_each(|key| require_key(key))?;
    deletes.iter().try_for_each(|delete| require_key(&delete.key))?;
    puts.sort_unstable();
    let is_twice = puts.windows(2).any(|pair| pair[0] == pair[1]);
    let is_deleted = |key: &&Vec<u8>| {
        deletes
            .iter()
            .any(|delete| delete.range_end != [0] && is_within(key, &delete.key, &delete.range_end))
    };
    if is_twice || puts.iter().any(is_deleted) {
        return Err(Status::invalid_argument("etcdserver: duplicate key given in txn request"));
    }
    Ok(())
}
