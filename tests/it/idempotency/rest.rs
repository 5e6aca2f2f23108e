//! The header `Idempotency-Key` over REST.

use super::*;

/// Sends a request with this key. Returns status and body, without the fields that depend on the
/// time of the answer.
async fn keyed(
    server: &Server,
    key: &str,
    headers: &[(&str, &str)],
    request: &(Method, String, Value),
) -> (u16, Value) {
    let (method, path, body) = request;
    let headers = [headers, &[("Idempotency-Key", key)]].concat();
    let (status, mut answer) =
        sent(server.rest(method.clone(), path, &headers).body(body.to_string())).await;
    for field in ["timestamp", "duration"] {
        answer.as_object_mut().unwrap().remove(field);
    }
    if path.starts_with("/me") {
        answer["result"].as_object_mut().unwrap().remove("lastLoginTimeMS");
        answer["result"].as_object_mut().unwrap().remove("address");
    }
    (status, answer)
}

/// Each request changes something the first time. Its repeat gets the same answer and changes
/// nothing.
async fn repeats_do_nothing(
    server: &Server,
    headers: &[(&str, &str)],
    requests: &[(Method, String, Value)],
) {
    let mut first = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let before = commits(server).await;
        let answer = keyed(server, &format!("key {number}"), headers, request).await;
        assert_eq!(answer.0, 200, "{request:?}: {answer:?}");
        assert!(commits(server).await > before, "{request:?}");
        first.push(answer);
    }
    server.advance(5_000);
    let after = commits(server).await;
    for (number, request) in requests.iter().enumerate() {
        assert_eq!(
            keyed(server, &format!("\"key {number}\""), headers, request).await,
            first[number],
            "{request:?}"
        );
    }
    assert_eq!(commits(server).await, after);
}

#[tokio::test]
async fn repeats_do_nothing_on_every_writing_agora_path() {
    let server = Server::start().await;
    let token = format!("Bearer {}", server.agora_token());
    let headers = [("authorization", token.as_str())];
    let path = |path: &str| format!("/easemob-demo/testapp{path}");
    let room = |rest: &str| path(&format!("/chatrooms/{ROOM}{rest}"));
    let users = || json!({"usernames": ["user1", "user2"], "mute_duration": 60_000});
    let requests = [
        (Method::POST, room("/mute"), users()),
        (Method::DELETE, room("/mute/user1,user2"), json!({})),
        (Method::POST, room("/mute"), users()),
        (Method::POST, room("/ban"), json!({"mute_duration": 60_000})),
        (Method::DELETE, room("/ban"), json!({})),
        (Method::POST, room("/white/users"), users()),
        (Method::POST, room("/white/users/user3"), json!({})),
        (Method::DELETE, room("/white/users/user1,user3"), json!({})),
        (
            Method::POST,
            path("/users"),
            json!([{"username": "u7"}, {"username": "u8"}, {"username": "u9"}]),
        ),
        (Method::POST, path("/mutes"), json!({"username": "user1", "chatroom": 100})),
        (Method::POST, path("/mutes"), json!({"username": "user1", "chatroom": 0})),
        (Method::POST, path("/chatrooms"), json!({"name": "new"})),
        (Method::DELETE, room(""), json!({})),
    ];
    let end = (Method::POST, room("/mute"), json!({"usernames": ["user1"], "mute_duration": 0}));
    mute(&server, "user1", "").await.unwrap();
    assert_eq!(keyed(&server, "0", &headers, &end).await.0, 200);
    mute(&server, "user1", "").await.unwrap();
    assert_eq!(keyed(&server, "0", &headers, &end).await.0, 200);
    assert!(!may_speak(&server, "user1").await);
    repeats_do_nothing(&server, &headers, &requests).await;

    let refused =
        |(status, answer): (u16, Value)| (status, answer["error"].as_str().unwrap().to_owned());
    let other = (Method::POST, path("/users"), json!({"username": "u10"}));
    assert_eq!(
        refused(keyed(&server, "key 8", &headers, &other).await),
        (400, "illegal_argument".to_owned())
    );
    let other = (Method::POST, path("/users"), json!([{"username": "u7"}, {"username": "u9"}]));
    assert_eq!(
        refused(keyed(&server, "key 8", &headers, &other).await),
        (400, "illegal_argument".to_owned())
    );
    let long = keyed(&server, &"x".repeat(37), &headers, &other).await;
    assert_eq!(refused(long), (400, "illegal_argument".to_owned()));
    let read = (Method::GET, path("/chatrooms/1265710621211/mute"), json!({}));
    assert_eq!(
        keyed(&server, &"x".repeat(37), &headers, &read).await.0,
        404,
        "the room is deleted, and a read ignores the key"
    );
}

#[tokio::test]
async fn repeats_do_nothing_on_every_writing_imkit_path() {
    let server = Server::start().await;
    let requests = [
        (Method::POST, "/admin/clients/aaa/mute/demo".to_owned(), json!({})),
        (Method::DELETE, "/admin/clients/aaa/mute/demo".to_owned(), json!({})),
        (
            Method::POST,
            "/admin/clients".to_owned(),
            json!({"_id": "new", "nickname": "n", "level": 3}),
        ),
        (Method::DELETE, "/admin/clients/new".to_owned(), json!({})),
        (Method::POST, "/rooms".to_owned(), json!({"_id": "r", "name": "n"})),
    ];
    repeats_do_nothing(&server, &[API_KEY], &requests).await;
    let other = (Method::DELETE, "/admin/clients/aaa".to_owned(), json!({}));
    for key in ["key 1", &"x".repeat(37), "ü"] {
        let (status, answer) = keyed(&server, key, &[API_KEY], &other).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("INVALID_REQUEST")), "{key}");
    }

    let server = Server::start().await;
    let token = server.user_token(IMKIT, "aaa");
    let requests = [
        (Method::POST, "/me/mute/demo".to_owned(), json!({})),
        (Method::DELETE, "/me/mute/demo".to_owned(), json!({})),
    ];
    repeats_do_nothing(&server, &[CLIENT_KEY, ("IM-Authorization", &token)], &requests).await;
}
