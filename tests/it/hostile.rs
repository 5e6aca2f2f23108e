//! Callers that try to deny the service to others, on the real process. Each has an address of its
//! own, 127.0.0.X.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use futures_util::{FutureExt as _, StreamExt as _, future::join_all, stream};
use http::Request;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mute_service::proto::v1 as pb;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use crate::{
    harness::{SERVICE, with},
    process::{Process, run, text},
};

/// The client secret of the app.
const SECRET: &str = "a secret of sixteen";
const APP: &str = r#"
[[apps]]
key = "some#app"
token_secret = "another secret of sixteen"
client_id = "client"
client_secret_hash = ""#;

pub fn start(arguments: &[&str]) -> (Process, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let app = format!("{APP}{}\"\n", text(&run(&["hash-key", SECRET]).stdout).trim());
    (Process::spawn_with(directory.path(), directory.path(), arguments, &app).ready(), directory)
}

/// Connects from the address 127.0.0.X.
pub async fn connect_from(from: u8, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, from], 0).into()).unwrap();
    socket.connect(to.parse().unwrap()).await.unwrap()
}

async fn http2(stream: TcpStream) -> SendRequest<Body> {
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    client
}

/// A connection that does not read answers: it accepts only what the smallest windows allow.
pub async fn reading_nothing(
    from: u8,
    to: &str,
) -> hyper::Result<(SendRequest<Body>, JoinHandle<hyper::Result<()>>)> {
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(2_048).initial_connection_window_size(65_535);
    let (client, connection) =
        builder.handshake(TokioIo::new(connect_from(from, to).await)).await?;
    Ok((client, tokio::spawn(connection)))
}

/// The bytes that the service holds for callers.
async fn held_bytes(process: &Process) -> u64 {
    let metrics =
        reqwest::get(format!("{}/metrics", process.admin())).await.unwrap().text().await.unwrap();
    metrics
        .lines()
        .find_map(|line| line.strip_prefix("mute_held{what=\"byte\"} "))
        .unwrap()
        .parse()
        .unwrap()
}

pub fn call(to: &str, method: &str, token: &str) -> http::request::Builder {
    let request = Request::post(format!("http://{to}/mute.v1.MuteService/{method}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    if token.is_empty() { request } else { request.header("authorization", token) }
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

/// A hundred checks of a service, one after the other. Returns how many were refused, and the
/// longest latency.
async fn checks(process: &Process) -> (usize, Duration) {
    let mut mutes = process.mutes().await;
    let mut refused = 0;
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let started = Instant::now();
        let check = pb::CheckSendRequest {
            app: "Open".into(),
            room: "room".into(),
            user: "u".into(),
            min_revision: 0,
        };
        refused += usize::from(mutes.check_send(with(check, &[SERVICE])).await.is_err());
        longest = longest.max(started.elapsed());
    }
    (refused, longest)
}

/// Sends `count` messages of `bytes` bytes, each without its last ten, over a connection from each
/// of these addresses.
async fn send_incomplete(
    process: &Process,
    from: &[u8],
    count: usize,
    bytes: usize,
) -> Vec<JoinHandle<()>> {
    let message = framed(&vec![0; bytes]);
    let mut tasks = Vec::new();
    for from in from {
        let mut client = http2(connect_from(*from, process.grpc()).await).await;
        for _ in 0..count {
            let incomplete = Bytes::from(message[..message.len() - 10].to_vec());
            let body = stream::iter([Ok::<_, std::io::Error>(incomplete)]).chain(stream::pending());
            client.ready().await.unwrap();
            let request = call(process.grpc(), "FilterRecipients", SERVICE.1)
                .body(Body::from_stream(body))
                .unwrap();
            tasks.push(tokio::spawn(client.send_request(request).map(drop)));
        }
        tasks.push(tokio::spawn(async move {
            let _client = client;
            std::future::pending().await
        }));
    }
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_a_message_take_no_call_slot() {
    let (process, _directory) = start(&["--max-calls", "200"]);
    for token in ["", SERVICE.1] {
        let mut calls = Vec::new();
        for _ in 0..4 {
            let mut client = http2(connect_from(2, process.grpc()).await).await;
            for _ in 0..200 {
                let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
                client.ready().await.unwrap();
                let answer = client
                    .send_request(call(process.grpc(), "CheckSend", token).body(never).unwrap());
                calls.push(tokio::spawn(answer));
            }
            calls.push(tokio::spawn(async move {
                let _client = client;
                std::future::pending().await
            }));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (refused, longest) = checks(&process).await;
        assert_eq!(refused, 0, "{token:?}, the longest took {longest:?}");
        let done = calls.iter().filter(|answer| answer.is_finished()).count();
        // Unauthenticated calls are refused by their headers; of the others, those over the limit
        // or the share.
        assert!(
            done >= if token.is_empty() { 800 } else { 600 },
            "{token:?}: {done} of 800 are answered"
        );
        calls.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_messages_stay_within_the_message_memory() {
    const MIB: u64 = 1 << 20;
    let (process, _directory) = start(&["--max-message-mib", "16"]);
    checks(&process).await;
    let before = process.memory_bytes();
    let tasks = send_incomplete(&process, &[2, 2, 2, 2], 50, 2 << 20).await;
    let mut peak = 0;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        peak = peak.max(process.memory_bytes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (refused, longest) = checks(&process).await;
    assert_eq!(refused, 0, "the longest took {longest:?}");
    let grown = peak.saturating_sub(before) / MIB;
    println!("{grown} MiB more than {} MiB", before / MIB);
    assert!(grown < 80, "{grown} MiB more than {} MiB", before / MIB);
    tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_millions_of_fields_is_refused_undecoded() {
    let (process, _directory) = start(&[]);
    let mut client = http2(connect_from(2, process.grpc()).await).await;
    // An empty field, 120,000 times: field 2 of one method, field 3 of the other.
    for (method, part) in [("BatchCheckSend", [0x12, 0]), ("FilterRecipients", [0x1a, 0])] {
        let app =
            pb::BatchCheckSendRequest { app: "Open".into(), ..Default::default() }.encode_to_vec();
        let message = framed(&[app, part.repeat(120_000)].concat());
        let request = call(process.grpc(), method, SERVICE.1).body(Body::from(message)).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "3", "{method}: INVALID_ARGUMENT");
        let words = answer.headers()["grpc-message"].to_str().unwrap();
        assert!(words.contains("fields"), "{method}: {words}");
    }
    // A message that is too large for its method is refused by its length prefix alone.
    let request = call(process.grpc(), "MuteMembers", SERVICE.1)
        .body(Body::from(framed(&vec![0; 200 << 10])))
        .unwrap();
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_no_more_than_a_share_of_the_connections() {
    let (process, _directory) = start(&["--max-connections", "40"]);
    // Opens `count` connections with a call each. Returns those that were admitted.
    let open = async |from: u8, count: usize, token: &'static str| {
        let mut admitted = Vec::new();
        for _ in 0..count {
            let stream = TokioIo::new(connect_from(from, process.grpc()).await);
            let Ok((mut client, connection)) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await
            else {
                continue;
            };
            tokio::spawn(connection);
            let check = pb::CheckSendRequest {
                app: "Open".into(),
                room: "room".into(),
                user: "u".into(),
                min_revision: 0,
            };
            let request = call(process.grpc(), "CheckSend", token)
                .body(Body::from(framed(&check.encode_to_vec())))
                .unwrap();
            // A client whose connection is closed just then may get no answer at all.
            let answered =
                tokio::time::timeout(Duration::from_secs(5), client.send_request(request)).await;
            admitted.extend(matches!(answered, Ok(Ok(_))).then_some(client));
        }
        admitted
    };
    let first = open(2, 60, SERVICE.1).await;
    assert_eq!(first.len(), 20, "half of all, while no other address wants them");
    assert_eq!(checks(&process).await.0, 0);
    let second = open(3, 30, SERVICE.1).await;
    assert_eq!(second.len(), 10, "half of the half that is left");
    assert_eq!(checks(&process).await.0, 0);
    // Unauthenticated callers get no more, nor do three addresses together.
    let mut strangers = Vec::new();
    for from in 4..7 {
        strangers.push(open(from, 30, "").await);
        assert_eq!(checks(&process).await.0, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_make_room_for_active_ones() {
    let (process, _directory) = start(&["--max-connections", "40"]);
    let mut silent = Vec::new();
    for from in 2..10 {
        silent.extend(join_all((0..20).map(|_| connect_from(from, process.grpc()))).await);
    }
    tokio::time::sleep(Duration::from_millis(2_300)).await;
    assert_eq!(checks(&process).await.0, 0);
    // The admin listener too: a probe is answered among silent sockets of many addresses.
    let admin = process.admin().trim_start_matches("http://").to_owned();
    for from in 2..10 {
        silent.extend(join_all((0..64).map(|_| connect_from(from, &admin))).await);
    }
    tokio::time::sleep(Duration::from_millis(2_300)).await;
    for _ in 0..5 {
        let mut probe = TcpStream::connect(&admin).await.unwrap();
        probe
            .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let read =
            tokio::time::timeout(Duration::from_secs(2), probe.read_to_string(&mut answer)).await;
        assert!(matches!(read, Ok(Ok(_))) && answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Requests a token over REST, behind a proxy that forwards this client address. Returns the
/// status.
async fn token(process: &Process, client_addr: Option<&str>, client: &str, secret: &str) -> u16 {
    let body = format!(
        r#"{{"grant_type":"client_credentials","client_id":"{client}","client_secret":"{secret}"}}"#
    );
    let request =
        reqwest::Client::new().post(format!("{}/some/app/token", process.rest())).body(body);
    let request = client_addr
        .into_iter()
        .fold(request, |request, client_addr| request.header("x-forwarded-for", client_addr));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_behind_a_trusted_proxy_have_a_share_each() {
    let guess = async |process: &Process, client, client_addr| {
        token(process, Some(client_addr), client, "wrong").await
    };
    for is_trusted in [true, false] {
        let trust: &[&str] = if is_trusted { &["--trusted-proxies", "127.0.0.0/8"] } else { &[] };
        let (process, _directory) = start(&[&["--token-rate-limit", "10"], trust].concat());
        // One wrong secret a second is allowed per address.
        assert_eq!(guess(&process, "one", "203.0.113.1").await, 400);
        assert_eq!(guess(&process, "two", "203.0.113.1").await, 429);
        let other = guess(&process, "three", "203.0.113.2").await;
        assert_eq!(other, if is_trusted { 400 } else { 429 }, "{is_trusted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_streams_do_not_block_token_requests() {
    let (process, _directory) = start(&["--max-calls", "80"]);
    let mut streams = Vec::new();
    for from in 2..12 {
        let channel = http2(connect_from(from, process.grpc()).await).await;
        for _ in 0..20 {
            let watch =
                Request::post(format!("http://{}/grpc.health.v1.Health/Watch", process.grpc()));
            let watch = watch.header("content-type", "application/grpc").header("te", "trailers");
            let mut client = channel.clone();
            client.ready().await.unwrap();
            streams.push(
                client.send_request(watch.body(Body::from(framed(&[]))).unwrap()).await.unwrap(),
            );
            // A health check whose message never arrives does not either.
            let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
            let check =
                Request::post(format!("http://{}/grpc.health.v1.Health/Check", process.grpc()));
            let check = check.header("content-type", "application/grpc").header("te", "trailers");
            client.ready().await.unwrap();
            tokio::spawn(client.send_request(check.body(never).unwrap()));
        }
    }
    let open =
        streams.iter().filter(|answer| !answer.headers().contains_key("grpc-status")).count();
    assert_eq!(open, 9, "the ten for unauthenticated callers, minus the reserve");
    assert_eq!(token(&process, None, "client", SECRET).await, 200);
    assert_eq!(checks(&process).await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_tiny_windows_are_closed() {
    let (process, _directory) = start(&[]);
    for (window, is_served) in
        [(0, false), (1, false), (2_047, false), (2_048, true), (65_535, true)]
    {
        let stream = TokioIo::new(connect_from(2, process.grpc()).await);
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut client, connection) =
            builder.initial_stream_window_size(window).handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request =
            call(process.grpc(), "CheckSend", SERVICE.1).body(Body::from(framed(&[]))).unwrap();
        assert_eq!(client.send_request(request).await.is_ok(), is_served, "a window of {window}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_count_against_the_memory_of_messages() {
    let (process, _directory) = start(&["--max-message-mib", "16"]);
    let users = (0..100).map(|user| format!("u{user:02}")).collect();
    let reason = "x".repeat(500);
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        users,
        reason,
        ..Default::default()
    };
    process.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap();
    // Answers of 55 KB each. Those over a service's share of the memory are refused, and other
    // callers are served.
    let list = pb::ListMutedMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        page_size: 100,
        ..Default::default()
    };
    let mut clients = Vec::new();
    let mut answers = Vec::new();
    for from in 2..6 {
        let (mut client, _) = reading_nothing(from, process.grpc()).await.unwrap();
        for _ in 0..200 {
            let body = Body::from(framed(&list.encode_to_vec()));
            client.ready().await.unwrap();
            answers.push(
                client
                    .send_request(
                        call(process.grpc(), "ListMutedMembers", SERVICE.1).body(body).unwrap(),
                    )
                    .await
                    .unwrap(),
            );
        }
        clients.push(client);
    }
    let refused =
        answers.iter().filter(|answer| answer.headers().contains_key("grpc-status")).count();
    let bytes = held_bytes(&process).await;
    println!("{refused} of 800 are refused, {bytes} bytes are held");
    assert!(
        refused > 400 && bytes > 8 << 20 && bytes <= 20 << 20,
        "{refused} refused, {bytes} bytes"
    );
    assert_eq!(checks(&process).await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_are_counted_and_close_their_connection() {
    let (process, _directory) = start(&["--max-message-mib", "16"]);
    for page in 0..10 {
        let users = (0..100).map(|user| format!("u{page}{user:02}")).collect();
        let reason = "x".repeat(500);
        let message = pb::MuteMembersRequest {
            app: "Open".into(),
            room: "room".into(),
            users,
            reason,
            ..Default::default()
        };
        process.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap();
    }
    let (mut client, connection) = reading_nothing(2, process.grpc()).await.unwrap();
    let list = pb::ListMutedMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        page_size: 1_000,
        ..Default::default()
    };
    let message = framed(&list.encode_to_vec());
    let mut answers = Vec::new();
    for _ in 0..50 {
        let request = call(process.grpc(), "ListMutedMembers", SERVICE.1)
            .body(Body::from(message.clone()))
            .unwrap();
        answers.push(client.send_request(request).await.unwrap());
    }
    let refused =
        answers.iter().filter(|answer| answer.headers().contains_key("grpc-status")).count();
    let bytes = held_bytes(&process).await;
    println!("{refused} of 50 are refused, {bytes} bytes are held");
    assert!(
        bytes > 4 << 20 && bytes <= 16 << 20 && refused > 0,
        "{refused} refused, {bytes} bytes"
    );
    assert_eq!(checks(&process).await.0, 0);
    let closed = tokio::time::timeout(Duration::from_secs(100), connection).await;
    assert!(closed.is_ok(), "the connection with unread answers is still open");
    let started = Instant::now();
    while held_bytes(&process).await > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "memory of the closed connection is still held"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
