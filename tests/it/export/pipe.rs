//! An export that is piped into an import.

use std::{path::Path, process::Command, time::Duration};

use crate::process::{Process, text};

/// What a script of a shell prints to standard error that finds the program on its PATH, and
/// whether it succeeds.
fn shell(directory: &Path, script: &str) -> (String, bool) {
    let built = Path::new(env!("CARGO_BIN_EXE_mute-service")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", built.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(directory).env_clear().env("PATH", path);
    let output = shell.output().unwrap();
    (text(&output.stderr), output.status.success())
}

#[test]
fn an_import_points_to_the_error_of_the_export_that_feeds_it() {
    let directory = tempfile::tempdir().unwrap();
    let _in_use = Process::start(directory.path());
    let script = "mute-service export --data-dir data | mute-service import --data-dir new -";
    let (errors, has_succeeded) = shell(directory.path(), script);
    let [first, second] = errors.lines().collect::<Vec<_>>()[..] else { panic!("{errors}") };
    assert!(first.contains("is in use by another mute-service process"), "{errors}");
    assert!(second.contains("nothing was imported") && second.contains("the error of that"));
    assert!(!has_succeeded && !directory.path().join("new").exists());
    // An empty file is told as before.
    let (errors, _) = shell(directory.path(), ": >empty; mute-service import --data-dir new empty");
    assert!(errors.contains("line 1: the file is empty"), "{errors}");
}

#[test]
fn one_record_is_not_counted_as_several() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path());
    let mute = format!(
        "MUTE_ADDR={} MUTE_TOKEN=dev-service-token mute-service ctl --app Open mute-user u",
        process.grpc()
    );
    assert!(shell(directory.path(), &mute).1);
    process.signal("-TERM");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
    let (said, _) = shell(directory.path(), "mute-service export --data-dir data >/dev/null");
    assert!(said.starts_with("exported 1 record; sha256 "), "{said}");
}
