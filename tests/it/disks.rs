//! Bad disks under the real program: read-only, failing, full, damaged. Writers get an error,
//! checks continue, and no acknowledged write is lost.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mute_service::{
    proto::v1::{self as pb, mute_service_client::MuteServiceClient},
    store::StoreError,
};
use serde_json::{Value, json};
use tonic::{Code, Status, transport::Channel};

use crate::{
    embedded::{SmallDisk, copy, largest_commit, open, read_all},
    harness::{SERVICE, reason, sent, skipped, strings, with},
    lossy_disk::{Disk, Health},
    process::{Process, mute, muted, run, text},
};

/// What the program prints when it refuses to start with this data directory.
fn startup_error(data: &Path) -> String {
    let addrs =
        ["--grpc-addr", "127.0.0.1:0", "--rest-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"];
    let output = run(&[&["serve", "--data-dir", data.to_str().unwrap()], &addrs[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr)
}

async fn may_speak(mutes: &mut MuteServiceClient<Channel>, user: &str) -> bool {
    let message = pb::CheckSendRequest {
        app: "Open".into(),
        room: "r".into(),
        user: user.into(),
        ..Default::default()
    };
    mutes.check_send(with(message, &[SERVICE])).await.unwrap().into_inner().allowed
}

/// 100 users with the longest reason, in a room of their own.
async fn mute_many(mutes: &mut MuteServiceClient<Channel>, call: usize) -> Result<(), Status> {
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: format!("room{call}"),
        users: (0..100).map(|user| format!("user{user}")).collect(),
        reason: "r".repeat(512),
        ..Default::default()
    };
    mutes.mute_members(with(message, &[SERVICE])).await.map(drop)
}

/// Mutes a user over REST.
async fn mute_over_rest(process: &Process, user: &str) -> (u16, Value) {
    let body = json!({ "usernames": [user], "mute_duration": -1 }).to_string();
    let url = format!("{}/app-id/Open/chatrooms/r/mute", process.rest());
    sent(reqwest::Client::new().post(url).header(SERVICE.0, SERVICE.1).body(body)).await
}

#[tokio::test]
async fn a_read_only_directory_stops_the_start_and_is_named() {
    let Some(disk) = SmallDisk::mount(20) else {
        return skipped("run as root, who may mount a tmpfs");
    };
    let new = disk.path().join("new");
    let used = disk.path().join("used");
    drop(open(&used).await.unwrap());
    disk.remount("ro");
    for data in [new, used] {
        let error = startup_error(&data);
        assert!(error.contains(data.to_str().unwrap()) && error.contains("Read-only"), "{error}");
    }
}

async fn a_failing_disk_refuses_writes_and_answers_checks(health: Health) {
    let Some(disk) = Disk::mount() else { return skipped("run as root with /dev/fuse") };
    let directory = tempfile::tempdir().unwrap();
    let process = Process::spawn(directory.path(), disk.path(), &[]).ready();
    let mut mutes = process.mutes().await;
    for user in ["a", "b", "c"] {
        mute(&mut mutes, "r", strings(&[user])).await.unwrap();
    }
    disk.set_health(health);
    for round in 0..3 {
        let refused = mute(&mut mutes, "r", strings(&["d"])).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unavailable, "STORE_UNAVAILABLE"),
            "{refused:?}"
        );
        let (status, body) = mute_over_rest(&process, "d").await;
        assert_eq!((status, &body["error"]), (503, &json!("service_unavailable")), "{body}");
        assert!(!may_speak(&mut mutes, "a").await && may_speak(&mut mutes, "d").await);
        if round == 1 {
            // What the failed write left on the disk is unknown, so a recovered disk is no reason
            // to accept writes.
            disk.set_health(Health::Well);
        }
    }
    drop(process);
    let process = Process::spawn(directory.path(), disk.path(), &[]).ready();
    let mut mutes = process.mutes().await;
    let mut found = muted(&mut mutes, "r").await;
    // The outcome of this write is unknown.
    found.retain(|user| user != "d");
    assert_eq!(found, ["a", "b", "c"]);
    mute(&mut mutes, "r", strings(&["d"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_read_only_stops_writes_and_not_checks() {
    a_failing_disk_refuses_writes_and_answers_checks(Health::ReadOnly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_writes_stops_writes_and_not_checks() {
    a_failing_disk_refuses_writes_and_answers_checks(Health::FailsWrites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_syncs_stops_writes_and_not_checks() {
    a_failing_disk_refuses_writes_and_answers_checks(Health::FailsSyncs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_reported_and_writes_resume_with_room() {
    let Some(disk) = SmallDisk::mount(20) else {
        return skipped("run as root, who may mount a tmpfs");
    };
    let directory = tempfile::tempdir().unwrap();
    let process = Process::spawn(directory.path(), disk.path(), &["--journal-mib", "1"]).ready();
    let mut mutes = process.mutes().await;
    mute(&mut mutes, "r", strings(&["early"])).await.unwrap();
    let mut acknowledged = 0;
    let mut refused = 0;
    // The tree frees space now and then, so one refusal does not mean that the disk stays full.
    while refused < 20 {
        match mute_many(&mut mutes, acknowledged).await {
            Ok(()) => (acknowledged, refused) = (acknowledged + 1, 0),
            Err(status) => {
                assert_eq!(
                    (status.code(), reason(&status).as_str()),
                    (Code::ResourceExhausted, "STORE_FULL"),
                    "{status:?}"
                );
                refused += 1;
            }
        }
    }
    assert!(acknowledged > 20, "{acknowledged} calls fit");
    let rest = mute_over_rest(&process, "late").await;
    assert!(
        (rest.0, &rest.1["error"]) == (503, &json!("service_unavailable")) || rest.0 == 200,
        "{rest:?}"
    );
    assert!(!may_speak(&mut mutes, "early").await);
    disk.grow(200);
    let started = Instant::now();
    while let Err(status) = mute_many(&mut mutes, acknowledged).await {
        assert_eq!(reason(&status), "STORE_FULL");
        assert!(started.elapsed() < Duration::from_secs(20), "writes are still refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(process);
    let process = Process::spawn(directory.path(), disk.path(), &[]).ready();
    let mut mutes = process.mutes().await;
    for call in 0..=acknowledged {
        assert_eq!(
            muted(&mut mutes, &format!("room{call}")).await.len(),
            100,
            "call {call} of {acknowledged}"
        );
    }
    assert!(!may_speak(&mut mutes, "early").await);
}

async fn commit_ten(data: &Path) {
    let store = open(data).await.unwrap();
    for number in 0..10 {
        store.commit(largest_commit(number)).await.unwrap();
    }
}

/// A store after a crash, with all its commits in two files of the journal: the oldest and the
/// newest.
async fn create_two_journal_files(data: &Path) -> [PathBuf; 2] {
    commit_ten(data).await;
    // Opening the store moves the first ten into the tree, so a copy of it makes the second ten.
    let elsewhere = tempfile::tempdir().unwrap();
    copy(data, elsewhere.path());
    commit_ten(elsewhere.path()).await;
    let files = [0, 10].map(|after| format!("journal/{after:020}"));
    for name in [&files[1], "SYNCED"] {
        fs::copy(elsewhere.path().join(name), data.join(name)).unwrap();
    }
    files.map(|file| data.join(file))
}

/// The offset of the last byte that is not zero.
fn used(file: &Path) -> u64 {
    fs::read(file).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_of_two_files_is_replayed_completely() {
    let data = tempfile::tempdir().unwrap();
    create_two_journal_files(data.path()).await;
    // The second ten commits overwrite the records of the first ten.
    assert_eq!(read_all(data.path()).await.unwrap(), (20, 1_000));
}

async fn assert_damage_is_refused(damage: impl Fn(&File, u64)) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let [_, newest] = create_two_journal_files(&data).await;
    let file = File::options().read(true).write(true).open(&newest).unwrap();
    damage(&file, used(&newest) / 2);
    let Err(StoreError::Corrupt { place, .. }) = read_all(&data).await else {
        panic!("the damaged journal is accepted")
    };
    assert!(place.starts_with(data.to_str().unwrap()), "{place}");
    let error = startup_error(&data);
    assert!(error.contains(data.to_str().unwrap()) && error.contains("damaged"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_with_a_flipped_byte_is_refused_by_name() {
    assert_damage_is_refused(|file, at| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_journal_is_refused_by_name() {
    assert_damage_is_refused(|file, at| file.set_len(at).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_with_a_gap_is_refused_by_file_name() {
    let cases: [fn(&Path); 2] = [
        |oldest| fs::remove_file(oldest).unwrap(),
        |oldest| {
            File::options().write(true).open(oldest).unwrap().set_len(used(oldest) / 2).unwrap();
        },
    ];
    for damage in cases {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let [oldest, newest] = create_two_journal_files(&data).await;
        damage(&oldest);
        let Err(StoreError::Corrupt { place, .. }) = read_all(&data).await else {
            panic!("the damaged journal is accepted")
        };
        assert_eq!(place, newest.display().to_string());
    }
}
