//! Calls that are refused, each with its documented error.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

#[tokio::test]
async fn unknown_users_fail_the_whole_call() {
    let server = Server::start().await;
    let users = json!(["user1", "Nobody", "user2", "noone"]);
    assert_golden("error_not_members", mute(&server, users.clone(), json!(60_000)).await);
    assert_golden(
        "error_not_members",
        room(&server, Method::POST, "/white/users", Some(json!({"usernames": users}))).await,
    );
    assert_golden("error_not_member", mute(&server, json!("x"), json!(-1)).await);
    assert_golden("error_not_member", room(&server, Method::POST, "/white/users/x", None).await);
    assert_golden(
        "error_not_member",
        server.agora(Method::GET, &format!("/sdk/chatrooms/{ROOM}/mute/x"), None).await,
    );
    assert_eq!((muted(&server).await, data(&server, "/white/users").await), (vec![], json!([])));
}

#[tokio::test]
async fn naming_a_rooms_owner_mutes_no_one() {
    let server = Server::start().await;
    assert_golden("error_owner", mute(&server, json!(["user1", "owner1"]), json!(60_000)).await);
    assert_golden("error_owner", mute(&server, json!("OWNER1"), json!(-1)).await);
    assert_eq!(muted(&server).await, [""; 0]);
}

#[tokio::test]
async fn every_path_reports_a_missing_room_by_its_id() {
    let server = Server::start().await;
    let users = json!({"usernames": ["user1"], "mute_duration": 60_000});
    for (method, path, body) in [
        (Method::POST, "/mute", Some(&users)),
        (Method::DELETE, "/mute/user1", None),
        (Method::GET, "/mute", None),
        (Method::GET, "/mute?pagenum=1&pagesize=1", None),
        (Method::POST, "/ban", None),
        (Method::DELETE, "/ban", None),
        (Method::GET, "", None),
        (Method::DELETE, "", None),
        (Method::GET, "/white/users", None),
        (Method::GET, "/white/users/user1", None),
        (Method::POST, "/white/users", Some(&users)),
        (Method::POST, "/white/users/user1", None),
        (Method::DELETE, "/white/users/user1", None),
    ] {
        assert_golden(
            "error_no_room",
            server.agora(method, &format!("/chatrooms/404{path}"), body.cloned()).await,
        );
    }
    assert_golden(
        "error_no_room",
        server.agora(Method::GET, "/sdk/chatrooms/404/mute/user1", None).await,
    );
}

#[tokio::test]
async fn each_kind_of_bad_token_gets_its_documented_error() {
    let server = Server::start().await;
    let path = format!("/easemob-demo/testapp/chatrooms/{ROOM}/mute");
    assert_golden("error_no_token", sent(server.rest(Method::GET, &path, &[])).await);
    assert_golden(
        "error_no_token",
        sent(server.rest(Method::GET, &path, &[("authorization", "Bearer ")])).await,
    );
    for malformed in ["YWMt4LqJIul7EeizhBO5TSO_UgAAAA", "a.b.c"] {
        assert_golden(
            "error_malformed_token",
            sent(room_request(&server, Method::GET, "/mute", malformed)).await,
        );
    }
    assert_golden(
        "error_bad_token",
        sent(room_request(&server, Method::GET, "/mute", &server.app_token(IMKIT))).await,
    );
    assert_golden(
        "error_bad_token",
        sent(room_request(&server, Method::GET, "/mute", &server.user_token(IMKIT, "aaa"))).await,
    );
    let mut forged = server.agora_token();
    forged.truncate(forged.rfind('.').unwrap() + 1);
    assert_golden(
        "error_bad_token",
        sent(room_request(&server, Method::GET, "/mute", &forged)).await,
    );
    let expired = server.agora_token();
    server.advance(3_600_000);
    assert_golden(
        "error_expired_token",
        sent(room_request(&server, Method::GET, "/mute", &expired)).await,
    );
}

#[tokio::test]
async fn every_path_requires_a_valid_token() {
    let server = Server::start().await;
    let room = format!("/chatrooms/{ROOM}");
    for (method, path, body) in [
        (Method::POST, format!("{room}/mute"), r#"{"usernames":["user1"],"mute_duration":60000}"#),
        (Method::DELETE, format!("{room}/mute/user1"), ""),
        (Method::GET, format!("{room}/mute"), ""),
        (Method::POST, format!("{room}/ban"), ""),
        (Method::DELETE, format!("{room}/ban"), ""),
        (Method::GET, room.clone(), ""),
        (Method::DELETE, room.clone(), ""),
        (Method::GET, format!("{room}/white/users"), ""),
        (Method::GET, format!("{room}/white/users/user1"), ""),
        (Method::POST, format!("{room}/white/users"), r#"{"usernames":["user1"]}"#),
        (Method::POST, format!("{room}/white/users/user1"), ""),
        (Method::DELETE, format!("{room}/white/users/user1"), ""),
        (Method::GET, format!("/sdk{room}/mute/user1"), ""),
        (Method::POST, "/mutes".to_owned(), r#"{"username":"user1","chatroom":60}"#),
        (Method::GET, "/mutes".to_owned(), ""),
        (Method::GET, "/mutes/user1".to_owned(), ""),
        (Method::POST, "/chatrooms".to_owned(), r#"{"name":"n"}"#),
        (Method::POST, "/users".to_owned(), r#"{"username":"new"}"#),
    ] {
        let request = |headers| {
            server.rest(method.clone(), &format!("/easemob-demo/testapp{path}"), headers).body(body)
        };
        assert_golden("error_no_token", sent(request(&[])).await);
        let other = format!("Bearer {}", server.app_token(IMKIT));
        assert_golden("error_bad_token", sent(request(&[("authorization", &other)])).await);
    }
}

#[tokio::test]
async fn a_user_may_moderate_only_the_rooms_it_owns() {
    let server = Server::start().await;
    let body = json!({"usernames": ["user2"], "mute_duration": 60_000}).to_string();
    let as_user = |user: &str| {
        let token = server.user_token(AGORA, user);
        sent(room_request(&server, Method::POST, "/mute", &token).body(body.clone()))
    };
    assert_golden("error_forbidden", as_user("user1").await);
    assert_eq!(muted(&server).await, [""; 0]);
    assert_eq!(as_user("owner1").await.0, 200);
    assert_eq!(muted(&server).await, ["user2"]);
}

#[tokio::test]
async fn unknown_paths_and_methods_get_the_error_envelope() {
    let server = Server::start().await;
    for path in [
        "/chatgroups",
        "/chatrooms/1/mutes",
        "/",
        "/chatrooms/1/mute//",
        "/chatrooms/1/mute/a/b",
        "/%ff",
    ] {
        assert_golden("error_no_path", server.agora(Method::GET, path, None).await);
    }
    assert_golden("error_no_path", sent(server.rest(Method::GET, "//", &[])).await);
    for (method, path) in
        [(Method::PUT, "/mute"), (Method::PATCH, "/ban"), (Method::POST, "/mute/user1")]
    {
        assert_golden("error_method", room(&server, method, path, None).await);
    }
    assert_golden("error_method", server.agora(Method::GET, "/token", None).await);
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_refused() {
    let server = Server::start().await;
    assert_golden("error_utf_8", server.agora(Method::GET, "/chatrooms/%ff/mute", None).await);
    assert_golden("error_utf_8", room(&server, Method::DELETE, "/mute/%c3%28", None).await);
}

#[tokio::test]
async fn a_body_that_is_not_json_has_an_error_of_its_own() {
    let server = Server::start().await;
    for (path, raw) in [
        ("/mute", ""),
        ("/mute", "{"),
        ("/mute", "usernames=user1"),
        ("/white/users", "x"),
        ("/ban", "{"),
    ] {
        let request = room_request(&server, Method::POST, path, &server.agora_token()).body(raw);
        assert_golden("error_json", sent(request).await);
    }
    for raw in ["[]", "1", "null", "\"user1\""] {
        let (status, body) =
            sent(room_request(&server, Method::POST, "/mute", &server.agora_token()).body(raw))
                .await;
        assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")), "{raw}");
    }
}

#[tokio::test]
async fn too_long_bodies_and_uris_get_the_error_envelope() {
    let server = Server::start().await;
    let long = "x".repeat(64 << 10);
    assert_golden("error_too_large", mute(&server, json!([long]), json!(60_000)).await);
    assert_golden(
        "error_too_large",
        room(&server, Method::POST, "/ban", Some(json!({"note": long}))).await,
    );
    assert_golden(
        "error_uri_too_long",
        room(&server, Method::DELETE, &format!("/mute/{}", &long[..16 << 10]), None).await,
    );
    assert_golden(
        "error_uri_too_long",
        room(&server, Method::GET, &format!("/mute?x={}", &long[..16 << 10]), None).await,
    );
    assert_eq!(mute(&server, json!(["user1"]), json!(60_000)).await.0, 200);
}

/// Status and body of the answer to these bytes.
async fn answer_to(server: &Server, bytes: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(server.addresses.rest).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = format!("content-length: {}", body.len());
    assert!(head.contains("application/json") && head.contains(&length), "{head}");
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn what_hyper_cannot_parse_gets_the_error_envelope_too() {
    let server = Server::start().await;
    let headers: String = (0..101).map(|number| format!("x{number}: y\r\n")).collect();
    for (status, error, bytes) in [
        (400, "bad_request", "no HTTP\r\n\r\n".to_owned()),
        (400, "bad_request", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned()),
        (431, "header_too_large", format!("GET /me HTTP/1.1\r\n{headers}\r\n")),
        (431, "header_too_large", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(33_000))),
    ] {
        let (answered, body) = answer_to(&server, &bytes).await;
        assert_eq!((answered, &body["error"]), (status, &json!(error)), "{body}");
        assert_eq!(body.as_object().unwrap().len(), 5, "{body}");
        assert_eq!(body["timestamp"], json!(START_MS));
    }
}
