//! How often one method may be called in one app. Internal services are not limited: they ask on every message.

use std::{num::NonZeroU32, time::Duration};

use governor::{Quota, RateLimiter, clock, middleware::NoOpMiddleware, state::keyed::HashMapStateStore};

use crate::{
    clock::Clock,
    error::{Error, Reason},
};

/// App number and method.
type Key = (usize, &'static str);
type Limiter = RateLimiter<Key, HashMapStateStore<Key>, Clock, NoOpMiddleware<Duration>>;

/// Token buckets, one for each app and method. Both are finite, so the buckets are too.
pub struct Limits {
    calls: Option<Limiter>,
    tokens: Option<Limiter>,
    clock: Clock,
}

impl clock::Clock for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.monotonic()
    }
}

impl Limits {
    /// Calls a second of one method in one app, and tokens issued a second in one app; 0 is without limit.
    #[must_use]
    pub fn new(calls: u32, tokens: u32, clock: &Clock) -> Self {
        let limiter = |rate| Some(Limiter::hashmap_with_clock(Quota::per_second(NonZeroU32::new(rate)?), clock.clone()));
        Self { calls: limiter(calls), tokens: limiter(tokens), clock: clock.clone() }
    }

    /// Counts a call. Errors: RATE_LIMITED.
    pub fn call(&self, app: usize, method: &'static str) -> Result<(), Error> {
        self.count(self.calls.as_ref(), (app, method))
    }

    /// Counts a token issued. Errors: RATE_LIMITED.
    pub fn token(&self, app: usize) -> Result<(), Error> {
        self.count(self.tokens.as_ref(), (app, "IssueToken"))
    }

    fn count(&self, limiter: Option<&Limiter>, key: Key) -> Result<(), Error> {
        let Some(limiter) = limiter else { return Ok(()) };
        limiter.check_key(&key).map_err(|until| {
            let wait = until.wait_time_from(self.clock.monotonic());
            Error { retry_after: Some(wait), ..Error::new(Reason::RateLimited, "too many calls of this method in this app") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_so_many_calls_of_each_app_and_method() {
        let clock = Clock::manual(1_700_000_000_000);
        let limits = Limits::new(100, 3, &clock);
        assert!((0..100).all(|_| limits.call(0, "MuteMembers").is_ok()));
        let error = limits.call(0, "MuteMembers").err();
        assert_eq!(error.as_ref().map(|error| error.reason), Some(Reason::RateLimited));
        assert!(error.and_then(|error| error.retry_after).is_some_and(|wait| wait <= Duration::from_millis(10)));
        assert!(limits.call(0, "UnmuteMembers").is_ok());
        assert!(limits.call(1, "MuteMembers").is_ok());
        clock.advance(Duration::from_secs(1));
        assert!((0..100).all(|_| limits.call(0, "MuteMembers").is_ok()));
        assert!((0..3).all(|_| limits.token(0).is_ok()));
        assert!(limits.token(0).is_err());
    }

    #[test]
    fn zero_is_without_limit() {
        let limits = Limits::new(0, 0, &Clock::manual(0));
        assert!((0..10_000).all(|_| limits.call(0, "CheckSend").is_ok()));
    }
}
