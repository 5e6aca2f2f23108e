//! Each expiry is reported once: not early, not after a renewal, and also when a write replaces the
//! record before the sweep, or when the service was down at that moment.

use mute_service::{
    clock::Clock,
    proto::v1::{self as pb, ChangeKind},
};

use crate::harness::*;

/// Kind, room and users of the app's events after this revision, oldest first.
async fn history(server: &Server, app: &str, since: i64) -> Vec<(ChangeKind, String, Vec<String>)> {
    let message = pb::ListEventsRequest { app: app.into(), page_size: 1_000, ..Default::default() };
    let mut events = server
        .mutes()
        .await
        .list_events(with(message, &[SERVICE]))
        .await
        .unwrap()
        .into_inner()
        .events;
    events.retain(|event| event.revision > since);
    events.reverse();
    events.into_iter().map(|event| (event.kind(), event.room, event.users)).collect()
}

fn expected(kind: ChangeKind, room: &str, users: &[&str]) -> (ChangeKind, String, Vec<String>) {
    (kind, room.to_owned(), strings(users))
}

fn latest_revision(server: &Server) -> i64 {
    i64::try_from(server.service.view.revision()).unwrap()
}

#[tokio::test]
async fn a_mute_expires_once_and_not_before_its_end() {
    let server = Server::start().await;
    let since = server.mute(OPEN, "r", &["u1", "u2"], Some(1_000)).await.revision;
    server.advance(999);
    server.sweep().await;
    assert!(history(&server, OPEN, since).await.is_empty());
    server.advance(1);
    server.sweep().await;
    server.sweep().await;
    assert_eq!(
        history(&server, OPEN, since).await,
        [expected(ChangeKind::Expired, "r", &["u1", "u2"])]
    );
}

#[tokio::test]
async fn a_renewed_or_removed_mute_does_not_expire() {
    let server = Server::start().await;
    server.mute(OPEN, "r", &["renewed"], Some(1_000)).await;
    server.mute(OPEN, "r", &["unmuted"], Some(1_000)).await;
    server.mute(OPEN, "r", &["renewed"], Some(5_000)).await;
    let message = pb::UnmuteMembersRequest {
        app: OPEN.into(),
        room: "r".into(),
        users: strings(&["unmuted"]),
        ..Default::default()
    };
    let since = server
        .mutes()
        .await
        .unmute_members(with(message, &[SERVICE]))
        .await
        .unwrap()
        .into_inner()
        .revision;
    server.advance(4_999);
    server.sweep().await;
    assert!(history(&server, OPEN, since).await.is_empty());
    server.advance(1);
    server.sweep().await;
    assert_eq!(
        history(&server, OPEN, since).await,
        [expected(ChangeKind::Expired, "r", &["renewed"])]
    );
}

#[tokio::test]
async fn a_mute_that_replaces_an_ended_one_comes_after_its_expiry() {
    let server = Server::start().await;
    let mut mutes = server.mutes().await;
    let mut directory = server.directory().await;
    let app = OPEN.to_owned();
    let room = "r".to_owned();
    let user = "u".to_owned();
    let ban = |duration_ms: Option<u64>| pb::BanRoomRequest {
        app: OPEN.into(),
        room: "r".into(),
        duration: duration_ms.map(duration),
        ..Default::default()
    };
    let mute_user = |duration_ms: Option<u64>| pb::MuteUserRequest {
        app: OPEN.into(),
        user: "u".into(),
        duration: duration_ms.map(duration),
        ..Default::default()
    };
    let mute_notifications = |duration_ms: Option<u64>| pb::MuteRoomNotificationsRequest {
        app: OPEN.into(),
        user: "u".into(),
        room: "r".into(),
        duration: duration_ms.map(duration),
        ..Default::default()
    };
    // Repeated, because the background sweeper sometimes comes first.
    for _ in 0..20 {
        let since = latest_revision(&server);
        server.mute(OPEN, "r", &["u", "other"], Some(1_000)).await;
        mutes.ban_room(with(ban(Some(1_000)), &[SERVICE])).await.unwrap();
        mutes
            .mute_room_notifications(with(mute_notifications(Some(1_000)), &[SERVICE]))
            .await
            .unwrap();
        mutes.mute_user(with(mute_user(Some(1_000)), &[SERVICE])).await.unwrap();
        server.advance(1_000);
        // An unmute finds no mute in force, and leaves the expiry to the sweep.
        let unmute = pb::UnmuteMembersRequest {
            app: app.clone(),
            room: room.clone(),
            users: vec![user.clone()],
            ..Default::default()
        };
        assert!(
            !mutes.unmute_members(with(unmute, &[SERVICE])).await.unwrap().into_inner().members[0]
                .was_muted
        );
        let unmute =
            pb::UnmuteUserRequest { app: app.clone(), user: user.clone(), ..Default::default() };
        assert!(!mutes.unmute_user(with(unmute, &[SERVICE])).await.unwrap().into_inner().was_muted);
        server.mute(OPEN, "r", &["u", "u"], None).await;
        mutes.mute_user(with(mute_user(None), &[SERVICE])).await.unwrap();
        mutes.ban_room(with(ban(None), &[SERVICE])).await.unwrap();
        mutes.mute_room_notifications(with(mute_notifications(None), &[SERVICE])).await.unwrap();
        server.sweep().await;
        let events = history(&server, OPEN, since).await;
        let at = |wanted: ChangeKind, user: &str| {
            let is = |event: &&(ChangeKind, String, Vec<String>)| {
                event.0 == wanted && (user.is_empty() || event.2.iter().any(|named| named == user))
            };
            let found: Vec<_> = events
                .iter()
                .enumerate()
                .filter(|(_, event)| is(event))
                .map(|(at, _)| at)
                .collect();
            found
        };
        for (set, ended, user) in [
            (ChangeKind::Muted, ChangeKind::Expired, "u"),
            (ChangeKind::Banned, ChangeKind::BanExpired, ""),
            (ChangeKind::NotificationsMuted, ChangeKind::NotificationsExpired, "u"),
            (ChangeKind::UserMuted, ChangeKind::UserMuteExpired, "u"),
        ] {
            let set = at(set, user);
            let ended = at(ended, user);
            assert_eq!((set.len(), ended.len()), (2, 1), "{events:?}");
            assert!(set[0] < ended[0] && ended[0] < set[1], "{events:?}");
        }
        assert_eq!(at(ChangeKind::Expired, "other").len(), 1, "{events:?}");
        let delete =
            pb::DeleteRoomRequest { app: app.clone(), room: room.clone(), ..Default::default() };
        directory.delete_room(with(delete, &[SERVICE])).await.unwrap();
        let delete =
            pb::DeleteClientRequest { app: app.clone(), user: user.clone(), ..Default::default() };
        directory.delete_client(with(delete, &[SERVICE])).await.unwrap();
    }
}

#[tokio::test]
async fn deletions_come_after_the_expiries_they_would_hide() {
    let server = Server::start().await;
    let mut mutes = server.mutes().await;
    let mut directory = server.directory().await;
    for _ in 0..20 {
        let since = latest_revision(&server);
        let users: Vec<_> = (0..100).map(|user| format!("u{user:03}")).collect();
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        for room in ["r1", "r2"] {
            server.mute(OPEN, room, &users, Some(1_000)).await;
        }
        // So that the room still exists when the background sweeper comes first.
        server.mute(OPEN, "r1", &["stays"], None).await;
        let app = OPEN.to_owned();
        let duration_ms = Some(duration(1_000));
        let ban = pb::BanRoomRequest {
            app: app.clone(),
            room: "r1".into(),
            duration: duration_ms,
            ..Default::default()
        };
        mutes.ban_room(with(ban, &[SERVICE])).await.unwrap();
        for room in ["r1", "r2"] {
            let mute_notifications = pb::MuteRoomNotificationsRequest {
                app: app.clone(),
                user: "u".into(),
                room: room.into(),
                duration: duration_ms,
                ..Default::default()
            };
            mutes.mute_room_notifications(with(mute_notifications, &[SERVICE])).await.unwrap();
        }
        server.advance(1_000);
        directory
            .delete_room(with(
                pb::DeleteRoomRequest { app: app.clone(), room: "r1".into(), ..Default::default() },
                &[SERVICE],
            ))
            .await
            .unwrap();
        directory
            .delete_client(with(
                pb::DeleteClientRequest { app, user: "u".into(), ..Default::default() },
                &[SERVICE],
            ))
            .await
            .unwrap();
        server.sweep().await;
        let events = history(&server, OPEN, since).await;
        let at = |kind: ChangeKind, room: &str| {
            let of_room =
                events.iter().enumerate().filter(|(_, event)| event.0 == kind && event.1 == room);
            of_room.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let room = at(ChangeKind::RoomDeleted, "r1");
        let client = at(ChangeKind::ClientDeleted, "");
        let mutes = at(ChangeKind::Expired, "r1");
        let ban = at(ChangeKind::BanExpired, "r1");
        let push_muted = [
            at(ChangeKind::NotificationsExpired, "r1"),
            at(ChangeKind::NotificationsExpired, "r2"),
        ];
        assert!(
            mutes.len() == 1 && mutes[0] < room[0] && ban.len() == 1 && ban[0] < room[0],
            "{events:?}"
        );
        assert!(
            push_muted.iter().all(|ended| ended.len() == 1 && ended[0] < client[0]),
            "{events:?}"
        );
        assert_eq!(at(ChangeKind::Expired, "r2").len(), 1, "{events:?}");
    }
}

#[tokio::test]
async fn mutes_that_ended_during_downtime_expire_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::on(directory.path(), Clock::manual(START_MS), unlimited()).await;
    let message = pb::MuteUserRequest {
        app: OPEN.into(),
        user: "u".into(),
        duration: Some(duration(1_000)),
        ..Default::default()
    };
    server.mutes().await.mute_user(with(message, &[SERVICE])).await.unwrap();
    let since = server.mute(OPEN, "r", &["u"], Some(1_000)).await.revision;
    server.stop().await;
    for _ in 0..2 {
        let server =
            Server::on(directory.path(), Clock::manual(START_MS + 60_000), unlimited()).await;
        server.sweep().await;
        let mut events = history(&server, OPEN, since).await;
        events.sort();
        assert_eq!(
            events,
            [
                expected(ChangeKind::Expired, "r", &["u"]),
                expected(ChangeKind::UserMuteExpired, "", &["u"])
            ]
        );
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_mutes_that_end_at_once_expire_within_a_second() {
    let server = Server::start().await;
    let rooms: Vec<_> = (0..300).map(|number| format!("r{number}")).collect();
    let mut since = 0;
    for room in &rooms {
        since = server.mute(OPEN, room, &["u"], Some(60_000)).await.revision;
    }
    server.advance(60_000);
    let started = std::time::Instant::now();
    // The background sweeper removes them.
    while history(&server, OPEN, since).await.len() < rooms.len() {}
    assert!(started.elapsed().as_millis() < 1_000, "{:?}", started.elapsed());
}
