//! The benchmark, each number beside what it is compared with, in one run: `cargo bench --bench
//! numbers`.
//!
//! It starts everything itself: the service (the real program, release build), a bare tonic service
//! with the same messages that answers a constant, and Redis if `redis-server` is on the PATH. The
//! same client calls both sides of a row over the same number of connections, in turns. The ratio
//! is that of the medians of the turns. `checks`, `writes`, `size`, `watch`, `cluster` and `starts`
//! select groups of rows. `--full` adds rows that take minutes: ten million mutes. `against`
//! compares the program with another build of it, which `MUTE_BENCH_AGAINST` names.
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

/// The allocator of the program, so that the load and the bare service use the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections of the load, and calls in flight on each.
pub const CONNECTIONS: usize = 4;
pub const IN_FLIGHT: usize = 16;
/// Length of a turn, and turns of each side.
const TURN: Duration = Duration::from_secs(1);
const TURNS: usize = 8;

/// One row of the table.
pub struct Row {
    pub what: &'static str,
    pub ours: String,
    pub theirs: String,
    pub ratio: Option<f64>,
    /// The bound that the ratio or number should keep; `-` for none.
    pub target: &'static str,
}

impl Row {
    /// A row of rates: more is better. The ratio is ours to theirs.
    pub fn rates(what: &'static str, ours: f64, theirs: (f64, &str), target: &'static str) -> Self {
        let (rate, whose) = theirs;
        Self {
            what,
            ours: per_second(ours),
            theirs: format!("{} {whose}", per_second(rate)),
            ratio: Some(ours / rate),
            target,
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

/// Runs both sides in turns, and returns the median rate of each. The side that begins alternates,
/// so that other load on the machine affects both alike.
pub async fn in_turns(
    ours: impl AsyncFn(Instant) -> u64,
    theirs: impl AsyncFn(Instant) -> u64,
) -> (f64, f64) {
    let mut our_rates = Vec::new();
    let mut their_rates = Vec::new();
    for number in 0..TURNS {
        if number % 2 == 0 {
            our_rates.push(turn(&ours).await);
            their_rates.push(turn(&theirs).await);
        } else {
            their_rates.push(turn(&theirs).await);
            our_rates.push(turn(&ours).await);
        }
    }
    (median(our_rates), median(their_rates))
}

/// Runs one turn. Returns calls a second.
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
        "\n{}, {CONNECTIONS} connections with {IN_FLIGHT} calls each unless the row says otherwise\n",
        machine()
    );
    println!("| what | ours | compared with | ratio | hold |\n| --- | --- | --- | --- | --- |");
    for Row { what, ours, theirs, ratio, target } in rows {
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!("| {what} | {ours} | {theirs} | {ratio} | {target} |");
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
