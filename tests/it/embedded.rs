//! What only the embedded engine promises: which files it writes, and that it records an orderly
//! stop.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::harness::skipped;
use futures_util::{StreamExt as _, future::join_all};
use mute_service::{
    model::{Event, EventKind, Expire, Key, Provenance, Restriction, Value},
    store::{self, Batch, EncodedBatch, Location, Retention, Store, StoreError, codec},
};

pub async fn open(directory: &Path) -> Result<Arc<dyn Store>, StoreError> {
    store::open(&Location::directory(directory), Retention { events: 1_000_000, age_ms: u64::MAX })
        .await
}

/// The largest commit that a call can make, apart from an idempotency record: 100 users with the
/// longest ids, and the longest reason.
pub fn largest_commit(room: usize) -> EncodedBatch {
    let user = |number: usize| format!("{number:03}{}", "\u{10ffff}".repeat(61));
    let app = format!("{}#{}", "o".repeat(64), "a".repeat(64));
    let room = format!("{room:0>128}");
    let users: Vec<_> = (0..100).map(user).collect();
    let reason: Box<str> = "r".repeat(512).into();
    let mut batch = Batch::of(&Event {
        room: room.clone(),
        users: users.clone(),
        reason: reason.to_string(),
        request_id: "i".repeat(36),
        ..Event::new(EventKind::Muted, &app, &user(0), 1)
    });
    let provenance = Provenance { actor: user(0).into(), reason };
    let value = Value::Restriction(Restriction {
        expire: Expire::at_ms(u64::MAX - 1),
        set_ms: u64::MAX,
        provenance: Arc::new(provenance),
    });
    for user in &users {
        batch.put(Key::MemberMute { app: &app, room: &room, user }, value.clone());
    }
    batch.encode()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_data_is_in_the_one_file_that_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    for round in 0..10 {
        let commits = (0..20).map(|number| store.commit(largest_commit(round * 20 + number)));
        assert!(join_all(commits).await.iter().all(Result::is_ok));
    }
    let blobs: Vec<_> = fs::read_dir(directory.path().join("store/blobs")).unwrap().collect();
    assert!(blobs.is_empty(), "{blobs:?}");
}

#[tokio::test]
async fn the_directory_records_whether_the_last_stop_was_orderly() {
    let directory = tempfile::tempdir().unwrap();
    let running = directory.path().join("RUNNING");
    let store = open(directory.path()).await.unwrap();
    assert!(running.exists());
    store.commit(largest_commit(0)).await.unwrap();
    drop(store);
    assert!(running.exists());
    let store = open(directory.path()).await.unwrap();
    store.close().await.unwrap();
    assert!(!running.exists());
    assert!(matches!(store.commit(largest_commit(1)).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_directory_in_use_is_refused_until_its_store_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).await.unwrap();
    assert!(matches!(open(directory.path()).await.err(), Some(StoreError::InUse { .. })));
    drop(first);
    assert!(open(directory.path()).await.is_ok());
}

/// Opens the directory and reads all of it.
pub async fn read_all(directory: &Path) -> Result<(u64, usize), StoreError> {
    let directory = directory.to_path_buf();
    let store = open(&directory).await?;
    let mut snapshot = store.snapshot().await?;
    let mut records = 0;
    while let Some(page) = snapshot.pages.next().await {
        for entry in page? {
            codec::decode(&entry.key, &entry.value)?;
            records += 1;
        }
    }
    Ok((snapshot.revision, records))
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_never_opens_with_acknowledged_writes_lost() {
    let original = tempfile::tempdir().unwrap();
    let store = open(original.path()).await.unwrap();
    for round in 0..40 {
        store.commit(largest_commit(round)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let size = fs::metadata(original.path().join("store/db")).unwrap().len();
    let mut refused = 0;
    let mut cases = Vec::new();
    cases.extend((0..24).map(|case| (case * size / 24 + case * 37, true)));
    cases.extend((1..8).map(|case| (case * size / 8 + 11, false)));
    for (offset, flip) in cases {
        let damaged = tempfile::tempdir().unwrap();
        copy(original.path(), damaged.path());
        let file =
            File::options().read(true).write(true).open(damaged.path().join("store/db")).unwrap();
        if flip {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
        } else {
            file.set_len(offset).unwrap();
        }
        match read_all(damaged.path()).await {
            Ok(read) => {
                assert_eq!(read, (40, 4_000), "damaged offset {offset} of {size}, flip {flip}")
            }
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("damaged offset {offset} of {size}, flip {flip}: {other}"),
        }
    }
    assert!(refused > 7, "{refused} refused");
    assert_eq!(read_all(original.path()).await.unwrap(), (40, 4_000));
}

/// A small tmpfs, unmounted when it is dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may not mount one.
    pub fn mount(mebibytes: u32) -> Option<Self> {
        let mount_point = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(mount_point.path())
            .output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(mount_point))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn grow(&self, mebibytes: u32) {
        self.remount(&format!("size={mebibytes}m"));
    }

    pub fn remount(&self, options: &str) {
        let remounted = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.0.path())
            .status();
        assert!(remounted.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_recovers_with_room() {
    let Some(disk) = SmallDisk::mount(20) else {
        return skipped("run as root, who may mount a tmpfs");
    };
    let directory = disk.path().join("data");
    let store = open(&directory).await.unwrap();
    let mut acknowledged = 0;
    let mut refused = 0;
    // The tree frees space now and then, so one refusal does not mean that the disk stays full.
    while refused < 20 {
        match store.commit(largest_commit(acknowledged)).await {
            Ok(_) => (acknowledged, refused) = (acknowledged + 1, 0),
            Err(StoreError::Full(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(acknowledged > 3, "{acknowledged} commits fit");
    disk.grow(200);
    let started = Instant::now();
    while let Err(error) = store.commit(largest_commit(acknowledged)).await {
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20), "writes are still refused");
    }
    let mut snapshot = store.snapshot().await.unwrap();
    let mut records = 0;
    while let Some(page) = snapshot.pages.next().await {
        match page {
            Ok(page) => records += page.len(),
            Err(error) => {
                assert!(
                    matches!(error, StoreError::Full(_))
                        && started.elapsed() < Duration::from_secs(20),
                    "{error}"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
                (records, snapshot) = (0, store.snapshot().await.unwrap());
            }
        }
    }
    assert_eq!(records, (acknowledged + 1) * 100);
    drop(store);
    assert_eq!(read_all(&directory).await.unwrap().1, records);
}
