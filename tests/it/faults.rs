//! A cluster of three members and three replicas, each in a network namespace of its own, while
//! members and replicas are killed and stopped, links are cut, and the cluster is compacted: no
//! acknowledged write is lost, and all replicas agree. `MUTE_TEST_FAULT_SECONDS` sets for how long,
//! `MUTE_TEST_SEED` repeats the choice of faults.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::transport::{Channel, Endpoint};

use crate::{
    checker::{Muted, Operation, Outcome, check},
    etcd::Etcd,
    harness::{SERVICE, duration, ms, with},
    ledger::{random, setting},
    network::Network,
    process::Process,
};

const MEMBERS: usize = 3;
const REPLICAS: usize = 3;
const WRITERS: usize = 9;
/// Users of each writer.
const USERS: usize = 6;
const HOUR_MS: u64 = 3_600_000;

type Mutes = MuteServiceClient<Channel>;

/// What all tasks share.
struct Shared {
    clients: Vec<Mutes>,
    /// Replicas that are or were lately down: their callers may fail.
    faulted: Vec<AtomicBool>,
    stopped: AtomicBool,
    /// When writes were acknowledged.
    acknowledged: Mutex<Vec<Instant>>,
    checks: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

struct Cluster {
    etcd: Etcd,
    replicas: Vec<Option<Process>>,
    directories: Vec<tempfile::TempDir>,
    network: Network,
}

impl Cluster {
    fn start() -> Option<Self> {
        let network = Network::new(MEMBERS + REPLICAS)?;
        let addrs: Vec<_> = (0..MEMBERS).map(|member| network.addr(member)).collect();
        let etcd = Etcd::start_at(&addrs, &[], |member, program| network.command(member, program))?;
        let directories = (0..REPLICAS).map(|_| tempfile::tempdir().unwrap()).collect();
        Some(Self { etcd, replicas: (0..REPLICAS).map(|_| None).collect(), directories, network })
    }

    /// Starts the replica; retries until the cluster is available.
    async fn start_replica(&mut self, replica: usize) {
        let directory = self.directories[replica].path();
        let addr = self.network.addr(MEMBERS + replica);
        let addrs = [50_051, 8_080, 9_090].map(|port| format!("{addr}:{port}"));
        let arguments = ["--store", "etcd", "--etcd-endpoints", &self.etcd.urls()];
        let started = Instant::now();
        loop {
            let command =
                self.network.command(MEMBERS + replica, env!("CARGO_BIN_EXE_mute-service"));
            let mut process = Process::launch(
                command,
                directory,
                addrs.each_ref().map(String::as_str),
                &arguments,
            );
            while !process.has_ended() && !directory.join("addresses.json").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if !process.has_ended() {
                self.replicas[replica] = Some(process);
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "replica {replica} does not start"
            );
        }
    }

    /// Injects a random fault for a while, and ends it. Returns what it was.
    async fn fault(&mut self, random: &mut StdRng, shared: &Shared) -> &'static str {
        let length = Duration::from_millis(random.random_range(300..3_000));
        let member = random.random_range(0..MEMBERS);
        let replica = random.random_range(0..REPLICAS);
        let machine = MEMBERS + replica;
        let other = (member + random.random_range(1..MEMBERS)) % MEMBERS;
        match random.random_range(0..11) {
            0 => {
                let leader = self.etcd.leader().await.unwrap_or(member);
                self.etcd.members[leader].kill();
                tokio::time::sleep(length).await;
                self.etcd.members[leader].start_again();
                "the leader is killed"
            }
            1 => {
                self.etcd.members[member].signal("-STOP");
                tokio::time::sleep(length).await;
                self.etcd.members[member].signal("-CONT");
                "a member is stopped"
            }
            2 => {
                self.etcd.members.iter_mut().for_each(|member| member.kill());
                tokio::time::sleep(length / 3).await;
                self.etcd.members.iter_mut().for_each(|member| member.start_again());
                "all members are killed"
            }
            3 => {
                self.cut(&[(member, other)], length).await;
                "a member does not reach another"
            }
            4 => {
                let links: Vec<_> = (0..MEMBERS)
                    .filter(|other| *other != member)
                    .flat_map(|other| [(member, other), (other, member)])
                    .collect();
                self.cut(&links, length).await;
                "a member is cut off from the others"
            }
            5 => {
                let links: Vec<_> = (0..MEMBERS).map(|member| (machine, member)).collect();
                self.cut(&links, length).await;
                "a replica does not reach the cluster"
            }
            6 => {
                let links: Vec<_> = (0..MEMBERS).map(|member| (member, machine)).collect();
                self.cut(&links, length).await;
                "the cluster does not reach a replica"
            }
            7 => {
                self.cut(&[(machine, member), (member, machine)], length).await;
                "a replica is cut off from a member"
            }
            8 => {
                shared.faulted[replica].store(true, Ordering::SeqCst);
                self.replicas[replica] = None;
                tokio::time::sleep(length / 3).await;
                self.start_replica(replica).await;
                shared.faulted[replica].store(false, Ordering::SeqCst);
                "a replica is killed"
            }
            9 => {
                shared.faulted[replica].store(true, Ordering::SeqCst);
                let process = self.replicas[replica].as_ref().unwrap();
                process.signal("-STOP");
                tokio::time::sleep(length).await;
                process.signal("-CONT");
                tokio::time::sleep(Duration::from_millis(500)).await;
                shared.faulted[replica].store(false, Ordering::SeqCst);
                "a replica is stopped"
            }
            _ => {
                self.etcd.compact().await;
                "the cluster is compacted"
            }
        }
    }

    async fn cut(&self, links: &[(usize, usize)], length: Duration) {
        links.iter().for_each(|(from, to)| self.network.cut(*from, *to));
        tokio::time::sleep(length).await;
        links.iter().for_each(|(from, to)| self.network.heal(*from, *to));
    }
}

/// Writes with its own users at random replicas, and records each outcome.
async fn write(shared: Arc<Shared>, writer: usize, mut random: StdRng) -> Vec<Operation> {
    let mut operations = Vec::new();
    while !shared.stopped.load(Ordering::SeqCst) {
        let room = format!("room{}", writer % 3);
        let users: Vec<_> = (0..USERS)
            .filter(|_| random.random_bool(0.4))
            .map(|user| format!("w{writer}u{user}"))
            .collect();
        if users.is_empty() {
            continue;
        }
        let reason = format!("w{writer}o{}", operations.len());
        let mut replica = shared.clients[random.random_range(0..REPLICAS)].clone();
        let duration_ms = match random.random_range(0..3) {
            0 => None,
            1 => Some(random.random_range(1..3_000)),
            _ => Some(random.random_range(HOUR_MS..24 * HOUR_MS)),
        };
        let app = "Open".to_owned();
        let kind =
            if random.random_bool(0.75) { pb::ChangeKind::Muted } else { pb::ChangeKind::Unmuted };
        let answer = if kind == pb::ChangeKind::Muted {
            let duration = duration_ms.map(duration);
            let message = pb::MuteMembersRequest {
                app,
                room: room.clone(),
                users: users.clone(),
                duration,
                reason: reason.clone(),
                ..Default::default()
            };
            replica
                .mute_members(with(message, &[SERVICE]))
                .await
                .map(|answer| Outcome::Done(answer.into_inner().revision))
        } else {
            let message = pb::UnmuteMembersRequest {
                app,
                room: room.clone(),
                users: users.clone(),
                reason: reason.clone(),
                ..Default::default()
            };
            replica.unmute_members(with(message, &[SERVICE])).await.map(|answer| {
                let answer = answer.into_inner();
                let has_changed = answer.members.iter().any(|member| member.was_muted);
                if has_changed { Outcome::Done(answer.revision) } else { Outcome::Nothing }
            })
        };
        let outcome = answer.unwrap_or(Outcome::Unknown);
        if let Outcome::Done(revision) = outcome {
            shared.acknowledged.lock().unwrap().push(Instant::now());
            let lasts = duration_ms.is_none_or(|duration_ms| duration_ms >= HOUR_MS);
            if kind == pb::ChangeKind::Muted && lasts && random.random_bool(0.5) {
                let reader = shared.clients[random.random_range(0..REPLICAS)].clone();
                check_visible(&shared, reader, &room, &users[0], revision).await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        operations.push(Operation { reason, room, users, kind, outcome });
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
    }
    operations
}

/// A check with the revision of a write sees that write, at every replica.
async fn check_visible(
    shared: &Shared,
    mut reader: Mutes,
    room: &str,
    user: &str,
    min_revision: i64,
) {
    let message = pb::CheckSendRequest {
        app: "Open".into(),
        room: room.into(),
        user: user.into(),
        min_revision,
    };
    let Ok(answer) = reader.check_send(with(message, &[SERVICE])).await else { return };
    shared.checks.fetch_add(1, Ordering::Relaxed);
    let answer = answer.into_inner();
    if answer.allowed || answer.revision < min_revision {
        shared
            .faults
            .lock()
            .unwrap()
            .push(format!("{user} was muted at {min_revision}, and then {answer:?}"));
    }
}

/// Checks at one replica all the time: it must answer, whatever happens to others.
async fn check_continuously(shared: Arc<Shared>, replica: usize) {
    let is_faulted = || shared.faulted[replica].load(Ordering::SeqCst);
    while !shared.stopped.load(Ordering::SeqCst) {
        let before = is_faulted();
        let mut client = shared.clients[replica].clone();
        let message = pb::CheckSendRequest {
            app: "Open".into(),
            room: "room0".into(),
            user: "nobody".into(),
            min_revision: 0,
        };
        let answer = client.check_send(with(message, &[SERVICE])).await;
        shared.checks.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = answer
            && !before
            && !is_faulted()
        {
            shared
                .faults
                .lock()
                .unwrap()
                .push(format!("replica {replica} has not answered a check: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Watches one replica from the first change on, and resumes after each disconnect, until it has
/// seen this revision.
async fn watch(
    shared: Arc<Shared>,
    replica: usize,
    until: Arc<Mutex<Option<i64>>>,
) -> Result<Vec<pb::Change>, String> {
    let mut changes: Vec<pb::Change> = Vec::new();
    let mut at = 0;
    let is_done = |at: i64| until.lock().unwrap().is_some_and(|until| at >= until);
    while !is_done(at) {
        let message =
            pb::WatchRequest { app: "Open".into(), room: String::new(), after_revision: Some(at) };
        let Ok(stream) = shared.clients[replica].clone().watch(with(message, &[SERVICE])).await
        else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut stream = stream.into_inner();
        while !is_done(at) {
            match tokio::time::timeout(Duration::from_millis(200), stream.message()).await {
                Err(_) => {}
                Ok(Ok(Some(response))) => match response.event {
                    Some(pb::watch_response::Event::Change(change)) => {
                        at = change.revision;
                        changes.push(change);
                    }
                    Some(pb::watch_response::Event::Heartbeat(heartbeat)) => {
                        at = at.max(heartbeat.revision)
                    }
                    None => return Err("a response without an event".to_owned()),
                },
                Ok(Err(status)) if status.code() == tonic::Code::OutOfRange => {
                    return Err(format!("replica {replica}: {status}"));
                }
                Ok(Ok(None) | Err(_)) => break,
            }
        }
    }
    Ok(changes)
}

async fn list(mut client: Mutes, min_revision: i64) -> Muted {
    let mut muted = Muted::new();
    for room in ["room0", "room1", "room2"] {
        let message = pb::ListMutedMembersRequest {
            app: "Open".into(),
            room: room.into(),
            page_size: 1_000,
            min_revision,
            ..Default::default()
        };
        let page = client.list_muted_members(with(message, &[SERVICE])).await.unwrap().into_inner();
        assert!(page.next_page_token.is_empty());
        let entry = |member: pb::MutedMember| {
            ((room.to_owned(), member.user), (member.expire_time.as_ref().map(ms), member.reason))
        };
        muted.extend(page.members.into_iter().map(entry));
    }
    muted
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_lose_no_acknowledged_write_and_replicas_agree() {
    let length = Duration::from_secs(setting("MUTE_TEST_FAULT_SECONDS").unwrap_or(25));
    let Some(mut cluster) = Cluster::start() else { return };
    let mut random = random();
    for replica in 0..REPLICAS {
        cluster.start_replica(replica).await;
    }
    let client = |replica| {
        let url = format!("http://{}:50051", cluster.network.addr(MEMBERS + replica));
        MuteServiceClient::new(
            Endpoint::from_shared(url).unwrap().timeout(Duration::from_secs(8)).connect_lazy(),
        )
    };
    let shared = Arc::new(Shared {
        clients: (0..REPLICAS).map(client).collect(),
        faulted: (0..REPLICAS).map(|_| AtomicBool::new(false)).collect(),
        stopped: AtomicBool::new(false),
        acknowledged: Mutex::default(),
        checks: AtomicUsize::new(0),
        faults: Mutex::default(),
    });
    let until = Arc::new(Mutex::new(None));
    let watchers: Vec<_> = (0..REPLICAS)
        .map(|replica| tokio::spawn(watch(shared.clone(), replica, until.clone())))
        .collect();
    let checkers: Vec<_> = (0..REPLICAS)
        .map(|replica| tokio::spawn(check_continuously(shared.clone(), replica)))
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            tokio::spawn(write(shared.clone(), writer, StdRng::seed_from_u64(random.random())))
        })
        .collect();
    let mut counts: std::collections::BTreeMap<_, (usize, Duration)> = Default::default();
    let started = Instant::now();
    while started.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(random.random_range(500..2_000))).await;
        let began = Instant::now();
        let what = cluster.fault(&mut random, &shared).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let acknowledged = shared.acknowledged.lock().unwrap();
        let times: Vec<_> = acknowledged
            .iter()
            .copied()
            .filter(|at| *at + Duration::from_secs(1) >= began)
            .chain([Instant::now()])
            .collect();
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let (count, longest) = counts.entry(what).or_default();
        (*count, *longest) = (*count + 1, gap.max(*longest));
    }
    shared.stopped.store(true, Ordering::SeqCst);
    let operations: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    join_all(checkers).await.into_iter().for_each(Result::unwrap);
    // By then every short mute has ended, and every unanswered write has taken effect or never
    // will.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let last = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "room0".into(),
        users: vec!["last".into()],
        ..Default::default()
    };
    let last = shared.clients[0]
        .clone()
        .mute_members(with(last, &[SERVICE]))
        .await
        .unwrap()
        .into_inner()
        .revision;
    *until.lock().unwrap() = Some(last);
    let histories: Vec<_> =
        join_all(watchers).await.into_iter().map(|watcher| watcher.unwrap().unwrap()).collect();
    for (what, (count, gap)) in &counts {
        println!("{count:4} times {what}: at most {gap:.1?} without an acknowledged write");
    }
    let all = operations.iter().flatten();
    let (done, unknown) =
        all.clone().fold((0, 0), |(done, unknown), operation| match operation.outcome {
            Outcome::Done(_) => (done + 1, unknown),
            Outcome::Nothing => (done, unknown),
            Outcome::Unknown => (done, unknown + 1),
        });
    let checks = shared.checks.load(Ordering::Relaxed);
    println!(
        "{} writes, {done} acknowledged, {unknown} unknown; {} changes watched, {checks} checks",
        all.count(),
        histories[0].len()
    );
    let faults = std::mem::take(&mut *shared.faults.lock().unwrap());
    assert!(faults.is_empty(), "{} faults: {:#?}", faults.len(), &faults[..faults.len().min(5)]);
    for history in &histories[1..] {
        let differ = histories[0].iter().zip(history).find(|(one, other)| one != other);
        assert!(
            differ.is_none() && history.len() == histories[0].len(),
            "{} and {}: {differ:?}",
            histories[0].len(),
            history.len()
        );
    }
    let muted = check(&operations, &histories[0], now_ms() - 3_000);
    let muted = muted.unwrap_or_else(|faults| {
        panic!("{} faults: {:#?}", faults.len(), &faults[..faults.len().min(5)])
    });
    for client in &shared.clients {
        assert_eq!(list(client.clone(), last).await, muted);
    }
    assert!(done > 50, "{done} acknowledged");
}
