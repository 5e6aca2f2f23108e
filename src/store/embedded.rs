//! The embedded engine: one process, one directory.
//!
//! # The way of a commit
//! One thread writes. It takes all commits that wait, appends them to the journal in one write, syncs that once, and only then answers all of them
//! (group commit). What they have changed is kept in memory, as a generation, until the tree has it. When a generation is large enough the next one
//! begins, with a journal file of its own; another thread puts the full one into the tree, syncs that, and lets go of the file. So a commit costs
//! one sync of a file that only grows, and the tree is written in large batches that nobody waits for.
//!
//! Who looks for a key finds it in the newest generation that knows it, else in the tree. An open reads the journal back into generations.
//! `directory.rs` says what is beside it; who opens after a stop that was not an orderly one checks the whole log of events before the first answer.
//!
//! # The change feed
//! The newest commits are kept in memory, for all watchers together; each takes from there what is after its own place, never more than what is
//! synced. One that has fallen behind what is kept, or asks for what was before the start, is told that it is compacted.
//!
//! # When the disk fails
//! After a failed sync nothing is certain: a later sync that succeeds says nothing about pages that an earlier one has lost. So a failed sync of the
//! journal is the last: commits are refused until a restart finds what is truly there, while reads go on from the view. A journal that is full has
//! written nothing, so each commit simply tries again. A tree that fails is opened anew, again and again; the journal has all that it lacks. While
//! it lacks too much, commits are refused.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Batch, Commit, Entry, EventRange, Expectation, Feed, Logged, Memory, Operation, Retention, Revision, Snapshot, Store,
    StoreError,
    directory::Directory,
    generation::{Change, Changes, Generation, Pending, with_prefix},
    journal::Journal,
    page::Record,
    recent::Recent,
    sled::Tree,
};

mod history;

/// Commits that may wait for the writer; those beyond wait for a place. 4,096 is several full groups.
const QUEUE: usize = 4_096;
/// A group is closed at this many commits or bytes, so that the first of them does not wait for the last for ever.
const GROUP_COMMITS: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;
/// Records in one page of a snapshot.
const PAGE: usize = 1_024;
/// Commits are refused while so many full generations, by their bytes, wait for the tree.
const WAITING: usize = 4;
/// How often a tree that has failed is opened anew.
const AGAIN: Duration = Duration::from_secs(1);

/// An open data directory.
pub(super) struct Embedded {
    shared: Arc<Shared>,
    /// Taken only when this is dropped.
    queue: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Nothing while it is opened anew.
    tree: RwLock<Option<Tree>>,
    /// Held for reading while the tree has to stand still, for writing while it is written.
    still: RwLock<()>,
    /// What the tree does not have yet. Changed by the writer, and by the filler when the tree has it.
    pending: Mutex<Pending>,
    /// Told when a generation is full, when the tree has one, and when this is dropped.
    moved: Condvar,
    /// The newest revision that is on stable storage.
    synced: watch::Sender<Revision>,
    /// The newest commits up to that one, without gaps. Written by the writer.
    recent: Mutex<Recent>,
    journal: PathBuf,
    /// Let go after the tree.
    directory: Directory,
}

type Answer = oneshot::Sender<Result<Revision, StoreError>>;

/// What the writer is asked for.
enum Job {
    Commit(Batch, Answer),
    /// Answered when everything before it is in the tree; everything after it is refused.
    Close(Answer),
}

impl Embedded {
    pub(super) fn open(directory: &Path, memory: Memory, retention: Retention) -> Result<Self, StoreError> {
        let directory = Directory::open(directory)?;
        let (store, journal) = (directory.path().join("store"), directory.path().join("journal"));
        let tree = Tree::open(&store, memory.cache_bytes)?;
        let pending = read_back(&tree, &journal)?;
        let revision = pending.active.revision;
        if revision < directory.noted {
            let what = format!("it ends with revision {revision}, and revision {} was acknowledged", directory.noted);
            return Err(StoreError::Corrupt { place: directory.path().display().to_string(), what });
        }
        if directory.unclean {
            tracing::warn!(revision, "the last stop was not an orderly one; checking the log of events");
            tree.check_events(tree.newest()?.0)?;
        }
        let file = Journal::create(&journal, revision)?;
        directory.note(revision)?;
        let shared = Arc::new(Shared {
            tree: RwLock::new(Some(tree)),
            still: RwLock::default(),
            pending: Mutex::new(pending),
            moved: Condvar::new(),
            synced: watch::Sender::new(revision),
            recent: Mutex::default(),
            journal,
            directory,
        });
        let (queue, jobs) = mpsc::channel(QUEUE);
        let generation_bytes = usize::try_from(memory.journal_bytes).unwrap_or(usize::MAX);
        let writer = Writer { shared: shared.clone(), file, jobs, generation_bytes, stopped: None, full: false };
        let filler = Filler { shared: shared.clone(), store, cache_bytes: memory.cache_bytes, retention };
        let threads = vec![spawn("store-writer", || writer.run())?, spawn("store-filler", || filler.run())?];
        Ok(Self { shared, queue: Some(queue), threads })
    }

    async fn send(&self, job: impl FnOnce(Answer) -> Job) -> Result<Revision, StoreError> {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(job(answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl Drop for Embedded {
    /// Lets the writer finish what is queued, so that whoever opens the directory next finds it free.
    fn drop(&mut self) {
        self.queue.take();
        self.shared.pending().abandoned = true;
        self.shared.moved.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store has panicked");
            }
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, batch: Batch) -> Result<Revision, StoreError> {
        self.send(|answer| Job::Commit(batch, answer)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let shared = self.shared.clone();
        let (pages, read) = mpsc::channel(4);
        let (revision, revised) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _still = shared.still.read().unwrap_or_else(PoisonError::into_inner);
            let generations = shared.pending().copy();
            if revision.send(generations.last().map_or(0, |active| active.revision)).is_err() {
                return;
            }
            if let Err(error) = shared.with_tree(|tree| send_pages(tree, &generations, &pages)) {
                let _ = pages.blocking_send(Err(error));
            }
        });
        let revision = revised.await.map_err(|_| closed())?;
        Ok(Snapshot { revision, pages: ReceiverStream::new(read).boxed() })
    }

    async fn watch(&self, after: Revision) -> Result<Feed, StoreError> {
        let follower =
            Follower { shared: self.shared.clone(), synced: self.shared.synced.subscribe(), after, read: VecDeque::new() };
        Ok(stream::unfold(follower, Follower::next).boxed())
    }

    async fn events(&self, range: EventRange, newest_first: bool, limit: usize) -> Result<Vec<Logged>, StoreError> {
        let shared = self.shared.clone();
        let read = move || shared.events(range, newest_first, limit);
        tokio::task::spawn_blocking(read).await.map_err(|_| closed())?
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.send(Job::Close).await?;
        self.shared.directory.close()
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors: why there is no tree, where there is none.
    fn with_tree<T>(&self, read: impl FnOnce(&Tree) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.tree.read().unwrap_or_else(PoisonError::into_inner) {
            Some(tree) => read(tree),
            None => Err(self.pending().held_up.clone().unwrap_or_else(closed)),
        }
    }

    fn set_tree(&self, tree: Option<Tree>) {
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = tree;
    }
}

/// Makes a store of these records, which are in the order of keys, in an empty directory. It has no events, and its newest revision is this one: who
/// watches from an older one is told that it is compacted. Whatever stops it, what is there is refused or empty, and never a part of a store.
/// Errors: [`StoreError::NotEmpty`], those of the records, and those of an open.
pub(super) fn restore<E: From<StoreError>>(
    directory: &Path,
    memory: Memory,
    records: impl Iterator<Item = Result<Vec<Entry>, E>>,
    revision: Revision,
) -> Result<(), E> {
    let directory = Directory::begin_restore(directory)?;
    match fill(&directory.path().join("store"), memory, records, revision) {
        Ok(()) => Ok(directory.complete(revision)?),
        Err(error) => {
            directory.abandon();
            Err(error)
        }
    }
}

fn fill<E: From<StoreError>>(
    store: &Path,
    memory: Memory,
    records: impl Iterator<Item = Result<Vec<Entry>, E>>,
    revision: Revision,
) -> Result<(), E> {
    let tree = Tree::open(store, memory.cache_bytes)?;
    let no_events = Retention { events: u64::MAX, age_ms: u64::MAX };
    let mut some = Generation::after(revision);
    for page in records {
        some.extend(&[], page?.into_iter().map(|entry| (entry.key, Some((entry.revision, entry.value)))).collect());
        if some.bytes as u64 >= memory.journal_bytes {
            tree.take(&some, no_events)?;
            some = Generation::after(revision);
        }
    }
    tree.take(&some, no_events)?;
    // Reads everything back, and compares it with the tally.
    Ok(tree.walk(|_| true)?)
}

/// The records of the tree with what the generations have changed. Ends early where nobody reads on.
fn send_pages(
    tree: &Tree,
    generations: &[Arc<Generation>],
    pages: &mpsc::Sender<Result<Vec<Entry>, StoreError>>,
) -> Result<(), StoreError> {
    let changes: std::collections::BTreeMap<&Vec<u8>, &Change> =
        generations.iter().flat_map(|generation| &generation.changes).collect();
    let mut changes = changes.into_iter().peekable();
    let mut page = Vec::with_capacity(PAGE);
    let mut send = |entry: Entry| {
        page.push(entry);
        page.len() < PAGE || pages.blocking_send(Ok(std::mem::replace(&mut page, Vec::with_capacity(PAGE)))).is_ok()
    };
    let mut alive = true;
    tree.walk(|record| {
        while let Some((key, change)) = changes.next_if(|(key, _)| **key < record.key) {
            alive = alive && changed(key, change).is_none_or(&mut send);
        }
        let replaced = changes.next_if(|(key, _)| **key == record.key);
        let Record { key, revision, value } = record;
        let entry = replaced.map_or(Some(Entry { key, value, revision }), |(key, change)| changed(key, change));
        alive = alive && entry.is_none_or(&mut send);
        alive
    })?;
    if alive && changes.filter_map(|(key, change)| changed(key, change)).all(send) {
        let _ = pages.blocking_send(Ok(page));
    }
    Ok(())
}

fn changed(key: &[u8], change: &Change) -> Option<Entry> {
    let (revision, value) = change.clone()?;
    Some(Entry { key: key.to_vec(), value, revision })
}

/// One watcher's place among the commits.
struct Follower {
    shared: Arc<Shared>,
    synced: watch::Receiver<Revision>,
    after: Revision,
    read: VecDeque<Arc<Commit>>,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Arc<Commit>, StoreError>, Self)> {
        if self.read.is_empty() {
            let synced = *self.synced.wait_for(|synced| *synced > self.after).await.ok()?;
            let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = recent.commits.front().map_or(synced + 1, |commit| commit.revision);
            if oldest > self.after + 1 {
                drop(recent);
                return Some((Err(StoreError::Compacted { oldest }), self));
            }
            // Revisions have no gaps, so the place of one follows from that of the oldest.
            let known = usize::try_from(self.after + 1 - oldest).unwrap_or(usize::MAX);
            self.read.extend(recent.commits.iter().skip(known).cloned());
        }
        let commit = self.read.pop_front()?;
        self.after = commit.revision;
        Some((Ok(commit), self))
    }
}

/// What the journal holds beyond the tree.
fn read_back(tree: &Tree, journal: &Path) -> Result<Pending, StoreError> {
    let (newest, _) = tree.newest()?;
    let mut pending = Pending { active: Generation::after(newest), ..Pending::default() };
    for commits in Journal::replay(journal, newest)? {
        let mut group = Group::after(pending.active.revision);
        for Commit { revision, operations, event, at_ms } in commits {
            if revision > group.revision {
                group.change(tree, &pending, Batch { operations, event, at_ms, ..Batch::default() })?;
            }
        }
        pending.active.extend(&group.commits, group.changes);
        pending.rotate();
    }
    Ok(pending)
}

/// The one thread that writes the journal.
struct Writer {
    shared: Arc<Shared>,
    file: Journal,
    jobs: mpsc::Receiver<Job>,
    /// A generation is full at this many bytes of memory.
    generation_bytes: usize,
    /// Why nothing is written any more.
    stopped: Option<StoreError>,
    /// The last write found the disk full.
    full: bool,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            self.wait_for_the_tree();
            let mut closing = None;
            let group = {
                let shared = self.shared.clone();
                let tree = shared.tree.read().unwrap_or_else(PoisonError::into_inner);
                let pending = shared.pending();
                let mut group = Group::after(pending.active.revision);
                let mut next = Some(first);
                while let Some(job) = next {
                    match job {
                        Job::Commit(batch, answer) => match (self.refusal(&pending), &*tree) {
                            (None, Some(tree)) => group.add(tree, &pending, batch, answer),
                            (Some(refusal), _) => drop(answer.send(Err(refusal))),
                            (None, None) => drop(answer.send(Err(pending.held_up.clone().unwrap_or_else(closed)))),
                        },
                        Job::Close(answer) => closing = Some(answer),
                    }
                    let more = closing.is_none() && group.answers.len() < GROUP_COMMITS && group.bytes < GROUP_BYTES;
                    next = if more { self.jobs.try_recv().ok() } else { None };
                }
                group
            };
            self.finish(group);
            if let Some(answer) = closing {
                let _ = answer.send(self.close());
            }
        }
    }

    /// Why no commit can be taken now.
    fn refusal(&self, pending: &Pending) -> Option<StoreError> {
        let held_up = || pending.held_up.clone().filter(|_| self.waits_too_much(pending));
        self.stopped.clone().or_else(held_up)
    }

    /// Waits while too much waits for a tree that is at work.
    fn wait_for_the_tree(&self) {
        let busy = |pending: &mut Pending| self.waits_too_much(pending) && pending.held_up.is_none() && !pending.abandoned;
        drop(self.shared.moved.wait_while(self.shared.pending(), busy));
    }

    fn waits_too_much(&self, pending: &Pending) -> bool {
        pending.waiting_bytes() > self.generation_bytes.saturating_mul(WAITING)
    }

    /// Makes the group durable, then visible, then answers.
    fn finish(&mut self, group: Group) {
        let Group { revision, commits, changes, answers, .. } = group;
        if commits.is_empty() {
            return;
        }
        let written = self.file.append(&commits).and_then(|()| self.shared.directory.note(revision));
        match &written {
            Ok(()) => self.publish(revision, commits, changes),
            Err(error @ StoreError::Full(_)) if self.full => tracing::debug!(%error, "the disk is still full"),
            Err(error @ StoreError::Full(_)) => {
                tracing::error!(%error, "the disk is full; commits are refused until there is room")
            }
            Err(error) => {
                tracing::error!(%error, "the disk has failed a write; nothing is written until a restart");
                self.stopped = Some(error.clone());
            }
        }
        if self.full && written.is_ok() {
            tracing::info!(revision, "there is room again; commits are taken");
        }
        self.full = matches!(written, Err(StoreError::Full(_)));
        for (answer, revision) in answers {
            let _ = answer.send(written.clone().map(|()| revision));
        }
    }

    fn publish(&mut self, revision: Revision, commits: Vec<Arc<Commit>>, changes: Changes) {
        let mut pending = self.shared.pending();
        pending.active.extend(&commits, changes);
        // Without room for a new file the old one grows on.
        if pending.active.bytes >= self.generation_bytes
            && let Ok(file) = Journal::create(&self.shared.journal, revision)
        {
            self.file = file;
            pending.rotate();
            self.shared.moved.notify_all();
        }
        drop(pending);
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).push(commits);
        self.shared.synced.send_replace(revision);
    }

    /// Waits until the tree has everything, and refuses whatever comes after.
    fn close(&mut self) -> Result<Revision, StoreError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let mut pending = self.shared.pending();
        pending.rotate();
        self.shared.moved.notify_all();
        let busy = |pending: &mut Pending| !pending.full.is_empty() && pending.held_up.is_none() && !pending.abandoned;
        let pending = self.shared.moved.wait_while(pending, busy).unwrap_or_else(PoisonError::into_inner);
        self.stopped = Some(closed());
        if let Some(error) = pending.held_up.clone().filter(|_| !pending.full.is_empty()) {
            return Err(error);
        }
        Journal::remove_all(&self.shared.journal)?;
        Ok(pending.active.revision)
    }
}

/// The one thread that writes the tree.
struct Filler {
    shared: Arc<Shared>,
    store: PathBuf,
    cache_bytes: u64,
    retention: Retention,
}

impl Filler {
    fn run(self) {
        while let Some(generation) = self.next() {
            match self.take(&generation) {
                Ok(()) => self.let_go(generation.revision),
                Err(error) => self.open_anew(error, generation.after),
            }
        }
    }

    /// The oldest full generation; nothing when this is dropped.
    fn next(&self) -> Option<Arc<Generation>> {
        let idle = |pending: &mut Pending| pending.full.is_empty() && !pending.abandoned;
        let pending = self.shared.moved.wait_while(self.shared.pending(), idle).unwrap_or_else(PoisonError::into_inner);
        pending.full.front().filter(|_| !pending.abandoned).cloned()
    }

    fn take(&self, generation: &Generation) -> Result<(), StoreError> {
        let _alone = self.shared.still.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.with_tree(|tree| tree.take(generation, self.retention))
    }

    /// Forgets what the tree has up to this commit; its files first, because who closes the store waits until it is forgotten.
    fn let_go(&self, revision: Revision) {
        if let Err(error) = Journal::remove_up_to(&self.shared.journal, revision) {
            tracing::warn!(%error, "a file of the journal that is not needed any more could not be removed");
        }
        let mut pending = self.shared.pending();
        while pending.full.front().is_some_and(|generation| generation.revision <= revision) {
            pending.full.pop_front();
        }
        drop(pending);
        self.shared.moved.notify_all();
    }

    /// A tree that has failed says nothing true until it is opened anew, which has to find at least what it had: commits up to `acknowledged`.
    fn open_anew(&self, mut error: StoreError, acknowledged: Revision) {
        loop {
            tracing::warn!(%error, "the tree of the store has failed; opening it anew");
            self.shared.pending().held_up = Some(error);
            self.shared.moved.notify_all();
            // The old one has to be let go before its file can be opened again.
            self.shared.set_tree(None);
            let (pending, _) = self
                .shared
                .moved
                .wait_timeout_while(self.shared.pending(), AGAIN, |pending| !pending.abandoned)
                .unwrap_or_else(PoisonError::into_inner);
            if pending.abandoned {
                return;
            }
            drop(pending);
            match self.open(acknowledged) {
                Ok((tree, revision)) => {
                    tracing::info!(revision, "the tree of the store is open again");
                    self.shared.set_tree(Some(tree));
                    self.shared.pending().held_up = None;
                    self.let_go(revision);
                    return;
                }
                Err(again) => error = again,
            }
        }
    }

    fn open(&self, acknowledged: Revision) -> Result<(Tree, Revision), StoreError> {
        let tree = Tree::open(&self.store, self.cache_bytes)?;
        let (revision, _) = tree.newest()?;
        if revision >= acknowledged {
            return Ok((tree, revision));
        }
        let what = format!("it ends with revision {revision}, and had revision {acknowledged}");
        Err(StoreError::Corrupt { place: self.store.display().to_string(), what })
    }
}

/// Commits that become durable together. Each sees what those before it in the group have changed.
#[derive(Default)]
struct Group {
    revision: Revision,
    changes: Changes,
    commits: Vec<Arc<Commit>>,
    answers: Vec<(Answer, Revision)>,
    bytes: usize,
}

impl Group {
    fn after(revision: Revision) -> Self {
        Self { revision, ..Self::default() }
    }

    fn add(&mut self, tree: &Tree, pending: &Pending, batch: Batch, answer: Answer) {
        let added = match self.holds(tree, pending, &batch.expectations) {
            Ok(true) => self.change(tree, pending, batch),
            Ok(false) => Err(StoreError::Conflict { revision: self.revision }),
            Err(error) => Err(error),
        };
        match added {
            Ok(()) => self.answers.push((answer, self.revision)),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn holds(&self, tree: &Tree, pending: &Pending, expectations: &[Expectation]) -> Result<bool, StoreError> {
        for Expectation { key, revision } in expectations {
            let found = match self.changes.get(key).or_else(|| pending.get(key)) {
                Some(change) => change.as_ref().map(|(revision, _)| *revision),
                None => tree.revision_of(key)?,
            };
            if found != *revision {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn change(&mut self, tree: &Tree, pending: &Pending, batch: Batch) -> Result<(), StoreError> {
        let revision = self.revision + 1;
        let mut changes = Changes::new();
        for operation in &batch.operations {
            match operation {
                Operation::Put { key, value } => {
                    changes.insert(key.clone(), Some((revision, value.clone())));
                }
                Operation::Delete { key } => {
                    changes.insert(key.clone(), None);
                }
                Operation::DeletePrefix { prefix } => {
                    let mut keys = tree.keys_with_prefix(prefix)?;
                    keys.extend(pending.keys_with_prefix(prefix));
                    keys.extend(with_prefix(&self.changes, prefix));
                    keys.extend(with_prefix(&changes, prefix).collect::<Vec<_>>());
                    changes.extend(keys.into_iter().map(|key| (key, None)));
                }
            }
        }
        let Batch { operations, event, at_ms, .. } = batch;
        self.bytes += event.len();
        self.bytes +=
            changes.iter().map(|(key, change)| key.len() + change.as_ref().map_or(0, |(_, value)| value.len())).sum::<usize>();
        self.commits.push(Arc::new(Commit { revision, operations, event, at_ms }));
        self.changes.extend(changes);
        self.revision = revision;
        Ok(())
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| StoreError::Unavailable(error.to_string()))
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}
