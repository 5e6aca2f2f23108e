//! A lagging replica under continuous writes: it has to catch up while they continue.

use std::{sync::Arc, time::Duration};

use mute_service::proto::v1::{
    self as pb, directory_service_server::DirectoryService as _,
    mute_service_server::MuteService as _,
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::{Instant, interval, sleep};

use super::{
    Fault, is_reported,
    world::{Answer, OPEN, Replica, World, as_admin, outcome_of},
};
use crate::double::link::State;

/// Each write updates one of these clients, with this many bytes: a few seconds of writes are more
/// than an engine keeps in memory.
const CLIENTS: usize = 20;
const CLIENT_BYTES: usize = 15 << 10;
/// Calls of a hundred mutes: they make a snapshot five megabytes larger.
const MUTES: usize = 90;
/// The link of the lagging replica carries all writes, and this much more.
const SPARE_BYTES_PER_S: usize = 1_500_000;
/// A snapshot takes less than four seconds of the spare bandwidth.
const CATCH_UP: Duration = Duration::from_secs(9);
/// How late, once it has caught up, it may apply what another replica has acknowledged.
const MAX_LAG: Duration = Duration::from_secs(2);

/// Two replicas: one writes. The other loses its link for a while, in which the cluster is
/// compacted, and has a slow link from then on.
pub async fn run(mut random: StdRng) -> Vec<(Fault, String)> {
    // This run detects no other fault.
    if !is_reported(Fault::Stale) {
        return Vec::new();
    }
    let world = World::with_two_replicas().await;
    let writer = world.replica(0).unwrap();
    let lagging = world.replica(1).unwrap();
    for call in 0..MUTES {
        fill(&writer, call).await;
    }
    let writes_per_s = random.random_range(90..110);
    let bytes_per_s = writes_per_s * CLIENT_BYTES * 11 / 10 + SPARE_BYTES_PER_S;
    let flood = tokio::spawn(flood(world.clone(), writes_per_s));
    let link = &lagging.network.links[0];
    link.set(State::Stalled);
    sleep(Duration::from_secs(1)).await;
    world.double.compact(world.double.revision());
    link.pace(Duration::from_millis(1), Some(bytes_per_s as u64));
    link.reset();
    link.set(State::Up);
    sleep(CATCH_UP).await;
    if let Err(what) = catches_up(&writer, &lagging).await {
        world.fault(Fault::Stale, format!("at {writes_per_s} writes a second {what}"));
    }
    world.stop_callers();
    flood.await.unwrap();
    std::mem::take(&mut world.log().faults)
}

/// Checks that the lagging replica soon answers with what the other has acknowledged.
async fn catches_up(writer: &Replica, lagging: &Replica) -> Result<(), String> {
    let room = "m0".to_owned();
    let message = pb::MuteMembersRequest {
        app: OPEN.into(),
        room: room.clone(),
        users: vec!["seen".into()],
        ..Default::default()
    };
    let Answer::Done(muted) = outcome_of(writer.api.mute_members(as_admin(OPEN, message))).await
    else {
        return Err("the mute was not acknowledged".to_owned());
    };
    let started = Instant::now();
    while started.elapsed() < MAX_LAG {
        let check = pb::CheckSendRequest {
            app: OPEN.into(),
            room: room.clone(),
            user: "seen".into(),
            min_revision: 0,
        };
        let answer = lagging
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
    let applied = lagging.service.view.revision();
    Err(format!(
        "a mute at {} is not applied within {MAX_LAG:?} by a replica at {applied}",
        muted.revision
    ))
}

async fn fill(replica: &Replica, call: usize) {
    let users = (0..100).map(|user| format!("c{call}u{user}")).collect();
    let room = "full".to_owned();
    let reason = "x".repeat(500);
    let message =
        pb::MuteMembersRequest { app: OPEN.into(), room, users, reason, ..Default::default() };
    outcome_of(replica.api.mute_members(as_admin(OPEN, message))).await;
}

async fn flood(world: Arc<World>, writes_per_s: usize) {
    let mut due = interval(Duration::from_secs(1) / writes_per_s as u32);
    let mut number = 0;
    while world.is_running() {
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
    outcome_of(replica.api.upsert_client(as_admin(OPEN, message))).await;
}
