//! Calls from web pages of allowed origins: grpc-web over HTTP/1.1, and REST.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use mute_service::{config::Settings, proto::v1 as pb};
use prost::Message;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;

use crate::{
    agora::limited,
    connections::{metrics, occupied},
    harness::{SERVICE, Server, unlimited},
    process::{Process, mute},
};

const PAGE: &str = "https://console.example";

/// A message as gRPC frames it.
fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &bytes].concat()
}

/// The frames of a body: the message, if there is one, and the trailers.
fn frames(mut body: &[u8]) -> (Option<Vec<u8>>, String) {
    let mut message = None;
    loop {
        let (head, rest) = body.split_at(5);
        let (frame, rest) =
            rest.split_at(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize);
        if head[0] & 0x80 != 0 {
            assert!(rest.is_empty(), "bytes after the trailers");
            return (message, String::from_utf8(frame.to_vec()).unwrap());
        }
        (message, body) = (Some(frame.to_vec()), rest);
    }
}

async fn check(process: &Process, origin: &str, kind: &str, body: Vec<u8>) -> Response {
    let url = format!("http://{}/mute.v1.MuteService/CheckSend", process.grpc());
    let request = Client::new().post(url).header("content-type", kind).header("accept", kind);
    let request =
        request.header("origin", origin).header("x-grpc-web", "1").header(SERVICE.0, SERVICE.1);
    request.body(body).send().await.unwrap()
}

fn check_request() -> pb::CheckSendRequest {
    pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pages_of_configured_origins_may_read_answers() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--grpc-web-origins", "https://console.example,http://localhost:3000"];
    let process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
    // The same port still serves gRPC.
    mute(&mut process.mutes().await, "room", vec!["u".to_owned()]).await.unwrap();

    let answer =
        check(&process, PAGE, "application/grpc-web+proto", framed(&check_request())).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "access-control-allow-origin")),
        (200, Some(PAGE))
    );
    let (message, trailers) = frames(&answer.bytes().await.unwrap());
    let checked = pb::CheckSendResponse::decode(&*message.unwrap()).unwrap();
    assert!(!checked.allowed && checked.actor == "service:dev", "{checked:?}");
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    // As text, for browsers that cannot stream bytes.
    let answer = check(
        &process,
        PAGE,
        "application/grpc-web-text",
        BASE64.encode(framed(&check_request())).into(),
    )
    .await;
    // Each chunk has its own padding.
    let body: Vec<_> = answer
        .bytes()
        .await
        .unwrap()
        .chunks(4)
        .flat_map(|four| BASE64.decode(four).unwrap())
        .collect();
    assert!(frames(&body).0.is_some());
    // An error can be read too.
    let unknown = pb::CheckSendRequest { app: "None".into(), ..check_request() };
    let answer = check(&process, PAGE, "application/grpc-web+proto", framed(&unknown)).await;
    assert_eq!(header(&answer, "grpc-status"), Some("5"));
    assert!(
        header(&answer, "access-control-expose-headers")
            .unwrap()
            .contains("grpc-status-details-bin")
    );

    let url = format!("http://{}/mute.v1.MuteService/CheckSend", process.grpc());
    let preflight = async |origin: &str| {
        let request = Client::new().request(Method::OPTIONS, &url).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request
            .header("access-control-request-headers", "authorization,content-type,x-grpc-web")
            .send()
            .await
            .unwrap()
    };
    let answer = preflight(PAGE).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "access-control-allow-origin")),
        (200, Some(PAGE))
    );
    assert!(header(&answer, "access-control-allow-headers").unwrap().contains("authorization"));
    for other in ["https://evil.example", "http://console.example", "null"] {
        assert_eq!(header(&preflight(other).await, "access-control-allow-origin"), None, "{other}");
        let answer =
            check(&process, other, "application/grpc-web+proto", framed(&check_request())).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), None, "{other}");
    }
    // Other requests are refused immediately.
    assert_eq!(Client::new().get(&url).send().await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_configured_origins_no_page_may_call() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let url = format!("http://{}/mute.v1.MuteService/CheckSend", process.grpc());
    assert!(
        Client::new()
            .post(url)
            .header("content-type", "application/grpc-web")
            .send()
            .await
            .is_err()
    );
}

const LIST: &str = "/easemob-demo/testapp/chatrooms/1265710621211/mute";

fn for_page(settings: Settings) -> Settings {
    Settings { rest_origins: Some(vec![PAGE.parse().unwrap()]), ..settings }
}

/// Whether this page may read the answer, and no cache gives it to another.
fn is_for_page(answer: &Response) -> bool {
    header(answer, "access-control-allow-origin") == Some(PAGE)
        && header(answer, "access-control-expose-headers") == Some("*")
        && header(answer, "vary").is_some_and(|vary| vary.contains("origin"))
}

#[tokio::test]
async fn a_page_may_read_every_answer_of_rest_and_errors_too() {
    let server = Server::with(for_page(limited())).await;
    let token = format!("Bearer {}", server.agora_token());
    let call = async |method, path: &str, token: &str, body: String| {
        let request = server.rest(method, path, &[("origin", PAGE), ("authorization", token)]);
        request.body(body).send().await.unwrap()
    };
    for (status, method, path, token, body) in [
        (200, Method::GET, LIST, &*token, 0),
        (401, Method::GET, LIST, "Bearer none", 0),
        (404, Method::GET, "/nowhere", &token, 0),
        (405, Method::PATCH, LIST, &token, 0),
        (413, Method::POST, LIST, &token, 65 << 10),
    ] {
        let answer = call(method, path, token, "x".repeat(body)).await;
        assert_eq!((answer.status().as_u16(), is_for_page(&answer)), (status, true), "{path}");
    }
    for _ in 1..100 {
        call(Method::GET, LIST, &token, String::new()).await;
    }
    let answer = call(Method::GET, LIST, &token, String::new()).await;
    assert_eq!((answer.status().as_u16(), is_for_page(&answer)), (429, true));
    assert_eq!(header(&answer, "retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_read_that_the_service_is_overloaded() {
    let (process, _directory, _waiting) =
        occupied(&["--max-calls", "1", "--rest-origins", PAGE]).await;
    let request = Client::new().get(format!("{}/app-id/Open/mutes", process.rest()));
    let answer = request.header("origin", PAGE).header(SERVICE.0, SERVICE.1).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), is_for_page(&answer)), (503, true));
}

/// A preflight of a DELETE with a token, without the token.
async fn preflight(rest: &str, origin: &str) -> Response {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "authorization"),
    ];
    let request = Client::new().request(Method::OPTIONS, format!("{rest}{LIST}"));
    let with_header = |request: RequestBuilder, (name, value)| request.header(name, value);
    headers.into_iter().fold(request, with_header).send().await.unwrap()
}

fn allowed_origin(answer: &Response) -> Option<&str> {
    header(answer, "access-control-allow-origin")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_of_rest_needs_no_token_and_is_no_call() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--rest-origins", PAGE];
    let process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
    let rest = process.rest();
    let answer = preflight(&rest, PAGE).await;
    assert_eq!((answer.status().as_u16(), allowed_origin(&answer)), (200, Some(PAGE)));
    assert_eq!(header(&answer, "access-control-allow-methods"), Some("DELETE"));
    assert_eq!(header(&answer, "access-control-allow-headers"), Some("authorization"));
    assert!(header(&answer, "vary").unwrap().contains("origin"));
    for other in ["https://evil.example", "http://console.example", "http://localhost:1", "null"] {
        assert_eq!(allowed_origin(&preflight(&rest, other).await), None, "{other}");
    }
    let counted = "rest_handled_total{";
    assert!(!metrics(&process).await.contains(counted));
    Client::new().get(format!("{rest}{LIST}")).send().await.unwrap();
    assert!(metrics(&process).await.contains(counted));
}

#[tokio::test]
async fn an_options_request_that_is_no_preflight_is_a_call() {
    let server = Server::with(for_page(limited())).await;
    let asks = ("access-control-request-method", "GET");
    for (path, status) in [(LIST, 405), ("/nowhere", 404), ("/admin/clients", 405)] {
        for headers in [vec![], vec![asks], vec![("origin", PAGE)], vec![("origin", "null")]] {
            let answer = server.rest(Method::OPTIONS, path, &headers).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path} {headers:?}");
            assert_eq!(is_for_page(&answer), headers.contains(&("origin", PAGE)), "{path}");
            assert!(answer.json::<Value>().await.unwrap().is_object());
        }
    }
    let headers = [("origin", PAGE), asks];
    let preflight = server.rest(Method::OPTIONS, "/nowhere", &headers).send().await.unwrap();
    assert_eq!((preflight.status().as_u16(), allowed_origin(&preflight)), (200, Some(PAGE)));
}

#[tokio::test]
async fn an_asterisk_lets_every_page_call() {
    let every = Settings { rest_origins: Some(vec!["*".parse().unwrap()]), ..unlimited() };
    let server = Server::with(every).await;
    let rest = format!("http://{}", server.addresses.rest);
    assert_eq!(allowed_origin(&preflight(&rest, "https://any.example").await), Some("*"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_dev_mode_pages_of_this_machine_may_call() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::dev(directory.path());
    for (origin, may) in [("http://localhost:3000", true), (PAGE, false), ("null", false)] {
        let expected = may.then_some(origin);
        let answer = preflight(&process.rest(), origin).await;
        assert_eq!(allowed_origin(&answer), expected, "{origin}");
        let url = format!("http://{}/mute.v1.MuteService/CheckSend", process.grpc());
        let request = Client::new().request(Method::OPTIONS, url).header("origin", origin);
        let answer = request.send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), allowed_origin(&answer)),
            (400, expected),
            "{origin}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_configured_origins_rest_names_no_page() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let request = Client::new().request(Method::OPTIONS, format!("{}{LIST}", process.rest()));
    let answer = request.header("origin", "http://localhost:3000").send().await.unwrap();
    assert_eq!(answer.status(), 405);
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
}
