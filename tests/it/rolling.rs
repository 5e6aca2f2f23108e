//! Rolling restarts: replicas are restarted one by one under load. `tests/python/callers.py`
//! describes what callers with the shipped service config may rely on, and what those without it.
//! `MUTE_TEST_ROLLS` sets how often each replica is restarted, `MUTE_TEST_CALLERS` how many callers
//! there are.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rand::RngExt as _;
use serde_json::{Value, json};

use crate::{
    cluster::{readiness, until},
    etcd::Etcd,
    harness::has_python,
    ledger::setting,
    process::{Process, program},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// SIGTERM: the process exits with 0.
    Stopped,
    /// kill -9.
    Killed,
}

/// A replica that is restarted at the same address and on the same data.
struct Replica {
    directory: tempfile::TempDir,
    addr: String,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Replica {
    async fn start(addr: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data").to_str().unwrap().to_owned();
        let arguments = ["--data-dir", &data]
            .iter()
            .chain(arguments)
            .map(|argument| (*argument).to_owned())
            .collect();
        let mut replica = Self { directory, addr: addr.to_owned(), arguments, process: None };
        replica.launch().await;
        replica
    }

    async fn launch(&mut self) {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        let addrs = [self.addr.as_str(), "127.0.0.1:0", "127.0.0.1:0"];
        let process = Process::launch(program(), self.directory.path(), addrs, &arguments).ready();
        until("it is ready", async || readiness(&process).await.0 == 200).await;
        self.process = Some(process);
    }

    /// Stops or kills the process and starts it again. Returns how long there was none.
    async fn restart(&mut self, how: Ending) -> Duration {
        let mut process = self.process.take().unwrap();
        if how == Ending::Stopped {
            process.signal("-TERM");
            assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
        }
        drop(process);
        let ended = Instant::now();
        self.launch().await;
        ended.elapsed()
    }
}

/// The process of `callers.py`, which stops when its standard input is closed.
struct Callers {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Callers {
    /// Returns once all callers have begun.
    fn start(how: Ending, addrs: &[String]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/callers.py");
        let how = if how == Ending::Stopped { "stopped" } else { "killed" };
        let callers = setting("MUTE_TEST_CALLERS").unwrap_or(8_u32).to_string();
        let mut command = Command::new("python3");
        command
            .args([script, how, &addrs.join(","), &callers])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut callers = Self { child, output };
        assert_eq!(callers.line(), "calling");
        callers
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Stops the callers. Returns their counts, once they have compared what the service has with
    /// what they wrote.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let counted = self.line();
        println!("{counted}");
        assert!(self.child.wait().unwrap().success(), "{counted}");
        serde_json::from_str(&counted).unwrap()
    }
}

/// An address for each replica that no client connection can have as its own: while a replica is
/// down, a client might otherwise take its port.
fn addrs(replicas: usize) -> Vec<String> {
    let mut random = rand::rng();
    let a = random.random_range(2..250_u8);
    let b = random.random_range(0..250_u8);
    (1..=replicas).map(|replica| format!("127.{a}.{b}.{replica}:50051")).collect()
}

/// Restarts each replica in turn, several times, while callers call. Returns the counts of the
/// callers.
async fn roll(how: Ending, replicas: &mut [Replica], pause_ms: std::ops::Range<u64>) -> Value {
    let rolls = setting("MUTE_TEST_ROLLS").unwrap_or(3);
    let addrs: Vec<_> = replicas.iter().map(|replica| replica.addr.clone()).collect();
    let callers = Callers::start(how, &addrs);
    let pause =
        || tokio::time::sleep(Duration::from_millis(rand::rng().random_range(pause_ms.clone())));
    let mut gaps = Vec::new();
    for _ in 0..rolls {
        for replica in &mut *replicas {
            pause().await;
            gaps.push(replica.restart(how).await);
        }
    }
    pause().await;
    println!("from exit to ready: {gaps:?}");
    let counted = callers.end();
    assert!(how == Ending::Killed || counted["failed"] == json!({}), "{counted}");
    assert!(counted["calls"].as_u64().unwrap() > 50 * gaps.len() as u64, "too few calls were made");
    assert!(counted["resumed"].as_u64().unwrap() >= rolls, "too few watches have ended");
    counted
}

/// Two replicas over a cluster of one member.
async fn roll_over_etcd(how: Ending) {
    if !has_python() {
        return;
    }
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let urls = etcd.urls();
    let addrs = addrs(2);
    let arguments = ["--store", "etcd", "--etcd-endpoints", &urls, "--stop-delay-seconds", "1"];
    let mut replicas =
        [Replica::start(&addrs[0], &arguments).await, Replica::start(&addrs[1], &arguments).await];
    // Sometimes the next replica stops before clients have reconnected to the previous one, which
    // takes about a second.
    roll(how, &mut replicas, 200..2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_over_etcd_fails_no_call() {
    roll_over_etcd(Ending::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_kills_over_etcd_keep_every_write_once() {
    roll_over_etcd(Ending::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_service_config_hides_a_restart_over_sled() {
    if !has_python() {
        return;
    }
    // No delay: there is no other replica that could serve meanwhile.
    let mut replicas = [Replica::start(&addrs(1)[0], &["--stop-delay-seconds", "0"]).await];
    // Long enough for clients to reconnect and call.
    let counted = roll(Ending::Stopped, &mut replicas, 1_500..2_500).await;
    assert!(
        counted["bare_writes_failed"].as_u64().unwrap() > 0,
        "no call was made while the service was down"
    );
}
