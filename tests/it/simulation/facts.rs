//! The final state in one common form: the history, the records of the store, and what each replica
//! answers.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use mute_service::{
    model::{Expire, Key, Restriction, Value},
    proto::v1::{
        self as pb, directory_service_server::DirectoryService as _,
        mute_service_server::MuteService as _,
    },
    store::codec,
    transfer::stored::{Stored, Tombstones},
};
use tonic::Status;

use super::{
    callers::CLIENTS,
    world::{OPEN, Replica, STRICT, as_admin},
};
use crate::harness::ms;

/// One line a fact; restrictions that end soon are left out.
pub type Facts = BTreeSet<String>;

const ROOMS: [&str; 7] = ["m0", "m1", "r0", "d0", "d1", "b0", super::trouble::IMPORTED_ROOM];

/// The events of an app, oldest first.
pub async fn history(replica: &Replica, app: &str) -> Result<Vec<pb::Change>, Status> {
    let mut changes = Vec::new();
    let mut page_token = String::new();
    loop {
        let message = pb::ListEventsRequest {
            app: app.to_owned(),
            page_size: 1_000,
            page_token,
            ..Default::default()
        };
        let page = replica.api.list_events(as_admin(app, message)).await?.into_inner();
        changes.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            changes.reverse();
            return Ok(changes);
        }
    }
}

/// Facts from the records of the store. Idempotency records are left out.
pub async fn stored_facts(replica: &Replica, after_ms: u64) -> Result<Facts, String> {
    let snapshot = replica.service.store.snapshot().await.map_err(|error| error.to_string())?;
    let pages: Vec<_> = snapshot.pages.try_collect().await.map_err(|error| error.to_string())?;
    let mut tombstones = Tombstones::default();
    let mut entries = pages.concat();
    entries.retain(|entry| !matches!(tombstones.classify(entry), Ok(Stored::Deleted)));
    let records = entries.iter().map(|entry| codec::decode(&entry.key, &entry.value));
    let records: Vec<_> = records.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let is_registered = |app: &str, room: &str| {
        app == OPEN || records.iter().any(|(key, _)| *key == Key::Room { app, room })
    };
    let fact = |(key, value): &(Key<'_>, Value)| match (key, value) {
        (Key::Room { app, room }, Value::Room(profile)) => {
            Some(format!("room {app} {room} {:?}", profile.admins))
        }
        (Key::Client { app, user }, _) => Some(format!("client {app} {user}")),
        (Key::Ban { app, room }, Value::Restriction(restriction)) => {
            Some(format!("ban {app} {room} {}", end(restriction, after_ms)?))
        }
        (Key::MemberMute { app, room, user }, Value::Restriction(restriction)) => {
            Some(format!("mute {app} {room} {user} {}", end(restriction, after_ms)?))
        }
        (Key::UserMute { app, user }, Value::Restriction(restriction)) => {
            Some(format!("user mute {app} {user} {}", end(restriction, after_ms)?))
        }
        // No read returns mutes of a room that is not registered but has to be.
        (Key::NotificationMute { app, user, room }, Value::NotificationMute(restriction, _))
            if is_registered(app, room) =>
        {
            Some(format!("push mute {app} {room} {user} {}", end(restriction, after_ms)?))
        }
        _ => None,
    };
    Ok(records.iter().filter_map(fact).collect())
}

fn end(restriction: &Restriction, after_ms: u64) -> Option<String> {
    if restriction.expire == Expire::NEVER {
        return Some("permanent".to_owned());
    }
    restriction.expire.in_force(after_ms).then(|| "long".to_owned())
}

fn end_of(end: Option<&prost_types::Timestamp>, after_ms: u64) -> Option<&'static str> {
    match end {
        None => Some("permanent"),
        Some(end) => (ms(end) > after_ms).then_some("long"),
    }
}

/// Facts from the answers of a replica.
pub async fn replica_facts(replica: &Replica, after_ms: u64) -> Result<Facts, Status> {
    let mut facts = Facts::new();
    for app in [OPEN, STRICT] {
        let list = pb::ListRoomsRequest { app: app.into(), page_size: 1_000, ..Default::default() };
        let rooms = replica.api.list_rooms(as_admin(app, list)).await?.into_inner().rooms;
        facts
            .extend(rooms.iter().map(|room| format!("room {app} {} {:?}", room.room, room.admins)));
        let list =
            pb::ListClientsRequest { app: app.into(), page_size: 1_000, ..Default::default() };
        let clients = replica.api.list_clients(as_admin(app, list)).await?.into_inner().clients;
        facts.extend(clients.iter().map(|client| format!("client {app} {}", client.user)));
        let list =
            pb::ListMutedUsersRequest { app: app.into(), page_size: 1_000, ..Default::default() };
        for muted in replica.api.list_muted_users(as_admin(app, list)).await?.into_inner().users {
            let end = end_of(muted.expire_time.as_ref(), after_ms);
            facts.extend(end.map(|end| format!("user mute {app} {} {end}", muted.user)));
        }
        for room in ROOMS
            .iter()
            .filter(|room| app == OPEN || rooms.iter().any(|other| other.room == **room))
        {
            add_room_facts(replica, app, room, after_ms, &mut facts).await?;
        }
        for user in CLIENTS
            .iter()
            .filter(|user| app == OPEN || clients.iter().any(|other| other.user == **user))
        {
            let list = pb::ListMutedRoomsRequest {
                app: app.into(),
                user: (*user).into(),
                page_size: 1_000,
                ..Default::default()
            };
            for muted in replica.api.list_muted_rooms(as_admin(app, list)).await?.into_inner().rooms
            {
                let is_registered =
                    app == OPEN || rooms.iter().any(|other| other.room == muted.room);
                let end = end_of(muted.expire_time.as_ref(), after_ms).filter(|_| is_registered);
                facts.extend(end.map(|end| format!("push mute {app} {} {user} {end}", muted.room)));
            }
        }
    }
    Ok(facts)
}

async fn add_room_facts(
    replica: &Replica,
    app: &str,
    room: &str,
    after_ms: u64,
    facts: &mut Facts,
) -> Result<(), Status> {
    let get = pb::GetRoomRequest { app: app.into(), room: room.into(), min_revision: 0 };
    if let Some(ban) = replica.api.get_room(as_admin(app, get)).await?.into_inner().ban {
        facts.extend(
            end_of(ban.expire_time.as_ref(), after_ms).map(|end| format!("ban {app} {room} {end}")),
        );
    }
    let list = pb::ListMutedMembersRequest {
        app: app.into(),
        room: room.into(),
        page_size: 1_000,
        ..Default::default()
    };
    for muted in replica.api.list_muted_members(as_admin(app, list)).await?.into_inner().members {
        let end = end_of(muted.expire_time.as_ref(), after_ms);
        facts.extend(end.map(|end| format!("mute {app} {room} {} {end}", muted.user)));
    }
    Ok(())
}
