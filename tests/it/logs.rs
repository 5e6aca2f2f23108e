//! The log on standard error: the service does not depend on who reads it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    cluster::until,
    process::{Process, build, mute, program},
    terminal::{OnTerminal, Stream},
};

/// The program with its standard error redirected by a shell, such as `2>/dev/full`.
pub fn redirected(to: &str) -> Command {
    let built = build();
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command.args(["-c", &format!("exec \"$0\" \"$@\" {to}")]).arg(built.get_program());
    command
}

async fn lines_dropped(process: &Process) -> u64 {
    let page = reqwest::get(format!("{}/metrics", process.admin())).await.unwrap();
    let page = page.text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix("mute_log_lines_dropped_total "));
    line.unwrap().parse().unwrap()
}

fn start(command: Command, directory: &Path, format: &str) -> Process {
    let data = directory.join("data");
    let arguments = ["--data-dir", data.to_str().unwrap(), "--log-format", format];
    Process::launch(command, directory, ["127.0.0.1:0"; 3], &arguments).ready()
}

/// Whether the service goes on and stops in order while its log lines are lost.
async fn goes_on(mut process: Process, name: &str) {
    // A reload is logged.
    process.signal("-HUP");
    until("the lost line is counted", async || lines_dropped(&process).await > 0).await;
    mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
    process.signal("-TERM");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_reader_of_the_log_ends_nothing() {
    for format in ["text", "json"] {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("log.fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // Opened for both, so that neither end waits for the other.
        let reader = fs::File::options().read(true).write(true).open(&fifo).unwrap();
        let command = redirected(&format!("2>'{}'", fifo.display()));
        let process = start(command, directory.path(), format);
        drop(reader);
        goes_on(process, format).await;
        assert!(!directory.path().join("data/RUNNING").exists(), "the stop was clean");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_log_that_stands_still_delays_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("log.fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _reader = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let mut command = redirected(&format!("2>'{}'", fifo.display()));
    // A line for each frame of HTTP/2: a pipe has room for some hundreds.
    command.env("MUTE_LOG", "trace");
    let process = start(command, directory.path(), "text");
    until("the queue of lines is full", async || {
        for number in 0..100 {
            mute(&mut process.mutes().await, "room", vec![format!("u{number}")]).await.unwrap();
        }
        lines_dropped(&process).await > 0
    })
    .await;
    goes_on(process, "text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_below_the_log_ends_nothing() {
    for format in ["text", "json"] {
        let directory = tempfile::tempdir().unwrap();
        goes_on(start(redirected("2>/dev/full"), directory.path(), format), format).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_standard_error_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = start(redirected("2>&-"), directory.path(), "text");
    process.signal("-HUP");
    mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
    process.signal("-TERM");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
}

#[test]
fn a_log_on_a_terminal_has_colours_only_where_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let shown = |name: &str, value: &str| {
        let mut serve = program();
        serve.args(["serve", "--dev", "--grpc-addr", &addr]).current_dir(directory.path());
        serve.env("MUTE_LOG", "debug").env(name, value);
        OnTerminal::spawn(serve, 200, &[Stream::Err]).ended().0
    };
    assert!(shown("CLICOLOR", "1").contains("\u{1b}["));
    for (name, value) in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
        let shown = shown(name, value);
        assert!(shown.contains("limit of open files") && !shown.contains('\u{1b}'), "{shown:?}");
    }
}
