//! The credentials that count at the moment, and who a request is from by them.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::{sync::watch, time::timeout};

use super::{CertNames, Credentials, Proof};
use crate::{
    auth::{Principal, apps::App},
    error::{Error, Reason},
    limits::{concurrency::CallerKind, holder::Site},
};

/// What is held open is looked at so often at least, whether its credential is still good; where
/// that says its own end, soon after it; and where that has passed and it is good all the same, so
/// often.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(20);
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// All apps and credentials of the moment. They are replaced together.
pub struct Access {
    credentials: ArcSwap<Credentials>,
    replaced: watch::Sender<()>,
}

impl Access {
    /// To begin with. Waits some seconds for the keys of issuers.
    pub async fn new(mut credentials: Credentials) -> Arc<Self> {
        credentials.issuers.begin(None).await;
        Arc::new(Self {
            credentials: ArcSwap::from_pointee(credentials),
            replaced: watch::Sender::new(()),
        })
    }

    /// These instead, for every call to come.
    pub async fn replace(&self, mut credentials: Credentials) {
        let before = self.credentials.load_full();
        credentials.issuers.begin(Some(&before.issuers)).await;
        credentials.apps.keep_holders(&before.apps);
        self.credentials.store(Arc::new(credentials));
        self.replaced.send_replace(());
    }

    /// The app of that key. Errors: APP_NOT_FOUND.
    pub fn app(&self, key: &str) -> Result<Arc<App>, Error> {
        self.credentials.load().apps.get(key).cloned()
    }

    /// Who sent these headers, from there as far as that is known. Errors: the UNAUTHENTICATED
    /// reasons; RATE_LIMITED.
    pub fn principal(&self, headers: &HeaderMap, from: Option<Site>) -> Result<Principal, Error> {
        self.credentials.load().principal(headers, from)
    }

    /// Who sent these headers; where there is no credential among them, whose the certificate is.
    /// Errors: the UNAUTHENTICATED reasons.
    pub(super) fn known_by(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertNames>,
        from: Option<Site>,
    ) -> Result<Principal, Error> {
        match (self.principal(headers, from), certificate) {
            (Err(error), Some(certificate)) if error.reason == Reason::MissingToken => {
                self.service_of(certificate).ok_or(error)
            }
            (known, _) => known,
        }
    }

    /// Ends when what was proved is good no longer, whether by its own time or because the
    /// configuration was read again. `still` says whether who it proves now is still to have what
    /// it was given.
    pub async fn lost(&self, proof: &Proof, still: impl Fn(&Principal) -> bool) -> Error {
        let mut replaced = self.replaced.subscribe();
        loop {
            match self.known_by(&proof.headers, proof.certificate.as_deref(), None) {
                Ok(principal) if still(&principal) => {}
                Ok(_) => {
                    return Error::new(Reason::InvalidToken, "the credential is another one's now");
                }
                Err(error) => return error,
            }
            let left = proof
                .ends_ms()
                .map(|end_ms| end_ms.saturating_sub(self.credentials.load().clock.now_ms()));
            // What has ended by its own words and is good all the same is of an issuer whose clock
            // may differ, or counts for nothing.
            let wait = left.map_or(POLL_INTERVAL, |left_ms| match left_ms {
                0 => RETRY_DELAY,
                left_ms => (Duration::from_millis(left_ms) + SOON).min(POLL_INTERVAL),
            });
            // Nobody is left to tell where this fails, and nothing is replaced then.
            let _ = timeout(wait, replaced.changed()).await;
        }
    }

    /// On whose account a caller holds what it does.
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

    /// The service that one of these names of a certificate is of.
    fn service_of(&self, certificate: &CertNames) -> Option<Principal> {
        self.credentials.load().service_of(certificate)
    }
}
