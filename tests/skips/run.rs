//! The file in which one `cargo test` notes its skipped tests. Each run has its own file, so that
//! leftovers of an earlier run do not count.

use std::{fs, os::unix::process::parent_id, path::PathBuf};

/// The file of this run. Its name has the id and the start time of the parent process, which is the
/// run.
pub fn skips_of_this_run() -> PathBuf {
    let parent = parent_id();
    let stat = fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    // The start time is field 20 after the name, which may contain any character.
    let started = stat
        .rsplit(')')
        .next()
        .and_then(|fields| fields.split_whitespace().nth(19))
        .unwrap_or_default();
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("skips-{parent}-{started}"))
}
