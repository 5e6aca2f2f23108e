//! Who may moderate a room, and whom: how admins change, what a refusal says, and mutes of a user
//! who becomes the owner.

use http::Method;
use mute_service::proto::v1 as pb;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::{AGORA, KEEPER, OPEN, ROOM, SERVICE, Server, reason, sent, strings, with};

/// Mutes a user in the room, with these credentials.
async fn mute(server: &Server, token: (&str, &str), user: &str) -> Result<(), Status> {
    let message = pb::MuteMembersRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        users: vec![user.into()],
        ..Default::default()
    };
    server.mutes().await.mute_members(with(message, &[token])).await.map(drop)
}

/// Makes `user1` the owner of the room and `user2` its admin.
async fn promote(server: &Server) {
    let message = pb::UpsertRoomRequest {
        app: AGORA.into(),
        room: ROOM.into(),
        owner: Some("user1".into()),
        admins: Some(pb::RoomAdmins { users: vec!["user2".into()] }),
        ..Default::default()
    };
    server.directory().await.upsert_room(server.as_admin(AGORA, message)).await.unwrap();
}

#[tokio::test]
async fn a_muted_user_who_becomes_owner_can_be_unmuted_only() {
    let server = Server::start().await;
    server.mute(AGORA, ROOM, &["user1", "user2"], Some(60_000)).await;
    promote(&server).await;
    for user in ["user1", "user2"] {
        assert_eq!(server.check(AGORA, ROOM, user).await.rule(), pb::Rule::MemberMute, "{user}");
    }
    let token = format!("Bearer {}", server.agora_token());
    let admin = ("authorization", token.as_str());
    let refused = mute(&server, admin, "user1").await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::FailedPrecondition, "OWNER_NOT_MUTABLE")
    );
    assert!(refused.message().contains("it can be removed, but not changed"), "{refused:?}");
    // An admin of the room is muted and unmuted like other members.
    mute(&server, admin, "user2").await.unwrap();
    let path = format!("/chatrooms/{ROOM}/mute");
    let body = json!({"usernames": ["user1"], "mute_duration": 1_000});
    let (status, body) = server.agora(Method::POST, &path, Some(body)).await;
    assert_eq!((status, &body["error"]), (403, &json!("forbidden_op")));
    assert_eq!(body["error_description"], "forbidden operation on group owner!");
    // During a ban neither may speak before the mute is removed.
    server.agora(Method::POST, &format!("/chatrooms/{ROOM}/ban"), None).await;
    for user in ["user1", "user2"] {
        assert!(!server.check(AGORA, ROOM, user).await.allowed, "{user}");
        let (status, _) = server.agora(Method::DELETE, &format!("{path}/{user}"), None).await;
        assert_eq!(status, 200);
        assert_eq!(server.check(AGORA, ROOM, user).await.rule(), pb::Rule::RoomStaff, "{user}");
    }
    assert_eq!(reason(&mute(&server, admin, "user1").await.unwrap_err()), "OWNER_NOT_MUTABLE");
}

#[tokio::test]
async fn a_refusal_says_who_may_call() {
    let server = Server::start().await;
    let owner_and_admins = "only the owner and the admins of a room may do this";
    let token = format!("Bearer {}", server.user_token(AGORA, "user3"));
    let user = ("authorization", token.as_str());
    let refused = mute(&server, user, "user4").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains(owner_and_admins), "{refused:?}");
    let refused = mute(&server, KEEPER, "user4").await.unwrap_err();
    assert!(refused.message().contains("needs the scope \"write\""), "{refused:?}");
    for (method, path, words) in [
        (Method::DELETE, format!("chatrooms/{ROOM}/mute/user4"), owner_and_admins),
        (Method::GET, format!("chatrooms/{ROOM}/mute"), owner_and_admins),
        (Method::POST, format!("chatrooms/{ROOM}/ban"), owner_and_admins),
        (Method::GET, format!("chatrooms/{ROOM}/white/users"), owner_and_admins),
        (Method::GET, format!("sdk/chatrooms/{ROOM}/mute/user4"), "for itself only"),
        (Method::GET, "mutes/user4".into(), "services and app admins may"),
    ] {
        let path = format!("/easemob-demo/testapp/{path}");
        let (status, body) = sent(server.rest(method, &path, &[user])).await;
        assert_eq!(status, 403, "{path}: {body}");
        assert!(body["error_description"].as_str().unwrap().contains(words), "{path}: {body}");
    }
}

fn change(app: &str, add: &[&str], remove: &[&str]) -> pb::UpsertRoomRequest {
    pb::UpsertRoomRequest {
        app: app.into(),
        room: ROOM.into(),
        add_admins: strings(add),
        remove_admins: strings(remove),
        ..Default::default()
    }
}

async fn changed(
    server: &Server,
    change: pb::UpsertRoomRequest,
) -> Result<pb::UpsertRoomResponse, Status> {
    let answer = server.directory().await.upsert_room(with(change, &[SERVICE])).await;
    answer.map(tonic::Response::into_inner)
}

fn admins(answer: pb::UpsertRoomResponse) -> Vec<String> {
    answer.room.unwrap().admins
}

#[tokio::test]
async fn admins_are_added_and_removed_beside_the_others() {
    let server = Server::start().await;
    promote(&server).await;
    let added = changed(&server, change(AGORA, &["User3", "user2", "user3"], &[])).await.unwrap();
    assert_eq!(admins(added), ["user2", "user3"]);
    let request = pb::UpsertRoomRequest {
        request_id: "1".into(),
        ..change(AGORA, &["user4"], &["USER2", "user5", "user9"])
    };
    let first = changed(&server, request.clone()).await.unwrap();
    assert_eq!(first.was_admin, [true, false, false]);
    assert_eq!(changed(&server, request).await.unwrap(), first, "a repeat");
    assert_eq!(admins(first), ["user3", "user4"]);
    // An account that is gone can be removed.
    let gone =
        pb::DeleteClientRequest { app: AGORA.into(), user: "user3".into(), ..Default::default() };
    server.directory().await.delete_client(with(gone, &[SERVICE])).await.unwrap();
    let removed = changed(&server, change(AGORA, &[], &["user3"])).await.unwrap();
    assert_eq!(admins(removed), ["user4"]);
    let stranger = changed(&server, change(AGORA, &["user3"], &[])).await.unwrap_err();
    assert_eq!(reason(&stranger), "CLIENT_NOT_FOUND");
}

#[tokio::test]
async fn a_change_of_admins_is_refused_where_it_has_no_meaning() {
    let server = Server::start().await;
    promote(&server).await;
    let users: Vec<_> = (0..101).map(|user| format!("u{user}")).collect();
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    let room = |room: &str| pb::UpsertRoomRequest {
        app: OPEN.into(),
        room: room.into(),
        ..Default::default()
    };
    changed(&server, room(ROOM)).await.unwrap();
    changed(&server, change(OPEN, &users[..99], &[])).await.unwrap();
    let both = Some(pb::RoomAdmins { users: strings(&["user1"]) });
    let nowhere = pb::UpsertRoomRequest { room: "no".into(), ..change(OPEN, &["u"], &[]) };
    let unnamed = pb::UpsertRoomRequest { room: String::new(), ..change(OPEN, &["u"], &[]) };
    for (change, expected) in [
        (change(AGORA, &["user3"], &["User3"]), "INVALID_ARGUMENT"),
        (
            pb::UpsertRoomRequest { admins: both, ..change(AGORA, &["user3"], &[]) },
            "INVALID_ARGUMENT",
        ),
        (unnamed, "INVALID_ARGUMENT"),
        (nowhere, "ROOM_NOT_FOUND"),
        (change(OPEN, &users, &[]), "TOO_MANY_USERS"),
        (change(OPEN, &[], &users), "TOO_MANY_USERS"),
        (change(OPEN, &users[99..], &[]), "TOO_MANY_USERS"),
    ] {
        let refused = changed(&server, change.clone()).await.unwrap_err();
        assert_eq!(reason(&refused), expected, "{change:?}");
    }
    let full = changed(&server, change(OPEN, &users[98..], &["u0"])).await.unwrap();
    assert_eq!(admins(full).len(), 100);
}
