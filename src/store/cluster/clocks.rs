//! How far the wall clock of this replica is from those of the others, by the ticks that all of
//! them write and all of them meet in one order.
//!
//! A tick says what its writer's wall clock was. What it shows later than that when the tick comes
//! is its way here and the difference of the two clocks; of our own ticks it is the way alone. Of
//! several ticks the one with the shortest way tells most.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::layout::ReplicaId;
use crate::store::MAX_SKEW_MS;

/// Ticks of each replica that are looked at.
const TICKS: usize = 5;
/// After so many ticks of its own a replica has met those of all others.
const COMPARED: usize = 3;
/// A replica that has not ticked for so long has gone.
const GONE: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(super) struct Clocks(Mutex<ClockState>);

#[derive(Default)]
struct ClockState {
    /// The wall clock as this process has told it, and when.
    reported: Option<(u64, Instant)>,
    replicas: HashMap<ReplicaId, Ticks>,
}

struct Ticks {
    last: Instant,
    /// By how much our clock was ahead of the tick when it came, in milliseconds.
    lags_ms: VecDeque<i64>,
}

impl Clocks {
    /// Notes the wall clock of this process, in Unix milliseconds.
    pub(super) fn report(&self, now_ms: u64) {
        self.state().reported = Some((now_ms, Instant::now()));
    }

    /// The wall clock, as far as it was ever told.
    pub(super) fn now_ms(&self) -> Option<u64> {
        self.state().now_ms()
    }

    /// Notes the tick of a replica, which has just come.
    pub(super) fn ticked(&self, replica: ReplicaId, wall_ms: u64) {
        let mut state = self.state();
        let Some(now_ms) = state.now_ms() else { return };
        let now = Instant::now();
        state.replicas.retain(|_, ticks| now - ticks.last < GONE);
        let ticks = state
            .replicas
            .entry(replica)
            .or_insert_with(|| Ticks { last: now, lags_ms: VecDeque::new() });
        ticks.last = now;
        ticks.lags_ms.push_back(now_ms.cast_signed().saturating_sub(wall_ms.cast_signed()));
        if ticks.lags_ms.len() > TICKS {
            ticks.lags_ms.pop_front();
        }
    }

    /// By how much the clock of this replica is ahead of the median of the others, in milliseconds.
    /// Nothing where there are no others, or they had no time to tick yet.
    pub(super) fn skew_ms(&self, own: ReplicaId) -> Option<i64> {
        let state = self.state();
        let now = Instant::now();
        let shortest =
            |ticks: &Ticks| ticks.lags_ms.iter().min().copied().filter(|_| now - ticks.last < GONE);
        let way = state
            .replicas
            .get(&own)
            .filter(|ticks| ticks.lags_ms.len() >= COMPARED)
            .and_then(shortest)?;
        let others = state.replicas.iter().filter(|(replica, _)| **replica != own);
        let mut skews: Vec<_> =
            others.filter_map(|(_, ticks)| Some(shortest(ticks)?.saturating_sub(way))).collect();
        skews.sort_unstable();
        // Of two in the middle the nearer one: it is right, or nobody knows.
        let middle =
            [skews.len().saturating_sub(1) / 2, skews.len() / 2].map(|at| skews.get(at).copied());
        middle.into_iter().flatten().min_by_key(|skew_ms| skew_ms.unsigned_abs())
    }

    /// The wall clock, in Unix milliseconds, where the others were met and theirs are not far from
    /// it.
    pub(super) fn certain_ms(&self, own: ReplicaId) -> Option<u64> {
        let is_near = self.has_compared(own)
            && self.skew_ms(own).is_none_or(|skew_ms| skew_ms.unsigned_abs() <= MAX_SKEW_MS);
        self.state().now_ms().filter(|_| is_near)
    }

    /// Whether others that run have had the time to tick: as often as this replica has.
    pub(super) fn has_compared(&self, own: ReplicaId) -> bool {
        self.state().replicas.get(&own).is_some_and(|ticks| ticks.lags_ms.len() >= COMPARED)
    }

    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClockState {
    fn now_ms(&self) -> Option<u64> {
        let (told_ms, at) = self.reported?;
        Some(told_ms.saturating_add(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ReplicaId = [0; 8];

    #[tokio::test(start_paused = true)]
    async fn the_skew_is_that_from_the_median_of_the_others_whatever_the_way_of_ticks() {
        let clocks = Clocks::default();
        assert_eq!((clocks.skew_ms(OWN), clocks.has_compared(OWN)), (None, false));
        clocks.report(100_000);
        // All of them took 300 ms and more to come.
        for (lag_ms, ticks) in [(300, 3), (900, 1), (400, 2)] {
            for _ in 0..ticks {
                clocks.ticked(OWN, 100_000 - lag_ms);
            }
        }
        assert_eq!((clocks.skew_ms(OWN), clocks.has_compared(OWN)), (None, true));
        clocks.ticked([1; 8], 100_000 - 5_300);
        assert_eq!(clocks.skew_ms(OWN), Some(5_000));
        clocks.ticked([2; 8], 100_000 - 400);
        assert_eq!(clocks.skew_ms(OWN), Some(100));
        clocks.ticked([3; 8], 100_000 - 300);
        assert_eq!(clocks.skew_ms(OWN), Some(100));
        // Who has gone has no say.
        tokio::time::advance(GONE).await;
        [115_000; COMPARED].into_iter().for_each(|wall_ms| clocks.ticked(OWN, wall_ms));
        clocks.ticked([1; 8], 117_500);
        assert_eq!((clocks.now_ms(), clocks.skew_ms(OWN)), (Some(115_000), Some(-2_500)));
    }
}
