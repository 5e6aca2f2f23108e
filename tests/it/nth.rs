//! The Nth operation of the disk fails. A store goes through a scripted life (open, commits, new
//! journal files, flushes into the tree, retention, a snapshot, close, open) over a disk of which
//! one operation fails, once or permanently. Then the process is killed, sometimes with a power
//! cut, and the store is opened on a healthy disk. Acknowledged commits are there, refused ones are
//! not, and each commit without an answer is there completely or not at all.
//!
//! `MUTE_TEST_NTH=all` runs every case, a number runs that many. `MUTE_TEST_SEED` repeats a run.
//!
//! The number of operations of a kind varies a little with thread scheduling, so the last ones of
//! each kind may not be reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::AssertUnwindSafe,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use fuser::Errno;
use futures_util::{FutureExt as _, TryStreamExt as _, future::join_all};
use mute_service::store::{
    self, EncodedBatch, EventRange, Location, Memory, Operation, Retention, Revision, Store,
    StoreError,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use crate::{
    faulty::{Fault, Kind},
    harness::skipped,
    ledger::{random, setting},
    lossy_disk::Disk,
};

/// Pairs of keys that are overwritten repeatedly.
const SLOTS: u64 = 6;
const VALUE_BYTES: usize = 3_000;
const MEMORY: Memory = Memory { cache_bytes: 1 << 20, journal_bytes: 64 << 10 };
const RETENTION: Retention = Retention { events: 12, age_ms: u64::MAX };
/// Cases of a run without `MUTE_TEST_NTH`.
const SAMPLE: usize = 24;
/// Processes that share the cases and run at the same time.
const PROCESSES: usize = 2;
/// The environment variable with the number of this process.
const PROCESS: &str = "MUTE_TEST_NTH_PROCESS";
const NAME: &str = "nth::no_failed_disk_operation_loses_acknowledged_data";
const ERRORS: [Errno; 3] = [Errno::ENOSPC, Errno::EIO, Errno::EMFILE];

async fn open(data: &Path) -> Result<Arc<dyn Store>, StoreError> {
    store::open(&Location::Directory { path: data.to_path_buf(), memory: MEMORY }, RETENTION).await
}

/// What a slot contains: the number of the commit and its revision. `None` after a deletion.
type Content = Option<(u64, Revision)>;

#[derive(Default)]
struct Slot {
    confirmed: Content,
    /// Commits without an answer since then: their numbers, and whether they delete.
    in_doubt: Vec<(u64, bool)>,
}

impl Slot {
    fn may_contain(&self, found: Content) -> bool {
        let was_done = |&(number, deletes): &(u64, bool)| {
            found.map_or(deletes, |(found, _)| !deletes && found == number)
        };
        found == self.confirmed || self.in_doubt.iter().any(was_done)
    }
}

/// What the answers of a store say about its content.
#[derive(Default)]
struct Ledger {
    slots: BTreeMap<u64, Slot>,
    acknowledged: BTreeMap<Revision, u64>,
    refused: BTreeSet<u64>,
    latest_revision: Revision,
    commits: u64,
    /// Failed commits.
    failures: usize,
}

impl Ledger {
    fn next(&mut self) -> (u64, bool, EncodedBatch) {
        self.commits += 1;
        let number = self.commits;
        let deletes = self.commits.is_multiple_of(9);
        let operation = |key: &str| {
            let key = format!("{key}{}", number % SLOTS).into_bytes();
            let value = number.to_be_bytes().into_iter().cycle().take(VALUE_BYTES).collect();
            if deletes { Operation::Delete { key } } else { Operation::Put { key, value } }
        };
        let operations = vec![operation("a"), operation("b")];
        (
            number,
            deletes,
            EncodedBatch {
                operations,
                event: number.to_be_bytes().to_vec(),
                at_ms: number,
                ..EncodedBatch::default()
            },
        )
    }

    /// Makes `count` commits, all `at_once` or one after the other.
    async fn commit(&mut self, store: &dyn Store, count: usize, at_once: bool) {
        let batches: Vec<_> = std::iter::repeat_with(|| self.next()).take(count).collect();
        for batches in batches.chunks(if at_once { count } else { 1 }) {
            let answers =
                join_all(batches.iter().map(|(.., batch)| store.commit(batch.clone()))).await;
            for ((number, deletes, _), answer) in batches.iter().zip(answers) {
                self.record(*number, *deletes, answer);
            }
        }
    }

    fn record(&mut self, number: u64, deletes: bool, answer: Result<Revision, StoreError>) {
        let slot = self.slots.entry(number % SLOTS).or_default();
        match answer {
            Ok(revision) => {
                assert!(
                    revision > self.latest_revision,
                    "revision {revision} after {}",
                    self.latest_revision
                );
                self.latest_revision = revision;
                self.acknowledged.insert(revision, number);
                *slot = Slot {
                    confirmed: (!deletes).then_some((number, revision)),
                    in_doubt: Vec::new(),
                };
            }
            Err(StoreError::Full(_)) => {
                self.failures += 1;
                self.refused.insert(number);
            }
            Err(StoreError::Unavailable(_) | StoreError::Corrupt { .. }) => {
                self.failures += 1;
                slot.in_doubt.push((number, deletes));
            }
            Err(other) => panic!("commit {number}: {other}"),
        }
    }

    /// Compares the store with the ledger, and resolves what was in doubt.
    async fn compare(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let snapshot = store.snapshot().await?;
        assert!(
            snapshot.revision >= self.latest_revision,
            "revision {} is lost; the store ends with {}",
            self.latest_revision,
            snapshot.revision
        );
        self.latest_revision = snapshot.revision;
        let mut found = BTreeMap::new();
        for entry in snapshot.pages.try_collect::<Vec<_>>().await?.concat() {
            let number = u64::from_be_bytes(entry.value[..8].try_into().unwrap());
            found.insert(String::from_utf8(entry.key).unwrap(), (number, entry.revision));
        }
        for slot in 0..SLOTS {
            let [a, b] = ["a", "b"].map(|key| found.remove(&format!("{key}{slot}")));
            assert_eq!(a, b, "half of a commit of slot {slot} is missing");
            let expected = self.slots.entry(slot).or_default();
            assert!(
                expected.may_contain(a),
                "slot {slot} contains {a:?}; confirmed is {:?}, in doubt {:?}",
                expected.confirmed,
                expected.in_doubt
            );
            *expected = Slot { confirmed: a, in_doubt: Vec::new() };
        }
        assert!(found.is_empty(), "the test has not written {found:?}");
        self.compare_history(store).await
    }

    async fn compare_history(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut last = None;
        for event in store.events(EventRange::default(), false, usize::MAX).await? {
            let number = u64::from_be_bytes(event.event[..].try_into().unwrap());
            assert!(
                last.is_none_or(|last| event.revision == last + 1),
                "revision {} after {last:?}",
                event.revision
            );
            last = Some(event.revision);
            assert!(
                self.acknowledged.get(&event.revision).is_none_or(|known| *known == number),
                "another event at {last:?}"
            );
            assert!(
                !self.refused.contains(&number),
                "commit {number} was refused but is in the history"
            );
        }
        Ok(())
    }
}

/// The life of a store until the kill: shortly after the first failure, or at its end.
async fn live(
    data: &Path,
    ledger: &mut Ledger,
    more_after_failure: usize,
) -> Option<Arc<dyn Store>> {
    let mut store = open(data).await.ok()?;
    for step in 0..8 {
        match step {
            2 => ledger.commit(&*store, 5, true).await,
            4 => drop(ledger.compare(&*store).await),
            6 => {
                let _ = store.close().await;
                drop(store);
                store = open(data).await.ok()?;
            }
            _ => ledger.commit(&*store, 8, false).await,
        }
        if ledger.failures > 0 {
            ledger.commit(&*store, more_after_failure, false).await;
            return Some(store);
        }
    }
    Some(store)
}

/// Undoes what the store does while it is dropped: a killed process would not have done it.
fn kill(disk: &Disk, store: Option<Arc<dyn Store>>) {
    let image = disk.image();
    disk.set_faults(&[]);
    drop(store);
    disk.put_back(image);
}

/// Waits until the store can read its tree, which it reopens after a failure.
async fn reads_again(store: &dyn Store) {
    for _ in 0..200 {
        let snapshot = store.snapshot().await.unwrap();
        if snapshot.pages.try_collect::<Vec<_>>().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the tree was not reopened");
}

async fn run(disk: &Disk, case: &Case, random: &mut StdRng) -> bool {
    disk.format();
    let data = disk.path().join("data");
    let mut ledger = Ledger::default();
    disk.set_faults(&case.0);
    let store = live(&data, &mut ledger, random.random_range(0..12)).await;
    if let Some(store) = &store
        && random.random_bool(0.25)
        && !case.is_permanent()
    {
        reads_again(&**store).await;
        ledger.commit(&**store, 16, false).await;
    }
    let (_, failed) = disk.operations();
    kill(disk, store);
    if random.random() {
        disk.cut(random);
    }
    let store =
        open(&data).await.unwrap_or_else(|error| panic!("the store does not open: {error}"));
    ledger.compare(&*store).await.unwrap();
    ledger.failures = 0;
    ledger.commit(&*store, 16, false).await;
    assert_eq!(ledger.failures, 0, "a store on a healthy disk refuses commits");
    kill(disk, Some(store));
    // What was found after the first stop is confirmed, and must be there after the second.
    disk.cut(random);
    let store = open(&data)
        .await
        .unwrap_or_else(|error| panic!("the store does not open after the power cut: {error}"));
    ledger.compare(&*store).await.unwrap();
    store.close().await.unwrap();
    failed > 0
}

/// The faults of one life.
struct Case(Vec<Fault>);

impl Case {
    fn is_permanent(&self) -> bool {
        self.0.iter().any(|fault| fault.forever)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Fault { kind, nth, errno, forever, short } in &self.0 {
            let short = if *short { "short " } else { "" };
            let after = if *forever { ", and all after it" } else { "" };
            write!(
                f,
                "{short}{kind:?} {nth} fails with {}{after}; ",
                std::io::Error::from_raw_os_error(errno.code())
            )?;
        }
        Ok(())
    }
}

/// Every operation of a whole life, with every kind of failure. A partial write is truncated, so
/// each short write also comes with a failing truncation.
fn cases(counts: &BTreeMap<Kind, usize>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (&kind, &count) in counts {
        let faults = (1..=count).flat_map(|nth| ERRORS.map(|errno| (nth, errno)));
        for ((nth, errno), forever) in faults.flat_map(|fault| [(fault, false), (fault, true)]) {
            let fault = Fault { kind, nth, errno, forever, short: false };
            cases.push(Case(vec![fault]));
            if kind == Kind::Write {
                let short = Fault { short: true, ..fault };
                let truncation = Fault { kind: Kind::Truncate, nth: 1, ..fault };
                cases.extend([Case(vec![short]), Case(vec![short, truncation])]);
            }
        }
    }
    cases
}

/// Runs the cases of this process, each with its own seed.
async fn run_cases(disk: &Disk, process: usize, random: &mut StdRng) {
    let mut cases = all_cases(disk).await;
    let all = cases.len();
    cases.shuffle(random);
    cases.truncate(match std::env::var("MUTE_TEST_NTH").as_deref() {
        Ok("all") => all,
        Ok(number) => number.parse().unwrap(),
        Err(_) => SAMPLE,
    });
    let mut count = 0;
    let mut reached = 0;
    let mut failed_cases = Vec::new();
    for (case, seed) in
        cases.into_iter().map(|case| (case, random.random())).skip(process).step_by(PROCESSES)
    {
        count += 1;
        if count % 100 == 0 {
            println!("{count} cases");
        }
        let mut random = StdRng::seed_from_u64(seed);
        match AssertUnwindSafe(run(disk, &case, &mut random)).catch_unwind().await {
            Ok(has_failed) => reached += usize::from(has_failed),
            Err(_) => failed_cases.push(case.to_string()),
        }
        disk.set_faults(&[]);
    }
    println!(
        "process {process}: {count} of {all} cases, {reached} of them with a failed operation"
    );
    assert!(failed_cases.is_empty(), "{} cases failed: {failed_cases:#?}", failed_cases.len());
    assert!(reached * 4 > count * 3, "in too many cases no operation failed");
}

/// All cases for the operations of a life without faults.
async fn all_cases(disk: &Disk) -> Vec<Case> {
    disk.set_faults(&[]);
    let store = live(&disk.path().join("data"), &mut Ledger::default(), 0).await;
    let (counts, _) = disk.operations();
    kill(disk, store);
    println!("operations of a life: {counts:?}");
    cases(&counts)
}

/// Runs this test in other processes: a failed tree keeps locks that all stores of a process share.
async fn in_processes(seed: u64) {
    let run = |process: usize| {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program
            .args(["--exact", NAME, "--nocapture"])
            .env(PROCESS, process.to_string())
            .env("MUTE_TEST_SEED", seed.to_string());
        program.env("RUST_BACKTRACE", "0");
        tokio::task::spawn_blocking(move || program.output())
    };
    for output in join_all((0..PROCESSES).map(run)).await {
        let output = output.unwrap().unwrap();
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_failed_disk_operation_loses_acknowledged_data() {
    let Some(disk) = Disk::mount() else { return skipped("run as root with /dev/fuse") };
    let mut random = random();
    match setting(PROCESS) {
        Some(process) => run_cases(&disk, process, &mut random).await,
        None => in_processes(random.random()).await,
    }
}
