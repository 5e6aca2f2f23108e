//! FilterRecipients: which of many users may receive a push from a room.

use mute_service::proto::v1 as pb;
use tonic::Status;

use crate::harness::*;

async fn filter(
    server: &Server,
    app: &str,
    room: &str,
    users: Vec<String>,
) -> Result<Vec<String>, Status> {
    let message = pb::FilterRecipientsRequest {
        app: app.to_owned(),
        room: room.to_owned(),
        users,
        ..Default::default()
    };
    Ok(server
        .mutes()
        .await
        .filter_recipients(server.as_admin(app, message))
        .await?
        .into_inner()
        .users)
}

async fn mute_notifications(
    server: &Server,
    app: &str,
    user: &str,
    room: &str,
    duration_ms: Option<u64>,
) {
    let user = user.to_owned();
    let room = room.to_owned();
    let duration = duration_ms.map(duration);
    let message = pb::MuteRoomNotificationsRequest {
        app: app.to_owned(),
        user,
        room,
        duration,
        ..Default::default()
    };
    server.mutes().await.mute_room_notifications(server.as_admin(app, message)).await.unwrap();
}

#[tokio::test]
async fn recipients_keep_the_callers_order_and_spelling() {
    let server = Server::start().await;
    mute_notifications(&server, AGORA, "user2", ROOM, None).await;
    mute_notifications(&server, AGORA, "user4", ROOM, Some(1_000)).await;
    let asked = ["user5", "User2", "USER1", "Nobody", "user4", "user2", "user5", "user3"];
    let answered = filter(&server, AGORA, ROOM, strings(&asked)).await.unwrap();
    assert_eq!(answered, ["user5", "USER1", "Nobody", "user5", "user3"]);
    // Notification mutes of other rooms or apps, and member mutes, do not count.
    mute_notifications(&server, IMKIT, "aaa", "demo", None).await;
    server.mute(IMKIT, "demo-room", &["aaa"], None).await;
    assert_eq!(
        filter(&server, IMKIT, "demo-room", strings(&["aaa", "AAA"])).await.unwrap(),
        ["aaa", "AAA"]
    );
    assert_eq!(filter(&server, IMKIT, "demo", strings(&["aaa", "AAA"])).await.unwrap(), ["AAA"]);
}

#[tokio::test]
async fn an_ended_notification_mute_stops_no_push() {
    let server = Server::start().await;
    mute_notifications(&server, AGORA, "user1", ROOM, Some(1_500)).await;
    server.advance(1_499);
    assert_eq!(filter(&server, AGORA, ROOM, strings(&["user1"])).await.unwrap(), [""; 0]);
    server.advance(1);
    assert_eq!(filter(&server, AGORA, ROOM, strings(&["user1"])).await.unwrap(), ["user1"]);
}

#[tokio::test]
async fn an_unknown_room_is_an_error_only_in_a_strict_app() {
    let server = Server::start().await;
    assert_eq!(
        reason(&filter(&server, AGORA, "nowhere", strings(&["user1"])).await.unwrap_err()),
        "ROOM_NOT_FOUND"
    );
    assert_eq!(filter(&server, OPEN, "anywhere", strings(&["u"])).await.unwrap(), ["u"]);
}

#[tokio::test]
async fn a_call_takes_zero_to_ten_thousand_users() {
    let server = Server::start().await;
    mute_notifications(&server, OPEN, "u00500", "r", None).await;
    let mut users: Vec<_> = (0..10_000).map(|number| format!("u{number:05}")).collect();
    let answered = filter(&server, OPEN, "r", users.clone()).await.unwrap();
    users.remove(500);
    assert!(answered == users);
    users.extend(strings(&["x", "y"]));
    assert_eq!(reason(&filter(&server, OPEN, "r", users).await.unwrap_err()), "TOO_MANY_USERS");
    assert_eq!(filter(&server, OPEN, "r", Vec::new()).await.unwrap(), [""; 0]);
    for bad in ["", "a\u{7}b", &"x".repeat(65)] {
        assert_eq!(
            reason(&filter(&server, OPEN, "r", strings(&["u", bad])).await.unwrap_err()),
            "INVALID_ARGUMENT"
        );
    }
}

#[tokio::test]
async fn only_services_and_app_admins_may_filter_recipients() {
    let server = Server::start().await;
    let bearer = |token: String| format!("Bearer {token}");
    let user = bearer(server.user_token(AGORA, "user1"));
    let owner = bearer(server.user_token(AGORA, "owner1"));
    let admin = bearer(server.agora_token());
    for (header, expected) in [
        (("authorization", user.as_str()), "PERMISSION_DENIED"),
        (("authorization", owner.as_str()), "PERMISSION_DENIED"),
        (KEEPER, "PERMISSION_DENIED"),
        (("authorization", admin.as_str()), ""),
    ] {
        let app = AGORA.into();
        let room = ROOM.into();
        let users = strings(&["user1"]);
        let message = pb::FilterRecipientsRequest { app, room, users, min_revision: 0 };
        let refused = server.mutes().await.filter_recipients(with(message, &[header])).await.err();
        assert_eq!(refused.as_ref().map(reason).unwrap_or_default(), expected);
    }
}
