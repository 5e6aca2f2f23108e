//! How far a long command is: a line at the foot of a terminal, which is gone when the command has
//! ended. Elsewhere nothing is shown, but an import logs now and then how many records it has
//! committed.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines of the log.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Bytes of a file that is read. Nothing is shown of a pipe, whose length is not known.
pub(super) fn bytes_read(path: &Path) -> ProgressBar {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => {
            let template = "{msg} {wide_bar} {percent:>3} % of {binary_total_bytes}";
            bar(template, Some(file.len())).with_message("checking")
        }
        _ => ProgressBar::hidden(),
    }
}

/// Bytes of a file that is written: how many there will be is not known.
pub(super) fn bytes_written() -> ProgressBar {
    bar("{spinner} {binary_bytes} written", None)
}

/// Records that are read: how many there are is not known.
pub(super) fn records_read() -> ProgressBar {
    bar("{spinner} {human_pos} records read", None)
}

/// Shown on standard error, where that is a terminal.
fn bar(template: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Records of an import that are committed.
pub(super) struct Import {
    bar: ProgressBar,
    total: u64,
    logged: Instant,
}

impl Import {
    /// Of so many.
    pub(super) fn of(total: u64) -> Self {
        let bar = bar("importing {wide_bar} {percent:>3} % of {human_len} records", Some(total));
        Self { bar, total, logged: Instant::now() }
    }

    /// So many are done.
    pub(super) fn report(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.logged.elapsed() >= LOG_PERIOD {
            self.logged = Instant::now();
            tracing::info!(done, total = self.total, "importing");
        }
    }
}
