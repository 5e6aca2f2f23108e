//! An import ends watches, live ones and those in history, in one process and in a cluster. A burst
//! of changes does not.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use mute_service::{
    model::{Event, EventKind, Expire, Key, Provenance, Restriction, Value},
    proto::v1 as pb,
    store::Batch,
};
use tokio::time::timeout;
use tonic::Code;

use crate::{cluster::replica, etcd::Etcd, harness::*, process::mute, watch::Watch};

/// Commits what `import` commits for one record of the app.
async fn import_one(server: &Server, app: &str) -> i64 {
    let mut batch = Batch::of(&Event::new(EventKind::Imported, app, "service", START_MS));
    let restriction = Restriction {
        expire: Expire::NEVER,
        set_ms: START_MS,
        provenance: Provenance { actor: "app".into(), reason: "".into() }.into(),
    };
    batch
        .put(Key::MemberMute { app, room: "r", user: "imported" }, Value::Restriction(restriction));
    server.service.store.commit(batch.encode()).await.unwrap().try_into().unwrap()
}

async fn ends_compacted(watch: &mut Watch) {
    let (status, _) =
        timeout(Duration::from_secs(10), watch.end()).await.expect("the watch does not end");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "REVISION_COMPACTED"));
}

#[tokio::test]
async fn an_import_ends_every_watch_of_its_app() {
    let server = Server::start().await;
    let mutes = server.mutes().await;
    let before = server.mute(OPEN, "r", &["u"], None).await.revision;
    let mut live = Vec::new();
    for room in ["", "r", "quiet"] {
        for after in [None, Some(before - 1)] {
            live.push(Watch::begun(mutes.clone(), OPEN, room, after).await.0);
        }
    }
    let (mut other, _) = Watch::begun(mutes.clone(), AGORA, "", None).await;
    while server.service.hub.watchers() < live.len() + 1 {
        tokio::task::yield_now().await;
    }
    let imported = import_one(&server, OPEN).await;
    for watch in &mut live {
        ends_compacted(watch).await;
    }
    // Watches of other apps continue, and so does one that starts after the import.
    let (mut again, _) = Watch::begun(mutes.clone(), OPEN, "r", Some(imported)).await;
    let own = server.mute(AGORA, ROOM, &["user1"], None).await.revision;
    assert_eq!(other.change().await.unwrap().revision, own);
    let later = server.mute(OPEN, "r", &["u"], None).await.revision;
    assert_eq!(again.change().await.unwrap().revision, later);
    let (mut late, _) = Watch::begun(mutes, OPEN, "quiet", Some(before)).await;
    ends_compacted(&mut late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_into_a_running_cluster_ends_its_watches() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let (one, _one) = replica(&etcd);
    let (other, directory) = replica(&etcd);
    let from = mute(&mut one.mutes().await, "room", vec!["u".into()]).await.unwrap();
    let mut live = Vec::new();
    for replica in [&one, &other] {
        for (room, after) in [("", None), ("room", None), ("room", Some(from)), ("quiet", None)] {
            live.push(Watch::begun(replica.mutes().await, "Open", room, after).await.0);
        }
    }
    let line = r#"{"kind":"member_mute","app":"Open","room":"room","user":"v","set":"2022-01-13T07:59:10Z"}"#;
    let file = directory.path().join("export");
    fs::write(&file, crate::export::framed(&[line])).unwrap();
    let import =
        ["import", "--store", "etcd", "--etcd-endpoints", &etcd.urls(), file.to_str().unwrap()];
    let imported = Command::new(env!("CARGO_BIN_EXE_mute-service")).args(import).output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    for watch in &mut live {
        ends_compacted(watch).await;
    }
}

/// Mutes one user in each of this many rooms. All mutes end together.
async fn mute_rooms(server: &Server, rooms: usize) {
    let mutes = server.mutes().await;
    for at in (0..rooms).step_by(200) {
        let calls = (at..rooms.min(at + 200)).map(|room| {
            let mut mutes = mutes.clone();
            let users = strings(&["u"]);
            let duration = Some(duration(60_000));
            let message = pb::MuteMembersRequest {
                app: OPEN.into(),
                room: format!("r{room}"),
                users,
                duration,
                ..Default::default()
            };
            async move { mutes.mute_members(with(message, &[SERVICE])).await.unwrap() }
        });
        futures_util::future::join_all(calls).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_reader_receives_every_one_of_many_expiries() {
    for rooms in [400, 5_000] {
        let server = Server::start().await;
        mute_rooms(&server, rooms).await;
        let (mut watch, _) = Watch::begun(server.mutes().await, OPEN, "", None).await;
        while server.service.hub.watchers() == 0 {
            tokio::task::yield_now().await;
        }
        server.advance(60_000);
        server.sweep().await;
        let mut ended = BTreeSet::new();
        while ended.len() < rooms {
            ended.insert(watch.change().await.unwrap().room);
        }
        assert_eq!(server.service.hub.slow_watchers(), 0);
    }
}
