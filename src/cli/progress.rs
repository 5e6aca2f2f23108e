//! Tells how far a long command is.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// On a terminal a line that is written over, else a line of the log now and then.
pub(super) struct Progress {
    total: u64,
    told: Instant,
    is_terminal: bool,
}

impl Progress {
    const PERIOD: Duration = Duration::from_millis(200);
    const LOG_PERIOD: Duration = Duration::from_secs(10);

    /// Of so many records.
    pub(super) fn of(total: u64) -> Self {
        Self { total, told: Instant::now(), is_terminal: io::stderr().is_terminal() }
    }

    /// So many are done.
    pub(super) fn report(&mut self, done: u64) {
        let Self { total, is_terminal, .. } = *self;
        let period = if is_terminal { Self::PERIOD } else { Self::LOG_PERIOD };
        let is_last = is_terminal && done == total;
        if self.told.elapsed() < period && !is_last {
            return;
        }
        self.told = Instant::now();
        if is_terminal {
            let percent = done * 100 / total.max(1);
            let _ = write!(
                io::stderr(),
                "\r{done} of {total} records, {percent} %{}",
                if is_last { "\n" } else { "" }
            );
        } else {
            tracing::info!(done, total, "importing");
        }
    }
}
