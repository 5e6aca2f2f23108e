//! The way of a commit: many of them in one transaction, which takes effect whole or not at all.
//! Where it does not, because an expectation of one does not hold, each half is tried for itself.

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
    client::{KeyValue, Transacted, Txn, TxnOutcome},
    layout::{self, Id},
    shared::{LOST, REQUEST_TIMEOUT, Segment, Shared, TIMEOUT_WHEN_LOST, closed, corrupt},
    txn::{CommitPlan, TouchedKeys},
};
use crate::proto::store_v1 as pb;
use crate::{
    store::{Batch, Revision, StoreError},
    telemetry::{metrics::METRICS, traces},
};

/// The cluster takes so many operations, and so many expectations, in one transaction.
const OPERATIONS: usize = 128;
/// It takes requests of 1.5 MiB; a commit that is larger for itself alone is its to refuse.
const GROUP_BYTES: usize = 512 << 10;
/// Commits that are looked at for one transaction.
const SCAN_MAX: usize = 256;
/// How long at most a transaction waits for as many callers as there were lately: little beside
/// what a quorum takes.
const GATHER: Duration = Duration::from_millis(2);

pub(super) type CommitReply = oneshot::Sender<Result<Revision, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    Commit(Box<QueuedCommit>),
    /// Answered when everything before it is; everything after it is refused.
    Close(CommitReply),
}

/// A commit that is not answered yet.
pub(super) struct QueuedCommit {
    plan: CommitPlan,
    event: Vec<u8>,
    at_ms: u64,
    /// The call that it is of.
    call: Context,
    answer: CommitReply,
}

impl Job {
    pub(super) fn commit(batch: Batch, answer: CommitReply) -> Self {
        let mut batch = batch;
        let event = std::mem::take(&mut batch.event);
        let at_ms = batch.at_ms;
        Self::Commit(Box::new(QueuedCommit {
            plan: CommitPlan::of(batch),
            event,
            at_ms,
            call: Context::current(),
            answer,
        }))
    }
}

/// The task that sends a replica's commits, one transaction at a time: what comes meanwhile goes
/// together.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    /// Taken from the queue, in order.
    next: VecDeque<QueuedCommit>,
    closing: Option<CommitReply>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { shared, jobs, next: VecDeque::new(), closing: None }
    }

    pub(super) async fn run(mut self) {
        let mut callers = 1;
        while self.wait_for(callers).await {
            let group = self.group();
            let sent = group.waiting.len();
            self.shared.send(group).await;
            callers = sent + self.next.len() + self.jobs.len();
        }
        self.jobs.close();
        if let Some(answer) = self.closing {
            let _ = answer.send(Ok(self.shared.recent.latest_revision()));
        }
        while let Some(Job::Commit(waiting)) = self.jobs.recv().await {
            let _ = waiting.answer.send(Err(closed()));
        }
    }

    /// Waits for a commit, and a little for as many as there were lately: those whose callers were
    /// answered just now are likely to come again. False: there is nothing more to send.
    async fn wait_for(&mut self, commits: usize) -> bool {
        if self.next.is_empty() && self.closing.is_none() {
            let job = self.jobs.recv().await;
            self.take(job);
        }
        let enough = Instant::now() + GATHER;
        while self.next.len() < commits.min(SCAN_MAX) && self.closing.is_none() {
            let Ok(job) = timeout_at(enough, self.jobs.recv()).await else { break };
            self.take(job);
        }
        while self.next.len() < SCAN_MAX && self.closing.is_none() {
            let Ok(job) = self.jobs.try_recv() else { break };
            self.take(Some(job));
        }
        !self.next.is_empty()
    }

    fn take(&mut self, job: Option<Job>) {
        match job {
            Some(Job::Commit(waiting)) => self.next.push_back(*waiting),
            Some(Job::Close(answer)) => self.closing = Some(answer),
            None => self.closing = Some(oneshot::channel().0),
        }
    }

    /// The commits that can go together. Nothing overtakes what it touches.
    fn group(&mut self) -> Group {
        let (mut group, mut touched, mut passed_over) =
            (Group::default(), TouchedKeys::nothing(), VecDeque::new());
        while let Some(waiting) = self.next.pop_front() {
            if waiting.plan.cannot_hold {
                let _ = waiting.answer.send(Err(StoreError::Conflict {
                    revision: self.shared.recent.latest_revision(),
                }));
            } else if touched.meets(&waiting.plan) {
                touched.add(&waiting.plan);
                passed_over.push_back(waiting);
            } else if group.has_room_for(&waiting) {
                touched.add(&waiting.plan);
                group.add(waiting);
            } else {
                self.next.push_front(waiting);
                break;
            }
        }
        passed_over.append(&mut self.next);
        self.next = passed_over;
        group
    }
}

/// Commits of one transaction, none of which touches another.
#[derive(Default)]
struct Group {
    waiting: Vec<QueuedCommit>,
    expected: BTreeMap<Vec<u8>, Option<u64>>,
    changes: usize,
    bytes: usize,
}

impl Group {
    fn of(waiting: Vec<QueuedCommit>) -> Self {
        let mut group = Self::default();
        waiting.into_iter().for_each(|waiting| group.add(waiting));
        group
    }

    fn has_room_for(&self, waiting: &QueuedCommit) -> bool {
        let plan = &waiting.plan;
        let expected = self.expected.len()
            + plan.expected.keys().filter(|key| !self.expected.contains_key(*key)).count();
        // The events are one more; that they are not there yet, and the segment, are expected.
        let fits = self.waiting.len() < layout::SLOTS - 1
            && self.changes + plan.changes() < OPERATIONS
            && expected + 2 <= OPERATIONS
            && self.bytes + waiting.bytes() <= GROUP_BYTES;
        self.waiting.is_empty() || fits
    }

    fn add(&mut self, waiting: QueuedCommit) {
        self.changes += waiting.plan.changes();
        self.bytes += waiting.bytes();
        self.expected
            .extend(waiting.plan.expected.iter().map(|(key, revision)| (key.clone(), *revision)));
        self.waiting.push(waiting);
    }

    fn attempt(&self, layout: &layout::Layout, segment: &Segment, event: &[u8]) -> Txn {
        let mut preconditions: Vec<_> =
            self.expected.iter().map(|(key, revision)| (layout.record(key), *revision)).collect();
        preconditions.extend([(layout.now(), Some(segment.opened)), (event.to_vec(), None)]);
        let plans = || self.waiting.iter().map(|waiting| &waiting.plan);
        let commit = |waiting: &QueuedCommit| pb::ClusterCommit {
            at_ms: waiting.at_ms,
            event: waiting.event.clone(),
        };
        let commits = pb::ClusterCommits { commits: self.waiting.iter().map(commit).collect() };
        // The events are the last: they tell a follower that the commits are whole.
        let events = (event.to_vec(), commits.encode_to_vec());
        Txn {
            preconditions,
            deletes: plans().flat_map(|plan| plan.deleted(layout)).collect(),
            puts: plans().flat_map(|plan| plan.put(layout)).chain([events]).collect(),
            looks: vec![layout.now(), event.to_vec()],
        }
    }

    fn answer(self, answer: impl Fn(u64) -> Result<Revision, StoreError>) {
        for (place, waiting) in self.waiting.into_iter().enumerate() {
            let _ = waiting.answer.send(answer(place as u64));
        }
    }
}

impl QueuedCommit {
    fn bytes(&self) -> usize {
        self.plan.bytes() + self.event.len()
    }
}

/// What a transaction has come to, for sure.
enum Sent {
    /// It took effect, at this revision of the cluster.
    Done(u64),
    /// It did not, and never will; the newest revision there was.
    Conflict(u64),
}

impl Shared {
    /// Sends the commits until each is answered.
    async fn send(&self, group: Group) {
        let mut groups = vec![group];
        while let Some(group) = groups.pop().filter(|group| !group.waiting.is_empty()) {
            let begun = Instant::now();
            let calls: Vec<_> = group.waiting.iter().map(|waiting| waiting.call.clone()).collect();
            let sending = self.send_whole(&group);
            match traces::shared_part("etcd transaction", SpanKind::Client, &calls, sending).await {
                Ok(Sent::Done(cluster)) => {
                    METRICS.committed(group.waiting.len(), begun.elapsed());
                    group.answer(|place| Ok(layout::revision(cluster, place)));
                }
                Ok(Sent::Conflict(cluster)) if group.waiting.len() == 1 => {
                    // What it has met may be a deletion, after which nothing need come for a while.
                    self.confirm.notify_one();
                    group.answer(|_| {
                        Err(StoreError::Conflict { revision: layout::end_of(cluster) })
                    });
                }
                Ok(Sent::Conflict(_)) => {
                    let mut lower = group.waiting;
                    let upper = lower.split_off(lower.len() / 2);
                    groups.extend([Group::of(upper), Group::of(lower)]);
                }
                Err(error) => {
                    tracing::debug!(%error, commits = group.waiting.len(), "commits have failed");
                    group.answer(|_| Err(error.clone()));
                }
            }
        }
    }

    async fn send_whole(&self, group: &Group) -> Result<Sent, StoreError> {
        let id: Id = rand::random();
        loop {
            let segment = *self.segment();
            let event = self.layout.event(segment.number, &id);
            let attempt = group.attempt(&self.layout, &segment, &event);
            let Transacted { revision, outcome, was_sent_before } =
                self.etcd.transact(&attempt, self.timeout()).await?;
            let TxnOutcome::CompareFailed(mut found) = outcome else {
                return Ok(Sent::Done(revision));
            };
            let (events, now) = (found.pop().flatten(), found.pop().flatten());
            if let Some(events) = events {
                return Ok(Sent::Done(events.revision));
            }
            let Some(now) = now else {
                return Err(StoreError::Unavailable("the cluster has lost its history".to_owned()));
            };
            if now.revision != segment.opened {
                // What was sent for the old segment can have no effect any more.
                self.turn_to(Segment::read(&now)?)?;
            } else if was_sent_before {
                return self.fence(event, revision).await;
            } else {
                return Ok(Sent::Conflict(revision));
            }
        }
    }

    /// What was sent and not answered may still take effect, after others have changed what it
    /// expects and changed it back. It cannot once there are events under its id, though of no
    /// commit.
    async fn fence(&self, event: Vec<u8>, newest: u64) -> Result<Sent, StoreError> {
        let nothing = pb::ClusterCommits::default().encode_to_vec();
        let fence = Txn {
            preconditions: vec![(event.clone(), None)],
            puts: vec![(event.clone(), nothing)],
            looks: vec![event.clone()],
            ..Txn::default()
        };
        let fenced = self
            .etcd
            .transact(&fence, self.timeout())
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let TxnOutcome::CompareFailed(mut found) = fenced.outcome else {
            return Ok(Sent::Conflict(newest));
        };
        let Some(Some(KeyValue { value, revision, .. })) = found.pop() else {
            return Ok(Sent::Conflict(newest));
        };
        let found = pb::ClusterCommits::decode(&*value)
            .map_err(|_| corrupt(&event, "no events of commits"))?;
        Ok(if found.commits.is_empty() { Sent::Conflict(newest) } else { Sent::Done(revision) })
    }

    fn timeout(&self) -> Duration {
        if self.confirmed().1 + LOST < Instant::now() { TIMEOUT_WHEN_LOST } else { REQUEST_TIMEOUT }
    }
}
