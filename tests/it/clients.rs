//! Client libraries of other makers at their default settings: grpcio (Python), grpc-js and
//! Connect (Node.js).

use std::process::Command;

use mute_service::proto::DESCRIPTORS;
use serde_json::Value;

use crate::{
    harness::{Server, has_python},
    tools::node,
};

mod compression;
mod lists;
mod restarts;

/// A program for each client library that can run here. Its arguments are the address of the
/// server, a file with the descriptors, and one with its task as JSON. Records what is missing.
fn libraries(program: &str) -> Vec<(&'static str, Command)> {
    let python = has_python().then(|| {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
        let mut command = Command::new("python3");
        command.arg(format!("{directory}/{program}.py"));
        ("grpcio", command)
    });
    let node = ["grpc-js", "connect"].into_iter().filter_map(|library| {
        let mut command = node(&format!("{program}.mjs"))?;
        command.arg(library);
        Some((library, command))
    });
    python.into_iter().chain(node).collect()
}

/// Runs the program with each library against the server. Returns what each has printed, as JSON.
async fn run(server: &Server, program: &str, task: &Value) -> Vec<(&'static str, Value)> {
    let directory = tempfile::tempdir().unwrap();
    let files = [directory.path().join("descriptors"), directory.path().join("task")];
    std::fs::write(&files[0], DESCRIPTORS).unwrap();
    std::fs::write(&files[1], task.to_string()).unwrap();
    let mut printed = Vec::new();
    for (library, mut command) in libraries(program) {
        command.arg(server.addresses.grpc.to_string()).args(&files);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{library}: {stderr}");
        printed.push((library, serde_json::from_slice(&output.stdout).unwrap()));
    }
    printed
}
