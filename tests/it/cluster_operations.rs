//! Operation of a cluster: a full quota, compaction, restores, logins, certificates, and replaced
//! members.

use std::{fs, path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mute_service::proto::v1 as pb;
use serde_json::json;

use crate::{
    certificates::Authority,
    cluster::{check, readiness, replica, replica_with, until},
    etcd::Etcd,
    harness::{SERVICE, reason, with},
    process::{mute, muted, program, text},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_quota_refuses_only_writes_until_there_is_room() {
    let Some(etcd) = Etcd::start(1, &["--quota-backend-bytes", "4194304"]) else { return };
    let (replica, _replica) =
        replica_with(&etcd, &["--max-view-age-seconds", "3", "--refuse-old-views"]);
    let mut mutes = replica.mutes().await;
    let mut latest_revision = 0;
    let refused = loop {
        let users = (0..100).map(|user| format!("u{user}")).collect();
        let message = pb::MuteMembersRequest {
            app: "Open".into(),
            room: "room".into(),
            users,
            reason: "r".repeat(200),
            ..Default::default()
        };
        match mutes.mute_members(with(message, &[SERVICE])).await {
            Ok(answer) => latest_revision = answer.into_inner().revision,
            Err(status) => break status,
        }
    };
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::ResourceExhausted, "STORE_FULL")
    );
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(readiness(&replica).await, (200, "ok".into()));
    assert!(!check(&replica, "u1").await.unwrap());
    // What an operator does until there is room: compact, defragment, and disarm the alarm.
    let member = &etcd.members[0];
    let mut tries = 0;
    let revision = loop {
        etcd.compact().await;
        let _ = member.call("maintenance/defragment", json!({})).await;
        let alarms = member.call("maintenance/alarm", json!({})).await.unwrap_or_default();
        let disarm = json!({"action": "DEACTIVATE", "alarm": "NOSPACE", "memberID": alarms["alarms"][0]["memberID"]});
        let _ = member.call("maintenance/alarm", disarm).await;
        match mute(&mut mutes, "room", vec!["late".into()]).await {
            Ok(revision) => break revision,
            Err(status) => assert_eq!(reason(&status), "STORE_FULL"),
        }
        tries += 1;
        assert!(tries < 20, "no room after {tries} tries");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(revision > latest_revision);
    assert_eq!(muted(&mut mutes, "room").await.len(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_a_compaction_catches_up_with_its_watchers() {
    let Some(mut etcd) = Etcd::start(1, &[]) else { return };
    let (slept, directory) = replica(&etcd);
    let (awake, _awake) = replica(&etcd);
    let mut writer = awake.mutes().await;
    mute(&mut writer, "room", vec!["before".into()]).await.unwrap();
    until("both have it", async || !check(&slept, "before").await.unwrap()).await;
    let message = pb::WatchRequest { app: "Open".into(), ..Default::default() };
    let mut watch =
        slept.mutes().await.watch(with(message, &[SERVICE])).await.unwrap().into_inner();
    watch.message().await.unwrap();
    slept.signal("-STOP");
    // The restart ends its watch, and the compaction drops what it missed.
    etcd.members[0].kill();
    etcd.members[0].start_again();
    until("the other writes again", async || {
        mute(&mut writer.clone(), "room", vec!["meanwhile".into()]).await.is_ok()
    })
    .await;
    let unmute = pb::UnmuteMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        users: vec!["before".into()],
        ..Default::default()
    };
    writer.unmute_members(with(unmute, &[SERVICE])).await.unwrap();
    until("the compaction", async || {
        etcd.compact().await;
        let old = json!({"key": STANDARD.encode("mute"), "revision": 2});
        etcd.members[0].call("kv/range", old).await.is_none()
    })
    .await;
    slept.signal("-CONT");
    until("it has what it missed", async || {
        !check(&slept, "meanwhile").await.unwrap() && check(&slept, "before").await.unwrap()
    })
    .await;
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(log.contains("the cluster was compacted behind this replica"), "{log}");
    // The cluster's watch has lost these changes; the service's own history has them.
    let mut changes = Vec::new();
    while changes.len() < 2 {
        if let Some(pb::watch_response::Event::Change(change)) =
            watch.message().await.unwrap().unwrap().event
        {
            changes.push((change.kind(), change.users));
        }
    }
    use pb::ChangeKind::{Muted, Unmuted};
    assert_eq!(
        changes,
        [(Muted, vec!["meanwhile".to_owned()]), (Unmuted, vec!["before".to_owned()])]
    );
}

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_restored_to_an_older_state_stops_its_replicas() {
    let Some(mut etcd) = Etcd::start(1, &[]) else { return };
    let (mut behind, directory) = replica(&etcd);
    let (writer, _writer) = replica(&etcd);
    mute(&mut writer.mutes().await, "room", vec!["before".into()]).await.unwrap();
    let disk = etcd.disk(0);
    let kept = tempfile::tempdir().unwrap();
    etcd.members[0].kill();
    copy(&disk, &kept.path().join("kept"));
    etcd.members[0].start_again();
    for number in 0..50 {
        let user = vec![format!("lost{number}")];
        until("it writes", async || {
            mute(&mut writer.mutes().await, "room", user.clone()).await.is_ok()
        })
        .await;
    }
    until("both have it", async || !check(&behind, "lost49").await.unwrap()).await;
    drop(writer);
    etcd.members[0].kill();
    fs::remove_dir_all(&disk).unwrap();
    copy(&kept.path().join("kept"), &disk);
    etcd.members[0].start_again();
    assert_eq!(behind.exit_code(Duration::from_secs(20)), Some(1));
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(log.contains("an older state has replaced"), "{log}");
    let (again, _again) = replica(&etcd);
    mute(&mut again.mutes().await, "room", vec!["after".into()]).await.unwrap();
    assert_eq!(muted(&mut again.mutes().await, "room").await, ["after", "before"]);
}

/// As after `etcdutl snapshot restore --bump-revision`: older records, and revisions above all that
/// were ever used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bumped_restore_of_the_cluster_stops_replicas_too() {
    let Some(mut etcd) = Etcd::start(1, &[]) else { return };
    let (mut behind, directory) = replica(&etcd);
    mute(&mut behind.mutes().await, "room", vec!["before".into()]).await.unwrap();
    let disk = etcd.disk(0);
    let kept = tempfile::tempdir().unwrap();
    etcd.members[0].kill();
    copy(&disk, &kept.path().join("kept"));
    etcd.members[0].start_again();
    until("it writes", async || {
        mute(&mut behind.mutes().await, "room", vec!["lost".into()]).await.is_ok()
    })
    .await;
    behind.signal("-STOP");
    etcd.members[0].kill();
    fs::remove_dir_all(&disk).unwrap();
    copy(&kept.path().join("kept"), &disk);
    etcd.members[0].start_again();
    let put = json!({"key": STANDARD.encode("another's"), "value": STANDARD.encode("x")});
    until("the cluster answers", async || {
        etcd.members[0].call("kv/put", put.clone()).await.is_some()
    })
    .await;
    for _ in 0..200 {
        assert!(etcd.members[0].call("kv/put", put.clone()).await.is_some());
    }
    etcd.compact().await;
    behind.signal("-CONT");
    let mut client = behind.mutes().await;
    let write = tokio::spawn(async move { mute(&mut client, "room", vec!["after".into()]).await });
    assert_eq!(behind.exit_code(Duration::from_secs(20)), Some(1));
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(log.contains("an older state has replaced"), "{log}");
    // The write is answered or its connection ends; it does not hang.
    let _ = tokio::time::timeout(Duration::from_secs(5), write)
        .await
        .expect("the write hangs")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_login_is_renewed_and_a_refused_one_reported() {
    // The token of a login expires after a second without use.
    let Some(mut etcd) = Etcd::start(1, &["--auth-token-ttl", "1"]) else { return };
    let member = &etcd.members[0];
    until("it answers", async || {
        member.call("auth/role/add", json!({"name": "mute"})).await.is_some()
    })
    .await;
    let below = json!({"permType": "READWRITE", "key": STANDARD.encode("mute/"), "range_end": STANDARD.encode("mute0")});
    for (call, request) in [
        ("auth/role/grant", json!({"name": "mute", "perm": below})),
        ("auth/user/add", json!({"name": "mute", "password": "secret of mute"})),
        ("auth/user/grant", json!({"user": "mute", "role": "mute"})),
        ("auth/role/add", json!({"name": "root"})),
        ("auth/user/add", json!({"name": "root", "password": "secret of root"})),
        ("auth/user/grant", json!({"user": "root", "role": "root"})),
        ("auth/enable", json!({})),
    ] {
        assert!(member.call(call, request).await.is_some(), "{call}");
    }
    let files = tempfile::tempdir().unwrap();
    let password = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let right = password("right", "secret of mute\n");
    let wrong = password("wrong", "guess\n");
    for (arguments, expected) in [
        (vec![], "none is configured, and the cluster requires one: set --etcd-user"),
        (vec!["--etcd-user", "mute", "--etcd-password-file", &wrong], "authentication failed"),
        (
            vec!["--etcd-user", "mute", "--etcd-password-file", &right, "--etcd-prefix", "other/"],
            "permission denied",
        ),
    ] {
        let error = startup_error(&etcd, &arguments);
        assert!(
            error.contains(expected) && !error.contains("secret") && !error.contains("guess"),
            "{expected}: {error}"
        );
    }
    let (replica, _replica) =
        replica_with(&etcd, &["--etcd-user", "mute", "--etcd-password-file", &right]);
    let mut mutes = replica.mutes().await;
    for round in 0..3 {
        mute(&mut mutes, "room", vec![format!("u{round}")]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_300)).await;
    }
    // A restarted member does not know earlier tokens.
    etcd.members[0].kill();
    etcd.members[0].start_again();
    until("writes continue", async || {
        mute(&mut mutes.clone(), "room", vec!["again".into()]).await.is_ok()
    })
    .await;
    until("the feed continues", async || !check(&replica, "again").await.unwrap()).await;
    assert_eq!(muted(&mut mutes, "room").await, ["again", "u0", "u1", "u2"]);
}

/// What the program prints when it cannot start.
fn startup_error(etcd: &Etcd, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, "").unwrap();
    let started = program()
        .args([
            "serve",
            "--config",
            config.to_str().unwrap(),
            "--store",
            "etcd",
            "--etcd-endpoints",
            &etcd.urls(),
        ])
        .args([
            "--grpc-addr",
            "127.0.0.1:0",
            "--rest-addr",
            "127.0.0.1:0",
            "--admin-addr",
            "127.0.0.1:0",
        ])
        .args(arguments)
        .output()
        .unwrap();
    assert!(!started.status.success());
    text(&started.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_both_sides_verify_certificates() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let ours = Authority::new(files.path(), "ca");
    let others = Authority::new(files.path(), "other-ca");
    ours.issue("client", "mute-service");
    others.issue("stranger", "mute-service");
    let addr = "127.251.0.1".to_owned();
    ours.issue("member", &addr);
    let arguments = [
        "--cert-file",
        &path("member.pem"),
        "--key-file",
        &path("member.key"),
        "--client-cert-auth",
        "--trusted-ca-file",
        &path("ca.pem"),
    ];
    let Some(etcd) = Etcd::start_at(&[addr], &arguments, |_, program| Command::new(program)) else {
        return;
    };
    let client_arguments = |name: &str, ca: &str| {
        [
            "--etcd-ca",
            &path(ca),
            "--etcd-cert",
            &path(&format!("{name}.pem")),
            "--etcd-key",
            &path(&format!("{name}.key")),
        ]
        .map(str::to_owned)
    };
    for (name, ca) in [("client", "other-ca.pem"), ("stranger", "ca.pem")] {
        let arguments = client_arguments(name, ca);
        startup_error(&etcd, &arguments.each_ref().map(String::as_str));
    }
    let arguments = client_arguments("client", "ca.pem");
    let (replica, _replica) = replica_with(&etcd, &arguments.each_ref().map(String::as_str));
    mute(&mut replica.mutes().await, "room", vec!["u".into()]).await.unwrap();
    assert!(!check(&replica, "u").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_replaced_one_by_one_under_a_running_replica() {
    let Some(mut etcd) = Etcd::start(3, &[]) else { return };
    let (replica, _replica) = replica(&etcd);
    let mut mutes = replica.mutes().await;
    let mut expected = Vec::new();
    for number in 0..2 {
        etcd.replace(number).await;
        let user = format!("u{number}");
        until("writes continue", async || {
            mute(&mut mutes.clone(), "room", vec![user.clone()]).await.is_ok()
        })
        .await;
        expected.push(user);
        until("the new member has caught up", async || {
            etcd.members[number].call("kv/range", json!({"key": "bXV0ZQ=="})).await.is_some()
        })
        .await;
    }
    assert_eq!(muted(&mut mutes, "room").await, expected);
}
