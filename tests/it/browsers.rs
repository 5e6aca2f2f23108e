//! The vendors' own web SDKs call the gateway from a page, in jsdom and in headless Chromium.

use std::process::Command;

use reqwest::Client;
use serde_json::{Value, json};

use crate::{
    process::{Process, text},
    tools::{has_program, node},
};

/// Agora's SDK and Easemob's, as scripts of their packages.
const SDKS: [&str; 2] = ["agora-chat/Agora-chat.js", "easemob-websdk/Easemob-chat.js"];

/// A token of the dev app, from the service.
pub async fn token(server: &Process) -> String {
    let body = r#"{"grant_type":"client_credentials","client_id":"dev-client","client_secret":"dev-secret"}"#;
    let url = format!("{}/easemob-demo/testapp/token", server.rest());
    let answer = Client::new().post(url).body(body).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

/// What a script of tests/node prints, as JSON.
pub fn printed(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the SDK makes of the answers to `sdk_calls.js`.
fn assert_answers(sdk: &str, answers: &Value) {
    let for_good = 4_638_873_600_000_u64;
    for (call, expected) in [
        ("mute", json!([{"result": true, "expire": for_good, "user": "user1"}])),
        ("list", json!([{"expire": for_good, "user": "user1"}])),
        ("unmute", json!([{"result": true, "user": "user1"}])),
        ("is_muted", json!(false)),
        ("ban", json!({"mute": true, "result": true, "expire": for_good})),
        ("unban", json!({"mute": false, "result": true})),
        ("allowed", json!(["user1"])),
        ("is_allowed", json!({"member": "user1", "white": true})),
    ] {
        assert_eq!(answers[call], expected, "{sdk}: {call} in {answers:#}");
    }
    for (call, action) in [("allow", "add_user_whitelist"), ("disallow", "remove_user_whitelist")] {
        // Easemob's SDK takes the element out of the array.
        let element = answers[call].get(0).unwrap_or(&answers[call]);
        let parts = [&element["result"], &element["action"], &element["user"]];
        assert_eq!(parts, [&json!(true), &json!(action), &json!("user1")], "{sdk}: {answers:#}");
    }
    assert_eq!(answers["room"][0]["mute"], json!(true), "{sdk}");
    let no_room = answers["no_room"].as_str().unwrap();
    assert!(no_room.contains("grpID 1 does not exist!"), "{sdk}: {no_room}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_web_sdks_moderate_a_room_in_jsdom() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let token = token(&server).await;
    for sdk in SDKS {
        let Some(mut command) = node("sdk_jsdom.mjs") else { return };
        command.args([sdk, &server.rest(), &token, "http://localhost:3000"]);
        assert_answers(sdk, &printed(&mut command));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_web_sdks_moderate_a_room_in_chromium() {
    if !has_program("chromium", "chromium") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let token = token(&server).await;
    for sdk in SDKS {
        let Some(mut command) = node("sdk_chromium.mjs") else { return };
        command.args([sdk, &server.rest(), &token]);
        assert_answers(sdk, &printed(&mut command));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_docs_fit_a_phone_and_try_it_waits_for_credentials() {
    if !has_program("chromium", "chromium") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let Some(mut command) = node("docs_page.mjs") else { return };
    let page = printed(command.arg(server.rest()));
    assert_eq!(
        (&page["broken"], &page["wide"], &page["width"]),
        (&json!([]), &json!([]), &json!(390))
    );
    let waits = |headers: &str| json!([true, format!("First fill in {headers}.")]);
    assert_eq!(
        page["before"],
        json!([waits("Authorization"), [false, ""], waits("IM-CLIENT-KEY and IM-Authorization")])
    );
    assert_eq!(
        (&page["after"], &page["status"]),
        (&json!([[false, ""], [false, ""]]), &json!("200"))
    );
}
