//! Three replicas over a cluster of three etcd members on this machine, compared with the members
//! alone.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    Row,
    against::rates_row,
    grpc::{self, room, user},
    in_turns,
    program::{Program, resident},
    rows::{MILLION, ROOMS, USERS, directory, pair},
};

const MEMBERS: usize = 3;
/// Connections to each replica, and to each member.
const EACH: usize = 2;
/// The size of a mute with its event.
const VALUE_BYTES: usize = 200;

/// A member of the cluster. Dropping it kills the process.
struct Member {
    child: Child,
    addr: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(prost::Message)]
struct Put {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(bytes, tag = "2")]
    value: Vec<u8>,
}

/// The status of a member, without the fields that are not used.
#[derive(prost::Message)]
struct Status {
    /// The size of its database, in bytes.
    #[prost(int64, tag = "3")]
    database: i64,
}

pub async fn rows(root: &Path) -> Vec<Row> {
    let what = "3 replicas over etcd: durable MuteMembers, 96 callers";
    if Command::new("etcd").arg("--version").output().is_err() {
        let theirs = "skipped: install etcd-server".to_owned();
        return vec![Row { what, ours: "-".to_owned(), theirs, ratio: None, target: "-" }];
    }
    let members: Vec<_> = (0..MEMBERS).map(|number| member(root, number, MEMBERS)).collect();
    let urls = members
        .iter()
        .map(|member| format!("http://{}", member.addr))
        .collect::<Vec<_>>()
        .join(",");
    let replica = |name: &str| {
        Program::start_with(&directory(root, name), &["--store", "etcd", "--etcd-endpoints", &urls])
    };
    wait_for(&urls).await;
    let mut rows = Vec::new();
    {
        let replicas = ["replica0", "replica1", "replica2"].map(replica);
        let ours = connections(replicas.iter().map(|replica| replica.grpc.as_str())).await;
        let theirs = connections(members.iter().map(|member| member.addr.as_str())).await;
        let mute = |client, caller: usize, call: usize| {
            grpc::mute(client, format!("grpc{caller:04}"), vec![user(caller * 1_000_000 + call)])
        };
        let (rate, bare_rate) = in_turns(
            async |end| grpc::load(&ours, end, mute).await,
            async |end| grpc::load(&theirs, end, put).await,
        )
        .await;
        rows.push(Row::rates(
            what,
            rate,
            (bare_rate, "etcd, puts of 200 bytes, 96 callers"),
            ">= 0.8",
        ));
    }
    let cluster = replica("replica0");
    let sled = Program::start(&directory(root, "beside"));
    let ours = grpc::connections(&cluster.grpc).await;
    let theirs = grpc::connections(&sled.grpc).await;
    grpc::fill(&ours, ROOMS, USERS).await;
    grpc::fill(&theirs, ROOMS, USERS).await;
    let check = |client, caller, call| {
        let (number, who) = pair(caller, call);
        grpc::check(client, room(number), user(who))
    };
    let (rate, sled_rate) = in_turns(
        async |end| grpc::load(&ours, end, check).await,
        async |end| grpc::load(&theirs, end, check).await,
    )
    .await;
    rows.push(Row::rates(
        "CheckSend of a replica over etcd",
        rate,
        (sled_rate, "the same over sled"),
        ">= 0.95",
    ));
    drop(sled);
    rows.extend(size(&cluster, &ours, &members, || replica("replica1")).await);
    rows
}

/// Durable mutes through a replica of each build, over the same members.
pub async fn against(root: &Path, build: &str) -> Vec<Row> {
    if Command::new("etcd").arg("--version").output().is_err() {
        return Vec::new();
    }
    let members: Vec<_> = (0..MEMBERS).map(|number| member(root, number, MEMBERS)).collect();
    let urls = members
        .iter()
        .map(|member| format!("http://{}", member.addr))
        .collect::<Vec<_>>()
        .join(",");
    wait_for(&urls).await;
    let replica = |program: &str, name: &str| {
        let arguments =
            ["--store", "etcd", "--etcd-endpoints", &urls, "--etcd-prefix", &format!("{name}/")];
        Program::start_build(program, &directory(root, name), &arguments)
    };
    let ours = replica(env!("CARGO_BIN_EXE_mute-service"), "our-replica");
    let theirs = replica(build, "their-replica");
    let ours = grpc::connections(&ours.grpc).await;
    let theirs = grpc::connections(&theirs.grpc).await;
    let mute = |client, caller: usize, call: usize| {
        grpc::mute(client, format!("grpc{caller:04}"), vec![user(caller * 1_000_000 + call)])
    };
    let what = "a replica over etcd: durable MuteMembers, 64 callers";
    vec![
        rates_row(
            what,
            async |end| grpc::load(&ours, end, mute).await,
            async |end| grpc::load(&theirs, end, mute).await,
        )
        .await,
    ]
}

/// A million mutes: memory and disk they take in a member and in a replica, and how long a replica
/// takes to start.
async fn size(
    cluster: &Program,
    ours: &[grpc::Mutes],
    members: &[Member],
    replica: impl Fn() -> Program,
) -> Vec<Row> {
    let empty = cluster.memory();
    let before = resident(members[0].child.id());
    let database_before = database_bytes(&members[0]).await;
    let filling = Instant::now();
    grpc::fill(ours, 1_000, 1_000).await;
    let filled = MILLION / filling.elapsed().as_secs_f64();
    let in_member = resident(members[0].child.id()) - before;
    let in_replica = cluster.memory() - empty;
    let on_disk = database_bytes(&members[0]).await - database_before;
    let started = replica();
    let per = |bytes: f64| bytes / MILLION;
    vec![Row {
        what: "a replica over etcd with 1 M mutes: start to ready",
        ours: format!("{:.2} s", started.start.as_secs_f64()),
        theirs: format!(
            "{filled:.0} mutes/s filled in; {:.0} B a mute in a replica, {:.0} B after a start, {:.0} B in a member's memory, {:.0} B of its database",
            per(in_replica),
            per(started.memory() - empty),
            per(in_member),
            per(on_disk)
        ),
        ratio: None,
        target: "-",
    }]
}

/// How long a replica takes to start with different numbers of mutes, over a single member, so that
/// the replica has a core of its own.
pub async fn starts(root: &Path, full: bool) -> Vec<Row> {
    const SIZES: [(usize, &str); 4] = [
        (500, "a replica over etcd with 0.5 M mutes: start to ready"),
        (1_500, "the same with 1.5 M"),
        (5_000, "the same with 5 M"),
        (10_000, "the same with 10 M"),
    ];
    if Command::new("etcd").arg("--version").output().is_err() {
        return Vec::new();
    }
    let member = member(root, 0, 1);
    let url = format!("http://{}", member.addr);
    wait_for(&url).await;
    let replica = |name: &str| {
        Program::start_with(&directory(root, name), &["--store", "etcd", "--etcd-endpoints", &url])
    };
    let writer = replica("starts0");
    let clients = grpc::connections(&writer.grpc).await;
    let mut rows = Vec::new();
    let mut filled = 0;
    let mut before = (0.0, 0.0);
    for (rooms, what) in SIZES.into_iter().take(if full { 4 } else { 2 }) {
        grpc::fill_rooms(&clients, filled..rooms, 1_000).await;
        filled = rooms;
        let mutes = rooms as f64 * 1_000.0;
        let started = replica("starts1");
        let start = started.start.as_secs_f64();
        let memory = resident(member.child.id());
        let theirs = format!(
            "{:.2} s a million, {:.2} s for each million more; {:.0} MB in the member's memory, {:.0} MB in the replica's",
            start / mutes * MILLION,
            (start - before.1) / (mutes - before.0) * MILLION,
            memory / 1e6,
            started.memory() / 1e6
        );
        before = (mutes, start);
        rows.push(Row {
            what,
            ours: format!("{start:.2} s"),
            theirs,
            ratio: None,
            target: "<= 5 s a million",
        });
    }
    rows
}

fn member(root: &Path, number: usize, members: usize) -> Member {
    let addr = |number: usize, port| format!("127.77.77.{}:{port}", number + 1);
    let client = format!("http://{}", addr(number, 2_379));
    let peer = format!("http://{}", addr(number, 2_380));
    let name = format!("m{number}");
    let peers: Vec<_> =
        (0..members).map(|member| format!("m{member}=http://{}", addr(member, 2_380))).collect();
    let mut command = Command::new("etcd");
    command.args([
        "--name",
        &name,
        "--data-dir",
        directory(root, &name).join("etcd").to_str().unwrap(),
    ]);
    command.args([
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
        "--logger",
        "zap",
    ]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &peers.join(","), "--quota-backend-bytes", "8589934592"]);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    Member { child, addr: addr(number, 2_379) }
}

/// Waits until the members have a leader.
async fn wait_for(urls: &str) {
    let started = Instant::now();
    for url in urls.split(',') {
        let client = loop {
            match tonic::transport::Channel::from_shared(url.to_owned()).unwrap().connect().await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            assert!(started.elapsed() < Duration::from_secs(20), "etcd has not started");
        };
        put(client, 0, 0).await;
    }
}

/// The size of a member's database, in bytes.
async fn database_bytes(member: &Member) -> f64 {
    let client = grpc::connect(&member.addr).await;
    let answer =
        grpc::raw(client, "/etcdserverpb.Maintenance/Status", tonic::Request::new(Bytes::new()))
            .await;
    Status::decode(answer).unwrap().database as f64
}

async fn connections(addrs: impl Iterator<Item = &str>) -> Vec<grpc::Mutes> {
    let mut connections = Vec::new();
    for addr in addrs {
        for _ in 0..EACH {
            connections.push(grpc::connect(addr).await);
        }
    }
    connections
}

async fn put(client: grpc::Mutes, caller: usize, call: usize) {
    let key = format!("bare/grpc{caller:04}/{}", user(caller * 1_000_000 + call)).into_bytes();
    let message = Put { key, value: vec![1; VALUE_BYTES] };
    grpc::raw(client, "/etcdserverpb.KV/Put", tonic::Request::new(message.encode_to_vec().into()))
        .await;
}
