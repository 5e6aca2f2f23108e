//! gRPC and REST show the same state; and the rules of who may speak. Over real sockets.

use mute_service::proto::v1 as pb;
use reqwest::Method;
use serde_json::json;
use tonic_types::StatusExt as _;

use crate::harness::*;

#[tokio::test]
async fn a_mute_over_rest_is_in_force_over_grpc_and_vice_versa() {
    let server = Server::start().await;
    let mute = json!({"usernames": ["user1"], "mute_duration": 60_000});
    assert_eq!(
        server.agora(Method::POST, &format!("/chatrooms/{ROOM}/mute"), Some(mute)).await.0,
        200
    );
    let check = server.check(AGORA, ROOM, "user1").await;
    assert!(!check.allowed);
    assert_eq!(check.rule(), pb::Rule::MemberMute);
    assert_eq!(ms(&check.expire_time.unwrap()), START_MS + 60_000);
    assert_eq!(check.actor, "app");

    server.mute(AGORA, ROOM, &["user2"], None).await;
    let (_, list) = server.agora(Method::GET, &format!("/chatrooms/{ROOM}/mute"), None).await;
    let expected = json!([{"expire": START_MS + 60_000, "user": "user1"}, {"expire": 4_638_873_600_000_u64, "user": "user2"}]);
    assert_eq!(list["data"], expected);
    assert_eq!(server.check(AGORA, ROOM, "user2").await.actor, "service:dev");

    assert_eq!(
        server.agora(Method::DELETE, &format!("/chatrooms/{ROOM}/mute/user1,user2"), None).await.0,
        200
    );
    assert!(server.check(AGORA, ROOM, "user1").await.allowed);
    assert!(server.check(AGORA, ROOM, "user2").await.allowed);
    server.stop().await;
}

#[tokio::test]
async fn a_mute_of_1500_ms_ends_without_a_sweep() {
    let server = Server::start().await;
    server.mute(AGORA, ROOM, &["user1"], Some(1_500)).await;
    server.advance(1_499);
    let check = server.check(AGORA, ROOM, "user1").await;
    assert_eq!((check.allowed, check.rule()), (false, pb::Rule::MemberMute));
    assert_eq!(ms(&check.expire_time.unwrap()), START_MS + 1_500);
    server.advance(1);
    assert!(server.check(AGORA, ROOM, "user1").await.allowed);
    let (_, list) = server.agora(Method::GET, &format!("/chatrooms/{ROOM}/mute"), None).await;
    assert_eq!(list["data"], json!([]));
}

#[tokio::test]
async fn a_room_ban_spares_staff_and_allow_list_and_keeps_mutes() {
    let server = Server::start().await;
    let mut directory = server.directory().await;
    let admins = Some(pb::RoomAdmins { users: strings(&["user5"]) });
    let room = pb::UpsertRoomRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        admins,
        ..Default::default()
    };
    directory.upsert_room(with(room, &[SERVICE])).await.unwrap();
    server.mute(AGORA, ROOM, &["user1"], None).await;
    let allow = json!({"usernames": ["user1", "user2"]});
    server.agora(Method::POST, &format!("/chatrooms/{ROOM}/white/users"), Some(allow)).await;
    assert_eq!(server.agora(Method::POST, &format!("/chatrooms/{ROOM}/ban"), None).await.0, 200);

    let expected = [
        ("user1", false, pb::Rule::MemberMute),
        ("user2", true, pb::Rule::AllowList),
        ("user3", false, pb::Rule::RoomBan),
        ("owner1", true, pb::Rule::RoomStaff),
        ("user5", true, pb::Rule::RoomStaff),
    ];
    for (user, allowed, rule) in expected {
        let check = server.check(AGORA, ROOM, user).await;
        assert_eq!((check.allowed, check.rule()), (allowed, rule), "{user}");
    }
    assert_eq!(server.agora(Method::DELETE, &format!("/chatrooms/{ROOM}/ban"), None).await.0, 200);
    for user in ["user2", "user3", "owner1", "user5"] {
        assert_eq!(server.check(AGORA, ROOM, user).await.rule(), pb::Rule::None, "{user}");
    }
    assert_eq!(server.check(AGORA, ROOM, "user1").await.rule(), pb::Rule::MemberMute);
}

#[tokio::test]
async fn a_timed_ban_ends_by_itself() {
    let server = Server::start().await;
    let (_, ban) = server
        .agora(
            Method::POST,
            &format!("/chatrooms/{ROOM}/ban"),
            Some(json!({"mute_duration": 5_000})),
        )
        .await;
    assert_eq!(ban["data"], json!({"mute": true, "result": true, "expire": START_MS + 5_000}));
    assert_eq!(server.check(AGORA, ROOM, "user1").await.rule(), pb::Rule::RoomBan);
    server.advance(5_000);
    assert!(server.check(AGORA, ROOM, "user1").await.allowed);
    let (_, room) = server.agora(Method::GET, &format!("/chatrooms/{ROOM}"), None).await;
    assert_eq!(room["data"][0]["mute"], json!(false));
}

#[tokio::test]
async fn case_is_folded_for_agora_apps_and_kept_for_imkit_apps() {
    let server = Server::start().await;
    server.mute(AGORA, ROOM, &["USER1"], None).await;
    assert!(!server.check(AGORA, ROOM, "user1").await.allowed);
    for id in ["User1", "user1"] {
        let (status, _) =
            server.imkit(Method::POST, "/admin/clients", Some(json!({"_id": id}))).await;
        assert_eq!(status, 200);
    }
    server.mute(IMKIT, "demo", &["User1"], None).await;
    assert!(!server.check(IMKIT, "demo", "User1").await.allowed);
    assert!(server.check(IMKIT, "demo", "user1").await.allowed);
}

#[tokio::test]
async fn a_new_mute_replaces_the_end_and_its_room_ends_it() {
    let server = Server::start().await;
    server.mute(AGORA, ROOM, &["user1"], Some(1_000)).await;
    server.mute(AGORA, ROOM, &["user1"], Some(9_000)).await;
    server.advance(5_000);
    assert!(!server.check(AGORA, ROOM, "user1").await.allowed);

    let mut directory = server.directory().await;
    let client =
        pb::DeleteClientRequest { app: AGORA.into(), user: "user1".into(), ..Default::default() };
    directory.delete_client(with(client, &[SERVICE])).await.unwrap();
    let again = pb::UpsertClientRequest {
        app: AGORA.into(),
        client: Some(pb::Client { user: "user1".into(), ..Default::default() }),
        ..Default::default()
    };
    directory.upsert_client(with(again, &[SERVICE])).await.unwrap();
    assert!(!server.check(AGORA, ROOM, "user1").await.allowed);

    let room = pb::DeleteRoomRequest { app: AGORA.into(), room: ROOM.into(), ..Default::default() };
    assert!(
        directory.delete_room(with(room, &[SERVICE])).await.unwrap().into_inner().was_registered
    );
    let again =
        pb::UpsertRoomRequest { app: AGORA.into(), room: ROOM.into(), ..Default::default() };
    directory.upsert_room(with(again, &[SERVICE])).await.unwrap();
    assert!(server.check(AGORA, ROOM, "user1").await.allowed);
}

#[tokio::test]
async fn the_allowed_among_the_given_users_are_in_one_page() {
    let server = Server::start().await;
    let allow = json!({"usernames": ["user1", "user2", "user3"]});
    server.agora(Method::POST, &format!("/chatrooms/{ROOM}/white/users"), Some(allow)).await;
    let message = pb::ListAllowedMembersRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        page_size: 1,
        users: strings(&["user3", "user5", "USER1"]),
        ..Default::default()
    };
    let list = server
        .mutes()
        .await
        .list_allowed_members(with(message, &[SERVICE]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        list.members.into_iter().map(|member| member.user).collect::<Vec<_>>(),
        ["user3", "user1"]
    );
    assert_eq!(list.next_page_token, "");
}

#[tokio::test]
async fn bad_fields_are_reported_by_name_and_change_nothing() {
    let server = Server::start().await;
    let good = pb::MuteMembersRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        users: strings(&["user1"]),
        ..Default::default()
    };
    let long = || "x".repeat(600);
    let cases = [
        ("app", pb::MuteMembersRequest { app: "no app".into(), ..good.clone() }),
        ("room", pb::MuteMembersRequest { room: "a\u{7}b".into(), ..good.clone() }),
        ("users", pb::MuteMembersRequest { users: Vec::new(), ..good.clone() }),
        ("user", pb::MuteMembersRequest { users: strings(&["user1", ""]), ..good.clone() }),
        ("user", pb::MuteMembersRequest { users: vec![long()], ..good.clone() }),
        ("duration", pb::MuteMembersRequest { duration: Some(duration(0)), ..good.clone() }),
        (
            "duration",
            pb::MuteMembersRequest { duration: Some(duration(u64::MAX / 2)), ..good.clone() },
        ),
        ("reason", pb::MuteMembersRequest { reason: long(), ..good.clone() }),
        ("users", pb::MuteMembersRequest { users: vec!["user1".into(); 101], ..good }),
    ];
    for (field, message) in cases {
        let refused =
            server.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let details = refused.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, field, "{refused:?}");
    }
    assert!(server.check(AGORA, ROOM, "user1").await.allowed);
}

#[tokio::test]
async fn check_send_in_a_strict_app_requires_registered_ids() {
    let server = Server::start().await;
    let check = |room: &str, user: &str| {
        let app = AGORA.into();
        let room = room.into();
        let user = user.into();
        pb::CheckSendRequest { app, room, user, min_revision: 0 }
    };
    let mut mutes = server.mutes().await;
    assert_eq!(
        reason(&mutes.check_send(with(check("nowhere", "user1"), &[SERVICE])).await.unwrap_err()),
        "ROOM_NOT_FOUND"
    );
    assert_eq!(
        reason(&mutes.check_send(with(check(ROOM, "nobody"), &[SERVICE])).await.unwrap_err()),
        "CLIENT_NOT_FOUND"
    );
}

#[tokio::test]
async fn a_batch_answers_in_order_and_unknown_pairs_fail_no_others() {
    let server = Server::start().await;
    server.mute(AGORA, ROOM, &["user1"], Some(60_000)).await;
    let pair = |room: &str, user: &str| pb::RoomUser { room: room.into(), user: user.into() };
    let pairs = vec![
        pair(ROOM, "USER1"),
        pair("nowhere", "user1"),
        pair(ROOM, "user2"),
        pair(ROOM, "nobody"),
    ];
    let request = |pairs: Vec<pb::RoomUser>| {
        with(pb::BatchCheckSendRequest { app: AGORA.into(), pairs, min_revision: 0 }, &[SERVICE])
    };
    let mut mutes = server.mutes().await;
    let pb::BatchCheckSendResponse { results, revision } =
        mutes.batch_check_send(request(pairs)).await.unwrap().into_inner();
    let found: Vec<_> = results.iter().map(|result| (result.allowed, result.rule())).collect();
    let expected = [
        (false, pb::Rule::MemberMute),
        (false, pb::Rule::NotRegistered),
        (true, pb::Rule::None),
        (false, pb::Rule::NotRegistered),
    ];
    assert_eq!(found, expected);
    assert!(revision > 0);
    assert_eq!(
        pb::CheckSendResponse { revision, ..results[0].clone() },
        server.check(AGORA, ROOM, "user1").await
    );
    for count in [0, 1_001] {
        let refused =
            mutes.batch_check_send(request(vec![pair(ROOM, "user1"); count])).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn a_repeated_credential_is_refused_over_grpc_and_rest() {
    let server = Server::start().await;
    let user = server.user_token(IMKIT, "aaa");
    let bearer = format!("Bearer {}", server.agora_token());
    let agora = format!("/easemob-demo/testapp/chatrooms/{ROOM}");
    for (app, user, path, headers) in [
        (AGORA, "user1", &*agora, &[("authorization", &*bearer)][..]),
        (IMKIT, "aaa", "/admin/clients/aaa", &[API_KEY]),
        (IMKIT, "aaa", "/me", &[CLIENT_KEY, ("im-authorization", &user)]),
    ] {
        let call = async |headers: &[(&str, &str)]| {
            let rest =
                server.rest(Method::GET, path, headers).send().await.unwrap().status().as_u16();
            let mut request = tonic::Request::new(pb::ListMutedRoomsRequest {
                app: app.into(),
                user: user.into(),
                ..Default::default()
            });
            for (name, value) in headers {
                request.metadata_mut().append(
                    name.to_lowercase().parse::<tonic::metadata::AsciiMetadataKey>().unwrap(),
                    value.parse().unwrap(),
                );
            }
            (
                rest,
                server
                    .mutes()
                    .await
                    .list_muted_rooms(request)
                    .await
                    .map_err(|status| status.code()),
            )
        };
        let (rest, grpc) = call(headers).await;
        assert!(rest == 200 && grpc.is_ok(), "{path}: {rest}, {grpc:?}");
        for twice in headers {
            let (rest, grpc) = call(&[headers, &[*twice]].concat()).await;
            assert!([401, 403].contains(&rest), "{path}, {} twice: {rest}", twice.0);
            assert_eq!(
                grpc.unwrap_err(),
                tonic::Code::Unauthenticated,
                "{path}, {} twice",
                twice.0
            );
            // An empty first one is refused too.
            let (rest, grpc) = call(&[&[(twice.0, "")], headers].concat()).await;
            assert!(
                [401, 403].contains(&rest) && grpc.is_err(),
                "{path}, {} empty and then itself: {rest}",
                twice.0
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_new_rooms_get_ids_of_their_own() {
    let server = Server::start().await;
    let directory = server.directory().await;
    let creations = (0..200).map(|number| {
        let mut directory = directory.clone();
        let name = Some(format!("room {number}"));
        let message = pb::UpsertRoomRequest { app: AGORA.to_owned(), name, ..Default::default() };
        async move { directory.upsert_room(with(message, &[SERVICE])).await }
    });
    let mut ids = std::collections::BTreeSet::new();
    for created in futures_util::future::join_all(creations).await {
        ids.insert(created.unwrap().into_inner().room.unwrap().room);
    }
    assert_eq!(ids.len(), 200, "with one millisecond of the clock for all of them");
}
