//! Limits: users in a call, and calls a second.

use super::*;

#[tokio::test]
async fn muting_61_users_is_refused_as_documented() {
    let server = Server::start().await;
    let mut users = names(60);
    users.push("user1".to_owned());
    assert_golden("error_61_mute", mute(&server, json!(users), json!(60_000)).await);
    assert_golden(
        "error_61_white_add",
        room(&server, Method::POST, "/white/users", Some(json!({"usernames": users}))).await,
    );
    assert_eq!((muted(&server).await, data(&server, "/white/users").await), (vec![], json!([])));
}

#[tokio::test]
async fn unmuting_61_users_is_refused_as_documented() {
    let server = Server::start().await;
    mute(&server, json!(["user1"]), json!(60_000)).await;
    room(&server, Method::POST, "/white/users/user1", None).await;
    let users = format!("{},user1", names(60).join("%2C"));
    assert_golden(
        "error_61_unmute",
        room(&server, Method::DELETE, &format!("/mute/{users}"), None).await,
    );
    assert_golden(
        "error_61_white_remove",
        room(&server, Method::DELETE, &format!("/white/users/{users}"), None).await,
    );
    assert_eq!(
        (muted(&server).await, data(&server, "/white/users").await),
        (strings(&["user1"]), json!(["user1"]))
    );
}

#[tokio::test]
async fn sixty_users_are_within_the_limit() {
    let server = Server::start().await;
    let users = names(60);
    for path in ["/mute", "/white/users"] {
        let (status, body) =
            room(&server, Method::DELETE, &format!("{path}/{}", users.join(",")), None).await;
        assert_eq!((status, body["data"].as_array().unwrap().len()), (200, 60));
    }
    let create = users.iter().map(|name| json!({"username": name})).collect();
    assert_eq!(server.agora(Method::POST, "/users", Some(create)).await.0, 200);
    assert_eq!(mute(&server, json!(users), json!(60_000)).await.0, 200);
    assert_eq!(
        room(&server, Method::POST, "/white/users", Some(json!({"usernames": users}))).await.0,
        200
    );
    assert_eq!(muted(&server).await, users);
}

#[tokio::test]
async fn the_101st_call_of_a_method_in_a_second_is_refused() {
    let server = Server::with(limited()).await;
    let token = server.agora_token();
    let list = || room_request(&server, Method::GET, "/mute", &token);
    for _ in 0..100 {
        assert_eq!(sent(list()).await.0, 200);
    }
    let (status, retry_after, body) = refusal(list()).await;
    assert_eq!(retry_after.as_deref(), Some("1"));
    assert_golden("error_rate", (status, body));
    assert_eq!(sent(room_request(&server, Method::GET, "", &token)).await.0, 200);
    assert_eq!(mute(&server, json!("user1"), json!(60_000)).await.0, 200);
    server.advance(1_000);
    assert_eq!(sent(list()).await.0, 200);
}

#[tokio::test]
async fn creating_users_counts_each_and_creates_all_or_none() {
    let server = Server::with(limited()).await;
    let create = async |names: &[String]| {
        let users = names.iter().map(|name| json!({"username": name})).collect();
        server.agora(Method::POST, "/users", Some(users)).await.0
    };
    let names = names(120);
    assert_eq!([create(&names[..60]).await, create(&names[60..]).await], [200, 429]);
    assert_eq!(server.agora(Method::GET, "/users/someone0060", None).await.0, 404);
    assert_eq!([create(&names[60..100]).await, create(&names[100..101]).await], [200, 429]);
    server.advance(1_000);
    assert_eq!(create(&names[100..]).await, 200);
}

#[tokio::test]
async fn a_page_counts_for_the_members_skipped_before_it() {
    let server = Server::with(limited()).await;
    let token = server.agora_token();
    let page = async |number: u32| {
        let path = format!("/mute?pagenum={number}&pagesize=1000");
        sent(room_request(&server, Method::GET, &path, &token)).await.0
    };
    // Each counts as 50: the call itself, and 49 for the half million members before its page.
    assert_eq!([page(500).await, page(500).await, page(2).await], [200, 200, 429]);
    server.advance(1_000);
    assert_eq!(page(2).await, 200);
}

#[tokio::test]
async fn each_rpc_page_of_an_unpaged_list_counts_and_waits() {
    let server = Server::with(Settings { rate_limit: Some(2), ..Settings::default() }).await;
    let create = async |user: String| {
        let client = Some(pb::Client { user, ..Default::default() });
        let message = pb::UpsertClientRequest { app: AGORA.into(), client, ..Default::default() };
        server.directory().await.upsert_client(with(message, &[SERVICE])).await.unwrap();
    };
    for users in names(3_500).chunks(100) {
        join_all(users.iter().cloned().map(create)).await;
        let message = pb::MuteMembersRequest {
            app: AGORA.into(),
            room: ROOM.into(),
            users: users.to_vec(),
            ..Default::default()
        };
        server.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap();
    }
    let token = server.agora_token();
    let list = tokio::spawn(sent(room_request(&server, Method::GET, "/mute", &token)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!list.is_finished(), "the fourth page did not wait for the rate limit");
    // A request for one page does not wait for it.
    assert_eq!(
        sent(room_request(&server, Method::GET, "/mute?pagenum=1&pagesize=2", &token)).await.0,
        200
    );
    server.advance(1_000);
    let (status, body) = list.await.unwrap();
    assert_eq!((status, body["data"].as_array().map(Vec::len)), (200, Some(3_500)));
}

#[tokio::test]
async fn the_301st_token_within_a_second_is_refused() {
    let server = Server::with(limited()).await;
    let app = "/easemob-demo/testapp";
    for _ in 0..300 {
        assert_eq!(token(&server, app, json!({})).await.0, 200);
    }
    assert_golden("error_rate", token(&server, app, json!({})).await);
    server.advance(1_000);
    assert_eq!(token(&server, app, json!({})).await.0, 200);
}
