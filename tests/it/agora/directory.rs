//! Rooms, users and tokens of an app, and how a path names the app.

use super::*;

#[tokio::test]
async fn a_room_is_created_with_a_numeric_id_and_deleted_once() {
    let server = Server::start().await;
    let room = json!({"name": "new", "description": "about", "owner": "owner1", "maxusers": 300, "members": ["user1"]});
    let (status, mut created) = server.agora(Method::POST, "/chatrooms", Some(room)).await;
    let id = created["data"]["id"].as_str().unwrap().to_owned();
    assert!(id.bytes().all(|digit| digit.is_ascii_digit()), "{id}");
    created["data"]["id"] = json!("ID");
    assert_golden("create_room", (status, created));
    let (_, found) = server.agora(Method::GET, &format!("/chatrooms/{id}"), None).await;
    let found = &found["data"][0];
    assert_eq!(
        (&found["id"], &found["name"], &found["description"]),
        (&json!(id), &json!("new"), &json!("about"))
    );
    assert_eq!(server.agora(Method::DELETE, &format!("/chatrooms/{id}"), None).await.0, 200);
    assert_golden(
        "delete_room",
        server.agora(Method::DELETE, &format!("/chatrooms/{ROOM}"), None).await,
    );
    assert_golden(
        "error_room",
        server.agora(Method::DELETE, &format!("/chatrooms/{ROOM}"), None).await,
    );
}

#[tokio::test]
async fn a_room_of_an_unknown_owner_is_refused() {
    let server = Server::start().await;
    assert_golden(
        "error_owner_unknown",
        server
            .agora(Method::POST, "/chatrooms", Some(json!({"name": "n", "owner": "Nobody"})))
            .await,
    );
}

#[tokio::test]
async fn users_are_created_singly_or_together_and_can_be_muted() {
    let server = Server::start().await;
    assert_golden(
        "create_user",
        server
            .agora(
                Method::POST,
                "/users",
                Some(json!({"username": "New1", "nickname": "N", "password": "p"})),
            )
            .await,
    );
    let several = json!([{"username": "new2", "password": "p"}, {"username": "new3"}]);
    assert_golden("create_users", server.agora(Method::POST, "/users", Some(several)).await);
    assert_eq!(mute(&server, json!(["new1", "new2", "new3"]), json!(60_000)).await.0, 200);
}

#[tokio::test]
async fn a_malformed_user_name_creates_no_user_of_the_call() {
    let server = Server::start().await;
    for wrong in [
        json!({}),
        json!({"username": 1}),
        json!({"username": ""}),
        json!({"username": "a b"}),
        json!("user"),
    ] {
        let (status, body) =
            server.agora(Method::POST, "/users", Some(json!([{"username": "good"}, wrong]))).await;
        assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")), "{wrong}");
    }
    assert_eq!(mute(&server, json!("good"), json!(60_000)).await.0, 400);
}

#[tokio::test]
async fn a_too_long_nickname_creates_no_user_of_the_call() {
    let server = Server::start().await;
    let users = json!([{"username": "new1"}, {"username": "new2", "nickname": "x".repeat(1_025)}]);
    let (status, body) = server.agora(Method::POST, "/users", Some(users)).await;
    assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")), "{body}");
    let (status, body) = mute(&server, json!(["new1"]), json!(60_000)).await;
    assert_eq!((status, &body["error"]), (400, &json!("forbidden_op")), "{body}");
}

#[tokio::test]
async fn a_token_has_the_requested_ttl_a_number_or_a_string() {
    let server = Server::start().await;
    let app = "/easemob-demo/testapp";
    assert_golden("token", token(&server, app, json!({"ttl": 600})).await);
    assert_golden("token", token(&server, app, json!({"ttl": "600"})).await);
    assert_golden("token", token(&server, app, json!({"ttl": 600.0})).await);
    assert_golden("token_without_end", token(&server, app, json!({"ttl": 0})).await);
    assert_golden("token_as_configured", token(&server, app, json!({})).await);
    for ttl in [json!(-1), json!(2_147_483_648_u64), json!("soon"), json!(1.5), json!([])] {
        let (status, body) = token(&server, app, json!({"ttl": ttl})).await;
        assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")), "{ttl}");
    }
}

#[tokio::test]
async fn an_issued_token_is_valid_until_its_end_or_forever() {
    let server = Server::start().await;
    let issue = async |ttl: u64| {
        let (_, body) = token(&server, "/easemob-demo/testapp", json!({"ttl": ttl})).await;
        body["access_token"].as_str().unwrap().to_owned()
    };
    let short = issue(600).await;
    let endless = issue(0).await;
    let status =
        async |token: &str| sent(room_request(&server, Method::GET, "/mute", token)).await.0;
    assert_eq!((status(&short).await, status(&endless).await), (200, 200));
    server.advance(600_000);
    assert_eq!((status(&short).await, status(&endless).await), (401, 200));
    server.advance(100 * 365 * 86_400_000);
    assert_eq!(status(&endless).await, 200);
}

#[tokio::test]
async fn no_token_is_issued_for_a_wrong_secret_app_or_grant() {
    let server = Server::start().await;
    let app = "/easemob-demo/testapp";
    assert_golden("error_secret", token(&server, app, json!({"client_secret": "wrong"})).await);
    assert_golden("error_secret", token(&server, app, json!({"client_id": "wrong"})).await);
    // The same answer: it does not reveal whether the app exists.
    assert_golden("error_secret", token(&server, "/easemob-demo/nothing", json!({})).await);
    let (status, body) = token(&server, app, json!({"grant_type": "password"})).await;
    assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")));
    for raw in ["", "{", "grant_type=client_credentials"] {
        let (status, body) =
            sent(server.rest(Method::POST, &format!("{app}/token"), &[]).body(raw)).await;
        assert_eq!((status, &body["error"]), (400, &json!("json_parse")), "{raw}");
    }
}

#[tokio::test]
async fn an_app_key_of_one_word_is_addressed_by_app_id() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.app_token(IMKIT));
    let send = |method, path: &str, body: &str| {
        let request =
            server.rest(method, &format!("/app-id/SampleApp{path}"), &[("authorization", &bearer)]);
        sent(request.body(body.to_owned()))
    };
    assert_golden(
        "app_id_mute",
        send(
            Method::POST,
            "/chatrooms/demo/mute",
            r#"{"usernames":["aaa"],"mute_duration":60000}"#,
        )
        .await,
    );
    assert_golden("app_id_list_muted", send(Method::GET, "/chatrooms/demo/mute", "").await);
    assert_golden("app_id_unmute", send(Method::DELETE, "/chatrooms/demo/mute/aaa", "").await);
    let (status, body) = send(Method::GET, "/chatrooms/nowhere", "").await;
    assert_eq!(
        (status, &body["error_description"]),
        (404, &json!("grpID nowhere does not exist!"))
    );
}

#[tokio::test]
async fn an_empty_organization_name_addresses_no_app() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.app_token(IMKIT));
    for (method, path) in
        [(Method::GET, "//SampleApp/mutes/aaa"), (Method::POST, "//SampleApp/chatrooms/demo/ban")]
    {
        let (status, body) = sent(server.rest(method, path, &[("authorization", &bearer)])).await;
        assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")), "{path}: {body}");
    }
    assert_eq!(server.check(IMKIT, "demo", "aaa").await.rule(), pb::Rule::None);
}
