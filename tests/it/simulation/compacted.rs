//! etcd before 3.4.36 and 3.5.19 forgets the deletions of exactly the revision to which it is
//! compacted: a watch that resumes there does not receive them.

use std::time::Duration;

use mute_service::proto::v1::{self as pb, mute_service_server::MuteService as _};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::sleep;

use super::{
    Fault, is_reported,
    world::{OPEN, Replica, World, as_admin, outcome_of},
};
use crate::double::link::State;

const ROUNDS: usize = 5;

/// One replica is partitioned briefly. Meanwhile the other unmutes a user and the cluster is
/// compacted.
pub async fn run(mut random: StdRng) -> Vec<(Fault, String)> {
    if !is_reported(Fault::CompactedDeletion) {
        return Vec::new();
    }
    let world = World::with_two_replicas().await;
    let writer = world.replica(0).unwrap();
    let reader = world.replica(1).unwrap();
    for round in 0..ROUNDS {
        let user = format!("u{round}");
        let message = pb::MuteMembersRequest {
            app: OPEN.into(),
            room: "m0".into(),
            users: vec![user.clone()],
            ..Default::default()
        };
        outcome_of(writer.api.mute_members(as_admin(OPEN, message))).await;
        sleep(Duration::from_millis(random.random_range(1_000..2_000))).await;
        let link = &reader.network.links[0];
        link.set(State::Cut);
        let message = pb::UnmuteMembersRequest {
            app: OPEN.into(),
            room: "m0".into(),
            users: vec![user.clone()],
            ..Default::default()
        };
        outcome_of(writer.api.unmute_members(as_admin(OPEN, message))).await;
        world.double.compact(world.double.revision());
        link.set(State::Up);
        sleep(Duration::from_secs(4)).await;
        if is_muted(&reader, &user).await {
            world.fault(
                Fault::CompactedDeletion,
                format!(
                    "{user} is still muted at a replica that was partitioned when it was unmuted"
                ),
            );
        }
    }
    std::mem::take(&mut world.log().faults)
}

async fn is_muted(replica: &Replica, user: &str) -> bool {
    let check = pb::CheckSendRequest {
        app: OPEN.into(),
        room: "m0".into(),
        user: user.into(),
        min_revision: 0,
    };
    !replica.api.check_send(as_admin(OPEN, check)).await.unwrap().into_inner().allowed
}
