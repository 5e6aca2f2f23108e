//! What a start takes and refuses: the data directory, dev mode's addresses, what the system
//! grants.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use crate::{
    cluster::until,
    harness::skipped,
    process::{Process, build, text},
    tools::has_program,
};

/// A start that fails. It is killed where it hangs.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let mut killed = Command::new("timeout");
    killed.env_clear().env("PATH", "/usr/bin:/bin").args(["-s", "KILL", "30"]);
    killed.arg(command.get_program()).args(command.get_args());
    killed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    killed.current_dir(command.get_current_dir().unwrap());
    let Output { status, stderr, .. } = killed.output().unwrap();
    (status.code(), text(&stderr))
}

/// `serve` on free ports, in this directory.
fn serve(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = build();
    command.current_dir(directory);
    command.envs(["GRPC", "REST", "ADMIN"].map(|at| (format!("MUTE_{at}_ADDR"), "127.0.0.1:0")));
    command.arg("serve").args(arguments);
    command
}

#[test]
fn a_start_without_enough_memory_says_so() {
    let directory = tempfile::tempdir().unwrap();
    for kib in [100_000, 160_000, 300_000, 1_000_000] {
        let mut limited = Command::new("sh");
        limited
            .current_dir(directory.path())
            .args(["-c", &format!("ulimit -v {kib}; exec \"$0\" serve")]);
        let (code, said) = refused(limited.arg(build().get_program()));
        assert!(code == Some(1) && said.contains("ulimit -v"), "{kib}: {code:?} {said}");
    }
}

#[test]
fn a_start_without_enough_threads_says_so() {
    // A limit that holds for root too needs another user.
    if !rustix::process::geteuid().is_root() {
        return skipped("run as root, to start the program as a user with a limit of threads");
    }
    if !has_program("prlimit", "util-linux") || !has_program("setpriv", "util-linux") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // Where its user may run it.
    let copy = directory.path().join("mute-service");
    fs::copy(build().get_program(), &copy).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for threads in [1, 2, 3, 4, 6, 8, 12, 16] {
        let limited = format!(
            "exec prlimit --nproc={threads} setpriv --reuid 54321 --regid 54321 --clear-groups \
             \"$0\" serve --data-dir /nowhere"
        );
        let mut command = Command::new("sh");
        command.current_dir("/").args(["-c", &limited]);
        let (code, said) = refused(command.arg(&copy));
        assert!(code == Some(1) && said.contains("ulimit -u"), "{threads}: {code:?} {said}");
    }
}

#[test]
fn a_data_directory_that_was_missing_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    let strict = ["--data-dir", data, "--refuse-missing-data-dir"];
    let (code, said) = refused(&mut serve(directory.path(), &strict));
    assert!(code == Some(64) && said.contains(data) && said.contains("mount"), "{said}");
    assert!(!Path::new(data).exists());
    // The place of a volume that is not mounted.
    fs::create_dir(data).unwrap();
    let (code, said) = refused(&mut serve(directory.path(), &strict));
    assert!(code == Some(64) && said.contains("mount"), "{said}");
    let process = Process::spawn(directory.path(), directory.path(), &[]).ready();
    let log = process.logged();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(data)), "{log}");
    drop(process);
    let process =
        Process::spawn(directory.path(), directory.path(), &["--refuse-missing-data-dir"]).ready();
    assert_eq!(process.logged().matches("a new and empty one").count(), 1);
}

#[test]
fn a_store_that_dev_mode_made_is_not_served_by_mistake() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        drop(Process::dev(directory.path()));
    }
    let (code, said) = refused(&mut serve(directory.path(), &[]));
    assert!(code == Some(64) && said.contains("dev mode made") && said.contains("DEV"), "{said}");
    // Without the mark it is a store like any other.
    fs::remove_file(directory.path().join("data/DEV")).unwrap();
    drop(Process::spawn(directory.path(), directory.path(), &[]).ready());
    let mut dev = build();
    let data = directory.path().join("data");
    dev.current_dir(directory.path()).arg("--data-dir").arg(&data);
    let (code, said) = refused(&mut dev);
    assert!(code == Some(64) && said.contains("did not make this store"), "{said}");
    assert!(!data.join("DEV").exists());
    drop(Process::spawn(directory.path(), directory.path(), &[]).ready());
}

#[test]
fn a_configuration_without_a_command_starts_no_dev_mode() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, "").unwrap();
    let by_flag = |command: &mut Command| _ = command.arg("--config").arg(&file);
    let by_variable = |command: &mut Command| _ = command.env("MUTE_CONFIG", &file);
    for name_it in [&by_flag as &dyn Fn(&mut Command), &by_variable] {
        let mut command = build();
        name_it(command.current_dir(directory.path()));
        let (code, said) = refused(&mut command);
        assert!(code == Some(64) && said.contains("serve --config"), "{said}");
        assert!(!directory.path().join("data").exists());
    }
}

#[test]
fn flags_without_a_command_are_those_of_dev_mode() {
    let directory = tempfile::tempdir().unwrap();
    for (number, arguments) in
        [&["--data-dir", "x0"][..], &["--data-dir=x1"], &["--dev", "--data-dir", "x2"]]
            .into_iter()
            .enumerate()
    {
        let mut command = build();
        command.args(arguments);
        let process = Process::spawn_bare(command, directory.path()).ready();
        assert!(directory.path().join(format!("x{number}/DEV")).exists(), "{}", process.logged());
    }
    let mut command = build();
    command.arg("--colour").current_dir(directory.path());
    let (code, said) = refused(&mut command);
    assert!(code == Some(64) && said.contains("--colour"), "{said}");
    for own in ["--help", "-h", "--version", "-V"] {
        let output = build().arg(own).output().unwrap();
        assert!(output.status.success() && !text(&output.stdout).contains("--data-dir <DIR>"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_mode_serves_other_addresses_by_a_flag_alone() {
    let directory = tempfile::tempdir().unwrap();
    let every = ["--dev", "--rest-addr", ":0", "--grpc-addr", "0.0.0.0:0"];
    let (code, said) = refused(&mut serve(directory.path(), &every));
    assert!(code == Some(64) && said.contains("--dev-public-addresses"), "{said}");
    let mut command = build();
    command.args(["serve", "--dev-public-addresses"]).args(every);
    let process = Process::spawn_bare(command, directory.path()).ready();
    let rest = process.rest();
    assert!(rest.starts_with("http://0.0.0.0:"), "{rest}");
    // By an address of this machine that is not loopback, where there is one.
    let addresses = Command::new("hostname").arg("-I").output();
    let address = addresses.ok().and_then(|output| {
        text(&output.stdout).split_whitespace().find(|at| at.contains('.')).map(str::to_owned)
    });
    let url = rest.replace("0.0.0.0", address.as_deref().unwrap_or("127.0.0.1"));
    let body = r#"{"grant_type":"client_credentials","client_id":"dev-client","client_secret":"dev-secret"}"#;
    let http = reqwest::Client::new().post(format!("{url}/easemob-demo/testapp/token"));
    assert_eq!(http.body(body).send().await.unwrap().status(), 200);
    assert!(process.logged().contains("WARN"), "{}", process.logged());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigint_ends_at_once() {
    for first in ["-INT", "-TERM"] {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["--stop-delay-seconds", "600"];
        let mut process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
        process.signal(first);
        until("it stops", async || process.logged().contains("still serving")).await;
        process.signal("-INT");
        assert_eq!(process.exit_code(Duration::from_secs(20)), Some(130), "{first}");
        // What was left is a store.
        drop(Process::start(directory.path()));
    }
}
