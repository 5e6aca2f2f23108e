//! Who may moderate a room, and whom: what a refusal says, and mutes of a user who becomes the
//! owner.

use http::Method;
use mute_service::proto::v1 as pb;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::{AGORA, KEEPER, ROOM, Server, reason, sent, with};

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
