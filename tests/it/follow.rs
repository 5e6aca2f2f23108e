//! A client in another language follows the service through kills: `tests/python/follow.py` says what it holds.

use std::process::Command;

use crate::harness::skipped;

/// How long it writes, in seconds.
const LENGTH: &str = "12";

#[test]
fn a_client_in_python_keeps_its_own_copy_through_kills_and_sees_every_expiry_once() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/follow.py");
    let has_stubs = Command::new("python3").args(["-c", "import grpc_tools, grpc"]).output();
    if !has_stubs.is_ok_and(|output| output.status.success()) {
        skipped("install python3 and grpcio-tools (pip install grpcio-tools)");
        return;
    }
    let output = Command::new("python3").args([script, env!("CARGO_BIN_EXE_mute-service"), LENGTH]).output().unwrap();
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{wrong}");
    println!("{told}");
}
