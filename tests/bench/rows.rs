//! The rows of the table, group by group.

use std::{fs::File, io::Write as _, path::Path, time::Instant};

use mute_service::proto::v1 as pb;
use tokio::sync::Mutex;

use super::{
    CONNECTIONS, IN_FLIGHT, Row, against,
    bare::BareProcess,
    cluster,
    grpc::{self, room, user},
    in_turns, median,
    program::Program,
    redis::{self, Redis, command},
    rest, watch,
};

/// Rooms, and muted users in each, for the rows of checks.
pub const ROOMS: usize = 1_000;
pub const USERS: usize = 100;
pub const BATCH: usize = 100;
/// Notification mutes of the room in the rows of recipients.
pub const NOTIFICATION_MUTES: usize = 100_000;
/// Different batches, encoded before the turns.
const PREPARED: usize = 1_000;
const AGAINST: &str = "against";
pub const MILLION: f64 = 1_000_000.0;

/// All rows, or those of the named groups.
pub async fn all(full: bool, groups: &[String]) -> Vec<Row> {
    // In the target directory, because a temporary directory may not be on a disk.
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let chosen = |group: &str| {
        groups.is_empty() && group != AGAINST || groups.iter().any(|named| named == group)
    };
    let mut rows = Vec::new();
    if chosen("checks") {
        rows.extend(checks(root.path()).await);
    }
    if let Ok(build) = std::env::var("MUTE_BENCH_AGAINST")
        && chosen(AGAINST)
    {
        rows.extend(against::rows(root.path(), &build).await);
    }
    if chosen("writes") {
        rows.extend(writes(root.path()).await);
    }
    if chosen("size") {
        rows.extend(size(root.path()).await);
    }
    if chosen("watch") {
        rows.extend(watch::rows(&directory(root.path(), "watch")).await);
    }
    if chosen("cluster") {
        rows.extend(cluster::rows(root.path()).await);
    }
    if chosen("starts") {
        rows.extend(cluster::starts(root.path(), full).await);
    }
    if full && chosen("size") {
        rows.extend(ten_million(root.path()).await);
    }
    rows
}

pub fn directory(root: &Path, name: &str) -> std::path::PathBuf {
    let directory = root.join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// The room and user of a call: half of the users are muted.
pub fn pair(caller: usize, call: usize) -> (usize, usize) {
    let mixed = (caller * 7_919 + call).wrapping_mul(2_654_435_761);
    let number = mixed % ROOMS;
    (number, number * USERS + (mixed >> 16) % (2 * USERS))
}

async fn checks(root: &Path) -> Vec<Row> {
    let program = Program::start(&directory(root, "checks"));
    let ours = grpc::connections(&program.grpc).await;
    grpc::fill(&ours, ROOMS, USERS).await;
    let bare = BareProcess::start();
    let theirs = grpc::connections(&bare.addr).await;
    let check = |client, caller, call| {
        let (number, who) = pair(caller, call);
        grpc::check(client, room(number), user(who))
    };
    let (rate, bare_rate) = in_turns(
        async |end| grpc::load(&ours, end, check).await,
        async |end| grpc::load(&theirs, end, check).await,
    )
    .await;
    let mut rows =
        vec![Row::rates("CheckSend", rate, (bare_rate, "bare tonic, a constant"), ">= 0.90")];

    let Some(redis) = Redis::start(&directory(root, "redis"), false).await else {
        rows.push(missing("BatchCheckSend, 100 a call: checks"));
        return rows;
    };
    fill_redis(&redis, ROOMS, USERS).await;
    // Both sides send what was encoded before, and read replies without decoding them, so that the
    // load costs as little as possible.
    let messages: std::sync::Arc<Vec<_>> =
        std::sync::Arc::new((0..PREPARED).map(|call| grpc::encoded_batch(pairs(call))).collect());
    let batch = move |client: grpc::Mutes, caller: usize, call: usize| {
        let message = messages[(caller * 31 + call) % PREPARED].clone();
        async move { grpc::batch_check(client, message).await }
    };
    let commands: std::sync::Arc<Vec<_>> = std::sync::Arc::new((0..PREPARED).map(scores).collect());
    let prepared = move |bytes: &mut Vec<u8>, caller: usize, call: usize| {
        bytes.extend_from_slice(&commands[(caller * 31 + call) % PREPARED]);
    };
    let connections = Mutex::new(redis.connections(CONNECTIONS * IN_FLIGHT).await);
    let (rate, redis_rate) = in_turns(
        async |end| grpc::load(&ours, end, batch.clone()).await * BATCH as u64,
        async |end| redis::load(&mut *connections.lock().await, end, BATCH, prepared.clone()).await,
    )
    .await;
    let what = "BatchCheckSend, 100 a call: checks";
    rows.push(Row::rates(what, rate, (redis_rate, "Redis ZSCORE, pipelined by 100"), ">= 2"));
    let score = |bytes: &mut Vec<u8>, caller: usize, call: usize| {
        let (number, who) = pair(caller, call);
        command(bytes, &["ZSCORE", &room(number), &user(who)]);
    };
    let (rate, redis_rate) = in_turns(
        async |end| grpc::load(&ours, end, check).await,
        async |end| redis::load(&mut *connections.lock().await, end, 1, score).await,
    )
    .await;
    rows.push(Row::rates(
        "CheckSend",
        rate,
        (redis_rate, "Redis ZSCORE, unpipelined, 64 connections"),
        "-",
    ));
    rows.push(recipients(&ours, &redis).await);
    rows
}

/// Which of 10,000 users, half of them with a notification mute, may receive pushes from a room
/// with 100,000 notification mutes.
async fn recipients(ours: &[grpc::Mutes], redis: &Redis) -> Row {
    grpc::mute_notifications(ours, "push", NOTIFICATION_MUTES).await;
    let mut connection = redis.connect().await;
    let mut bytes = Vec::new();
    (0..NOTIFICATION_MUTES)
        .for_each(|number| command(&mut bytes, &["ZADD", "push", "1642148173726", &user(number)]));
    connection.call(&bytes, NOTIFICATION_MUTES).await;
    let users: Vec<_> = (0..10_000)
        .map(|number| user(NOTIFICATION_MUTES / 2 + number * NOTIFICATION_MUTES / 10_000))
        .collect();
    let mut commands = Vec::new();
    users.iter().for_each(|user| command(&mut commands, &["ZSCORE", "push", user]));
    let message = grpc::encoded_recipients("push".to_owned(), users);
    let mut our_times = Vec::new();
    let mut their_times = Vec::new();
    for _ in 0..3 {
        our_times.push(
            one_by_one(100, async |_| {
                grpc::filter_recipients(ours[0].clone(), message.clone()).await
            })
            .await,
        );
        their_times.push(one_by_one(100, async |_| connection.call(&commands, 10_000).await).await);
    }
    let ours = median(our_times);
    let theirs = median(their_times);
    Row {
        what: "FilterRecipients, 10,000 users, 100,000 notification mutes",
        ours: format!("{ours:.0} us"),
        theirs: format!("{theirs:.0} us Redis, 10,000 ZSCORE pipelined"),
        ratio: Some(ours / theirs),
        target: "-",
    }
}

/// The pairs of one prepared batch.
pub fn pairs(call: usize) -> Vec<pb::RoomUser> {
    let one = |at| {
        let (number, who) = pair(0, call * BATCH + at);
        pb::RoomUser { room: room(number), user: user(who) }
    };
    (0..BATCH).map(one).collect()
}

/// The same batch as commands for Redis.
fn scores(call: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for pair in pairs(call) {
        command(&mut bytes, &["ZSCORE", &pair.room, &pair.user]);
    }
    bytes
}

fn missing(what: &'static str) -> Row {
    Row {
        what,
        ours: "-".to_owned(),
        theirs: "skipped: install redis-server".to_owned(),
        ratio: None,
        target: "-",
    }
}

async fn fill_redis(redis: &Redis, rooms: usize, users: usize) {
    let mut connection = redis.connect().await;
    for number in 0..rooms {
        let mut bytes = Vec::new();
        for at in 0..users {
            command(
                &mut bytes,
                &["ZADD", &room(number), "1642148173726", &user(number * users + at)],
            );
        }
        connection.call(&bytes, users).await;
    }
}

async fn writes(root: &Path) -> Vec<Row> {
    let program = Program::start(&directory(root, "writes"));
    let ours = grpc::connections(&program.grpc).await;
    let mute = |client, caller: usize, call: usize| {
        let users = vec![user(caller * 1_000_000 + call)];
        grpc::mute(client, format!("grpc{caller:04}"), users)
    };
    let mut rows = Vec::new();
    let what = "durable MuteMembers, 64 callers";
    match Redis::start(&directory(root, "redis-durable"), true).await {
        None => rows.push(missing(what)),
        Some(redis) => {
            let connections = Mutex::new(redis.connections(CONNECTIONS * IN_FLIGHT).await);
            let add = |bytes: &mut Vec<u8>, caller: usize, call: usize| {
                command(
                    bytes,
                    &[
                        "ZADD",
                        &format!("grpc{caller:04}"),
                        "1642148173726",
                        &user(caller * 1_000_000 + call),
                    ],
                );
            };
            let (rate, redis_rate) = in_turns(
                async |end| grpc::load(&ours, end, mute).await,
                async |end| redis::load(&mut *connections.lock().await, end, 1, add).await,
            )
            .await;
            rows.push(Row::rates(
                what,
                rate,
                (redis_rate, "Redis ZADD, appendfsync always, 64 connections"),
                ">= 1",
            ));
        }
    }
    rows.push(lone_writer(root, &ours[0]).await);
    let connections = Mutex::new(rest::connections(&program.rest).await);
    let (rest_rate, grpc_rate) = in_turns(
        async |end| rest::load(&mut *connections.lock().await, end).await,
        async |end| grpc::load(&ours, end, mute).await,
    )
    .await;
    rows.push(Row::rates(
        "REST mute, 64 connections",
        rest_rate,
        (grpc_rate, "the same over gRPC"),
        ">= 0.7",
    ));
    rows
}

/// Median time of a call in microseconds, one call after the other.
pub async fn one_by_one(count: usize, mut call: impl AsyncFnMut(usize)) -> f64 {
    let mut took = Vec::with_capacity(count);
    for number in 0..count {
        let started = Instant::now();
        call(number).await;
        took.push(started.elapsed().as_secs_f64() * MILLION);
    }
    median(took)
}

async fn lone_writer(root: &Path, ours: &grpc::Mutes) -> Row {
    let bare = BareProcess::start();
    let client = grpc::connect(&bare.addr).await;
    let mut file = File::create(root.join("fdatasync")).unwrap();
    let mut mutes = Vec::new();
    let mut syncs = Vec::new();
    let mut rpcs = Vec::new();
    for turn in 0..5 {
        let mute = async |number: usize| {
            grpc::mute(ours.clone(), "lone".to_owned(), vec![user(turn * 1_000 + number)]).await
        };
        mutes.push(one_by_one(200, mute).await);
        let mut sync = async |_| {
            // Appended, like every log.
            file.write_all(&[1; 512]).unwrap();
            file.sync_data().unwrap();
        };
        syncs.push(one_by_one(200, &mut sync).await);
        rpcs.push(
            one_by_one(200, async |_| grpc::check(client.clone(), room(0), user(0)).await).await,
        );
    }
    let mute = median(mutes);
    let sync = median(syncs);
    let rpc = median(rpcs);
    Row {
        what: "one caller's durable mute",
        ours: format!("{mute:.0} us"),
        theirs: format!("{sync:.0} us bare append and fdatasync + {rpc:.0} us empty RPC"),
        ratio: Some(mute / (sync + rpc)),
        target: "<= 2",
    }
}

async fn size(root: &Path) -> Vec<Row> {
    let data = directory(root, "size");
    let program = Program::start(&data);
    let empty = program.memory();
    let clients = grpc::connections(&program.grpc).await;
    grpc::fill(&clients, 1_000, 1_000).await;
    let filled = settled_memory(&program).await;
    program.stop();
    let program = Program::start(&data);
    let restarted = program.memory();
    let start = program.start;
    let per_mute = (filled - empty) / MILLION;
    let theirs = match Redis::start(&directory(root, "redis-size"), false).await {
        None => None,
        Some(redis) => {
            let empty = redis.memory();
            fill_redis(&redis, 1_000, 1_000).await;
            Some((redis.memory() - empty) / MILLION)
        }
    };
    let compared = theirs.map_or_else(
        || "skipped: install redis-server".to_owned(),
        |bytes| format!("{bytes:.0} B Redis, user and expire alone"),
    );
    let after = (restarted - empty) / MILLION;
    vec![
        Row {
            what: "memory of a member mute, 1 M in 1,000 rooms",
            ours: format!("{per_mute:.0} B ({after:.0} B after a restart)"),
            theirs: compared,
            ratio: theirs.map(|bytes| per_mute / bytes),
            target: "<= 80 B",
        },
        Row {
            what: "start with 1 M records, to ready",
            ours: format!("{:.2} s", start.as_secs_f64()),
            theirs: "-".to_owned(),
            ratio: None,
            target: "<= 2 s",
        },
    ]
}

/// Memory once it has not shrunk for a second: the flusher is done then.
async fn settled_memory(program: &Program) -> f64 {
    let mut least = program.memory();
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let now = program.memory();
        if now >= least {
            return least;
        }
        least = now;
    }
}

/// Checks among ten million mutes, compared with checks among a thousand.
async fn ten_million(root: &Path) -> Vec<Row> {
    let large = directory(root, "large");
    let small = directory(root, "small");
    let program = Program::start(&large);
    let empty = program.memory();
    let clients = grpc::connections(&program.grpc).await;
    grpc::fill(&clients, 10_000, 1_000).await;
    let filled = settled_memory(&program).await;
    program.stop();
    let program = Program::start(&large);
    let restarted = program.memory();
    let start = program.start;
    let [filled, restarted] = [filled, restarted].map(|memory| (memory - empty) / (10.0 * MILLION));
    let of_many = grpc::connections(&program.grpc).await;
    let few = Program::start(&small);
    let of_few = grpc::connections(&few.grpc).await;
    grpc::fill(&of_few, 1, 1_000).await;
    let check = |rooms: usize| {
        move |client, caller: usize, call: usize| {
            let mixed = (caller * 7_919 + call).wrapping_mul(2_654_435_761);
            grpc::check(client, room(mixed % rooms), user((mixed >> 8) % (rooms * 1_000)))
        }
    };
    let (rate, few_rate) = in_turns(
        async |end| grpc::load(&of_many, end, check(10_000)).await,
        async |end| grpc::load(&of_few, end, check(1)).await,
    )
    .await;
    vec![
        Row {
            what: "CheckSend among 10 M mutes: time",
            ours: format!("{rate:.0}/s"),
            theirs: format!("{few_rate:.0}/s among 1,000"),
            ratio: Some(few_rate / rate),
            target: "<= 1.25",
        },
        Row {
            what: "memory of a member mute, 10 M in 10,000 rooms",
            ours: format!("{filled:.0} B ({restarted:.0} B after a restart)"),
            theirs: "-".to_owned(),
            ratio: None,
            target: "-",
        },
        Row {
            what: "start with 10 M records, to ready",
            ours: format!("{:.2} s", start.as_secs_f64()),
            theirs: "-".to_owned(),
            ratio: None,
            target: "<= 20 s",
        },
    ]
}
