//! The numbers, each beside what it is compared with, in one run: `cargo bench --bench numbers`.
//!
//! It starts everything by itself: the service (the real program, release build), a bare tonic
//! service with the same messages that answers a constant, and Redis, where `redis-server` is on
//! PATH. Both sides of a row are asked by the same client over the same number of connections, in
//! turns, and the ratio is that of the medians of the turns. `--full` adds what takes minutes: ten
//! million mutes. `checks`, `writes`, `size`, `watch`, `cluster` and `starts` choose groups of
//! rows. `against` has both sides from this service: the program, and the one of another build that
//! `MUTE_BENCH_AGAINST` names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod against;
mod bare;
mod cluster;
mod grpc;
mod program;
mod redis;
mod rest;
mod rows;
mod watch;

use std::time::{Duration, Instant};

/// That of the program, so that the load and the bare service have the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections of the load, and calls in flight on each.
pub const CONNECTIONS: usize = 4;
pub const IN_FLIGHT: usize = 16;
/// How long a turn is, and how many there are of each side.
const TURN: Duration = Duration::from_secs(1);
const TURNS: usize = 8;

/// One row of the table.
pub struct Row {
    pub what: &'static str,
    pub ours: String,
    pub theirs: String,
    pub ratio: Option<f64>,
    pub hold: &'static str,
}

impl Row {
    /// A row of rates: more is better, and the ratio is ours to theirs.
    pub fn rates(what: &'static str, ours: f64, theirs: (f64, &str), hold: &'static str) -> Self {
        let (rate, whose) = theirs;
        Self {
            what,
            ours: per_second(ours),
            theirs: format!("{} {whose}", per_second(rate)),
            ratio: Some(ours / rate),
            hold,
        }
    }
}

fn per_second(rate: f64) -> String {
    format!("{:.0}/s", rate)
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    (numbers[numbers.len() / 2] + numbers[(numbers.len() - 1) / 2]) / 2.0
}

/// Runs both sides in turns, and answers the median rate of each. Who begins changes: what the
/// machine does beside it meets both alike.
pub async fn in_turns(
    ours: impl AsyncFn(Instant) -> u64,
    theirs: impl AsyncFn(Instant) -> u64,
) -> (f64, f64) {
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for number in 0..TURNS {
        if number % 2 == 0 {
            us.push(turn(&ours).await);
            them.push(turn(&theirs).await);
        } else {
            them.push(turn(&theirs).await);
            us.push(turn(&ours).await);
        }
    }
    (median(us), median(them))
}

/// One turn: calls until the end it is given, and answers calls a second.
async fn turn(side: &impl AsyncFn(Instant) -> u64) -> f64 {
    let started = Instant::now();
    let calls = side(started + TURN).await;
    calls as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if arguments.iter().any(|argument| argument == bare::ARGUMENT) {
        runtime.block_on(bare::serve());
        return;
    }
    let full = arguments.iter().any(|argument| argument == "--full");
    let groups: Vec<_> =
        arguments[1..].iter().filter(|argument| !argument.starts_with("--")).cloned().collect();
    let rows = runtime.block_on(rows::all(full, &groups));
    println!(
        "\n{}, {CONNECTIONS} connections with {IN_FLIGHT} calls each where nothing else is said\n",
        machine()
    );
    println!("| what | ours | compared with | ratio | hold |\n| --- | --- | --- | --- | --- |");
    for Row { what, ours, theirs, ratio, hold } in rows {
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!("| {what} | {ours} | {theirs} | {ratio} | {hold} |");
    }
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {}", model.unwrap_or("an unknown processor"))
}
