//! The fields of a body: names of users and durations.

use super::*;

#[tokio::test]
async fn a_case_sensitive_app_reports_only_the_unknown_users() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.app_token(IMKIT));
    let request = server.rest(
        Method::POST,
        "/app-id/SampleApp/chatrooms/demo/mute",
        &[("authorization", &bearer)],
    );
    assert_golden(
        "error_case",
        sent(
            request.body(json!({"usernames": ["aaa", "AAA"], "mute_duration": 60_000}).to_string()),
        )
        .await,
    );
}

#[tokio::test]
async fn a_body_is_read_as_json_whatever_its_content_type() {
    let server = Server::start().await;
    let body = json!({"usernames": ["user1"], "mute_duration": 60_000}).to_string();
    for kind in [
        None,
        Some(FORM),
        Some("text/plain"),
        Some("application/json; charset=utf-8"),
        Some("nonsense"),
    ] {
        let request =
            room_request(&server, Method::POST, "/mute", &server.agora_token()).body(body.clone());
        let request =
            kind.into_iter().fold(request, |request, kind| request.header("content-type", kind));
        assert_eq!(sent(request).await.0, 200, "{kind:?}");
    }
}

#[tokio::test]
async fn usernames_as_one_string_are_one_user() {
    let server = Server::start().await;
    assert_golden("mute_one_string", mute(&server, json!("user1"), json!(86_400_000)).await);
    assert_eq!(muted(&server).await, ["user1"]);
}

#[tokio::test]
async fn malformed_usernames_are_refused() {
    let server = Server::start().await;
    let long = "x".repeat(65);
    for wrong in [
        json!(null),
        json!(1),
        json!([1]),
        json!(["a b"]),
        json!([""]),
        json!(["ü"]),
        json!([long]),
        json!("a,b"),
        json!({}),
    ] {
        let (status, body) = mute(&server, wrong.clone(), json!(60_000)).await;
        assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")), "{wrong}");
    }
    let (status, body) =
        room(&server, Method::POST, "/mute", Some(json!({"mute_duration": 60_000}))).await;
    assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")));
    assert_eq!(muted(&server).await, [""; 0]);
}

#[tokio::test]
async fn a_duration_of_minus_1_is_permanent_and_0_ends_the_mute() {
    let server = Server::start().await;
    assert_golden("mute_for_good", mute(&server, json!(["user1"]), json!(-1)).await);
    server.advance(100 * 365 * 86_400_000);
    assert_eq!(muted(&server).await, ["user1"]);
    server.advance(1);
    assert_golden("mute_0", mute(&server, json!(["user1"]), json!(0)).await);
    assert_eq!(muted(&server).await, [""; 0]);
}

#[tokio::test]
async fn an_end_beyond_the_vendors_largest_time_is_permanent() {
    let server = Server::start().await;
    let last_ms = PERMANENT_MS - START_MS;
    for ms in [last_ms, last_ms + 1, i64::MAX as u64, u64::MAX] {
        let (status, body) = mute(&server, json!(["user1"]), json!(ms)).await;
        assert_eq!((status, &body["data"][0]["expire"]), (200, &json!(PERMANENT_MS)), "{ms}");
    }
    let (_, body) = mute(&server, json!(["user1"]), json!(last_ms - 1)).await;
    assert_eq!(body["data"][0]["expire"], PERMANENT_MS - 1);
    mute(&server, json!(["user1"]), json!(last_ms + 1)).await;
    server.advance(last_ms + 1);
    assert_eq!(muted(&server).await, ["user1"]);
}

#[tokio::test]
async fn a_bad_duration_is_refused_and_mutes_no_one() {
    let server = Server::start().await;
    assert_golden("error_mute_duration", mute(&server, json!(["user1"]), json!(-2)).await);
    assert_golden(
        "error_mute_duration",
        room(&server, Method::POST, "/mute", Some(json!({"usernames": ["user1"]}))).await,
    );
    for wrong in
        [json!("1000"), json!(null), json!(true), json!([1_000]), json!({}), json!(i64::MIN)]
    {
        assert_golden("error_mute_duration", mute(&server, json!(["user1"]), wrong).await);
    }
    assert_eq!(muted(&server).await, [""; 0]);
}

#[tokio::test]
async fn usernames_are_echoed_as_sent_and_are_case_insensitive() {
    let server = Server::start().await;
    assert_golden(
        "mute_upper_case",
        mute(&server, json!(["USER1", "User2"]), json!(86_400_000)).await,
    );
    assert_eq!(muted(&server).await, ["user1", "user2"]);
    let (_, added) = room(&server, Method::POST, "/white/users/USER1", None).await;
    assert_eq!(added["data"]["user"], "USER1");
    assert_eq!(
        data(&server, "/white/users/UsEr1").await,
        json!({"member": "UsEr1", "white": true})
    );
    let (_, removed) = room(&server, Method::DELETE, "/white/users/User1", None).await;
    assert_eq!(removed["data"][0]["user"], "User1");
    let (_, unmuted) = room(&server, Method::DELETE, "/mute/USER1,user2", None).await;
    assert_eq!(
        unmuted["data"],
        json!([{"result": true, "user": "USER1"}, {"result": true, "user": "user2"}])
    );
    assert_eq!(muted(&server).await, [""; 0]);
}

#[tokio::test]
async fn a_user_named_twice_is_answered_twice_and_muted_once() {
    let server = Server::start().await;
    let (status, body) = mute(&server, json!(["user1", "USER1", "user1"]), json!(60_000)).await;
    assert_eq!((status, body["data"].as_array().unwrap().len()), (200, 3));
    assert_eq!(muted(&server).await, ["user1"]);
    assert_eq!(room(&server, Method::DELETE, "/mute/user1,USER1,user1", None).await.0, 200);
    assert_eq!(muted(&server).await, [""; 0]);
}

#[tokio::test]
async fn an_empty_list_of_users_is_refused() {
    let server = Server::start().await;
    assert_golden("error_empty", mute(&server, json!([]), json!(60_000)).await);
    assert_golden("error_empty", room(&server, Method::DELETE, "/mute/,", None).await);
    assert_golden(
        "error_empty",
        room(&server, Method::POST, "/white/users", Some(json!({"usernames": []}))).await,
    );
    assert_golden("error_empty", room(&server, Method::DELETE, "/white/users/,", None).await);
}

#[tokio::test]
async fn a_ban_takes_every_body_of_nothing() {
    let server = Server::start().await;
    let token = server.agora_token();
    for body in ["", " ", "null", "[]", "{}", "\"\"", "\u{feff}{}\n"] {
        let ban = room_request(&server, Method::POST, "/ban", &token).body(body);
        assert_eq!(sent(ban).await.1["data"]["expire"], json!(4_638_873_600_000_u64), "{body:?}");
    }
    for body in ["5", "[1]", "\"x\"", "true"] {
        let ban = room_request(&server, Method::POST, "/ban", &token).body(body);
        assert_eq!(sent(ban).await.1["error"], json!("illegal_argument"), "{body:?}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_skipped() {
    let server = Server::start().await;
    let body = "\u{feff}{\"usernames\":[\"user1\"],\"mute_duration\":-1}";
    let mute = room_request(&server, Method::POST, "/mute", &server.agora_token()).body(body);
    assert_eq!(sent(mute).await.0, 200);
    let room = server.rest(Method::POST, "/rooms", &[API_KEY]).body("\u{feff}{\"_id\":\"r\"}");
    assert_eq!(sent(room).await.0, 200);
    let twice = room_request(&server, Method::POST, "/mute", &server.agora_token());
    assert_eq!(sent(twice.body(format!("\u{feff}{body}"))).await.1["error"], json!("json_parse"));
}
