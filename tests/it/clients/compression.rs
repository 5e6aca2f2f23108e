//! Client libraries that compress every message, as a fleet sets them all to.

use serde_json::json;

use super::run;
use crate::harness::{OPEN, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_compress_by_gzip_are_served() {
    let server = Server::start().await;
    server.mute(OPEN, "room", &["user"], None).await;
    let users: Vec<_> = (0..10_000).map(|number| format!("user{number}")).collect();
    let pairs = users[..1_000].iter().map(|user| json!({ "room": "room", "user": user }));
    let calls = json!([
        ["MuteService", "CheckSend", { "room": "room", "user": "user" }, "actor"],
        ["MuteService", "BatchCheckSend", { "pairs": pairs.collect::<Vec<_>>() }, "results"],
        ["MuteService", "FilterRecipients", { "room": "room", "users": users }, "users"],
        ["DirectoryService", "ListClients", {}, "clients"],
    ]);
    let task = json!({ "app": OPEN, "calls": calls, "gzip": true });
    for (library, printed) in run(&server, "lists", &task).await {
        assert_eq!(printed, json!(["service:dev".len(), 1_000, 10_000, 0]), "{library}");
    }
}
