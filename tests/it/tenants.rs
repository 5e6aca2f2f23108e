//! Apps are sealed from each other.

use mute_service::proto::v1 as pb;
use reqwest::Method;

use crate::harness::*;

#[tokio::test]
async fn the_same_ids_in_two_apps_are_different_rooms_and_users() {
    let server = Server::start().await;
    let mut directory = server.directory().await;
    for app in [AGORA, IMKIT] {
        let room = pb::UpsertRoomRequest { app: app.into(), room: "shared".into(), ..Default::default() };
        directory.upsert_room(with(room, &[SERVICE])).await.unwrap();
        let client = Some(pb::Client { user: "same".into(), ..Default::default() });
        directory
            .upsert_client(with(pb::UpsertClientRequest { app: app.into(), client, ..Default::default() }, &[SERVICE]))
            .await
            .unwrap();
    }
    server.mute(AGORA, "shared", &["same"], None).await;
    assert!(!server.check(AGORA, "shared", "same").await.allowed);
    assert!(server.check(IMKIT, "shared", "same").await.allowed);
}

#[tokio::test]
async fn an_app_token_is_issued_for_the_right_secret_only_and_good_in_its_app_only() {
    let server = Server::start().await;
    let mut tokens = server.tokens().await;
    let ask = |app: &str, secret: &str| pb::IssueTokenRequest {
        app: app.into(),
        client_id: "dev-client".into(),
        client_secret: secret.into(),
        ttl: None,
    };
    let issued = tokens.issue_token(ask(AGORA, "dev-secret")).await.unwrap().into_inner();
    assert_eq!(issued.ttl.unwrap().seconds, 604_800);
    assert_eq!(reason(&tokens.issue_token(ask(AGORA, "wrong")).await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(reason(&tokens.issue_token(ask(IMKIT, "dev-secret")).await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(reason(&tokens.issue_token(ask("nobody#here", "dev-secret")).await.unwrap_err()), "APP_NOT_FOUND");
    let bearer = format!("Bearer {}", issued.access_token);
    let headers = [("authorization", bearer.as_str())];
    let list = |app: &str| with(pb::ListRoomsRequest { app: app.into(), ..Default::default() }, &headers);
    let mut directory = server.directory().await;
    assert_eq!(directory.list_rooms(list(AGORA)).await.unwrap().into_inner().total_size, 1);
    for other in [IMKIT, "nobody#here"] {
        assert_eq!(reason(&directory.list_rooms(list(other)).await.unwrap_err()), "INVALID_TOKEN", "{other}");
    }
}

#[tokio::test]
async fn a_user_acts_for_itself_only() {
    let server = Server::start().await;
    let (status, me) = server.me(Method::GET, "/me", "aaa").await;
    assert_eq!((status, &me["result"]["_id"]), (200, &"aaa".into()));
    let bearer = format!("Bearer {}", server.user_token(AGORA, "user1"));
    let headers = [("authorization", bearer.as_str())];
    let mut mutes = server.mutes().await;
    let check = |user: &str| pb::CheckSendRequest { app: AGORA.into(), room: ROOM.into(), user: user.into() };
    assert!(mutes.check_send(with(check("user1"), &headers)).await.unwrap().into_inner().allowed);
    assert_eq!(reason(&mutes.check_send(with(check("user2"), &headers)).await.unwrap_err()), "PERMISSION_DENIED");
    let mute = pb::MuteMembersRequest { app: AGORA.into(), room: ROOM.into(), users: strings(&["user2"]), ..Default::default() };
    assert_eq!(reason(&mutes.mute_members(with(mute.clone(), &headers)).await.unwrap_err()), "PERMISSION_DENIED");
    let bearer = format!("Bearer {}", server.user_token(AGORA, "owner1"));
    assert!(mutes.mute_members(with(mute, &[("authorization", &bearer)])).await.is_ok());
    assert_eq!(server.check(AGORA, ROOM, "user2").await.actor, "user:owner1");
}
