//! The service as a process, with one app with an open directory.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub const APP: &str = "Bench";
pub const TOKEN: &str = "Bearer bench-token";

/// The running program. Dropping it kills the process.
pub struct Program {
    child: Child,
    pub grpc: String,
    pub rest: String,
    /// From the start of the process until it serves.
    pub start: Duration,
}

impl Program {
    pub fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    pub fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        Self::start_build(env!("CARGO_BIN_EXE_mute-service"), directory, arguments)
    }

    /// Starts the program of another build.
    pub fn start_build(build: &str, directory: &Path, arguments: &[&str]) -> Self {
        let config = directory.join("config.toml");
        let hash = mute_service::auth::secret::KeyHash::of("bench-token");
        let text = format!(
            "rate_limit = 0\n[[apps]]\nkey = \"{APP}\"\ndirectory = \"open\"\n[[services]]\nname = \"bench\"\ntoken_hash = \"{hash}\"\n\
             scopes = [\"check\", \"write\", \"admin\"]\napps = [\"*\"]\n"
        );
        fs::write(&config, text).unwrap();
        let addresses = directory.join("addresses.json");
        let _ = fs::remove_file(&addresses);
        let started = Instant::now();
        let mut command = Command::new(build);
        command.args([
            "serve",
            "--config",
            config.to_str().unwrap(),
            "--addr-file",
            addresses.to_str().unwrap(),
        ]);
        command.args([
            "--grpc-addr",
            "127.0.0.1:0",
            "--rest-addr",
            "127.0.0.1:0",
            "--admin-addr",
            "127.0.0.1:0",
        ]);
        command.args(["--data-dir", directory.join("data").to_str().unwrap()]).args(arguments);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .env("MUTE_LOG", "warn")
            .env("MUTE_QUOTA_MUTES", "100000000")
            .spawn()
            .unwrap();
        while !addresses.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the service has not started");
            std::thread::sleep(Duration::from_millis(2));
        }
        let start = started.elapsed();
        let addresses: serde_json::Value =
            serde_json::from_slice(&fs::read(&addresses).unwrap()).unwrap();
        let addr = |name: &str| addresses[name].as_str().unwrap().to_owned();
        Self { child, grpc: addr("grpc"), rest: addr("rest"), start }
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> f64 {
        resident(self.child.id())
    }

    /// Stops it gracefully.
    pub fn stop(mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1_024.0
}
