//! grpc-web: calls from web pages of allowed origins, over HTTP/1.1.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use mute_service::proto::v1 as pb;
use prost::Message;
use reqwest::{Client, Method, Response};

use crate::{
    harness::SERVICE,
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
