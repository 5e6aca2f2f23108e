//! Standard output and standard error of the commands. A failure to write is ignored: there is
//! nowhere to report it.

use std::io::{self, Write as _};

use crate::visible::shown;

/// Prints a command's result.
pub(super) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Prints a message for the person at the terminal.
pub(super) fn complain(text: &str) {
    // Messages quote files, whose control characters could harm a terminal.
    let lines: Vec<_> = text.lines().map(shown).collect();
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}
