//! A known service and a moderator at their work, while hostile callers attack the real process:
//! what they see of it, and what it costs.
//!
//! `MUTE_TEST_SIEGE_SECONDS` says for how long all attack at once; in a release build, others are
//! served meanwhile. `MUTE_TEST_SIEGE_EACH`, in seconds, has each attack for itself too, and prints
//! a table. `MUTE_TEST_PROGRAM` names the build that is attacked.

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

/// The limit of the manifests.
const MEMORY_BYTES: u64 = 1 << 30;
/// Another tenant, who is hostile.
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
/// An answer after this time is none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How the calls of one kind have ended.
#[derive(Default)]
struct Seen {
    /// From when it was due.
    took: Vec<Duration>,
    refused: usize,
}

/// What was seen while something went on.
struct Row {
    checks: Seen,
    mutes: Seen,
    cpu: f64,
    peak_mib: u64,
}

impl Seen {
    fn percentile(&self, part: f64) -> f64 {
        let at = (self.took.len() as f64 * part) as usize;
        self.took.get(at.min(self.took.len() - 1)).unwrap().as_secs_f64() * 1_000.0
    }

    /// Of those that were due, how many were answered in time.
    fn answered(&self) -> f64 {
        1.0 - self.refused as f64 / self.took.len() as f64
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (of, p50, p99) = (self.took.len(), self.percentile(0.5), self.percentile(0.99));
        write!(f, "{p50:.1} / {p99:.1} ms, {} of {of} refused", self.refused)
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

/// What is attacked.
struct Scene {
    process: Process,
    target: Arc<Target>,
    moderator: String,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
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

    /// What others see for so long, while these attack.
    async fn row(&self, attacks: &[attacks::Attack], time: Duration) -> Row {
        // They would have machines of their own: on this one they take what is left.
        let behind = || {
            rustix::process::nice(19).unwrap();
        };
        let attackers = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(behind)
            .build()
            .unwrap();
        for attack in attacks {
            attackers.spawn(attack(self.target.clone()));
        }
        self.process.forget_peak();
        let (cpu, started) = (self.process.cpu(), Instant::now());
        let (grpc, moderator) = (self.process.grpc().to_owned(), self.moderator.clone());
        // On a thread of their own: how busy the attackers are is not what is asked.
        let others = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(others(&grpc, &moderator, time))
        });
        let (checks, mutes) = tokio::task::spawn_blocking(|| others.join().unwrap()).await.unwrap();
        let cpu = (self.process.cpu() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
        attackers.shutdown_background();
        Row { checks, mutes, cpu, peak_mib: self.process.peak_bytes() >> 20 }
    }
}

/// Checks and mutes, each begun when it is due, however the one before it fares.
async fn others(grpc: &str, moderator: &str, time: Duration) -> (Seen, Seen) {
    let clients = [connect(grpc).await, connect(grpc).await];
    let mut calls: JoinSet<(bool, bool, Duration)> = JoinSet::new();
    let (started, mut number) = (Instant::now(), 0);
    let each = CHECKS_PER_S / MUTES_PER_S;
    let mut due = tokio::time::interval(Duration::from_secs(1) / CHECKS_PER_S);
    while started.elapsed() < time {
        let due = due.tick().await.into_std();
        let client = clients[number as usize % clients.len()].clone();
        calls.spawn(async move { (true, check(client).await.is_ok(), due.elapsed()) });
        if number % each == 0 {
            let (client, moderator) = (clients[0].clone(), moderator.to_owned());
            calls.spawn(async move {
                (false, mute(client, &moderator, number).await.is_ok(), due.elapsed())
            });
        }
        number += 1;
    }
    let (mut checks, mut mutes) = (Seen::default(), Seen::default());
    while let Some(ended) = calls.join_next().await {
        let (is_check, is_answered, took) = ended.unwrap();
        let seen = if is_check { &mut checks } else { &mut mutes };
        seen.took.push(took);
        seen.refused += usize::from(!is_answered);
    }
    checks.took.sort_unstable();
    mutes.took.sort_unstable();
    (checks, mutes)
}

async fn check(mut client: MuteServiceClient<Channel>) -> Result<(), Status> {
    let message = pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    };
    client.check_send(patient(message, SERVICE.1)).await.map(drop)
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
    client.mute_members(patient(message, token)).await.map(drop)
}

fn patient<T>(message: T, token: &str) -> Request<T> {
    let mut request = with(message, &[("authorization", token)]);
    request.set_timeout(TIMEOUT);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_outlives_all_attacks_at_once_and_serves_others() {
    let scene = Scene::set().await;
    println!("| | checks | a moderator's mutes | CPU | most memory |");
    let calm = scene.row(&[], Duration::from_secs(2)).await;
    println!("| calm | {calm} |");
    if let Some(seconds) = setting("MUTE_TEST_SIEGE_EACH") {
        for (name, attack) in ATTACKS {
            let row = scene.row(&[attack], Duration::from_secs(seconds)).await;
            println!("| {name} | {row} |");
        }
    }
    let time = Duration::from_secs(setting("MUTE_TEST_SIEGE_SECONDS").unwrap_or(3));
    let row = scene.row(&ATTACKS.map(|(_, attack)| attack), time).await;
    println!("| all at once | {row} |");
    println!("{} MiB afterwards", scene.process.memory_bytes() >> 20);
    // Not in a build that is not optimised: it needs the processors for the attacks.
    let is_in_time = row.checks.answered() >= 0.9 && row.mutes.answered() >= 0.9;
    assert!(is_in_time || cfg!(debug_assertions), "{row}");
    assert!(row.peak_mib << 20 < MEMORY_BYTES, "{row}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = scene.row(&[], Duration::from_secs(1)).await;
    assert_eq!((after.checks.refused, after.mutes.refused), (0, 0), "{after}");
}
