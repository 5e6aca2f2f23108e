//! Who may call is read again while the service runs: all of it or nothing.

use std::{fs, path::Path};

use mute_service::proto::v1 as pb;
use tonic::Code;

use crate::{
    cluster::until,
    harness::{SERVICE, with},
    process::{Process, mute, run, text},
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_when_its_service_is_configured_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let watch = || with(pb::WatchRequest { app: "Open".into(), ..Default::default() }, &[SERVICE]);
    let mut watch = process.mutes().await.watch(watch()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let path = directory.path().join("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    // Read again, and as it was: it goes on.
    process.signal("-HUP");
    let log = || fs::read_to_string(directory.path().join("log")).unwrap();
    until("it was read again", async || log().contains("was read again")).await;
    mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
    assert!(watch.message().await.unwrap().is_some());
    fs::write(&path, &config[..config.find("[[services]]").unwrap()]).unwrap();
    process.signal("-HUP");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    });
    assert_eq!(ended.await.unwrap().code(), Code::Unauthenticated);
}
