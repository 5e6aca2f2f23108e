//! Sends commits to the cluster, many in one transaction, which is atomic. If a precondition of any
//! of them does not hold, none takes effect, and the writer retries each half by itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use opentelemetry::{Context, trace::SpanKind};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    kv::{KeyValue, Txn, TxnOutcome, TxnResult},
    layout::{self, TxnId},
    shared::{LOST_AFTER, LOST_REQUEST_TIMEOUT, REQUEST_TIMEOUT, Segment, Shared, closed},
    txn::{CommitPlan, TouchedKeys},
};
use crate::proto::store_v1 as pb;
use crate::{
    store::{EncodedBatch, Revision, StoreError, codec::corrupt},
    telemetry::{metrics::METRICS, traces},
};

/// The cluster's limit of operations in one transaction; also of preconditions.
const MAX_OPERATIONS: usize = 128;
/// Far below the cluster's limit of 1.5 MiB a request. A single commit may be larger; then the
/// cluster decides.
const MAX_GROUP_BYTES: usize = 512 << 10;
/// Maximum number of queued commits that are considered for one transaction.
const MAX_CANDIDATES: usize = 256;
/// How long a transaction waits for more commits: short compared with a write to a quorum.
const GATHER_TIMEOUT: Duration = Duration::from_millis(2);

pub(super) type CommitReply = oneshot::Sender<Result<Revision, StoreError>>;

/// A request to the writer.
pub(super) enum Job {
    Commit(Box<QueuedCommit>),
    /// Answered after all commits before it. Later commits fail.
    Close(CommitReply),
}

/// A commit that is not answered yet.
pub(super) struct QueuedCommit {
    plan: CommitPlan,
    event: Vec<u8>,
    at_ms: u64,
    /// The trace context of the caller.
    context: Context,
    reply: CommitReply,
}

impl Job {
    pub(super) fn commit(mut batch: EncodedBatch, reply: CommitReply) -> Self {
        let event = std::mem::take(&mut batch.event);
        let at_ms = batch.at_ms;
        Self::Commit(Box::new(QueuedCommit {
            plan: CommitPlan::of(batch),
            event,
            at_ms,
            context: Context::current(),
            reply,
        }))
    }
}

/// The task that sends a replica's commits, one transaction at a time. Commits that arrive
/// meanwhile share the next transaction.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    /// Commits received from `jobs` and not sent yet, in order.
    queue: VecDeque<QueuedCommit>,
    /// Set once the writer is closing.
    close_reply: Option<CommitReply>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { shared, jobs, queue: VecDeque::new(), close_reply: None }
    }

    pub(super) async fn run(mut self) {
        let mut callers = 1;
        while self.wait_for_commits(callers).await {
            let group = self.next_group();
            let sent = group.commits.len();
            self.shared.send(group).await;
            callers = sent + self.queue.len() + self.jobs.len();
        }
        self.jobs.close();
        if let Some(reply) = self.close_reply {
            let _ = reply.send(Ok(self.shared.feed_buffer.latest_revision()));
        }
        while let Some(Job::Commit(commit)) = self.jobs.recv().await {
            let _ = commit.reply.send(Err(closed()));
        }
    }

    /// Waits for a commit, then up to [`GATHER_TIMEOUT`] for `callers` commits: as many as were
    /// lately in flight, because a caller that was just answered likely commits again. Returns
    /// false if the writer is closing and the queue is empty.
    async fn wait_for_commits(&mut self, callers: usize) -> bool {
        if self.queue.is_empty() && self.close_reply.is_none() {
            let job = self.jobs.recv().await;
            self.enqueue(job);
        }
        let deadline = Instant::now() + GATHER_TIMEOUT;
        while self.queue.len() < callers.min(MAX_CANDIDATES) && self.close_reply.is_none() {
            let Ok(job) = timeout_at(deadline, self.jobs.recv()).await else { break };
            self.enqueue(job);
        }
        while self.queue.len() < MAX_CANDIDATES && self.close_reply.is_none() {
            let Ok(job) = self.jobs.try_recv() else { break };
            self.enqueue(Some(job));
        }
        !self.queue.is_empty()
    }

    /// `None` means that the store was dropped: the writer closes without a reply.
    fn enqueue(&mut self, job: Option<Job>) {
        match job {
            Some(Job::Commit(commit)) => self.queue.push_back(*commit),
            Some(Job::Close(reply)) => self.close_reply = Some(reply),
            None => self.close_reply = Some(oneshot::channel().0),
        }
    }

    /// Takes from the queue the commits that can share the next transaction. A commit never
    /// overtakes one that touches the same keys.
    fn next_group(&mut self) -> Group {
        let mut group = Group::default();
        let mut touched = TouchedKeys::new();
        let mut deferred = VecDeque::new();
        while let Some(commit) = self.queue.pop_front() {
            if commit.plan.cannot_hold {
                let revision = self.shared.feed_buffer.latest_revision();
                let _ = commit.reply.send(Err(StoreError::Conflict { revision }));
            } else if touched.conflicts_with(&commit.plan) {
                touched.add(&commit.plan);
                deferred.push_back(commit);
            } else if group.has_room_for(&commit) {
                touched.add(&commit.plan);
                group.add(commit);
            } else {
                self.queue.push_front(commit);
                break;
            }
        }
        deferred.append(&mut self.queue);
        self.queue = deferred;
        group
    }
}

/// The commits of one transaction. None of them conflicts with another.
#[derive(Default)]
struct Group {
    commits: Vec<QueuedCommit>,
    expected: BTreeMap<Vec<u8>, Option<u64>>,
    changes: usize,
    bytes: usize,
}

impl Group {
    fn of(commits: Vec<QueuedCommit>) -> Self {
        let mut group = Self::default();
        commits.into_iter().for_each(|commit| group.add(commit));
        group
    }

    fn has_room_for(&self, commit: &QueuedCommit) -> bool {
        let plan = &commit.plan;
        let expected = self.expected.len()
            + plan.expected.keys().filter(|key| !self.expected.contains_key(*key)).count();
        // The transaction adds one operation, which writes the events, and two preconditions: on
        // the events' key and on the current segment.
        let fits = self.commits.len() < layout::SLOTS - 1
            && self.changes + plan.changes() < MAX_OPERATIONS
            && expected + 2 <= MAX_OPERATIONS
            && self.bytes + commit.bytes() <= MAX_GROUP_BYTES;
        self.commits.is_empty() || fits
    }

    fn add(&mut self, commit: QueuedCommit) {
        self.changes += commit.plan.changes();
        self.bytes += commit.bytes();
        self.expected
            .extend(commit.plan.expected.iter().map(|(key, revision)| (key.clone(), *revision)));
        self.commits.push(commit);
    }

    /// The transaction of these commits, which writes their events under `event_key`.
    fn txn(&self, layout: &layout::Layout, segment: &Segment, event_key: &[u8]) -> Txn {
        let mut preconditions: Vec<_> =
            self.expected.iter().map(|(key, revision)| (layout.record(key), *revision)).collect();
        preconditions.extend([
            (layout.current_segment(), Some(segment.opened_revision)),
            (event_key.to_vec(), None),
        ]);
        let plans = || self.commits.iter().map(|commit| &commit.plan);
        let commits = self
            .commits
            .iter()
            .map(|commit| pb::ClusterCommit { at_ms: commit.at_ms, event: commit.event.clone() });
        let commits = pb::ClusterCommits { commits: commits.collect() };
        // The events come last. When a follower receives them, it has all operations.
        let events = (event_key.to_vec(), commits.encode_to_vec());
        Txn {
            preconditions,
            deletes: plans().flat_map(|plan| plan.deletes(layout)).collect(),
            puts: plans().flat_map(|plan| plan.puts(layout)).chain([events]).collect(),
            failure_reads: vec![layout.current_segment(), event_key.to_vec()],
        }
    }

    /// Answers each commit with the result for its slot.
    fn reply(self, result: impl Fn(u64) -> Result<Revision, StoreError>) {
        for (slot, commit) in self.commits.into_iter().enumerate() {
            let _ = commit.reply.send(result(slot as u64));
        }
    }
}

impl QueuedCommit {
    fn bytes(&self) -> usize {
        self.plan.bytes() + self.event.len()
    }
}

/// The definite outcome of a group's transaction.
enum GroupOutcome {
    /// It took effect at this cluster revision.
    Committed(u64),
    /// It did not take effect, and never will. Contains the latest cluster revision.
    Conflict(u64),
}

impl Shared {
    /// Sends a group, in halves where necessary, until each commit is answered.
    async fn send(&self, group: Group) {
        let mut groups = vec![group];
        while let Some(group) = groups.pop().filter(|group| !group.commits.is_empty()) {
            let started = Instant::now();
            let callers: Vec<_> =
                group.commits.iter().map(|commit| commit.context.clone()).collect();
            let outcome = self.commit_group(&group);
            let outcome =
                traces::shared_part("etcd transaction", SpanKind::Client, &callers, outcome);
            match outcome.await {
                Ok(GroupOutcome::Committed(cluster_revision)) => {
                    METRICS.committed(group.commits.len(), started.elapsed());
                    group.reply(|slot| Ok(layout::revision(cluster_revision, slot)));
                }
                Ok(GroupOutcome::Conflict(cluster_revision)) if group.commits.len() == 1 => {
                    // The caller waits until the feed reaches this revision. If nothing is written
                    // after it, as may be the case after a deletion, only a tick gets it there.
                    self.confirm_now.notify_one();
                    let revision = layout::last_revision(cluster_revision);
                    group.reply(|_| Err(StoreError::Conflict { revision }));
                }
                Ok(GroupOutcome::Conflict(_)) => {
                    let mut first_half = group.commits;
                    let second_half = first_half.split_off(first_half.len() / 2);
                    groups.extend([Group::of(second_half), Group::of(first_half)]);
                }
                Err(error) => {
                    tracing::debug!(%error, commits = group.commits.len(), "commits failed");
                    group.reply(|_| Err(error.clone()));
                }
            }
        }
    }

    async fn commit_group(&self, group: &Group) -> Result<GroupOutcome, StoreError> {
        let id: TxnId = rand::random();
        loop {
            let segment = *self.segment();
            let event_key = self.layout.event(segment.number, &id);
            let txn = group.txn(&self.layout, &segment, &event_key);
            let TxnResult { revision, outcome, was_retried } =
                self.etcd.transact(&txn, self.timeout()).await?;
            let TxnOutcome::CompareFailed(mut reads) = outcome else {
                return Ok(GroupOutcome::Committed(revision));
            };
            let events = reads.pop().flatten();
            let current_segment = reads.pop().flatten();
            if let Some(events) = events {
                // An earlier attempt took effect.
                return Ok(GroupOutcome::Committed(events.revision));
            }
            let Some(current_segment) = current_segment else {
                return Err(StoreError::Unavailable("the cluster has lost its history".to_owned()));
            };
            if current_segment.revision != segment.opened_revision {
                // Attempts with the old segment can no longer take effect.
                self.adopt_segment(Segment::decode(&current_segment)?)?;
            } else if was_retried {
                return self.fence(event_key, revision).await;
            } else {
                return Ok(GroupOutcome::Conflict(revision));
            }
        }
    }

    /// Makes sure that no earlier, unanswered attempt takes effect later. It could, if others
    /// change the keys it expects and then change them back. So this writes an empty list of events
    /// under the transaction's id: every attempt has the precondition that this key is absent.
    async fn fence(&self, event_key: Vec<u8>, latest: u64) -> Result<GroupOutcome, StoreError> {
        let no_commits = pb::ClusterCommits::default().encode_to_vec();
        let fence = Txn {
            preconditions: vec![(event_key.clone(), None)],
            puts: vec![(event_key.clone(), no_commits)],
            failure_reads: vec![event_key.clone()],
            ..Txn::default()
        };
        // Any error leaves the outcome unknown, so none is passed on as a definite one.
        let fenced = self
            .etcd
            .transact(&fence, self.timeout())
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let TxnOutcome::CompareFailed(mut reads) = fenced.outcome else {
            return Ok(GroupOutcome::Conflict(latest));
        };
        let Some(Some(KeyValue { value, revision, .. })) = reads.pop() else {
            return Ok(GroupOutcome::Conflict(latest));
        };
        let stored = pb::ClusterCommits::decode(&*value)
            .map_err(|_| corrupt(&event_key, "the value is not the events of a transaction"))?;
        Ok(if stored.commits.is_empty() {
            GroupOutcome::Conflict(latest)
        } else {
            GroupOutcome::Committed(revision)
        })
    }

    fn timeout(&self) -> Duration {
        let is_lost = self.confirmed().1 + LOST_AFTER < Instant::now();
        if is_lost { LOST_REQUEST_TIMEOUT } else { REQUEST_TIMEOUT }
    }
}
