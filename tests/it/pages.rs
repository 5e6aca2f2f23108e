//! The commands in the pages do what the pages say. Each command of README.md is run, or named in
//! [`NOT_RUN`]. The shell and Python examples of proto/README.md are run too, and those blocks of
//! deploy/README.md and deploy/CLUSTER.md that need this program alone. Every link leads somewhere.

use std::{fs, os::unix::fs::symlink, path::Path};

use mute_service::proto::v1 as pb;
use serde_json::{Deserializer, Value, json};

use crate::{
    etcd::Etcd,
    harness::{SERVICE, has_python, skipped, with},
    process::Process,
};

mod page;
mod run;

use page::{ROOT, anchors, blocks, commands, has, links, masked, page, session, texts, words};
use run::{Running, TIMEOUT, await_lines, is_installed, localized, printed, shell};

const PAGES: [&str; 7] = [
    "README.md",
    "deploy/CLUSTER.md",
    "deploy/LIMITS.md",
    "deploy/README.md",
    "deploy/RUNBOOK.md",
    "proto/README.md",
    "tests/README.md",
];
/// Commands of README.md that the test replaces.
const NOT_RUN: [&str; 1] = [
    // The test starts the program without arguments too, but the one that is built.
    "cargo run --release",
];
/// How a command of README.md begins that the test runs.
const RUN: [&str; 5] = ["curl ", "grpcurl ", "mute-service ", "TOKEN=", "ROOM="];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_readme_work() {
    if !is_installed("curl") {
        return skipped("install curl, so that it is on the PATH");
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let page = page("README.md");
    let mut answers = Vec::new();
    for block in blocks(&page) {
        match block.language {
            "sh" => answers = self::answers(&server, directory.path(), block.text).await,
            "json" => show(&answers, block.text),
            other => panic!("the test cannot check a block in {other}"),
        }
    }
}

/// Whether the last answers are as shown: one alone in full, and of several those fields.
fn show(answers: &[Value], shown: &str) {
    let shown: Vec<Value> = values(shown);
    let answers = &answers[answers.len() - shown.len()..];
    for (answer, shown) in answers.iter().zip(&shown) {
        assert!(has(answer, shown), "{shown} of {answer:#}");
    }
    if let ([answer], [shown]) = (answers, &shown[..]) {
        assert_eq!(masked(answer), masked(shown));
    }
}

fn values(text: &str) -> Vec<Value> {
    Deserializer::from_str(text).into_iter().map(Result::unwrap).collect()
}

/// Runs the commands of a block. Returns what each call is answered.
async fn answers(server: &Process, directory: &Path, block: &str) -> Vec<Value> {
    let mut commands = commands(&localized(block, server));
    commands.retain(|command| !NOT_RUN.contains(&command.as_str()));
    for command in &commands {
        let is_run = RUN.iter().any(|begin| command.starts_with(begin));
        assert!(is_run, "{command:?} is neither run nor listed as not run");
    }
    let mut answers: Vec<Value> = Vec::new();
    if block.starts_with("grpcurl ") && !is_installed("grpcurl") {
        for command in &commands {
            answers.push(grpc_answer(server, command).await);
        }
    } else {
        let out = printed(shell(directory, &commands.join("\n")));
        answers = values(&out);
    }
    let calls = commands
        .iter()
        .filter(|command| command.starts_with("curl ") || command.starts_with("grpcurl "));
    assert_eq!(answers.len(), calls.count(), "{answers:?}");
    assert!(answers.iter().all(Value::is_object), "{answers:?}");
    answers
}

/// Makes the call of a grpcurl command by the client of the tests. Returns what grpcurl prints.
async fn grpc_answer(server: &Process, command: &str) -> Value {
    let quoted: Vec<_> = command.split('\'').collect();
    let [_, header, _, body, method] = quoted[..] else { panic!("{command}") };
    assert_eq!(header, format!("{}: {}", SERVICE.0, SERVICE.1));
    let body: Value = serde_json::from_str(body).unwrap();
    let mut mutes = server.mutes().await;
    match method.split_whitespace().last().unwrap() {
        "mute.v1.MuteService/MuteMembers" => {
            let message = mute_message(&body);
            let answer = mutes.mute_members(with(message, &[SERVICE])).await.unwrap().into_inner();
            json!({"revision": answer.revision.to_string()})
        }
        "mute.v1.MuteService/CheckSend" => {
            let message = check_message(&body);
            let check = mutes.check_send(with(message, &[SERVICE])).await.unwrap().into_inner();
            check_answer(&check)
        }
        other => panic!("{other}: the test has no client for it"),
    }
}

fn mute_message(body: &Value) -> pb::MuteMembersRequest {
    let seconds = text(body, "duration").trim_end_matches('s').parse().unwrap();
    pb::MuteMembersRequest {
        app: text(body, "app"),
        room: text(body, "room"),
        users: serde_json::from_value(body["users"].clone()).unwrap(),
        duration: Some(prost_types::Duration { seconds, nanos: 0 }),
        reason: text(body, "reason"),
        ..Default::default()
    }
}

fn check_message(body: &Value) -> pb::CheckSendRequest {
    let room = text(body, "room");
    pb::CheckSendRequest {
        app: text(body, "app"),
        room,
        user: text(body, "user"),
        ..Default::default()
    }
}

/// As grpcurl prints it: without `allowed`, which is false.
fn check_answer(check: &pb::CheckSendResponse) -> Value {
    assert!(!check.allowed);
    json!({
        "rule": check.rule().as_str_name(),
        "expireTime": check.expire_time.unwrap().to_string(),
        "reason": check.reason,
        "actor": check.actor,
        "revision": check.revision.to_string(),
    })
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap().to_owned()
}

#[test]
fn the_shell_sessions_for_callers_print_what_they_show() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let url = format!("http://{}", server.grpc());
    let page = page("proto/README.md");
    let sessions = texts(&page, "console");
    let [following, moderating] = sessions[..] else { panic!("{sessions:?}") };

    let following = session(following);
    let [watch] = &following.steps[..] else { panic!("{following:?}") };
    let mut watcher =
        shell(directory.path(), &format!("{}exec {}", following.exports, watch.command));
    watcher.env("MUTE_ADDR", &url);
    let file = directory.path().join("changes");
    let watcher = Running::start(watcher, &file);
    // Its first line shows that the watch has begun.
    await_lines(&file, 1);

    let moderating = session(moderating);
    for step in &moderating.steps {
        let mut moderator =
            shell(directory.path(), &format!("{}{}", moderating.exports, lenient(&step.command)));
        moderator.env("MUTE_ADDR", &url);
        assert_eq!(words(&printed(moderator)), words(&step.out), "{}", step.command);
    }

    await_lines(&file, watch.out.lines().count());
    drop(watcher);
    assert_eq!(words(&fs::read_to_string(file).unwrap()), words(&watch.out));
}

/// A check that succeeds too where the user may not speak.
fn lenient(command: &str) -> String {
    if command.contains("mute-service ctl ") && command.contains(" check ") {
        format!("{command} || [ $? = 1 ]")
    } else {
        command.to_owned()
    }
}

#[test]
fn the_python_for_callers_prints_what_it_shows() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let page = page("proto/README.md");
    symlink(Path::new(ROOT).join("proto"), directory.path().join("proto")).unwrap();
    let mut stubs = commands(&texts(&page, "sh").concat());
    // It is there already.
    stubs.retain(|command| command != "pip install grpcio-tools");
    printed(shell(directory.path(), &stubs.join("\n")));

    let example = localized(&texts(&page, "python").join("\n"), &server);
    fs::write(directory.path().join("example.py"), example).unwrap();
    let expected = texts(&page, "text").join("\n");
    let file = directory.path().join("printed");
    // Unbuffered. The example keeps running, since its last part watches.
    let example = Running::start(shell(directory.path(), "exec python3 -u example.py"), &file);
    await_lines(&file, expected.lines().count());
    drop(example);
    assert_eq!(words(&fs::read_to_string(file).unwrap()), words(&expected));
}

/// The blocks in sh that need this program alone.
fn own_blocks(page: &str) -> Vec<&str> {
    let mut blocks = texts(page, "sh");
    blocks.retain(|block| {
        let mut commands = commands(block).into_iter();
        commands.all(|command| {
            command.starts_with("mute-service ") || command.starts_with("export MUTE_TOKEN=")
        })
    });
    blocks
}

/// A server with something to back up, whose data are in the directory's `data`.
fn filled(directory: &Path) -> Process {
    let server = Process::start(directory);
    let mut mute = shell(directory, "mute-service ctl mute room1 user1 user2");
    mute.envs([("MUTE_TOKEN", "dev-service-token"), ("MUTE_APP", "Open")]);
    mute.env("MUTE_ADDR", format!("http://{}", server.grpc()));
    printed(mute);
    server
}

fn stop(mut server: Process) {
    server.signal("-TERM");
    assert_eq!(server.exit_code(TIMEOUT), Some(0));
}

/// The line of `verify` with the hash of all records of a store.
fn sha256(directory: &Path, store: &str) -> String {
    let out = printed(shell(directory, &format!("mute-service verify {store}")));
    out.lines().find(|line| line.contains("sha256")).unwrap().to_owned()
}

#[test]
fn backups_and_exports_work_as_the_page_says() {
    let directory = tempfile::tempdir().unwrap();
    let server = filled(directory.path());
    let page = page("deploy/README.md");
    let blocks = own_blocks(&page);
    let [backup, export] = blocks[..] else { panic!("{blocks:?}") };
    let backup =
        localized(backup, &server).replace("MUTE_TOKEN=...", "MUTE_TOKEN=dev-service-token");
    printed(shell(directory.path(), &backup));
    stop(server);
    printed(shell(directory.path(), export));
    let hash = sha256(directory.path(), "--data-dir data");
    assert_eq!(sha256(directory.path(), "--data-dir new-data"), hash, "restored");
    assert_eq!(sha256(directory.path(), "--data-dir elsewhere"), hash, "imported");
}

#[test]
fn a_dev_server_is_backed_up_with_the_token_of_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::dev(directory.path());
    let page = page("deploy/README.md");
    let token = page.split('`').find(|word| word.starts_with("dev-")).unwrap();
    let backup = localized(own_blocks(&page)[0], &server);
    let backup = backup.replace("MUTE_TOKEN=...", &format!("MUTE_TOKEN={token}"));
    printed(shell(directory.path(), &backup));
    stop(server);
    let hash = sha256(directory.path(), "--data-dir data");
    assert_eq!(sha256(directory.path(), "--data-dir new-data"), hash);
}

#[test]
fn the_commands_that_dev_mode_prints_work() {
    if !is_installed("curl") {
        return skipped("install curl, so that it is on the PATH");
    }
    let directory = tempfile::tempdir().unwrap();
    let _server = Process::dev(directory.path());
    let file = directory.path().join("out");
    await_lines(&file, 18);
    let welcome = fs::read_to_string(file).unwrap();
    let commands = welcome.lines().filter_map(|line| line.strip_prefix("  "));
    let commands: Vec<_> = commands
        .filter(|line| line.starts_with("curl ") || line.starts_with("MUTE_TOKEN="))
        .collect();
    assert_eq!(commands.len(), 7, "{welcome}");
    for command in commands {
        let mut shell = shell(directory.path(), &lenient(command));
        // The program need not be on the PATH.
        shell.env("PATH", std::env::var("PATH").unwrap());
        printed(shell);
    }
    assert!(directory.path().join("mutes.backup").exists());
}

#[test]
fn records_move_into_a_cluster_as_the_page_says() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let directory = tempfile::tempdir().unwrap();
    stop(filled(directory.path()));
    let page = page("deploy/CLUSTER.md");
    let blocks = own_blocks(&page);
    let [import] = blocks[..] else { panic!("{blocks:?}") };
    printed(shell(directory.path(), &import.replace("http://127.0.0.1:2379", &etcd.urls())));
    let moved = sha256(directory.path(), &format!("--store etcd --etcd-endpoints {}", etcd.urls()));
    assert_eq!(moved, sha256(directory.path(), "--data-dir data"));
}

/// An interactive zsh takes a `#` for a word.
#[test]
fn no_command_to_paste_has_a_comment() {
    for path in PAGES {
        let page = page(path);
        for block in
            blocks(&page).iter().filter(|block| ["sh", "console"].contains(&block.language))
        {
            let mut words = block.text.split_whitespace();
            assert!(words.all(|word| !word.starts_with('#')), "{path}: {}", block.text);
        }
    }
}

#[test]
fn every_link_in_the_pages_leads_somewhere() {
    for path in PAGES {
        let text = page(path);
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => Path::new(ROOT).join(path),
                file => Path::new(ROOT).join(path).with_file_name(file),
            };
            assert!(target.exists(), "{path}: {link}");
            let is_there =
                anchor.is_empty() || anchors(&target).iter().any(|known| known == anchor);
            assert!(is_there, "{path}: {link}");
        }
    }
}
