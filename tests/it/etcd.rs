//! Real etcd clusters of any size. Each member has a loopback address of its own.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mute_service::store::{ClusterConfig, Location};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::harness::skipped;

/// A cluster. Its members are killed when it is dropped.
pub struct Etcd {
    pub members: Vec<Member>,
    directory: tempfile::TempDir,
}

/// One process of a cluster.
pub struct Member {
    pub url: String,
    name: String,
    addr: String,
    command: Command,
    child: Child,
}

impl Etcd {
    /// `None` where etcd is not installed.
    pub fn start(members: usize, arguments: &[&str]) -> Option<Self> {
        let mut random = rand::rng();
        // A network of its own, so that clusters of concurrent tests do not meet.
        let a = random.random_range(2..250_u8);
        let b = random.random_range(0..250_u8);
        let addrs: Vec<_> =
            (0..members).map(|member| format!("127.{a}.{b}.{}", member + 1)).collect();
        Self::start_at(&addrs, arguments, |_, program| Command::new(program))
    }

    /// Starts a member at each of these addresses. `command` makes the command that runs a program
    /// on a member's machine. `None` where etcd is not installed.
    pub fn start_at(
        addrs: &[String],
        arguments: &[&str],
        command: impl Fn(usize, &str) -> Command,
    ) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            skipped("install etcd (Debian: etcd-server), so that it is on the PATH");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let peers: Vec<_> = addrs
            .iter()
            .enumerate()
            .map(|(member, addr)| peer(&format!("m{member}"), addr))
            .collect();
        let peers = peers.join(",");
        let start = |(number, addr): (usize, &String)| {
            let arguments = [
                &["--initial-cluster", peers.as_str(), "--initial-cluster-state", "new"],
                arguments,
            ]
            .concat();
            Member::start(
                command(number, "etcd"),
                directory.path(),
                &format!("m{number}"),
                addr,
                &arguments,
            )
        };
        Some(Self { members: addrs.iter().enumerate().map(start).collect(), directory })
    }

    /// Replaces a member that is lost for good by a new one with an empty disk.
    pub async fn replace(&mut self, number: usize) {
        self.members[number].kill();
        let others = &self.members[(number + 1) % self.members.len()];
        let list = others.call_until_accepted("cluster/member/list", json!({})).await;
        let listed = list["members"].as_array().unwrap();
        let named =
            |name: &str| listed.iter().find(|member| member["name"] == name).unwrap()["ID"].clone();
        let name = format!("{}n", self.members[number].name);
        let addr = format!("{}9", self.members[number].addr);
        others
            .call_until_accepted(
                "cluster/member/remove",
                json!({"ID": named(&self.members[number].name)}),
            )
            .await;
        let mut peers: Vec<_> =
            self.members.iter().map(|member| peer(&member.name, &member.addr)).collect();
        peers[number] = peer(&name, &addr);
        others
            .call_until_accepted(
                "cluster/member/add",
                json!({"peerURLs": [format!("http://{addr}:2380")]}),
            )
            .await;
        let arguments =
            ["--initial-cluster", &peers.join(","), "--initial-cluster-state", "existing"];
        self.members[number] =
            Member::start(Command::new("etcd"), self.directory.path(), &name, &addr, &arguments);
    }

    /// The data directory of a member.
    pub fn disk(&self, number: usize) -> PathBuf {
        self.directory.path().join(&self.members[number].name)
    }

    pub async fn leader(&self) -> Option<usize> {
        for (number, member) in self.members.iter().enumerate() {
            let status = member.call("maintenance/status", json!({})).await;
            if status.is_some_and(|status| status["leader"] == status["header"]["member_id"]) {
                return Some(number);
            }
        }
        None
    }

    /// Compacts the cluster to its latest revision.
    pub async fn compact(&self) {
        for member in &self.members {
            let Some(read) = member.call("kv/range", json!({"key": "bXV0ZQ=="})).await else {
                continue;
            };
            if member
                .call(
                    "kv/compaction",
                    json!({"revision": read["header"]["revision"], "physical": true}),
                )
                .await
                .is_some()
            {
                return;
            }
        }
    }

    pub fn urls(&self) -> String {
        self.members.iter().map(|member| member.url.clone()).collect::<Vec<_>>().join(",")
    }

    pub fn location(&self) -> Location {
        let endpoints = self.members.iter().map(|member| member.url.clone()).collect();
        Location::Cluster(ClusterConfig {
            endpoints,
            prefix: "mute/".to_owned(),
            user: None,
            tls: None,
            connector: None,
        })
    }
}

impl Member {
    fn start(
        mut command: Command,
        directory: &Path,
        name: &str,
        addr: &str,
        arguments: &[&str],
    ) -> Self {
        let scheme = if arguments.contains(&"--cert-file") { "https" } else { "http" };
        let client = format!("{scheme}://{addr}:2379");
        let peer = format!("http://{addr}:2380");
        command.args([
            "--name",
            name,
            "--data-dir",
            directory.join(name).to_str().unwrap(),
            "--logger",
            "zap",
        ]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(arguments);
        let log = File::create(directory.join(format!("{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        Self { url: client, name: name.to_owned(), addr: addr.to_owned(), command, child }
    }

    /// Calls its API, through its JSON gateway. `None` if the call fails.
    pub async fn call(&self, call: &str, request: Value) -> Option<Value> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().unwrap();
        let answer =
            client.post(format!("{}/v3/{call}", self.url)).json(&request).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    /// Repeats a call until it succeeds: a cluster accepts a new member only after it has been
    /// healthy for five seconds.
    async fn call_until_accepted(&self, call: &str, request: Value) -> Value {
        for _ in 0..100 {
            if let Some(answer) = self.call(call, request.clone()).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{call}: refused for 20 s");
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again with its old data.
    pub fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        assert!(
            Command::new("kill")
                .args([name, &self.child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }
}

/// A member as `--initial-cluster` lists it.
fn peer(name: &str, addr: &str) -> String {
    format!("{name}=http://{addr}:2380")
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
