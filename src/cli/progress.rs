//! Progress of long commands: a line at the foot of a terminal, removed when the command ends.
//! Without a terminal nothing is shown, except that an import logs regularly how many records it
//! has committed.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The time between two log lines.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Bytes read of a file. Hidden for a pipe, whose length is unknown.
pub(super) fn bytes_read(path: &Path) -> ProgressBar {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => {
            let template = "{msg} {wide_bar} {percent:>3} % of {binary_total_bytes}";
            bar(template, Some(file.len())).with_message("checking")
        }
        _ => ProgressBar::hidden(),
    }
}

/// Bytes written to a file, whose final size is unknown.
pub(super) fn bytes_written() -> ProgressBar {
    bar("{spinner} {binary_bytes} written", None)
}

/// Records read, whose number is unknown.
pub(super) fn records_read() -> ProgressBar {
    bar("{spinner} {human_pos} records read", None)
}

/// Shown on standard error if that is a terminal.
fn bar(template: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Committed records of an import.
pub(super) struct Import {
    bar: ProgressBar,
    total: u64,
    logged: Instant,
}

impl Import {
    /// An import of `total` records.
    pub(super) fn new(total: u64) -> Self {
        let noun = if total == 1 { "record" } else { "records" };
        let template = format!("importing {{wide_bar}} {{percent:>3}} % of {{human_len}} {noun}");
        let bar = bar(&template, Some(total));
        Self { bar, total, logged: Instant::now() }
    }

    /// Shows that `done` records are committed.
    pub(super) fn report(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.logged.elapsed() >= LOG_PERIOD {
            self.logged = Instant::now();
            tracing::info!(done, total = self.total, "importing");
        }
    }
}
