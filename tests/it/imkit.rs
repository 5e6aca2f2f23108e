//! The IMKit REST paths, as their documents describe them. Complete answers are in
//! `tests/golden/imkit`.

use futures_util::future::join_all;
use jsonwebtoken::{EncodingKey, Header};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    agora::{golden, limited, refusal, trusting_proxies_in},
    harness::*,
};

mod refusals;

const ME: &str = "1485248560558";
const USER_AGENT: (&str, &str) =
    ("user-agent", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_6) AppleWebKit/537.36");

fn assert_golden(name: &str, (status, body): (u16, Value)) {
    golden("imkit", name, status, body);
}

/// Like [`assert_golden`], for an answer that shows the caller's port.
fn assert_golden_of_me(name: &str, (status, mut body): (u16, Value)) {
    let port = &mut body["result"]["address"]["port"];
    assert!(port.is_u64(), "{port}");
    *port = json!("PORT");
    assert_golden(name, (status, body));
}

async fn mute(server: &Server, path: &str) -> (u16, Value) {
    server.imkit(Method::POST, &format!("/admin/clients/{path}"), None).await
}

async fn unmute(server: &Server, path: &str) -> (u16, Value) {
    server.imkit(Method::DELETE, &format!("/admin/clients/{path}"), None).await
}

async fn client(server: &Server, id: &str) -> Value {
    let (status, mut body) = server.imkit(Method::GET, &format!("/admin/clients/{id}"), None).await;
    assert_eq!(status, 200, "{body}");
    body["result"].take()
}

async fn upsert(server: &Server, client: Value) -> (u16, Value) {
    server.imkit(Method::POST, "/admin/clients", Some(client)).await
}

async fn create_room(server: &Server, id: &str) {
    assert_eq!(server.imkit(Method::POST, "/rooms", Some(json!({"_id": id}))).await.0, 200);
}

/// A request to a `/me` path with this token.
fn me_request(server: &Server, method: Method, path: &str, token: &str) -> RequestBuilder {
    server.rest(method, path, &[CLIENT_KEY, ("IM-Authorization", token), USER_AGENT])
}

async fn as_me(server: &Server, method: Method, path: &str) -> (u16, Value) {
    sent(me_request(server, method, path, &server.user_token(IMKIT, ME))).await
}

/// A token as the app's own back end would sign it.
fn signed(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .unwrap()
}

/// Every path of an admin, with a body where it takes one.
const ADMIN_PATHS: [(Method, &str, &str); 7] = [
    (Method::POST, "/admin/clients/aaa/mute/demo", ""),
    (Method::DELETE, "/admin/clients/aaa/mute/demo", ""),
    (Method::POST, "/admin/clients", r#"{"_id":"new"}"#),
    (Method::GET, "/admin/clients", ""),
    (Method::GET, "/admin/clients/aaa", ""),
    (Method::DELETE, "/admin/clients/aaa", ""),
    (Method::POST, "/rooms", r#"{"_id":"new"}"#),
];

/// Every path of a user.
const OWN_PATHS: [(Method, &str); 3] =
    [(Method::POST, "/me/mute/demo"), (Method::DELETE, "/me/mute/demo"), (Method::GET, "/me")];

#[tokio::test]
async fn the_documented_unmute_of_a_client_is_answered_as_documented() {
    let server = Server::start().await;
    assert_golden("admin_mute", mute(&server, "aaa/mute/demo").await);
    assert_golden("admin_unmute", unmute(&server, "aaa/mute/demo").await);
}

#[tokio::test]
async fn the_documented_unmute_of_oneself_is_answered_as_documented() {
    let server = Server::start().await;
    assert_golden_of_me("me_mute", as_me(&server, Method::POST, "/me/mute/demo-room").await);
    assert_golden_of_me("me_get", as_me(&server, Method::GET, "/me").await);
    assert_golden_of_me("me_unmute", as_me(&server, Method::DELETE, "/me/mute/demo-room").await);
}

#[tokio::test]
async fn an_admin_mutes_twice_without_an_error_and_unmutes_once() {
    let server = Server::start().await;
    for _ in 0..2 {
        let (status, body) = mute(&server, "aaa/mute/demo").await;
        assert_eq!((status, &body["result"]["mute"]), (200, &json!(["demo"])));
    }
    assert_eq!(unmute(&server, "aaa/mute/demo").await.1["result"]["mute"], json!([]));
    assert_golden("error_not_muted", unmute(&server, "aaa/mute/demo").await);
}

#[tokio::test]
async fn a_user_may_unmute_a_room_that_is_not_muted() {
    let server = Server::start().await;
    for _ in 0..2 {
        assert_eq!(
            as_me(&server, Method::POST, "/me/mute/demo").await.1["result"]["mute"],
            json!(["demo"])
        );
    }
    for _ in 0..2 {
        let (status, body) = as_me(&server, Method::DELETE, "/me/mute/demo").await;
        assert_eq!((status, &body["result"]["mute"]), (200, &json!([])));
    }
}

#[tokio::test]
async fn admins_and_users_see_and_undo_each_others_mutes() {
    let server = Server::start().await;
    mute(&server, &format!("{ME}/mute/demo")).await;
    assert_eq!(as_me(&server, Method::GET, "/me").await.1["result"]["mute"], json!(["demo"]));
    as_me(&server, Method::DELETE, "/me/mute/demo").await;
    as_me(&server, Method::POST, "/me/mute/demo-room").await;
    assert_eq!(client(&server, ME).await["mute"], json!(["demo-room"]));
    assert_eq!(client(&server, "aaa").await["mute"], json!([]));
}

#[tokio::test]
async fn muted_rooms_are_in_the_order_of_muting() {
    let server = Server::start().await;
    for room in ["z", "a", "m"] {
        create_room(&server, room).await;
        mute(&server, &format!("aaa/mute/{room}")).await;
    }
    assert_eq!(client(&server, "aaa").await["mute"], json!(["z", "a", "m"]));
    mute(&server, "aaa/mute/z").await;
    assert_eq!(client(&server, "aaa").await["mute"], json!(["z", "a", "m"]));
    unmute(&server, "aaa/mute/z").await;
    mute(&server, "aaa/mute/z").await;
    assert_eq!(client(&server, "aaa").await["mute"], json!(["a", "m", "z"]));
}

#[tokio::test]
async fn updated_at_changes_with_each_mute_and_unmute() {
    let server = Server::start().await;
    let updated_at = async || client(&server, "aaa").await["updatedAt"].take();
    assert_eq!(updated_at().await, "2022-01-13T07:59:10.410Z");
    server.advance(590);
    assert_eq!(
        mute(&server, "aaa/mute/demo").await.1["result"]["updatedAt"],
        "2022-01-13T07:59:11.000Z"
    );
    assert_eq!(updated_at().await, "2022-01-13T07:59:11.000Z");
    server.advance(1_001);
    assert_eq!(
        unmute(&server, "aaa/mute/demo").await.1["result"]["updatedAt"],
        "2022-01-13T07:59:12.001Z"
    );
    server.advance(1_000);
    unmute(&server, "aaa/mute/demo").await;
    assert_eq!(updated_at().await, "2022-01-13T07:59:12.001Z");
}

#[tokio::test]
async fn unknown_query_parameters_are_ignored() {
    let server = Server::start().await;
    assert_eq!(mute(&server, "aaa/mute/demo?limit=1&skip=5").await.0, 200);
    assert_eq!(unmute(&server, "aaa/mute/demo?limit=0&skip=x").await.0, 200);
    assert_eq!(as_me(&server, Method::GET, "/me?limit=1").await.0, 200);
}

#[tokio::test]
async fn a_client_is_created_as_given_with_custom_fields() {
    let server = Server::start().await;
    let new = json!({
        "_id": "new", "nickname": "N", "avatarUrl": "http://example.com/a", "description": "d", "email": "e@example.com",
        "isRobot": true, "level": 7, "tags": ["a", {"b": null}],
    });
    assert_golden("create_client", upsert(&server, new).await);
    assert_golden("create_client", server.imkit(Method::GET, "/admin/clients/new", None).await);
    assert_golden("create_client_bare", upsert(&server, json!({"_id": "bare"})).await);
}

#[tokio::test]
async fn a_partial_update_keeps_the_other_fields_and_the_mutes() {
    let server = Server::start().await;
    mute(&server, "aaa/mute/demo").await;
    upsert(&server, json!({"_id": "aaa", "level": 7, "kept": "k"})).await;
    server.advance(1_000);
    assert_golden(
        "update_client",
        upsert(&server, json!({"_id": "aaa", "nickname": "BBB", "level": 8})).await,
    );
    let (_, body) = upsert(&server, json!({"_id": "aaa", "level": null})).await;
    assert_eq!((body["result"].get("level"), &body["result"]["kept"]), (None, &json!("k")));
}

#[tokio::test]
async fn fields_that_the_service_owns_cannot_be_set() {
    let server = Server::start().await;
    let forged = json!({
        "_id": "new", "id": "other", "appID": "other", "__v": 9, "mute": ["demo"], "updatedAt": "x", "token": "t",
        "expirationDate": "x", "lastLoginTimeMS": 1, "address": {"address": "x"}, "userAgent": "x",
    });
    let (status, body) = upsert(&server, forged).await;
    let expected = json!({
        "_id": "new", "id": "new", "appID": "SampleApp", "__v": 0, "mute": [], "updatedAt": "2022-01-13T07:59:10.410Z",
    });
    assert_eq!((status, &body["result"]), (200, &expected));
}

#[tokio::test]
async fn an_admin_issues_a_token_that_is_valid_until_its_date() {
    let server = Server::start().await;
    let (status, body) =
        upsert(&server, json!({"_id": "new", "nickname": "N", "issueAccessToken": true})).await;
    let token = body["result"]["token"].as_str().unwrap().to_owned();
    assert_golden("issue_token", (status, body));
    let (status, me) = sent(me_request(&server, Method::GET, "/me", &token)).await;
    assert_eq!((status, &me["result"]["_id"]), (200, &json!("new")));
    assert_eq!(sent(me_request(&server, Method::POST, "/me/mute/demo", &token)).await.0, 200);
    server.advance(604_800_000);
    assert_golden("error_token", sent(me_request(&server, Method::GET, "/me", &token)).await);
    let (_, body) = upsert(&server, json!({"_id": "new", "issueAccessToken": false})).await;
    assert_eq!((body["result"].get("token"), body["result"].get("expirationDate")), (None, None));
}

#[tokio::test]
async fn clients_are_listed_50_at_a_time_and_at_most_100() {
    let server = Server::start().await;
    assert_golden("list_clients", server.imkit(Method::GET, "/admin/clients", None).await);
    join_all((0..101).map(|number| upsert(&server, json!({"_id": format!("n{number:03}")})))).await;
    for (query, expected) in [
        ("", 50),
        ("?limit=7", 7),
        ("?limit=100", 100),
        ("?limit=101", 100),
        ("?limit=99999999999", 50),
        ("?limit=0", 50),
        ("?limit=-1&skip=-1", 50),
        ("?limit=x&skip=y", 50),
        ("?limit=100&skip=100", 3),
        ("?skip=103", 0),
        ("?skip=2147483647", 0),
    ] {
        let (status, body) =
            server.imkit(Method::GET, &format!("/admin/clients{query}"), None).await;
        assert_eq!((status, &body["result"]["totalCount"]), (200, &json!(103)), "{query}");
        assert_eq!(body["result"]["data"].as_array().unwrap().len(), expected, "{query}");
    }
}

#[tokio::test]
async fn pages_of_clients_do_not_overlap() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for skip in 0..3 {
        let (_, body) =
            server.imkit(Method::GET, &format!("/admin/clients?limit=1&skip={skip}"), None).await;
        ids.extend(
            body["result"]["data"].as_array().unwrap().iter().map(|client| client["_id"].clone()),
        );
    }
    assert_eq!(ids, [ME, "aaa"]);
}

#[tokio::test]
async fn deleting_a_client_returns_it_and_ends_its_room_mutes() {
    let server = Server::start().await;
    assert_golden("get_client", server.imkit(Method::GET, "/admin/clients/aaa", None).await);
    mute(&server, "aaa/mute/demo").await;
    assert_golden("delete_client", server.imkit(Method::DELETE, "/admin/clients/aaa", None).await);
    assert_golden("error_client", server.imkit(Method::DELETE, "/admin/clients/aaa", None).await);
    assert_golden("error_client", server.imkit(Method::GET, "/admin/clients/aaa", None).await);
    upsert(&server, json!({"_id": "aaa"})).await;
    assert_eq!(client(&server, "aaa").await["mute"], json!([]));
}

#[tokio::test]
async fn a_room_can_be_created_updated_and_then_muted() {
    let server = Server::start().await;
    let room = json!({"_id": "new", "name": "N", "description": "d", "members": ["aaa"]});
    assert_golden("create_room", server.imkit(Method::POST, "/rooms", Some(room)).await);
    let (status, body) =
        server.imkit(Method::POST, "/rooms", Some(json!({"_id": "new", "name": "M"}))).await;
    assert_eq!(
        (status, &body["result"]["name"], &body["result"]["description"]),
        (200, &json!("M"), &json!("d"))
    );
    assert_eq!(mute(&server, "aaa/mute/new").await.1["result"]["mute"], json!(["new"]));
}

#[tokio::test]
async fn a_back_ends_token_names_its_user_in_id_or_sub() {
    let server = Server::start().await;
    let exp = START_MS / 1_000 + 60;
    for claims in [json!({"id": ME, "exp": exp}), json!({"sub": ME, "exp": exp, "iat": 1})] {
        let token = signed(&claims, "dev-token-secret of SampleApp");
        for token in [token.clone(), format!("Bearer {token}"), format!("bearer {token}")] {
            let (status, body) = sent(me_request(&server, Method::GET, "/me", &token)).await;
            assert_eq!((status, &body["result"]["_id"]), (200, &json!(ME)), "{claims}");
        }
    }
}

#[tokio::test]
async fn ids_may_be_percent_encoded_and_hold_a_slash_or_any_utf_8() {
    let server = Server::start().await;
    for (id, encoded) in [
        ("a/b", "a%2Fb"),
        ("ü 漢", "%C3%BC%20%E6%BC%A2"),
        ("a%2Fb", "a%252Fb"),
        ("x?y#z", "x%3Fy%23z"),
    ] {
        upsert(&server, json!({"_id": id})).await;
        create_room(&server, id).await;
        let (status, body) = mute(&server, &format!("{encoded}/mute/{encoded}")).await;
        assert_eq!(
            (status, &body["result"]["_id"], &body["result"]["mute"]),
            (200, &json!(id), &json!([id]))
        );
        let (status, body) = server.me(Method::DELETE, &format!("/me/mute/{encoded}"), id).await;
        assert_eq!(
            (status, &body["result"]["_id"], &body["result"]["mute"]),
            (200, &json!(id), &json!([]))
        );
        assert_eq!(client(&server, encoded).await["id"], id);
        assert_eq!(
            server.imkit(Method::DELETE, &format!("/admin/clients/{encoded}"), None).await.0,
            200
        );
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_sets_the_address_a_user_is_shown() {
    let headers = [CLIENT_KEY, ("x-forwarded-for", "203.0.113.9, 2001:db8::7")];
    for (settings, expected) in [
        (unlimited(), "127.0.0.1"),
        (trusting_proxies_in("10.0.0.0/8"), "127.0.0.1"),
        (trusting_proxies_in("127.0.0.0/8"), "2001:db8::7"),
    ] {
        let server = Server::with(settings).await;
        let token = server.user_token(IMKIT, ME);
        let (_, body) =
            sent(server.rest(Method::GET, "/me", &headers).header("IM-Authorization", token)).await;
        let address = &body["result"]["address"];
        let is_v6 = expected.contains(':');
        assert_eq!((&address["address"], address.get("port").is_none()), (&json!(expected), is_v6));
        assert_eq!(address["family"], if is_v6 { "IPv6" } else { "IPv4" });
    }
}
