//! User mutes: in every room of an app, over gRPC and REST. Whole REST answers are in
//! `tests/golden/agora`.

use futures_util::future::join_all;
use mute_service::{
    clock::Clock,
    model::{EventKind, Key},
    proto::v1 as pb,
    store::{EncodedBatch, codec},
};
use reqwest::Method;
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    agora::{golden, limited, refusal},
    harness::*,
};

async fn mute(
    server: &Server,
    app: &str,
    user: &str,
    duration_ms: Option<u64>,
) -> Result<pb::MutedUser, Status> {
    let user = user.to_owned();
    let reason = "spam".to_owned();
    let message = pb::MuteUserRequest {
        app: app.to_owned(),
        user,
        duration: duration_ms.map(duration),
        reason,
        ..Default::default()
    };
    let muted = server.mutes().await.mute_user(server.as_admin(app, message)).await?;
    Ok(muted.into_inner().user.unwrap())
}

async fn unmute(server: &Server, app: &str, user: &str) -> bool {
    let message =
        pb::UnmuteUserRequest { app: app.to_owned(), user: user.to_owned(), ..Default::default() };
    server
        .mutes()
        .await
        .unmute_user(server.as_admin(app, message))
        .await
        .unwrap()
        .into_inner()
        .was_muted
}

async fn list(server: &Server, message: pb::ListMutedUsersRequest) -> pb::ListMutedUsersResponse {
    let app = message.app.clone();
    server
        .mutes()
        .await
        .list_muted_users(server.as_admin(&app, message))
        .await
        .unwrap()
        .into_inner()
}

async fn rule(server: &Server, app: &str, room: &str, user: &str) -> pb::Rule {
    let room = room.to_owned();
    let user = user.to_owned();
    let message = pb::CheckSendRequest { app: app.to_owned(), room, user, min_revision: 0 };
    server
        .mutes()
        .await
        .check_send(server.as_admin(app, message))
        .await
        .unwrap()
        .into_inner()
        .rule()
}

async fn muted(server: &Server, app: &str) -> Vec<String> {
    let list =
        list(server, pb::ListMutedUsersRequest { app: app.to_owned(), ..Default::default() }).await;
    list.users.into_iter().map(|mute| mute.user).collect()
}

fn records(server: &Server) -> u64 {
    server.service.view.records()
}

/// The events of the commits after this revision, from the change feed.
async fn events(server: &Server, after: u64) -> Vec<(EventKind, Vec<String>, String)> {
    use futures_util::{StreamExt as _, TryStreamExt as _};
    let count = (server.service.view.revision() - after) as usize;
    let feed = server.service.store.watch(after).await.unwrap();
    let commits: Vec<_> = feed.take(count).try_collect().await.unwrap();
    let event = |bytes: &[u8]| codec::decode_event(bytes).unwrap();
    let events = commits.iter().map(|commit| event(&commit.event));
    events.map(|event| (event.kind, event.users, event.reason)).collect()
}

#[tokio::test]
async fn a_user_mute_is_the_first_rule_in_every_room() {
    let server = Server::start().await;
    server.mute(AGORA, ROOM, &["user1"], None).await;
    let mute = mute(&server, AGORA, "USER1", Some(60_000)).await.unwrap();
    assert_eq!(
        (mute.user.as_str(), mute.actor.as_str(), mute.reason.as_str()),
        ("user1", "app", "spam")
    );
    assert_eq!(ms(&mute.expire_time.unwrap()), START_MS + 60_000);
    assert_eq!(ms(&mute.mute_time.unwrap()), START_MS);
    let (_, other) = server
        .agora(Method::POST, "/chatrooms", Some(json!({"name": "other", "owner": "user1"})))
        .await;
    for room in [ROOM, other["data"]["id"].as_str().unwrap()] {
        let check = server.check(AGORA, room, "user1").await;
        assert_eq!((check.allowed, check.rule()), (false, pb::Rule::UserMute), "{room}");
        assert_eq!((check.actor.as_str(), check.reason.as_str()), ("app", "spam"));
    }
    let pairs = ["user1", "user2", "nobody"]
        .map(|user| pb::RoomUser { room: ROOM.into(), user: user.into() })
        .to_vec();
    let message = pb::BatchCheckSendRequest { app: AGORA.into(), pairs, ..Default::default() };
    let answer = server
        .mutes()
        .await
        .batch_check_send(with(message, &[SERVICE]))
        .await
        .unwrap()
        .into_inner();
    let pb::BatchCheckSendResponse { results: batch, revision } = answer;
    assert_eq!(
        pb::CheckSendResponse { revision, ..batch[0].clone() },
        server.check(AGORA, ROOM, "user1").await
    );
    assert_eq!((batch[1].rule(), batch[2].rule()), (pb::Rule::None, pb::Rule::NotRegistered));
    assert!(unmute(&server, AGORA, "User1").await);
    assert_eq!(server.check(AGORA, ROOM, "user1").await.rule(), pb::Rule::MemberMute);
}

#[tokio::test]
async fn a_check_says_when_the_user_may_speak_again() {
    let server = Server::start().await;
    let user = "USER1";
    mute(&server, AGORA, user, Some(2_000)).await.unwrap();
    server.mute(AGORA, ROOM, &[user], Some(60_000)).await;
    let ban = json!({"mute_duration": 3_600_000});
    let (status, _) =
        server.agora(Method::POST, &format!("/chatrooms/{ROOM}/ban"), Some(ban)).await;
    assert_eq!(status, 200);
    let rest = async || {
        let path = format!("/sdk/chatrooms/{ROOM}/mute/{user}");
        server.agora(Method::GET, &path, None).await.1["data"].clone()
    };
    let allowed_path = format!("/chatrooms/{ROOM}/white/users/{user}");
    let allow = |method| server.agora(method, &allowed_path, None);
    let told = async || {
        let check = server.check(AGORA, ROOM, user).await;
        (check.allowed, check.rule(), check.expire_time.as_ref().map(|end| ms(end) - START_MS))
    };
    assert_eq!(told().await, (false, pb::Rule::UserMute, Some(3_600_000)));
    // The ban does not forbid those on the allow list to speak.
    assert_eq!(allow(Method::POST).await.0, 200);
    assert_eq!(told().await, (false, pb::Rule::UserMute, Some(60_000)));
    assert_eq!(rest().await, true);
    server.advance(2_000);
    assert_eq!(told().await, (false, pb::Rule::MemberMute, Some(60_000)));
    assert_eq!(rest().await, true);
    server.advance(58_000);
    assert_eq!(told().await, (true, pb::Rule::AllowList, Some(3_600_000)));
    assert_eq!(rest().await, false);
    assert_eq!(allow(Method::DELETE).await.0, 200);
    assert_eq!(told().await, (false, pb::Rule::RoomBan, Some(3_600_000)));
    // A mute for good has no end, whatever ends before.
    mute(&server, AGORA, user, Some(1_000)).await.unwrap();
    server.mute(AGORA, ROOM, &[user], None).await;
    assert_eq!(told().await, (false, pb::Rule::UserMute, None));
    let pairs = vec![pb::RoomUser { room: ROOM.into(), user: user.into() }];
    let message = pb::BatchCheckSendRequest { app: AGORA.into(), pairs, ..Default::default() };
    let batch = server.mutes().await.batch_check_send(with(message, &[SERVICE])).await.unwrap();
    let batch = batch.into_inner();
    let check = server.check(AGORA, ROOM, user).await;
    assert_eq!((check.actor.as_str(), check.reason.as_str()), ("app", "spam"));
    assert_eq!(
        pb::CheckSendResponse { revision: batch.revision, ..batch.results[0].clone() },
        check
    );
}

#[tokio::test]
async fn a_user_mute_ends_without_a_sweep() {
    let server = Server::start().await;
    for (app, room, user) in [(AGORA, ROOM, "user1"), (OPEN, "any", "u")] {
        mute(&server, app, user, Some(1_500)).await.unwrap();
        server.advance(1_499);
        assert_eq!(rule(&server, app, room, user).await, pb::Rule::UserMute);
        assert_eq!(muted(&server, app).await, [user]);
        server.advance(1);
        assert_eq!(rule(&server, app, room, user).await, pb::Rule::None);
        assert_eq!(muted(&server, app).await, [""; 0]);
        assert!(!unmute(&server, app, user).await);
    }
}

#[tokio::test]
async fn muting_again_replaces_the_end_and_unmuting_twice_is_no_error() {
    let server = Server::start().await;
    mute(&server, AGORA, "user1", Some(1_000)).await.unwrap();
    mute(&server, AGORA, "user1", None).await.unwrap();
    server.advance(1_000);
    server.sweep().await;
    assert_eq!(server.check(AGORA, ROOM, "user1").await.expire_time, None);
    assert!(unmute(&server, AGORA, "user1").await);
    assert!(!unmute(&server, AGORA, "user1").await);
    assert!(!unmute(&server, AGORA, "nobody").await);
    assert!(server.check(AGORA, ROOM, "user1").await.allowed);
}

#[tokio::test]
async fn an_unknown_client_can_be_muted_only_in_an_open_app() {
    let server = Server::start().await;
    let refused = mute(&server, AGORA, "Nobody", None).await.unwrap_err();
    assert_eq!(reason(&refused), "CLIENT_NOT_FOUND");
    assert_eq!(mute_service::grpc::status::DecodedError::from(refused).users, ["Nobody"]);
    mute(&server, OPEN, "anybody", None).await.unwrap();
    assert_eq!(rule(&server, OPEN, "any room", "anybody").await, pb::Rule::UserMute);
    assert_eq!(rule(&server, OPEN, "any room", "somebody").await, pb::Rule::None);
    // The mute counts in this app only.
    assert_eq!((muted(&server, AGORA).await.len(), muted(&server, OPEN).await.len()), (0, 1));
}

#[tokio::test]
async fn deleting_the_client_keeps_its_user_mute_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::on(directory.path(), Clock::manual(START_MS), unlimited()).await;
    let before = records(&server);
    mute(&server, AGORA, "user1", Some(60_000)).await.unwrap();
    mute(&server, AGORA, "user2", None).await.unwrap();
    assert_eq!(records(&server), before + 2);
    let delete =
        pb::DeleteClientRequest { app: AGORA.into(), user: "user1".into(), ..Default::default() };
    let was = server
        .directory()
        .await
        .delete_client(with(delete, &[SERVICE]))
        .await
        .unwrap()
        .into_inner();
    assert!(was.client.is_some());
    assert_eq!(records(&server), before + 1);
    assert_eq!(muted(&server, AGORA).await, ["user1", "user2"]);
    server.stop().await;

    // The dev directory registers the client again.
    let server = Server::on(directory.path(), Clock::manual(START_MS + 59_999), unlimited()).await;
    assert_eq!(muted(&server, AGORA).await, ["user1", "user2"]);
    let check = server.check(AGORA, ROOM, "user1").await;
    assert_eq!(
        (check.rule(), ms(&check.expire_time.unwrap())),
        (pb::Rule::UserMute, START_MS + 60_000)
    );
    server.advance(1);
    assert_eq!(muted(&server, AGORA).await, ["user2"]);
    server.sweep().await;
    assert_eq!(records(&server), before + 1);
}

#[tokio::test]
async fn an_ended_user_mute_is_swept_once_and_a_renewed_one_never() {
    let server = Server::start().await;
    let before = records(&server);
    let start = server.service.view.revision();
    mute(&server, AGORA, "user1", Some(1_000)).await.unwrap();
    mute(&server, AGORA, "user2", Some(1_000)).await.unwrap();
    mute(&server, AGORA, "user2", Some(9_000)).await.unwrap();
    unmute(&server, AGORA, "user2").await;
    mute(&server, AGORA, "user2", Some(9_000)).await.unwrap();
    // The mute of a deleted client is swept as well.
    mute(&server, OPEN, "gone", Some(1_000)).await.unwrap();
    let client = Some(pb::Client { user: "gone".into(), ..Default::default() });
    let upsert = pb::UpsertClientRequest { app: OPEN.into(), client, ..Default::default() };
    server.directory().await.upsert_client(server.as_admin(OPEN, upsert)).await.unwrap();
    let delete =
        pb::DeleteClientRequest { app: OPEN.into(), user: "gone".into(), ..Default::default() };
    let deleted = server
        .directory()
        .await
        .delete_client(server.as_admin(OPEN, delete))
        .await
        .unwrap()
        .into_inner();
    assert!(deleted.client.is_some());
    server.advance(1_000);
    server.sweep().await;
    server.sweep().await;
    assert_eq!(records(&server), before + 1);
    let events = events(&server, start).await;
    assert!(events.iter().all(|event| event.0 != EventKind::UserMuted || event.2 == "spam"));
    let of = |kind| {
        events
            .iter()
            .filter(|event| event.0 == kind)
            .map(|event| event.1.concat())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(EventKind::UserMuted), ["user1", "user2", "user2", "user2", "gone"]);
    assert_eq!(of(EventKind::UserUnmuted), ["user2"]);
    let mut expired = of(EventKind::UserMuteExpired);
    expired.sort();
    assert_eq!(expired, ["gone", "user1"]);
    assert_eq!(server.check(AGORA, ROOM, "user2").await.rule(), pb::Rule::UserMute);
}

#[tokio::test]
async fn removing_a_users_records_removes_its_mute_from_the_view() {
    let server = Server::start().await;
    mute(&server, AGORA, "user1", None).await.unwrap();
    let key = codec::encode_key(Key::UserMute { app: AGORA, user: "user1" });
    let operations = vec![mute_service::store::Operation::Delete { key }];
    let revision = server
        .service
        .store
        .commit(EncodedBatch { operations, ..EncodedBatch::default() })
        .await
        .unwrap();
    assert!(server.service.view.wait_for(revision).await);
    assert_eq!(muted(&server, AGORA).await, [""; 0]);
    assert!(server.check(AGORA, ROOM, "user1").await.allowed);
}

#[tokio::test]
async fn the_list_is_paged_in_order_without_gaps_under_changes() {
    let server = Server::start().await;
    let users: Vec<_> = (0..30).map(|number| format!("u{number:02}")).collect();
    join_all(users.iter().map(|user| mute(&server, OPEN, user, None))).await;
    let mut seen = Vec::new();
    let mut page_token = String::new();
    let mut pages = 0;
    loop {
        let message = pb::ListMutedUsersRequest {
            app: OPEN.into(),
            page_size: 7,
            page_token,
            ..Default::default()
        };
        let page = list(&server, message).await;
        seen.extend(page.users.into_iter().map(|mute| mute.user));
        // The last user of the page is unmuted, one before it is muted, and one after it is
        // unmuted.
        unmute(&server, OPEN, seen.last().unwrap()).await;
        mute(&server, OPEN, &format!("a{pages}"), None).await.unwrap();
        unmute(&server, OPEN, "u29").await;
        (page_token, pages) = (page.next_page_token, pages + 1);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((seen.as_slice(), pages), (&users[..29], 5));
    let skip = |skip| {
        list(
            &server,
            pb::ListMutedUsersRequest {
                app: OPEN.into(),
                page_size: 2,
                skip,
                ..Default::default()
            },
        )
    };
    let page = skip(5).await;
    assert_eq!(
        page.users.iter().map(|mute| mute.user.as_str()).collect::<Vec<_>>(),
        ["u00", "u01"]
    );
    assert!(!page.next_page_token.is_empty() && skip(100).await.users.is_empty());
}

#[tokio::test]
async fn a_list_by_user_returns_the_muted_ones_in_one_page() {
    let server = Server::start().await;
    for user in ["user1", "user2", "user3"] {
        mute(&server, AGORA, user, Some(1_000)).await.unwrap();
    }
    let users = strings(&["user3", "user5", "nobody", "USER1"]);
    let message =
        pb::ListMutedUsersRequest { app: AGORA.into(), page_size: 1, users, ..Default::default() };
    let page = list(&server, message.clone()).await;
    assert_eq!(
        page.users.iter().map(|mute| mute.user.as_str()).collect::<Vec<_>>(),
        ["user3", "user1"]
    );
    assert_eq!(page.next_page_token, "");
    server.advance(1_000);
    assert!(list(&server, message).await.users.is_empty());
}

#[tokio::test]
async fn users_may_not_mute_or_list_across_the_app() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.user_token(AGORA, "owner1"));
    let headers = [("authorization", bearer.as_str())];
    let mut mutes = server.mutes().await;
    let message =
        pb::MuteUserRequest { app: AGORA.into(), user: "user1".into(), ..Default::default() };
    assert_eq!(
        reason(&mutes.mute_user(with(message, &headers)).await.unwrap_err()),
        "PERMISSION_DENIED"
    );
    let message =
        pb::UnmuteUserRequest { app: AGORA.into(), user: "owner1".into(), ..Default::default() };
    assert_eq!(
        reason(&mutes.unmute_user(with(message, &headers)).await.unwrap_err()),
        "PERMISSION_DENIED"
    );
    let users = strings(&["owner1"]);
    let message = pb::ListMutedUsersRequest { app: AGORA.into(), users, ..Default::default() };
    assert_eq!(
        reason(&mutes.list_muted_users(with(message, &headers)).await.unwrap_err()),
        "PERMISSION_DENIED"
    );
    let request = server.rest(Method::POST, "/easemob-demo/testapp/mutes", &headers);
    let (status, body) =
        sent(request.body(json!({"username": "user1", "chatroom": 0}).to_string())).await;
    golden("agora", "error_not_for_users", status, body);
}

fn assert_golden(name: &str, (status, body): (u16, Value)) {
    golden("agora", name, status, body);
}

async fn post(server: &Server, body: Value) -> (u16, Value) {
    server.agora(Method::POST, "/mutes", Some(body)).await
}

async fn remaining_seconds(server: &Server, user: &str) -> Value {
    let (status, mut body) = server.agora(Method::GET, &format!("/mutes/{user}"), None).await;
    assert_eq!(status, 200, "{body}");
    body["data"]["chatroom"].take()
}

#[tokio::test]
async fn rest_user_mutes_are_in_seconds_and_can_be_removed() {
    let server = Server::start().await;
    assert_golden("mutes_not_muted", server.agora(Method::GET, "/mutes/user1", None).await);
    assert_golden("mutes_set", post(&server, json!({"username": "user1", "chatroom": 100})).await);
    assert_golden("mutes_get", server.agora(Method::GET, "/mutes/user1", None).await);
    assert_eq!(server.check(AGORA, ROOM, "user1").await.rule(), pb::Rule::UserMute);
    // A part of a second counts as one: 0 would mean that the user may speak.
    for (ms, expected) in [(0, 100), (1, 100), (999, 99), (98_999, 1), (1, 0)] {
        server.advance(ms);
        assert_eq!(remaining_seconds(&server, "user1").await, expected);
    }
    assert_eq!(
        post(&server, json!({"username": "USER1", "chatroom": -1, "chat": 0, "groupchat": 0}))
            .await
            .0,
        200
    );
    assert_golden("mutes_get_for_good", server.agora(Method::GET, "/mutes/User1", None).await);
    assert_eq!(
        post(&server, json!({"username": "user1", "chatroom": 0})).await.1["data"],
        json!({"result": "ok"})
    );
    assert_eq!(remaining_seconds(&server, "user1").await, 0);
    assert_eq!(post(&server, json!({"username": "nobody", "chatroom": 0})).await.0, 200);
    assert_eq!(remaining_seconds(&server, "nobody").await, 0);
}

#[tokio::test]
async fn rest_clamps_ends_to_the_vendors_range() {
    let server = Server::start().await;
    for (seconds, expected) in
        [(i64::from(i32::MAX), i64::from(i32::MAX)), (4_000_000_000, -1), (i64::MAX, -1)]
    {
        assert_eq!(post(&server, json!({"username": "user1", "chatroom": seconds})).await.0, 200);
        assert_eq!(remaining_seconds(&server, "user1").await, expected, "{seconds}");
    }
    mute(&server, AGORA, "user1", Some(2_500_000_000_000)).await.unwrap();
    assert_eq!(remaining_seconds(&server, "user1").await, i64::from(i32::MAX));
}

#[tokio::test]
async fn rest_lists_the_muted_in_pages() {
    let server = Server::start().await;
    assert_golden("mutes_list_empty", server.agora(Method::GET, "/mutes", None).await);
    for (user, seconds) in [("user2", 69), ("USER1", -1), ("user3", 1)] {
        post(&server, json!({"username": user, "chatroom": seconds})).await;
    }
    assert_golden(
        "mutes_list",
        server.agora(Method::GET, "/mutes?pageNum=1&pageSize=50", None).await,
    );
    let page = async |query: &str| {
        let (_, body) = server.agora(Method::GET, &format!("/mutes?{query}"), None).await;
        let users = body["data"]["data"].as_array().unwrap().iter();
        users
            .map(|element| element["username"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(page("pageNum=1&pageSize=2&version=3").await, "user1,user2");
    assert_eq!(page("pageNum=2&pageSize=2").await, "user3");
    assert_eq!(page("pageNum=2147483647&pageSize=50").await, "");
    assert_eq!(page("pageSize=1").await, "user1");
    assert_eq!(page("pageNum=1").await, "user1,user2,user3");
    assert_golden(
        "error_mutes_page_size",
        server.agora(Method::GET, "/mutes?pageNum=1&pageSize=51", None).await,
    );
    for query in ["pageSize=0", "pageSize=-1", "pageSize=x", "pageSize="] {
        assert_golden(
            "error_mutes_page_size",
            server.agora(Method::GET, &format!("/mutes?{query}"), None).await,
        );
    }
    assert_golden(
        "error_mutes_page_num",
        server.agora(Method::GET, "/mutes?pageNum=0&pageSize=10", None).await,
    );
}

#[tokio::test]
async fn rest_refuses_unsupported_mutes_and_mutes_no_user() {
    let server = Server::start().await;
    assert_golden(
        "error_mutes_chat",
        post(&server, json!({"username": "user1", "chatroom": 60, "chat": 60})).await,
    );
    assert_golden(
        "error_mutes_groupchat",
        post(&server, json!({"username": "user1", "chatroom": 60, "groupchat": -1})).await,
    );
    assert_golden(
        "error_mutes_chatroom",
        post(&server, json!({"username": "user1", "chat": 0})).await,
    );
    for wrong in [json!(-2), json!("60"), json!(null), json!(true), json!(0.5), json!(i64::MIN)] {
        assert_golden(
            "error_mutes_chatroom",
            post(&server, json!({"username": "user1", "chatroom": wrong})).await,
        );
    }
    assert_golden("error_mutes_no_name", post(&server, json!({"chatroom": 60})).await);
    assert_golden(
        "error_mutes_name",
        post(&server, json!({"username": "a b", "chatroom": 60})).await,
    );
    assert_golden("error_mutes_name", server.agora(Method::GET, "/mutes/a%20b", None).await);
    assert_golden(
        "error_not_member",
        post(&server, json!({"username": "x", "chatroom": 60})).await,
    );
    assert_golden("error_method", server.agora(Method::DELETE, "/mutes/user1", None).await);
    assert_eq!(muted(&server, AGORA).await, [""; 0]);
}

#[tokio::test]
async fn the_sdk_path_reports_a_user_mute_like_a_member_mute() {
    let server = Server::start().await;
    let path = format!("/sdk/chatrooms/{ROOM}/mute/user1");
    server.mute(AGORA, ROOM, &["user1"], None).await;
    mute(&server, AGORA, "user1", None).await.unwrap();
    assert_golden("sdk_muted", server.agora(Method::GET, &path, None).await);
    server.agora(Method::DELETE, &format!("/chatrooms/{ROOM}/mute/user1"), None).await;
    assert_golden("sdk_muted", server.agora(Method::GET, &path, None).await);
}

#[tokio::test]
async fn the_101st_call_within_a_second_is_refused() {
    let server = Server::with(limited()).await;
    let bearer = format!("Bearer {}", server.agora_token());
    let body = |seconds: i64| json!({"username": "user1", "chatroom": seconds}).to_string();
    for (method, path, body) in [
        (Method::POST, "/mutes", body(60)),
        (Method::POST, "/mutes", body(0)),
        (Method::GET, "/mutes/user1", String::new()),
    ] {
        let request = || {
            let request = server.rest(
                method.clone(),
                &format!("/easemob-demo/testapp{path}"),
                &[("authorization", &bearer)],
            );
            request.body(body.clone())
        };
        for _ in 0..100 {
            assert_eq!(sent(request()).await.0, 200);
        }
        let (status, retry_after, body) = refusal(request()).await;
        assert_eq!(retry_after.as_deref(), Some("1"));
        assert_golden("error_rate", (status, body));
    }
}
