//! Machines of a network, as namespaces of this one: links between them can be cut, in one
//! direction too.

use std::process::Command;

use rand::RngExt as _;

use crate::harness::skipped;

/// Namespaces behind one bridge. Gone when it is dropped.
pub struct Network {
    name: String,
    net: String,
    machines: usize,
}

impl Network {
    /// Nothing where this user may not make one: the test is skipped.
    pub fn new(machines: usize) -> Option<Self> {
        let mut random = rand::rng();
        let (name, a, b) = (
            format!("mt{:05x}", random.random_range(0..1_u32 << 20)),
            random.random_range(64..250_u8),
            random.random_range(0..250_u8),
        );
        let network = Self { name, net: format!("10.{a}.{b}"), machines };
        let bridge = &network.name;
        let gateway = format!("{}.254/24", network.net);
        let made = ip(&["link", "add", bridge, "type", "bridge"])
            && ip(&["addr", "add", &gateway, "dev", bridge])
            && ip(&["link", "set", bridge, "up"])
            && (0..machines).all(|machine| network.add(machine));
        if !made {
            skipped(
                "run as root who may make network namespaces, with ip on the PATH (Debian: iproute2)",
            );
        }
        made.then_some(network)
    }

    pub fn addr(&self, machine: usize) -> String {
        format!("{}.{}", self.net, machine + 1)
    }

    /// Runs a program on the machine.
    pub fn command(&self, machine: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(machine), program]);
        command
    }

    /// Nothing that one sends to the other arrives.
    pub fn cut(&self, from: usize, to: usize) {
        ip(&[
            "-n",
            &self.space(from),
            "route",
            "add",
            "blackhole",
            &format!("{}/32", self.addr(to)),
        ]);
    }

    pub fn heal(&self, from: usize, to: usize) {
        ip(&[
            "-n",
            &self.space(from),
            "route",
            "del",
            "blackhole",
            &format!("{}/32", self.addr(to)),
        ]);
    }

    fn add(&self, machine: usize) -> bool {
        let (space, outer) = (self.space(machine), format!("{}v{machine}", self.name));
        ip(&["netns", "add", &space])
            && ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space])
            && ip(&["link", "set", &outer, "master", &self.name, "up"])
            && ip(&[
                "-n",
                &space,
                "addr",
                "add",
                &format!("{}/24", self.addr(machine)),
                "dev",
                "eth0",
            ])
            && ip(&["-n", &space, "link", "set", "eth0", "up"])
            && ip(&["-n", &space, "link", "set", "lo", "up"])
    }

    fn space(&self, machine: usize) -> String {
        format!("{}n{machine}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in 0..self.machines {
            ip(&["netns", "del", &self.space(machine)]);
        }
        ip(&["link", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}
