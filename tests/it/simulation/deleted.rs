//! What is muted again after a deletion, while the sweeper takes away what was muted before it.

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
    facts, is_told,
    world::{Replica, World, as_admin, ask, pause},
};

const ROUNDS: usize = 10;
/// The sweeper has been everywhere by then.
const SWEPT: Duration = Duration::from_secs(2);

/// One replica deletes and mutes again, at any moment of the sweepers of both.
pub async fn run(mut random: StdRng) -> Vec<(Fault, String)> {
    if !is_told(Fault::AfterDeletion) {
        return Vec::new();
    }
    let world = World::of_two().await;
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
        sleep(SWEPT).await;
        for replica in world.replicas() {
            look(&world, &replica).await;
        }
    }
    std::mem::take(&mut world.log().faults)
}

/// For good: the room's notifications by all clients, a member, and the room.
async fn mute(replica: &Replica, app: &'static str, room: &str) {
    for user in CLIENTS {
        let (user, room) = (user.to_owned(), room.to_owned());
        let message =
            pb::MuteRoomNotificationsRequest { app: app.into(), user, room, ..Default::default() };
        ask(replica.api.mute_room_notifications(as_admin(app, message))).await;
    }
    let users = vec![CLIENTS[0].to_owned()];
    let message =
        pb::MuteMembersRequest { app: app.into(), room: room.into(), users, ..Default::default() };
    ask(replica.api.mute_members(as_admin(app, message))).await;
    let message = pb::BanRoomRequest { app: app.into(), room: room.into(), ..Default::default() };
    ask(replica.api.ban_room(as_admin(app, message))).await;
}

async fn delete(replica: &Replica, random: &mut StdRng, app: &'static str, room: &str) {
    if random.random_bool(0.3) {
        let message = pb::DeleteClientRequest {
            app: app.into(),
            user: CLIENTS[0].into(),
            ..Default::default()
        };
        ask(replica.api.delete_client(as_admin(app, message))).await;
    } else {
        let message =
            pb::DeleteRoomRequest { app: app.into(), room: room.into(), ..Default::default() };
        ask(replica.api.delete_room(as_admin(app, message))).await;
    }
}

/// What was muted again is what every replica answers with.
async fn look(world: &World, replica: &Replica) {
    let found = match facts::of_replica(replica, world.now_ms()).await {
        Ok(found) => found,
        Err(status) => return world.fault(Fault::AfterDeletion, status.to_string()),
    };
    for (app, room) in DELETED_ROOMS {
        let silences = CLIENTS.map(|user| format!("silence {app} {room} {user} for good"));
        let member = format!("mute {app} {room} {} for good", CLIENTS[0]);
        let expected = silences.into_iter().chain([member, format!("ban {app} {room} for good")]);
        for lost in expected.filter(|fact| !found.contains(fact)) {
            world.fault(
                Fault::AfterDeletion,
                format!("replica {} lacks {lost:?}, of after a deletion", replica.number),
            );
        }
    }
}
