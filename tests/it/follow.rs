//! A client in another language follows the service through kills: `tests/python/follow.py` says
//! what it holds.

use std::process::Command;

use crate::harness::has_python;

/// How long it writes, in seconds.
const LENGTH: &str = "12";

#[test]
fn a_python_follower_survives_kills_and_sees_each_expiry_once() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/follow.py");
    if !has_python() {
        return;
    }
    let output = Command::new("python3")
        .args([script, env!("CARGO_BIN_EXE_mute-service"), LENGTH])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{wrong}");
    println!("{told}");
}
