//! Rate limits: how often one method may be called in one app, and how often by one user. Internal
//! services are not limited, because they ask on every message.
//!
//! Admins, staff and other users have separate token buckets, so that users cannot starve admins
//! and staff, nor staff the admins. A method that needs staff rights counts against the staff's
//! bucket only after the right was checked, so that a user without it spends only its own bucket.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use governor::{
    InsufficientCapacity, Quota, RateLimiter, clock, middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use super::holder::Site;
use crate::{
    clock::Clock,
    error::{Error, Reason},
};

/// RPCs that users may call only as staff of the room.
const STAFF_METHODS: [&str; 9] = [
    "MuteMembers",
    "UnmuteMembers",
    "BanRoom",
    "UnbanRoom",
    "AllowMembers",
    "DisallowMembers",
    "ListMutedMembers",
    "ListAllowedMembers",
    "ListEvents",
];
/// When a limiter has this many buckets, full ones are evicted, at most once a second.
const EVICT_FROM_BUCKETS: usize = 100_000;
/// The allowed rate of wrong client secrets is the rate of tokens divided by this.
const TOKENS_PER_GUESS: u32 = 10;
/// Chunks of history (250 events) that may be read for an app, for each call of one method that the
/// app may make.
const CHUNKS_PER_CALL: u32 = 4;
/// A client id counts by this many of its first characters.
const MAX_CLIENT_CHARS: usize = 64;
const ONE_CALL: NonZeroU32 = NonZeroU32::MIN;
const TOO_MANY_CALLS: &str = "too many calls of this method in this app";

/// The caller, as rates are counted.
#[derive(Clone, Copy, Debug)]
pub enum RateSubject<'a> {
    /// An internal service, which is not limited.
    Service,
    /// An app's admin.
    Admin,
    /// This user of an app.
    User(&'a str),
}

/// App number and method.
type Key = (usize, &'static str);
type Limiter<K> = RateLimiter<K, HashMapStateStore<K>, Clock, NoOpMiddleware<Duration>>;

/// The token buckets of all limits; a limit that is off has none.
pub struct Limits {
    /// Calls of admins, by app and method.
    admins: Option<Limiter<Key>>,
    /// Calls that users make as staff, by app and method.
    staff: Option<Limiter<Key>>,
    /// Calls of all users of an app, by app and method.
    users: Option<Limiter<Key>>,
    /// Calls of one user of an app, all methods together.
    one_user: Option<Limiter<(usize, String)>>,
    /// Chunks of history read in an app, by whether a user asked.
    history: Option<Limiter<(usize, bool)>>,
    /// Pages after the first of complete lists, by whether a user asked.
    pages: Option<Limiter<(usize, bool)>>,
    /// Chunks of history read for the watches of an app.
    watch_history: Option<Limiter<usize>>,
    tokens: Option<Limiter<usize>>,
    guesses: Option<Limiter<GuessKey>>,
    clock: Clock,
    /// When buckets were last evicted, in whole seconds.
    evicted_at_s: AtomicU64,
}

/// What wrong client secrets are counted by.
#[derive(Clone, PartialEq, Eq, Hash)]
enum GuessKey {
    Site(Site),
    Client(String),
}

/// Rates per second; 0 means no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Calls of one method in one app: this many for admins, for staff and for users each.
    pub calls: u32,
    /// Calls of one user.
    pub user_calls: u32,
    /// Tokens issued in one app.
    pub tokens: u32,
}

impl clock::Clock for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.monotonic()
    }
}

impl Limits {
    /// Limits with these rates.
    #[must_use]
    pub fn new(rates: Rates, clock: &Clock) -> Self {
        let Rates { calls, user_calls, tokens } = rates;
        Self {
            admins: limiter(calls, clock),
            staff: limiter(calls, clock),
            users: limiter(calls, clock),
            one_user: limiter(user_calls, clock),
            history: limiter(calls.saturating_mul(CHUNKS_PER_CALL), clock),
            pages: limiter(calls, clock),
            watch_history: limiter(calls.saturating_mul(CHUNKS_PER_CALL), clock),
            tokens: limiter(tokens, clock),
            guesses: limiter(tokens.div_ceil(TOKENS_PER_GUESS), clock),
            clock: clock.clone(),
            evicted_at_s: AtomicU64::new(0),
        }
    }

    /// Counts `calls` that begin together, capped at the rate of one second. Errors: RATE_LIMITED;
    /// for a user's call the user's own bucket may be spent then, the app's is not.
    pub fn calls(
        &self,
        calls: NonZeroU32,
        app: usize,
        subject: RateSubject<'_>,
        method: &'static str,
    ) -> Result<(), Error> {
        match subject {
            RateSubject::Service => Ok(()),
            RateSubject::Admin => {
                self.count(calls, self.admins.as_ref(), (app, method), TOO_MANY_CALLS)
            }
            RateSubject::User(user) => {
                self.count(
                    calls,
                    self.one_user.as_ref(),
                    (app, user.to_owned()),
                    "too many calls by this user",
                )?;
                if STAFF_METHODS.contains(&method) {
                    Ok(())
                } else {
                    self.count(calls, self.users.as_ref(), (app, method), TOO_MANY_CALLS)
                }
            }
        }
    }

    /// Counts a call that a user is permitted to make as staff of the room. Errors: RATE_LIMITED.
    pub fn staff(&self, app: usize, method: &'static str) -> Result<(), Error> {
        self.count(ONE_CALL, self.staff.as_ref(), (app, method), TOO_MANY_CALLS)
    }

    /// Counts one chunk of history that is read. Most calls read one; a search for rare events
    /// reads many. Errors: RATE_LIMITED.
    pub fn history(&self, app: usize, subject: RateSubject<'_>) -> Result<(), Error> {
        let Some(is_user) = is_user(subject) else { return Ok(()) };
        self.count(
            ONE_CALL,
            self.history.as_ref(),
            (app, is_user),
            "too much history is read for this app",
        )
    }

    /// Counts a page after the first of a complete list. Errors: how long to wait for it.
    pub fn page(&self, app: usize, subject: RateSubject<'_>) -> Result<(), Duration> {
        let Some(is_user) = is_user(subject) else { return Ok(()) };
        self.check(self.pages.as_ref(), &(app, is_user))
    }

    /// Counts one chunk of history that is read for a watch. Errors: how long to wait for it.
    pub fn watched(&self, app: usize, subject: RateSubject<'_>) -> Result<(), Duration> {
        is_user(subject).map_or(Ok(()), |_| self.check(self.watch_history.as_ref(), &app))
    }

    fn check<K: Clone + Hash + Eq>(
        &self,
        limiter: Option<&Limiter<K>>,
        key: &K,
    ) -> Result<(), Duration> {
        let Some(limiter) = limiter else { return Ok(()) };
        limiter.check_key(key).map_err(|until| until.wait_time_from(self.clock.monotonic()))
    }

    /// Counts a token issued. Errors: RATE_LIMITED.
    pub fn token(&self, app: usize) -> Result<(), Error> {
        self.count(ONE_CALL, self.tokens.as_ref(), app, "too many tokens are issued for this app")
    }

    /// Counts a wrong secret of a client, by the client id and by the caller's site, in all apps
    /// together. Errors: RATE_LIMITED.
    pub fn guess(&self, client: &str, site: Option<Site>) -> Result<(), Error> {
        const TOO_MANY_GUESSES: &str = "too many attempts with a wrong client secret";
        let by_client = self.count(
            ONE_CALL,
            self.guesses.as_ref(),
            GuessKey::Client(client.chars().take(MAX_CLIENT_CHARS).collect()),
            TOO_MANY_GUESSES,
        );
        site.map_or(Ok(()), |site| {
            self.count(ONE_CALL, self.guesses.as_ref(), GuessKey::Site(site), TOO_MANY_GUESSES)
        })
        .and(by_client)
    }

    fn is_first_in_second(&self) -> bool {
        let now_s = self.clock.monotonic().as_secs();
        self.evicted_at_s.swap(now_s, Ordering::Relaxed) != now_s
    }

    fn count<K: Clone + Hash + Eq>(
        &self,
        calls: NonZeroU32,
        limiter: Option<&Limiter<K>>,
        key: K,
        message: &str,
    ) -> Result<(), Error> {
        let Some(limiter) = limiter else { return Ok(()) };
        // This scans all buckets.
        if limiter.len() >= EVICT_FROM_BUCKETS && self.is_first_in_second() {
            limiter.retain_recent();
        }
        let counted = limiter.check_key_n(&key, calls).or_else(|InsufficientCapacity(capacity)| {
            let capacity = NonZeroU32::new(capacity).unwrap_or(ONE_CALL);
            limiter.check_key_n(&key, capacity)
        });
        counted.unwrap_or(Ok(())).map_err(|until| {
            let wait = until.wait_time_from(self.clock.monotonic());
            Error { retry_after: Some(wait), ..Error::new(Reason::RateLimited, message) }
        })
    }
}

/// `None` for a service, which is not limited.
fn is_user(subject: RateSubject<'_>) -> Option<bool> {
    match subject {
        RateSubject::Service => None,
        RateSubject::Admin => Some(false),
        RateSubject::User(_) => Some(true),
    }
}

fn limiter<K: Clone + Hash + Eq>(rate: u32, clock: &Clock) -> Option<Limiter<K>> {
    Some(Limiter::hashmap_with_clock(Quota::per_second(NonZeroU32::new(rate)?), clock.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_rate_is_per_second_app_and_method() {
        let clock = Clock::manual(1_700_000_000_000);
        let limits = Limits::new(Rates { calls: 100, user_calls: 20, tokens: 3 }, &clock);
        assert!(
            (0..100).all(|_| limits.calls(ONE_CALL, 0, RateSubject::Admin, "MuteMembers").is_ok())
        );
        let error = limits.calls(ONE_CALL, 0, RateSubject::Admin, "MuteMembers").err();
        assert_eq!(error.as_ref().map(|error| error.reason), Some(Reason::RateLimited));
        assert!(
            error
                .and_then(|error| error.retry_after)
                .is_some_and(|wait| wait <= Duration::from_millis(10))
        );
        assert!(limits.calls(ONE_CALL, 0, RateSubject::Admin, "UnmuteMembers").is_ok());
        assert!(limits.calls(ONE_CALL, 1, RateSubject::Admin, "MuteMembers").is_ok());
        clock.advance(Duration::from_secs(1));
        assert!(
            (0..100).all(|_| limits.calls(ONE_CALL, 0, RateSubject::Admin, "MuteMembers").is_ok())
        );
        assert!((0..3).all(|_| limits.token(0).is_ok()));
        assert!(limits.token(0).is_err());
    }

    #[test]
    fn a_batch_is_counted_whole_or_not_at_all() {
        let clock = Clock::manual(0);
        let limits = Limits::new(Rates { calls: 100, user_calls: 20, tokens: 3 }, &clock);
        let count = |calls| {
            limits
                .calls(NonZeroU32::new(calls).unwrap(), 0, RateSubject::Admin, "UpsertClient")
                .is_ok()
        };
        assert!(count(60) && !count(60) && count(40) && !count(1));
        // A batch above the rate takes a full second.
        clock.advance(Duration::from_millis(500));
        assert!(!count(500));
        clock.advance(Duration::from_millis(500));
        assert!(count(500) && !count(1));
    }

    #[test]
    fn users_spend_only_their_own_buckets() {
        let limits =
            Limits::new(Rates { calls: 100, user_calls: 20, tokens: 3 }, &Clock::manual(0));
        let made = |name: &str, method| {
            (0..50)
                .filter(|_| limits.calls(ONE_CALL, 0, RateSubject::User(name), method).is_ok())
                .count()
        };
        assert_eq!(made("one", "CheckSend"), 20);
        assert_eq!(
            ["2", "3", "4", "5", "6"].map(|name| made(name, "CheckSend")).iter().sum::<usize>(),
            80
        );
        // Attempts at methods of staff do not spend the bucket of users.
        assert_eq!(
            ["7", "8", "9", "10", "11", "12"].map(|name| made(name, "MuteMembers")),
            [20; 6]
        );
        assert!((0..100).all(|_| limits.staff(0, "MuteMembers").is_ok()));
        assert!(limits.staff(0, "MuteMembers").is_err());
    }

    #[test]
    fn wrong_secrets_do_not_spend_the_rate_of_tokens() {
        let limits = Limits::new(Rates { tokens: 30, ..Rates::default() }, &Clock::manual(0));
        let site = Some(Site::from(std::net::IpAddr::from([10, 0, 0, 1])));
        assert_eq!((0..50).filter(|_| limits.guess("client", site).is_ok()).count(), 3);
        assert!(limits.guess("other", site).is_err(), "from the same address");
        assert!(limits.guess("client", None).is_err(), "at the same client");
        assert!(limits.guess("another", None).is_ok());
        assert!((0..30).all(|_| limits.token(0).is_ok()));
    }

    #[test]
    fn full_buckets_are_evicted_once_a_second() {
        let clock = Clock::manual(0);
        let limits = Limits::new(Rates { user_calls: 20, ..Rates::default() }, &clock);
        clock.advance(Duration::from_secs(1));
        let call = |number: usize| {
            limits.calls(ONE_CALL, 0, RateSubject::User(&number.to_string()), "CheckSend").unwrap()
        };
        let bucket_count = || limits.one_user.as_ref().map_or(0, Limiter::len);
        (0..EVICT_FROM_BUCKETS + 10).for_each(call);
        assert_eq!(bucket_count(), EVICT_FROM_BUCKETS + 10, "all have called just now");
        clock.advance(Duration::from_millis(500));
        call(EVICT_FROM_BUCKETS + 10);
        assert_eq!(bucket_count(), EVICT_FROM_BUCKETS + 11, "already scanned within this second");
        clock.advance(Duration::from_millis(600));
        call(EVICT_FROM_BUCKETS + 11);
        assert!(bucket_count() < 10, "{}", bucket_count());
    }

    #[test]
    fn a_rate_of_zero_is_unlimited() {
        let limits = Limits::new(Rates::default(), &Clock::manual(0));
        assert!(
            (0..10_000)
                .all(|_| limits.calls(ONE_CALL, 0, RateSubject::User("u"), "CheckSend").is_ok())
        );
    }
}
