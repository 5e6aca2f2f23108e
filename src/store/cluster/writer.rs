//! The way of a commit: many of them in one transaction.

use std::{collections::VecDeque, sync::Arc};

use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

use super::{
    Chapter, LOST, PATIENCE, PATIENCE_WHEN_LOST, Shared, closed,
    layout::{self, Id},
    pb,
    plan::Plan,
};
use crate::store::{
    Batch, Expectation, Revision, StoreError,
    etcd::{Attempt, Outcome, Record},
};

/// etcd takes so many operations in one transaction, nested ones counted with what is around them.
const OPERATIONS: usize = 128;
/// Commits in one transaction.
const GROUP: usize = 48;
/// etcd takes requests of 1.5 MiB; a commit that is larger for itself alone is its to refuse.
const GROUP_BYTES: usize = 512 << 10;
/// Transactions on their way at once.
const IN_FLIGHT: usize = 2;

pub(super) type Answer = oneshot::Sender<Result<Revision, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    Commit(Box<Waiting>),
    /// Answered when everything before it is; everything after it is refused.
    Close(Answer),
}

/// A commit that is not answered yet.
pub(super) struct Waiting {
    id: Id,
    plan: Plan,
    expectations: Vec<Expectation>,
    event: Vec<u8>,
    at_ms: u64,
    answer: Answer,
}

impl Job {
    pub(super) fn commit(batch: Batch, answer: Answer) -> Self {
        let Batch { expectations, operations, event, at_ms } = batch;
        let plan = Plan::of(operations, &expectations);
        Self::Commit(Box::new(Waiting { id: rand::random(), plan, expectations, event, at_ms, answer }))
    }
}

/// The task that sends a replica's commits.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    /// Taken from the queue, and not fitting into the group before.
    next: VecDeque<Waiting>,
    places: Arc<Semaphore>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { shared, jobs, next: VecDeque::new(), places: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.next.is_empty() {
                match self.jobs.recv().await {
                    Some(Job::Commit(waiting)) => self.next.push_back(*waiting),
                    Some(Job::Close(answer)) => return self.close(answer).await,
                    None => return,
                }
            }
            // What comes while all transactions are on their way goes together.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let (group, closing) = self.gather();
            let shared = self.shared.clone();
            tokio::spawn(async move {
                shared.send(group).await;
                drop(place);
            });
            if let Some(answer) = closing {
                return self.close(answer).await;
            }
        }
    }

    /// The commits that wait and can go together.
    fn gather(&mut self) -> (Vec<Waiting>, Option<Answer>) {
        let (mut group, mut kept, mut closing): (Vec<Waiting>, _, _) = (Vec::new(), VecDeque::new(), None);
        let (mut heaviest, mut bytes) = (0, 0);
        while group.len() < GROUP && kept.len() < GROUP {
            let waiting = match self.next.pop_front() {
                Some(waiting) => waiting,
                None => match self.jobs.try_recv() {
                    Ok(Job::Commit(waiting)) => *waiting,
                    Ok(Job::Close(answer)) => {
                        closing = Some(answer);
                        break;
                    }
                    Err(_) => break,
                },
            };
            let heavier = heaviest.max(waiting.weight());
            let larger = bytes + waiting.bytes();
            let fits = heavier + group.len() < OPERATIONS && larger <= GROUP_BYTES;
            // In order: nothing overtakes what it touches.
            let touches = || group.iter().chain(&kept).any(|other| other.plan.touches(&waiting.plan));
            if group.is_empty() && kept.is_empty() || fits && !touches() {
                (heaviest, bytes) = (heavier, larger);
                group.push(waiting);
            } else {
                kept.push_back(waiting);
            }
        }
        kept.append(&mut self.next);
        self.next = kept;
        (group, closing)
    }

    /// Waits for what is on its way, and refuses whatever comes after.
    async fn close(mut self, answer: Answer) {
        self.jobs.close();
        while !self.next.is_empty() {
            let (group, _) = self.gather();
            self.shared.send(group).await;
        }
        let all = u32::try_from(IN_FLIGHT).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
        let _ = answer.send(Ok(self.shared.recent.newest()));
        while let Some(Job::Commit(waiting)) = self.jobs.recv().await {
            let _ = waiting.answer.send(Err(closed()));
        }
    }
}

impl Waiting {
    fn weight(&self) -> usize {
        // The event is one more; that it is not there yet, and the chapter, are expected.
        (self.plan.weight() + 1).max(self.expectations.len() + 2)
    }

    fn bytes(&self) -> usize {
        self.plan.bytes() + self.event.len()
    }

    fn attempt(&self, shared: &Shared, chapter: &Chapter, place: usize) -> Attempt {
        let layout = &shared.layout;
        let event = layout.event(chapter.number, &self.id);
        let expected = |expectation: &Expectation| (layout.record(&expectation.key), expectation.revision.map(layout::cluster));
        let mut expectations: Vec<_> = self.expectations.iter().map(expected).collect();
        expectations.extend([(layout.now(), Some(chapter.opened)), (event.clone(), None)]);
        let commit = pb::ClusterCommit {
            place: u32::try_from(place).unwrap_or(0),
            at_ms: self.at_ms,
            event: self.event.clone(),
            deleted_prefixes: self.plan.prefixes.iter().cloned().collect(),
        };
        let mut puts: Vec<_> = self.plan.puts.iter().map(|(key, value)| (layout.record(key), value.clone())).collect();
        // The last: it tells a follower that the commit is whole.
        puts.push((event.clone(), commit.encode_to_vec()));
        Attempt { expectations, deletes: self.plan.deleted(layout), puts, looks: vec![layout.now(), event] }
    }
}

impl Shared {
    /// Sends the commits until each is answered.
    async fn send(&self, mut group: Vec<Waiting>) {
        while !group.is_empty() {
            let chapter = *self.chapter();
            let attempts: Vec<_> =
                group.iter().enumerate().map(|(place, waiting)| waiting.attempt(self, &chapter, place)).collect();
            let is_lost = self.known().1 + LOST < Instant::now();
            let patience = if is_lost { PATIENCE_WHEN_LOST } else { PATIENCE };
            match self.etcd.transact(&attempts, patience).await {
                Ok((cluster, outcomes)) => group = self.answer(group, &chapter, cluster, outcomes),
                Err(error) => {
                    tracing::debug!(%error, commits = group.len(), "commits have failed");
                    group.into_iter().for_each(|waiting| drop(waiting.answer.send(Err(error.clone()))));
                    return;
                }
            }
        }
    }

    /// Answers the commits; those remain that came too late for the chapter.
    fn answer(&self, group: Vec<Waiting>, chapter: &Chapter, cluster: u64, outcomes: Vec<Outcome>) -> Vec<Waiting> {
        let mut again = Vec::new();
        for (place, (waiting, outcome)) in group.into_iter().zip(outcomes).enumerate() {
            let answer = match outcome {
                Outcome::Done => Ok(layout::revision(cluster, place as u64)),
                Outcome::Missed(found) => match self.missed(chapter, cluster, found) {
                    Ok(Some(revision)) => Ok(revision),
                    Ok(None) => {
                        again.push(waiting);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let _ = waiting.answer.send(answer);
        }
        again
    }

    /// Why a commit did not take effect: its revision where it had, when it was sent before; nothing where the chapter has ended, and it is to be
    /// sent again: what was sent for the old one can have no effect any more. Errors: [`StoreError::Conflict`].
    fn missed(&self, chapter: &Chapter, cluster: u64, mut found: Vec<Option<Record>>) -> Result<Option<Revision>, StoreError> {
        let (event, now) = (found.pop().flatten(), found.pop().flatten());
        if let Some(event) = event {
            let commit = pb::ClusterCommit::decode(&*event.value).unwrap_or_default();
            return Ok(Some(layout::revision(event.revision, commit.place.into())));
        }
        let Some(now) = now else { return Err(StoreError::Unavailable("the cluster has lost its history".to_owned())) };
        if now.revision != chapter.opened {
            self.turn_to(Chapter::read(&now)?);
            return Ok(None);
        }
        // What it met may be a deletion, after which nothing need come for a while.
        self.confirm.notify_one();
        Err(StoreError::Conflict { revision: layout::end_of(cluster) })
    }
}
