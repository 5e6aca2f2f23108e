//! Where the skipped tests of one `cargo test` are noted. Each run has a file of its own, so that
//! what an earlier one has left is nobody's.

use std::{fs, os::unix::process::parent_id, path::PathBuf};

/// The file of the run, which is the process that has started this one, and when it was started.
pub fn skips_of_this_run() -> PathBuf {
    let parent = parent_id();
    let stat = fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    // After the name, which may hold anything, the start is the twentieth.
    let started = stat
        .rsplit(')')
        .next()
        .and_then(|fields| fields.split_whitespace().nth(19))
        .unwrap_or_default();
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("skips-{parent}-{started}"))
}
