//! The callers of a simulation. Each makes its own random calls, to any replica.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use mute_service::proto::v1::{
    self as pb, directory_service_server::DirectoryService as _,
    mute_service_server::MuteService as _,
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::{
    Fault,
    world::{
        Answer, OPEN, Observation, Replica, STRICT, Watched, World, as_admin, as_user, outcome_of,
        pause,
    },
};
use crate::{
    checker::{Operation, Outcome},
    harness::{duration, reason},
};

/// The user whose rights in [`STAFFED_ROOM`] are granted and revoked.
pub const MODERATOR: &str = "mod";
pub const STAFFED_ROOM: &str = "r0";
/// Rooms that are deleted and registered again.
pub const DELETED_ROOMS: [(&str, &str); 2] = [(OPEN, "d0"), (STRICT, "d1")];
/// The users who mute notifications.
pub const CLIENTS: [&str; 3] = ["n0", "n1", "n2"];

/// A duration that ends during the run or long after it, or none: a permanent mute.
fn random_duration(random: &mut StdRng) -> Option<prost_types::Duration> {
    match random.random_range(0..4) {
        0 => None,
        1 => Some(duration(3_600_000)),
        _ => Some(duration(random.random_range(200..4_000))),
    }
}

/// Mutes and unmutes members whom no other caller touches.
pub async fn writer(world: Arc<World>, mut random: StdRng, number: usize) -> Vec<Operation> {
    let mut operations = Vec::new();
    while world.is_running() {
        pause(&mut random, 50..400).await;
        let name = format!("w{number}-{}", operations.len());
        let message = pb::MuteMembersRequest {
            app: OPEN.into(),
            room: format!("m{}", random.random_range(0..2)),
            users: vec![format!("w{number}u{}", random.random_range(0..2))],
            duration: random_duration(&mut random),
            reason: name.clone(),
            request_id: if random.random_bool(0.5) { name } else { String::new() },
        };
        let kind =
            if random.random_bool(0.7) { pb::ChangeKind::Muted } else { pb::ChangeKind::Unmuted };
        let outcome = write(&world, &mut random, kind, &message).await;
        let pb::MuteMembersRequest { room, users, reason, .. } = message;
        operations.push(Operation { reason, room, users, kind, outcome });
    }
    operations
}

/// Repeats a call without an answer, if it has a request id. Sometimes also repeats an answered
/// one, at another replica, which has to return the same answer.
async fn write(
    world: &World,
    random: &mut StdRng,
    kind: pb::ChangeKind,
    message: &pb::MuteMembersRequest,
) -> Outcome {
    let mut first = Outcome::Unknown;
    for number in 0..4 {
        let Some(replica) = world.any_replica(random) else { return first };
        let outcome = match kind {
            pb::ChangeKind::Muted => mute(world, &replica, message).await,
            _ => unmute(&replica, message).await,
        };
        match outcome {
            Outcome::Done(_) if first != Outcome::Unknown && first != outcome => {
                let what = format!(
                    "{} was answered with {first:?}, and its repeat with {outcome:?}",
                    message.reason
                );
                world.fault(Fault::History, what);
                return first;
            }
            Outcome::Unknown if first != Outcome::Unknown => return first,
            Outcome::Done(_) if random.random_bool(0.3) => first = outcome,
            // A refusal of the repeat says nothing about the call without an answer.
            Outcome::Nothing if number > 0 => return first,
            Outcome::Done(_) | Outcome::Nothing => return outcome,
            Outcome::Unknown => pause(random, 50..1_000).await,
        }
        if message.request_id.is_empty() {
            return first;
        }
    }
    first
}

async fn mute(world: &World, replica: &Replica, message: &pb::MuteMembersRequest) -> Outcome {
    match outcome_of(replica.api.mute_members(as_admin(OPEN, message.clone()))).await {
        Answer::Done(answer) => {
            let is_long = message.duration.as_ref().is_none_or(|duration| duration.seconds > 60);
            if is_long && may_speak(replica, message) {
                world.fault(
                    Fault::History,
                    format!("{} was acknowledged but is not in force", message.reason),
                );
            }
            Outcome::Done(answer.revision)
        }
        Answer::Refused => Outcome::Nothing,
        Answer::Unknown => Outcome::Unknown,
    }
}

/// What the replica that has just muted a user answers immediately.
fn may_speak(replica: &Replica, message: &pb::MuteMembersRequest) -> bool {
    let pb::MuteMembersRequest { app, room, users, .. } = message.clone();
    let check = pb::CheckSendRequest { app, room, user: users[0].clone(), min_revision: 0 };
    let answer = replica.api.check_send(as_admin(OPEN, check)).now_or_never();
    answer.is_some_and(|answer| answer.is_ok_and(|answer| answer.into_inner().allowed))
}

async fn unmute(replica: &Replica, message: &pb::MuteMembersRequest) -> Outcome {
    let pb::MuteMembersRequest { app, room, users, reason, request_id, .. } = message.clone();
    let message = pb::UnmuteMembersRequest { app, room, users, reason, request_id };
    match outcome_of(replica.api.unmute_members(as_admin(OPEN, message))).await {
        Answer::Done(answer) if answer.members.iter().any(|member| member.was_muted) => {
            Outcome::Done(answer.revision)
        }
        Answer::Done(_) | Answer::Refused => Outcome::Nothing,
        Answer::Unknown => Outcome::Unknown,
    }
}

/// Grants a moderator its right and revokes it, the latter while the moderator writes at every
/// replica.
pub async fn owner(world: Arc<World>, mut random: StdRng) {
    let mut number = 0;
    while world.is_running() {
        pause(&mut random, 200..800).await;
        let Some(replica) = world.any_replica(&mut random) else { continue };
        number += 1;
        if number % 9 == 0 {
            let message = pb::DeleteRoomRequest {
                app: OPEN.into(),
                room: STAFFED_ROOM.into(),
                ..Default::default()
            };
            outcome_of(replica.api.delete_room(as_admin(OPEN, message))).await;
            continue;
        }
        let has_right = number % 2 == 1;
        let request_id = format!("staff-{number}");
        let users = if has_right { vec![MODERATOR.to_owned()] } else { Vec::new() };
        let message = pb::UpsertRoomRequest {
            app: OPEN.into(),
            room: STAFFED_ROOM.into(),
            // A new name, so that each call changes something.
            name: Some(request_id.clone()),
            admins: Some(pb::RoomAdmins { users }),
            request_id: request_id.clone(),
            ..Default::default()
        };
        world.log().rights.insert(request_id, has_right);
        let delay_us = random.random_range(0..4_000);
        let change = async {
            sleep(Duration::from_micros(delay_us)).await;
            outcome_of(replica.api.upsert_room(as_admin(OPEN, message))).await;
        };
        let replicas = world.replicas();
        let moderated =
            replicas.iter().flat_map(|replica| (0..2).map(move |user| moderate(replica, user)));
        futures_util::join!(change, join_all(moderated));
    }
}

async fn moderate(replica: &Replica, user: usize) {
    sleep(Duration::from_micros(user as u64 * 700)).await;
    let message = pb::MuteMembersRequest {
        app: OPEN.into(),
        room: STAFFED_ROOM.into(),
        users: vec![format!("x{user}r{}", replica.number)],
        ..Default::default()
    };
    outcome_of(replica.api.mute_members(as_user(OPEN, MODERATOR, message))).await;
}

/// Mutes and unmutes notifications of rooms that are deleted and created, and observes the result
/// immediately.
pub async fn client(world: Arc<World>, mut random: StdRng, user: &'static str) {
    while world.is_running() {
        pause(&mut random, 50..400).await;
        let (app, room) = DELETED_ROOMS[random.random_range(0..2)];
        let Some(replica) = world.any_replica(&mut random) else { continue };
        let duration = random_duration(&mut random);
        let user = user.to_owned();
        let room = room.to_owned();
        if random.random_bool(0.75) {
            let message = pb::MuteRoomNotificationsRequest {
                app: app.into(),
                user,
                room: room.clone(),
                duration,
                ..Default::default()
            };
            outcome_of(replica.api.mute_room_notifications(as_admin(app, message))).await;
        } else {
            let message = pb::UnmuteRoomNotificationsRequest {
                app: app.into(),
                user,
                room: room.clone(),
                ..Default::default()
            };
            outcome_of(replica.api.unmute_room_notifications(as_admin(app, message))).await;
        }
        observe(&world, &replica, app, &room);
    }
}

/// Deletes rooms and clients, registers them again, and observes the result immediately.
pub async fn keeper(world: Arc<World>, mut random: StdRng) {
    while world.is_running() {
        pause(&mut random, 100..700).await;
        let (app, room) = DELETED_ROOMS[random.random_range(0..2)];
        let Some(replica) = world.any_replica(&mut random) else { continue };
        if random.random_bool(0.2) {
            let user = CLIENTS[random.random_range(0..CLIENTS.len())];
            let message = pb::DeleteClientRequest {
                app: app.into(),
                user: user.into(),
                ..Default::default()
            };
            outcome_of(replica.api.delete_client(as_admin(app, message))).await;
        } else {
            let message =
                pb::DeleteRoomRequest { app: app.into(), room: room.into(), ..Default::default() };
            outcome_of(replica.api.delete_room(as_admin(app, message))).await;
        }
        observe(&world, &replica, app, room);
        if random.random_bool(0.5) {
            pause(&mut random, 1..600).await;
        }
        let Some(replica) = world.any_replica(&mut random) else { continue };
        register(&replica, app, room).await;
        observe(&world, &replica, app, room);
    }
}

/// Registers the room and all clients.
pub async fn register(replica: &Replica, app: &'static str, room: &str) {
    let message = pb::UpsertRoomRequest {
        app: app.into(),
        room: room.into(),
        name: Some("room".into()),
        ..Default::default()
    };
    outcome_of(replica.api.upsert_room(as_admin(app, message))).await;
    for user in CLIENTS {
        let client = pb::Client { user: user.into(), ..Default::default() };
        let message =
            pb::UpsertClientRequest { app: app.into(), client: Some(client), ..Default::default() };
        outcome_of(replica.api.upsert_client(as_admin(app, message))).await;
    }
}

/// Bans and unbans a room, and mutes a user in the whole app.
pub async fn banner(world: Arc<World>, mut random: StdRng) {
    while world.is_running() {
        pause(&mut random, 100..700).await;
        let Some(replica) = world.any_replica(&mut random) else { continue };
        let duration = random_duration(&mut random);
        let app: String = OPEN.into();
        match random.random_range(0..4) {
            0 => {
                let message = pb::UnbanRoomRequest { app, room: "b0".into(), ..Default::default() };
                outcome_of(replica.api.unban_room(as_admin(OPEN, message))).await;
            }
            1 => {
                let message = pb::MuteUserRequest {
                    app,
                    user: "everywhere".into(),
                    duration,
                    ..Default::default()
                };
                outcome_of(replica.api.mute_user(as_admin(OPEN, message))).await;
            }
            _ => {
                let message =
                    pb::BanRoomRequest { app, room: "b0".into(), duration, ..Default::default() };
                outcome_of(replica.api.ban_room(as_admin(OPEN, message))).await;
            }
        }
    }
}

/// Records who receives no push from the room, at one revision of the view.
pub fn observe(world: &World, replica: &Replica, app: &'static str, room: &str) {
    let users: Vec<_> = CLIENTS.iter().map(|user| (*user).to_owned()).collect();
    let message = pb::FilterRecipientsRequest {
        app: app.into(),
        room: room.into(),
        users: users.clone(),
        min_revision: 0,
    };
    let revision = replica.service.view.revision();
    // An unregistered room is not observed.
    let Some(Ok(answer)) = replica.api.filter_recipients(as_admin(app, message)).now_or_never()
    else {
        return;
    };
    let pushed = answer.into_inner().users;
    world.log().observations.push(Observation {
        app,
        room: room.to_owned(),
        revision: revision as i64,
        now_ms: replica.clock.now_ms(),
        push_muted: users.into_iter().filter(|user| !pushed.contains(user)).collect(),
    });
}

/// Watches an app, or a room of it, at one machine while callers run. Resumes whenever the watch
/// ends.
pub async fn watcher(world: Arc<World>, machine: usize, room: &'static str) {
    let mut after = None;
    while world.is_running() {
        sleep(Duration::from_millis(50)).await;
        let Some(replica) = world.replica(machine) else { continue };
        let message =
            pb::WatchRequest { app: OPEN.into(), room: room.into(), after_revision: after };
        let Answer::Done(stream) = outcome_of(replica.api.watch(as_admin(OPEN, message))).await
        else {
            after = None;
            continue;
        };
        drop(replica);
        let watched = read_watch(&world, machine, stream, room).await;
        after = (watched.end != "REVISION_COMPACTED" && watched.last > 0).then_some(watched.last);
        world.log().watches.push(watched);
    }
}

/// Reads the watch until it ends, its replica is gone, or the callers stop.
async fn read_watch(
    world: &World,
    machine: usize,
    mut stream: impl futures_util::Stream<Item = Result<pb::WatchResponse, Status>> + Unpin,
    room: &str,
) -> Watched {
    let mut watched = Watched { room: room.to_owned(), ..Watched::default() };
    let begun = world.replica(machine).map(|replica| Arc::as_ptr(&replica.service) as usize);
    while world.is_running()
        && world.replica(machine).map(|replica| Arc::as_ptr(&replica.service) as usize) == begun
    {
        let event = match timeout(Duration::from_millis(200), stream.next()).await {
            Err(_) => continue,
            Ok(Some(Ok(pb::WatchResponse { event: Some(event) }))) => event,
            Ok(Some(Err(status))) => {
                watched.end = reason(&status);
                break;
            }
            Ok(_) => break,
        };
        match event {
            // The first heartbeat has the revision at which the watch begins.
            pb::watch_response::Event::Heartbeat(pb::Heartbeat { revision })
                if watched.last == 0 =>
            {
                (watched.after, watched.last) = (revision, revision);
            }
            pb::watch_response::Event::Heartbeat(pb::Heartbeat { revision }) => {
                watched.last = revision
            }
            pb::watch_response::Event::Change(change) => {
                watched.last = change.revision;
                watched.changes.push(change.revision);
            }
        }
    }
    watched
}
