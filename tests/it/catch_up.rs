//! A replica that fell behind reports it, and catches up while others write and the cluster is
//! compacted.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mute_service::{
    model::{Event, EventKind, Expire, Key, Provenance, Restriction, Value},
    proto::v1 as pb,
    store::{self, Batch, Retention, Store},
};
use tokio::task::JoinSet;

use crate::{
    cluster::{check, readiness, replica, until},
    etcd::Etcd,
    harness::{SERVICE, reason, with},
    ledger::setting,
    process::{Process, mute},
    slow_link::SlowLink,
};

/// Records in the cluster.
fn record_count() -> usize {
    setting("MUTE_TEST_CATCH_UP_RECORDS").unwrap_or(12_000)
}

/// Bytes a second over the slow link. By default, all records take three seconds.
fn bandwidth() -> u64 {
    setting("MUTE_TEST_CATCH_UP_BANDWIDTH").unwrap_or(1_000_000)
}

/// Commits a second of the other writers.
const COMMITS_PER_S: u32 = 150;

/// Fills the cluster with member mutes, a hundred a commit.
async fn fill(store: &dyn Store, records: usize) {
    let provenance: Arc<Provenance> =
        Arc::new(Provenance { actor: "service:dev".into(), reason: "spam, and more of it".into() });
    let value = Value::Restriction(Restriction {
        expire: Expire::NEVER,
        set_ms: 1_642_060_750_410,
        provenance,
    });
    let commits = (0..records / 100).map(|commit| {
        let room = format!("room{}", commit % 100);
        let mut batch = Batch::of(&Event::new(EventKind::Muted, "Open", "service:dev", 1));
        let users: Vec<_> =
            (0..100).map(|user| format!("a user with the number {commit:06}-{user:02}")).collect();
        for user in &users {
            batch.put(Key::MemberMute { app: "Open", room: &room, user }, value.clone());
        }
        store.commit(batch.encode())
    });
    assert!(futures_util::future::join_all(commits).await.iter().all(Result::is_ok));
}

/// A cluster with records, a near replica through which others write, and a far one behind a slow
/// link.
struct Scene {
    etcd: Etcd,
    link: SlowLink,
    near: Process,
    far: Process,
    /// Of the far replica.
    directory: tempfile::TempDir,
    _near: tempfile::TempDir,
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    writers: JoinSet<()>,
}

impl Scene {
    /// `None` where etcd is not installed.
    async fn start() -> Option<Self> {
        let etcd = Etcd::start(1, &[])?;
        let store =
            store::open(&etcd.location(), Retention { events: 1_000_000, age_ms: u64::MAX })
                .await
                .unwrap();
        fill(&*store, record_count()).await;
        drop(store);
        let (near, _near) = replica(&etcd);
        let link =
            SlowLink::start(etcd.urls().trim_start_matches("http://").to_owned(), bandwidth())
                .await;
        let directory = tempfile::tempdir().unwrap();
        let arguments =
            ["--store", "etcd", "--etcd-endpoints", &link.url(), "--max-view-age-seconds", "3"];
        let begun = Instant::now();
        let far = Process::spawn(directory.path(), directory.path(), &arguments);
        let far = tokio::task::spawn_blocking(|| far.ready()).await.unwrap();
        println!("ready after {:?}, without other writes", begun.elapsed());
        let is_over = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicUsize::new(0));
        let mut scene = Self {
            etcd,
            link,
            near,
            far,
            directory,
            _near,
            is_over,
            written,
            writers: JoinSet::new(),
        };
        scene.start_writers().await;
        Some(scene)
    }

    /// Starts writers that write until the end.
    async fn start_writers(&mut self) {
        for writer in 0..3 {
            let mutes = self.near.mutes().await;
            let is_over = self.is_over.clone();
            let written = self.written.clone();
            self.writers.spawn(async move {
                let mut next = tokio::time::Instant::now();
                for number in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let users = vec![format!("w{writer}-{number}")];
                    if mute(&mut mutes.clone(), "written", users).await.is_ok() {
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    next += Duration::from_secs(3) / COMMITS_PER_S;
                    tokio::time::sleep_until(next).await;
                }
            });
        }
    }

    /// How long after its acknowledgement by the near replica a mute is in force at the far one.
    async fn visible_after(&self) -> Duration {
        let user = format!("probe {}", rand::random::<u64>());
        mute(&mut self.near.mutes().await, "room", vec![user.clone()]).await.unwrap();
        let acknowledged = Instant::now();
        until("the far replica has it", async || !check(&self.far, &user).await.unwrap()).await;
        acknowledged.elapsed()
    }

    async fn end(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(writer) = self.writers.join_next().await {
            writer.unwrap();
        }
        // The far replica lists everything that was written through the near one.
        let list = |page_token| pb::ListMutedMembersRequest {
            app: "Open".into(),
            room: "written".into(),
            page_size: 1_000,
            page_token,
            ..Default::default()
        };
        let mut found = 0;
        let mut page_token = String::new();
        tokio::time::sleep(Duration::from_secs(1)).await;
        loop {
            let page = self
                .far
                .mutes()
                .await
                .list_muted_members(with(list(page_token), &[SERVICE]))
                .await
                .unwrap()
                .into_inner();
            found += page.members.len();
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, self.written.load(Ordering::Relaxed));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_replica_catches_up_under_writes_and_compaction() {
    let Some(scene) = Scene::start().await else { return };
    let begun = Instant::now();
    println!("a mute is visible after {:?} at first", scene.visible_after().await);
    // Compaction drops everything that the far replica misses.
    scene.far.signal("-STOP");
    scene.link.cut();
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.etcd.compact().await;
    scene.far.signal("-CONT");
    let woken = Instant::now();
    let received = scene.link.received();
    // Compaction continues while the replica reads.
    until("it reports that it is behind", async || {
        scene.etcd.compact().await;
        readiness(&scene.far).await.1.starts_with("no contact with the cluster for")
    })
    .await;
    // The write is durable: it is acknowledged, or its error says that it was committed.
    let answer =
        mute(&mut scene.far.mutes().await, "room", vec!["through the far one".into()]).await;
    if let Err(status) = answer {
        let details = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
        assert_eq!(reason(&status), "STORE_UNAVAILABLE");
        assert_eq!(
            details.metadata.get("outcome").map(String::as_str),
            Some("committed"),
            "{status:?}"
        );
    }
    until("it is up to date", async || {
        scene.etcd.compact().await;
        readiness(&scene.far).await == (200, "ok".into())
    })
    .await;
    let took = woken.elapsed();
    let bytes = scene.link.received() - received;
    println!("caught up after {took:?}, {bytes} bytes over a link of {} a second", bandwidth());
    assert_eq!(scene.log().matches("rebuilding the view").count(), 1, "{}", scene.log());
    for _ in 0..3 {
        let delay = scene.visible_after().await;
        println!("a mute is visible after {delay:?}");
        assert!(delay < Duration::from_secs(2), "{delay:?}");
    }
    println!("{} writes in {:?}", scene.written.load(Ordering::Relaxed), begun.elapsed());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_stopped_resumes_where_it_was() {
    let Some(scene) = Scene::start().await else { return };
    scene.far.signal("-STOP");
    tokio::time::sleep(Duration::from_secs(
        setting("MUTE_TEST_CATCH_UP_STOP_SECONDS").unwrap_or(3),
    ))
    .await;
    scene.far.signal("-CONT");
    let woken = Instant::now();
    println!(
        "a mute is visible after {:?}, {:?} after the replica woke",
        scene.visible_after().await,
        woken.elapsed()
    );
    let delay = scene.visible_after().await;
    assert!(delay < Duration::from_secs(2), "{delay:?}");
    assert!(!scene.log().contains("rebuilding the view"), "{}", scene.log());
    scene.end().await;
}
