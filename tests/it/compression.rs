//! Compressed requests are inflated within the limits, and long answers are compressed for callers
//! that compress (gRPC) or accept it (REST).

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use prost::Message as _;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tonic::{Code, codec::CompressionEncoding, transport::Channel};

use crate::{
    harness::{OPEN, SERVICE, Server, with},
    process::Process,
};

const ENCODINGS: [(&str, CompressionEncoding); 2] =
    [("gzip", CompressionEncoding::Gzip), ("zstd", CompressionEncoding::Zstd)];

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(compressed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    GzDecoder::new(compressed).read_to_end(&mut text).unwrap();
    text
}

fn batch(users: usize) -> pb::BatchCheckSendRequest {
    let pair = |number| pb::RoomUser { room: "room".into(), user: format!("user{number}") };
    let pairs = (0..users).map(pair).collect();
    pb::BatchCheckSendRequest { app: OPEN.into(), pairs, ..Default::default() }
}

/// A client that compresses its messages.
async fn compressing(server: &Server, encoding: CompressionEncoding) -> MuteServiceClient<Channel> {
    server.mutes().await.send_compressed(encoding).accept_compressed(encoding)
}

#[tokio::test]
async fn long_responses_are_compressed_in_kind_and_short_ones_not() {
    let server = Server::start().await;
    for (name, encoding) in ENCODINGS {
        let mut mutes = compressing(&server, encoding).await;
        for (users, expected) in [(1, None), (1_000, Some(name))] {
            let response = mutes.batch_check_send(with(batch(users), &[SERVICE])).await.unwrap();
            let metadata = response.metadata().get("grpc-encoding");
            assert_eq!(metadata.map(|name| name.to_str().unwrap()), expected);
            assert_eq!(response.into_inner().results.len(), users);
        }
        // To one who compresses and does not say that it accepts that, and to one who only accepts.
        let sends = server.mutes().await.send_compressed(encoding);
        let accepts = server.mutes().await.accept_compressed(encoding);
        for mut mutes in [sends, accepts] {
            let response = mutes.batch_check_send(with(batch(1_000), &[SERVICE])).await.unwrap();
            assert!(response.metadata().get("grpc-encoding").is_none());
        }
    }
}

#[tokio::test]
async fn a_message_that_inflates_beyond_its_limit_is_refused() {
    let server = Server::start().await;
    let message = || pb::MuteMembersRequest {
        app: OPEN.into(),
        room: "room".into(),
        users: vec!["user".into()],
        reason: "x".repeat(4 << 20),
        ..Default::default()
    };
    for (_, encoding) in ENCODINGS {
        let mut mutes = compressing(&server, encoding).await;
        let refusal = mutes.mute_members(with(message(), &[SERVICE])).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    }
    assert!(server.check(OPEN, "room", "user").await.allowed);
}

#[tokio::test]
async fn an_unknown_encoding_is_unimplemented_and_told_what_is_known() {
    let server = Server::start().await;
    let request = with(batch(1), &[SERVICE, ("grpc-encoding", "snappy")]);
    let refusal = server.mutes().await.batch_check_send(request).await.unwrap_err();
    let accepted = refusal.metadata().get("grpc-accept-encoding").unwrap().to_str().unwrap();
    assert_eq!((refusal.code(), accepted), (Code::Unimplemented, "gzip,zstd,identity"));
    // A call that names its encoding need not compress its message.
    let request = with(batch(1), &[SERVICE, ("grpc-encoding", "gzip")]);
    server.mutes().await.batch_check_send(request).await.unwrap();
}

#[tokio::test]
async fn health_and_reflection_take_compressed_messages() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    let server = Server::start().await;
    for (_, encoding) in ENCODINGS {
        let mut health = HealthClient::new(server.channel().await).send_compressed(encoding);
        health.check(HealthCheckRequest::default()).await.unwrap();
        health.watch(HealthCheckRequest::default()).await.unwrap();
    }
}

/// A framed message, with its compression flag.
fn framed(is_compressed: bool, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[u8::from(is_compressed)], length.as_slice(), message].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_web_takes_and_sends_compressed_messages() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--grpc-web-origins", "*"];
    let process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
    let url = format!("http://{}/mute.v1.MuteService/BatchCheckSend", process.grpc());
    let answer = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/grpc-web+proto")
        .header(SERVICE.0, SERVICE.1)
        .header("grpc-encoding", "gzip")
        .header("grpc-accept-encoding", "gzip")
        .body(framed(true, &gzip(&batch(1_000).encode_to_vec())))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["grpc-encoding"], "gzip");
    let body = answer.bytes().await.unwrap();
    let (prefix, rest) = body.split_first_chunk::<5>().unwrap();
    let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
    let message = pb::BatchCheckSendResponse::decode(&*gunzip(&rest[..length])).unwrap();
    assert_eq!((prefix[0], message.results.len()), (1, 1_000));
}

fn rest(server: &Server, method: Method, path: &str) -> RequestBuilder {
    server.rest(method, &format!("/app-id/{OPEN}{path}"), &[SERVICE])
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

#[tokio::test]
async fn rest_takes_bodies_by_gzip_and_refuses_other_encodings() {
    let server = Server::start().await;
    let send = async |encoding: &str, body: Vec<u8>| {
        let request = rest(&server, Method::POST, "/chatrooms/room/mute");
        request.header("content-encoding", encoding).body(body).send().await.unwrap()
    };
    let body = json!({ "usernames": ["user"], "mute_duration": 60_000 }).to_string();
    let body = body.as_bytes();
    assert_eq!(send("gzip", gzip(body)).await.status(), 200);
    assert!(!server.check(OPEN, "room", "user").await.allowed);
    assert_eq!(send("identity", body.to_vec()).await.status(), 200);
    assert_eq!(send("gzip", gzip(&vec![b' '; 1 << 20])).await.status(), 413);
    assert_eq!(send("gzip", body.to_vec()).await.status(), 400);
    for encoding in ["br", "zstd", "deflate", "compress", "x-compress", "gzip, gzip", "utf-8, br"] {
        let answer = send(encoding, body.to_vec()).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "accept-encoding")),
            (415, Some("gzip")),
            "{encoding}"
        );
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"], "unsupported_media_type");
    }
    let request = server.rest(Method::POST, "/rooms", &[crate::harness::API_KEY]);
    let answer = request.header("content-encoding", "br").body("{}").send().await.unwrap();
    let error: Value = answer.json().await.unwrap();
    assert_eq!(
        (&error["RC"], &error["error"]["code"]),
        (&json!(415), &json!("UNSUPPORTED_MEDIA_TYPE"))
    );
}

#[tokio::test]
async fn a_content_encoding_that_compresses_nothing_is_ignored() {
    let server = Server::start().await;
    let body = json!({ "usernames": ["user"], "mute_duration": 60_000 }).to_string();
    for encoding in ["utf-8", "UTF-8", "none", "8bit", "7bit", "binary", "identity, utf-8"] {
        let request = rest(&server, Method::POST, "/chatrooms/room/mute");
        let request = request.header("content-encoding", encoding).body(body.clone());
        assert_eq!(request.send().await.unwrap().status(), 200, "{encoding}");
    }
    let request = rest(&server, Method::POST, "/chatrooms/room/mute");
    let request = request.header("content-encoding", "utf-8").header("content-encoding", "gzip");
    assert_eq!(request.body(gzip(body.as_bytes())).send().await.unwrap().status(), 200);
    // Nothing is compressed where there is no body.
    for (method, path) in [
        (Method::GET, "/chatrooms/room/mute"),
        (Method::DELETE, "/chatrooms/room/mute/user"),
        (Method::POST, "/chatrooms/room/ban"),
        (Method::DELETE, "/chatrooms/room/ban"),
    ] {
        for encoding in ["gzip", "br", "deflate", "utf-8"] {
            let request = rest(&server, method.clone(), path);
            let answer = request.header("content-encoding", encoding).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{method} {path} {encoding}");
        }
    }
}

#[tokio::test]
async fn rest_compresses_long_answers_where_that_is_accepted() {
    let server = Server::start().await;
    let users: Vec<_> = (0..100).map(|number| format!("user{number}")).collect();
    for room in ["long", "longer"] {
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        server.mute(OPEN, room, &users, None).await;
    }
    for number in 0..20 {
        let users: Vec<_> = (0..100).map(|other| format!("more{number}-{other}")).collect();
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        server.mute(OPEN, "longer", &users, None).await;
    }
    let list = async |room: &str, accept: &str| {
        let request = rest(&server, Method::GET, &format!("/chatrooms/{room}/mute"));
        request.header("accept-encoding", accept).send().await.unwrap()
    };
    // A whole answer, and one of several pages that is streamed.
    for (room, elements) in [("long", 100), ("longer", 2_100)] {
        let answer = list(room, "br, gzip").await;
        assert_eq!(
            (header(&answer, "content-encoding"), header(&answer, "vary")),
            (Some("gzip"), Some("accept-encoding"))
        );
        let compressed = answer.bytes().await.unwrap();
        let text = gunzip(&compressed);
        assert!(compressed.len() < text.len() / 2);
        let body: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(body["data"].as_array().unwrap().len(), elements);
        for accept in ["identity", "br", "gzip;q=0"] {
            let answer = list(room, accept).await;
            assert_eq!(header(&answer, "content-encoding"), None, "{accept}");
            assert_eq!(header(&answer, "vary"), Some("accept-encoding"), "{accept}");
        }
    }
    let short = list("empty", "gzip").await;
    assert_eq!([header(&short, "content-encoding"), header(&short, "vary")], [None; 2]);
}
