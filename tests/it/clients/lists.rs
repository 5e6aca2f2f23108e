//! Every list pages through, and every answer is taken, at the default limits of clients (4 MiB a
//! message).

use std::sync::Arc;

use mute_service::{
    config::Settings,
    model::{
        ClientProfile, Event, EventKind, Expire, Key, Provenance, Restriction, RoomProfile, Value,
    },
    proto::v1 as pb,
    store::Batch,
};
use reqwest::Method;
use serde_json::json;

use super::run;
use crate::harness::{IMKIT, OPEN, SERVICE, START_MS, Server, unlimited, with};

/// An id of 64 characters and 121 bytes.
fn id(prefix: &str, number: usize) -> String {
    format!("{prefix}{number:06}{}", "ü".repeat(57))
}

fn restriction() -> Restriction {
    let reason = "x".repeat(512).into();
    let provenance = Arc::new(Provenance { actor: "service:dev".into(), reason });
    Restriction { expire: Expire::after(START_MS, None).unwrap(), set_ms: START_MS, provenance }
}

fn event(app: &str, kind: EventKind) -> Event {
    Event::new(kind, app, "service:dev", START_MS)
}

/// Commits past the limits of calls, so that a thousand records take one commit.
async fn commit(server: &Server, batch: Batch<'_>) {
    let revision = server.service.store.commit(batch.encode()).await.unwrap();
    server.service.view.wait_for(revision).await;
}

/// Registers clients with this many muted rooms each.
async fn fill_clients(server: &Server, app: &str, clients: usize, rooms: usize) {
    let rooms: Vec<_> = (0..rooms).map(|number| id("r", number)).collect();
    for user in (0..clients).map(|number| id("u", number)) {
        let user = user.as_str();
        let mut batch = Batch::of(&event(app, EventKind::ClientUpserted));
        batch.put(Key::Client { app, user }, Value::Client(ClientProfile::default()));
        for (place, room) in (1..).zip(&rooms) {
            let key = Key::NotificationMute { app, user, room };
            batch.put(key, Value::NotificationMute(restriction(), place));
        }
        commit(server, batch).await;
    }
}

/// Records of every list, so many that each list is longer than a message may be, where the limits
/// of calls permit that.
async fn fill(server: &Server, app: &str) {
    fill_clients(server, app, 100, 400).await;
    let users: Vec<_> = (0..5_000).map(|number| id("u", number)).collect();
    let mut batch = Batch::of(&event(app, EventKind::Muted));
    for user in &users {
        let value = || Value::Restriction(restriction());
        batch.put(Key::MemberMute { app, room: "room", user }, value());
        batch.put(Key::Allowed { app, room: "room", user }, value());
        batch.put(Key::UserMute { app, user }, value());
    }
    commit(server, batch).await;
    for room in (0..600).map(|number| id("r", number)) {
        let admins = users[..100].to_vec();
        let mut batch = Batch::of(&event(app, EventKind::RoomUpserted));
        let profile = RoomProfile { admins, ..RoomProfile::default() };
        batch.put(Key::Room { app, room: &room }, Value::Room(profile));
        commit(server, batch).await;
    }
    for _ in 0..1_000 {
        let event = Event { users: users[..100].to_vec(), ..event(app, EventKind::Muted) };
        commit(server, Batch::of(&event)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_list_pages_through_at_the_defaults_of_clients() {
    let server = Server::start().await;
    fill(&server, OPEN).await;
    let lists = json!([
        ["DirectoryService", "ListClients", {}, "clients"],
        ["DirectoryService", "ListClients", {"page_size": 1000}, "clients"],
        ["DirectoryService", "ListRooms", {"page_size": 1000}, "rooms"],
        ["MuteService", "ListMutedMembers", {"room": "room", "page_size": 1000}, "members"],
        ["MuteService", "ListAllowedMembers", {"room": "room", "page_size": 1000}, "members"],
        ["MuteService", "ListMutedUsers", {"page_size": 1000}, "users"],
        ["MuteService", "ListMutedRooms", {"user": id("u", 0), "page_size": 1000}, "rooms"],
        ["MuteService", "ListEvents", {"kinds": ["CHANGE_KIND_MUTED"], "page_size": 1000},
            "events"],
    ]);
    let elements = [100, 100, 600, 5_000, 5_000, 5_000, 400, 1_001];
    let task = json!({ "app": OPEN, "calls": lists });
    for (library, printed) in run(&server, "lists", &task).await {
        assert_eq!(printed, json!(elements), "{library}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_answers_are_taken_at_the_defaults_of_clients() {
    let server = Server::start().await;
    // More muted rooms than calls may set: an import may bring them.
    fill_clients(&server, OPEN, 1, 1_001).await;
    let users: Vec<_> = (0..10_000).map(|number| id("u", number)).collect();
    let mut batch = Batch::of(&event(OPEN, EventKind::Muted));
    for user in &users[..1_000] {
        let key = Key::MemberMute { app: OPEN, room: "room", user };
        batch.put(key, Value::Restriction(restriction()));
    }
    commit(&server, batch).await;
    let mut batch = Batch::of(&event(OPEN, EventKind::RoomUpserted));
    let profile = RoomProfile { admins: users[..100].to_vec(), ..RoomProfile::default() };
    batch.put(Key::Room { app: OPEN, room: "room" }, Value::Room(profile));
    commit(&server, batch).await;
    let pairs: Vec<_> =
        users[..1_000].iter().map(|user| json!({ "room": "room", "user": user })).collect();
    let calls = json!([
        ["MuteService", "BatchCheckSend", { "pairs": pairs }, "results"],
        ["MuteService", "FilterRecipients", { "room": "room", "users": users }, "users"],
        ["MuteService", "GetRoom", { "room": "room" }, "room.admins"],
        ["DirectoryService", "GetClient", { "user": users[0] }, "client.muted_rooms"],
    ]);
    let task = json!({ "app": OPEN, "calls": calls });
    for (library, printed) in run(&server, "lists", &task).await {
        assert_eq!(printed, json!([1_000, 10_000, 100, 1_000]), "{library}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rest_page_of_large_clients_is_one_call_in_parts() {
    let one_call = Settings { rate_limit: Some(1), ..unlimited() };
    // An answer may have half of it: the whole list has more than that, and a part of it less.
    let little_memory = Settings { max_message_mib: Some(16), ..unlimited() };
    for (settings, rooms, mib) in [(little_memory, 750, 8), (one_call, 400, 4)] {
        let server = Server::with(settings).await;
        fill_clients(&server, IMKIT, 100, rooms).await;
        let (status, body) = server.imkit(Method::GET, "/admin/clients?limit=100", None).await;
        assert_eq!((status, &body["RC"], &body["RM"]), (200, &json!(0), &json!("OK")));
        let result = &body["result"];
        assert_eq!(result["data"].as_array().unwrap().len(), 100);
        assert!(result["totalCount"].as_u64().unwrap() >= 100);
        assert!(result.to_string().len() > mib << 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_pages_by_number_skip_no_client() {
    let server = Server::start().await;
    fill_clients(&server, IMKIT, 120, 400).await;
    let mut listed = Vec::new();
    loop {
        let path = format!("/admin/clients?limit=100&skip={}", listed.len().next_multiple_of(100));
        let (status, body) = server.imkit(Method::GET, &path, None).await;
        assert_eq!(status, 200);
        let page = body["result"]["data"].as_array().unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.iter().map(|client| client["id"].as_str().unwrap().to_owned()));
    }
    let mut directory = server.directory().await;
    let mut page_token = String::new();
    let mut registered = Vec::new();
    loop {
        let message =
            pb::ListClientsRequest { app: IMKIT.into(), page_token, ..Default::default() };
        let page = directory.list_clients(with(message, &[SERVICE])).await.unwrap().into_inner();
        registered.extend(page.clients.into_iter().map(|client| client.user));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(registered.len() >= 120);
    assert_eq!(listed, registered);
}
