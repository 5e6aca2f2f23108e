//! Backups: taken while the service runs, refused when they are damaged, and restored so that no
//! client takes the new store for the lost one.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all};
use indicatif::ProgressBar;
use mute_service::{
    model::{Event, EventKind, Expire, Key, Provenance, Restriction, Value},
    store::{self, Batch, Entry, Location, Retention, Revision, Store, StoreError},
    transfer::{self, backup},
};
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    embedded::copy,
    harness::{AGORA, API_KEY, KEEPER, OPEN, ROOM, SERVICE, START_MS, Server},
    process::{Process, mute, muted, run, text},
    records,
};

async fn open(directory: &Path) -> Result<Arc<dyn Store>, StoreError> {
    store::open(&Location::directory(directory), Retention { events: 1_000_000, age_ms: u64::MAX })
        .await
}

fn event() -> Event {
    Event::new(EventKind::Muted, AGORA, "", 1)
}

/// Creates a data directory with a record of every kind and form, each in a commit of its own, and
/// closes it in order. Returns the last revision.
async fn every_kind(directory: &Path) -> Revision {
    let store = open(directory).await.unwrap();
    let mut revision = 0;
    for (_, key, value) in records::records() {
        let mut batch = Batch::of(&event());
        batch.put(key, value);
        revision = store.commit(batch.encode()).await.unwrap();
    }
    store.close().await.unwrap();
    revision
}

async fn entries(store: &dyn Store) -> (Revision, Vec<Entry>) {
    let mut snapshot = store.snapshot().await.unwrap();
    let mut entries = Vec::new();
    while let Some(page) = snapshot.pages.next().await {
        entries.extend(page.unwrap());
    }
    (snapshot.revision, entries)
}

/// Writes a backup of a closed directory.
async fn back_up(data: &Path, file: &Path) {
    let store = open(data).await.unwrap();
    let pieces: Vec<_> = backup::bytes(store.snapshot().await.unwrap(), START_MS).collect().await;
    fs::write(file, pieces.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat()).unwrap();
    store.close().await.unwrap();
}

fn restore(file: &Path, data: &Path, now_ms: u64) -> Result<Revision, transfer::Failure> {
    backup::restore(file, data, now_ms, &ProgressBar::hidden()).map(|(_, _, latest)| latest)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a command prints: the last word of each line, by the words before it.
fn printed(arguments: &[&str]) -> BTreeMap<String, String> {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let lines = text(&output.stdout);
    lines
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.trim().into(), value.into()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_among_64_writers_is_exact_as_of_its_revision() {
    let lost = tempfile::tempdir().unwrap();
    let found = tempfile::tempdir().unwrap();
    let process = Process::start(lost.path());
    let channels = join_all((0..4).map(|_| process.mutes())).await;
    let acknowledged: Arc<Mutex<Vec<BTreeMap<String, Revision>>>> =
        Arc::new(Mutex::new(vec![BTreeMap::new(); 64]));
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let mut mutes = channels[writer % 4].clone();
            let acknowledged = acknowledged.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    let user = format!("{number:06}");
                    let Ok(revision) =
                        mute(&mut mutes, &format!("room{writer}"), vec![user.clone()]).await
                    else {
                        return;
                    };
                    acknowledged.lock().unwrap()[writer].insert(user, revision as u64);
                }
            })
        })
        .collect();
    let wait_for_writes = |revision: Revision, count: usize| {
        let acknowledged = acknowledged.clone();
        async move {
            let has_enough = |writes: &BTreeMap<String, Revision>| {
                writes.values().filter(|written| **written > revision).count() >= count
            };
            while !acknowledged.lock().unwrap().iter().all(has_enough) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    wait_for_writes(0, 20).await;
    let from = process.admin();
    let file = lost.path().join("backup");
    let arguments =
        ["backup", "--from", &from, "--token", "dev-service-token", "--output", path(&file)]
            .map(str::to_owned);
    let taken =
        tokio::task::spawn_blocking(move || printed(&arguments.each_ref().map(String::as_str)))
            .await
            .unwrap();
    let revision: Revision = taken["revision"].parse().unwrap();
    // Now each writer has the answer to its last write before the backup.
    wait_for_writes(revision, 2).await;
    drop(process); // kill -9
    for writer in writers {
        writer.await.unwrap();
    }
    let data = found.path().join("data");
    assert_eq!(printed(&["restore", "--data-dir", path(&data), path(&file)]), taken);
    let process = Process::start(found.path());
    let mut mutes = process.mutes().await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    for (writer, acknowledged) in acknowledged.iter().enumerate() {
        let expected: Vec<_> = acknowledged
            .iter()
            .filter(|(_, written)| **written <= revision)
            .map(|(user, _)| user.clone())
            .collect();
        assert!(expected.len() >= 20);
        assert_eq!(
            muted(&mut mutes, &format!("room{writer}")).await,
            expected,
            "writer {writer} at revision {revision}"
        );
    }
    let latest = acknowledged.iter().flat_map(|writes| writes.values()).max().copied().unwrap();
    assert!(mute(&mut mutes, "r", vec!["u".into()]).await.unwrap() as u64 > latest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_has_the_same_records_at_the_same_revisions() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = directory.path().join("file");
    let again = directory.path().join("again");
    every_kind(&data).await;
    let taken = printed(&["backup", "--data-dir", path(&data), "--output", path(&file)]);
    assert_eq!(printed(&["verify", "--data-dir", path(&data)]), taken);
    assert_eq!(printed(&["verify", "--backup", path(&file)]), taken);
    assert_eq!((taken["records"].as_str(), taken["member mutes"].as_str()), ("9", "2"));
    assert_eq!(printed(&["restore", "--data-dir", path(&again), path(&file)]), taken);
    let (_, original) = entries(&*open(&data).await.unwrap()).await;
    let (latest, restored) = entries(&*open(&again).await.unwrap()).await;
    assert_eq!(restored, original);
    // The hash covers the records, not their revisions.
    assert_ne!(latest.to_string(), taken["revision"]);
    assert_eq!(printed(&["verify", "--data-dir", path(&again)])["sha256"], taken["sha256"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_store_is_restored_completely() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = directory.path().join("file");
    let again = directory.path().join("again");
    let store = open(&data).await.unwrap();
    fill(&*store, 0..400).await;
    store.close().await.unwrap();
    drop(store);
    back_up(&data, &file).await;
    restore(&file, &again, START_MS).unwrap();
    assert_eq!(
        entries(&*open(&again).await.unwrap()).await.1,
        entries(&*open(&data).await.unwrap()).await.1
    );
}

/// Commits a hundred records with the longest reason at a time: some 60 KiB a commit.
async fn fill(store: &dyn Store, commits: std::ops::Range<usize>) {
    for commit in commits {
        let mut batch = Batch::of(&event());
        let why = Provenance { actor: "app".into(), reason: "r".repeat(512).into() };
        let value = Value::Restriction(Restriction {
            expire: Expire::NEVER,
            set_ms: 1,
            provenance: Arc::new(why),
        });
        let users: Vec<_> = (0..100).map(|number| format!("{commit:05}{number:02}")).collect();
        for user in &users {
            batch.put(Key::MemberMute { app: AGORA, room: ROOM, user }, value.clone());
        }
        store.commit(batch.encode()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_and_creates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let good = directory.path().join("good");
    let bad = directory.path().join("bad");
    every_kind(&data).await;
    back_up(&data, &good).await;
    let bytes = fs::read(&good).unwrap();
    let again = directory.path().join("again");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&bad, bytes).unwrap();
        let error =
            restore(&bad, &again, START_MS).err().unwrap_or_else(|| panic!("{what}: accepted"));
        assert!(error.to_string().contains(path(&bad)), "{what}: {error}");
        assert!(!again.exists(), "{what}");
    };
    for length in 0..bytes.len() {
        refused(&bytes[..length], &format!("cut at {length}"));
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes, &format!("changed at {at}"));
    }
    refused(&[&bytes[..], &[0]].concat(), "a byte more");
    fs::write(&bad, "mute-service backup 2\n").unwrap();
    assert!(restore(&bad, &again, START_MS).unwrap_err().to_string().contains("version is \"2\""));
    assert!(restore(&good, &again, START_MS).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_into_an_empty_directory_only() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = directory.path().join("file");
    every_kind(&data).await;
    back_up(&data, &file).await;
    let before = entries(&*open(&data).await.unwrap()).await;
    let refused = run(&["restore", "--data-dir", path(&data), path(&file)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is not empty"), "{}", text(&refused.stderr));
    assert_eq!(entries(&*open(&data).await.unwrap()).await, before);
    // The lost+found of a new file system does not count as content.
    let disk = directory.path().join("disk");
    fs::create_dir_all(disk.join("lost+found")).unwrap();
    assert!(restore(&file, &disk, START_MS).is_ok());
}

#[tokio::test]
async fn a_killed_restore_is_refused_and_a_failed_one_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let killed = directory.path().join("killed");
    let page = |at: u8| {
        (0..=255)
            .map(|key| Entry { key: vec![at, key], value: vec![at; 100], revision: 1 })
            .collect::<Vec<_>>()
    };
    let failing = (0..=255)
        .map(|at| if at < 255 { Ok(page(at)) } else { Err(StoreError::Full("test".into())) });
    // What a kill leaves when some pages are in the tree.
    let pages = failing.inspect(|page| {
        if page.is_err() {
            copy(&data, &killed);
        }
    });
    let failed = store::restore(&data, pages, 7);
    assert!(matches!(failed, Err(StoreError::Full(_))), "{failed:?}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    assert!(killed.join("store/db").metadata().unwrap().len() > 1 << 20);
    match open(&killed).await.err() {
        Some(error @ StoreError::Corrupt { .. }) => {
            assert!(error.to_string().contains("mute-service restore"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    let again = store::restore(&killed, std::iter::empty::<Result<_, StoreError>>(), 7);
    assert!(matches!(again, Err(StoreError::NotEmpty { .. })), "{again:?}");
    assert!(store::restore(&data, std::iter::empty::<Result<_, StoreError>>(), 7).is_ok());
    assert!(open(&data).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_positions_from_before_a_restore_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = directory.path().join("file");
    let old = every_kind(&data).await;
    back_up(&data, &file).await;
    let mut positions: Vec<Revision> = vec![0, old, old + 5, old + 10_000];
    // The second round restores the same backup a minute later, the third under a wrong clock.
    for (round, now_ms) in [START_MS, START_MS + 60_000, 0].into_iter().enumerate() {
        let again = directory.path().join(round.to_string());
        let latest = restore(&file, &again, now_ms).unwrap();
        let store = open(&again).await.unwrap();
        assert_eq!(entries(&*store).await.0, latest);
        for after in
            positions.iter().copied().filter(|_| now_ms > 0).chain([0, old, old + 5, latest - 1])
        {
            let first = store.watch(after).await.unwrap().next().await.unwrap();
            assert!(
                matches!(first, Err(StoreError::Compacted { .. })),
                "{after} of {latest}: {first:?}"
            );
        }
        let mut feed = store.watch(latest).await.unwrap();
        let next = store.commit(Batch::of(&event()).encode()).await.unwrap();
        assert_eq!(feed.next().await.unwrap().unwrap().revision, next);
        assert!(next > latest && latest >= old + backup::REVISION_LEAP);
        positions.extend([latest, next, next + 1_000]);
        // It works like any other store, also after a crash and after an orderly close.
        drop((store, feed));
        let store = open(&again).await.unwrap();
        assert!(store.commit(Batch::of(&event()).encode()).await.unwrap() > next);
        store.close().await.unwrap();
        drop(store);
        assert_eq!(entries(&*open(&again).await.unwrap()).await.0, next + 1);
    }
}

async fn get(server: &Server, headers: &[(&str, &str)]) -> (StatusCode, Vec<u8>) {
    let request =
        server.http.request(Method::GET, format!("http://{}/backup", server.addresses.admin));
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.unwrap();
    (response.status(), response.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn only_an_admin_service_of_all_apps_may_back_up() {
    let server = Server::start().await;
    let bearer = |token: &str| format!("Bearer {token}");
    let app = bearer(&server.app_token(OPEN));
    let user = bearer(&server.user_token(OPEN, "u"));
    let refusals = [
        (None, 401, "MISSING_TOKEN"),
        (Some(("authorization", "Bearer nobody")), 401, "MALFORMED_TOKEN"),
        (Some(SERVICE), 403, "PERMISSION_DENIED"),
        (Some(("authorization", app.as_str())), 403, "PERMISSION_DENIED"),
        (Some(("authorization", user.as_str())), 403, "PERMISSION_DENIED"),
        (Some(API_KEY), 403, "PERMISSION_DENIED"),
    ];
    for (header, status, reason) in refusals {
        let (found, body) = get(&server, header.as_slice()).await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((found.as_u16(), body["reason"].as_str()), (status, Some(reason)), "{header:?}");
    }
    let (status, bytes) = get(&server, &[KEEPER]).await;
    assert_eq!(status, StatusCode::OK);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backup");
    fs::write(&file, bytes).unwrap();
    let (header, content) = backup::verify(&file, &ProgressBar::hidden()).unwrap();
    assert_eq!((header.revision, header.at_ms), (server.service.view.revision(), START_MS));
    assert_eq!(content.records(), server.service.view.records());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_backup_runs_at_a_time_and_a_disconnect_ends_it() {
    let server = Server::start().await;
    // More than the buffers of a connection can hold.
    fill(&*server.service.store, 0..400).await;
    let mut stalled = tokio::net::TcpStream::connect(server.addresses.admin).await.unwrap();
    let request = format!("GET /backup HTTP/1.1\r\nhost: x\r\n{}: {}\r\n\r\n", KEEPER.0, KEEPER.1);
    stalled.write_all(request.as_bytes()).await.unwrap();
    stalled.read_exact(&mut [0; 1_024]).await.unwrap();
    let (status, body) = get(&server, &[KEEPER]).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(String::from_utf8(body).unwrap().contains("RATE_LIMITED"));
    // Writes and reads continue meanwhile.
    server.mute(AGORA, ROOM, &["user1"], None).await;
    assert!(!server.check(AGORA, ROOM, "user1").await.allowed);
    drop(stalled);
    let started = Instant::now();
    while get(&server, &[KEEPER]).await.0 != StatusCode::OK {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the backup without a reader is still running"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fails_leaves_no_file_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let output = directory.path().join("backup");
    let from = process.admin();
    let cases: [(&[&str], &str); 4] = [
        (&["--from", &from, "--token", "wrong"], "MALFORMED_TOKEN"),
        (&["--from", "http://127.0.0.1:1", "--token", "t"], "refused"),
        (&["--from", "https://127.0.0.1:1", "--token", "t"], "http://HOST:PORT"),
        (&["--data-dir", "/nowhere"], "no store in /nowhere"),
    ];
    for (arguments, word) in cases {
        let output = run(&[&["backup", "--output", path(&output)], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains(word), "{arguments:?}: {}", text(&output.stderr));
    }
    let usage = run(&["backup", "--output", path(&output)]);
    assert_eq!(usage.status.code(), Some(64));
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_str().unwrap().starts_with("backup")), "{names:?}");
}

#[test]
fn a_backup_of_version_1_stays_readable() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transfer/v1.backup");
    if std::env::var_os("MUTE_BLESS").is_some() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(every_kind(directory.path()));
        runtime.block_on(back_up(directory.path(), &golden));
    }
    let directory = tempfile::tempdir().unwrap();
    let (header, content) = backup::verify(&golden, &ProgressBar::hidden()).unwrap();
    assert_eq!((header.revision, header.at_ms, content.records()), (9, START_MS, 9));
    restore(&golden, directory.path(), START_MS).unwrap();
    let (_, restored) = tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(async { entries(&*open(directory.path()).await.unwrap()).await });
    assert_eq!(restored.iter().map(|entry| entry.revision).sum::<u64>(), 45);
}
