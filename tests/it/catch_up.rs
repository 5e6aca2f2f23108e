//! A replica that was left behind: it says so, and catches up while others write and the cluster
//! forgets.

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

/// Records of the cluster.
fn size() -> usize {
    setting("MUTE_TEST_CATCH_UP_RECORDS").unwrap_or(12_000)
}

/// Bytes that the link takes a second: the records need three seconds.
fn bandwidth() -> u64 {
    setting("MUTE_TEST_CATCH_UP_BANDWIDTH").unwrap_or(1_000_000)
}

/// Commits a second of others.
const RATE: u32 = 150;

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
        for user in 0..100 {
            let user = format!("a user with the number {commit:06}-{user:02}");
            batch.put(Key::MemberMute { app: "Open", room: &room, user: &user }, &value);
        }
        store.commit(batch)
    });
    assert!(futures_util::future::join_all(commits).await.iter().all(Result::is_ok));
}

/// A cluster with records, a replica beside it that others write through, and one over a slow link.
struct Scene {
    etcd: Etcd,
    link: SlowLink,
    near: Process,
    far: Process,
    /// Of the far one.
    directory: tempfile::TempDir,
    _near: tempfile::TempDir,
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    writers: JoinSet<()>,
}

impl Scene {
    /// Nothing where there is no etcd.
    async fn set() -> Option<Self> {
        let etcd = Etcd::start(1, &[])?;
        let store = store::open(&etcd.place(), Retention { events: 1_000_000, age_ms: u64::MAX })
            .await
            .unwrap();
        fill(&*store, size()).await;
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
        println!("{:?} from its start until it is ready, while nobody writes", begun.elapsed());
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
        scene.write().await;
        Some(scene)
    }

    /// Others write all the time.
    async fn write(&mut self) {
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
                    next += Duration::from_secs(3) / RATE;
                    tokio::time::sleep_until(next).await;
                }
            });
        }
    }

    /// How long it takes until a mute that the near replica has acknowledged counts at the far one.
    async fn seen_after(&self) -> Duration {
        let user = format!("seen {}", rand::random::<u64>());
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
        // Everything that was written through the one is there through the other.
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
    let Some(scene) = Scene::set().await else { return };
    let begun = Instant::now();
    println!("a mute is seen after {:?} at first", scene.seen_after().await);
    // It misses so much that the cluster keeps none of it.
    scene.far.signal("-STOP");
    scene.link.cut();
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.etcd.compact().await;
    scene.far.signal("-CONT");
    let woken = Instant::now();
    let received = scene.link.received();
    // And the cluster goes on forgetting while it is read.
    until("it says that it is behind", async || {
        scene.etcd.compact().await;
        readiness(&scene.far).await.1.starts_with("no contact with the cluster for")
    })
    .await;
    // What it cannot know it does not claim: the write is durable, or it is refused because others
    // were faster.
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
        let seen = scene.seen_after().await;
        println!("a mute is seen after {seen:?}");
        assert!(seen < Duration::from_secs(2), "{seen:?}");
    }
    println!("{} writes in {:?}", scene.written.load(Ordering::Relaxed), begun.elapsed());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_stopped_goes_on_where_it_was() {
    let Some(scene) = Scene::set().await else { return };
    scene.far.signal("-STOP");
    tokio::time::sleep(Duration::from_secs(
        setting("MUTE_TEST_CATCH_UP_STOP_SECONDS").unwrap_or(3),
    ))
    .await;
    scene.far.signal("-CONT");
    let woken = Instant::now();
    println!(
        "a mute is seen after {:?}, {:?} after it woke",
        scene.seen_after().await,
        woken.elapsed()
    );
    let seen = scene.seen_after().await;
    assert!(seen < Duration::from_secs(2), "{seen:?}");
    assert!(!scene.log().contains("rebuilding the view"), "{}", scene.log());
    scene.end().await;
}
