//! The Agora and Easemob REST paths, as their documents and SDKs describe them. Complete answers
//! are in `tests/golden/agora`.

use std::{env, fs, path::Path, time::Duration};

use futures_util::future::join_all;
use mute_service::{config::Settings, proto::v1 as pb};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::*;

const PERMANENT_MS: u64 = 4_638_873_600_000;
const FORM: &str = "application/x-www-form-urlencoded";

/// Compares an answer with a golden file, key for key. Ports and tokens are masked. With
/// MUTE_BLESS=1 it writes the file instead.
pub fn golden(vendor: &str, name: &str, status: u16, mut body: Value) {
    mask(&mut body);
    let found = json!({"status": status, "body": body});
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(vendor)
        .join(format!("{name}.json"));
    if env::var("MUTE_BLESS").is_ok_and(|bless| bless == "1") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("{found:#}\n")).unwrap();
        return;
    }
    let text =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{vendor}/{name}.json: {error}"));
    let expected: Value = serde_json::from_str(&text).unwrap();
    assert!(
        found == expected,
        "{vendor}/{name}.json: the answer\n{found:#}\ndiffers from the golden file\n{expected:#}"
    );
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| match name.as_str() {
            "access_token" | "token" => *field = json!("TOKEN"),
            _ => mask(field),
        }),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::String(text) => {
            if let Some((before, after)) = text.split_once("127.0.0.1:") {
                *text = format!(
                    "{before}HOST{}",
                    after.trim_start_matches(|c: char| c.is_ascii_digit())
                );
            }
        }
        _ => {}
    }
}

/// Settings with the documented limits.
pub fn limited() -> Settings {
    Settings { rate_limit: Some(100), token_rate_limit: Some(300), ..Settings::default() }
}

/// Settings that trust the headers of proxies in this network.
pub fn trusting_proxies_in(network: &str) -> Settings {
    Settings { trusted_proxies: Some(vec![network.parse().unwrap()]), ..unlimited() }
}

/// Status, Retry-After and body.
pub async fn refusal(request: RequestBuilder) -> (u16, Option<String>, Value) {
    let response = request.send().await.unwrap();
    let retry_after =
        response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), retry_after, response.json().await.unwrap())
}

fn assert_golden(name: &str, (status, body): (u16, Value)) {
    golden("agora", name, status, body);
}

/// A request to a path of the dev room, as the app's admin.
async fn room(server: &Server, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    server.agora(method, &format!("/chatrooms/{ROOM}{path}"), body).await
}

async fn mute(server: &Server, usernames: Value, mute_duration: Value) -> (u16, Value) {
    room(
        server,
        Method::POST,
        "/mute",
        Some(json!({"usernames": usernames, "mute_duration": mute_duration})),
    )
    .await
}

async fn data(server: &Server, path: &str) -> Value {
    let (status, mut body) = room(server, Method::GET, path, None).await;
    assert_eq!(status, 200, "{body}");
    body["data"].take()
}

/// The ids of the muted users of the dev room.
async fn muted(server: &Server) -> Vec<String> {
    let users = |list: Value| {
        list.as_array()
            .unwrap()
            .iter()
            .map(|element| element["user"].as_str().unwrap().to_owned())
            .collect()
    };
    users(data(server, "/mute").await)
}

/// A request to a path of the dev room with this token.
fn room_request(server: &Server, method: Method, path: &str, token: &str) -> RequestBuilder {
    let path = format!("/easemob-demo/testapp/chatrooms/{ROOM}{path}");
    server.rest(method, &path, &[("authorization", &format!("Bearer {token}"))])
}

async fn token(server: &Server, app: &str, fields: Value) -> (u16, Value) {
    let mut body = json!({"grant_type": "client_credentials", "client_id": "dev-client", "client_secret": "dev-secret"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    sent(server.rest(Method::POST, &format!("{app}/token"), &[]).body(body.to_string())).await
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("someone{number:04}")).collect()
}

#[tokio::test]
async fn the_documented_mute_is_answered_as_documented() {
    let server = Server::start().await;
    assert_golden("mute", mute(&server, json!(["user1", "user2"]), json!(86_400_000)).await);
    assert_eq!(muted(&server).await, ["user1", "user2"]);
}

#[tokio::test]
async fn users_keep_their_order_and_muting_again_replaces_the_end() {
    let server = Server::start().await;
    mute(&server, json!(["user2"]), json!(60_000)).await;
    server.advance(1_000);
    let (_, body) = mute(&server, json!(["user3", "user2", "user1"]), json!(5_000)).await;
    let users: Vec<_> =
        body["data"].as_array().unwrap().iter().map(|element| &element["user"]).collect();
    assert_eq!(users, ["user3", "user2", "user1"]);
    let list = data(&server, "/mute").await;
    assert!(
        list.as_array().unwrap().iter().all(|element| element["expire"] == json!(START_MS + 6_000)),
        "{list}"
    );
}

#[tokio::test]
async fn members_are_unmuted_with_a_comma_or_its_percent_code() {
    let server = Server::start().await;
    mute(&server, json!(["user1", "user2", "user3", "user4", "user5"]), json!(60_000)).await;
    assert_golden("unmute_one", room(&server, Method::DELETE, "/mute/user1", None).await);
    assert_golden("unmute", room(&server, Method::DELETE, "/mute/user2,user3", None).await);
    assert_golden(
        "unmute_percent_code",
        room(&server, Method::DELETE, "/mute/user4%2Cuser5", None).await,
    );
    assert_eq!(muted(&server).await, [""; 0]);
}

#[tokio::test]
async fn unmuting_a_user_who_is_not_muted_is_no_error() {
    let server = Server::start().await;
    for users in ["user1", "nobody", "nobody,user1", "user1,user1,USER1", "owner1"] {
        let (status, body) = room(&server, Method::DELETE, &format!("/mute/{users}"), None).await;
        assert_eq!(status, 200, "{body}");
        let answered: Vec<_> = body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|element| element["user"].as_str().unwrap())
            .collect();
        assert_eq!(answered.join(","), users);
    }
}

#[tokio::test]
async fn the_muted_list_is_complete_and_its_action_is_post() {
    let server = Server::start().await;
    assert_golden("list_muted_empty", room(&server, Method::GET, "/mute", None).await);
    mute(&server, json!(["user2"]), json!(86_400_000)).await;
    mute(&server, json!(["user1"]), json!(-1)).await;
    assert_golden("list_muted", room(&server, Method::GET, "/mute", None).await);
}

#[tokio::test]
async fn the_list_is_paged_only_if_number_and_size_are_positive() {
    let server = Server::start().await;
    let all = ["user1", "user2", "user3", "user4", "user5"];
    mute(&server, json!(all), json!(60_000)).await;
    let whole = data(&server, "/mute").await;
    let whole = whole.as_array().unwrap();
    for (query, expected) in [
        ("pagenum=1&pagesize=2", &whole[..2]),
        ("pagenum=2&pagesize=2&resource=x", &whole[2..4]),
        ("pagenum=3&pagesize=2", &whole[4..]),
        ("pagenum=4&pagesize=2", &[]),
        ("pagenum=1&pagesize=100000", whole),
        ("pagenum=2147483647&pagesize=2147483647", &[]),
        ("pagenum=2", whole),
        ("pagesize=2", whole),
        ("pagenum=0&pagesize=2", whole),
        ("pagenum=-1&pagesize=2", whole),
        ("pagenum=x&pagesize=y", whole),
        ("resource=android_1&version=3.9&cursor=&limit=1", whole),
    ] {
        assert_eq!(
            data(&server, &format!("/mute?{query}")).await.as_array().unwrap(),
            expected,
            "{query}"
        );
    }
}

#[tokio::test]
async fn unknown_query_parameters_are_ignored_and_are_not_in_the_uri() {
    let server = Server::start().await;
    for (method, path) in [
        (Method::DELETE, "/mute/user1"),
        (Method::POST, "/ban"),
        (Method::GET, ""),
        (Method::GET, "/white/users"),
    ] {
        let (status, body) =
            room(&server, method, &format!("{path}?resource=a%2Fb&version=1"), None).await;
        let host = server.addresses.rest;
        assert_eq!(
            (status, &body["uri"]),
            (200, &json!(format!("http://{host}/easemob-demo/testapp/chatrooms/{ROOM}{path}")))
        );
    }
}

#[tokio::test]
async fn a_list_longer_than_an_rpc_page_is_complete_and_in_order() {
    let server = Server::start().await;
    let users = names(1_020);
    let create = async |chunk: &[String]| {
        let body = chunk.iter().map(|name| json!({"username": name})).collect();
        assert_eq!(server.agora(Method::POST, "/users", Some(body)).await.0, 200);
        assert_eq!(mute(&server, json!(chunk), json!(60_000)).await.0, 200);
        assert_eq!(
            room(&server, Method::POST, "/white/users", Some(json!({"usernames": chunk}))).await.0,
            200
        );
    };
    join_all(users.chunks(60).map(create)).await;
    assert_eq!(muted(&server).await, users);
    let (_, allowed) = room(&server, Method::GET, "/white/users", None).await;
    assert_eq!((&allowed["data"], &allowed["count"]), (&json!(users), &json!(1_020)));
}

#[tokio::test]
async fn a_ban_is_permanent_or_timed_but_not_for_0_ms() {
    let server = Server::start().await;
    assert_golden("ban", room(&server, Method::POST, "/ban", None).await);
    assert_golden("get_room_banned", room(&server, Method::GET, "", None).await);
    assert_golden(
        "ban_for_good",
        room(&server, Method::POST, "/ban", Some(json!({"mute_duration": -1}))).await,
    );
    assert_golden(
        "ban_timed",
        room(&server, Method::POST, "/ban", Some(json!({"mute_duration": 5_000}))).await,
    );
    assert_eq!(data(&server, "").await[0]["mute"], true);
    assert_golden(
        "error_ban_0",
        room(&server, Method::POST, "/ban", Some(json!({"mute_duration": 0}))).await,
    );
    for wrong in [json!(-2), json!("5000"), json!([1])] {
        let (status, body) =
            room(&server, Method::POST, "/ban", Some(json!({"mute_duration": wrong}))).await;
        assert_eq!((status, &body["error"]), (400, &json!("illegal_argument")), "{wrong}");
    }
    server.advance(5_000);
    assert_eq!(data(&server, "").await[0]["mute"], false);
    assert_eq!(
        room(&server, Method::POST, "/ban", Some(json!({}))).await.1["data"]["expire"],
        PERMANENT_MS
    );
}

#[tokio::test]
async fn unbanning_ends_a_ban_and_repeating_it_is_no_error() {
    let server = Server::start().await;
    room(&server, Method::POST, "/ban", None).await;
    assert_golden("unban", room(&server, Method::DELETE, "/ban", None).await);
    assert_golden("get_room", room(&server, Method::GET, "", None).await);
    assert_golden("unban", room(&server, Method::DELETE, "/ban", None).await);
}

#[tokio::test]
async fn the_allow_list_is_filled_queried_and_emptied() {
    let server = Server::start().await;
    assert_golden("white_list_empty", room(&server, Method::GET, "/white/users", None).await);
    assert_golden("white_is_not", room(&server, Method::GET, "/white/users/user1", None).await);
    assert_golden("white_add_one", room(&server, Method::POST, "/white/users/user1", None).await);
    assert_golden(
        "white_add",
        room(&server, Method::POST, "/white/users", Some(json!({"usernames": ["user3", "user2"]})))
            .await,
    );
    assert_golden("white_is", room(&server, Method::GET, "/white/users/user1", None).await);
    assert_golden("white_list", room(&server, Method::GET, "/white/users", None).await);
    assert_golden(
        "white_remove_one",
        room(&server, Method::DELETE, "/white/users/user1", None).await,
    );
    assert_golden(
        "white_remove",
        room(&server, Method::DELETE, "/white/users/user2%2Cuser3", None).await,
    );
    assert_eq!(data(&server, "/white/users").await, json!([]));
}

#[tokio::test]
async fn allowing_twice_or_disallowing_an_unlisted_user_is_no_error() {
    let server = Server::start().await;
    for users in [json!(["user1"]), json!(["user1", "user1", "USER1"]), json!("user1")] {
        let (status, body) =
            room(&server, Method::POST, "/white/users", Some(json!({"usernames": users}))).await;
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(data(&server, "/white/users").await, json!(["user1"]));
    for users in ["nobody", "user1,user1", "user1"] {
        let (status, body) =
            room(&server, Method::DELETE, &format!("/white/users/{users}"), None).await;
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(data(&server, "/white/users").await, json!([]));
}

#[tokio::test]
async fn a_user_may_query_its_own_mute_only() {
    let server = Server::start().await;
    mute(&server, json!(["user1"]), json!(60_000)).await;
    let path = |user: &str| format!("/sdk/chatrooms/{ROOM}/mute/{user}");
    assert_golden("sdk_muted", server.agora(Method::GET, &path("user1"), None).await);
    assert_golden("sdk_not_muted", server.agora(Method::GET, &path("user2"), None).await);
    let bearer = format!("Bearer {}", server.user_token(AGORA, "user1"));
    let query = |user: &str| {
        let path = format!("/easemob-demo/testapp{}", path(user));
        sent(server.rest(Method::GET, &path, &[("authorization", &bearer)]))
    };
    assert_eq!(query("user1").await.1["data"], true);
    assert_golden("error_sdk_of_another", query("user2").await);
    server.advance(60_000);
    assert_eq!(query("user1").await.1["data"], false);
}

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
        "/chatrooms/1/mute/",
        "/chatrooms/1/mute/a/b",
        "/%ff",
    ] {
        assert_golden("error_no_path", server.agora(Method::GET, path, None).await);
    }
    assert_golden("error_no_path", sent(server.rest(Method::GET, "/", &[])).await);
    assert_golden("error_no_path", sent(server.rest(Method::GET, "//", &[])).await);
    for (method, path) in [
        (Method::PUT, "/mute"),
        (Method::PATCH, "/ban"),
        (Method::POST, "/mute/user1"),
        (Method::OPTIONS, ""),
    ] {
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

async fn forwarded_uri(settings: Settings, headers: &[(&str, &str)]) -> String {
    let server = Server::with(settings).await;
    let bearer = format!("Bearer {}", server.agora_token());
    let headers = [headers, &[("authorization", &*bearer)]].concat();
    let (status, body) = sent(server.rest(
        Method::GET,
        &format!("/easemob-demo/testapp/chatrooms/{ROOM}/mute?x=y"),
        &headers,
    ))
    .await;
    assert_eq!(status, 200, "{body}");
    body["uri"].as_str().unwrap().replace(&server.addresses.rest.to_string(), "HOST")
}

#[tokio::test]
async fn forwarded_headers_are_used_from_trusted_proxies_only() {
    let proto = ("x-forwarded-proto", "https");
    let host = ("x-forwarded-host", "a1.example.com");
    let path = format!("/easemob-demo/testapp/chatrooms/{ROOM}/mute");
    for (settings, headers, expected) in [
        (unlimited(), vec![proto, host], "http://HOST"),
        (trusting_proxies_in("10.0.0.0/8"), vec![proto, host], "http://HOST"),
        (trusting_proxies_in("127.0.0.0/8"), vec![proto, host], "https://a1.example.com"),
        (trusting_proxies_in("127.0.0.1/32"), vec![proto], "https://HOST"),
        (trusting_proxies_in("127.0.0.1/32"), vec![host], "http://a1.example.com"),
        (trusting_proxies_in("127.0.0.1/32"), vec![], "http://HOST"),
        (unlimited(), vec![("host", "chat.example.com")], "http://chat.example.com"),
    ] {
        assert_eq!(
            forwarded_uri(settings, &headers).await,
            format!("{expected}{path}"),
            "{headers:?}"
        );
    }
}
