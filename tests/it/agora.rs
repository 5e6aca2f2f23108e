//! The Agora and Easemob REST paths, as their documents and SDKs describe them. Complete answers
//! are in `tests/golden/agora`.

use std::{env, fs, path::Path, time::Duration};

use futures_util::future::join_all;
use mute_service::{config::Settings, proto::v1 as pb};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::*;

mod bodies;
mod directory;
mod limits;
mod refusals;

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
    let standard = ("forwarded", "for=\"[2001:db8::7]:4711\";proto=https;host=\"a1.example.com\"");
    let path = format!("/easemob-demo/testapp/chatrooms/{ROOM}/mute");
    for (settings, headers, expected) in [
        (unlimited(), vec![proto, host], "http://HOST"),
        (trusting_proxies_in("10.0.0.0/8"), vec![proto, host], "http://HOST"),
        (trusting_proxies_in("127.0.0.0/8"), vec![proto, host], "https://a1.example.com"),
        (trusting_proxies_in("127.0.0.1/32"), vec![proto], "https://HOST"),
        (trusting_proxies_in("127.0.0.1/32"), vec![host], "http://a1.example.com"),
        (trusting_proxies_in("127.0.0.1/32"), vec![], "http://HOST"),
        (trusting_proxies_in("127.0.0.1/32"), vec![("x-forwarded-host", "")], "http://HOST"),
        (trusting_proxies_in("127.0.0.1/32"), vec![("forwarded", "host=\"\"")], "http://HOST"),
        (trusting_proxies_in("127.0.0.1/32"), vec![("x-forwarded-proto", "HTTPS")], "https://HOST"),
        (trusting_proxies_in("127.0.0.1/32"), vec![("x-forwarded-proto", "gopher")], "http://HOST"),
        (trusting_proxies_in("127.0.0.1/32"), vec![standard], "https://a1.example.com"),
        (
            trusting_proxies_in("127.0.0.1/32"),
            vec![("forwarded", "for=203.0.113.9;Proto=HTTPS, for=10.0.0.1;proto=http")],
            "https://HOST",
        ),
        (unlimited(), vec![standard], "http://HOST"),
        (unlimited(), vec![("host", "chat.example.com")], "http://chat.example.com"),
    ] {
        assert_eq!(
            forwarded_uri(settings, &headers).await,
            format!("{expected}{path}"),
            "{headers:?}"
        );
    }
}
