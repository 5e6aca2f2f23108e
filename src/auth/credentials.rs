//! From a request's headers to a principal: one tower layer, used by both listeners.
//!
//! The layer refuses nobody. It leaves [`Caller`] in the request's extensions, and the door to the service refuses, in the caller's own
//! protocol; what needs no credential (health, the token endpoint) does not look at it.
//!
//! `IM-API-KEY` names app and admin. `IM-CLIENT-KEY` names the app, and `IM-Authorization` has the user's token. `Authorization: Bearer` has
//! a service token, an app token, or a user's token with the claim `app`. The first of them that is there counts; where none is, the certificate
//! that the client has shown.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use http::{HeaderMap, Request};
use tower::util::MapRequestLayer;

use super::{
    Credential, Principal, Scope, ServiceAccount,
    apps::{App, AppConfig, Apps},
    secret::KeyHash,
    token::{Bearer, Unverified},
};
use crate::{
    clock::Clock,
    error::{Error, Reason},
};

/// Who is calling, or why that is not known.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal, or one of the UNAUTHENTICATED reasons.
    pub principal: Result<Principal, Error>,
    /// This is one more part of a call that has been counted: a further page of a list that one REST call asks for whole.
    pub counted: bool,
}

impl Caller {
    /// Whoever sent no credential.
    #[must_use]
    pub fn nobody() -> Self {
        Self { principal: Err(missing()), counted: false }
    }

    /// The same caller, within a call that has been counted.
    #[must_use]
    pub fn counted(&self) -> Self {
        Self { counted: true, ..self.clone() }
    }
}

/// What a client's certificate says it is, in the extensions of its requests: the DNS names and URIs it is for; its common name, where it has none
/// of them.
#[derive(Debug, PartialEq, Eq)]
pub struct CertNames(pub Vec<String>);

/// An internal service as it stands in the configuration.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// For logs, and as actor of what it writes.
    pub name: String,
    /// Hash of its bearer token.
    pub token_hash: Option<KeyHash>,
    /// Names that its client certificates are for: DNS names or URIs, whole.
    #[serde(default)]
    pub cert_names: Vec<String>,
    /// `check`, `write`, `admin`.
    pub scopes: Vec<Scope>,
    /// App keys, or `*` for all.
    pub apps: Vec<String>,
}

/// All apps and credentials of the moment. They are replaced together.
pub struct Access(ArcSwap<Credentials>);

impl Access {
    /// To begin with.
    #[must_use]
    pub fn new(credentials: Credentials) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(credentials)))
    }

    /// These instead, for every call to come.
    pub fn replace(&self, credentials: Credentials) {
        self.0.store(Arc::new(credentials));
    }

    /// The app of that key. Errors: APP_NOT_FOUND.
    pub fn app(&self, key: &str) -> Result<Arc<App>, Error> {
        self.0.load().apps.get(key).cloned()
    }

    /// Who sent these headers. Errors: the UNAUTHENTICATED reasons.
    pub fn principal(&self, headers: &HeaderMap) -> Result<Principal, Error> {
        self.0.load().principal(headers)
    }

    /// The service that one of these names of a certificate is of.
    fn service_of(&self, certificate: &CertNames) -> Option<Principal> {
        self.0.load().service_of(certificate)
    }
}

/// All credentials that are good.
pub struct Credentials {
    apps: Apps,
    clock: Clock,
    services: HashMap<KeyHash, Arc<ServiceAccount>>,
    by_certificate: HashMap<String, Arc<ServiceAccount>>,
    api_keys: HashMap<KeyHash, String>,
    client_keys: HashMap<KeyHash, String>,
}

impl Credentials {
    /// The credentials of this configuration. Errors: everything that is wrong with it, a sentence each.
    pub fn new(configs: &[AppConfig], services: &[ServiceConfig], clock: Clock) -> Result<Self, Vec<String>> {
        let apps = Apps::new(configs)?;
        let mut wrong = Vec::new();
        let mut api_keys = HashMap::new();
        let mut client_keys = HashMap::new();
        for config in configs {
            for (hash, keys, name) in [
                (&config.api_key_hash, &mut api_keys, "api_key_hash"),
                (&config.client_key_hash, &mut client_keys, "client_key_hash"),
            ] {
                let Some(hash) = hash else { continue };
                if keys.insert(hash.clone(), config.key.clone()).is_some() {
                    wrong.push(format!("app \"{}\": {name} is that of another app too", config.key));
                }
            }
        }
        let (mut accounts, mut by_certificate) = (HashMap::new(), HashMap::new());
        for ServiceConfig { name, token_hash, cert_names, scopes, apps } in services {
            let account = Arc::new(ServiceAccount { name: name.clone(), scopes: scopes.clone(), apps: apps.clone() });
            if token_hash.is_none() && cert_names.is_empty() {
                wrong.push(format!("service \"{name}\": it has neither token_hash nor cert_names to be known by"));
            }
            if token_hash.iter().any(|hash| accounts.insert(hash.clone(), account.clone()).is_some()) {
                wrong.push(format!("service \"{name}\": token_hash is that of another service too"));
            }
            if cert_names.iter().any(|cert_name| by_certificate.insert(cert_name.clone(), account.clone()).is_some()) {
                wrong.push(format!("service \"{name}\": one of cert_names is that of another service too"));
            }
        }
        let services = accounts;
        if wrong.is_empty() { Ok(Self { apps, clock, services, by_certificate, api_keys, client_keys }) } else { Err(wrong) }
    }

    /// The service that one of these names of a certificate is of.
    fn service_of(&self, certificate: &CertNames) -> Option<Principal> {
        certificate.0.iter().find_map(|name| self.by_certificate.get(name).cloned()).map(Principal::Service)
    }

    fn principal(&self, headers: &HeaderMap) -> Result<Principal, Error> {
        if let Some(key) = header(headers, "im-api-key") {
            let app = find(&self.apps, &self.api_keys, key);
            let app = app.ok_or_else(|| Error::new(Reason::InvalidApiKey, "the API key is of no app"))?;
            return Ok(Principal::AppAdmin { app: app.key.clone(), by: Credential::ApiKey });
        }
        if let Some(key) = header(headers, "im-client-key") {
            let app = find(&self.apps, &self.client_keys, key);
            let app = app.ok_or_else(|| Error::new(Reason::InvalidClientKey, "the client key is of no app"))?;
            let token = header(headers, "im-authorization").map(strip_bearer).filter(|token| !token.is_empty());
            return self.bearer(app, token.ok_or_else(missing)?);
        }
        let token = header(headers, "authorization").map(strip_bearer).filter(|token| !token.is_empty()).ok_or_else(missing)?;
        if let Some(service) = self.services.get(&KeyHash::of(token)) {
            return Ok(Principal::Service(service.clone()));
        }
        let unverified = Unverified::read(token)?;
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

/// The layer.
pub fn layer<B>(access: Arc<Access>) -> MapRequestLayer<impl Fn(Request<B>) -> Request<B> + Clone> {
    MapRequestLayer::new(move |mut request: Request<B>| {
        let of_headers = access.principal(request.headers());
        let certificate = || access.service_of(request.extensions().get::<Arc<CertNames>>()?);
        let principal = match of_headers {
            Err(error) if error.reason == Reason::MissingToken => certificate().ok_or(error),
            known => known,
        };
        request.extensions_mut().insert(Caller { principal, counted: false });
        request
    })
}

/// Keys are found by their hash, which tells a prober nothing about them: it cannot choose the hash of what it sends.
fn find<'a>(apps: &'a Apps, keys: &HashMap<KeyHash, String>, key: &str) -> Option<&'a Arc<App>> {
    keys.get(&KeyHash::of(key)).and_then(|app| apps.get(app).ok())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // What is no text is no credential; it is found wrong like any other wrong one.
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}").trim())
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

fn invalid() -> Error {
    Error::new(Reason::InvalidToken, "the token is invalid or has expired")
}
