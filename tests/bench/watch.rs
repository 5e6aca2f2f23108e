//! Ten thousand watchers of one room: memory of each, and how soon the last one receives a change.

use std::{path::Path, time::Instant};

use futures_util::future::join_all;
use mute_service::proto::v1::{
    self as pb, mute_service_client::MuteServiceClient, watch_response::Event,
};
use tonic::Streaming;

use super::{
    Row,
    grpc::{self, authorized, user},
    median,
    program::{APP, Program},
};

const WATCHERS: usize = 10_000;
/// A server accepts 200 streams on a connection.
const WATCHES_PER_CONNECTION: usize = 100;
const ROUNDS: usize = 5;
const ROOM: &str = "watched";

pub async fn rows(directory: &Path) -> Vec<Row> {
    let program = Program::start(directory);
    let writer = grpc::connect(&program.grpc).await;
    grpc::mute(writer.clone(), ROOM.to_owned(), vec![user(0)]).await;
    let empty = program.memory();
    let mut watchers =
        join_all((0..WATCHERS / WATCHES_PER_CONNECTION).map(|_| watch(&program.grpc)))
            .await
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
    let each = (program.memory() - empty) / WATCHERS as f64;
    // This watcher stops reading, and must not delay the others.
    let _stopped = watchers.pop();
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let readers = watchers
            .into_iter()
            .map(|watcher| tokio::spawn(next_change(watcher)))
            .collect::<Vec<_>>();
        let started = Instant::now();
        grpc::mute(writer.clone(), ROOM.to_owned(), vec![user(round)]).await;
        watchers = join_all(readers).await.into_iter().map(Result::unwrap).collect();
        took.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    vec![Row {
        what: "one mute to 10,000 watchers of its room",
        ours: format!(
            "{:.0} ms until the last has it, {:.1} KiB a watcher",
            median(took),
            each / 1_024.0
        ),
        theirs: "-".to_owned(),
        ratio: None,
        target: "-",
    }]
}

/// Opens watches on one connection, each up to its first heartbeat.
async fn watch(addr: &str) -> Vec<Streaming<pb::WatchResponse>> {
    let channel = grpc::connect(addr).await;
    let mut watchers = Vec::new();
    for _ in 0..WATCHES_PER_CONNECTION {
        let message =
            pb::WatchRequest { app: APP.to_owned(), room: ROOM.to_owned(), after_revision: None };
        let mut stream = MuteServiceClient::new(channel.clone())
            .watch(authorized(message))
            .await
            .unwrap()
            .into_inner();
        assert!(matches!(
            stream.message().await.unwrap().unwrap().event,
            Some(Event::Heartbeat(_))
        ));
        watchers.push(stream);
    }
    watchers
}

async fn next_change(mut watcher: Streaming<pb::WatchResponse>) -> Streaming<pb::WatchResponse> {
    while !matches!(watcher.message().await.unwrap().unwrap().event, Some(Event::Change(_))) {}
    watcher
}
