//! Services that come with a token of somebody else, such as Kubernetes, which issues them for
//! service accounts: JWTs (RFC 7519) that are good for us (`aud`), by a key of the issuer's set, in
//! their time.
//!
//! Keys are read at the start and then again: a file when it changes, a URL every five minutes, and
//! soon after a token came with a key that is not known. What cannot be read changes nothing. A
//! signature costs some hundred microseconds to look at, so what was found good is remembered until
//! it ends or the keys change.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use futures_util::future::join_all;
use jsonwebtoken::Header;
use quick_cache::sync::Cache;
use serde::Deserialize;
use tokio::{sync::Notify, task::JoinSet, time::sleep};

use self::{keys::Keys, source::Source};
use super::{Principal, ServiceAccount, secret::KeyHash};
use crate::{
    error::{Error, Reason},
    files::FileWatcher,
    limits::holder::Site,
    telemetry::metrics::METRICS,
};

mod config;
mod keys;
mod source;

pub use config::IssuerConfig;

/// How far the issuer's clock may be from ours.
const LEEWAY_MS: f64 = 30_000.0;
/// Between two times that a URL is asked for its keys, and at least so long after one.
const REFRESH: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_secs(10);
/// Tokens that are remembered; the one least asked for makes place.
const REMEMBERED: usize = 16_384;
/// Tokens of one address that were looked at within a second and found not good; whatever it sends
/// then is not looked at. A signature of RSA-4096 takes a millisecond and a half.
const MOST_FAILURES: u32 = 100;

/// All issuers, and who their subjects are here.
pub(super) struct Issuers {
    issuers: HashMap<String, Arc<Issuer>>,
    accounts: HashMap<(String, String), Arc<ServiceAccount>>,
    verified: Cache<KeyHash, Arc<Verified>>,
    /// Tokens that were found wrong, by the keys that they were looked at with.
    refused: Cache<KeyHash, Arc<Keys>>,
    /// How many were refused, by the address they came from, and in which second of the clock.
    failures: Cache<Site, (u64, u32)>,
    /// Keep their keys new, as long as these issuers are those that count.
    keepers: JoinSet<()>,
}

struct Issuer {
    config: IssuerConfig,
    source: Source,
    /// Its file, where it is one.
    seen: FileWatcher,
    keys: ArcSwap<Keys>,
    /// A token came with a key that is not known.
    unknown: Notify,
}

/// A token that was found good.
struct Verified {
    account: Arc<ServiceAccount>,
    until_ms: f64,
    issuer: Arc<Issuer>,
    by: Arc<Keys>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

impl Issuers {
    /// These issuers, with the keys of those that have a file. Errors: everything that is wrong, a
    /// sentence each.
    pub(super) fn new(
        configs: &[IssuerConfig],
        accounts: HashMap<(String, String), Arc<ServiceAccount>>,
    ) -> Result<Self, Vec<String>> {
        let (mut issuers, mut wrong) = (HashMap::default(), Vec::new());
        for config in configs {
            let name = config.issuer.clone();
            if config.audience.is_empty() {
                wrong.push(format!(
                    "issuer \"{name}\": without an audience, tokens for anybody would be good here"
                ));
            }
            match Issuer::new(config) {
                Ok(issuer) => {
                    if issuers.insert(name.clone(), Arc::new(issuer)).is_some() {
                        wrong.push(format!("issuer \"{name}\": configured twice"));
                    }
                }
                Err(what) => wrong.push(format!("issuer \"{name}\": {what}")),
            }
        }
        for (name, subject) in accounts.keys() {
            if !configs.iter().any(|config| config.issuer == *name) {
                wrong.push(format!("the subject \"{subject}\": its issuer \"{name}\" is not configured, under [[issuers]]"));
            }
        }
        let (verified, refused, failures) =
            (Cache::new(REMEMBERED), Cache::new(REMEMBERED), Cache::new(REMEMBERED));
        if wrong.is_empty() {
            Ok(Self { issuers, accounts, verified, refused, failures, keepers: JoinSet::new() })
        } else {
            Err(wrong)
        }
    }

    /// Has all keys read, and kept new. Those of a URL that `old` has too are taken from there; one
    /// that does not answer is asked again later, and its tokens are refused meanwhile.
    pub(super) async fn begin(&mut self, old: Option<&Self>) {
        let first = async |issuer: &Arc<Issuer>| match old.and_then(|old| old.same_url(issuer)) {
            Some(old) => issuer.keys.store(old.keys.load_full()),
            None => issuer.read().await,
        };
        join_all(self.issuers.values().map(first)).await;
        for issuer in self.issuers.values() {
            self.keepers.spawn(issuer.clone().refresh_keys());
        }
    }

    fn same_url(&self, issuer: &Issuer) -> Option<&Arc<Issuer>> {
        let same = self.issuers.get(&issuer.config.issuer)?;
        (same.config == issuer.config && matches!(same.source, Source::Url { .. })).then_some(same)
    }

    /// Whether it is one of these who issues under that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.issuers.contains_key(name)
    }

    /// Whose token this is, where it was looked at before.
    pub(super) fn remembered(&self, token: &KeyHash, now_ms: u64) -> Option<Principal> {
        if self.issuers.is_empty() {
            return None;
        }
        let Verified { account, until_ms, issuer, by } = &*self.verified.get(token)?;
        let is_good = (now_ms as f64) < *until_ms && Arc::ptr_eq(by, &issuer.keys.load());
        is_good.then(|| Principal::Service(account.clone()))
    }

    /// Whose token this is, by the issuer of that name. Errors: INVALID_TOKEN, MALFORMED_TOKEN;
    /// PERMISSION_DENIED where it is good, and of nobody we know. RATE_LIMITED where too many that
    /// were not good came from that address.
    pub(super) fn verify(
        &self,
        name: &str,
        token: &str,
        hash: KeyHash,
        now_ms: u64,
        from: Option<Site>,
    ) -> Result<Principal, Error> {
        let issuer = self.issuers.get(name).ok_or_else(super::token::invalid)?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| super::token::malformed())?;
        let by = issuer.keys.load_full();
        if self.refused.get(&hash).is_some_and(|keys| Arc::ptr_eq(&keys, &by)) {
            return Err(super::token::invalid());
        }
        let second = now_ms / 1_000;
        let failures = from
            .and_then(|from| self.failures.get(&from))
            .filter(|(at, _)| *at == second)
            .map_or(0, |(_, count)| count);
        if failures >= MOST_FAILURES {
            let error = Error::new(
                Reason::RateLimited,
                "too many tokens that are not good come from this address",
            );
            return Err(Error { retry_after: Some(Duration::from_secs(1)), ..error });
        }
        let Some(claims) = issuer.claims(token, &header, &by, now_ms) else {
            self.refused.insert(hash, by);
            from.into_iter().for_each(|from| self.failures.insert(from, (second, failures + 1)));
            return Err(super::token::invalid());
        };
        let account = self.accounts.get(&(name.to_owned(), claims.sub)).ok_or_else(|| {
            Error::new(
                Reason::PermissionDenied,
                "the token is good, but its subject is none of the configured services",
            )
        })?;
        let until_ms = claims.exp * 1_000.0 + LEEWAY_MS;
        let verified = Verified { account: account.clone(), until_ms, issuer: issuer.clone(), by };
        self.verified.insert(hash, Arc::new(verified));
        Ok(Principal::Service(account.clone()))
    }
}

impl Issuer {
    fn new(config: &IssuerConfig) -> Result<Self, String> {
        let source = Source::new(config)?;
        let seen = FileWatcher::new(match &source {
            Source::File(path) => vec![path.clone()],
            Source::Url { .. } => Vec::new(),
        });
        let keys = match &source {
            Source::File(path) => source::of_file(path)?,
            Source::Url { .. } => Keys::default(),
        };
        Ok(Self {
            config: config.clone(),
            source,
            seen,
            keys: ArcSwap::from_pointee(keys),
            unknown: Notify::new(),
        })
    }

    /// What the token says, where it is for us, in its time, and signed.
    fn claims(&self, token: &str, header: &Header, keys: &Keys, now_ms: u64) -> Option<Claims> {
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        let now_ms = now_ms as f64;
        let has_begun = claims.nbf.is_none_or(|nbf| nbf * 1_000.0 <= now_ms + LEEWAY_MS);
        let has_not_ended = now_ms < claims.exp * 1_000.0 + LEEWAY_MS;
        if !(has_begun && has_not_ended && claims.aud.has(&self.config.audience)) {
            return None;
        }
        if header.kid.as_ref().is_some_and(|id| !keys.has(id)) {
            self.unknown.notify_one();
        }
        keys.have_signed(token, header).then_some(claims)
    }

    /// Never ends by itself.
    async fn refresh_keys(self: Arc<Self>) {
        match &self.source {
            Source::File(_) => {
                let mut files = self.seen.clone();
                loop {
                    files.changed().await;
                    self.read().await;
                }
            }
            Source::Url { .. } => loop {
                sleep(PAUSE).await;
                if self.keys.load().len() > 0 {
                    tokio::select! {
                        () = sleep(REFRESH) => {}
                        () = self.unknown.notified() => {}
                    }
                }
                self.read().await;
            },
        }
    }

    /// Takes the keys that there are now; what cannot be read changes nothing.
    async fn read(&self) {
        let issuer = &self.config.issuer;
        match self.source.keys().await {
            Ok(keys) if keys == **self.keys.load() => {}
            Ok(keys) => {
                tracing::info!(issuer, keys = keys.len(), "the keys of an issuer were read");
                self.keys.store(Arc::new(keys));
            }
            Err(error) => {
                METRICS.issuer_failed();
                tracing::error!(
                    issuer,
                    error,
                    "the keys of an issuer were not read; those known go on"
                );
            }
        }
    }
}
