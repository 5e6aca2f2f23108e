//! Who may call is read again while the service runs: all of it or nothing.

use std::{fs, path::Path};

use mute_service::proto::v1 as pb;
use tonic::Code;

use crate::{
    cluster::until,
    harness::{SERVICE, with},
    process::{Process, run, text},
};

async fn code(process: &Process, app: &str, token: &str) -> Code {
    let message = pb::CheckSendRequest { app: app.into(), room: "room".into(), user: "u".into(), min_revision: 0 };
    let bearer = format!("Bearer {token}");
    let checked = process.mutes().await.check_send(with(message, &[("authorization", &bearer)])).await;
    checked.err().map_or(Code::Ok, |status| status.code())
}

fn more(directory: &Path, config: &str) {
    let path = directory.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{config}")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_and_a_service_that_are_new_may_call_at_once_and_a_bad_file_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    assert_eq!(code(&process, "New", "dev-service-token").await, Code::NotFound);
    let hash = text(&run(&["hash-key", "the token of the new one, and a long one"]).stdout);
    let service =
        format!("[[services]]\nname = \"new\"\ntoken_hash = \"{}\"\nscopes = [\"check\"]\napps = [\"New\"]\n", hash.trim());
    more(directory.path(), &format!("[[apps]]\nkey = \"New\"\ndirectory = \"open\"\n{service}"));
    process.signal("-HUP");
    let new = "the token of the new one, and a long one";
    until("the new service may call", async || code(&process, "New", new).await == Code::Ok).await;
    assert_eq!(code(&process, "New", "dev-service-token").await, Code::Ok);
    assert_eq!(code(&process, "Open", new).await, Code::PermissionDenied);
    more(directory.path(), "[[apps]]\nkey = \"Third\"\ndirectory = \"shut\"\n");
    process.signal("-HUP");
    let log = || fs::read_to_string(directory.path().join("log")).unwrap();
    until("the bad file is told", async || log().contains("was not read again")).await;
    assert!(log().contains("[[apps]] number 3"), "{}", log());
    assert_eq!(code(&process, "New", new).await, Code::Ok);
    assert_eq!(code(&process, "Open", SERVICE.1.trim_start_matches("Bearer ")).await, Code::Ok);
    // Without a signal too; and whoever is gone may not call any more.
    let path = directory.path().join("config.toml");
    let first = fs::read_to_string(&path).unwrap();
    fs::write(&path, &first[..first.find("[[apps]]\nkey = \"New\"").unwrap()]).unwrap();
    until("the service is gone", async || code(&process, "New", new).await == Code::Unauthenticated).await;
}
