//! How old the view may be: when it last had everything that was committed anywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::store::{Revision, Store};

/// How often it is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Age {
    started: Instant,
    /// Milliseconds after the start.
    as_of_ms: AtomicU64,
}

impl Age {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), as_of_ms: AtomicU64::new(0) }
    }

    /// How long ago that was.
    pub(super) fn now(&self) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.as_of_ms.load(Ordering::Relaxed)))
    }

    /// Keeps it, of a view that is at this revision. Never ends by itself.
    pub(super) async fn keep(&self, store: Arc<dyn Store>, at: impl Fn() -> Revision) {
        loop {
            let (revision, heard) = store.confirmed_revision();
            if at() >= revision {
                let as_of_ms = heard.saturating_duration_since(self.started).as_millis();
                self.as_of_ms.store(u64::try_from(as_of_ms).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
