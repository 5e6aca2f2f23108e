//! Several replicas over a real etcd cluster: a write that one acknowledged is visible at the
//! others, also when a member dies.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use tonic::{Request, transport::Channel};

use crate::{
    etcd::Etcd,
    harness::{SERVICE, reason, with},
    process::{Process, mute, muted},
    watch::Watch,
};

/// A replica over the cluster, with a directory of its own for its configuration.
pub fn replica(etcd: &Etcd) -> (Process, tempfile::TempDir) {
    replica_with(etcd, &[])
}

pub fn replica_with(etcd: &Etcd, arguments: &[&str]) -> (Process, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let urls = etcd.urls();
    let arguments = [&["--store", "etcd", "--etcd-endpoints", &urls], arguments].concat();
    (Process::spawn(directory.path(), directory.path(), &arguments).ready(), directory)
}

pub async fn check(replica: &Process, user: &str) -> Result<bool, tonic::Status> {
    let check = pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: user.into(),
        min_revision: 0,
    };
    replica
        .mutes()
        .await
        .check_send(with(check, &[SERVICE]))
        .await
        .map(|answer| answer.into_inner().allowed)
}

/// Status and text of /readyz.
pub async fn readiness(replica: &Process) -> (u16, String) {
    let answer = reqwest::get(format!("{}/readyz", replica.admin())).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits until this holds, for at most 20 s.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_acknowledged_by_one_replica_is_visible_at_another() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let (one, _one) = replica(&etcd);
    let (other, _other) = replica(&etcd);
    let mut writer = one.mutes().await;
    let mut reader = other.mutes().await;
    for number in 0..50 {
        let min_revision = mute(&mut writer, "room", vec![format!("u{number}")]).await.unwrap();
        let user = format!("u{number}");
        let check =
            pb::CheckSendRequest { app: "Open".into(), room: "room".into(), user, min_revision };
        let answer = reader.check_send(with(check, &[SERVICE])).await.unwrap().into_inner();
        assert!(!answer.allowed, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_at_any_replica_from_anothers_revision() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let (one, _one) = replica(&etcd);
    let (other, _other) = replica(&etcd);
    let mut writer = one.mutes().await;
    let watcher = other.mutes().await;
    for number in 0..200 {
        let revision = mute(&mut writer, "room", vec![format!("u{number}")]).await.unwrap();
        // The other replica may not have this revision yet: it must not report it as lost.
        let (_, begun) = Watch::begun(watcher.clone(), "Open", "", Some(revision)).await;
        assert!(begun >= revision);
    }
    // A revision that was never committed is refused without a wait.
    let lost = mute(&mut writer, "room", vec!["last".into()]).await.unwrap() + 1_000_000;
    let started = Instant::now();
    let refused = Watch::start(watcher, "Open", "", Some(lost)).await.map(drop).unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::OutOfRange, "REVISION_COMPACTED")
    );
    assert!(started.elapsed() < Duration::from_secs(1), "refused after {:?}", started.elapsed());
}

/// A mute with a request id, in a room of its own.
fn request(number: usize) -> Request<pb::MuteMembersRequest> {
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: format!("room{number}"),
        users: vec!["u".into()],
        request_id: format!("request{number}"),
        ..Default::default()
    };
    with(message, &[SERVICE])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_at_two_replicas_at_once_takes_effect_once() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let (one, _one) = replica(&etcd);
    let (other, _other) = replica(&etcd);
    let mut one = one.mutes().await;
    let mut other = other.mutes().await;
    for round in 0..30 {
        let (first, second) =
            tokio::join!(one.mute_members(request(round)), other.mute_members(request(round)));
        assert_eq!(first.unwrap().into_inner(), second.unwrap().into_inner());
    }
    let list = pb::ListEventsRequest { app: "Open".into(), page_size: 1_000, ..Default::default() };
    assert_eq!(
        one.list_events(with(list, &[SERVICE])).await.unwrap().into_inner().events.len(),
        30
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_gets_the_first_answer_at_every_replica() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let (one, _one) = replica(&etcd);
    let (other, _other) = replica(&etcd);
    // Enough at a time that some share a transaction of the cluster.
    let all = async |mutes: MuteServiceClient<Channel>| {
        let call = |number| {
            let mut mutes = mutes.clone();
            async move { mutes.mute_members(request(number)).await.unwrap().into_inner() }
        };
        join_all((0..200).map(call)).await
    };
    let first = all(one.mutes().await).await;
    let (late, _late) = replica(&etcd);
    for replica in [&one, &other, &late] {
        assert_eq!(all(replica.mutes().await).await, first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_survive_any_killed_or_stopped_member() {
    let Some(mut etcd) = Etcd::start(3, &[]) else { return };
    let (one, _one) = replica(&etcd);
    let (other, _other) = replica(&etcd);
    let mut writers = [one.mutes().await, other.mutes().await];
    let mut acknowledged = Vec::new();
    for (round, fault) in
        ["kill", "-STOP", "kill", "-STOP", "kill", "-STOP"].into_iter().enumerate()
    {
        let member = &mut etcd.members[round / 2];
        if fault == "kill" {
            member.kill()
        } else {
            member.signal(fault)
        }
        let started = Instant::now();
        let mut answered = 0;
        while answered < 20 {
            let user = format!("u{round}-{}", acknowledged.len());
            if mute(&mut writers[answered % 2], "room", vec![user.clone()]).await.is_ok() {
                answered += 1;
                acknowledged.push(user);
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "round {round}: {answered} answered"
            );
        }
        if fault == "kill" { member.start_again() } else { member.signal("-CONT") }
    }
    acknowledged.sort_unstable();
    for replica in [&one, &other] {
        let started = Instant::now();
        loop {
            let found = muted(&mut replica.mutes().await, "room").await;
            // A write that was not acknowledged may be there too.
            if acknowledged.iter().all(|user| found.binary_search(user).is_ok()) {
                break;
            }
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "a replica lacks an acknowledged write"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_its_cluster_says_so_and_refuses_writes() {
    let Some(mut etcd) = Etcd::start(1, &[]) else { return };
    let (lenient, _lenient) = replica_with(&etcd, &["--max-view-age-seconds", "3"]);
    let (strict, _strict) =
        replica_with(&etcd, &["--max-view-age-seconds", "3", "--refuse-old-views"]);
    let mut writer = lenient.mutes().await;
    mute(&mut writer, "room", vec!["muted".into()]).await.unwrap();
    until("the other replica has the mute", async || !check(&strict, "muted").await.unwrap()).await;
    assert_eq!(
        (readiness(&lenient).await, readiness(&strict).await),
        ((200, "ok".into()), (200, "ok".into()))
    );
    etcd.members[0].kill();
    until("it reports the lost contact", async || {
        readiness(&lenient).await.1.starts_with("no contact with the cluster for")
    })
    .await;
    assert_eq!(readiness(&lenient).await.0, 200);
    assert!(!check(&lenient, "muted").await.unwrap() && check(&lenient, "other").await.unwrap());
    until("the strict one refuses", async || readiness(&strict).await.0 == 503).await;
    assert_eq!(check(&strict, "muted").await.unwrap_err().code(), tonic::Code::Unavailable);
    let started = Instant::now();
    let refused = mute(&mut writer, "room", vec!["late".into()]).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(5), "refused after {:?}", started.elapsed());
    etcd.members[0].start_again();
    until("it is ready again", async || readiness(&strict).await == (200, "ok".into())).await;
    mute(&mut writer, "room", vec!["again".into()]).await.unwrap();
    until("the other replica follows again", async || !check(&strict, "again").await.unwrap())
        .await;
}
