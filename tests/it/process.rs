//! The real program: its exit codes, its reaction to signals and restarts, and its memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use mute_service::proto::v1::{
    self as pb, directory_service_client::DirectoryServiceClient,
    mute_service_client::MuteServiceClient,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::harness::{SERVICE, with};

/// An app with an open directory, so that users need not be registered, and the dev service with
/// access to all apps.
const OPEN_APP: &str = r#"
[[apps]]
key = "Open"
directory = "open"
token_secret = "a secret of sixteen or more"

[[services]]
name = "dev"
token_hash = "sha256:"#;

pub fn program() -> Command {
    command(env!("CARGO_BIN_EXE_mute-service"))
}

/// The program, or the build that `MUTE_TEST_PROGRAM` names.
pub fn build() -> Command {
    std::env::var("MUTE_TEST_PROGRAM").map_or_else(|_| program(), |path| command(&path))
}

/// The program at this path, without the environment of the tests.
fn command(path: &str) -> Command {
    let mut program = Command::new(path);
    program.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    program
}

pub fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A running program and its addresses. Dropping it kills the process.
pub struct Process {
    child: Child,
    addresses: Value,
    addr_file: PathBuf,
    log: PathBuf,
}

impl Process {
    pub fn start(directory: &Path) -> Self {
        Self::spawn(directory, directory, &[]).ready()
    }

    /// Starts the process, with its data in a directory on `disk` and more arguments. Does not
    /// wait: see [`Process::ready`].
    pub fn spawn(directory: &Path, disk: &Path, arguments: &[&str]) -> Self {
        Self::spawn_with(directory, disk, arguments, "")
    }

    /// Like [`Process::spawn`], with more configuration.
    pub fn spawn_with(directory: &Path, disk: &Path, arguments: &[&str], config: &str) -> Self {
        let data = disk.join("data");
        let arguments = [&["--data-dir", data.to_str().unwrap()], arguments].concat();
        Self::launch_with(build(), directory, ["127.0.0.1:0"; 3], &arguments, config)
    }

    /// Starts this command, which is the program, with these addresses for gRPC, REST and admin.
    pub fn launch(
        command: Command,
        directory: &Path,
        addrs: [&str; 3],
        arguments: &[&str],
    ) -> Self {
        Self::launch_with(command, directory, addrs, arguments, "")
    }

    /// Like [`Process::launch`], with more configuration.
    pub fn launch_with(
        mut command: Command,
        directory: &Path,
        addrs: [&str; 3],
        arguments: &[&str],
        more: &str,
    ) -> Self {
        let config = directory.join("config.toml");
        let hash = text(&run(&["hash-key", "dev-service-token"]).stdout);
        let hash = hash.trim().trim_start_matches("sha256:");
        let services = format!(
            "{OPEN_APP}{hash}\"\nscopes = [\"check\", \"write\", \"admin\"]\napps = [\"*\"]\n{more}"
        );
        fs::write(&config, services).unwrap();
        command.args(["serve", "--config", config.to_str().unwrap()]);
        command.args(["--grpc-addr", addrs[0], "--rest-addr", addrs[1], "--admin-addr", addrs[2]]);
        if !arguments.contains(&"--rate-limit") {
            command.args(["--rate-limit", "0", "--user-rate-limit", "0"]);
        }
        command.args(arguments);
        Self::spawn_command(command, directory)
    }

    /// Starts the program without arguments, hence in dev mode, on free ports, with its data in
    /// this directory. Returns once it is ready.
    pub fn dev(directory: &Path) -> Self {
        Self::spawn_bare(program(), directory).ready()
    }

    /// Starts this command, which is the program with all arguments but the addresses.
    pub fn spawn_bare(mut command: Command, directory: &Path) -> Self {
        command.current_dir(directory);
        command
            .envs(["GRPC", "REST", "ADMIN"].map(|at| (format!("MUTE_{at}_ADDR"), "127.0.0.1:0")));
        Self::spawn_command(command, directory)
    }

    fn spawn_command(mut command: Command, directory: &Path) -> Self {
        let addr_file = directory.join("addresses.json");
        let log = directory.join("log");
        let _ = fs::remove_file(&addr_file);
        command.env("MUTE_ADDR_FILE", &addr_file);
        let log_file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let out = fs::File::create(directory.join("out")).unwrap();
        let child = command.stdout(out).stderr(log_file).spawn().unwrap();
        Self { child, addresses: Value::Null, addr_file, log }
    }

    /// Whether the process has exited.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its exit code, if it exits within this time.
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let started = Instant::now();
        while started.elapsed() < within {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    pub fn ready(mut self) -> Self {
        let started = Instant::now();
        while !self.addr_file.exists() {
            assert!(
                started.elapsed() < Duration::from_secs(20)
                    && self.child.try_wait().unwrap().is_none(),
                "the program has not started: {}",
                fs::read_to_string(&self.log).unwrap()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        self.addresses = serde_json::from_slice(&fs::read(&self.addr_file).unwrap()).unwrap();
        self
    }

    /// The address of gRPC.
    pub fn grpc(&self) -> &str {
        self.addresses["grpc"].as_str().unwrap()
    }

    pub async fn mutes(&self) -> MuteServiceClient<Channel> {
        connect(self.grpc()).await
    }

    pub async fn directory(&self) -> DirectoryServiceClient<Channel> {
        DirectoryServiceClient::connect(format!("http://{}", self.grpc())).await.unwrap()
    }

    /// The URL of REST.
    pub fn rest(&self) -> String {
        format!("http://{}", self.addresses["rest"].as_str().unwrap())
    }

    /// The URL of the admin listener.
    pub fn admin(&self) -> String {
        format!("http://{}", self.addresses["admin"].as_str().unwrap())
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Resident memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_kib("VmRSS") << 10
    }

    /// Peak resident memory since the start or [`Process::reset_peak`].
    pub fn peak_bytes(&self) -> u64 {
        self.memory_kib("VmHWM") << 10
    }

    /// Resets the peak to what is resident now.
    pub fn reset_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// CPU time of the process.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // In hundredths of a second: user time and system time.
        Duration::from_millis(10)
            * (fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap())
    }

    /// A line of /proc/PID/status, in KiB.
    fn memory_kib(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|found| found.starts_with(line)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn connect(grpc: &str) -> MuteServiceClient<Channel> {
    MuteServiceClient::connect(format!("http://{grpc}")).await.unwrap()
}

/// Whether the server did not process this call, because its connection was closing: the client
/// never sent it, or it came after the last call that the GOAWAY names. The tests' client reports
/// such calls and leaves the retry to the caller.
pub fn was_not_taken(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_canceled() || format!("{error:?}").contains("NO_ERROR, Remote");
        }
        source = error.source();
    }
    false
}

pub async fn mute(
    mutes: &mut MuteServiceClient<Channel>,
    room: &str,
    users: Vec<String>,
) -> Result<i64, tonic::Status> {
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: room.into(),
        users,
        ..Default::default()
    };
    mutes.mute_members(with(message, &[SERVICE])).await.map(|answer| answer.into_inner().revision)
}

/// All muted users of the room, read page by page.
pub async fn muted(mutes: &mut MuteServiceClient<Channel>, room: &str) -> Vec<String> {
    let mut users = Vec::new();
    let mut page_token = String::new();
    loop {
        let message = pb::ListMutedMembersRequest {
            app: "Open".into(),
            room: room.into(),
            page_size: 1_000,
            page_token,
            ..Default::default()
        };
        let page = mutes.list_muted_members(with(message, &[SERVICE])).await.unwrap().into_inner();
        users.extend(page.members.into_iter().map(|member| member.user));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return users;
        }
    }
}

fn user(number: usize) -> String {
    format!("user{number:06}")
}

/// Mutes users with these numbers, a hundred a call, eight calls at a time.
async fn fill(process: &Process, room: &str, numbers: impl Iterator<Item = usize>) {
    let users: Vec<_> = numbers.map(user).collect();
    let mutes = process.mutes().await;
    let calls: Vec<_> = users.chunks(100).map(<[String]>::to_vec).collect();
    for calls in calls.chunks(8) {
        let mute = |users: &Vec<String>| {
            let mut mutes = mutes.clone();
            let users = users.clone();
            async move { mute(&mut mutes, room, users).await.unwrap() }
        };
        join_all(calls.iter().map(mute)).await;
    }
}

#[test]
fn a_failed_start_is_logged_as_json_when_the_log_is_json() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("data"), "no directory").unwrap();
    let data = directory.path().join("data/below");
    let addrs =
        ["--grpc-addr", "127.0.0.1:0", "--rest-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"];
    let failed = run(&[
        &["serve", "--log-format", "json", "--data-dir", data.to_str().unwrap()],
        &addrs[..],
    ]
    .concat());
    assert_eq!(failed.status.code(), Some(1));
    let log = text(&failed.stderr);
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert!(last["level"] == "ERROR" && last["error"].as_str().unwrap().contains("below"), "{log}");
}

#[test]
fn check_config_reports_an_unusable_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let cert = directory.path().join("tls.crt");
    let key = directory.path().join("tls.key");
    fs::write(&cert, "no certificate").unwrap();
    fs::write(&key, "no key").unwrap();
    let checked = run(&[
        "check-config",
        "--tls-cert",
        cert.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ]);
    assert_eq!(checked.status.code(), Some(64));
    assert!(text(&checked.stderr).contains("tls.key"), "{}", text(&checked.stderr));
}

#[test]
fn usage_errors_exit_with_64_and_say_what_to_do() {
    let cases: [(&[&str], &str); 7] = [
        (&["serve", "--colour"], "--colour"),
        (&["serve", "--store", "paper"], "possible values: sled, etcd"),
        (&["serve", "--store", "etcd"], "--etcd-endpoints"),
        (&["serve", "--store", "etcd", "--etcd-endpoints", "https://127.0.0.1:2379"], "--etcd-ca"),
        (&["check-config", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (&["serve", "--dev", "--rest-addr", "0.0.0.0:0"], "loopback"),
        (&["token", "--dev", "--app", "nobody#here"], "--app"),
    ];
    for (arguments, word) in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(text(&output.stderr).contains(word), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    for arguments in [
        &["check-config", "--dev"][..],
        &["completions", "bash"],
        &["--help"],
        &["ctl", "mute", "--help"],
        &["--version"],
        &["hash-key", "a key of more than sixteen characters"],
        &["token", "--dev", "--app", "SampleApp"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = program().args(arguments).stdout(full).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("standard output: No space left"), "{arguments:?}: {stderr}");
        // A reader who has seen enough is no failure.
        let mut unread = program();
        let unread = unread.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = unread.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn check_config_hash_key_token_and_help_work() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/mute-service.toml");
    // The secrets of the sample are public.
    let checked = run(&["check-config", "--config", sample]);
    let wrong = text(&checked.stderr);
    assert_eq!(
        (checked.status.code(), wrong.matches("of the sample").count()),
        (Some(64), 6),
        "{wrong}"
    );
    let served = run(&["serve", "--config", sample]);
    assert_eq!(served.status.code(), Some(64));
    let mut config = fs::read_to_string(sample).unwrap();
    for name in ["client-secret", "api-key", "client-key", "service-token"] {
        let hash = |key: &str| text(&run(&["hash-key", key]).stdout).trim().to_owned();
        let sample_hash = hash(&format!("change-me-{name}"));
        assert!(config.contains(&sample_hash), "{name}");
        config = config.replace(&sample_hash, &hash(&format!("a random {name}")));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, config.replace("\"change-me", "\"changed")).unwrap();
    let checked = run(&["check-config", "--config", path.to_str().unwrap()]);
    assert_eq!(
        text(&checked.stdout),
        "The configuration is valid: 2 apps, 1 service, 0 issuers.\n",
        "{}",
        text(&checked.stderr)
    );
    assert_eq!(run(&["hash-key", ""]).status.code(), Some(64));
    let token = run(&["token", "--dev", "--app", "SampleApp", "--user", "aaa"]);
    assert_eq!(text(&token.stdout).trim().split('.').count(), 3);
    let help = text(&run(&["serve", "--help"]).stdout);
    for flag in [
        "--config",
        "--dev",
        "--store",
        "--data-dir",
        "--grpc-addr",
        "--rest-addr",
        "--admin-addr",
        "--addr-file",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(run(&["--version"]).status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_running_calls_and_exits_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path());
    let writers: Vec<_> = join_all((0..8).map(|_| process.mutes())).await;
    let writers = writers.into_iter().enumerate().map(|(writer, mut mutes)| {
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let user = format!("w{writer}n{number}");
                match mute(&mut mutes, "r", vec![user.clone()]).await {
                    Ok(_) => acknowledged.push(user),
                    Err(_) => return acknowledged,
                }
            }
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    while muted(&mut process.mutes().await, "r").await.len() < 50 {}
    process.signal("-TERM");
    let mut acknowledged: Vec<_> =
        join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    assert!(!directory.path().join("data/RUNNING").exists());
    let process = Process::start(directory.path());
    let mut kept = muted(&mut process.mutes().await, "r").await;
    acknowledged.sort_unstable();
    kept.retain(|user| acknowledged.binary_search(user).is_ok());
    assert_eq!(kept, acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_mutes_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut last = 0;
    for round in 0..5 {
        let process = Process::start(directory.path());
        let mut mutes = process.mutes().await;
        assert_eq!(muted(&mut mutes, "r").await, acknowledged);
        for number in 0..40 {
            let users =
                vec![user(round * 1_000 + number * 2), user(round * 1_000 + number * 2 + 1)];
            let revision = mute(&mut mutes, "r", users.clone()).await.unwrap();
            assert!(revision > last);
            (last, acknowledged) = (revision, [acknowledged, users].concat());
        }
        // Dropped: kill -9.
    }
}

#[test]
fn a_second_start_on_the_same_directory_is_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Process::start(directory.path());
    let data = directory.path().join("data");
    let free =
        ["--grpc-addr", "127.0.0.1:0", "--rest-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"];
    let output = run(&[&["serve", "--data-dir", data.to_str().unwrap()], &free[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("in use by another mute-service") && error.contains("--data-dir"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_100_000_pages_without_gaps_and_streams_flat() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    // Users with even numbers stay muted; those with odd ones are muted and unmuted.
    fill(&process, "big", (0..200_000).step_by(2)).await;

    let churn = {
        let mut mutes = process.mutes().await;
        tokio::spawn(async move {
            for number in (1..200_000).step_by(40) {
                mute(&mut mutes, "big", vec![user(number)]).await.unwrap();
                let message = pb::UnmuteMembersRequest {
                    app: "Open".into(),
                    room: "big".into(),
                    users: vec![user(number)],
                    ..Default::default()
                };
                mutes.unmute_members(with(message, &[SERVICE])).await.unwrap();
            }
        })
    };
    let mut mutes = process.mutes().await;
    for _ in 0..3 {
        let listed = muted(&mut mutes, "big").await;
        assert!(listed.is_sorted_by(|a, b| a < b));
        let stayed: Vec<_> =
            listed.into_iter().filter(|user| user.ends_with(['0', '2', '4', '6', '8'])).collect();
        assert_eq!(stayed.len(), 100_000);
    }
    churn.abort();
    let _ = churn.await;

    // The first pass warms up the allocator; the second is measured.
    assert!(stream_list(&process).await >= 100_000);
    process.reset_peak();
    let before_kib = process.memory_kib("VmRSS");
    assert!(stream_list(&process).await >= 100_000);
    let growth_kib = process.memory_kib("VmHWM").saturating_sub(before_kib);
    assert!(
        growth_kib < 2_048,
        "the server grew by {growth_kib} KiB for a list of more than 4 MiB"
    );
}

/// How many elements the REST list of the room has.
async fn stream_list(process: &Process) -> usize {
    let url = format!("{}/app-id/Open/chatrooms/big/mute", process.rest());
    let list = reqwest::Client::new().get(url).header(SERVICE.0, SERVICE.1).send().await.unwrap();
    assert_eq!(list.status(), 200);
    let list: Value = list.json().await.unwrap();
    assert_eq!(list["action"], json!("post"));
    list["data"].as_array().unwrap().len()
}
