//! The embedded engine, on sled 0.34: one process, one directory. The only file that knows the word.
//!
//! # Why a writer thread
//! sled calls a write durable after `flush()`, and on Linux that is `sync_file_range`: a power cut may take back what it flushed. So one
//! thread takes all waiting commits, writes them as ONE sled batch, flushes, calls `sync_data()` on its own handle of the database file,
//! and only then answers all of them (group commit). sled's own flush timer is off.
//!
//! # Layout
//! One tree, because only within one is a sled batch atomic:
//! `d KEY` -> revision (8 bytes, big-endian) and value; `l REVISION` -> the event, sealed by the codec; `m` -> the newest revision, and the tally of all
//! records: their number and the sum of their checksums. A snapshot is compared with it at its end, because sled may leave out what it cannot read.
//! `directory.rs` says what is beside it; who opens after a stop that was not an orderly one checks the whole log before the first answer.
//!
//! # The change feed
//! The newest commits are kept in memory, for all watchers together; each takes from there what is after its own place, never more than what is
//! synced. One that has fallen behind what is kept, or asks for what was before the start, is told that it is compacted. The log holds the
//! events, which are kept for longer and over restarts.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Batch, Commit, Entry, Expectation, Feed, Operation, Retention, Revision, Snapshot, Store, StoreError,
    codec::corrupt,
    directory::{Directory, failed},
    log::{LOG, decode_event, encode_event, log_key},
    recent::Recent,
    tally::Tally,
};

/// Commits that may wait for the writer; those beyond wait for a place. 4,096 is several full groups.
const QUEUE: usize = 4_096;
/// A group is closed at this many commits or bytes, so that the first of them does not wait for the last for ever.
const GROUP_COMMITS: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;
/// Records in one page of a snapshot.
const PAGE: usize = 1_024;
/// sled puts a page of more than a quarter of this in a file of its own, which our sync does not reach. A page holds at most 17 records or events,
/// and the largest, the event of a hundred users with the longest ids, takes 27 KiB.
const SEGMENT_BYTES: usize = 4 << 20;

/// For how long sled's own lock is waited for, under ours.
const LETTING_GO: Duration = Duration::from_secs(5);
/// How often a full disk is looked at again, when somebody wants to write.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

const DATA: u8 = b'd';
const NEWEST: &[u8] = b"m";

/// An open data directory.
pub(super) struct Embedded {
    shared: Arc<Shared>,
    /// Taken only when this is dropped.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    /// A snapshot reads under it, the writer writes under it: a snapshot is of one revision. Nothing while it is opened anew.
    tree: RwLock<Option<sled::Db>>,
    /// The newest revision that is on stable storage.
    synced: watch::Sender<Revision>,
    /// The newest commits up to that one, without gaps. Written by the writer, under its own lock only.
    recent: Mutex<Recent>,
    /// Let go after the tree.
    directory: Directory,
}

type Answer = oneshot::Sender<Result<Revision, StoreError>>;

/// What the writer is asked for.
enum Job {
    Commit(Batch, Answer),
    /// Answered when everything before it is; everything after it is refused.
    Close(Answer),
}

impl Embedded {
    pub(super) fn open(directory: &Path, cache_bytes: u64, retention: Retention) -> Result<Self, StoreError> {
        let directory = Directory::open(directory)?;
        let database = intact(|| Database::open(&directory, cache_bytes, directory.noted))?;
        let revision = database.revision;
        directory.note(revision)?;
        let shared = Arc::new(Shared {
            tree: RwLock::new(Some(database.tree.clone())),
            synced: watch::Sender::new(revision),
            recent: Mutex::default(),
            directory,
        });
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = Writer { shared: shared.clone(), database: Some(database), jobs, retention, cache_bytes, stopped: None };
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self { shared, queue: Some(queue), writer: Some(writer) })
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
        if let Some(Err(_)) = self.writer.take().map(JoinHandle::join) {
            tracing::error!("the writer of the store has panicked");
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
            let tree = shared.tree.read().unwrap_or_else(PoisonError::into_inner);
            if revision.send(*shared.synced.borrow()).is_err() {
                return;
            }
            if let Err(error) = intact(|| send_pages(tree.as_ref().ok_or_else(closed)?, &pages)) {
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

    async fn close(&self) -> Result<(), StoreError> {
        self.send(Job::Close).await?;
        self.shared.directory.close()
    }
}

/// Ends early where nobody reads on.
fn send_pages(tree: &sled::Db, pages: &mpsc::Sender<Result<Vec<Entry>, StoreError>>) -> Result<(), StoreError> {
    let (mut page, mut tally) = (Vec::with_capacity(PAGE), Tally::default());
    for pair in tree.scan_prefix([DATA]) {
        let (key, value) = pair.map_err(failure)?;
        tally.add(&key, &value);
        page.push(entry(&key, &value)?);
        if page.len() == PAGE && pages.blocking_send(Ok(std::mem::replace(&mut page, Vec::with_capacity(PAGE)))).is_err() {
            return Ok(());
        }
    }
    let (_, expected) = newest(tree)?;
    if tally != expected {
        return Err(corrupt(NEWEST, &format!("{} records can be read, and there were {}", tally.records, expected.records)));
    }
    let _ = pages.blocking_send(Ok(page));
    Ok(())
}

fn entry(key: &[u8], value: &[u8]) -> Result<Entry, StoreError> {
    let (revision, value) = split_revision(key, value)?;
    Ok(Entry { key: key[1..].to_vec(), value: value.to_vec(), revision })
}

fn split_revision<'a>(key: &[u8], value: &'a [u8]) -> Result<(Revision, &'a [u8]), StoreError> {
    let (revision, value) = value.split_first_chunk().ok_or_else(|| corrupt(key, "a value without its revision"))?;
    Ok((Revision::from_be_bytes(*revision), value))
}

/// One watcher's place in the log.
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

/// The one thread that writes.
///
/// After a failure of the disk nothing is certain: a later sync that succeeds says nothing about pages that an earlier one has lost, and the
/// tree may hold what is not on the disk. So the first failure is the last write to that tree: `synced` stays where it is, and commits are
/// refused, while reads go on from the view. Where the disk was full, the database is opened anew from time to time, until there is room; it then
/// has what was acknowledged, or it is damaged. After any other failure a restart finds what is truly there.
struct Writer {
    shared: Arc<Shared>,
    /// Nothing while it is opened anew.
    database: Option<Database>,
    jobs: mpsc::Receiver<Job>,
    retention: Retention,
    cache_bytes: u64,
    /// Why nothing is written.
    stopped: Option<Stopped>,
}

/// The open tree, as its writer knows it.
struct Database {
    tree: sled::Db,
    /// Our own handle of the database file, to sync it.
    file: File,
    /// The newest revision given out.
    revision: Revision,
    /// What all records add up to.
    tally: Tally,
    /// The oldest event of the log and its time.
    oldest: Option<(Revision, u64)>,
}

#[derive(Clone)]
enum Stopped {
    Closed,
    /// Since when, or since the last look.
    Full(String, Instant),
    Failed(String),
}

impl Stopped {
    fn error(&self) -> StoreError {
        match self {
            Self::Closed => closed(),
            Self::Full(what, _) => StoreError::Full(what.clone()),
            Self::Failed(what) => StoreError::Unavailable(what.clone()),
        }
    }
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(what) => Self::Full(what, Instant::now()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            if matches!(&self.stopped, Some(Stopped::Full(_, since)) if since.elapsed() > LOOK_FOR_ROOM) {
                self.open_anew();
            }
            let revision = self.database.as_ref().map_or(0, |database| database.revision);
            let mut group = Group { from: revision, revision, ..Group::default() };
            let mut closing = None;
            let mut next = Some(first);
            while let Some(job) = next {
                match (job, &self.stopped, &self.database) {
                    (Job::Commit(batch, answer), None, Some(database)) => group.add(&database.tree, batch, answer),
                    (Job::Close(answer), None, _) => closing = Some(answer),
                    (Job::Commit(_, answer) | Job::Close(answer), stopped, _) => {
                        let _ = answer.send(Err(stopped.as_ref().map_or_else(closed, Stopped::error)));
                    }
                }
                let more = closing.is_none() && group.answers.len() < GROUP_COMMITS && group.bytes < GROUP_BYTES;
                next = if more { self.jobs.try_recv().ok() } else { None };
            }
            let changes = group.changes.len();
            self.finish(group);
            collect_garbage(changes);
            if let Some(answer) = closing {
                let closed = self.stopped.get_or_insert(Stopped::Closed).clone();
                let _ = answer.send(if matches!(closed, Stopped::Closed) { Ok(revision) } else { Err(closed.error()) });
            }
        }
    }

    /// Makes the group durable, then visible, then answers.
    fn finish(&mut self, mut group: Group) {
        let answers = std::mem::take(&mut group.answers);
        if let Err(error) = intact(|| self.write(group)) {
            let until = if matches!(error, StoreError::Full(_)) { "until there is room" } else { "until a restart" };
            tracing::error!(%error, commits = answers.len(), "the disk has failed a write; nothing is written {until}");
            self.stopped = Some(error.into());
        }
        for (answer, revision) in answers {
            let _ = answer.send(self.stopped.as_ref().map_or(Ok(revision), |stopped| Err(stopped.error())));
        }
    }

    fn write(&mut self, group: Group) -> Result<(), StoreError> {
        if group.revision == group.from {
            return Ok(());
        }
        let shared = self.shared.clone();
        let _alone = shared.tree.write().unwrap_or_else(PoisonError::into_inner);
        let database = self.database.as_mut().ok_or_else(closed)?;
        let newest_ms = group.newest_ms;
        let (mut batch, commits) = (sled::Batch::default(), group.revision - group.from);
        let mut tally = database.tally;
        for (key, change) in group.changes {
            if let Some(stored) = database.tree.get(&key).map_err(failure)? {
                tally.remove(&key, &stored);
            }
            match change {
                Some((revision, value)) => {
                    let stored = [&revision.to_be_bytes()[..], &value].concat();
                    tally.add(&key, &stored);
                    batch.insert(key, stored);
                }
                None => batch.remove(key),
            }
        }
        for commit in &group.commits {
            let key = log_key(commit.revision);
            batch.insert(&key, encode_event(&key, commit));
        }
        batch.insert(NEWEST, tally.value(group.revision));
        database.prune(&mut batch, self.retention, commits, group.revision, newest_ms)?;
        database.tree.apply_batch(batch).map_err(failure)?;
        database.tree.flush().map_err(failure)?;
        // Whatever the reason, even a full disk: what a failed sync leaves in the page cache may never reach the disk.
        database.file.sync_data().map_err(|error| StoreError::Unavailable(format!("fdatasync: {error}")))?;
        shared.directory.note(group.revision)?;
        (database.revision, database.tally) = (group.revision, tally);
        shared.recent.lock().unwrap_or_else(PoisonError::into_inner).push(group.commits);
        shared.synced.send_replace(group.revision);
        Ok(())
    }

    /// After a full disk: looks whether there is room, and what is truly there.
    fn open_anew(&mut self) {
        let shared = self.shared.clone();
        let mut tree = shared.tree.write().unwrap_or_else(PoisonError::into_inner);
        // The old one has to be let go before its file can be opened again.
        (*tree, self.database) = (None, None);
        let synced = *shared.synced.borrow();
        match intact(|| Database::open(&shared.directory, self.cache_bytes, synced)) {
            Ok(database) => {
                tracing::info!(revision = database.revision, "there is room again; writing goes on");
                // What had failed may be there all the same. Then the view takes a snapshot, because nobody has told it.
                *shared.recent.lock().unwrap_or_else(PoisonError::into_inner) = Recent::default();
                shared.synced.send_replace(database.revision);
                *tree = Some(database.tree.clone());
                (self.database, self.stopped) = (Some(database), None);
            }
            Err(error) => {
                tracing::warn!(%error, "there is no room yet");
                self.stopped = Some(error.into());
            }
        }
    }
}

impl Database {
    /// Opens the database, puts on the disk what is not there yet, and checks that it holds what it has to: everything up to `acknowledged`.
    fn open(directory: &Directory, cache_bytes: u64, acknowledged: Revision) -> Result<Self, StoreError> {
        let path = directory.path().join("store");
        let config = sled::Config::new().path(&path).segment_size(SEGMENT_BYTES).cache_capacity(cache_bytes).flush_every_ms(None);
        let tree = open_when_free(&config)?;
        tree.flush().map_err(failure)?;
        let file = File::open(path.join("db")).map_err(|error| failed(&path, &error))?;
        // What sled has created, and what a process that was killed has written and not synced, is on the disk before it counts.
        for place in [&path.join("db"), &path.join("conf"), &path, &directory.path().to_path_buf()] {
            File::open(place).and_then(|handle| handle.sync_all()).map_err(|error| failed(place, &error))?;
        }
        let (revision, tally) = newest(&tree)?;
        if revision < acknowledged {
            let what = format!("it ends with revision {revision}, and revision {acknowledged} was acknowledged");
            return Err(StoreError::Corrupt { place: path.join("db").display().to_string(), what });
        }
        if directory.unclean {
            tracing::warn!(revision, "the last stop was not an orderly one; checking the log of events");
            check_log(&tree, revision)?;
        }
        let oldest = oldest(&tree)?;
        Ok(Self { tree, file, revision, tally, oldest })
    }

    /// Cuts the log where it is too long or too old, at most two commits for each new one, so that no commit pays for many.
    fn prune(
        &mut self,
        batch: &mut sled::Batch,
        kept: Retention,
        commits: u64,
        newest: Revision,
        newest_ms: u64,
    ) -> Result<(), StoreError> {
        let mut oldest = match self.oldest {
            Some(oldest) => oldest,
            None => (newest - commits + 1, newest_ms),
        };
        for _ in 0..commits * 2 {
            let too_many = newest - oldest.0 >= kept.events;
            let too_old = oldest.1.saturating_add(kept.age_ms) < newest_ms;
            if !(too_many || too_old) || oldest.0 + commits >= newest {
                break;
            }
            batch.remove(&log_key(oldest.0));
            let key = log_key(oldest.0 + 1);
            let next = self.tree.get(key).map_err(failure)?;
            let at_ms = next.map(|value| decode_event(&key, &value)).transpose()?.map_or(newest_ms, |event| event.at_ms);
            oldest = (oldest.0 + 1, at_ms);
        }
        self.oldest = Some(oldest);
        Ok(())
    }
}

/// What keys of the tree are to say; nothing where a key is to go.
type Changes = BTreeMap<Vec<u8>, Option<(Revision, Vec<u8>)>>;

/// Commits that become durable together. Each sees what those before it in the group have changed.
#[derive(Default)]
struct Group {
    from: Revision,
    revision: Revision,
    changes: Changes,
    commits: Vec<Arc<Commit>>,
    answers: Vec<(Answer, Revision)>,
    bytes: usize,
    newest_ms: u64,
}

impl Group {
    fn add(&mut self, tree: &sled::Db, batch: Batch, answer: Answer) {
        match self.holds(tree, &batch.expectations) {
            Ok(true) => {}
            Ok(false) => {
                let _ = answer.send(Err(StoreError::Conflict { revision: self.revision }));
                return;
            }
            Err(error) => {
                let _ = answer.send(Err(error));
                return;
            }
        }
        match self.change(tree, batch) {
            Ok(()) => self.answers.push((answer, self.revision)),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn holds(&self, tree: &sled::Db, expectations: &[Expectation]) -> Result<bool, StoreError> {
        for Expectation { key, revision } in expectations {
            if self.revision_of(tree, &data_key(key))? != *revision {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn revision_of(&self, tree: &sled::Db, key: &[u8]) -> Result<Option<Revision>, StoreError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.as_ref().map(|(revision, _)| *revision)),
            None => match tree.get(key).map_err(failure)? {
                Some(value) => Ok(Some(split_revision(key, &value)?.0)),
                None => Ok(None),
            },
        }
    }

    fn change(&mut self, tree: &sled::Db, batch: Batch) -> Result<(), StoreError> {
        let revision = self.revision + 1;
        let mut changes = Changes::new();
        for operation in &batch.operations {
            match operation {
                Operation::Put { key, value } => {
                    changes.insert(data_key(key), Some((revision, value.clone())));
                }
                Operation::Delete { key } => {
                    changes.insert(data_key(key), None);
                }
                Operation::DeletePrefix { prefix } => {
                    let prefix = data_key(prefix);
                    let stored = tree.scan_prefix(&prefix).keys().map(|key| key.map(|key| key.to_vec()));
                    let stored = stored.collect::<Result<Vec<_>, _>>().map_err(failure)?;
                    let pending = [&self.changes, &changes].map(|changes| with_prefix(changes, &prefix)).concat();
                    changes.extend(stored.into_iter().chain(pending).map(|key| (key, None)));
                }
            }
        }
        let Batch { operations, event, at_ms, .. } = batch;
        self.bytes += event.len();
        self.bytes +=
            changes.iter().map(|(key, change)| key.len() + change.as_ref().map_or(0, |(_, value)| value.len())).sum::<usize>();
        self.commits.push(Arc::new(Commit { revision, operations, event, at_ms }));
        self.newest_ms = at_ms;
        self.changes.extend(changes);
        self.revision = revision;
        Ok(())
    }
}

fn with_prefix(changes: &Changes, prefix: &[u8]) -> Vec<Vec<u8>> {
    let from = changes.range(prefix.to_vec()..).map(|(key, _)| key);
    from.take_while(|key| key.starts_with(prefix)).cloned().collect()
}

fn data_key(key: &[u8]) -> Vec<u8> {
    [&[DATA], key].concat()
}

/// The newest revision, and what the records of that revision add up to.
fn newest(tree: &sled::Db) -> Result<(Revision, Tally), StoreError> {
    let Some(value) = tree.get(NEWEST).map_err(failure)? else { return Ok((0, Tally::default())) };
    match value.as_chunks::<8>() {
        ([revision, records, sum], []) => {
            let tally = Tally { records: u64::from_be_bytes(*records), sum: u64::from_be_bytes(*sum) };
            Ok((Revision::from_be_bytes(*revision), tally))
        }
        _ => Err(corrupt(NEWEST, "no newest revision of this version")),
    }
}

fn oldest(tree: &sled::Db) -> Result<Option<(Revision, u64)>, StoreError> {
    let first = tree.scan_prefix([LOG]).next().transpose().map_err(failure)?;
    first.map(|(key, value)| decode_event(&key, &value).map(|event| (event.revision, event.at_ms))).transpose()
}

/// Every event of the log is whole, and none is missing up to the newest.
fn check_log(tree: &sled::Db, newest: Revision) -> Result<(), StoreError> {
    let mut last = None;
    for pair in tree.scan_prefix([LOG]) {
        let (key, value) = pair.map_err(failure)?;
        let event = decode_event(&key, &value)?;
        if last.is_some_and(|last| last + 1 != event.revision) {
            return Err(corrupt(&key, "a gap in the log of events"));
        }
        last = Some(event.revision);
    }
    if last.unwrap_or(newest) == newest { Ok(()) } else { Err(corrupt(NEWEST, "the newest revision is not that of the log")) }
}

/// Frees the pages that a batch has replaced. sled leaves them to crossbeam's epochs, which collect a little with every 128th batch, so that
/// large batches leave gigabytes behind; each flush here frees about 500 pages, and a change replaces one or two.
fn collect_garbage(changes: usize) {
    for _ in 0..changes / 128 + 1 {
        crossbeam_epoch::pin().flush();
    }
}

/// We hold the lock of the directory, so if sled's own is taken, the threads of a store that this process has dropped are still letting it go.
fn open_when_free(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let started = Instant::now();
    loop {
        match config.open() {
            Err(error) if started.elapsed() < LETTING_GO && error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(failure),
        }
    }
}

/// sled panics where it meets a damaged page.
fn intact<T>(read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(StoreError::Corrupt { place: "the database file".to_owned(), what: what.unwrap_or("it cannot be read").to_owned() })
    })
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

fn failure(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => StoreError::Full(error.to_string()),
        sled::Error::Corruption { at, .. } => {
            StoreError::Corrupt { place: format!("{at:?} of the database file"), what: "sled found a damaged page".to_owned() }
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}
