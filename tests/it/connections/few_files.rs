//! A limit of open files below the number of connections.

use std::{process::Command, time::Duration};

use crate::{
    cluster::until,
    hostile::connect_from,
    process::{Process, build, muted},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_when_connections_use_up_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let limited = build();
    let mut command = Command::new("sh");
    command
        .env_clear()
        .args(["-c", "ulimit -n 128 && exec \"$0\" \"$@\""])
        .arg(limited.get_program());
    let arguments = ["--data-dir", data.to_str().unwrap()];
    let process =
        Process::launch(command, directory.path(), ["127.0.0.1:0"; 3], &arguments).ready();
    let log = || std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(log().contains("WARN") && log().contains("at most 24 connections"), "{}", log());
    let [rest, admin] =
        [process.rest(), process.admin()].map(|url| url.trim_start_matches("http://").to_owned());
    let mut held = Vec::new();
    for number in 0..200_u8 {
        let to = [process.grpc(), rest.as_str(), admin.as_str()][usize::from(number % 3)];
        held.push(connect_from(2 + number, to).await);
    }
    // As a kubelet does: each time over a new connection, and with a timeout.
    let probe = async |path: &str| {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
        let answer = client.get(format!("{}{path}", process.admin())).send().await.ok();
        answer.is_some_and(|answer| answer.status() == 200)
    };
    for path in ["/readyz", "/livez", "/readyz", "/livez"] {
        // Silent connections make room after two seconds.
        until("a probe is answered", async || probe(path).await).await;
    }
    // More of them change nothing.
    for number in 0..200_u8 {
        held.push(connect_from(2 + number, &rest).await);
    }
    until("a probe is answered", async || probe("/livez").await).await;
    assert_eq!(muted(&mut process.mutes().await, "room").await, Vec::<String>::new());
    let complaints = log().matches("could not be accepted").count();
    assert!(complaints <= 1, "{complaints} lines");
}
