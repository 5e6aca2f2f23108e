//! Mutes made after a deletion, while the sweeper removes those from before it.

use std::time::Duration;

use mute_service::proto::v1::{
    self as pb, directory_service_server::DirectoryService as _,
    mute_service_server::MuteService as _,
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::sleep;

use super::{
    Fault,
    callers::{self, CLIENTS, DELETED_ROOMS},
    facts, is_reported,
    world::{Replica, World, as_admin, outcome_of, pause},
};

const ROUNDS: usize = 10;
/// By then the sweeper has visited everything.
const SWEEP_WAIT: Duration = Duration::from_secs(2);

/// One replica deletes and mutes again, at any moment of both sweepers.
pub async fn run(mut random: StdRng) -> Vec<(Fault, String)> {
    if !is_reported(Fault::AfterDeletion) {
        return Vec::new();
    }
    let world = World::with_two_replicas().await;
    for (app, room) in DELETED_ROOMS {
        callers::register(&world.any_replica(&mut random).unwrap(), app, room).await;
    }
    for _ in 0..ROUNDS {
        for (app, room) in DELETED_ROOMS {
            let replica = world.any_replica(&mut random).unwrap();
            mute(&replica, app, room).await;
            delete(&replica, &mut random, app, room).await;
            pause(&mut random, 0..300).await;
            callers::register(&replica, app, room).await;
            mute(&replica, app, room).await;
        }
        sleep(SWEEP_WAIT).await;
        for replica in world.replicas() {
            check_replica(&world, &replica).await;
        }
    }
    std::mem::take(&mut world.log().faults)
}

/// Permanent mutes: the room's notifications by all clients, a member, and the room.
async fn mute(replica: &Replica, app: &'static str, room: &str) {
    for user in CLIENTS {
        let user = user.to_owned();
        let room = room.to_owned();
        let message =
            pb::MuteRoomNotificationsRequest { app: app.into(), user, room, ..Default::default() };
        outcome_of(replica.api.mute_room_notifications(as_admin(app, message))).await;
    }
    let users = vec![CLIENTS[0].to_owned()];
    let message =
        pb::MuteMembersRequest { app: app.into(), room: room.into(), users, ..Default::default() };
    outcome_of(replica.api.mute_members(as_admin(app, message))).await;
    let message = pb::BanRoomRequest { app: app.into(), room: room.into(), ..Default::default() };
    outcome_of(replica.api.ban_room(as_admin(app, message))).await;
}

async fn delete(replica: &Replica, random: &mut StdRng, app: &'static str, room: &str) {
    if random.random_bool(0.3) {
        let message = pb::DeleteClientRequest {
            app: app.into(),
            user: CLIENTS[0].into(),
            ..Default::default()
        };
        outcome_of(replica.api.delete_client(as_admin(app, message))).await;
    } else {
        let message =
            pb::DeleteRoomRequest { app: app.into(), room: room.into(), ..Default::default() };
        outcome_of(replica.api.delete_room(as_admin(app, message))).await;
    }
}

/// Reports mutes from after the deletion that the replica does not have.
async fn check_replica(world: &World, replica: &Replica) {
    let found = match facts::replica_facts(replica, world.now_ms()).await {
        Ok(found) => found,
        Err(status) => return world.fault(Fault::AfterDeletion, status.to_string()),
    };
    for (app, room) in DELETED_ROOMS {
        let push_mutes = CLIENTS.map(|user| format!("push mute {app} {room} {user} permanent"));
        let member = format!("mute {app} {room} {} permanent", CLIENTS[0]);
        let expected =
            push_mutes.into_iter().chain([member, format!("ban {app} {room} permanent")]);
        for lost in expected.filter(|fact| !found.contains(fact)) {
            world.fault(
                Fault::AfterDeletion,
                format!("replica {} lacks {lost:?} from after a deletion", replica.number),
            );
        }
    }
}
