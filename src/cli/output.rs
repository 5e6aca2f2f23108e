//! What commands say, and what they complain of.

use std::io::{self, Write as _};

use crate::visible::shown;

pub(super) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

pub(super) fn complain(text: &str) {
    // It tells what files say, and they may be of others.
    let lines: Vec<_> = text.lines().map(shown).collect();
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}
