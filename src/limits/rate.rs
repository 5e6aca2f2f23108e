//! Rate limits: how often one method may be called in one app, and how often by one user. Internal
//! services are not limited, because they ask on every message.
//!
//! Admins, staff and other users are counted separately, so that users cannot starve admins and
//! staff, nor staff the admins. A method that needs staff rights counts for the staff only after
//! the right was checked, so that a user without it spends only its own calls.

use std::{hash::Hash, num::NonZeroU32, time::Duration};

use super::{holder::Site, window::WindowLimiter};
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

/// What is counted for each limit; nothing for a limit that is off.
pub struct Limits {
    /// Calls of admins, by app and method.
    admins: Option<WindowLimiter<Key>>,
    /// Calls that users make as staff, by app and method.
    staff: Option<WindowLimiter<Key>>,
    /// Calls of all users of an app, by app and method.
    users: Option<WindowLimiter<Key>>,
    /// Calls of one user of an app, all methods together.
    one_user: Option<WindowLimiter<(usize, String)>>,
    /// Chunks of history read in an app, by whether a user asked.
    history: Option<WindowLimiter<(usize, bool)>>,
    /// Pages after the first of complete lists, by whether a user asked.
    pages: Option<WindowLimiter<(usize, bool)>>,
    /// Chunks of history read for the watches of an app.
    watch_history: Option<WindowLimiter<usize>>,
    tokens: Option<WindowLimiter<usize>>,
    guesses: Option<WindowLimiter<GuessKey>>,
    clock: Clock,
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

impl Limits {
    /// Limits with these rates.
    #[must_use]
    pub fn new(rates: Rates, clock: &Clock) -> Self {
        let Rates { calls, user_calls, tokens } = rates;
        Self {
            admins: limiter(calls),
            staff: limiter(calls),
            users: limiter(calls),
            one_user: limiter(user_calls),
            history: limiter(calls.saturating_mul(CHUNKS_PER_CALL)),
            pages: limiter(calls),
            watch_history: limiter(calls.saturating_mul(CHUNKS_PER_CALL)),
            tokens: limiter(tokens),
            guesses: limiter(tokens.div_ceil(TOKENS_PER_GUESS)),
            clock: clock.clone(),
        }
    }

    /// Counts `calls` that begin together, capped at the rate of one second. Errors: RATE_LIMITED;
    /// for a user's call the user's own calls may be spent then, the app's are not.
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
        self.check(self.pages.as_ref(), (app, is_user))
    }

    /// Counts one chunk of history that is read for a watch. Errors: how long to wait for it.
    pub fn watched(&self, app: usize, subject: RateSubject<'_>) -> Result<(), Duration> {
        is_user(subject).map_or(Ok(()), |_| self.check(self.watch_history.as_ref(), app))
    }

    fn check<K: Hash + Eq>(
        &self,
        limiter: Option<&WindowLimiter<K>>,
        key: K,
    ) -> Result<(), Duration> {
        limiter.map_or(Ok(()), |limiter| limiter.count(key, ONE_CALL, self.clock.monotonic()))
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

    fn count<K: Hash + Eq>(
        &self,
        calls: NonZeroU32,
        limiter: Option<&WindowLimiter<K>>,
        key: K,
        message: &str,
    ) -> Result<(), Error> {
        let Some(limiter) = limiter else { return Ok(()) };
        limiter.count(key, calls, self.clock.monotonic()).map_err(|wait| Error {
            retry_after: Some(wait),
            ..Error::new(Reason::RateLimited, message)
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

fn limiter<K: Hash + Eq>(rate: u32) -> Option<WindowLimiter<K>> {
    NonZeroU32::new(rate).map(WindowLimiter::new)
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
                .is_some_and(|wait| wait == Duration::from_secs(1))
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
    fn no_second_has_more_than_the_rate() {
        type Count = fn(&Limits) -> bool;
        let rates = Rates { calls: 100, user_calls: 20, tokens: 30 };
        let kinds: [(&str, usize, Count); 9] = [
            ("admins", 100, |limits| {
                limits.calls(ONE_CALL, 0, RateSubject::Admin, "MuteMembers").is_ok()
            }),
            ("staff", 100, |limits| limits.staff(0, "MuteMembers").is_ok()),
            ("users", 100, |limits| {
                let users = ["1", "2", "3", "4", "5", "6", "7"].into_iter();
                let call = |user| limits.calls(ONE_CALL, 0, RateSubject::User(user), "GetClient");
                users.map(call).any(|counted| counted.is_ok())
            }),
            ("one user", 20, |limits| {
                limits.calls(ONE_CALL, 0, RateSubject::User("u"), "MuteMembers").is_ok()
            }),
            ("history", 400, |limits| limits.history(0, RateSubject::Admin).is_ok()),
            ("pages", 100, |limits| limits.page(0, RateSubject::Admin).is_ok()),
            ("watched history", 400, |limits| limits.watched(0, RateSubject::Admin).is_ok()),
            ("tokens", 30, |limits| limits.token(0).is_ok()),
            ("guesses", 3, |limits| limits.guess("client", None).is_ok()),
        ];
        for (kind, rate, count) in kinds {
            let clock = Clock::manual(0);
            let limits = Limits::new(rates, &clock);
            let mut accepted = Vec::new();
            // The first second has few calls, so that a token bucket would be full after it.
            for at_ms in (0..5_000).step_by(7) {
                let attempts = if at_ms < 990 { 1 } else { 10 };
                let made = (0..attempts).filter(|_| count(&limits)).count();
                accepted.extend(std::iter::repeat_n(at_ms, made));
                clock.advance(Duration::from_millis(7));
            }
            let in_second = |start: u64| {
                accepted.iter().filter(|at| (start..start + 1_000).contains(*at)).count()
            };
            let most = accepted.iter().map(|start| in_second(*start)).max();
            assert_eq!(most, Some(rate), "{kind}");
        }
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
    fn users_spend_only_their_own_calls() {
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
        // Attempts at methods of staff do not spend the calls of users.
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
    fn a_rate_of_zero_is_unlimited() {
        let limits = Limits::new(Rates::default(), &Clock::manual(0));
        assert!(
            (0..10_000)
                .all(|_| limits.calls(ONE_CALL, 0, RateSubject::User("u"), "CheckSend").is_ok())
        );
    }
}
