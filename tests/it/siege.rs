//! A service and a moderator work while hostile callers attack the real process: latency and
//! failures they see, and CPU and memory of the process.
//!
//! `MUTE_TEST_SIEGE_SECONDS` is how long all attacks run at once. Only a release build has to serve
//! other callers meanwhile. `MUTE_TEST_SIEGE_EACH`, in seconds, also runs each attack alone and
//! prints a table. `MUTE_TEST_PROGRAM` names the build to attack.

use std::{
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use tokio::{runtime, task::JoinSet};
use tonic::{Request, Status, transport::Channel};

use crate::{
    harness::{SERVICE, with},
    ledger::setting,
    process::{Process, connect, run, text},
};

mod attacks;

use attacks::{ATTACKS, Target};

/// The memory limit of the manifests.
const MEMORY_BYTES: u64 = 1 << 30;
/// A hostile tenant.
const HOSTILE: &str = r#"
[[apps]]
key = "evil#tenant"
directory = "open"
token_secret = "another secret of sixteen"
client_id = "known to all"
client_secret_hash = "sha256:f6f2ea8f45d8a057c9566a33f99474da2e5c6a6604d736121650e2730c6fb0a3"
"#;
const CHECKS_PER_S: u32 = 500;
const MUTES_PER_S: u32 = 20;
/// Deadline of the calls.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Outcomes of the calls of one kind.
#[derive(Default)]
struct CallStats {
    /// Time from when the call was due to its answer.
    latencies: Vec<Duration>,
    failed: usize,
}

/// One row of the table.
struct Row {
    checks: CallStats,
    mutes: CallStats,
    cpu: f64,
    peak_mib: u64,
}

impl CallStats {
    fn percentile(&self, part: f64) -> f64 {
        let at = (self.latencies.len() as f64 * part) as usize;
        self.latencies.get(at.min(self.latencies.len() - 1)).unwrap().as_secs_f64() * 1_000.0
    }

    /// The share of due calls that were answered in time.
    fn answered_share(&self) -> f64 {
        1.0 - self.failed as f64 / self.latencies.len() as f64
    }
}

impl fmt::Display for CallStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.latencies.len();
        let p50 = self.percentile(0.5);
        let p99 = self.percentile(0.99);
        write!(f, "{p50:.1} / {p99:.1} ms, {} of {total} failed", self.failed)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} | {} | {:.0} % | {} MiB",
            self.checks,
            self.mutes,
            self.cpu * 100.0,
            self.peak_mib
        )
    }
}

/// The process under attack.
struct Siege {
    process: Process,
    target: Arc<Target>,
    moderator: String,
    _directory: tempfile::TempDir,
}

impl Siege {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["--rate-limit", "100", "--max-connections", "1000"];
        let process =
            Process::spawn_with(directory.path(), directory.path(), &arguments, HOSTILE).ready();
        let config = directory.path().join("config.toml");
        let token = |arguments: &[&str]| {
            let minted =
                run(&[&["token", "--config", config.to_str().unwrap(), "--app"], arguments]
                    .concat());
            format!("Bearer {}", text(&minted.stdout).trim())
        };
        let rest = process.rest().trim_start_matches("http://").to_owned();
        let (tenant, user) = (token(&["evil#tenant"]), token(&["Open", "--user", "mallory"]));
        let target = Arc::new(Target { grpc: process.grpc().to_owned(), rest, tenant, user });
        target.prepare().await;
        Self { moderator: token(&["Open"]), process, target, _directory: directory }
    }

    /// Measures the other callers for this time while these attacks run.
    async fn row(&self, attacks: &[attacks::Attack], time: Duration) -> Row {
        // Real attackers would have machines of their own; here they run at the lowest priority.
        let lower_priority = || {
            rustix::process::nice(19).unwrap();
        };
        let attackers = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(lower_priority)
            .build()
            .unwrap();
        for attack in attacks {
            attackers.spawn(attack(self.target.clone()));
        }
        self.process.reset_peak();
        let cpu = self.process.cpu();
        let started = Instant::now();
        let grpc = self.process.grpc().to_owned();
        let moderator = self.moderator.clone();
        // On a thread of their own: the load of the attackers must not affect the measurement.
        let measured_callers = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(measured_callers(&grpc, &moderator, time))
        });
        let (checks, mutes) =
            tokio::task::spawn_blocking(|| measured_callers.join().unwrap()).await.unwrap();
        let cpu = (self.process.cpu() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
        attackers.shutdown_background();
        Row { checks, mutes, cpu, peak_mib: self.process.peak_bytes() >> 20 }
    }
}

/// Makes checks and mutes, each when it is due, even if earlier ones are still running.
async fn measured_callers(grpc: &str, moderator: &str, time: Duration) -> (CallStats, CallStats) {
    let clients = [connect(grpc).await, connect(grpc).await];
    let mut calls: JoinSet<(bool, bool, Duration)> = JoinSet::new();
    let started = Instant::now();
    let mut number = 0;
    let each = CHECKS_PER_S / MUTES_PER_S;
    let mut due = tokio::time::interval(Duration::from_secs(1) / CHECKS_PER_S);
    while started.elapsed() < time {
        let due = due.tick().await.into_std();
        let client = clients[number as usize % clients.len()].clone();
        calls.spawn(async move { (true, check(client).await.is_ok(), due.elapsed()) });
        if number % each == 0 {
            let client = clients[0].clone();
            let moderator = moderator.to_owned();
            calls.spawn(async move {
                (false, mute(client, &moderator, number).await.is_ok(), due.elapsed())
            });
        }
        number += 1;
    }
    let mut checks = CallStats::default();
    let mut mutes = CallStats::default();
    while let Some(ended) = calls.join_next().await {
        let (is_check, is_answered, took) = ended.unwrap();
        let stats = if is_check { &mut checks } else { &mut mutes };
        stats.latencies.push(took);
        stats.failed += usize::from(!is_answered);
    }
    checks.latencies.sort_unstable();
    mutes.latencies.sort_unstable();
    (checks, mutes)
}

async fn check(mut client: MuteServiceClient<Channel>) -> Result<(), Status> {
    let message = pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    };
    client.check_send(with_timeout(message, SERVICE.1)).await.map(drop)
}

async fn mute(
    mut client: MuteServiceClient<Channel>,
    token: &str,
    number: u32,
) -> Result<(), Status> {
    let users = vec![format!("user{}", number % 1_000)];
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        users,
        ..Default::default()
    };
    client.mute_members(with_timeout(message, token)).await.map(drop)
}

fn with_timeout<T>(message: T, token: &str) -> Request<T> {
    let mut request = with(message, &[("authorization", token)]);
    request.set_timeout(TIMEOUT);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_survives_all_attacks_and_serves_other_callers() {
    let siege = Siege::start().await;
    println!("| | checks | a moderator's mutes | CPU | most memory |");
    let calm = siege.row(&[], Duration::from_secs(2)).await;
    println!("| calm | {calm} |");
    if let Some(seconds) = setting("MUTE_TEST_SIEGE_EACH") {
        for (name, attack) in ATTACKS {
            let row = siege.row(&[attack], Duration::from_secs(seconds)).await;
            println!("| {name} | {row} |");
        }
    }
    let time = Duration::from_secs(setting("MUTE_TEST_SIEGE_SECONDS").unwrap_or(3));
    let row = siege.row(&ATTACKS.map(|(_, attack)| attack), time).await;
    println!("| all at once | {row} |");
    println!("{} MiB afterwards", siege.process.memory_bytes() >> 20);
    // Not in a debug build: the attacks need the CPU.
    let is_in_time = row.checks.answered_share() >= 0.9 && row.mutes.answered_share() >= 0.9;
    assert!(is_in_time || cfg!(debug_assertions), "{row}");
    assert!(row.peak_mib << 20 < MEMORY_BYTES, "{row}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = siege.row(&[], Duration::from_secs(1)).await;
    assert_eq!((after.checks.failed, after.mutes.failed), (0, 0), "{after}");
}
