//! The age of the view: the time since it last contained every commit of the whole cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::store::{Revision, Store};

/// How often the age is brought up to date.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Age {
    started: Instant,
    /// When the view was last complete, in milliseconds since `started`.
    complete_at_ms: AtomicU64,
}

impl Age {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), complete_at_ms: AtomicU64::new(0) }
    }

    /// The time since the view was last complete.
    pub(super) fn now(&self) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.complete_at_ms.load(Ordering::Relaxed)))
    }

    /// Keeps the age up to date, of a view with this revision. Never returns.
    pub(super) async fn track(&self, store: Arc<dyn Store>, view_revision: impl Fn() -> Revision) {
        loop {
            let (revision, confirmed_at) = store.confirmed_revision();
            if view_revision() >= revision {
                let complete_at_ms =
                    confirmed_at.saturating_duration_since(self.started).as_millis();
                self.complete_at_ms
                    .store(u64::try_from(complete_at_ms).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
