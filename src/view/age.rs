//! How old the view may be: when it last had everything that was committed anywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::View;
use crate::store::Store;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

pub(super) struct Age {
    started: Instant,
    /// Milliseconds after the start.
    as_of_ms: AtomicU64,
}

impl Age {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), as_of_ms: AtomicU64::new(0) }
    }
}

impl View {
    /// Whatever was committed anywhere this long ago, or earlier, is in the view. Over an embedded store less than a second; over a cluster
    /// less than three, unless this process is cut off from it, or the cluster has lost its quorum.
    #[must_use]
    pub fn age(&self) -> Duration {
        let age = &self.inner.age;
        age.started.elapsed().saturating_sub(Duration::from_millis(age.as_of_ms.load(Ordering::Relaxed)))
    }

    /// Keeps the age. Never ends by itself.
    pub async fn keep_age(self, store: Arc<dyn Store>) {
        let age = &self.inner.age;
        loop {
            let (revision, at) = store.known();
            if self.revision() >= revision {
                let as_of_ms = at.saturating_duration_since(age.started).as_millis();
                age.as_of_ms.store(u64::try_from(as_of_ms).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            sleep(LOOK).await;
        }
    }
}
