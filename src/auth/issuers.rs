//! Services that authenticate with a token of an external issuer, such as Kubernetes service
//! accounts: JWTs (RFC 7519) with this service as audience (`aud`), signed with a key of the
//! issuer's set, within their validity.
//!
//! Keys are loaded at startup and reloaded: a file when it changes, a URL every five minutes, and
//! soon after a token with an unknown key. A failed load keeps the previous keys. Verifying a
//! signature takes some hundred microseconds, so results are cached until the token expires or the
//! keys change.
//!
//! `jsonwebtoken` checks signatures. Crates that also fetch keys, such as `jwt-authorizer`, bring
//! another HTTP client, and another clock than the service's.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

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
    clock::Clock,
    error::Refusal,
    files::FileWatcher,
    limits::{holder::Site, window::WindowLimiter},
    telemetry::metrics::METRICS,
};

mod config;
mod keys;
mod source;

pub use config::IssuerConfig;

/// The tolerated difference between the issuer's clock and ours.
const LEEWAY_MS: f64 = 30_000.0;
/// How often the keys of a URL are fetched, and the minimum delay between two fetches.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
const MIN_REFRESH_DELAY: Duration = Duration::from_secs(10);
/// The number of cached tokens.
const CACHE_ENTRIES: usize = 16_384;
/// Invalid tokens that are verified for one address per second; after that its uncached tokens are
/// refused unverified. An RSA-4096 signature takes 1.5 ms.
const MAX_FAILURES: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// All issuers, and the services of their subjects.
pub(super) struct Issuers {
    issuers: HashMap<String, Arc<Issuer>>,
    accounts: HashMap<(String, String), Arc<ServiceAccount>>,
    verified: Cache<KeyHash, Arc<Verified>>,
    /// Invalid tokens, with the keys they were verified with and what was wrong.
    rejected: Cache<KeyHash, (Arc<Keys>, Refusal)>,
    /// Invalid tokens by site.
    failures: WindowLimiter<Site>,
    /// Tasks that refresh keys; they end with this set of issuers.
    refreshers: JoinSet<()>,
}

struct Issuer {
    config: IssuerConfig,
    source: Source,
    /// The watcher of its file, if it has one.
    watcher: FileWatcher,
    keys: ArcSwap<Keys>,
    /// Notified when a token names an unknown key.
    unknown_key: Notify,
}

/// A valid token.
struct Verified {
    account: Arc<ServiceAccount>,
    expires_ms: f64,
    issuer: Arc<Issuer>,
    keys: Arc<Keys>,
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
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

impl Issuers {
    /// These issuers, with the keys of those that use a file. Errors: everything that is wrong, a
    /// sentence each.
    pub(super) fn new(
        configs: &[IssuerConfig],
        accounts: HashMap<(String, String), Arc<ServiceAccount>>,
    ) -> Result<Self, Vec<String>> {
        let mut issuers = HashMap::default();
        let mut errors = Vec::new();
        for config in configs {
            let name = config.issuer.clone();
            if config.audience.is_empty() {
                errors.push(format!(
                    "issuer \"{name}\": audience is empty; tokens for any service would be accepted"
                ));
            }
            match Issuer::new(config) {
                Ok(issuer) => {
                    if issuers.insert(name.clone(), Arc::new(issuer)).is_some() {
                        errors.push(format!("issuer \"{name}\": configured twice"));
                    }
                }
                Err(error) => errors.push(format!("issuer \"{name}\": {error}")),
            }
        }
        for (name, subject) in accounts.keys() {
            if !configs.iter().any(|config| config.issuer == *name) {
                errors.push(format!(
                    "subject \"{subject}\": its issuer \"{name}\" is not configured; \
                     add it under [[issuers]]"
                ));
            }
        }
        if errors.is_empty() {
            Ok(Self {
                issuers,
                accounts,
                verified: Cache::new(CACHE_ENTRIES),
                rejected: Cache::new(CACHE_ENTRIES),
                failures: WindowLimiter::new(MAX_FAILURES),
                refreshers: JoinSet::new(),
            })
        } else {
            Err(errors)
        }
    }

    /// Loads all keys and starts refreshing them. Keys of a URL that `old` also has are taken from
    /// there. If a URL does not respond, its tokens are refused until a later fetch succeeds.
    pub(super) async fn start(&mut self, old: Option<&Self>) {
        let load_first = async |issuer: &Arc<Issuer>| match old.and_then(|old| old.same_url(issuer))
        {
            Some(old) => issuer.keys.store(old.keys.load_full()),
            None => issuer.reload().await,
        };
        join_all(self.issuers.values().map(load_first)).await;
        for issuer in self.issuers.values() {
            self.refreshers.spawn(issuer.clone().refresh_keys());
        }
    }

    fn same_url(&self, issuer: &Issuer) -> Option<&Arc<Issuer>> {
        let same = self.issuers.get(&issuer.config.issuer)?;
        (same.config == issuer.config && matches!(same.source, Source::Url { .. })).then_some(same)
    }

    /// Whether an issuer of this name is configured.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.issuers.contains_key(name)
    }

    /// The principal of a cached valid token.
    pub(super) fn cached(&self, token: &KeyHash, now_ms: u64) -> Option<Principal> {
        if self.issuers.is_empty() {
            return None;
        }
        let Verified { account, expires_ms, issuer, keys } = &*self.verified.get(token)?;
        let is_good = (now_ms as f64) < *expires_ms && Arc::ptr_eq(keys, &issuer.keys.load());
        is_good.then(|| Principal::Service(account.clone()))
    }

    /// Verifies a token of the issuer with this name. After too many invalid tokens from this site
    /// it is not looked at.
    pub(super) fn verify(
        &self,
        name: &str,
        token: &str,
        hash: KeyHash,
        clock: &Clock,
        site: Option<Site>,
    ) -> Result<Principal, Refusal> {
        let issuer = self.issuers.get(name).ok_or(Refusal::UnknownIssuer)?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::NotAToken)?;
        let keys = issuer.keys.load_full();
        if let Some((checked_with, refusal)) = self.rejected.get(&hash)
            && Arc::ptr_eq(&checked_with, &keys)
        {
            return Err(refusal);
        }
        if site.as_ref().is_some_and(|site| self.failures.is_full(site, clock.monotonic())) {
            return Err(Refusal::TooMany);
        }
        let claims = match issuer.claims(token, &header, &keys, clock.now_ms()) {
            Ok(claims) => claims,
            Err(refusal) => {
                // The time alone makes an early token valid.
                if refusal != Refusal::NotYetValid {
                    self.rejected.insert(hash, (keys, refusal));
                }
                if let Some(site) = site {
                    let _ = self.failures.count(site, NonZeroU32::MIN, clock.monotonic());
                }
                return Err(refusal);
            }
        };
        let account = self.accounts.get(&(name.to_owned(), claims.sub));
        let account = account.ok_or(Refusal::UnknownSubject)?;
        let expires_ms = claims.exp * 1_000.0 + LEEWAY_MS;
        let verified =
            Verified { account: account.clone(), expires_ms, issuer: issuer.clone(), keys };
        self.verified.insert(hash, Arc::new(verified));
        Ok(Principal::Service(account.clone()))
    }
}

impl Issuer {
    fn new(config: &IssuerConfig) -> Result<Self, String> {
        let source = Source::new(config)?;
        let watcher = FileWatcher::new(match &source {
            Source::File(path) => vec![path.clone()],
            Source::Url { .. } => Vec::new(),
        });
        let keys = match &source {
            Source::File(path) => source::read_file(path)?,
            Source::Url { .. } => Keys::default(),
        };
        Ok(Self {
            config: config.clone(),
            source,
            watcher,
            keys: ArcSwap::from_pointee(keys),
            unknown_key: Notify::new(),
        })
    }

    /// The claims of the token, if its audience, time and signature are valid.
    fn claims(
        &self,
        token: &str,
        header: &Header,
        keys: &Keys,
        now_ms: u64,
    ) -> Result<Claims, Refusal> {
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| Refusal::MissingClaim)?;
        let now_ms = now_ms as f64;
        if !claims.aud.contains(&self.config.audience) {
            return Err(Refusal::WrongAudience);
        }
        let is_unexpired = now_ms < claims.exp * 1_000.0 + LEEWAY_MS;
        if !is_unexpired {
            return Err(Refusal::Expired);
        }
        let has_started = claims.nbf.is_none_or(|nbf| nbf * 1_000.0 <= now_ms + LEEWAY_MS);
        if !has_started {
            return Err(Refusal::NotYetValid);
        }
        if header.kid.as_ref().is_some_and(|id| !keys.contains(id)) {
            self.unknown_key.notify_one();
        }
        keys.verify_signature(token, header)?;
        Ok(claims)
    }

    /// Keeps the keys fresh. Runs forever.
    async fn refresh_keys(self: Arc<Self>) {
        match &self.source {
            Source::File(_) => {
                let mut files = self.watcher.clone();
                loop {
                    files.changed().await;
                    self.reload().await;
                }
            }
            Source::Url { .. } => loop {
                sleep(MIN_REFRESH_DELAY).await;
                if self.keys.load().len() > 0 {
                    tokio::select! {
                        () = sleep(REFRESH_INTERVAL) => {}
                        () = self.unknown_key.notified() => {}
                    }
                }
                self.reload().await;
            },
        }
    }

    /// Loads the current keys. A failure keeps the previous ones.
    async fn reload(&self) {
        let issuer = &self.config.issuer;
        match self.source.keys().await {
            Ok(keys) if keys == **self.keys.load() => {}
            Ok(keys) => {
                tracing::info!(issuer, keys = keys.len(), "the keys of an issuer were loaded");
                self.keys.store(Arc::new(keys));
            }
            Err(error) => {
                METRICS.issuer_failed();
                tracing::error!(
                    issuer,
                    error,
                    "the keys of an issuer could not be loaded; the previous ones stay in use"
                );
            }
        }
    }
}
