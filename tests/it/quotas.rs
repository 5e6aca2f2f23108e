//! Limits of a caller and quotas of an app: no caller and no app uses up what belongs to others.

use std::time::Duration;

use futures_util::StreamExt as _;
use mute_service::{
    config::Settings,
    model::AppKey,
    proto::v1::{self as pb},
};
use tonic::{Code, Request};

use crate::harness::*;

const ROOM: &str = "r";
const HOUR_MS: u64 = 3_600_000;

fn mute(room: &str, user: &str) -> pb::MuteMembersRequest {
    pb::MuteMembersRequest {
        app: OPEN.into(),
        room: room.into(),
        users: strings(&[user]),
        ..Default::default()
    }
}

fn as_user<T>(server: &Server, user: &str, message: T) -> Request<T> {
    with(message, &[("authorization", &format!("Bearer {}", server.user_token(OPEN, user)))])
}

#[tokio::test]
async fn denied_users_do_not_use_up_the_limits_of_moderators() {
    let limits = Settings { rate_limit: Some(50), user_rate_limit: Some(20), ..unlimited() };
    let server = Server::with(limits).await;
    let admins = Some(pb::RoomAdmins { users: strings(&["mod"]) });
    let room =
        pb::UpsertRoomRequest { app: OPEN.into(), room: ROOM.into(), admins, ..Default::default() };
    server.directory().await.upsert_room(with(room, &[SERVICE])).await.unwrap();
    let mut mutes = server.mutes().await;
    let mut denied = 0;
    let mut limited = 0;
    for number in 0..300 {
        // Ten users, most of whose calls exceed the limit.
        let refused = mutes
            .mute_members(as_user(&server, &format!("u{}", number % 10), mute(ROOM, "x")))
            .await
            .unwrap_err();
        match refused.code() {
            Code::PermissionDenied => denied += 1,
            _ => limited += usize::from(reason(&refused) == "RATE_LIMITED"),
        }
    }
    assert_eq!((denied, limited), (200, 100));
    for number in 0..20 {
        mutes
            .mute_members(as_user(&server, "mod", mute(ROOM, &format!("m{number}"))))
            .await
            .unwrap();
    }
    let mine = mutes.mute_members(as_user(&server, "mod", mute(ROOM, "m"))).await.unwrap_err();
    assert_eq!(reason(&mine), "RATE_LIMITED");
    for number in 0..50 {
        mutes.mute_members(server.as_admin(OPEN, mute(ROOM, &format!("a{number}")))).await.unwrap();
    }
    let last = mutes.mute_members(server.as_admin(OPEN, mute(ROOM, "a"))).await.unwrap_err();
    assert_eq!(reason(&last), "RATE_LIMITED");
}

#[tokio::test]
async fn a_watch_ends_when_its_token_expires() {
    let server = Server::start().await;
    let app = server.service.access.app(OPEN).unwrap();
    let key = AppKey::parse(OPEN.to_owned()).unwrap();
    let token =
        |ttl_s| app.tokens.as_ref().unwrap().mint_app(&key, server.clock.now_ms(), ttl_s).unwrap();
    let watch = async |token: String| {
        let message = pb::WatchRequest { app: OPEN.into(), ..Default::default() };
        let watch = with(message, &[("authorization", &format!("Bearer {token}"))]);
        let mut watch = server.mutes().await.watch(watch).await.unwrap().into_inner();
        watch.next().await.unwrap().unwrap();
        watch
    };
    let mut short = watch(token(Some(1))).await;
    let mut endless = watch(token(None)).await;
    server.mute(OPEN, ROOM, &["u"], None).await;
    for watch in [&mut short, &mut endless] {
        assert!(watch.next().await.unwrap().is_ok());
    }
    server.advance(1_000);
    let ended = tokio::time::timeout(Duration::from_secs(3), short.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unauthenticated, "INVALID_TOKEN"));
    server.mute(OPEN, ROOM, &["other"], None).await;
    assert!(endless.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn request_ids_are_scoped_to_the_user() {
    let server = Server::start().await;
    let mute_notifications = |user: &str| pb::MuteRoomNotificationsRequest {
        app: OPEN.into(),
        user: user.into(),
        room: ROOM.into(),
        request_id: "the same".into(),
        ..Default::default()
    };
    let mut mutes = server.mutes().await;
    let mut revisions = Vec::new();
    for user in ["a", "b", "a"] {
        let answer = mutes
            .mute_room_notifications(as_user(&server, user, mute_notifications(user)))
            .await
            .unwrap()
            .into_inner();
        revisions.push(answer.revision);
    }
    assert!(revisions[0] != revisions[1] && revisions[0] == revisions[2], "{revisions:?}");
    let by_service = mutes
        .mute_room_notifications(with(mute_notifications("c"), &[SERVICE]))
        .await
        .unwrap()
        .into_inner();
    assert!(!revisions.contains(&by_service.revision));
}

#[tokio::test]
async fn a_request_id_over_quota_is_refused_only_in_its_app() {
    let server = Server::with(Settings { keep_requests: Some(10), ..unlimited() }).await;
    let mut mutes = server.mutes().await;
    let with_id = |app: &str, number: usize| pb::MuteMembersRequest {
        app: app.into(),
        request_id: format!("id {number}"),
        ..mute(ROOM, &format!("u{number}"))
    };
    let first = mutes.mute_members(with(with_id(OPEN, 0), &[SERVICE])).await.unwrap().into_inner();
    for number in 1..10 {
        mutes.mute_members(with(with_id(OPEN, number), &[SERVICE])).await.unwrap();
    }
    let refused = mutes.mute_members(with(with_id(OPEN, 10), &[SERVICE])).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "QUOTA_EXCEEDED")
    );
    assert!(server.check(OPEN, ROOM, "u10").await.allowed, "a refused call changes nothing");
    // A repeat is answered, a call without an id is accepted, and another app has its own quota.
    let again = mutes.mute_members(with(with_id(OPEN, 0), &[SERVICE])).await.unwrap().into_inner();
    assert_eq!(again, first);
    mutes.mute_members(with(mute(ROOM, "u10"), &[SERVICE])).await.unwrap();
    let other = pb::UpsertRoomRequest {
        app: AGORA.into(),
        request_id: "id 0".into(),
        ..Default::default()
    };
    server.directory().await.upsert_room(with(other, &[SERVICE])).await.unwrap();
    server.advance(24 * HOUR_MS);
    server.sweep().await;
    mutes.mute_members(with(with_id(OPEN, 10), &[SERVICE])).await.unwrap();
}

#[tokio::test]
async fn an_app_at_its_quota_may_still_change_and_remove() {
    let quotas = Settings {
        quota_rooms: Some(5),
        quota_clients: Some(20),
        quota_mutes: Some(4),
        quota_watchers: Some(1),
        ..unlimited()
    };
    let server = Server::with(quotas).await;
    let mut mutes = server.mutes().await;
    let mut directory = server.directory().await;
    let room = |room: &str| pb::UpsertRoomRequest {
        app: OPEN.into(),
        room: room.into(),
        ..Default::default()
    };
    let client = |user: &str| {
        let client = Some(pb::Client { user: user.into(), ..Default::default() });
        pb::UpsertClientRequest { app: OPEN.into(), client, ..Default::default() }
    };
    for one in ["a", "b", "c", "d", "e", "a"] {
        directory.upsert_room(with(room(one), &[SERVICE])).await.unwrap();
    }
    for number in 0..19 {
        directory.upsert_client(with(client(&format!("u{number}")), &[SERVICE])).await.unwrap();
    }
    for _ in 0..2 {
        directory.upsert_client(with(client("a"), &[SERVICE])).await.unwrap();
    }
    let refused = |status: tonic::Status| {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::ResourceExhausted, "QUOTA_EXCEEDED")
        );
        status.message().to_owned()
    };
    assert!(
        refused(directory.upsert_room(with(room("f"), &[SERVICE])).await.unwrap_err())
            .contains("5 rooms")
    );
    assert!(
        refused(directory.upsert_client(with(client("f"), &[SERVICE])).await.unwrap_err())
            .contains("20 clients")
    );
    // One mute of each kind; a fifth is refused.
    let app = || OPEN.to_owned();
    mutes.mute_members(with(mute("a", "u"), &[SERVICE])).await.unwrap();
    mutes
        .ban_room(with(
            pb::BanRoomRequest { app: app(), room: "a".into(), ..Default::default() },
            &[SERVICE],
        ))
        .await
        .unwrap();
    mutes
        .mute_user(with(
            pb::MuteUserRequest { app: app(), user: "u".into(), ..Default::default() },
            &[SERVICE],
        ))
        .await
        .unwrap();
    let mute_notifications = pb::MuteRoomNotificationsRequest {
        app: app(),
        user: "a".into(),
        room: "a".into(),
        ..Default::default()
    };
    mutes.mute_room_notifications(with(mute_notifications, &[SERVICE])).await.unwrap();
    assert!(
        refused(mutes.mute_members(with(mute("a", "v"), &[SERVICE])).await.unwrap_err())
            .contains("4 mutes")
    );
    let allow = pb::AllowMembersRequest {
        app: app(),
        room: "a".into(),
        users: strings(&["v"]),
        ..Default::default()
    };
    refused(mutes.allow_members(with(allow, &[SERVICE])).await.unwrap_err());
    mutes.mute_members(with(mute("a", "u"), &[SERVICE])).await.unwrap();
    let unmute = pb::UnmuteMembersRequest {
        app: app(),
        room: "a".into(),
        users: strings(&["u"]),
        ..Default::default()
    };
    mutes.unmute_members(with(unmute, &[SERVICE])).await.unwrap();
    mutes.mute_members(with(mute("a", "v"), &[SERVICE])).await.unwrap();
    // Another app has its own quota.
    directory
        .upsert_room(with(
            pb::UpsertRoomRequest { app: AGORA.into(), ..Default::default() },
            &[SERVICE],
        ))
        .await
        .unwrap();
    let watch = || with(pb::WatchRequest { app: OPEN.into(), ..Default::default() }, &[SERVICE]);
    let first = mutes.watch(watch()).await.unwrap();
    assert!(refused(mutes.watch(watch()).await.unwrap_err()).contains("1 watchers"));
    drop(first);
    crate::cluster::until("the slot of the closed watch is free", async || {
        server.mutes().await.watch(watch()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn profiles_grow_up_to_the_quota_of_their_bytes_and_no_further() {
    let server = Server::with(Settings { quota_profile_mib: Some(1), ..unlimited() }).await;
    let mut directory = server.directory().await;
    let client = |number: usize, bytes: usize| {
        let custom_json = format!("{{\"x\":\"{}\"}}", "x".repeat(bytes));
        let client =
            Some(pb::Client { user: format!("u{number}"), custom_json, ..Default::default() });
        with(pb::UpsertClientRequest { app: OPEN.into(), client, ..Default::default() }, &[SERVICE])
    };
    let mut fits = 0;
    while directory.upsert_client(client(fits, 16_000)).await.is_ok() {
        fits += 1;
    }
    assert!((60..=66).contains(&fits), "{fits} of 16 kB");
    // A profile may shrink, and then another may grow by as much.
    directory.upsert_client(client(0, 100)).await.unwrap();
    directory.upsert_client(client(fits, 15_000)).await.unwrap();
    directory.upsert_client(client(0, 15_000)).await.unwrap_err();
}

#[tokio::test]
async fn a_page_stays_below_the_default_message_limit_of_clients() {
    let server = Server::start().await;
    let mut directory = server.directory().await;
    let custom_json = format!("{{\"x\":\"{}\"}}", "x".repeat(16_000));
    for number in 0..300 {
        let client = Some(pb::Client {
            user: format!("u{number:03}"),
            custom_json: custom_json.clone(),
            ..Default::default()
        });
        let message = pb::UpsertClientRequest { app: OPEN.into(), client, ..Default::default() };
        directory.upsert_client(with(message, &[SERVICE])).await.unwrap();
    }
    let mut users = Vec::new();
    let mut pages = 0;
    let mut page_token = String::new();
    loop {
        let message = pb::ListClientsRequest {
            app: OPEN.into(),
            page_size: 1_000,
            page_token,
            ..Default::default()
        };
        // A tonic client accepts at most 4 MiB by default.
        let page = directory.list_clients(with(message, &[SERVICE])).await.unwrap().into_inner();
        users.extend(page.clients.into_iter().map(|client| client.user));
        (pages, page_token) = (pages + 1, page.next_page_token);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((pages, users), (2, (0..300).map(|number| format!("u{number:03}")).collect()));
    // Events of a hundred users each.
    let long = |number: usize| format!("{number:04}{}", "ü".repeat(60));
    for round in 0..400 {
        let users: Vec<_> = (0..100).map(long).collect();
        let message = pb::MuteMembersRequest {
            app: OPEN.into(),
            room: format!("r{round}"),
            users,
            ..Default::default()
        };
        server.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap();
    }
    let mut rooms = Vec::new();
    let mut pages = 0;
    let mut page_token = String::new();
    loop {
        let kinds = vec![pb::ChangeKind::Muted.into()];
        let message = pb::ListEventsRequest {
            app: OPEN.into(),
            kinds,
            page_size: 1_000,
            page_token,
            ..Default::default()
        };
        let page =
            server.mutes().await.list_events(with(message, &[SERVICE])).await.unwrap().into_inner();
        rooms.extend(page.events.into_iter().map(|event| event.room));
        (pages, page_token) = (pages + 1, page.next_page_token);
        if page_token.is_empty() {
            break;
        }
    }
    assert!((2..=4).contains(&pages), "{pages} pages");
    assert_eq!(rooms, (0..400).rev().map(|round| format!("r{round}")).collect::<Vec<_>>());
}
