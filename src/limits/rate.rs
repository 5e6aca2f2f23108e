//! How often one method may be called in one app, and by one user. Internal services are not
//! limited: they ask on every message.
//!
//! Users cannot keep admins and staff from their work, nor staff the admins: each have buckets of
//! their own. What needs the right of a room's staff counts against the staff's bucket when the
//! right was found, so that whoever lacks it spends what is its own alone.

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

/// RPCs that users may call where they are staff of the room.
const OF_STAFF: [&str; 9] = [
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
/// Buckets of users and of guesses that are kept before those that are full again are forgotten,
/// once a second.
const FORGET: usize = 100_000;
/// Of the tokens issued a second in an app, so many wrong guesses.
const GUESSES: u32 = 10;
/// Pieces of history, of 250 events, that an app may have read a second, for each call of one
/// method that it may make.
const PIECES: u32 = 4;
/// Of a client's id, so much tells it from others.
const MAX_CLIENT: usize = 64;
const ONE: NonZeroU32 = NonZeroU32::MIN;
const OF_METHOD: &str = "too many calls of this method in this app";

/// Who is counted.
#[derive(Clone, Copy, Debug)]
pub enum Rated<'a> {
    /// An internal service: it is not limited.
    Service,
    /// An app's admin.
    Admin,
    /// This user of an app.
    User(&'a str),
}

/// App number and method.
type Key = (usize, &'static str);
type Limiter<K> = RateLimiter<K, HashMapStateStore<K>, Clock, NoOpMiddleware<Duration>>;

/// Token buckets.
pub struct Limits {
    /// Of admins.
    admins: Option<Limiter<Key>>,
    /// Of users where they are staff.
    staff: Option<Limiter<Key>>,
    /// Of all users of an app.
    users: Option<Limiter<Key>>,
    /// Of one user, by app: all methods together.
    user: Option<Limiter<(usize, String)>>,
    /// Pieces of history that are read for an app: for its users, and not for them.
    history: Option<Limiter<(usize, bool)>>,
    /// Pages after the first of lists that are told whole: as `history`.
    pages: Option<Limiter<(usize, bool)>>,
    /// Pieces of history that are read for watches of an app.
    watched: Option<Limiter<usize>>,
    tokens: Option<Limiter<usize>>,
    guesses: Option<Limiter<Guess>>,
    clock: Clock,
    /// When buckets were last forgotten, in whole seconds.
    forgot_s: AtomicU64,
}

/// Who has guessed, or at what.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Guess {
    From(Site),
    At(String),
}

/// Rates a second; 0 is without limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Calls of one method in one app: of admins, as many of staff, and as many of users.
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
    /// Limits of these rates.
    #[must_use]
    pub fn new(rates: Rates, clock: &Clock) -> Self {
        let Rates { calls, user_calls, tokens } = rates;
        Self {
            admins: limiter(calls, clock),
            staff: limiter(calls, clock),
            users: limiter(calls, clock),
            user: limiter(user_calls, clock),
            history: limiter(calls.saturating_mul(PIECES), clock),
            pages: limiter(calls, clock),
            watched: limiter(calls.saturating_mul(PIECES), clock),
            tokens: limiter(tokens, clock),
            guesses: limiter(tokens.div_ceil(GUESSES), clock),
            clock: clock.clone(),
            forgot_s: AtomicU64::new(0),
        }
    }

    /// Counts so many calls that begin together; not more than there may be in a second. Errors:
    /// RATE_LIMITED; what the app has left is not touched.
    pub fn calls(
        &self,
        calls: NonZeroU32,
        app: usize,
        who: Rated<'_>,
        method: &'static str,
    ) -> Result<(), Error> {
        match who {
            Rated::Service => Ok(()),
            Rated::Admin => self.count(calls, self.admins.as_ref(), (app, method), OF_METHOD),
            Rated::User(user) => {
                self.count(
                    calls,
                    self.user.as_ref(),
                    (app, user.to_owned()),
                    "too many calls of this user",
                )?;
                if OF_STAFF.contains(&method) {
                    Ok(())
                } else {
                    self.count(calls, self.users.as_ref(), (app, method), OF_METHOD)
                }
            }
        }
    }

    /// Counts a call of a user who is permitted to make it as staff of the room. Errors:
    /// RATE_LIMITED.
    pub fn staff(&self, app: usize, method: &'static str) -> Result<(), Error> {
        self.count(ONE, self.staff.as_ref(), (app, method), OF_METHOD)
    }

    /// Counts a piece of history that is read: most calls read one, and one that looks for what is
    /// rare many. Errors: RATE_LIMITED.
    pub fn history(&self, app: usize, who: Rated<'_>) -> Result<(), Error> {
        let Some(is_user) = is_user(who) else { return Ok(()) };
        self.count(
            ONE,
            self.history.as_ref(),
            (app, is_user),
            "too much of the history is looked through for this app",
        )
    }

    /// Counts a page after the first of a list that is told whole. Errors: how long to wait for it.
    pub fn page(&self, app: usize, who: Rated<'_>) -> Result<(), Duration> {
        let Some(is_user) = is_user(who) else { return Ok(()) };
        self.wait(self.pages.as_ref(), &(app, is_user))
    }

    /// Counts a piece of history that is read for a watch. Errors: how long to wait for it.
    pub fn watched(&self, app: usize, who: Rated<'_>) -> Result<(), Duration> {
        is_user(who).map_or(Ok(()), |_| self.wait(self.watched.as_ref(), &app))
    }

    fn wait<K: Clone + Hash + Eq>(
        &self,
        limiter: Option<&Limiter<K>>,
        key: &K,
    ) -> Result<(), Duration> {
        let Some(limiter) = limiter else { return Ok(()) };
        limiter.check_key(key).map_err(|until| until.wait_time_from(self.clock.monotonic()))
    }

    /// Counts a token issued. Errors: RATE_LIMITED.
    pub fn token(&self, app: usize) -> Result<(), Error> {
        self.count(ONE, self.tokens.as_ref(), app, "too many tokens are issued in this app")
    }

    /// Counts a wrong guess at the secret of a client, whatever app it was for. Errors:
    /// RATE_LIMITED.
    pub fn guess(&self, client: &str, site: Option<Site>) -> Result<(), Error> {
        const WORDS: &str = "too many wrong secrets";
        let at = self.count(
            ONE,
            self.guesses.as_ref(),
            Guess::At(client.chars().take(MAX_CLIENT).collect()),
            WORDS,
        );
        site.map_or(Ok(()), |site| self.count(ONE, self.guesses.as_ref(), Guess::From(site), WORDS))
            .and(at)
    }

    fn is_another_second(&self) -> bool {
        let now_s = self.clock.monotonic().as_secs();
        self.forgot_s.swap(now_s, Ordering::Relaxed) != now_s
    }

    fn count<K: Clone + Hash + Eq>(
        &self,
        calls: NonZeroU32,
        limiter: Option<&Limiter<K>>,
        key: K,
        words: &str,
    ) -> Result<(), Error> {
        let Some(limiter) = limiter else { return Ok(()) };
        // All of them are looked at.
        if limiter.len() >= FORGET && self.is_another_second() {
            limiter.retain_recent();
        }
        let counted = limiter.check_key_n(&key, calls).or_else(|InsufficientCapacity(all)| {
            let all = NonZeroU32::new(all).unwrap_or(ONE);
            limiter.check_key_n(&key, all)
        });
        counted.unwrap_or(Ok(())).map_err(|until| {
            let wait = until.wait_time_from(self.clock.monotonic());
            Error { retry_after: Some(wait), ..Error::new(Reason::RateLimited, words) }
        })
    }
}

/// Nothing for a service, which is not limited.
fn is_user(who: Rated<'_>) -> Option<bool> {
    match who {
        Rated::Service => None,
        Rated::Admin => Some(false),
        Rated::User(_) => Some(true),
    }
}

fn limiter<K: Clone + Hash + Eq>(rate: u32, clock: &Clock) -> Option<Limiter<K>> {
    Some(Limiter::hashmap_with_clock(Quota::per_second(NonZeroU32::new(rate)?), clock.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_second_holds_so_many_calls_of_each_app_and_method() {
        let clock = Clock::manual(1_700_000_000_000);
        let limits = Limits::new(Rates { calls: 100, user_calls: 20, tokens: 3 }, &clock);
        assert!((0..100).all(|_| limits.calls(ONE, 0, Rated::Admin, "MuteMembers").is_ok()));
        let error = limits.calls(ONE, 0, Rated::Admin, "MuteMembers").err();
        assert_eq!(error.as_ref().map(|error| error.reason), Some(Reason::RateLimited));
        assert!(
            error
                .and_then(|error| error.retry_after)
                .is_some_and(|wait| wait <= Duration::from_millis(10))
        );
        assert!(limits.calls(ONE, 0, Rated::Admin, "UnmuteMembers").is_ok());
        assert!(limits.calls(ONE, 1, Rated::Admin, "MuteMembers").is_ok());
        clock.advance(Duration::from_secs(1));
        assert!((0..100).all(|_| limits.calls(ONE, 0, Rated::Admin, "MuteMembers").is_ok()));
        assert!((0..3).all(|_| limits.token(0).is_ok()));
        assert!(limits.token(0).is_err());
    }

    #[test]
    fn calls_that_begin_together_are_counted_together_or_not_at_all() {
        let clock = Clock::manual(0);
        let limits = Limits::new(Rates { calls: 100, user_calls: 20, tokens: 3 }, &clock);
        let count = |calls| {
            limits.calls(NonZeroU32::new(calls).unwrap(), 0, Rated::Admin, "UpsertClient").is_ok()
        };
        assert!(count(60) && !count(60) && count(40) && !count(1));
        // More than there may be in a second take all of one.
        clock.advance(Duration::from_millis(500));
        assert!(!count(500));
        clock.advance(Duration::from_millis(500));
        assert!(count(500) && !count(1));
    }

    #[test]
    fn users_spend_what_is_theirs() {
        let limits =
            Limits::new(Rates { calls: 100, user_calls: 20, tokens: 3 }, &Clock::manual(0));
        let made = |name: &str, method| {
            (0..50).filter(|_| limits.calls(ONE, 0, Rated::User(name), method).is_ok()).count()
        };
        assert_eq!(made("one", "CheckSend"), 20);
        assert_eq!(
            ["2", "3", "4", "5", "6"].map(|name| made(name, "CheckSend")).iter().sum::<usize>(),
            80
        );
        // What needs the right of staff is no matter of those who only ask.
        assert_eq!(
            ["7", "8", "9", "10", "11", "12"].map(|name| made(name, "MuteMembers")),
            [20; 6]
        );
        assert!((0..100).all(|_| limits.staff(0, "MuteMembers").is_ok()));
        assert!(limits.staff(0, "MuteMembers").is_err());
    }

    #[test]
    fn wrong_guesses_spend_nothing_of_those_who_know() {
        let limits = Limits::new(Rates { tokens: 30, ..Rates::default() }, &Clock::manual(0));
        let site = Some(Site::from(std::net::IpAddr::from([10, 0, 0, 1])));
        assert_eq!((0..50).filter(|_| limits.guess("client", site).is_ok()).count(), 3);
        assert!(limits.guess("other", site).is_err(), "of the same address");
        assert!(limits.guess("client", None).is_err(), "at the same client");
        assert!(limits.guess("another", None).is_ok());
        assert!((0..30).all(|_| limits.token(0).is_ok()));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten_once_a_second() {
        let clock = Clock::manual(0);
        let limits = Limits::new(Rates { user_calls: 20, ..Rates::default() }, &clock);
        clock.advance(Duration::from_secs(1));
        let ask = |number: usize| {
            limits.calls(ONE, 0, Rated::User(&number.to_string()), "CheckSend").unwrap()
        };
        let kept = || limits.user.as_ref().map_or(0, Limiter::len);
        (0..FORGET + 10).for_each(ask);
        assert_eq!(kept(), FORGET + 10, "all have asked just now");
        clock.advance(Duration::from_millis(500));
        ask(FORGET + 10);
        assert_eq!(kept(), FORGET + 11, "looked at within this second");
        clock.advance(Duration::from_millis(600));
        ask(FORGET + 11);
        assert!(kept() < 10, "{}", kept());
    }

    #[test]
    fn zero_is_without_limit() {
        let limits = Limits::new(Rates::default(), &Clock::manual(0));
        assert!((0..10_000).all(|_| limits.calls(ONE, 0, Rated::User("u"), "CheckSend").is_ok()));
    }
}
