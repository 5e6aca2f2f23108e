//! What deploy/README.md says a client needs so that no call fails while the service is away. The
//! programs run the lines that stand there.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use mute_service::proto::DESCRIPTORS;
use rand::RngExt as _;
use serde_json::{Value, json};

use super::libraries;
use crate::process::{Process, program};

/// How often the service is stopped and started again.
const RESTARTS: usize = 2;

/// A program that calls without a pause, until its standard input ends.
struct Caller {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Caller {
    /// Returns once its first call has begun.
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut caller = Self { child, output };
        assert_eq!(caller.line(), "calling");
        caller
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Its failed calls since the last time, once a call that begins now was answered.
    fn failed(&mut self) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that no connection of a client can have as its own: while the service is down, a
/// client might otherwise take its port.
fn addr() -> String {
    let mut random = rand::rng();
    format!("127.{}.{}.1:50051", random.random_range(2..250_u8), random.random_range(0..250_u8))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_set_up_as_documented_wait_for_a_replica() {
    let directory = tempfile::tempdir().unwrap();
    let descriptors = directory.path().join("descriptors");
    std::fs::write(&descriptors, DESCRIPTORS).unwrap();
    let addr = addr();
    let mut callers = Vec::new();
    for (library, mut command) in libraries("restarts") {
        command.args([addr.as_str(), descriptors.to_str().unwrap()]);
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy"));
        callers.push((library, Caller::start(command)));
    }
    let start = || {
        let addrs = [addr.as_str(), "127.0.0.1:0", "127.0.0.1:0"];
        let data = directory.path().join("data");
        let arguments = ["--data-dir", data.to_str().unwrap()];
        Process::launch(program(), directory.path(), addrs, &arguments).ready()
    };
    let mut process = start();
    for restart in 0..=RESTARTS {
        for (library, caller) in &mut callers {
            assert_eq!(caller.failed(), json!([]), "{library} after {restart} restarts");
        }
        process.signal("-TERM");
        assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
        process = start();
    }
}
