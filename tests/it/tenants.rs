//! Apps are isolated from each other.

use std::collections::{BTreeMap, BTreeSet};

use mute_service::{config::Settings, proto::v1 as pb};
use prost::Message as _;
use reqwest::Method;
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn the_same_ids_in_two_apps_are_different_rooms_and_users() {
    let server = Server::start().await;
    let mut directory = server.directory().await;
    for app in [AGORA, IMKIT] {
        let room =
            pb::UpsertRoomRequest { app: app.into(), room: "shared".into(), ..Default::default() };
        directory.upsert_room(with(room, &[SERVICE])).await.unwrap();
        let client = Some(pb::Client { user: "same".into(), ..Default::default() });
        directory
            .upsert_client(with(
                pb::UpsertClientRequest { app: app.into(), client, ..Default::default() },
                &[SERVICE],
            ))
            .await
            .unwrap();
    }
    server.mute(AGORA, "shared", &["same"], None).await;
    assert!(!server.check(AGORA, "shared", "same").await.allowed);
    assert!(server.check(IMKIT, "shared", "same").await.allowed);
}

#[tokio::test]
async fn an_app_token_needs_the_secret_and_works_only_in_its_app() {
    let server = Server::start().await;
    let mut tokens = server.tokens().await;
    let request = |app: &str, secret: &str| pb::IssueTokenRequest {
        app: app.into(),
        client_id: "dev-client".into(),
        client_secret: secret.into(),
        ttl: None,
    };
    let issued = tokens.issue_token(request(AGORA, "dev-secret")).await.unwrap().into_inner();
    assert_eq!(issued.ttl.unwrap().seconds, 604_800);
    assert_eq!(
        reason(&tokens.issue_token(request(AGORA, "wrong")).await.unwrap_err()),
        "INVALID_CREDENTIALS"
    );
    assert_eq!(
        reason(&tokens.issue_token(request(IMKIT, "dev-secret")).await.unwrap_err()),
        "INVALID_CREDENTIALS"
    );
    assert_eq!(
        reason(&tokens.issue_token(request("nobody#here", "dev-secret")).await.unwrap_err()),
        "INVALID_CREDENTIALS"
    );
    let bearer = format!("Bearer {}", issued.access_token);
    let headers = [("authorization", bearer.as_str())];
    let list =
        |app: &str| with(pb::ListRoomsRequest { app: app.into(), ..Default::default() }, &headers);
    let mut directory = server.directory().await;
    assert_eq!(directory.list_rooms(list(AGORA)).await.unwrap().into_inner().total_size, 1);
    for other in [IMKIT, "nobody#here"] {
        assert_eq!(
            reason(&directory.list_rooms(list(other)).await.unwrap_err()),
            "INVALID_TOKEN",
            "{other}"
        );
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
    let check = |user: &str| pb::CheckSendRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        user: user.into(),
        ..Default::default()
    };
    assert!(mutes.check_send(with(check("user1"), &headers)).await.unwrap().into_inner().allowed);
    assert_eq!(
        reason(&mutes.check_send(with(check("user2"), &headers)).await.unwrap_err()),
        "PERMISSION_DENIED"
    );
    let mute = pb::MuteMembersRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        users: strings(&["user2"]),
        ..Default::default()
    };
    assert_eq!(
        reason(&mutes.mute_members(with(mute.clone(), &headers)).await.unwrap_err()),
        "PERMISSION_DENIED"
    );
    let bearer = format!("Bearer {}", server.user_token(AGORA, "owner1"));
    assert!(mutes.mute_members(with(mute, &[("authorization", &bearer)])).await.is_ok());
    assert_eq!(server.check(AGORA, ROOM, "user2").await.actor, "user:owner1");
}

/// Calls every RPC except IssueToken for an app, with these headers. Returns the reason of each
/// refusal by the name of the RPC.
async fn refusals(
    server: &Server,
    app: &str,
    headers: &[(&str, &str)],
) -> BTreeMap<&'static str, String> {
    let mut mutes = server.mutes().await;
    let mut directory = server.directory().await;
    let mut refusals = BTreeMap::new();
    macro_rules! call {
        ($client:ident: $($rpc:ident $name:literal $request:ident),+ $(,)?) => {
            $(
                let message = pb::$request { app: app.to_owned(), ..Default::default() };
                let answer = $client.$rpc(with(message, headers)).await;
                let refused = answer.err().map(|status| reason(&status));
                refusals.insert($name, refused.unwrap_or_else(|| "admitted".to_owned()));
            )+
        };
    }
    call!(mutes:
        mute_members "MuteMembers" MuteMembersRequest,
        unmute_members "UnmuteMembers" UnmuteMembersRequest,
        list_muted_members "ListMutedMembers" ListMutedMembersRequest,
        ban_room "BanRoom" BanRoomRequest,
        unban_room "UnbanRoom" UnbanRoomRequest,
        get_room "GetRoom" GetRoomRequest,
        allow_members "AllowMembers" AllowMembersRequest,
        disallow_members "DisallowMembers" DisallowMembersRequest,
        list_allowed_members "ListAllowedMembers" ListAllowedMembersRequest,
        mute_room_notifications "MuteRoomNotifications" MuteRoomNotificationsRequest,
        unmute_room_notifications "UnmuteRoomNotifications" UnmuteRoomNotificationsRequest,
        mute_user "MuteUser" MuteUserRequest,
        unmute_user "UnmuteUser" UnmuteUserRequest,
        list_muted_users "ListMutedUsers" ListMutedUsersRequest,
        list_muted_rooms "ListMutedRooms" ListMutedRoomsRequest,
        filter_recipients "FilterRecipients" FilterRecipientsRequest,
        check_send "CheckSend" CheckSendRequest,
        batch_check_send "BatchCheckSend" BatchCheckSendRequest,
        watch "Watch" WatchRequest,
        list_events "ListEvents" ListEventsRequest,
    );
    call!(directory:
        upsert_client "UpsertClient" UpsertClientRequest,
        get_client "GetClient" GetClientRequest,
        list_clients "ListClients" ListClientsRequest,
        delete_client "DeleteClient" DeleteClientRequest,
        upsert_room "UpsertRoom" UpsertRoomRequest,
        delete_room "DeleteRoom" DeleteRoomRequest,
        list_rooms "ListRooms" ListRoomsRequest,
    );
    refusals
}

/// App, headers, and the reason of the refusal.
type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);

#[tokio::test]
async fn a_credential_of_one_app_is_refused_by_the_other_on_every_rpc() {
    let server = Server::start().await;
    let files =
        prost_types::FileDescriptorSet::decode(mute_service::proto::DESCRIPTORS).unwrap().file;
    let services =
        files.into_iter().filter(|file| file.package() == "mute.v1").flat_map(|file| file.service);
    let rpcs: BTreeSet<_> = services
        .flat_map(|service| service.method)
        .map(|method| method.name().to_owned())
        .collect();
    let bearer = |token: String| format!("Bearer {token}");
    let imkit_app = bearer(server.app_token(IMKIT));
    let imkit_user = bearer(server.user_token(IMKIT, "aaa"));
    let agora_app = bearer(server.app_token(AGORA));
    let agora_user = bearer(server.user_token(AGORA, "user1"));
    let agora_user_raw = server.user_token(AGORA, "user1");
    let cases: [Case<'_>; 8] = [
        (AGORA, vec![], "MISSING_TOKEN"),
        (AGORA, vec![("authorization", "Bearer nonsense")], "MALFORMED_TOKEN"),
        (AGORA, vec![API_KEY], "INVALID_API_KEY"),
        (AGORA, vec![("authorization", &imkit_app)], "INVALID_TOKEN"),
        (AGORA, vec![("authorization", &imkit_user)], "INVALID_TOKEN"),
        (IMKIT, vec![("authorization", &agora_app)], "INVALID_TOKEN"),
        (IMKIT, vec![("authorization", &agora_user)], "INVALID_TOKEN"),
        (IMKIT, vec![CLIENT_KEY, ("im-authorization", &agora_user_raw)], "INVALID_TOKEN"),
    ];
    for (app, headers, expected) in cases {
        let refusals = refusals(&server, app, &headers).await;
        let called: BTreeSet<_> = refusals
            .keys()
            .map(|name| (*name).to_owned())
            .chain(["IssueToken".to_owned()])
            .collect();
        assert_eq!(called, rpcs, "the test does not call every RPC");
        assert!(
            refusals.values().all(|reason| reason == expected),
            "{app} {expected}: {refusals:?}"
        );
    }
    // A service is configured for all existing apps; about other apps it learns nothing.
    let others = refusals(&server, "nobody#here", &[SERVICE]).await;
    assert!(others.values().all(|reason| reason == "PERMISSION_DENIED"), "{others:?}");
}

#[tokio::test]
async fn every_path_refuses_a_credential_of_another_app() {
    let server = Server::start().await;
    let agora = [
        (Method::POST, "/chatrooms"),
        (Method::GET, "/chatrooms/1"),
        (Method::DELETE, "/chatrooms/1"),
        (Method::POST, "/chatrooms/1/mute"),
        (Method::GET, "/chatrooms/1/mute"),
        (Method::DELETE, "/chatrooms/1/mute/user1"),
        (Method::POST, "/chatrooms/1/ban"),
        (Method::DELETE, "/chatrooms/1/ban"),
        (Method::POST, "/chatrooms/1/white/users"),
        (Method::GET, "/chatrooms/1/white/users"),
        (Method::POST, "/chatrooms/1/white/users/user1"),
        (Method::GET, "/chatrooms/1/white/users/user1"),
        (Method::DELETE, "/chatrooms/1/white/users/user1"),
        (Method::GET, "/sdk/chatrooms/1/mute/user1"),
        (Method::POST, "/mutes"),
        (Method::GET, "/mutes"),
        (Method::GET, "/mutes/user1"),
        (Method::POST, "/users"),
    ];
    let body =
        r#"{"usernames":["user1"],"mute_duration":-1,"username":"user1","name":"n","chatroom":-1}"#;
    let foreign = format!("Bearer {}", server.app_token(IMKIT));
    for (method, path) in agora {
        for app in ["easemob-demo/testapp", "no/app"] {
            let request = server.rest(
                method.clone(),
                &format!("/{app}{path}"),
                &[("authorization", &foreign)],
            );
            let (status, answer) = sent(request.body(body)).await;
            assert_eq!(
                (status, &answer["error"]),
                (401, &"unauthorized".into()),
                "{method} {app}{path}"
            );
        }
    }
    let imkit = [
        (Method::POST, "/admin/clients"),
        (Method::GET, "/admin/clients"),
        (Method::GET, "/admin/clients/aaa"),
        (Method::DELETE, "/admin/clients/aaa"),
        (Method::POST, "/admin/clients/aaa/mute/demo"),
        (Method::DELETE, "/admin/clients/aaa/mute/demo"),
        (Method::POST, "/rooms"),
        (Method::GET, "/me"),
        (Method::POST, "/me/mute/demo"),
        (Method::DELETE, "/me/mute/demo"),
    ];
    let foreign = server.user_token(AGORA, "user1");
    for (method, path) in imkit {
        let headers = [CLIENT_KEY, ("IM-Authorization", foreign.as_str())];
        let (status, answer) = sent(server.rest(method.clone(), path, &headers).body("{}")).await;
        let code = if path.starts_with("/me") { "INVALID_TOKEN" } else { "INVALID_API_KEY" };
        assert_eq!((status, &answer["error"]["code"]), (401, &code.into()), "{method} {path}");
    }
}

#[tokio::test]
async fn a_directory_service_cannot_make_itself_a_moderator() {
    let server = Server::start().await;
    let mut directory = server.directory().await;
    let client = Some(pb::Client { user: "owner1".into(), ..Default::default() });
    let upsert = pb::UpsertClientRequest { app: AGORA.into(), client, ..Default::default() };
    assert!(directory.upsert_client(with(upsert.clone(), &[KEEPER])).await.is_ok());
    let with_token = pb::UpsertClientRequest { issue_access_token: true, ..upsert };
    assert_eq!(
        reason(&directory.upsert_client(with(with_token.clone(), &[KEEPER])).await.unwrap_err()),
        "PERMISSION_DENIED"
    );
    let answer = directory.upsert_client(with(with_token, &[SERVICE])).await.unwrap().into_inner();
    assert!(!answer.access_token.is_empty() && answer.token_expire_time.is_some());
    let check = pb::CheckSendRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        user: "user1".into(),
        ..Default::default()
    };
    assert_eq!(
        reason(&server.mutes().await.check_send(with(check, &[KEEPER])).await.unwrap_err()),
        "PERMISSION_DENIED"
    );
}

#[tokio::test]
async fn an_apps_admin_is_rate_limited_and_a_service_is_not() {
    let server = Server::with(Settings { rate_limit: Some(3), ..unlimited() }).await;
    let mut mutes = server.mutes().await;
    let list =
        pb::ListMutedMembersRequest { app: OPEN.into(), room: "r".into(), ..Default::default() };
    for _ in 0..3 {
        mutes.list_muted_members(server.as_admin(OPEN, list.clone())).await.unwrap();
    }
    for _ in 0..20 {
        mutes.list_muted_members(with(list.clone(), &[SERVICE])).await.unwrap();
    }
    let refused = mutes.list_muted_members(server.as_admin(OPEN, list.clone())).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "RATE_LIMITED")
    );
}

#[tokio::test]
async fn each_app_has_its_own_share_of_calls_and_of_tokens() {
    let server =
        Server::with(Settings { rate_limit: Some(2), token_rate_limit: Some(2), ..unlimited() })
            .await;
    let mut mutes = server.mutes().await;
    let mut tokens = server.tokens().await;
    for app in [AGORA, OPEN] {
        let list = pb::ListMutedUsersRequest { app: app.into(), ..Default::default() };
        for _ in 0..2 {
            mutes.list_muted_users(server.as_admin(app, list.clone())).await.unwrap();
        }
        let refused = mutes.list_muted_users(server.as_admin(app, list)).await.unwrap_err();
        assert_eq!(reason(&refused), "RATE_LIMITED", "{app}");
    }
    // Wrong secrets are limited separately, and do not use up the limit of callers with the right
    // one.
    let request = |secret: &str| pb::IssueTokenRequest {
        app: AGORA.into(),
        client_id: "dev-client".into(),
        client_secret: secret.into(),
        ttl: None,
    };
    assert_eq!(
        reason(&tokens.issue_token(request("wrong")).await.unwrap_err()),
        "INVALID_CREDENTIALS"
    );
    for _ in 0..10 {
        assert_eq!(
            reason(&tokens.issue_token(request("wrong")).await.unwrap_err()),
            "RATE_LIMITED"
        );
    }
    for _ in 0..2 {
        tokens.issue_token(request("dev-secret")).await.unwrap();
    }
    assert_eq!(
        reason(&tokens.issue_token(request("dev-secret")).await.unwrap_err()),
        "RATE_LIMITED"
    );
}
