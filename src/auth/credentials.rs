//! From a request's headers to a principal: one tower layer, used by both listeners.
//!
//! The layer refuses nobody. It leaves [`Caller`] in the request's extensions, and the door to the
//! service refuses, in the caller's own protocol; what needs no credential (health, the token
//! endpoint) does not look at it.
//!
//! `IM-API-KEY` names app and admin. `IM-CLIENT-KEY` names the app, and `IM-Authorization` has the
//! user's token. `Authorization: Bearer` has a service token, ours or of an issuer, an app token,
//! or a user's token with the claim `app`. The first of them that is there counts; where none is,
//! the certificate that the client has shown.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use http::{Extensions, HeaderMap, HeaderName, Request, header::AUTHORIZATION};
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};
use tower::util::MapRequestLayer;

use super::{
    Credential, Principal, Scope, ServiceAccount,
    apps::{App, AppConfig, Apps},
    issuers::{IssuerConfig, Issuers},
    secret::{KeyHash, one_or_two},
    token::{Bearer, Unverified, invalid},
};
use crate::{
    clock::Clock,
    error::{Error, Reason},
    limits::{
        concurrency::{Account, CallerKind},
        connection::peer_of,
        holder::Site,
    },
};

// As they are looked for in each call: text would be read as a name each time.
static IM_API_KEY: HeaderName = HeaderName::from_static("im-api-key");
static IM_CLIENT_KEY: HeaderName = HeaderName::from_static("im-client-key");
static IM_AUTHORIZATION: HeaderName = HeaderName::from_static("im-authorization");

/// What is held open is looked at so often at least, whether its credential is still good; where
/// that says its own end, soon after it; and where that has passed and it is good all the same, so
/// often.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(20);
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Who is calling, or why that is not known.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal, or one of the UNAUTHENTICATED reasons.
    pub principal: Result<Principal, Error>,
    /// For how many calls this one counts: for none where it was counted with one before, of the
    /// same REST call.
    pub calls: u32,
    /// From where; nothing where others are behind that address, and nobody says who.
    pub site: Option<Site>,
    /// On whose account it holds what it does, until the call takes that.
    pub account: Account,
}

/// What a caller is known by.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    headers: HeaderMap,
    certificate: Option<Arc<CertNames>>,
}

impl Caller {
    /// Whoever sent no credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { calls: 1, ..Self::of(Err(missing())) }
    }

    /// Of a call within the process, which counts for none and holds nothing.
    #[must_use]
    pub fn of(principal: Result<Principal, Error>) -> Self {
        Self { principal, calls: 0, site: None, account: Account::default() }
    }

    /// On whose account a call holds what it does.
    pub fn take_account(extensions: &mut Extensions) -> Account {
        extensions
            .get_mut::<Self>()
            .map(|caller| std::mem::take(&mut caller.account))
            .unwrap_or_default()
    }

    /// Whether an internal service asks.
    #[must_use]
    pub fn asks_as_service(extensions: &Extensions) -> bool {
        extensions
            .get()
            .is_some_and(|caller: &Self| matches!(caller.principal, Ok(Principal::Service(_))))
    }

    /// The same caller, whose call counts for so many.
    #[must_use]
    pub fn counting(&self, calls: u32) -> Self {
        Self { calls, ..self.clone() }
    }
}

/// What a client's certificate says it is, in the extensions of its requests: the DNS names and
/// URIs it is for; its common name, where it has none of them.
#[derive(Debug, PartialEq, Eq)]
pub struct CertNames(pub Vec<String>);

/// An internal service as it stands in the configuration.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// For logs, and as actor of what it writes.
    pub name: String,
    /// Hash of its bearer token; two while one takes the place of the other.
    #[serde(default, deserialize_with = "one_or_two")]
    pub token_hash: Vec<KeyHash>,
    /// Names that its client certificates are for: DNS names or URIs, whole.
    #[serde(default)]
    pub cert_names: Vec<String>,
    /// Who issues its tokens: one of the issuers of the configuration.
    pub issuer: Option<String>,
    /// Whom those are about: the claim `sub`, whole.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// `check`, `write`, `admin`.
    pub scopes: Vec<Scope>,
    /// App keys, or `*` for all.
    pub apps: Vec<String>,
}

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
    fn known_by(
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
    fn caller_kind(&self, principal: &Principal) -> CallerKind {
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

/// All credentials that are good.
pub struct Credentials {
    apps: Apps,
    clock: Clock,
    services: HashMap<KeyHash, Arc<ServiceAccount>>,
    issuers: Issuers,
    by_certificate: HashMap<String, Arc<ServiceAccount>>,
    api_keys: HashMap<KeyHash, String>,
    client_keys: HashMap<KeyHash, String>,
}

impl Credentials {
    /// The credentials of this configuration. Errors: everything that is wrong with it, a sentence
    /// each.
    pub fn new(
        configs: &[AppConfig],
        services: &[ServiceConfig],
        issuers: &[IssuerConfig],
        clock: Clock,
    ) -> Result<Self, Vec<String>> {
        let apps = Apps::new(configs)?;
        let mut wrong = Vec::new();
        let mut api_keys = HashMap::default();
        let mut client_keys = HashMap::default();
        for config in configs {
            for (hash, keys, name) in [
                (&config.api_key_hash, &mut api_keys, "api_key_hash"),
                (&config.client_key_hash, &mut client_keys, "client_key_hash"),
            ] {
                if hash.iter().any(|hash| keys.insert(hash.clone(), config.key.clone()).is_some()) {
                    wrong.push(format!("app \"{}\": {name} is there twice", config.key));
                }
            }
        }
        let (mut by_token, mut by_certificate, mut by_subject) =
            (HashMap::default(), HashMap::default(), HashMap::default());
        for ServiceConfig { name, token_hash, cert_names, issuer, subjects, scopes, apps } in
            services
        {
            let account = Arc::new(ServiceAccount {
                name: name.clone(),
                scopes: scopes.clone(),
                apps: apps.clone(),
                turn: Mutex::default(),
            });
            if token_hash.is_empty() && cert_names.is_empty() && subjects.is_empty() {
                wrong.push(format!("service \"{name}\": it has neither token_hash nor cert_names nor subjects to be known by"));
            }
            if issuer.is_some() == subjects.is_empty() {
                wrong.push(format!("service \"{name}\": issuer and subjects go together"));
            }
            if token_hash
                .iter()
                .any(|hash| by_token.insert(hash.clone(), account.clone()).is_some())
            {
                wrong.push(format!("service \"{name}\": token_hash is there twice"));
            }
            if cert_names.iter().any(|cert_name| {
                by_certificate.insert(cert_name.clone(), account.clone()).is_some()
            }) {
                wrong.push(format!(
                    "service \"{name}\": one of cert_names is that of another service too"
                ));
            }
            let of_issuer =
                |subject: &String| (issuer.clone().unwrap_or_default(), subject.clone());
            if subjects
                .iter()
                .any(|subject| by_subject.insert(of_issuer(subject), account.clone()).is_some())
            {
                wrong.push(format!(
                    "service \"{name}\": one of subjects is that of another service too"
                ));
            }
        }
        match Issuers::new(issuers, by_subject) {
            Ok(issuers) if wrong.is_empty() => Ok(Self {
                apps,
                clock,
                services: by_token,
                issuers,
                by_certificate,
                api_keys,
                client_keys,
            }),
            Ok(_) => Err(wrong),
            Err(more) => Err([wrong, more].concat()),
        }
    }

    /// The service that one of these names of a certificate is of.
    fn service_of(&self, certificate: &CertNames) -> Option<Principal> {
        certificate
            .0
            .iter()
            .find_map(|name| self.by_certificate.get(name).cloned())
            .map(Principal::Service)
    }

    fn principal(&self, headers: &HeaderMap, from: Option<Site>) -> Result<Principal, Error> {
        if let Some(key) = header(headers, &IM_API_KEY) {
            let app = find(&self.apps, &self.api_keys, key);
            let app =
                app.ok_or_else(|| Error::new(Reason::InvalidApiKey, "the API key is of no app"))?;
            return Ok(Principal::AppAdmin { app: app.key.clone(), by: Credential::ApiKey });
        }
        if let Some(key) = header(headers, &IM_CLIENT_KEY) {
            let app = find(&self.apps, &self.client_keys, key);
            let app = app.ok_or_else(|| {
                Error::new(Reason::InvalidClientKey, "the client key is of no app")
            })?;
            let token = header(headers, &IM_AUTHORIZATION)
                .map(strip_bearer)
                .filter(|token| !token.is_empty());
            return self.bearer(app, token.ok_or_else(missing)?);
        }
        let token = header(headers, &AUTHORIZATION)
            .map(strip_bearer)
            .filter(|token| !token.is_empty())
            .ok_or_else(missing)?;
        let (hash, now_ms) = (KeyHash::of(token), self.clock.now_ms());
        if let Some(service) = self.services.get(&hash) {
            return Ok(Principal::Service(service.clone()));
        }
        if let Some(service) = self.issuers.remembered(&hash, now_ms) {
            return Ok(service);
        }
        let unverified = Unverified::read(token)?;
        if let Some(issuer) = unverified.issuer().filter(|name| self.issuers.has(name)) {
            return self.issuers.verify(issuer, token, hash, now_ms, from);
        }
        match unverified.app.and_then(|key| self.apps.get(&key).ok()) {
            Some(app) => self.bearer(app, token),
            None => Err(invalid()),
        }
    }

    fn bearer(&self, app: &App, token: &str) -> Result<Principal, Error> {
        let keys = app.tokens.as_ref().ok_or_else(invalid)?;
        match keys.verify(&app.key, token, self.clock.now_ms())? {
            Bearer::App => Ok(Principal::AppAdmin { app: app.key.clone(), by: Credential::Token }),
            Bearer::User(user) => {
                let user = app.user(user).map_err(|_| invalid())?.into();
                Ok(Principal::User { app: app.key.clone(), user })
            }
        }
    }
}

impl Proof {
    /// What a request is sent with.
    #[must_use]
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let names = [&IM_API_KEY, &IM_CLIENT_KEY, &IM_AUTHORIZATION, &AUTHORIZATION];
        let headers = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
            .collect();
        Self { headers, certificate: extensions.get().cloned() }
    }

    /// When its token says that it ends, in Unix milliseconds.
    fn ends_ms(&self) -> Option<u64> {
        let header = [&IM_AUTHORIZATION, &AUTHORIZATION]
            .into_iter()
            .find_map(|name| header(&self.headers, name))?;
        Unverified::read(strip_bearer(header)).ok()?.ends_ms()
    }
}

/// The layer.
pub fn layer<B>(access: Arc<Access>) -> MapRequestLayer<impl Fn(Request<B>) -> Request<B> + Clone> {
    MapRequestLayer::new(move |mut request: Request<B>| {
        let certificate = request.extensions().get::<Arc<CertNames>>();
        let peer = peer_of(request.extensions());
        let site = peer.as_ref().map(|peer| peer.site());
        let principal = access.known_by(request.headers(), certificate.map(AsRef::as_ref), site);
        let caller = principal
            .as_ref()
            .map_or(CallerKind::Anonymous, |principal| access.caller_kind(principal));
        request.extensions_mut().insert(Caller {
            principal,
            calls: 1,
            site,
            account: Account { peer, caller },
        });
        request
    })
}

/// Keys are found by their hash, which tells a prober nothing about them: it cannot choose the hash
/// of what it sends.
fn find<'a>(apps: &'a Apps, keys: &HashMap<KeyHash, String>, key: &str) -> Option<&'a Arc<App>> {
    keys.get(&KeyHash::of(key)).and_then(|app| apps.get(app).ok())
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    // What is no text is no credential, nor are two of one kind: whoever is in between may have
    // looked at the other.
    Some(if values.next().is_some() {
        "\u{fffd}"
    } else {
        value.to_str().unwrap_or("\u{fffd}").trim()
    })
}

fn strip_bearer(value: &str) -> &str {
    match value.split_at_checked(6) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        _ => value,
    }
}

fn missing() -> Error {
    Error::new(Reason::MissingToken, "no token was sent")
}
