//! Real proxies in front of both doors: no call is lost while connections are reused, idle and
//! aged; watches end with their revision; and callers are told apart.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mute_service::proto::v1 as pb;
use rand::RngExt as _;
use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::{
    cluster::until,
    harness::{SERVICE, reason, skipped, with},
    hostile::{self, connect_from},
    process::{Process, build, connect, mute},
    watch::{Watch, last_revision},
};

mod run;

use run::Proxy;

/// What the callers of a proxy have counted.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Counts {
    fn add(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => drop(self.answered.fetch_add(1, Ordering::Relaxed)),
            Err(failure) => self.failures.lock().unwrap().push(failure),
        }
    }
}

/// One REST call in four is refused before its body is read.
async fn call_rest(client: &reqwest::Client, rest: &str, number: usize) -> Result<(), String> {
    let request = client.post(format!("http://{rest}/app-id/Open/chatrooms/room/mute"));
    let body = json!({"usernames": [format!("u{}", number % 100)], "mute_duration": 60_000});
    let (request, expected) = match number % 4 {
        0 => (request, StatusCode::UNAUTHORIZED),
        _ => (request.header(SERVICE.0, SERVICE.1), StatusCode::OK),
    };
    let answer =
        request.body(body.to_string()).send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| format!("{error:?}"))?;
    if status == expected { Ok(()) } else { Err(format!("REST: {status} {body}")) }
}

/// Calls without a pause, and calls of which each follows a pause, through this proxy.
async fn call_for(seconds: u64, proxy: &Proxy) -> Arc<Counts> {
    let until = Instant::now() + Duration::from_secs(seconds);
    let counts = Arc::new(Counts::default());
    let mut callers = JoinSet::new();
    for caller in 0..24 {
        let counts = counts.clone();
        let rest = proxy.rest.clone();
        let mut mutes = connect(&proxy.grpc).await;
        let has_pauses = caller >= 4;
        callers.spawn(async move {
            let client = reqwest::Client::new();
            for number in 0.. {
                if Instant::now() >= until {
                    break;
                }
                if has_pauses {
                    let pause = rand::rng().random_range(0..seconds.min(70) * 1_000);
                    sleep(Duration::from_millis(pause)).await;
                }
                let outcome = if caller % 2 == 0 {
                    call_rest(&client, &rest, number).await
                } else {
                    let muted = mute(&mut mutes, "room", vec![format!("u{}", number % 100)]).await;
                    muted.map(drop).map_err(|status| format!("gRPC: {status:?}"))
                };
                counts.add(outcome);
            }
        });
    }
    callers.join_all().await;
    counts
}

/// Whether all calls through the proxy succeed, while connections age.
async fn calls_succeed(proxied: fn(&Process, &str) -> Option<Proxy>) {
    let seconds = std::env::var("MUTE_TEST_PROXY_SECONDS")
        .map_or(5, |seconds| seconds.parse::<u64>().expect("MUTE_TEST_PROXY_SECONDS"));
    let directory = tempfile::tempdir().unwrap();
    let max_age = (seconds / 10).max(2).to_string();
    let arguments = ["--max-connection-age-seconds", &max_age];
    let process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
    let Some(proxy) = proxied(&process, "") else { return };
    let large = pb::FilterRecipientsRequest {
        app: "Open".into(),
        room: "room".into(),
        users: (0..10_000).map(|user| format!("{user:\u{1d11e}>64}")).collect(),
        ..Default::default()
    };
    connect(&proxy.grpc).await.filter_recipients(with(large, &[SERVICE])).await.unwrap();
    let counts = call_for(seconds, &proxy).await;
    let answered = counts.answered.load(Ordering::Relaxed);
    println!("{answered} calls in {seconds} s");
    let failures = counts.failures.lock().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {answered} have failed: {:?}",
        failures.len(),
        failures.first()
    );
    assert!(seconds < 600 || answered >= 50_000, "{answered} calls are too few to tell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_through_nginx_fails() {
    calls_succeed(Proxy::nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_through_haproxy_fails() {
    calls_succeed(Proxy::haproxy).await;
}

/// Follows a room at this address, over the end of the connection's age, while another mutes.
async fn follow_over_the_end(process: &Process, addr: &str) {
    let (mut watch, from) = Watch::begun(connect(addr).await, "Open", "room", None).await;
    let is_done = Arc::new(AtomicBool::new(false));
    let writer = {
        let is_done = is_done.clone();
        let grpc = process.grpc().to_owned();
        tokio::spawn(async move {
            let mut last = 0;
            while !is_done.load(Ordering::Relaxed) {
                // A connection of its own, because those of all callers age.
                last = mute(&mut connect(&grpc).await, "room", vec!["u".into()]).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            last
        })
    };
    let mut seen = Vec::new();
    let status = loop {
        match watch.change().await {
            Ok(change) => seen.push(change.revision),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (tonic::Code::Unavailable, "STOPPING"));
    let resumed = last_revision(&status);
    assert_eq!(seen.last().copied().unwrap_or(from), resumed, "the last one that was delivered");
    is_done.store(true, Ordering::Relaxed);
    let last = writer.await.unwrap();
    let (mut watch, _) = Watch::begun(connect(addr).await, "Open", "room", Some(resumed)).await;
    while seen.last().is_none_or(|seen| *seen < last) {
        seen.push(watch.change().await.unwrap().revision);
    }
    let of_list = pb::ListEventsRequest {
        app: "Open".into(),
        room: "room".into(),
        page_size: 1,
        ..Default::default()
    };
    let newest = process.mutes().await.list_events(with(of_list, &[SERVICE])).await.unwrap();
    assert_eq!(newest.into_inner().events[0].revision, last);
    // Every commit is a mute of this room.
    assert_eq!(seen, (from + 1..=last).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_an_aged_connection_can_be_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--max-connection-age-seconds", "1"];
    let process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
    follow_over_the_end(&process, process.grpc()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_through_nginx_can_be_resumed_too() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--max-connection-age-seconds", "1"];
    let process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
    let Some(proxy) = Proxy::nginx(&process, "") else { return };
    follow_over_the_end(&process, &proxy.grpc).await;
}

/// A wrong client secret from this address, to a proxy that listens here. Returns the status.
async fn guess(from: u8, client: &str, to: &str) -> String {
    let mut stream = connect_from(from, to).await;
    let body =
        json!({"grant_type": "client_credentials", "client_id": client, "client_secret": "?"});
    let body = body.to_string();
    let head = "POST /some/app/token HTTP/1.1\r\nhost: x\r\nconnection: close\r\nforwarded: for=9.9.9.9\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_behind_nginx_and_haproxy_have_a_share_each() {
    type Start = fn(&Process, &str) -> Option<Proxy>;
    let proxies: [(Start, &str); 4] = [
        (Proxy::nginx, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"),
        (Proxy::nginx, "proxy_set_header Forwarded \"for=\\\"$remote_addr:$remote_port\\\"\";"),
        (Proxy::haproxy, "option forwardfor"),
        (Proxy::haproxy, "http-request set-header Forwarded \"for=%[src];proto=http\""),
    ];
    for (start, lines) in proxies {
        let arguments = ["--token-rate-limit", "10", "--trusted-proxies", "127.0.0.1/32"];
        let (process, _directory) = hostile::start(&arguments);
        let Some(proxy) = start(&process, lines) else { return };
        // One wrong secret a second is allowed per address.
        assert_eq!(guess(2, "one", &proxy.rest).await, "400", "{lines}");
        assert_eq!(guess(2, "two", &proxy.rest).await, "429", "{lines}");
        assert_eq!(guess(3, "three", &proxy.rest).await, "400", "{lines}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipv4_address_is_shown_as_one_on_a_listener_of_both() {
    if TcpListener::bind("[::]:0").await.is_err() {
        skipped("run on a machine that has IPv6");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut command = build();
    command.env("MUTE_LOG", "mute_service=debug");
    let arguments = ["--data-dir", data.to_str().unwrap()];
    let process = Process::launch(command, directory.path(), ["[::]:0"; 3], &arguments).ready();
    let port = process.rest().rsplit(':').next().unwrap().to_owned();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
    stream.write_all(b"no HTTP\r\n\r\n").await.unwrap();
    let log = || fs::read_to_string(directory.path().join("log")).unwrap();
    until("the connection ends", async || log().contains("a connection ended with an error")).await;
    assert!(log().contains("peer=127.0.0.1:") && !log().contains("::ffff:"), "{}", log());
}
