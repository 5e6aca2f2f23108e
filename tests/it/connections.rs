//! Callers that hold connections, calls and streams: each kind is limited, and other callers are
//! served meanwhile.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use axum::body::Body;
use futures_util::{StreamExt as _, future::join_all, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mute_service::proto::v1 as pb;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    cluster::until,
    harness::{SERVICE, reason, with},
    hostile::connect_from,
    network::Network,
    process::{Process, mute, muted, program, was_not_taken},
};

mod few_files;
mod frames;

fn start(arguments: &[&str]) -> (Process, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Process::spawn(directory.path(), directory.path(), arguments).ready(), directory)
}

pub async fn metrics(process: &Process) -> String {
    reqwest::get(format!("{}/metrics", process.admin())).await.unwrap().text().await.unwrap()
}

/// A process with these arguments, in which a call runs: it waits for a revision that does not
/// exist yet.
pub async fn occupied(
    arguments: &[&str],
) -> (Process, tempfile::TempDir, JoinHandle<Result<(), tonic::Status>>) {
    let (process, directory) = start(arguments);
    let mut mutes = process.mutes().await;
    let waiting = tokio::spawn(async move {
        let check = pb::CheckSendRequest {
            app: "Open".into(),
            room: "room".into(),
            user: "u".into(),
            min_revision: 1_000_000,
        };
        mutes.check_send(with(check, &[SERVICE])).await.map(drop)
    });
    let begun = "grpc_server_started_total{grpc_type=\"unary\",grpc_service=\"mute.v1.MuteService\",grpc_method=\"CheckSend\"} 1\n";
    until("the call runs", async || metrics(&process).await.contains(begun)).await;
    (process, directory, waiting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_limit_are_closed_until_one_ends() {
    let (process, _directory) = start(&["--max-connections", "20"]);
    let rest = process.rest().trim_start_matches("http://").to_owned();
    // From many addresses, so that none has more connections than the next caller would have.
    let mut connections = join_all((0..20).map(|number| connect_from(2 + number, &rest))).await;
    // Connections are accepted in order, so the next one is over the limit.
    let mut refused = TcpStream::connect(&rest).await.unwrap();
    // Well before the timeout of idle connections.
    let read = tokio::time::timeout(Duration::from_secs(10), refused.read(&mut [0])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    connections.pop();
    until("a slot is free", async || reqwest::get(format!("http://{rest}/me")).await.is_ok()).await;
    // The other listener has a limit of its own.
    mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_over_the_limit_are_refused_over_grpc_and_rest() {
    let (process, _directory, waiting) = occupied(&["--max-calls", "1"]).await;
    let started = Instant::now();
    let refused = mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::Unavailable, "OVERLOADED")
    );
    for (path, name) in
        [("/me", "\"OVERLOADED\""), ("/app-id/Open/chatrooms/room/mute", "\"overloaded\"")]
    {
        let request = || reqwest::Client::new().get(format!("{}{path}", process.rest()));
        let answer = request().header(SERVICE.0, SERVICE.1).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()),
            (503, "1")
        );
        // Unauthenticated callers have a limit of their own.
        assert!([401, 403].contains(&request().send().await.unwrap().status().as_u16()), "{path}");
        let body = answer.text().await.unwrap();
        assert!(body.contains(name), "{body}");
    }
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert!(waiting.await.unwrap().is_err());
    mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
    let metrics = metrics(&process).await;
    assert!(metrics.contains("mute_calls_shed_total 3\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_at_its_own_deadline() {
    let (process, _directory) = start(&[]);
    // A client that does not enforce the deadline itself and never completes its message.
    let stream = TokioIo::new(TcpStream::connect(process.grpc()).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let half = stream::once(async { Ok::<_, std::io::Error>("\0\0\0\0\x10half") })
        .chain(stream::pending());
    let request =
        http::Request::post(format!("http://{}/mute.v1.MuteService/CheckSend", process.grpc()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", SERVICE.1)
            .header("grpc-timeout", "200m");
    let started = Instant::now();
    let answer = client.send_request(request.body(Body::from_stream(half)).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4", "DEADLINE_EXCEEDED");
    assert!((190..2_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aged_connection_is_drained_and_fails_no_call() {
    let (process, _directory) = start(&["--max-connection-age-seconds", "1"]);
    let mut mutes = process.mutes().await;
    let started = Instant::now();
    let mut calls = 0;
    while started.elapsed() < Duration::from_secs(4) {
        match mute(&mut mutes, "room", vec![format!("u{calls}")]).await {
            Ok(_) => calls += 1,
            Err(status) => assert!(was_not_taken(&status), "{status:?}"),
        }
    }
    assert_eq!(muted(&mut process.mutes().await, "room").await.len(), calls);
    // An idle connection over HTTP/1 is closed at its maximum age.
    let mut old = TcpStream::connect(process.rest().trim_start_matches("http://")).await.unwrap();
    let mut received = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), old.read_to_end(&mut received)).await;
    assert!(read.is_ok(), "the idle connection outlived its maximum age");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_or_malformed_heads_get_an_error_status() {
    let (process, _directory) = start(&[]);
    let rest = process.rest().trim_start_matches("http://").to_owned();
    let long = "a".repeat(100_000);
    let close = "host: x\r\nauthorization: Bearer dev-service-token\r\nconnection: close\r\n\r\n";
    let cases = [
        (
            "a header of 100 kB",
            format!("GET /me HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n"),
            "431",
        ),
        ("a target of 100 kB", format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), "431"),
        (
            "500 headers",
            format!("GET /me HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(500)),
            "431",
        ),
        (
            "two lengths",
            "POST /rooms HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"
                .into(),
            "400",
        ),
        (
            "a negative length",
            "POST /rooms HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}".into(),
            "400",
        ),
        ("a broken head", "GET /me HTTP/1.1\r\nhost : x\r\n\r\n".into(), "400"),
        (
            "a malformed percent escape is taken literally",
            format!("GET /app-id/Open/chatrooms/%zz/mute HTTP/1.1\r\n{close}"),
            "200",
        ),
        ("not HTTP", "\u{16}\u{3}\u{1} hello\r\n\r\n".into(), "400"),
    ];
    for (case, head, expected) in cases {
        let mut stream = TcpStream::connect(&rest).await.unwrap();
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(read.is_ok(), "{case}: held open after {answer}");
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3));
        assert_eq!(status, Some(expected), "{case}: {answer}");
    }
    mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
}

/// Sends these pieces a second apart. Returns after how long the connection was closed, and what
/// was received.
async fn send_slowly(addr: &str, pieces: impl Iterator<Item = &str>) -> (Duration, String) {
    let started = Instant::now();
    let (mut read, mut write) = TcpStream::connect(addr).await.unwrap().into_split();
    let answer = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(100), read.read_to_end(&mut answer))
            .await
            .expect("never closed");
        String::from_utf8_lossy(&answer).into_owned()
    });
    for piece in pieces {
        if write.write_all(piece.as_bytes()).await.is_err() || answer.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let answer = answer.await.unwrap();
    (started.elapsed(), answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_bodies_time_out_and_delay_no_others() {
    let (process, _directory) = start(&[]);
    let rest = process.rest().trim_start_matches("http://").to_owned();
    let grpc = process.grpc().to_owned();
    let head = ["GET /me HTTP/1.1\r\nhost: x\r\n"]
        .into_iter()
        .chain(std::iter::repeat_n("x-a: b\r\n", 90));
    let post = "POST /app-id/Open/chatrooms/room/mute HTTP/1.1\r\nhost: x\r\nauthorization: Bearer dev-service-token\r\n";
    let begun = format!("{post}content-length: 1000\r\n\r\n");
    let body = [begun.as_str()].into_iter().chain(std::iter::repeat_n("{", 90));
    // Only the preface of HTTP/2.
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".split_inclusive("");
    let slow_callers = async {
        tokio::join!(
            send_slowly(&rest, head),
            send_slowly(&rest, body),
            send_slowly(&grpc, preface),
            send_slowly(&grpc, std::iter::empty())
        )
    };
    let mut mutes = process.mutes().await;
    let others = async {
        loop {
            mute(&mut mutes, "room", vec!["u".into()]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (slow_head, slow_body, slow_preface, silent) = tokio::select! {
        closed = slow_callers => closed,
        () = others => unreachable!(),
    };
    for (what, (after, _)) in [("head", slow_head), ("preface", slow_preface), ("nothing", silent)]
    {
        assert!((25..45).contains(&after.as_secs()), "{what}: {after:?}");
    }
    let (after, answer) = slow_body;
    assert!(
        (8..25).contains(&after.as_secs()) && answer.starts_with("HTTP/1.1 408"),
        "{after:?}: {answer}"
    );
    assert!(answer.contains("\"error_description\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_or_huge_bodies_get_the_error_envelope() {
    let (process, _directory) = start(&[]);
    let url = format!("{}/app-id/Open/chatrooms/room/mute", process.rest());
    let deep = |open: &str, close: &str| {
        format!("{{\"usernames\":{}{}}}", open.repeat(20_000), close.repeat(20_000))
    };
    let many = format!("{{\"usernames\":[{}\"u\"],\"mute_duration\":1}}", "\"u\",".repeat(10_000));
    let cases = [
        ("deep lists", deep("[", "]"), 400),
        ("deep lists without an end", "[".repeat(60_000), 400),
        ("deep objects", "{\"a\":".repeat(10_000), 400),
        ("60 kB of names", many, 400),
        (
            "a number out of range",
            "{\"usernames\":[\"u\"],\"mute_duration\":1e999}".to_owned(),
            400,
        ),
        ("a body of a megabyte", "x".repeat(1 << 20), 413),
    ];
    for (case, body, expected) in cases {
        let request = reqwest::Client::new().post(&url).header(SERVICE.0, SERVICE.1).body(body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap();
        assert!(
            status == expected && body["error_description"].is_string(),
            "{case}: {status} {body}"
        );
    }
    // Line breaks in a name are refused.
    for name in ["a%0d%0aset-cookie:x", "a%00b", "%0a"] {
        let request =
            reqwest::Client::new().delete(format!("{url}/{name}")).header(SERVICE.0, SERVICE.1);
        assert_eq!(request.send().await.unwrap().status(), 400, "{name}");
    }
}

/// How long a watcher's connection slot stays taken after the watcher vanished without closing its
/// connection.
async fn slot_of_a_vanished_watcher(heartbeat_seconds: &str) -> Option<Duration> {
    let network = Network::new(2)?;
    let directory = tempfile::tempdir().unwrap();
    let service = network.command(0, env!("CARGO_BIN_EXE_mute-service"));
    let data = directory.path().join("data");
    let addrs = [50_051, 8_080, 9_090].map(|port| format!("{}:{port}", network.addr(0)));
    let arguments = ["--data-dir", data.to_str().unwrap(), "--max-connections", "1"];
    let arguments = [&arguments[..], &["--watch-heartbeat-seconds", heartbeat_seconds]].concat();
    let process = Process::launch(
        service,
        directory.path(),
        addrs.each_ref().map(String::as_str),
        &arguments,
    )
    .ready();
    let ctl = |mut command: Command, words: &[&str]| {
        command.env("MUTE_ADDR", format!("http://{}", process.grpc())).env("MUTE_APP", "Open");
        command
            .env("MUTE_TOKEN", "dev-service-token")
            .arg("ctl")
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    };
    let mut watcher =
        ctl(network.command(1, env!("CARGO_BIN_EXE_mute-service")), &["watch", "--json"])
            .spawn()
            .unwrap();
    until("it watches", async || metrics(&process).await.contains("mute_watchers 1\n")).await;
    let is_admitted = || {
        tokio::task::block_in_place(|| {
            ctl(program(), &["check", "room", "user"]).status().unwrap().success()
        })
    };
    assert!(!is_admitted(), "there is more than one slot");
    network.cut(1, 0);
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    let vanished_at = Instant::now();
    while !is_admitted() {
        assert!(vanished_at.elapsed() < Duration::from_secs(90), "its slot is still taken");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Some(vanished_at.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_vanished_callers_slot_is_freed_within_90_seconds() {
    let (without_heartbeats, with_heartbeats) =
        tokio::join!(slot_of_a_vanished_watcher("3600"), slot_of_a_vanished_watcher("1"));
    let (Some(without_heartbeats), Some(with_heartbeats)) = (without_heartbeats, with_heartbeats)
    else {
        return;
    };
    // Not because the network reported that the caller is gone.
    let soon = Duration::from_secs(20);
    assert!(
        without_heartbeats > soon && with_heartbeats > soon,
        "{without_heartbeats:?}, {with_heartbeats:?}"
    );
}
