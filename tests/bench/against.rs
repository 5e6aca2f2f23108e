//! This build compared with another one, such as that of the previous commit, in turns: what a
//! change has cost or gained. `MUTE_BENCH_AGAINST` names the other build.

use std::{path::Path, sync::Arc, time::Instant};

use tokio::sync::Mutex;

use super::{
    Row, cluster,
    grpc::{self, Mutes, room, user},
    in_turns, median,
    program::Program,
    rest,
    rows::{BATCH, MILLION, NOTIFICATION_MUTES, ROOMS, USERS, directory, one_by_one, pair, pairs},
};

/// Measurements of each row; each has its own turns.
const MEASUREMENTS: usize = 3;
/// Measured starts of each build.
const STARTS: usize = 5;

/// A running build with connections to it.
struct Build {
    program: Program,
    clients: Vec<Mutes>,
}

impl Build {
    async fn of(program: Program) -> Self {
        let clients = grpc::connections(&program.grpc).await;
        Self { program, clients }
    }
}

/// A row for each kind of call, and one for the start.
pub async fn rows(root: &Path, build: &str) -> Vec<Row> {
    let our_directory = directory(root, "ours");
    let their_directory = directory(root, "theirs");
    let ours = Build::of(Program::start(&our_directory)).await;
    let theirs = Build::of(Program::start_build(build, &their_directory, &[])).await;
    for side in [&ours, &theirs] {
        grpc::fill(&side.clients, ROOMS, USERS).await;
        grpc::mute_notifications(&side.clients, "push", NOTIFICATION_MUTES).await;
    }
    let mut rows = calls(&ours, &theirs).await;
    rows.push(lone_writer(&ours, &theirs).await);
    for side in [&ours, &theirs] {
        grpc::fill(&side.clients, ROOMS, 1_000).await;
    }
    rows.push(start(
        ours,
        theirs,
        || Program::start(&our_directory),
        || Program::start_build(build, &their_directory, &[]),
    ));
    rows.extend(cluster::against(root, build).await);
    rows
}

async fn calls(ours: &Build, theirs: &Build) -> Vec<Row> {
    let check = |client, caller, call| {
        let (number, who) = pair(caller, call);
        grpc::check(client, room(number), user(who))
    };
    let messages: Arc<Vec<_>> =
        Arc::new((0..1_000).map(|call| grpc::encoded_batch(pairs(call))).collect());
    let batch = move |client: Mutes, caller: usize, call: usize| {
        let message = messages[(caller * 31 + call) % 1_000].clone();
        async move { grpc::batch_check(client, message).await }
    };
    let users = (0..10_000)
        .map(|number| user(NOTIFICATION_MUTES / 2 + number * NOTIFICATION_MUTES / 10_000))
        .collect();
    let message = grpc::encoded_recipients("push".to_owned(), users);
    let recipients = move |client: Mutes, _: usize, _: usize| {
        let message = message.clone();
        async move { grpc::filter_recipients(client, message).await }
    };
    let mute = |client, caller: usize, call: usize| {
        grpc::mute(client, format!("grpc{caller:04}"), vec![user(caller * 1_000_000 + call)])
    };
    let mut rows = vec![
        side_rates("CheckSend", ours, theirs, async |side, end| {
            grpc::load(&side.clients, end, check).await
        })
        .await,
        side_rates("BatchCheckSend: checks", ours, theirs, async |side, end| {
            grpc::load(&side.clients, end, batch.clone()).await * BATCH as u64
        })
        .await,
        side_rates("FilterRecipients, 10,000 users", ours, theirs, async |side, end| {
            grpc::load(&side.clients[..1], end, recipients.clone()).await
        })
        .await,
        side_rates("durable MuteMembers, 64 callers", ours, theirs, async |side, end| {
            grpc::load(&side.clients, end, mute).await
        })
        .await,
    ];
    // Opened only now, because the server closes idle connections.
    let our_rest = rest_connections(ours).await;
    let their_rest = rest_connections(theirs).await;
    let what = "REST mute, 64 connections";
    let load = async |side: &Build, end| {
        let connections = if std::ptr::eq(side, ours) { &our_rest } else { &their_rest };
        rest::load(&mut *connections.lock().await, end).await
    };
    rows.push(side_rates(what, ours, theirs, load).await);
    rows
}

async fn rest_connections(side: &Build) -> Mutex<Vec<tokio::net::TcpStream>> {
    Mutex::new(rest::connections(&side.program.rest).await)
}

async fn side_rates(
    what: &'static str,
    ours: &Build,
    theirs: &Build,
    load: impl AsyncFn(&Build, Instant) -> u64,
) -> Row {
    rates_row(what, async |end| load(ours, end).await, async |end| load(theirs, end).await).await
}

/// A row with the median of several measurements of each side.
pub async fn rates_row(
    what: &'static str,
    ours: impl AsyncFn(Instant) -> u64,
    theirs: impl AsyncFn(Instant) -> u64,
) -> Row {
    let mut our_rates = Vec::new();
    let mut their_rates = Vec::new();
    for _ in 0..MEASUREMENTS {
        let (rate, other) = in_turns(&ours, &theirs).await;
        our_rates.push(rate);
        their_rates.push(other);
    }
    Row::rates(what, median(our_rates), (median(their_rates), "another build"), "-")
}

async fn lone_writer(ours: &Build, theirs: &Build) -> Row {
    let mut our_times = Vec::new();
    let mut their_times = Vec::new();
    for turn in 0..10 {
        for (side, took) in [(ours, &mut our_times), (theirs, &mut their_times)] {
            let mute = async |number: usize| {
                grpc::mute(
                    side.clients[0].clone(),
                    "lone".to_owned(),
                    vec![user(turn * 1_000 + number)],
                )
                .await;
            };
            took.push(one_by_one(200, mute).await);
        }
    }
    latency_row("one caller's durable mute", median(our_times), median(their_times), "us", 1.0)
}

fn start(
    ours: Build,
    theirs: Build,
    start: impl Fn() -> Program,
    other: impl Fn() -> Program,
) -> Row {
    let mut our_times = Vec::new();
    let mut their_times = Vec::new();
    ours.program.stop();
    theirs.program.stop();
    for _ in 0..STARTS {
        for (program, took) in [(start(), &mut our_times), (other(), &mut their_times)] {
            took.push(program.start.as_secs_f64() * MILLION);
            program.stop();
        }
    }
    latency_row(
        "start with 1.1 M records, to ready",
        median(our_times),
        median(their_times),
        "ms",
        1_000.0,
    )
}

/// A row of times: less is better. The ratio is theirs to ours, so that as in a row of rates more
/// is better.
fn latency_row(what: &'static str, ours_us: f64, theirs_us: f64, unit: &str, each_us: f64) -> Row {
    Row {
        what,
        ours: format!("{:.0} {unit}", ours_us / each_us),
        theirs: format!("{:.0} {unit} another build", theirs_us / each_us),
        ratio: Some(theirs_us / ours_us),
        target: "-",
    }
}
