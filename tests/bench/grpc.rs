//! The load over gRPC: tonic's client, the same for both sides.

use std::{future::Future, time::Instant};

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::future::join_all;
use http::uri::PathAndQuery;
use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use prost::Message as _;
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::{
    CONNECTIONS, IN_FLIGHT,
    program::{APP, TOKEN},
};

pub type Mutes = Channel;

pub async fn connect(addr: &str) -> Mutes {
    Channel::from_shared(format!("http://{addr}"))
        .unwrap()
        .tcp_nodelay(true)
        .connect()
        .await
        .unwrap()
}

/// Opens [`CONNECTIONS`] connections.
pub async fn connections(addr: &str) -> Vec<Mutes> {
    join_all((0..CONNECTIONS).map(|_| connect(addr))).await
}

pub fn authorized<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", TOKEN.parse().unwrap());
    request
}

/// Makes calls on every connection, [`IN_FLIGHT`] at a time on each, until the end. Returns the
/// number of calls. `call` also gets the numbers of the caller and of the call.
pub async fn load<F>(
    clients: &[Mutes],
    end: Instant,
    call: impl Fn(Mutes, usize, usize) -> F + Clone + Send + 'static,
) -> u64
where
    F: Future<Output = ()> + Send,
{
    let callers = (0..clients.len() * IN_FLIGHT).map(|caller| {
        let client = clients[caller % clients.len()].clone();
        let call = call.clone();
        tokio::spawn(async move {
            let mut calls = 0;
            while Instant::now() < end {
                call(client.clone(), caller, calls).await;
                calls += 1;
            }
            calls as u64
        })
    });
    join_all(callers.collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).sum()
}

pub async fn check(client: Mutes, room: String, user: String) {
    MuteServiceClient::new(client)
        .check_send(authorized(pb::CheckSendRequest {
            app: APP.to_owned(),
            room,
            user,
            min_revision: 0,
        }))
        .await
        .unwrap();
}

/// An encoded batch of checks.
pub fn encoded_batch(pairs: Vec<pb::RoomUser>) -> Bytes {
    pb::BatchCheckSendRequest { app: APP.to_owned(), pairs, min_revision: 0 }.encode_to_vec().into()
}

/// An encoded FilterRecipients request.
pub fn encoded_recipients(room: String, users: Vec<String>) -> Bytes {
    pb::FilterRecipientsRequest { app: APP.to_owned(), room, users, ..Default::default() }
        .encode_to_vec()
        .into()
}

/// Sends an encoded call of this method. Returns the encoded answer.
pub async fn raw(client: Channel, method: &'static str, request: Request<Bytes>) -> Bytes {
    let mut client = tonic::client::Grpc::new(client);
    client.ready().await.unwrap();
    client.unary(request, PathAndQuery::from_static(method), Raw).await.unwrap().into_inner()
}

pub async fn batch_check(client: Channel, message: Bytes) {
    let answer = raw(client, "/mute.v1.MuteService/BatchCheckSend", authorized(message)).await;
    assert!(answer.len() > 2 * 100);
}

pub async fn filter_recipients(client: Channel, message: Bytes) {
    let answer = raw(client, "/mute.v1.MuteService/FilterRecipients", authorized(message)).await;
    assert!(answer.len() > 10_000);
}

/// A codec that leaves bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

pub async fn mute(client: Mutes, room: String, users: Vec<String>) {
    let duration = Some(prost_types::Duration { seconds: 86_400, nanos: 0 });
    let message =
        pb::MuteMembersRequest { app: APP.to_owned(), room, users, duration, ..Default::default() };
    MuteServiceClient::new(client).mute_members(authorized(message)).await.unwrap();
}

/// A user id of ten bytes.
pub fn user(number: usize) -> String {
    format!("u{number:09}")
}

pub fn room(number: usize) -> String {
    format!("room{number:04}")
}

/// Mutes the notifications of a room for this many users.
pub async fn mute_notifications(clients: &[Mutes], room: &'static str, users: usize) {
    let callers = clients.len() * IN_FLIGHT;
    let calls = (0..callers).map(|caller| {
        let client = clients[caller % clients.len()].clone();
        tokio::spawn(async move {
            for number in (caller..users).step_by(callers) {
                let message = pb::MuteRoomNotificationsRequest {
                    app: APP.to_owned(),
                    user: user(number),
                    room: room.to_owned(),
                    ..Default::default()
                };
                MuteServiceClient::new(client.clone())
                    .mute_room_notifications(authorized(message))
                    .await
                    .unwrap();
            }
        })
    });
    for caller in calls.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

/// Mutes this many users in each of the first rooms, a hundred a call.
pub async fn fill(clients: &[Mutes], rooms: usize, users: usize) {
    fill_rooms(clients, 0..rooms, users).await;
}

/// Mutes this many users in each of these rooms.
pub async fn fill_rooms(clients: &[Mutes], rooms: std::ops::Range<usize>, users: usize) {
    let calls: Vec<_> =
        rooms.flat_map(|room| (0..users / 100).map(move |chunk| (room, chunk))).collect();
    let calls = std::sync::Arc::new(calls);
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let callers = (0..clients.len() * IN_FLIGHT).map(|caller| {
        let client = clients[caller % clients.len()].clone();
        let calls = calls.clone();
        let next = next.clone();
        tokio::spawn(async move {
            while let Some((number, chunk)) =
                calls.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
            {
                let users = (0..100).map(|at| user(number * users + chunk * 100 + at)).collect();
                mute(client.clone(), room(*number), users).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}
