//! The history: newest first, filtered, in pages that new and dropped events do not disturb, and
//! fast however long it is.

use mute_service::{
    clock::Clock,
    config::Settings,
    model::{Event, EventKind},
    proto::v1::{self as pb, ChangeKind},
    store::EncodedBatch,
};

use crate::harness::*;

fn request_for(app: &str) -> pb::ListEventsRequest {
    pb::ListEventsRequest { app: app.into(), ..Default::default() }
}

async fn page(server: &Server, message: pb::ListEventsRequest) -> (Vec<pb::Change>, String) {
    let page =
        server.mutes().await.list_events(with(message, &[SERVICE])).await.unwrap().into_inner();
    (page.events, page.next_page_token)
}

/// All pages, and how many there were.
async fn all(server: &Server, message: pb::ListEventsRequest) -> (Vec<pb::Change>, usize) {
    let mut events = Vec::new();
    let mut pages = 0;
    let mut page_token = String::new();
    loop {
        let (more, next) =
            page(server, pb::ListEventsRequest { page_token, ..message.clone() }).await;
        events.extend(more);
        pages += 1;
        page_token = next;
        if page_token.is_empty() {
            return (events, pages);
        }
    }
}

fn revisions(events: &[pb::Change]) -> Vec<i64> {
    events.iter().map(|event| event.revision).collect()
}

#[tokio::test]
async fn events_are_found_by_room_user_actor_kind_and_time() {
    let server = Server::start().await;
    let admin = format!("Bearer {}", server.app_token(OPEN));
    let ban = pb::BanRoomRequest { app: OPEN.into(), room: "r1".into(), ..Default::default() };
    let muted = server.mute(OPEN, "r1", &["u1", "u2"], Some(60_000)).await.revision;
    server.advance(10_000);
    let banned = server
        .mutes()
        .await
        .ban_room(with(ban, &[("authorization", &admin)]))
        .await
        .unwrap()
        .into_inner()
        .revision;
    server.advance(10_000);
    let other = server.mute(OPEN, "r2", &["u2"], None).await.revision;
    server.mute(AGORA, ROOM, &["user1"], None).await;
    server.advance(40_000);
    server.sweep().await;
    let ended = other + 2;
    let at = |ms: u64| {
        Some(prost_types::Timestamp {
            seconds: ((START_MS + ms) / 1_000) as i64,
            nanos: ((START_MS + ms) % 1_000 * 1_000_000) as i32,
        })
    };
    let kinds = |kinds: &[ChangeKind]| kinds.iter().map(|kind| (*kind).into()).collect();
    let cases = [
        (request_for(OPEN), vec![ended, other, banned, muted]),
        (
            pb::ListEventsRequest { room: "r1".into(), ..request_for(OPEN) },
            vec![ended, banned, muted],
        ),
        (pb::ListEventsRequest { room: "nowhere".into(), ..request_for(OPEN) }, vec![]),
        (
            pb::ListEventsRequest { user: "u2".into(), ..request_for(OPEN) },
            vec![ended, other, muted],
        ),
        (
            pb::ListEventsRequest { user: "u1".into(), room: "r1".into(), ..request_for(OPEN) },
            vec![ended, muted],
        ),
        (pb::ListEventsRequest { actor: "app".into(), ..request_for(OPEN) }, vec![banned]),
        (pb::ListEventsRequest { actor: "service".into(), ..request_for(OPEN) }, vec![ended]),
        (
            pb::ListEventsRequest {
                kinds: kinds(&[ChangeKind::Banned, ChangeKind::Expired]),
                ..request_for(OPEN)
            },
            vec![ended, banned],
        ),
        (
            pb::ListEventsRequest { start_time: at(10_000), ..request_for(OPEN) },
            vec![ended, other, banned],
        ),
        (pb::ListEventsRequest { start_time: at(10_001), ..request_for(OPEN) }, vec![ended, other]),
        (pb::ListEventsRequest { end_time: at(20_000), ..request_for(OPEN) }, vec![banned, muted]),
        (
            pb::ListEventsRequest { start_time: at(1), end_time: at(20_001), ..request_for(OPEN) },
            vec![other, banned],
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(revisions(&all(&server, message.clone()).await.0), expected, "{message:?}");
    }
    // User ids are folded as the app is configured.
    let upper = pb::ListEventsRequest {
        user: "USER1".into(),
        kinds: kinds(&[ChangeKind::Muted]),
        ..request_for(AGORA)
    };
    assert_eq!(revisions(&all(&server, upper).await.0), [other + 1]);
    for wrong in [
        pb::ListEventsRequest { kinds: vec![0], ..request_for(OPEN) },
        pb::ListEventsRequest { kinds: vec![99], ..request_for(OPEN) },
        pb::ListEventsRequest { page_token: "nonsense".into(), ..request_for(OPEN) },
        pb::ListEventsRequest { page_size: -1, ..request_for(OPEN) },
        pb::ListEventsRequest { room: "a\nb".into(), ..request_for(OPEN) },
        pb::ListEventsRequest {
            start_time: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
            ..request_for(OPEN)
        },
    ] {
        let refused = server.mutes().await.list_events(with(wrong, &[SERVICE])).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn pages_are_stable_while_events_are_added_and_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { keep_events: Some(50), ..unlimited() };
    // Old events are dropped many at a time: those from before one stop are dropped at the next.
    let again = || Server::on(directory.path(), Clock::manual(START_MS), settings.clone());
    let mut server = again().await;
    let mut written = Vec::new();
    for number in 0..50 {
        if number == 5 {
            server.stop().await;
            server = again().await;
        }
        written.push(server.mute(OPEN, "r", &[&format!("u{number}")], None).await.revision);
    }
    let request = |page_token: String| pb::ListEventsRequest {
        page_size: 20,
        page_token,
        ..request_for(OPEN)
    };
    let (first, token) = page(&server, request(String::new())).await;
    // The events of the second page stay, and some of the third page are dropped.
    for _ in 0..25 {
        server.mute(OPEN, "r", &["later"], None).await;
    }
    server.stop().await;
    let server = again().await;
    let (second, token) = page(&server, request(token)).await;
    for _ in 0..5 {
        server.mute(OPEN, "r", &["later"], None).await;
    }
    let (third, token) = page(&server, request(token)).await;
    written.reverse();
    let read = [revisions(&first), revisions(&second), revisions(&third)].concat();
    assert_eq!(read, written[..read.len()]);
    assert_eq!((third.len(), token.as_str()), (5, ""), "{read:?}");
}

#[tokio::test]
async fn staff_sees_its_rooms_history_without_notification_mutes() {
    let server = Server::start().await;
    let notification_mute = pb::MuteRoomNotificationsRequest {
        app: AGORA.into(),
        user: "user1".into(),
        room: ROOM.into(),
        duration: None,
        ..Default::default()
    };
    server
        .mutes()
        .await
        .mute_room_notifications(with(notification_mute, &[SERVICE]))
        .await
        .unwrap();
    server.mute(AGORA, ROOM, &["user2"], None).await;
    let room =
        pb::UpsertRoomRequest { app: AGORA.into(), room: "other".into(), ..Default::default() };
    server.directory().await.upsert_room(with(room, &[SERVICE])).await.unwrap();
    let kinds_for = async |user: &str, room: &str| {
        let bearer = format!("Bearer {}", server.user_token(AGORA, user));
        let message = pb::ListEventsRequest { room: room.into(), ..request_for(AGORA) };
        let answer =
            server.mutes().await.list_events(with(message, &[("authorization", &bearer)])).await;
        answer.map(|page| page.into_inner().events.iter().map(pb::Change::kind).collect::<Vec<_>>())
    };
    assert_eq!(
        kinds_for("owner1", ROOM).await.unwrap(),
        [ChangeKind::Muted, ChangeKind::RoomUpserted]
    );
    for (user, room) in [("owner1", ""), ("owner1", "other"), ("user1", ROOM)] {
        assert_eq!(
            reason(&kinds_for(user, room).await.unwrap_err()),
            "PERMISSION_DENIED",
            "{user} {room}"
        );
    }
}

/// Commits events in other rooms, many at a time.
async fn fill(server: &Server, count: u64) {
    let mute = |number: u64| Event {
        room: format!("r{}", number % 100),
        users: vec![format!("u{number}")],
        ..Event::new(EventKind::Muted, OPEN, "app", START_MS + number * 1_000)
    };
    for from in (0..count).step_by(2_000) {
        let commits = (from..count.min(from + 2_000))
            .map(|number| server.service.store.commit(EncodedBatch::of(&mute(number))));
        let done = futures_util::future::join_all(commits).await;
        let latest = done.into_iter().map(Result::unwrap).max().unwrap();
        assert!(server.service.view.wait_for(latest).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_scans_part_of_a_long_history_its_pages_all() {
    let count: u64 = std::env::var("MUTE_TEST_EVENTS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(60_000);
    let server = Server::start().await;
    let first = server.mute(OPEN, "needle", &["u"], None).await.revision;
    fill(&server, count).await;
    let started = std::time::Instant::now();
    let request = pb::ListEventsRequest { room: "needle".into(), ..request_for(OPEN) };
    let (events, token) = page(&server, request.clone()).await;
    println!("one call through a history of {count}: {:?}", started.elapsed());
    assert!(events.is_empty() && !token.is_empty());
    let (events, pages) = all(&server, request.clone()).await;
    assert_eq!((revisions(&events), pages), (vec![first], count as usize / 50_000 + 1));
    // A time filter finds events at once, at either end of the history.
    let started = std::time::Instant::now();
    let at = |ms: u64| {
        Some(prost_types::Timestamp { seconds: ((START_MS + ms) / 1_000) as i64, nanos: 0 })
    };
    let old = pb::ListEventsRequest { end_time: at(20_000), ..request_for(OPEN) };
    let (events, pages) = all(&server, old).await;
    println!("the oldest of a history of {count}: {:?}", started.elapsed());
    assert!(
        pages == 1 && revisions(&events).contains(&first) && events.len() >= 20,
        "{pages} {}",
        events.len()
    );
    let new = pb::ListEventsRequest {
        room: "needle".into(),
        start_time: at((count - 10) * 1_000),
        ..request_for(OPEN)
    };
    assert_eq!(all(&server, new).await, (Vec::new(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_other_apps_are_read_once_and_then_skipped() {
    let server = Server::start().await;
    let first = server.mute(AGORA, ROOM, &["user1"], None).await.revision;
    fill(&server, 60_000).await;
    let listed = async || {
        let (events, pages) = all(&server, request_for(AGORA)).await;
        (
            revisions(&events)
                .into_iter()
                .take_while(|revision| *revision >= first)
                .collect::<Vec<_>>(),
            pages,
        )
    };
    assert_eq!(listed().await, (vec![first], 2), "one call scans 50,000 events");
    assert_eq!(listed().await, (vec![first], 1));
    // New events of all apps are found, whatever page token a caller has sent.
    page(
        &server,
        pb::ListEventsRequest { page_token: "MTAwMDAwMDAwMDAwMA".into(), ..request_for(AGORA) },
    )
    .await;
    let second = server.mute(AGORA, ROOM, &["user2"], None).await.revision;
    fill(&server, 1_000).await;
    let third = server.mute(AGORA, ROOM, &["user3"], None).await.revision;
    for _ in 0..2 {
        assert_eq!(listed().await, (vec![third, second, first], 1));
    }
    let (of_others, _) =
        all(&server, pb::ListEventsRequest { room: "r7".into(), ..request_for(OPEN) }).await;
    assert_eq!(of_others.len(), 610);
    // A watch skips them too; it reads in the other direction.
    for _ in 0..2 {
        let message = pb::WatchRequest {
            app: AGORA.into(),
            after_revision: Some(first - 1),
            ..Default::default()
        };
        let mut watch =
            server.mutes().await.watch(with(message, &[SERVICE])).await.unwrap().into_inner();
        let mut found = Vec::new();
        while found.len() < 3 {
            if let Some(pb::watch_response::Event::Change(change)) =
                watch.message().await.unwrap().unwrap().event
            {
                found.push(change.revision);
            }
        }
        assert_eq!(found, [first, second, third]);
    }
}
