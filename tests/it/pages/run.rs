//! Runs the commands of a page: a shell that finds the built program, at the addresses of a server.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::process::{Process, text};

/// How long a program may take to print what the page shows, or to stop.
pub const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What a page says, with the addresses of this server, and with the program that is built.
pub fn localized(text: &str, server: &Process) -> String {
    text.replace("cargo run --release -q -- ", "mute-service ")
        .replace("http://localhost:8080", &server.rest())
        .replace("localhost:50051", server.grpc())
        .replace("127.0.0.1:50051", server.grpc())
        .replace("http://127.0.0.1:9090", &server.admin())
}

/// A shell in this directory that finds the built program and stops at the first failure. Its curl
/// fails where the answer is an error.
pub fn shell(directory: &Path, script: &str) -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_mute-service")).parent().unwrap();
    let path = format!("{}:{}", built.display(), env::var("PATH").unwrap());
    let curl = r#"curl() { command curl --silent --show-error --fail-with-body "$@"; }"#;
    let mut shell = Command::new("sh");
    shell.args(["-euc", &format!("{curl}\n{script}")]).current_dir(directory).stdin(Stdio::null());
    shell.env_clear().env("PATH", path);
    shell
}

/// What a script prints that has to succeed.
pub fn printed(mut shell: Command) -> String {
    let output = shell.output().unwrap();
    let out = text(&output.stdout);
    assert!(output.status.success(), "{shell:?}\n{out}\n{}", text(&output.stderr));
    out
}

/// Waits until a script that goes on has printed this many lines into the file, on either stream.
pub fn await_lines(file: &Path, lines: usize) {
    let started = Instant::now();
    while fs::read_to_string(file).map_or(0, |out| out.lines().count()) < lines
        && started.elapsed() < TIMEOUT
    {
        sleep(POLL_INTERVAL);
    }
}

/// A script that goes on, and prints into a file. It is killed when it is dropped.
pub struct Running(std::process::Child);

impl Running {
    pub fn start(mut shell: Command, file: &Path) -> Self {
        let out = fs::File::create(file).unwrap();
        Self(shell.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
