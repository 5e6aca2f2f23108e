//! A replica that has fallen behind, under writes that do not stop: it has to catch up while they
//! go on.

use std::{sync::Arc, time::Duration};

use mute_service::proto::v1::{
    self as pb, directory_service_server::DirectoryService as _,
    mute_service_server::MuteService as _,
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::{Instant, interval, sleep};

use super::{
    Fault, is_told,
    world::{Answer, OPEN, Replica, World, as_admin, ask},
};
use crate::double::link::State;

/// Each write is of one of these clients, and has so many bytes: some seconds of it are all that an
/// engine keeps in memory.
const CLIENTS: usize = 20;
const CLIENT_BYTES: usize = 15 << 10;
/// So many calls of a hundred mutes are what a snapshot has beside them: five megabytes.
const MUTES: usize = 90;
/// The link of the replica that is behind carries all writes, and so much more.
const SPARE_BYTES_PER_S: usize = 1_500_000;
/// A snapshot takes less than four seconds of what is spare.
const CATCH_UP: Duration = Duration::from_secs(9);
/// How late it may see what another has acknowledged, once it has.
const LATE: Duration = Duration::from_secs(2);

/// Two replicas: one writes, the other loses its link for a while, in which the cluster is
/// compacted, and has a slow one from then on.
pub async fn run(mut random: StdRng) -> Vec<(Fault, String)> {
    // Of nothing else.
    if !is_told(Fault::Stale) {
        return Vec::new();
    }
    let world = World::of_two().await;
    let writer = world.replica(0).unwrap();
    let behind = world.replica(1).unwrap();
    for call in 0..MUTES {
        fill(&writer, call).await;
    }
    let writes_per_s = random.random_range(90..110);
    let bytes_per_s = writes_per_s * CLIENT_BYTES * 11 / 10 + SPARE_BYTES_PER_S;
    let flood = tokio::spawn(flood(world.clone(), writes_per_s));
    let link = &behind.network.links[0];
    link.set(State::Stalled);
    sleep(Duration::from_secs(1)).await;
    world.double.compact(world.double.revision());
    link.pace(Duration::from_millis(1), Some(bytes_per_s as u64));
    link.reset();
    link.set(State::Up);
    sleep(CATCH_UP).await;
    if let Err(what) = catches_up(&writer, &behind).await {
        world.fault(Fault::Stale, format!("at {writes_per_s} writes a second {what}"));
    }
    world.stop_callers();
    flood.await.unwrap();
    std::mem::take(&mut world.log().faults)
}

/// What the one acknowledges the other answers with, in a while.
async fn catches_up(writer: &Replica, behind: &Replica) -> Result<(), String> {
    let room = "m0".to_owned();
    let message = pb::MuteMembersRequest {
        app: OPEN.into(),
        room: room.clone(),
        users: vec!["seen".into()],
        ..Default::default()
    };
    let Answer::Done(muted) = ask(writer.api.mute_members(as_admin(OPEN, message))).await else {
        return Err("nothing is muted".to_owned());
    };
    let started = Instant::now();
    while started.elapsed() < LATE {
        let check = pb::CheckSendRequest {
            app: OPEN.into(),
            room: room.clone(),
            user: "seen".into(),
            min_revision: 0,
        };
        let answer = behind
            .api
            .check_send(as_admin(OPEN, check))
            .await
            .map_err(|status| status.to_string())?
            .into_inner();
        if !answer.allowed {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
    let is_at = behind.service.view.revision();
    Err(format!(
        "a mute at {} is not seen within {LATE:?} by a replica that is at {is_at}",
        muted.revision
    ))
}

async fn fill(replica: &Replica, call: usize) {
    let users = (0..100).map(|user| format!("c{call}u{user}")).collect();
    let room = "full".to_owned();
    let reason = "x".repeat(500);
    let message =
        pb::MuteMembersRequest { app: OPEN.into(), room, users, reason, ..Default::default() };
    ask(replica.api.mute_members(as_admin(OPEN, message))).await;
}

async fn flood(world: Arc<World>, writes_per_s: usize) {
    let mut due = interval(Duration::from_secs(1) / writes_per_s as u32);
    let mut number = 0;
    while world.goes_on() {
        due.tick().await;
        let Some(replica) = world.replica(0) else { return };
        write(&replica, number % CLIENTS).await;
        number += 1;
    }
}

async fn write(replica: &Replica, client: usize) {
    let custom_json =
        format!("{{\"filler\":\"{:x<1$}\"}}", replica.service.view.revision(), CLIENT_BYTES);
    let client = pb::Client { user: format!("flooded{client}"), custom_json, ..Default::default() };
    let message =
        pb::UpsertClientRequest { app: OPEN.into(), client: Some(client), ..Default::default() };
    ask(replica.api.upsert_client(as_admin(OPEN, message))).await;
}
