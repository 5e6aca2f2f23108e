//! Clocks that jump and clocks that differ: no mute ends early, and no early end is reported.

use std::time::Duration;

use mute_service::{
    clock::Clock,
    config::{EtcdSettings, Settings},
    proto::v1::{self as pb, ChangeKind},
    store::Engine,
};

use crate::{cluster::until, etcd::Etcd, harness::*};

const ROOM: &str = "r";

/// Mutes of every kind that end in ten seconds.
async fn mute_all(server: &Server) {
    let short = Some(duration(10_000));
    let app = OPEN.to_owned();
    let room = ROOM.to_owned();
    let user = "u".to_owned();
    server.mute(OPEN, ROOM, &["u"], Some(10_000)).await;
    let mut mutes = server.mutes().await;
    let ban = pb::BanRoomRequest {
        app: app.clone(),
        room: room.clone(),
        duration: short,
        ..Default::default()
    };
    mutes.ban_room(server.as_admin(OPEN, ban)).await.unwrap();
    let user_mute = pb::MuteUserRequest {
        app: app.clone(),
        user: user.clone(),
        duration: short,
        ..Default::default()
    };
    mutes.mute_user(server.as_admin(OPEN, user_mute)).await.unwrap();
    let notifications =
        pb::MuteRoomNotificationsRequest { app, room, user, duration: short, ..Default::default() };
    mutes.mute_room_notifications(server.as_admin(OPEN, notifications)).await.unwrap();
}

/// The expiry events in the history.
async fn expiries(server: &Server) -> Vec<ChangeKind> {
    use ChangeKind::{BanExpired, Expired, NotificationsExpired, UserMuteExpired};
    let kinds =
        [Expired, BanExpired, NotificationsExpired, UserMuteExpired].map(i32::from).to_vec();
    let request = pb::ListEventsRequest { app: OPEN.into(), kinds, ..Default::default() };
    let page = server
        .mutes()
        .await
        .list_events(server.as_admin(OPEN, request))
        .await
        .unwrap()
        .into_inner();
    page.events.iter().map(pb::Change::kind).collect()
}

#[tokio::test]
async fn a_clock_that_is_ahead_for_a_second_ends_nothing() {
    let server = Server::start().await;
    mute_all(&server).await;
    let before = server.service.view.records();
    for _ in 0..3 {
        server.advance(1_000);
        let now_ms = server.clock.now_ms();
        server.clock.set(now_ms + 3_600_000);
        // By the clock of this moment the mute has ended.
        assert!(server.check(OPEN, ROOM, "u").await.allowed);
        server.sweep().await;
        server.clock.set(now_ms);
        assert!(!server.check(OPEN, ROOM, "u").await.allowed);
    }
    assert_eq!(expiries(&server).await, []);
    assert_eq!(server.service.view.records(), before);
    assert!(server.clock.jumps() >= 1);
    server.advance(7_000);
    server.sweep().await;
    assert_eq!(expiries(&server).await.len(), 4);
}

#[tokio::test]
async fn writes_under_a_fast_clock_end_no_existing_mute() {
    let server = Server::start().await;
    mute_all(&server).await;
    let now_ms = server.clock.now_ms();
    server.clock.set(now_ms + 3_600_000);
    // Each replaces a restriction that has ended by the fast clock, but not by the true time.
    let mut mutes = server.mutes().await;
    let unmute = pb::UnmuteMembersRequest {
        app: OPEN.into(),
        room: ROOM.into(),
        users: strings(&["u"]),
        ..Default::default()
    };
    mutes.unmute_members(server.as_admin(OPEN, unmute)).await.unwrap();
    let ban = pb::BanRoomRequest { app: OPEN.into(), room: ROOM.into(), ..Default::default() };
    mutes.ban_room(server.as_admin(OPEN, ban)).await.unwrap();
    let delete =
        pb::DeleteClientRequest { app: OPEN.into(), user: "u".into(), ..Default::default() };
    server.directory().await.delete_client(server.as_admin(OPEN, delete)).await.unwrap();
    assert_eq!(expiries(&server).await, []);
    server.clock.set(now_ms);
    // The unmute of the member took effect, although its mute seemed to have ended.
    server.mutes().await.unmute_user(server.as_admin(OPEN, unmute_user())).await.unwrap();
    let unban = pb::UnbanRoomRequest { app: OPEN.into(), room: ROOM.into(), ..Default::default() };
    server.mutes().await.unban_room(server.as_admin(OPEN, unban)).await.unwrap();
    assert!(server.check(OPEN, ROOM, "u").await.allowed);
}

fn unmute_user() -> pb::UnmuteUserRequest {
    pb::UnmuteUserRequest { app: OPEN.into(), user: "u".into(), ..Default::default() }
}

#[tokio::test]
async fn a_repeat_is_recognized_after_the_clock_was_a_day_ahead() {
    let server = Server::start().await;
    let request = || pb::MuteMembersRequest {
        app: OPEN.into(),
        room: ROOM.into(),
        users: strings(&["u"]),
        request_id: "the same".into(),
        ..Default::default()
    };
    let mut mutes = server.mutes().await;
    let first = mutes.mute_members(server.as_admin(OPEN, request())).await.unwrap().into_inner();
    let now_ms = server.clock.now_ms();
    server.clock.set(now_ms + 25 * 3_600_000);
    let again = with(request(), &[SERVICE]);
    assert_eq!(reason(&mutes.mute_members(again).await.unwrap_err()), "REQUEST_ID_REUSED");
    server.sweep().await;
    server.clock.set(now_ms);
    let again = mutes.mute_members(server.as_admin(OPEN, request())).await.unwrap().into_inner();
    assert_eq!(again.revision, first.revision);
}

async fn replica(etcd: &Etcd, now_ms: u64) -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let endpoints = Some(etcd.members.iter().map(|member| member.url.clone()).collect());
    let cluster = EtcdSettings { endpoints, ..EtcdSettings::default() };
    let settings = Settings {
        store: Some(Engine::Etcd),
        etcd: cluster,
        refuse_skewed_clock: Some(true),
        ..unlimited()
    };
    let server = Server::on(directory.path(), Clock::manual(now_ms), settings).await;
    (server, directory)
}

async fn readiness(server: &Server) -> (u16, String) {
    let answer =
        server.http.get(format!("http://{}/readyz", server.addresses.admin)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_skewed_clock_says_so_and_never_sweeps() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    // Manual clocks stand still, so each wall clock shows the time it was set to.
    let (one, _one) = replica(&etcd, START_MS).await;
    let (other, _other) = replica(&etcd, START_MS + 100).await;
    let (ahead, _ahead) = replica(&etcd, START_MS + 60_000).await;
    one.mute(OPEN, ROOM, &["u"], Some(10_000)).await;
    until("it reports the skew", async || readiness(&ahead).await.1.contains("the clock differs"))
        .await;
    assert_eq!(readiness(&ahead).await.0, 503);
    let metrics = ahead
        .http
        .get(format!("http://{}/metrics", ahead.addresses.admin))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let skew = metrics
        .lines()
        .find_map(|line| line.strip_prefix("mute_clock_skew_seconds "))
        .unwrap()
        .parse::<f64>()
        .unwrap();
    assert!((57.0..=61.0).contains(&skew), "{skew}");
    // It checks by its own clock, but does not remove the mute for the others.
    assert!(ahead.check(OPEN, ROOM, "u").await.allowed);
    ahead.sweep().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!one.check(OPEN, ROOM, "u").await.allowed);
    assert_eq!(expiries(&one).await, []);
    for near in [&one, &other] {
        until("it has heard from the others", async || readiness(near).await == (200, "ok".into()))
            .await;
    }
}
