//! Machines of a network, as network namespaces of this one. Links between them can be cut, also in
//! one direction only.

use std::process::Command;

use rand::RngExt as _;

use crate::harness::skipped;

/// Namespaces behind one bridge. Dropping it removes them.
pub struct Network {
    name: String,
    net: String,
    machines: usize,
}

impl Network {
    /// `None` where this user may not create one: the test is skipped.
    pub fn new(machines: usize) -> Option<Self> {
        let mut random = rand::rng();
        let name = format!("mt{:05x}", random.random_range(0..1_u32 << 20));
        let a = random.random_range(64..250_u8);
        let b = random.random_range(0..250_u8);
        let network = Self { name, net: format!("10.{a}.{b}"), machines };
        let bridge = &network.name;
        let gateway = format!("{}.254/24", network.net);
        let is_created = ip(&["link", "add", bridge, "type", "bridge"])
            && ip(&["addr", "add", &gateway, "dev", bridge])
            && ip(&["link", "set", bridge, "up"])
            && (0..machines).all(|machine| network.add(machine));
        if !is_created {
            skipped(
                "run as root with the right to create network namespaces and ip on the PATH (Debian: iproute2)",
            );
        }
        is_created.then_some(network)
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

    /// Drops all packets from one machine to the other.
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
        let space = self.space(machine);
        let outer = format!("{}v{machine}", self.name);
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
