//! Deleted records have no effect from the commit of the deletion on: before the sweep, after a
//! restart, and next to newer records.

use std::path::Path;

use futures_util::TryStreamExt as _;
use mute_service::{
    model::{Event, EventKind, Expire, Key, Provenance, Restriction, RoomProfile, Value},
    proto::v1 as pb,
    store::{self, Batch, Location, Retention, Revision, Store, StoreError, codec},
    sweep::Sweeper,
    transfer::{export, import, merge},
    view::{LoadedView, View},
};

use crate::harness::*;

const APP: &str = "a";

async fn open(directory: &Path) -> (std::sync::Arc<dyn Store>, LoadedView) {
    let retention = Retention { events: 1_000_000, age_ms: u64::MAX };
    let store = store::open(&Location::directory(directory), retention).await.unwrap();
    let loaded = View::load(&*store).await.unwrap();
    (store, loaded)
}

fn restriction() -> Restriction {
    Restriction {
        expire: Expire::NEVER,
        set_ms: 1,
        provenance: std::sync::Arc::new(Provenance::default()),
    }
}

fn batch<'a>() -> Batch<'a> {
    Batch::of(&Event::new(EventKind::Muted, APP, "", 1))
}

/// One record of each kind that a room has, and a notification mute of the room.
fn filled_room(is_registered: bool) -> Batch<'static> {
    let app = APP;
    let room = "r";
    let user = "u";
    let mut batch = batch();
    if is_registered {
        batch.put(
            Key::Room { app, room },
            Value::Room(RoomProfile { owner: "o".into(), ..RoomProfile::default() }),
        );
    }
    batch.put(Key::Ban { app, room }, Value::Restriction(restriction()));
    batch.put(Key::MemberMute { app, room, user }, Value::Restriction(restriction()));
    batch.put(Key::Allowed { app, room, user }, Value::Restriction(restriction()));
    batch.put(Key::NotificationMute { app, user, room }, Value::NotificationMute(restriction(), 1));
    batch
}

/// What a reader finds: whether the room is registered and banned, the user is muted, allowed and
/// push muted; and the rooms on the client's list.
fn found(view: &View) -> ([bool; 5], Vec<String>) {
    let of_room = view.room(APP, "r", |room| {
        room.map(|room| {
            let muted = room.mute_in_force("u", 2).is_some();
            [
                room.is_registered(),
                room.ban.is_some(),
                muted,
                room.allowed.get("u").is_some(),
                room.is_push_muted("u", 2),
            ]
        })
    });
    let list = |client: Option<mute_service::view::ClientRef<'_>>| {
        client.map(|client| client.muted_in_force(2).map(|muted| muted.room.to_string()).collect())
    };
    (of_room.unwrap_or_default(), view.client(APP, "u", list).unwrap_or_default())
}

const NOTHING: ([bool; 5], Vec<String>) = ([false; 5], Vec::new());

async fn commit(store: &dyn Store, view: &View, batch: Batch<'_>) -> Revision {
    let revision = store.commit(batch.encode()).await.unwrap();
    assert!(view.wait_for(revision).await);
    revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_room_is_empty_at_once_and_after_a_restart() {
    for is_registered in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (store, loaded) = open(directory.path()).await;
        let view = loaded.view.clone();
        let follower = tokio::spawn(loaded.follow(store.clone()));
        commit(&*store, &view, filled_room(is_registered)).await;
        assert_eq!(found(&view), ([is_registered, true, true, true, true], vec!["r".to_owned()]));
        let mut delete = batch();
        delete.delete_room(APP, "r");
        commit(&*store, &view, delete).await;
        assert_eq!(found(&view), NOTHING);
        // Without a sweep, all records are still stored. A kill and an orderly stop leave the same
        // state.
        for is_orderly in [false, true, false] {
            follower.abort();
            let (again, loaded) = open_again(&directory, &store, is_orderly).await;
            assert_eq!(found(&loaded.view), NOTHING);
            assert_eq!(
                loaded.view.leftovers(10).iter().map(|leftover| leftover.keys.len()).sum::<usize>(),
                4
            );
            drop((again, loaded));
        }
        // Records written after the tombstone are in force.
        let (store, loaded) = open_again(&directory, &store, false).await;
        let view = loaded.view.clone();
        tokio::spawn(loaded.follow(store.clone()));
        commit(&*store, &view, filled_room(is_registered)).await;
        let all = ([is_registered, true, true, true, true], vec!["r".to_owned()]);
        assert_eq!(found(&view), all);
        assert_eq!(found(&View::load(&*store).await.unwrap().view), all);
    }
}

/// Opens a copy of the directory. The store that has the original open is not touched.
async fn open_again(
    directory: &tempfile::TempDir,
    store: &std::sync::Arc<dyn Store>,
    is_orderly: bool,
) -> (std::sync::Arc<dyn Store>, LoadedView) {
    let elsewhere = tempfile::tempdir().unwrap().keep();
    crate::embedded::copy(directory.path(), &elsewhere);
    assert!(store.latest_revision().await.is_ok());
    if is_orderly {
        let (store, loaded) = open(&elsewhere).await;
        drop(loaded);
        store.close().await.unwrap();
    }
    open(&elsewhere).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_client_keeps_only_its_member_mutes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, loaded) = open(directory.path()).await;
    let view = loaded.view.clone();
    tokio::spawn(loaded.follow(store.clone()));
    commit(&*store, &view, filled_room(true)).await;
    let mut delete = batch();
    delete.delete_client(APP, "u");
    commit(&*store, &view, delete).await;
    let expected = ([true, true, true, true, false], Vec::new());
    assert_eq!(found(&view), expected);
    assert_eq!(found(&View::load(&*store).await.unwrap().view), expected);
}

#[tokio::test]
async fn a_notification_mute_made_after_the_deletion_stays() {
    for app in [OPEN, IMKIT] {
        let server = Server::start().await;
        let mut mutes = server.mutes().await;
        let mut directory = server.directory().await;
        let (user, room) = if app == OPEN { ("u", "gone") } else { ("aaa", "demo-room") };
        for round in 0..20 {
            let mute = pb::MuteRoomNotificationsRequest {
                app: app.into(),
                user: user.into(),
                room: room.into(),
                ..Default::default()
            };
            mutes.mute_room_notifications(server.as_admin(app, mute.clone())).await.unwrap();
            let delete =
                pb::DeleteRoomRequest { app: app.into(), room: room.into(), ..Default::default() };
            directory.delete_room(server.as_admin(app, delete)).await.unwrap();
            if app == IMKIT {
                let create = pb::UpsertRoomRequest {
                    app: app.into(),
                    room: room.into(),
                    ..Default::default()
                };
                directory.upsert_room(server.as_admin(app, create)).await.unwrap();
            }
            assert_eq!(recipients(&server, app, room, user).await, [user], "round {round}");
            mutes.mute_room_notifications(server.as_admin(app, mute)).await.unwrap();
            server.sweep().await;
            assert_eq!(recipients(&server, app, room, user).await, [""; 0], "round {round}");
        }
    }
}

async fn recipients(server: &Server, app: &str, room: &str, user: &str) -> Vec<String> {
    let request = pb::FilterRecipientsRequest {
        app: app.into(),
        room: room.into(),
        users: vec![user.into()],
        ..Default::default()
    };
    server
        .mutes()
        .await
        .filter_recipients(server.as_admin(app, request))
        .await
        .unwrap()
        .into_inner()
        .users
}

async fn records(store: &dyn Store) -> usize {
    let pages: Vec<_> = store.snapshot().await.unwrap().pages.try_collect().await.unwrap();
    pages.concat().len()
}

#[tokio::test]
async fn the_rest_of_a_deletion_is_swept_and_then_its_tombstone() {
    let server = Server::start().await;
    let before = records(&*server.service.store).await;
    for number in 0..25 {
        let users: Vec<_> = (0..100).map(|user| format!("u{number}-{user}")).collect();
        server
            .mute(OPEN, "large", &users.iter().map(String::as_str).collect::<Vec<_>>(), None)
            .await;
    }
    let started = server.service.view.revision();
    let delete =
        pb::DeleteRoomRequest { app: OPEN.into(), room: "large".into(), ..Default::default() };
    server.directory().await.delete_room(server.as_admin(OPEN, delete)).await.unwrap();
    // The deletion is one small commit, whatever the room has.
    let mut feed = server.service.store.watch(started).await.unwrap();
    let deletion = feed.try_next().await.unwrap().unwrap();
    assert_eq!(deletion.operations.len(), 2);
    assert!(server.check(OPEN, "large", "u0-0").await.allowed);
    server.sweep().await;
    assert_eq!(records(&*server.service.store).await, before);
    assert!(server.service.view.leftovers(10).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_skip_deleted_records_and_imports_replace_them() -> Result<(), StoreError> {
    let directory = tempfile::tempdir().unwrap();
    let (store, loaded) = open(directory.path()).await;
    drop(loaded);
    store.commit(filled_room(true).encode()).await?;
    let export = async |store: &dyn Store| {
        let mut text = Vec::new();
        let content = export::export(store, None, 1, &mut text, "memory").await.unwrap();
        (content.records(), text)
    };
    let (all, text) = export(&*store).await;
    assert_eq!(all, 5);
    let mut delete = batch();
    delete.delete_room(APP, "r");
    store.commit(delete.encode()).await?;
    assert_eq!(export(&*store).await.0, 0);
    let incoming = import::read(&text[..], Default::default()).unwrap().unwrap();
    let plan =
        merge::MergePlan::of(incoming, Some(store.snapshot().await?), merge::Mode::Replace).await?;
    assert_eq!((plan.new, plan.changed, plan.removed), (5, 0, 0));
    plan.commit(&*store, 2, |_| {}).await.unwrap();
    assert_eq!(export(&*store).await.0, 5);
    assert_eq!(found(&View::load(&*store).await?.view), ([true; 5], vec!["r".to_owned()]));
    Ok(())
}

#[tokio::test]
async fn tombstones_come_before_all_other_records() {
    let keys = [
        Key::Room { app: APP, room: "r" },
        Key::NotificationMute { app: APP, user: "u", room: "r" },
        Key::UserMute { app: APP, user: "u" },
        Key::Request { app: APP, id: "i" },
    ];
    for tombstone in
        [Key::DeletedRoom { app: "zzz", room: "z" }, Key::DeletedClient { app: "zzz", user: "z" }]
    {
        assert!(keys.iter().all(|key| codec::encode_key(tombstone) < codec::encode_key(*key)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_are_swept_during_a_flood_of_expiries() {
    const ENDED: usize = 3_500;
    let directory = tempfile::tempdir().unwrap();
    let (store, loaded) = open(directory.path()).await;
    let view = loaded.view.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(loaded.follow(store.clone()));
    commit(&*store, &view, filled_room(true)).await;
    let mut delete = batch();
    delete.delete_room(APP, "r");
    commit(&*store, &view, delete).await;
    let ended = Value::Restriction(Restriction { expire: Expire::at_ms(2), ..restriction() });
    let mut flood = batch();
    let users: Vec<_> = (0..ENDED).map(|user| user.to_string()).collect();
    for user in &users {
        flood.put(Key::MemberMute { app: APP, room: "flooded", user }, ended.clone());
    }
    let before = commit(&*store, &view, flood).await;
    let mut feed = store.watch(before).await.unwrap();
    let clock = mute_service::clock::Clock::manual(START_MS);
    tasks.spawn(Sweeper { store: store.clone(), view, clock }.run());
    let mut kinds = Vec::new();
    let mut expired = 0;
    while expired < ENDED {
        let Some(commit) = feed.try_next().await.unwrap() else { break };
        let event = codec::decode_event(&commit.event).unwrap();
        expired += event.users.len();
        kinds.push(event.kind);
    }
    // The records and then the tombstone are swept before the last expired mute.
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Swept).count(), 2, "{kinds:?}");
}
