//! Standard output and standard error of the commands.

use std::io::{self, Write as _};

use crate::{app::Failure, telemetry::queue_line, visible::shown};

/// Prints a command's result. It is no error if the reader closes the output, and one if the output
/// cannot be written, since the result is lost.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The outcome of a write to standard output, as of [`say`].
pub(super) fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::File { what: "standard output".to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a message for the person at the terminal. If standard error cannot be written, there is
/// nowhere to report it.
pub(super) fn complain(text: &str) {
    // Messages quote files, whose control characters could harm a terminal.
    let lines: Vec<_> = text.lines().map(shown).collect();
    let text = lines.join("\n") + "\n";
    // Once there is a log, its thread writes to standard error, whose reader may stand still.
    if !queue_line(text.as_bytes()) {
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
