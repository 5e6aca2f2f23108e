//! Real etcd, as many members as a test wants, each at a loopback address of its own.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
};

use mute_service::store::{ClusterConfig, Place};
use rand::RngExt as _;

use crate::harness::skipped;

/// A cluster. Its members are killed when it is dropped.
pub struct Etcd {
    pub members: Vec<Member>,
    _directory: tempfile::TempDir,
}

/// One process of it.
pub struct Member {
    pub url: String,
    command: Command,
    child: Child,
}

impl Etcd {
    /// Nothing where there is no etcd.
    pub fn start(members: usize, arguments: &[&str]) -> Option<Self> {
        let mut random = rand::rng();
        // A network of its own, so that clusters of tests at the same time do not meet.
        let (a, b) = (random.random_range(2..250_u8), random.random_range(0..250_u8));
        let addrs: Vec<_> = (0..members).map(|member| format!("127.{a}.{b}.{}", member + 1)).collect();
        Self::start_at(&addrs, arguments, |_, program| Command::new(program))
    }

    /// A member at each of these addresses; `command` makes the command that runs a program where the member is.
    pub fn start_at(addrs: &[String], arguments: &[&str], command: impl Fn(usize, &str) -> Command) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            skipped("install etcd (Debian: etcd-server), so that it is on the PATH");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let peers: Vec<_> = addrs.iter().enumerate().map(|(member, addr)| format!("m{member}=http://{addr}:2380")).collect();
        let start = |(number, addr): (usize, &String)| {
            Member::start(command(number, "etcd"), directory.path(), number, addr, &peers.join(","), arguments)
        };
        Some(Self { members: addrs.iter().enumerate().map(start).collect(), _directory: directory })
    }

    pub fn urls(&self) -> String {
        self.members.iter().map(|member| member.url.clone()).collect::<Vec<_>>().join(",")
    }

    pub fn place(&self) -> Place {
        let endpoints = self.members.iter().map(|member| member.url.clone()).collect();
        Place::Cluster(ClusterConfig { endpoints, prefix: "mute/".to_owned(), user: None, tls: None })
    }
}

impl Member {
    fn start(mut command: Command, directory: &Path, number: usize, addr: &str, peers: &str, arguments: &[&str]) -> Self {
        let (client, peer) = (format!("http://{addr}:2379"), format!("http://{addr}:2380"));
        let name = format!("m{number}");
        command.args(["--name", &name, "--data-dir", directory.join(&name).to_str().unwrap()]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", peers, "--initial-cluster-state", "new", "--logger", "zap"]).args(arguments);
        let log = File::create(directory.join(format!("{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        Self { url: client, command, child }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on what it had.
    pub fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
