//! The skew between this replica's wall clock and those of the others, measured with ticks. Every
//! replica writes ticks, and every replica receives all of them.
//!
//! A tick contains its writer's wall clock. When it arrives, its lag behind our clock is its delay
//! on the way plus the difference between the two clocks. The lag of one of our own ticks is the
//! delay alone. Of several ticks, the one with the least lag is the most exact.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::layout::ReplicaId;
use crate::store::MAX_SKEW_MS;

/// The number of ticks kept of each replica.
const TICKS_KEPT: usize = 5;
/// After this many ticks of its own, a replica has received those of all others.
const MIN_OWN_TICKS: usize = 3;
/// A replica that has not ticked for this long no longer counts.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(super) struct Clocks(Mutex<ClockState>);

#[derive(Default)]
struct ClockState {
    /// The certain time that this process reported last, and when.
    reported: Option<(u64, Instant)>,
    replicas: HashMap<ReplicaId, Ticks>,
}

struct Ticks {
    last: Instant,
    /// How far our clock was ahead of each tick on arrival, in milliseconds.
    lags_ms: VecDeque<i64>,
}

impl Clocks {
    /// Records the certain time of this process, in Unix milliseconds.
    pub(super) fn report(&self, now_ms: u64) {
        self.state().reported = Some((now_ms, Instant::now()));
    }

    /// The certain time now, in Unix milliseconds; `None` before the first report.
    pub(super) fn now_ms(&self) -> Option<u64> {
        self.state().now_ms()
    }

    /// Records a tick of a replica that has arrived now.
    pub(super) fn record_tick(&self, replica: ReplicaId, wall_ms: u64) {
        let mut state = self.state();
        let Some(now_ms) = state.now_ms() else { return };
        let now = Instant::now();
        state.replicas.retain(|_, ticks| now - ticks.last < REPLICA_TIMEOUT);
        let ticks = state
            .replicas
            .entry(replica)
            .or_insert_with(|| Ticks { last: now, lags_ms: VecDeque::new() });
        ticks.last = now;
        ticks.lags_ms.push_back(now_ms.cast_signed().saturating_sub(wall_ms.cast_signed()));
        if ticks.lags_ms.len() > TICKS_KEPT {
            ticks.lags_ms.pop_front();
        }
    }

    /// How far this replica's clock is ahead of the median of the others, in milliseconds. `None`
    /// if there are no others, or they have not had time to tick.
    pub(super) fn skew_ms(&self, own: ReplicaId) -> Option<i64> {
        let state = self.state();
        let now = Instant::now();
        let own_delay_ms = state
            .replicas
            .get(&own)
            .filter(|ticks| ticks.lags_ms.len() >= MIN_OWN_TICKS)
            .and_then(|ticks| ticks.least_lag_ms(now))?;
        let others = state.replicas.iter().filter(|(replica, _)| **replica != own);
        let mut skews_ms: Vec<_> = others
            .filter_map(|(_, ticks)| Some(ticks.least_lag_ms(now)?.saturating_sub(own_delay_ms)))
            .collect();
        skews_ms.sort_unstable();
        // Of two medians, take the smaller skew: with only two others that disagree, nothing shows
        // which of them is right.
        let medians = [skews_ms.len().saturating_sub(1) / 2, skews_ms.len() / 2];
        let medians = medians.into_iter().filter_map(|index| skews_ms.get(index).copied());
        medians.min_by_key(|skew_ms| skew_ms.unsigned_abs())
    }

    /// The wall clock, in Unix milliseconds, if it was compared with the others and is within
    /// [`MAX_SKEW_MS`] of them.
    pub(super) fn certain_ms(&self, own: ReplicaId) -> Option<u64> {
        let is_near = self.has_compared(own)
            && self.skew_ms(own).is_none_or(|skew_ms| skew_ms.unsigned_abs() <= MAX_SKEW_MS);
        self.state().now_ms().filter(|_| is_near)
    }

    /// Whether this replica has ticked often enough that every other running one has ticked too.
    pub(super) fn has_compared(&self, own: ReplicaId) -> bool {
        self.state().replicas.get(&own).is_some_and(|ticks| ticks.lags_ms.len() >= MIN_OWN_TICKS)
    }

    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClockState {
    fn now_ms(&self) -> Option<u64> {
        let (reported_ms, at) = self.reported?;
        let elapsed_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(reported_ms.saturating_add(elapsed_ms))
    }
}

impl Ticks {
    /// `None` if the replica has not ticked for [`REPLICA_TIMEOUT`].
    fn least_lag_ms(&self, now: Instant) -> Option<i64> {
        self.lags_ms.iter().min().copied().filter(|_| now - self.last < REPLICA_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ReplicaId = [0; 8];

    #[tokio::test(start_paused = true)]
    async fn skew_is_from_the_median_of_the_others_at_any_delay() {
        let clocks = Clocks::default();
        assert_eq!((clocks.skew_ms(OWN), clocks.has_compared(OWN)), (None, false));
        clocks.report(100_000);
        // Every tick was delayed by at least 300 ms.
        for (lag_ms, ticks) in [(300, 3), (900, 1), (400, 2)] {
            for _ in 0..ticks {
                clocks.record_tick(OWN, 100_000 - lag_ms);
            }
        }
        assert_eq!((clocks.skew_ms(OWN), clocks.has_compared(OWN)), (None, true));
        clocks.record_tick([1; 8], 100_000 - 5_300);
        assert_eq!(clocks.skew_ms(OWN), Some(5_000));
        clocks.record_tick([2; 8], 100_000 - 400);
        assert_eq!(clocks.skew_ms(OWN), Some(100));
        clocks.record_tick([3; 8], 100_000 - 300);
        assert_eq!(clocks.skew_ms(OWN), Some(100));
        // Replicas that no longer tick do not count.
        tokio::time::advance(REPLICA_TIMEOUT).await;
        [115_000; MIN_OWN_TICKS].into_iter().for_each(|wall_ms| clocks.record_tick(OWN, wall_ms));
        clocks.record_tick([1; 8], 117_500);
        assert_eq!((clocks.now_ms(), clocks.skew_ms(OWN)), (Some(115_000), Some(-2_500)));
    }
}
