//! Messages that are too large: RESOURCE_EXHAUSTED with a reason of their own at every door.

use axum::body::Body;
use http::{HeaderMap, Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mute_service::{config::Settings, proto::v1 as pb};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    harness::{AGORA, ROOM, SERVICE, Server, reason, sent, unlimited},
    hostile::framed,
};

/// The code and the reason in the head of an answer.
fn refusal(head: &HeaderMap) -> (Code, String) {
    let status = Status::from_header_map(head).unwrap();
    (status.code(), reason(&status))
}

#[tokio::test]
async fn a_message_that_is_too_large_has_a_reason_of_its_own() {
    let server = Server::start().await;
    let stream = TcpStream::connect(server.addresses.grpc).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    // Its length says five megabytes, and few bytes follow.
    let cut_off = [&[0][..], &(5_u32 << 20).to_be_bytes(), &[0; 100]].concat();
    for (method, message) in [
        ("mute.v1.MuteService/MuteMembers", framed(&vec![0; 200 << 10])),
        ("mute.v1.MuteService/MuteMembers", cut_off.clone()),
        ("mute.v1.MuteService/BatchCheckSend", framed(&vec![0; 600 << 10])),
        ("mute.v1.MuteService/Watch", framed(&vec![0; 200 << 10])),
        ("mute.v1.TokenService/IssueToken", framed(&vec![0; 5 << 10])),
        ("grpc.health.v1.Health/Check", framed(&vec![0; 5 << 10])),
        ("grpc.health.v1.Health/Watch", framed(&vec![0; 5 << 10])),
    ] {
        let request = Request::post(format!("http://{}/{method}", server.addresses.grpc))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header(SERVICE.0, SERVICE.1)
            .body(Body::from(message))
            .unwrap();
        let answer = client.send_request(request).await.unwrap();
        let expected = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned());
        assert_eq!(refusal(answer.headers()), expected, "{method}");
    }
}

#[tokio::test]
async fn web_pages_and_rest_callers_learn_that_it_is_too_large() {
    let origins = Some(vec!["*".parse().unwrap()]);
    let server = Server::with(Settings { grpc_web_origins: origins, ..unlimited() }).await;
    let answer = server
        .http
        .post(format!("http://{}/mute.v1.MuteService/MuteMembers", server.addresses.grpc))
        .header("content-type", "application/grpc-web+proto")
        .header(SERVICE.0, SERVICE.1)
        .body(framed(&vec![0; 200 << 10]))
        .send()
        .await
        .unwrap();
    let expected = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned());
    assert_eq!(refusal(answer.headers()), expected);
    let token = format!("Bearer {}", server.agora_token());
    let path = format!("/easemob-demo/testapp/chatrooms/{ROOM}/mute");
    let request = server.rest(Method::POST, &path, &[("authorization", &token)]);
    let (status, body) = sent(request.body("x".repeat(65 << 10))).await;
    assert_eq!((status, body["error"].as_str()), (413, Some("payload_too_large")));
}

#[tokio::test]
async fn a_rate_limit_and_a_size_have_one_code_and_two_reasons() {
    let server = Server::with(Settings { rate_limit: Some(1), ..unlimited() }).await;
    let list = || {
        let message = pb::ListRoomsRequest { app: AGORA.into(), ..Default::default() };
        server.as_admin(AGORA, message)
    };
    let mut directory = server.directory().await;
    directory.list_rooms(list()).await.unwrap();
    let limited = directory.list_rooms(list()).await.unwrap_err();
    let room = "x".repeat(200 << 10);
    let message = pb::MuteMembersRequest { room, ..Default::default() };
    let mut mutes = server.mutes().await;
    let too_large = mutes.mute_members(server.as_admin(AGORA, message)).await.unwrap_err();
    assert_eq!((limited.code(), too_large.code()), (Code::ResourceExhausted, limited.code()));
    let reasons = [&limited, &too_large].map(reason);
    assert_eq!(reasons, ["RATE_LIMITED", "MESSAGE_TOO_LARGE"]);
    let wait = |status: &Status| status.get_details_retry_info();
    assert!(wait(&limited).is_some() && wait(&too_large).is_none(), "a repeat is as large");
}
