//! The attacks. Each runs until it is dropped, from its own addresses.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, join_all},
    stream,
};
use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mute_service::proto::v1 as pb;
use prost::Message as _;
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use crate::hostile::{call, connect_from, framed, reading_nothing};

/// What the attackers know: the addresses, the token of an app of their own, and the token of a
/// user of the attacked app.
pub struct Target {
    pub grpc: String,
    pub rest: String,
    pub tenant: String,
    pub user: String,
}

const TOKEN: &str = "/evil/tenant/token";
const WRONG: &str =
    r#"{"grant_type":"client_credentials","client_id":"known to all","client_secret":"wrong"}"#;
const LIST: &str = "/evil/tenant/chatrooms/room/mute";

pub type Attack = fn(Arc<Target>) -> BoxFuture<'static, ()>;

pub const ATTACKS: [(&str, Attack); 9] = [
    ("headers without a message, 10 x 1,024", |target| heads(target).boxed()),
    ("almost complete messages, 4 x 50 of 2 MiB", |target| nearly_sent(target).boxed()),
    ("idle connections after one call, from 4 addresses", |target| connections(target).boxed()),
    ("wrong secrets, 100/s", |target| guesses(target).boxed()),
    ("forbidden calls, 200/s", |target| forbidden(target).boxed()),
    ("forged tokens, 500/s", |target| forged(target).boxed()),
    ("unread answers, 50 of 0.5 MB", |target| unread(target).boxed()),
    ("history of an app with few events, 60/s", |target| history(target).boxed()),
    ("whole lists of 20,000 over REST, 20/s", |target| lists(target).boxed()),
];

impl Target {
    /// Creates a room with 20,000 muted users in the attackers' app.
    pub async fn prepare(&self) {
        let client = http2(2, &self.grpc).await.unwrap();
        for call in 0..200 {
            let users = (0..100).map(|user| format!("u{call:03}{user:02}")).collect();
            let reason = "x".repeat(500);
            let message = pb::MuteMembersRequest {
                app: "evil#tenant".into(),
                room: "room".into(),
                users,
                reason,
                ..Default::default()
            };
            // As fast as the rate limit allows.
            sleep(Duration::from_millis(12)).await;
            let answer = call_unary(&client, &self.grpc, "MuteMembers", &self.tenant, &message)
                .await
                .unwrap();
            assert!(!answer.headers().contains_key("grpc-status"), "{:?}", answer.headers());
        }
        // The requests of these attacks are processed, not refused early.
        assert_eq!(rest(self, 29, Method::GET, LIST, &self.tenant, "").await, Some(StatusCode::OK));
        assert_eq!(
            rest(self, 24, Method::POST, TOKEN, "", WRONG).await,
            Some(StatusCode::BAD_REQUEST)
        );
    }
}

/// An HTTP/2 connection from this address; `None` where it is refused.
async fn http2(from: u8, to: &str) -> Option<SendRequest<Body>> {
    let stream = TokioIo::new(connect_from(from, to).await);
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Returns the headers of the answer, which have the status of a refusal.
async fn call_unary(
    client: &SendRequest<Body>,
    to: &str,
    method: &str,
    token: &str,
    message: &impl prost::Message,
) -> hyper::Result<Response<Incoming>> {
    let body = Body::from(framed(&message.encode_to_vec()));
    client.clone().send_request(call(to, method, token).body(body).unwrap()).await
}

/// Headers on 10 connections from 5 addresses, half of them with a user's token.
async fn heads(target: Arc<Target>) {
    loop {
        let mut running = JoinSet::new();
        for number in 0..10 {
            let Some(mut client) = http2(10 + number % 5, &target.grpc).await else { continue };
            for stream in 0..1_024 {
                let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
                let token = if stream % 2 == 0 { "" } else { &target.user };
                if client.ready().now_or_never().is_none_or(|ready| ready.is_err()) {
                    break;
                }
                running.spawn(
                    client
                        .send_request(call(&target.grpc, "CheckSend", token).body(never).unwrap())
                        .map(drop),
                );
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn nearly_sent(target: Arc<Target>) {
    let incomplete = Bytes::from(framed(&vec![0; 2 << 20])).slice(..(2 << 20) - 10);
    loop {
        let mut running = JoinSet::new();
        for from in 15..19 {
            let Some(mut client) = http2(from, &target.grpc).await else { continue };
            for _ in 0..50 {
                let body = stream::iter([Ok::<_, std::io::Error>(incomplete.clone())])
                    .chain(stream::pending());
                let request = call(&target.grpc, "FilterRecipients", &target.tenant)
                    .body(Body::from_stream(body))
                    .unwrap();
                running.spawn(client.send_request(request).map(drop));
            }
        }
        sleep(Duration::from_secs(2)).await;
    }
}

/// As many connections as are accepted; closed ones are replaced.
async fn connections(target: Arc<Target>) {
    let check = pb::CheckSendRequest { app: "Open".into(), ..Default::default() };
    let mut running: Vec<SendRequest<Body>> = Vec::new();
    loop {
        running.retain(|client| !client.is_closed());
        for from in 20..24 {
            let open = async || {
                let client = http2(from, &target.grpc).await?;
                let _ = call_unary(&client, &target.grpc, "CheckSend", "", &check).await;
                (!client.is_closed()).then_some(client)
            };
            if running.len() < 1_200 {
                running.extend(join_all((0..20).map(|_| open())).await.into_iter().flatten());
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Sends a request over its own connection, and reads the answer.
async fn rest(
    target: &Target,
    from: u8,
    method: Method,
    path: &str,
    token: &str,
    body: &'static str,
) -> Option<StatusCode> {
    let stream = TokioIo::new(connect_from(from, &target.rest).await);
    let Ok((mut client, connection)) = hyper::client::conn::http1::handshake(stream).await else {
        return None;
    };
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", &target.rest)
        .header("authorization", token);
    let answer = client.send_request(request.body(Body::from(body)).unwrap()).await.ok()?;
    let status = answer.status();
    let _ = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await;
    connection.abort();
    Some(status)
}

async fn guesses(target: Arc<Target>) {
    let mut due = interval(Duration::from_millis(10));
    loop {
        due.tick().await;
        rest(&target, 24, Method::POST, TOKEN, "", WRONG).await;
    }
}

/// Makes calls at this rate, several at a time.
async fn calls(
    target: Arc<Target>,
    from: u8,
    per_s: u32,
    method: &'static str,
    token: impl Fn(u32) -> String,
    message: impl prost::Message + Clone + 'static,
) {
    let mut calls = JoinSet::new();
    let mut due = interval(Duration::from_secs(1) / per_s);
    let mut number = 0;
    while let Some(client) = http2(from, &target.grpc).await {
        while !client.is_closed() {
            due.tick().await;
            number += 1;
            if calls.len() < 60 {
                let client = client.clone();
                let target = target.clone();
                let token = token(number);
                let message = message.clone();
                calls.spawn(async move {
                    call_unary(&client, &target.grpc, method, &token, &message).await.is_ok()
                });
            }
            while calls.try_join_next().is_some() {}
        }
    }
}

async fn forbidden(target: Arc<Target>) {
    let users = vec!["victim".to_owned()];
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        users,
        ..Default::default()
    };
    let token = target.user.clone();
    calls(target, 25, 200, "MuteMembers", move |_| token.clone(), message).await;
}

async fn forged(target: Arc<Target>) {
    let message = pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    };
    let valid = target.user.clone();
    calls(
        target,
        26,
        500,
        "CheckSend",
        move |number| format!("{}{number:08}", &valid[..valid.len() - 8]),
        message,
    )
    .await;
}

async fn unread(target: Arc<Target>) {
    let message = pb::ListMutedMembersRequest {
        app: "evil#tenant".into(),
        room: "room".into(),
        page_size: 1_000,
        ..Default::default()
    };
    loop {
        let mut running = JoinSet::new();
        if let Ok((client, _)) = reading_nothing(27, &target.grpc).await {
            for _ in 0..50 {
                let body = Body::from(framed(&message.encode_to_vec()));
                let request =
                    call(&target.grpc, "ListMutedMembers", &target.tenant).body(body).unwrap();
                let answer = client.clone().send_request(request);
                running.spawn(async move {
                    let _answer = answer.await;
                    std::future::pending::<()>().await;
                });
            }
            sleep(Duration::from_secs(20)).await;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn history(target: Arc<Target>) {
    let message = pb::ListEventsRequest {
        app: "evil#tenant".into(),
        room: "none".into(),
        page_size: 1_000,
        ..Default::default()
    };
    let token = target.tenant.clone();
    calls(target, 28, 60, "ListEvents", move |_| token.clone(), message).await;
}

async fn lists(target: Arc<Target>) {
    let mut due = interval(Duration::from_millis(50));
    let mut lists = JoinSet::new();
    loop {
        due.tick().await;
        if lists.len() < 20 {
            let target = target.clone();
            lists.spawn(
                async move { rest(&target, 29, Method::GET, LIST, &target.tenant, "").await },
            );
        }
        while lists.try_join_next().is_some() {}
    }
}
