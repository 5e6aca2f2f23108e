//! The current credentials, which a reload replaces as a whole.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::{sync::watch, time::timeout};

use super::{
    lookup::Credentials,
    refused,
    request::{CertNames, Proof},
};
use crate::{
    auth::{Principal, apps::App},
    error::{Error, Reason},
    limits::{concurrency::CallerKind, holder::Site},
};

/// How often the credential of an open stream is checked: at least at this interval, shortly after
/// the expiry that it claims, and more often if it is still valid after that.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
const EXPIRY_MARGIN: Duration = Duration::from_millis(20);
const EXPIRED_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The current apps and credentials. They are replaced together.
pub struct Access {
    credentials: ArcSwap<Credentials>,
    reloaded: watch::Sender<()>,
}

impl Access {
    /// Starts with these credentials. Waits a few seconds for the keys of issuers.
    pub async fn new(mut credentials: Credentials) -> Arc<Self> {
        credentials.issuers.start(None).await;
        Arc::new(Self {
            credentials: ArcSwap::from_pointee(credentials),
            reloaded: watch::Sender::new(()),
        })
    }

    /// Replaces all credentials, for all later calls.
    pub async fn replace(&self, mut credentials: Credentials) {
        let old = self.credentials.load_full();
        credentials.issuers.start(Some(&old.issuers)).await;
        credentials.apps.keep_holders(&old.apps);
        self.credentials.store(Arc::new(credentials));
        self.reloaded.send_replace(());
    }

    /// The app with this key. Errors: APP_NOT_FOUND.
    pub fn app(&self, key: &str) -> Result<Arc<App>, Error> {
        self.credentials.load().apps.get(key).cloned()
    }

    /// Authenticates a request by its headers, coming from `site` if that is known. Errors: the
    /// UNAUTHENTICATED reasons; RATE_LIMITED.
    pub fn principal(&self, headers: &HeaderMap, site: Option<Site>) -> Result<Principal, Error> {
        self.credentials.load().principal(headers, site)
    }

    /// Authenticates a request by its headers, or by the client certificate if the headers have no
    /// credential. Errors: the UNAUTHENTICATED reasons; RATE_LIMITED.
    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertNames>,
        site: Option<Site>,
    ) -> Result<Principal, Error> {
        match (self.principal(headers, site), certificate) {
            (Err(error), Some(certificate)) if error.reason == Reason::MissingToken => {
                self.service_by_cert(certificate).ok_or_else(|| refused::certificate(certificate))
            }
            (result, _) => result,
        }
    }

    /// Completes when the credentials become invalid, because they expired or because of a reload,
    /// or when `is_allowed` rejects the principal that they now identify. Returns the reason.
    pub async fn until_invalid(
        &self,
        proof: &Proof,
        is_allowed: impl Fn(&Principal) -> bool,
    ) -> Error {
        let mut reloaded = self.reloaded.subscribe();
        loop {
            match self.authenticate(&proof.headers, proof.certificate.as_deref(), None) {
                Ok(principal) if is_allowed(&principal) => {}
                Ok(_) => {
                    return Error::new(
                        Reason::InvalidToken,
                        "the credential now belongs to another caller",
                    );
                }
                Err(error) => return error,
            }
            let remaining = proof.expires_ms().map(|expires_ms| {
                expires_ms.saturating_sub(self.credentials.load().clock.now_ms())
            });
            // A token that is valid after its claimed expiry is of an issuer whose clock may
            // differ, or its expiry does not count.
            let wait = remaining.map_or(POLL_INTERVAL, |remaining_ms| match remaining_ms {
                0 => EXPIRED_POLL_INTERVAL,
                remaining_ms => {
                    (Duration::from_millis(remaining_ms) + EXPIRY_MARGIN).min(POLL_INTERVAL)
                }
            });
            // An error means that the sender is gone; then nothing is replaced any more.
            let _ = timeout(wait, reloaded.changed()).await;
        }
    }

    /// The kind of caller, for the concurrency limits.
    pub(super) fn caller_kind(&self, principal: &Principal) -> CallerKind {
        let (app, is_user) = match principal {
            Principal::Service(_) => return CallerKind::Service,
            Principal::AppAdmin { app, .. } => (app, false),
            Principal::User { app, .. } => (app, true),
        };
        let app = self.app(app.as_str());
        app.map_or(CallerKind::Anonymous, |app| {
            CallerKind::App(app.holders[usize::from(is_user)].clone())
        })
    }

    /// The service that one of the certificate's names belongs to.
    fn service_by_cert(&self, certificate: &CertNames) -> Option<Principal> {
        self.credentials.load().service_by_cert(certificate)
    }
}
