//! The change feed: each change once and in order, over restarts and kills. Each expiry is emitted
//! once. A slow watcher is cut, and only that one.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use mute_service::{
    clock::Clock,
    proto::v1::{
        self as pb, ChangeKind, mute_service_client::MuteServiceClient, watch_response::Event,
    },
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{harness::*, process::Process};

const TIMEOUT: Duration = Duration::from_secs(20);

/// The watch of one caller.
pub struct Watch {
    stream: Streaming<pb::WatchResponse>,
}

impl Watch {
    pub async fn start(
        mut mutes: MuteServiceClient<Channel>,
        app: &str,
        room: &str,
        after_revision: Option<i64>,
    ) -> Result<Self, Status> {
        let message = pb::WatchRequest { app: app.into(), room: room.into(), after_revision };
        Ok(Self { stream: mutes.watch(with(message, &[SERVICE])).await?.into_inner() })
    }

    /// Starts a watch and reads its first heartbeat. Returns the watch and the revision at which it
    /// begins.
    pub async fn begun(
        mutes: MuteServiceClient<Channel>,
        app: &str,
        room: &str,
        after: Option<i64>,
    ) -> (Self, i64) {
        let mut watch = Self::start(mutes, app, room, after).await.unwrap();
        match watch.next().await.unwrap() {
            Event::Heartbeat(heartbeat) => (watch, heartbeat.revision),
            Event::Change(change) => panic!("a change before the first heartbeat: {change:?}"),
        }
    }

    async fn next(&mut self) -> Result<Event, Status> {
        let message =
            timeout(TIMEOUT, self.stream.message()).await.expect("the watch emits nothing");
        Ok(message?.expect("a watch ends with an error only").event.unwrap())
    }

    /// The next change; heartbeats are skipped.
    pub async fn change(&mut self) -> Result<pb::Change, Status> {
        loop {
            if let Event::Change(change) = self.next().await? {
                return Ok(change);
            }
        }
    }

    /// All changes up to this revision.
    async fn up_to(&mut self, revision: i64) -> Vec<pb::Change> {
        let mut changes = Vec::new();
        while changes.last().is_none_or(|last: &pb::Change| last.revision < revision) {
            changes.push(self.change().await.unwrap());
        }
        changes
    }

    /// Reads until the watch ends. Returns the status and the last revision that was emitted.
    pub async fn end(&mut self) -> (Status, Option<i64>) {
        let mut last = None;
        loop {
            match self.next().await {
                Ok(Event::Change(change)) => last = Some(change.revision),
                Ok(Event::Heartbeat(_)) => {}
                Err(status) => return (status, last),
            }
        }
    }
}

/// The revision that the end of a watch names.
pub fn last_revision(status: &Status) -> i64 {
    status.get_details_error_info().unwrap().metadata["last_revision"].parse().unwrap()
}

fn revisions(changes: &[pb::Change]) -> Vec<i64> {
    changes.iter().map(|change| change.revision).collect()
}

/// Kind and users of each change.
fn kinds_and_users(changes: &[pb::Change]) -> Vec<(ChangeKind, Vec<&str>)> {
    changes
        .iter()
        .map(|change| (change.kind(), change.users.iter().map(String::as_str).collect()))
        .collect()
}

/// Mutes users of this writer, one a call. Returns the revisions.
async fn write(mut mutes: MuteServiceClient<Channel>, writer: usize, calls: usize) -> Vec<i64> {
    let mut revisions = Vec::new();
    for call in 0..calls {
        let users = vec![format!("w{writer}c{call}")];
        let message = pb::MuteMembersRequest {
            app: OPEN.into(),
            room: format!("r{writer}"),
            users,
            ..Default::default()
        };
        revisions.push(
            mutes.mute_members(with(message, &[SERVICE])).await.unwrap().into_inner().revision,
        );
    }
    revisions
}

async fn write_together(server: &Server, writers: usize, calls: usize) -> BTreeSet<i64> {
    let mutes = server.mutes().await;
    let written =
        join_all((0..writers).map(|writer| tokio::spawn(write(mutes.clone(), writer, calls))))
            .await;
    written.into_iter().flat_map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_comes_once_and_in_order_while_many_write() {
    let server = Server::start().await;
    let (mut live, begun) = Watch::begun(server.mutes().await, OPEN, "", None).await;
    let written = write_together(&server, 16, 20).await;
    let last = *written.last().unwrap();
    let changes = live.up_to(last).await;
    assert_eq!(revisions(&changes), written.iter().copied().collect::<Vec<_>>());
    // A watch that starts later receives the same, whatever is written meanwhile.
    let (more, late) = tokio::join!(write_together(&server, 16, 20), async {
        let (mut late, from) = Watch::begun(server.mutes().await, OPEN, "", Some(begun)).await;
        assert_eq!(from, begun);
        late.up_to(last + 200).await
    });
    let all: Vec<_> =
        written.union(&more).copied().filter(|revision| *revision <= last + 200).collect();
    assert_eq!((revisions(&late), &late[..changes.len()]), (all, &changes[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_after_any_revision_while_others_write() {
    let server = Server::start().await;
    let writer = tokio::spawn(write(server.mutes().await, 0, 300));
    let mutes = server.mutes().await;
    for _ in 0..50 {
        let answer = server.mute(OPEN, "r0", &["u"], None).await;
        let (mut watch, _) = Watch::begun(mutes.clone(), OPEN, "r0", Some(answer.revision)).await;
        let next = server.mute(OPEN, "r0", &["u"], None).await.revision;
        let expected: Vec<_> = (answer.revision + 1..=next).collect();
        assert_eq!(revisions(&watch.up_to(next).await), expected);
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_change_has_actor_users_reason_and_times() {
    let server = Server::start().await;
    let (mut watch, begun) = Watch::begun(server.mutes().await, AGORA, "", None).await;
    let message = pb::MuteMembersRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        users: strings(&["user2", "user1"]),
        duration: Some(duration(60_000)),
        reason: "spam".into(),
        ..Default::default()
    };
    server.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap();
    let change = watch.change().await.unwrap();
    assert_eq!(change.change_time.as_ref().map(ms), Some(START_MS));
    assert_eq!(change.expire_time.as_ref().map(ms), Some(START_MS + 60_000));
    let expected = pb::Change {
        revision: begun + 1,
        kind: ChangeKind::Muted.into(),
        room: ROOM.into(),
        users: strings(&["user2", "user1"]),
        actor: "service:dev".into(),
        reason: "spam".into(),
        change_time: change.change_time,
        expire_time: change.expire_time,
        ..Default::default()
    };
    assert_eq!(change, expected);
    // A check after the change was received already uses it.
    assert!(!server.check(AGORA, ROOM, "user1").await.allowed);
}

#[tokio::test]
#[allow(clippy::needless_update)]
async fn every_kind_of_change_is_watched_except_internal_ones() {
    let server = Server::start().await;
    let (mut watch, begun) = Watch::begun(server.mutes().await, IMKIT, "", None).await;
    let mut mutes = server.mutes().await;
    let mut directory = server.directory().await;
    let app = IMKIT.to_owned();
    let room = "demo".to_owned();
    let user = "aaa".to_owned();
    let users = strings(&["aaa"]);
    macro_rules! call {
        ($client:ident.$rpc:ident $request:ident { $($field:ident: $value:expr),* }) => {
            let message = pb::$request {
                app: app.clone(),
                $($field: $value,)*
                ..Default::default()
            };
            $client.$rpc(with(message, &[SERVICE])).await.unwrap();
        };
    }
    let short = Some(duration(1_000));
    call!(mutes.mute_members MuteMembersRequest { room: room.clone(), users: users.clone() });
    call!(mutes.unmute_members UnmuteMembersRequest { room: room.clone(), users: users.clone() });
    call!(mutes.mute_members MuteMembersRequest {
        room: room.clone(),
        users: users.clone(),
        duration: short
    });
    server.advance(1_000);
    server.sweep().await;
    call!(mutes.ban_room BanRoomRequest { room: room.clone() });
    call!(mutes.unban_room UnbanRoomRequest { room: room.clone() });
    call!(mutes.ban_room BanRoomRequest { room: room.clone(), duration: short });
    server.advance(1_000);
    server.sweep().await;
    call!(mutes.allow_members AllowMembersRequest { room: room.clone(), users: users.clone() });
    call!(mutes.disallow_members DisallowMembersRequest {
        room: room.clone(),
        users: users.clone()
    });
    call!(mutes.mute_room_notifications MuteRoomNotificationsRequest {
        room: room.clone(),
        user: user.clone()
    });
    call!(mutes.unmute_room_notifications UnmuteRoomNotificationsRequest {
        room: room.clone(),
        user: user.clone()
    });
    call!(mutes.mute_room_notifications MuteRoomNotificationsRequest {
        room: room.clone(),
        user: user.clone(),
        duration: short
    });
    server.advance(1_000);
    server.sweep().await;
    call!(mutes.mute_user MuteUserRequest { user: user.clone() });
    call!(mutes.unmute_user UnmuteUserRequest { user: user.clone() });
    call!(mutes.mute_user MuteUserRequest { user: user.clone(), duration: short });
    server.advance(1_000);
    server.sweep().await;
    call!(mutes.mute_room_notifications MuteRoomNotificationsRequest {
        room: room.clone(),
        user: user.clone()
    });
    call!(directory.upsert_room UpsertRoomRequest { room: "new".into() });
    call!(directory.delete_room DeleteRoomRequest { room: room.clone() });
    // Removes the notification mute of the deleted room, and then its tombstone: commits that no
    // watch emits.
    server.sweep().await;
    let client = Some(pb::Client { user: "new".into(), ..Default::default() });
    call!(directory.upsert_client UpsertClientRequest { client: client });
    call!(directory.delete_client DeleteClientRequest { user: "new".into() });
    let last = i64::try_from(server.service.view.revision()).unwrap();
    let changes = watch.up_to(last).await;
    let kinds: Vec<_> = changes.iter().map(pb::Change::kind).collect();
    use ChangeKind::*;
    let expected = [
        Muted,
        Unmuted,
        Muted,
        Expired,
        Banned,
        Unbanned,
        Banned,
        BanExpired,
        Allowed,
        Disallowed,
        NotificationsMuted,
        NotificationsUnmuted,
        NotificationsMuted,
        NotificationsExpired,
        UserMuted,
        UserUnmuted,
        UserMuted,
        UserMuteExpired,
        NotificationsMuted,
        RoomUpserted,
        RoomDeleted,
        ClientUpserted,
        ClientDeleted,
    ];
    assert_eq!(kinds, expected);
    assert!(last >= begun + expected.len() as i64 + 2);
    let ended = &changes[3];
    assert_eq!(
        (ended.actor.as_str(), &ended.users, &ended.expire_time),
        ("service", &users, &None)
    );
    let ended = &changes[17];
    assert_eq!((ended.actor.as_str(), ended.room.as_str(), &ended.users), ("service", "", &users));
    // A watch from history returns the same.
    let (mut again, _) = Watch::begun(server.mutes().await, IMKIT, "", Some(begun)).await;
    assert_eq!(again.up_to(last).await, changes);
}

#[tokio::test]
async fn a_watch_is_limited_to_its_room_or_app() {
    let server = Server::start().await;
    let (mut room, begun) = Watch::begun(server.mutes().await, OPEN, "r", None).await;
    let (mut app, _) = Watch::begun(server.mutes().await, OPEN, "", None).await;
    server.mute(OPEN, "r2", &["u"], None).await;
    server.mute(AGORA, ROOM, &["user1"], None).await;
    server.mute(IMKIT, "demo", &["aaa"], None).await;
    let last = server.mute(OPEN, "r", &["u"], None).await.revision;
    assert_eq!(revisions(&room.up_to(last).await), [begun + 4]);
    assert_eq!(revisions(&app.up_to(last).await), [begun + 1, begun + 4]);
    for (room, expected) in [("r", vec![begun + 4]), ("", vec![begun + 1, begun + 4])] {
        let (mut past, _) = Watch::begun(server.mutes().await, OPEN, room, Some(begun)).await;
        assert_eq!(revisions(&past.up_to(last).await), expected);
    }
}

#[tokio::test]
async fn a_heartbeat_carries_the_latest_skipped_revision() {
    let server = Server::with(mute_service::config::Settings {
        watch_heartbeat_seconds: Some(1),
        ..unlimited()
    })
    .await;
    let (mut watch, begun) = Watch::begun(server.mutes().await, OPEN, "quiet", None).await;
    let latest = server.mute(OPEN, "loud", &["u"], None).await.revision;
    assert!(latest > begun);
    match watch.next().await.unwrap() {
        Event::Heartbeat(heartbeat) => assert_eq!(heartbeat.revision, latest),
        Event::Change(change) => panic!("{change:?}"),
    }
    let own = server.mute(OPEN, "quiet", &["u"], None).await.revision;
    let (mut resumed, from) = Watch::begun(server.mutes().await, OPEN, "quiet", Some(latest)).await;
    assert_eq!(from, latest);
    assert_eq!(resumed.change().await.unwrap().revision, own);
    assert_eq!(watch.change().await.unwrap().revision, own);
}

#[tokio::test]
async fn a_watch_resumes_after_a_restart_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::on(directory.path(), Clock::manual(START_MS), unlimited()).await;
    let (mut watch, _) = Watch::begun(server.mutes().await, OPEN, "", None).await;
    let first = server.mute(OPEN, "r", &["u1"], None).await.revision;
    assert_eq!(watch.change().await.unwrap().revision, first);
    let second = server.mute(OPEN, "r", &["u2"], None).await.revision;
    server.stop().await;
    let server = Server::on(directory.path(), Clock::manual(START_MS), unlimited()).await;
    let third = server.mute(OPEN, "r", &["u3"], None).await.revision;
    let (mut watch, _) = Watch::begun(server.mutes().await, OPEN, "", Some(first)).await;
    let changes = watch.up_to(third).await;
    assert_eq!(revisions(&changes), [second, third]);
    assert_eq!(kinds_and_users(&changes)[0], (ChangeKind::Muted, vec!["u2"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_after_a_kill_with_all_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut after = 0;
    let mut received = Vec::new();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let process = Process::start(directory.path());
        let (mut watch, from) = Watch::begun(process.mutes().await, OPEN, "", Some(after)).await;
        assert_eq!(from, after);
        // Read what was not read before the kill.
        for _ in received.len()..acknowledged.len() {
            received.push(watch.change().await.unwrap().revision);
        }
        assert_eq!(received, acknowledged);
        acknowledged.extend(write(process.mutes().await, round, 40).await);
        while received.len() < acknowledged.len() - 10 {
            received.push(watch.change().await.unwrap().revision);
        }
        after = *received.last().unwrap();
    }
    assert_eq!(received, acknowledged[..received.len()]);
}

#[tokio::test]
async fn compacted_and_unknown_revisions_are_refused() {
    let settings = mute_service::config::Settings { keep_events: Some(10), ..unlimited() };
    let directory = tempfile::tempdir().unwrap();
    let mut dropped = 0;
    let mut last = 0;
    // The oldest events are dropped many at a time, when newer ones are sorted.
    for _ in 0..2 {
        let server = Server::on(directory.path(), Clock::manual(START_MS), settings.clone()).await;
        dropped = last;
        for _ in 0..20 {
            last = server.mute(OPEN, "r", &["u"], None).await.revision;
        }
        server.stop().await;
    }
    let server = Server::on(directory.path(), Clock::manual(START_MS), settings).await;
    for after in [0, dropped - 1, last + 1, i64::MAX] {
        let refused = Watch::start(server.mutes().await, OPEN, "", Some(after))
            .await
            .err()
            .expect("a refusal");
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::OutOfRange, "REVISION_COMPACTED"),
            "{after}"
        );
    }
    let refused = Watch::start(server.mutes().await, OPEN, "", Some(-1)).await.err().unwrap();
    assert_eq!(reason(&refused), "INVALID_ARGUMENT");
    let (mut resumed, _) = Watch::begun(server.mutes().await, OPEN, "", Some(last - 5)).await;
    assert_eq!(revisions(&resumed.up_to(last).await), (last - 4..=last).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_is_cut_with_its_last_revision() {
    let server = Server::start().await;
    // Flow-control windows of 64 KiB, the smallest that HTTP/2 allows for a connection.
    let channel = Channel::from_shared(format!("http://{}", server.addresses.grpc)).unwrap();
    let channel = channel
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let (mut slow, begun) = Watch::begun(MuteServiceClient::new(channel), OPEN, "r", None).await;
    let (mut quick, _) = Watch::begun(server.mutes().await, OPEN, "r", None).await;
    let users: Vec<_> = (0..100).map(|user| format!("{user:064}")).collect();
    let message =
        pb::MuteMembersRequest { app: OPEN.into(), room: "r".into(), users, ..Default::default() };
    let mut mutes = server.mutes().await;
    while server.service.hub.slow_watchers() == 0 {
        server.advance(100);
        let written = mutes
            .mute_members(with(message.clone(), &[SERVICE]))
            .await
            .unwrap()
            .into_inner()
            .revision;
        assert_eq!(quick.change().await.unwrap().revision, written);
        assert!(written - begun < 2_000, "the slow watcher is not cut");
    }
    let written =
        mutes.mute_members(with(message, &[SERVICE])).await.unwrap().into_inner().revision;
    assert_eq!(quick.change().await.unwrap().revision, written);
    let (status, last) = slow.end().await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "WATCHER_TOO_SLOW"));
    let last = last.unwrap();
    assert_eq!(last_revision(&status), last);
    assert!(last > begun && last < written && server.clock.now_ms() - START_MS >= 5_000);
    let (mut resumed, _) = Watch::begun(server.mutes().await, OPEN, "r", Some(last)).await;
    assert_eq!(revisions(&resumed.up_to(written).await), (last + 1..=written).collect::<Vec<_>>());
    let metrics =
        server.http.get(format!("http://{}/metrics", server.addresses.admin)).send().await.unwrap();
    assert!(metrics.text().await.unwrap().contains("mute_watchers_cut_total 1"));
}

#[tokio::test]
async fn a_stop_ends_watches_with_the_revision_to_resume_at() {
    let server = Server::start().await;
    let (mut idle, begun) = Watch::begun(server.mutes().await, OPEN, "idle", None).await;
    let (mut busy, _) = Watch::begun(server.mutes().await, OPEN, "", None).await;
    let last = server.mute(OPEN, "r", &["u"], None).await.revision;
    assert_eq!(busy.change().await.unwrap().revision, last);
    let (idle_end, busy_end, ()) = tokio::join!(idle.end(), busy.end(), server.stop());
    for (status, emitted) in [&idle_end, &busy_end] {
        assert_eq!(
            (status.code(), reason(status).as_str(), *emitted),
            (Code::Unavailable, "STOPPING", None)
        );
    }
    assert_eq!(last_revision(&busy_end.0), last);
    assert!((begun..=last).contains(&last_revision(&idle_end.0)));
}

#[tokio::test]
async fn a_closed_watch_leaves_no_subscription_behind() {
    let server = Server::start().await;
    let has_watchers = async |count| {
        while server.service.hub.watchers() != count {
            tokio::task::yield_now().await;
        }
    };
    let mut watches = Vec::new();
    for room in ["", "r1", "r1", "r2"] {
        watches.push(Watch::begun(server.mutes().await, OPEN, room, None).await);
    }
    timeout(TIMEOUT, has_watchers(4)).await.unwrap();
    watches.truncate(1);
    timeout(TIMEOUT, has_watchers(1)).await.unwrap();
    watches.clear();
    timeout(TIMEOUT, has_watchers(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mute_reaches_all_watchers_of_its_room() {
    let server = Server::start().await;
    let count: usize = std::env::var("MUTE_TEST_WATCHERS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(500);
    let mut watches = Vec::new();
    for at in (0..count).step_by(100) {
        let mutes = server.mutes().await;
        watches.extend(
            join_all(
                (at..count.min(at + 100)).map(|_| Watch::begun(mutes.clone(), OPEN, "r", None)),
            )
            .await,
        );
    }
    let revision = server.mute(OPEN, "r", &["u"], None).await.revision;
    let started = std::time::Instant::now();
    let changes = join_all(watches.iter_mut().map(|(watch, _)| watch.change())).await;
    println!("{count} watchers received the change in {:?}", started.elapsed());
    assert!(changes.into_iter().all(|change| change.unwrap().revision == revision));
}

#[tokio::test]
async fn users_and_services_without_the_scope_may_not_watch() {
    let server = Server::start().await;
    let owner = format!("Bearer {}", server.user_token(AGORA, "owner1"));
    for headers in [[("authorization", owner.as_str())], [KEEPER]] {
        let message =
            pb::WatchRequest { app: AGORA.into(), room: ROOM.into(), after_revision: None };
        let refused = server.mutes().await.watch(with(message, &headers)).await.unwrap_err();
        assert_eq!(reason(&refused), "PERMISSION_DENIED");
    }
    let admin = format!("Bearer {}", server.agora_token());
    let message = pb::WatchRequest { app: AGORA.into(), ..Default::default() };
    assert!(server.mutes().await.watch(with(message, &[("authorization", &admin)])).await.is_ok());
}
