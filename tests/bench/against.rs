//! The program beside that of another build, such as the one of the commit before, in turns: what a
//! change has cost or gained. `MUTE_BENCH_AGAINST` names it.

use std::{path::Path, sync::Arc, time::Instant};

use tokio::sync::Mutex;

use super::{
    Row, cluster,
    grpc::{self, Mutes, room, user},
    in_turns, median,
    program::Program,
    rest,
    rows::{BATCH, MILLION, ROOMS, SILENT, USERS, directory, one_by_one, pair, pairs},
};

/// Each row has so many times its turns.
const TIMES: usize = 3;
/// Starts of each build.
const STARTS: usize = 5;

/// A build that runs.
struct Side {
    program: Program,
    clients: Vec<Mutes>,
}

impl Side {
    async fn of(program: Program) -> Self {
        let clients = grpc::connections(&program.grpc).await;
        Self { program, clients }
    }
}

/// A row for each kind of call, and the start.
pub async fn rows(place: &Path, build: &str) -> Vec<Row> {
    let (our_place, their_place) = (directory(place, "ours"), directory(place, "theirs"));
    let ours = Side::of(Program::start(&our_place)).await;
    let theirs = Side::of(Program::start_build(build, &their_place, &[])).await;
    for side in [&ours, &theirs] {
        grpc::fill(&side.clients, ROOMS, USERS).await;
        grpc::silence(&side.clients, "push", SILENT).await;
    }
    let mut rows = calls(&ours, &theirs).await;
    rows.push(lone(&ours, &theirs).await);
    for side in [&ours, &theirs] {
        grpc::fill(&side.clients, ROOMS, 1_000).await;
    }
    rows.push(start(
        ours,
        theirs,
        || Program::start(&our_place),
        || Program::start_build(build, &their_place, &[]),
    ));
    rows.extend(cluster::against(place, build).await);
    rows
}

async fn calls(ours: &Side, theirs: &Side) -> Vec<Row> {
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
    let asked = (0..10_000).map(|number| user(SILENT / 2 + number * SILENT / 10_000)).collect();
    let message = grpc::encoded_recipients("push".to_owned(), asked);
    let recipients = move |client: Mutes, _: usize, _: usize| {
        let message = message.clone();
        async move { grpc::filter_recipients(client, message).await }
    };
    let mute = |client, caller: usize, call: usize| {
        grpc::mute(client, format!("grpc{caller:04}"), vec![user(caller * 1_000_000 + call)])
    };
    let mut rows = vec![
        of_sides("CheckSend", ours, theirs, async |side, end| {
            grpc::load(&side.clients, end, check).await
        })
        .await,
        of_sides("BatchCheckSend: checks", ours, theirs, async |side, end| {
            grpc::load(&side.clients, end, batch.clone()).await * BATCH as u64
        })
        .await,
        of_sides("FilterRecipients, 10,000 users", ours, theirs, async |side, end| {
            grpc::load(&side.clients[..1], end, recipients.clone()).await
        })
        .await,
        of_sides("durable MuteMembers, 64 callers", ours, theirs, async |side, end| {
            grpc::load(&side.clients, end, mute).await
        })
        .await,
    ];
    // Opened now: one that asks for nothing is closed.
    let (our_rest, their_rest) = (rest_of(ours).await, rest_of(theirs).await);
    let what = "REST mute, 64 connections";
    let load = async |side: &Side, end| {
        let connections = if std::ptr::eq(side, ours) { &our_rest } else { &their_rest };
        rest::load(&mut *connections.lock().await, end).await
    };
    rows.push(of_sides(what, ours, theirs, load).await);
    rows
}

async fn rest_of(side: &Side) -> Mutex<Vec<tokio::net::TcpStream>> {
    Mutex::new(rest::connections(&side.program.rest).await)
}

async fn of_sides(
    what: &'static str,
    ours: &Side,
    theirs: &Side,
    load: impl AsyncFn(&Side, Instant) -> u64,
) -> Row {
    rates(what, async |end| load(ours, end).await, async |end| load(theirs, end).await).await
}

/// The medians of several measurements in turns.
pub async fn rates(
    what: &'static str,
    ours: impl AsyncFn(Instant) -> u64,
    theirs: impl AsyncFn(Instant) -> u64,
) -> Row {
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let (rate, other) = in_turns(&ours, &theirs).await;
        us.push(rate);
        them.push(other);
    }
    Row::rates(what, median(us), (median(them), "another build"), "-")
}

async fn lone(ours: &Side, theirs: &Side) -> Row {
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for turn in 0..10 {
        for (side, took) in [(ours, &mut us), (theirs, &mut them)] {
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
    times("one caller's durable mute", median(us), median(them), "us", 1.0)
}

fn start(
    ours: Side,
    theirs: Side,
    start: impl Fn() -> Program,
    other: impl Fn() -> Program,
) -> Row {
    let (mut us, mut them) = (Vec::new(), Vec::new());
    ours.program.stop();
    theirs.program.stop();
    for _ in 0..STARTS {
        for (program, took) in [(start(), &mut us), (other(), &mut them)] {
            took.push(program.start.as_secs_f64() * MILLION);
            program.stop();
        }
    }
    times("start with 1.1 M records, to ready", median(us), median(them), "ms", 1_000.0)
}

/// Less is better; the ratio is theirs to ours, as that of rates.
fn times(what: &'static str, ours_us: f64, theirs_us: f64, unit: &str, each_us: f64) -> Row {
    Row {
        what,
        ours: format!("{:.0} {unit}", ours_us / each_us),
        theirs: format!("{:.0} {unit} another build", theirs_us / each_us),
        ratio: Some(theirs_us / ours_us),
        hold: "-",
    }
}
