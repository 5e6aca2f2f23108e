//! Counts calls by key in a sliding second: no second, wherever it begins, has more than the rate,
//! and as many as the rate may come at one time.
//!
//! A token bucket (`governor`) cannot do both: a full one lets through the rate at once, and again
//! what is refilled within the second, so nearly twice the rate. So each call is remembered for a
//! second; those of one millisecond are one entry. One lock and one look-up a call. Keys without a
//! call in the last second are evicted when the number of keys has doubled.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The length of the window, in milliseconds.
const WINDOW_MS: u64 = 1_000;
/// With fewer keys none is evicted.
const MIN_KEYS: usize = 1_024;

/// A rate limit for each key. Times are of a clock that does not go back.
pub struct WindowLimiter<K> {
    rate: u32,
    windows: Mutex<Windows<K>>,
}

struct Windows<K> {
    /// With the standard hasher, because strangers choose some of the keys.
    by_key: HashMap<K, Window>,
    /// The number of keys from which on idle ones are evicted.
    evict_from: usize,
}

/// The calls of one key.
#[derive(Default)]
struct Window {
    /// The calls of the last second, the oldest first: when, rounded up to a millisecond, and how
    /// many.
    calls: VecDeque<(u64, u32)>,
    /// Their sum.
    sum: u32,
}

impl<K: Eq + Hash> WindowLimiter<K> {
    /// This many calls a second for each key.
    pub fn new(rate: NonZeroU32) -> Self {
        let windows = Windows { by_key: HashMap::default(), evict_from: MIN_KEYS };
        Self { rate: rate.get(), windows: Mutex::new(windows) }
    }

    /// Counts calls that begin together: all of them or none. They are capped at the rate. Errors:
    /// how long to wait for them.
    pub fn count(&self, key: K, calls: NonZeroU32, now: Duration) -> Result<(), Duration> {
        let mut windows = self.windows();
        windows.evict(now);
        let calls = calls.get().min(self.rate);
        windows.by_key.entry(key).or_default().count(calls, self.rate, now)
    }

    /// Whether the next call of this key would be refused.
    pub fn is_full(&self, key: &K, now: Duration) -> bool {
        self.windows().by_key.get_mut(key).is_some_and(|window| {
            window.forget(now);
            window.sum >= self.rate
        })
    }

    fn windows(&self) -> MutexGuard<'_, Windows<K>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Windows<K> {
    /// A scan of all keys, once for as many new ones.
    fn evict(&mut self, now: Duration) {
        if self.by_key.len() >= self.evict_from {
            self.by_key.retain(|_, window| window.has_calls(now));
            self.evict_from = MIN_KEYS.max(2 * self.by_key.len());
            self.by_key.shrink_to(self.evict_from);
        }
    }
}

impl Window {
    fn count(&mut self, calls: u32, rate: u32, now: Duration) -> Result<(), Duration> {
        self.forget(now);
        let excess = calls.saturating_sub(rate - self.sum);
        if excess > 0 {
            return Err(self.until_forgotten(excess, now));
        }
        let at_ms = ceil_ms(now);
        match self.calls.back_mut() {
            Some((last_ms, count)) if *last_ms == at_ms => *count += calls,
            _ => self.calls.push_back((at_ms, calls)),
        }
        self.sum += calls;
        Ok(())
    }

    /// Forgets the calls that are a second old.
    fn forget(&mut self, now: Duration) {
        while let Some((at_ms, calls)) = self.calls.front().copied()
            && is_over(at_ms, now)
        {
            self.calls.pop_front();
            self.sum -= calls;
        }
    }

    fn has_calls(&self, now: Duration) -> bool {
        self.calls.back().is_some_and(|(at_ms, _)| !is_over(*at_ms, now))
    }

    /// The time until this many calls are forgotten.
    fn until_forgotten(&self, calls: u32, now: Duration) -> Duration {
        let mut forgotten = 0;
        let last = self.calls.iter().find(|(_, count)| {
            forgotten += count;
            forgotten >= calls
        });
        let end_ms = last.map_or(0, |(at_ms, _)| at_ms + WINDOW_MS);
        Duration::from_millis(end_ms).saturating_sub(now)
    }
}

fn is_over(at_ms: u64, now: Duration) -> bool {
    Duration::from_millis(at_ms + WINDOW_MS) <= now
}

fn ceil_ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX - WINDOW_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: NonZeroU32 = NonZeroU32::new(3).unwrap();

    fn at(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn limiter() -> impl Fn(u64) -> Result<(), Duration> {
        let limiter = WindowLimiter::new(RATE);
        move |us| limiter.count((), NonZeroU32::MIN, at(us))
    }

    #[test]
    fn each_call_counts_for_a_second_and_not_longer() {
        let count = limiter();
        for us in [0, 500_000, 500_000] {
            assert_eq!(count(us), Ok(()));
        }
        assert_eq!(count(999_999), Err(at(1)));
        assert_eq!(count(1_000_000), Ok(()));
        assert_eq!(count(1_000_000), Err(at(500_000)));
        assert_eq!([count(1_500_000), count(1_500_000)], [Ok(()); 2]);
        assert_eq!(count(1_500_000), Err(at(500_000)));
    }

    #[test]
    fn a_call_counts_at_most_a_millisecond_longer_never_shorter() {
        let count = limiter();
        for us in [1_300, 1_700, 1_999] {
            assert_eq!(count(us), Ok(()));
        }
        assert_eq!(count(1_001_999), Err(at(1)));
        assert_eq!(count(1_002_000), Ok(()));
    }

    #[test]
    fn keys_without_recent_calls_are_evicted() {
        let limiter = WindowLimiter::new(RATE);
        let call = |key, us| limiter.count(key, NonZeroU32::MIN, at(us));
        let keys = || limiter.windows().by_key.len();
        assert!((0..5_000).all(|key| call(key, 0).is_ok()));
        assert_eq!(keys(), 5_000, "all have called just now");
        assert!((0..5_000).all(|key| call(5_000 + key, 1_000_000).is_ok()));
        assert!(keys() < 10_000, "{}", keys());
        assert!((0..9_999).all(|key| call(key, 3_000_000 * (key + 1)).is_ok()));
        assert!(keys() <= MIN_KEYS, "{}", keys());
    }

    #[test]
    fn looking_counts_nothing() {
        let limiter = WindowLimiter::new(RATE);
        assert!((0..9).all(|_| !limiter.is_full(&"a", at(0))));
        limiter.count("a", NonZeroU32::MAX, at(0)).unwrap();
        assert!(limiter.is_full(&"a", at(999_999)) && !limiter.is_full(&"b", at(0)));
        assert!(!limiter.is_full(&"a", at(1_000_000)));
    }
}
