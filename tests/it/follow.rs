//! A client in another language follows the service through kills: `tests/python/follow.py`
//! describes what it checks.

use std::process::Command;

use crate::harness::has_python;

/// How long the script writes.
const WRITE_SECONDS: &str = "12";

#[test]
fn a_python_follower_survives_kills_and_sees_each_expiry_once() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/follow.py");
    if !has_python() {
        return;
    }
    let output = Command::new("python3")
        .args([script, env!("CARGO_BIN_EXE_mute-service"), WRITE_SECONDS])
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    println!("{stdout}");
}
