//! How long a connection may be idle, how long a head may take, and how an aged one ends. Time is
//! virtual here.

use axum::{Router, body::Body, routing::get};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::{Instant, advance},
};

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// A client of one connection, and the task that serves it.
struct Client {
    io: DuplexStream,
    state: Arc<Connection>,
    served: JoinHandle<Result<(), Failure>>,
    _stop: watch::Sender<bool>,
}

/// Serves a connection that may be idle for 75 seconds, at this maximum age.
fn connect(max_age: Duration, routes: Router) -> Client {
    let (io, server) = duplex(1 << 16);
    let state = Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), Some(Arc::default())));
    let info = ConnectionInfo { state: state.clone(), evicted: Arc::default(), certificate: None };
    let (stop, stopping) = watch::channel(false);
    let rules = Rules {
        max_connections: 1,
        name: "test",
        sites: Arc::default(),
        trusted_proxies: Arc::default(),
        max_age,
        max_idle: Duration::from_secs(75),
        tls: None,
        fault_body: None,
    };
    let served = tokio::spawn(async move {
        serve_requests(server, Protocols::Auto, &rules, stopping, routes, info).await
    });
    Client { io, state, served, _stop: stop }
}

fn ok() -> Router {
    Router::new().route("/", get(|| async { "ok" }))
}

impl Client {
    /// Sends a request. Returns the head of the answer, whose body is `ok`.
    async fn get(&mut self) -> String {
        self.io.write_all(GET).await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            assert!(self.io.read_buf(&mut answer).await.unwrap() > 0, "closed: {answer:?}");
        }
        String::from_utf8(answer).unwrap()
    }

    /// Waits until the connection is closed. Returns how many seconds that took.
    async fn closed(mut self) -> u64 {
        let started = Instant::now();
        let mut rest = Vec::new();
        let _ = self.io.read_to_end(&mut rest).await;
        let elapsed = started.elapsed();
        drop(self.io);
        let _ = self.served.await.unwrap();
        elapsed.as_secs()
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_is_open_for_its_own_timeout() {
    let mut client = connect(Duration::ZERO, ok());
    client.get().await;
    for idle in [31, 60, 74] {
        advance(Duration::from_secs(idle)).await;
        assert!(client.get().await.starts_with("HTTP/1.1 200"), "after {idle} s");
    }
    assert_eq!(client.closed().await, 75);
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_cut_30_seconds_after_its_first_byte() {
    let mut client = connect(Duration::ZERO, ok());
    client.io.write_all(&GET[..10]).await.unwrap();
    assert_eq!(client.closed().await, 30, "the first head");
    for idle in [0, 50, 70] {
        let mut client = connect(Duration::ZERO, ok());
        client.get().await;
        sleep(Duration::from_secs(idle)).await;
        client.io.write_all(&GET[..10]).await.unwrap();
        for byte in 10..20 {
            sleep(Duration::from_secs(1)).await;
            client.io.write_all(&GET[byte..=byte]).await.unwrap();
        }
        assert_eq!(client.closed().await, 20, "after {idle} s, 10 s after the first byte");
    }
    let mut client = connect(Duration::ZERO, ok());
    client.get().await;
    sleep(Duration::from_secs(70)).await;
    client.io.write_all(&GET[..10]).await.unwrap();
    sleep(Duration::from_secs(29)).await;
    client.io.write_all(&GET[10..]).await.unwrap();
    assert!(client.answer().await.starts_with("HTTP/1.1 200"), "a head of 29 s");
}

#[tokio::test(start_paused = true)]
async fn an_aged_http1_connection_ends_with_its_next_answer() {
    let max_age = Duration::from_secs(100);
    let mut client = connect(max_age, ok());
    assert!(!client.get().await.contains("connection: close"));
    sleep(Duration::from_secs(60)).await;
    assert!(!client.get().await.contains("connection: close"));
    sleep(Duration::from_secs(60)).await;
    assert!(client.state.is_closing() && !client.served.is_finished());
    assert!(client.get().await.contains("connection: close"));
    assert_eq!(client.closed().await, 0);
    // Without another request it ends when it was idle for as long as it may be.
    let mut client = connect(max_age, ok());
    sleep(Duration::from_secs(20)).await;
    client.get().await;
    sleep(Duration::from_secs(20)).await;
    client.get().await;
    assert_eq!(client.closed().await, 75);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_outlives_the_age_by_a_drain_only() {
    let endless =
        || async { Body::from_stream(futures_util::stream::pending::<io::Result<String>>()) };
    let mut client = connect(Duration::from_secs(100), Router::new().route("/", get(endless)));
    client.io.write_all(GET).await.unwrap();
    let closed_after = client.closed().await;
    assert!((90 + 75..=110 + 75).contains(&closed_after), "{closed_after}");
}
