//! The lookup tables of all configured credentials.

use std::{hash::Hash, sync::Arc};

use foldhash::HashMap;
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::sync::Mutex;

use super::{
    config::ServiceConfig,
    refused,
    request::{
        CertNames, IM_API_KEY, IM_AUTHORIZATION, IM_CLIENT_KEY, header, missing, strip_bearer,
    },
};
use crate::{
    auth::{
        Credential, Principal, ServiceAccount,
        apps::{App, AppConfig, Apps},
        issuers::{IssuerConfig, Issuers},
        secret::KeyHash,
        token::{Bearer, Unverified},
    },
    clock::Clock,
    error::{Error, Refusal},
    limits::holder::Site,
};

/// All configured credentials.
pub struct Credentials {
    pub(super) apps: Apps,
    pub(super) clock: Clock,
    services_by_token: HashMap<KeyHash, Arc<ServiceAccount>>,
    pub(super) issuers: Issuers,
    services_by_cert: HashMap<String, Arc<ServiceAccount>>,
    api_keys: HashMap<KeyHash, String>,
    client_keys: HashMap<KeyHash, String>,
}

impl Credentials {
    /// The credentials of this configuration. Errors: everything that is wrong with it, a sentence
    /// each.
    pub fn new(
        app_configs: &[AppConfig],
        services: &[ServiceConfig],
        issuers: &[IssuerConfig],
        clock: Clock,
    ) -> Result<Self, Vec<String>> {
        let apps = Apps::new(app_configs)?;
        let mut errors = Vec::new();
        let mut api_keys = HashMap::default();
        let mut client_keys = HashMap::default();
        for AppConfig { key, api_key_hash, client_key_hash, .. } in app_configs {
            if !insert_all(&mut api_keys, api_key_hash, key) {
                errors.push(format!("app \"{key}\": api_key_hash is used twice"));
            }
            if !insert_all(&mut client_keys, client_key_hash, key) {
                errors.push(format!("app \"{key}\": client_key_hash is used twice"));
            }
        }
        let mut accounts = Accounts::default();
        services.iter().for_each(|service| accounts.add(service, &mut errors));
        let Accounts { by_token, by_cert, by_subject } = accounts;
        match Issuers::new(issuers, by_subject) {
            Ok(issuers) if errors.is_empty() => Ok(Self {
                apps,
                clock,
                services_by_token: by_token,
                issuers,
                services_by_cert: by_cert,
                api_keys,
                client_keys,
            }),
            Ok(_) => Err(errors),
            Err(more) => Err([errors, more].concat()),
        }
    }

    /// The service that one of the certificate's names belongs to.
    pub(super) fn service_by_cert(&self, certificate: &CertNames) -> Option<Principal> {
        certificate
            .0
            .iter()
            .find_map(|name| self.services_by_cert.get(name).cloned())
            .map(Principal::Service)
    }

    /// The principal of the credential in these headers. Errors: the UNAUTHENTICATED reasons;
    /// PERMISSION_DENIED; RATE_LIMITED.
    pub(super) fn principal(
        &self,
        headers: &HeaderMap,
        site: Option<Site>,
    ) -> Result<Principal, Error> {
        match self.find(headers, site) {
            Ok(found) => found.ok_or_else(missing),
            Err(refusal) => Err(refused::credential(refusal, headers)),
        }
    }

    /// `None` without a credential.
    fn find(&self, headers: &HeaderMap, site: Option<Site>) -> Result<Option<Principal>, Refusal> {
        if let Some(key) = header(headers, &IM_API_KEY) {
            let app = find_app(&self.apps, &self.api_keys, key).ok_or(Refusal::UnknownApiKey)?;
            let by = Credential::ApiKey;
            return Ok(Some(Principal::AppAdmin { app: app.key.clone(), by }));
        }
        if let Some(key) = header(headers, &IM_CLIENT_KEY) {
            let app =
                find_app(&self.apps, &self.client_keys, key).ok_or(Refusal::UnknownClientKey)?;
            let token = header(headers, &IM_AUTHORIZATION)
                .map(strip_bearer)
                .filter(|token| !token.is_empty());
            return token.map(|token| self.bearer(app, token)).transpose();
        }
        let token =
            header(headers, &AUTHORIZATION).map(strip_bearer).filter(|token| !token.is_empty());
        token.map(|token| self.authorized(token, site)).transpose()
    }

    /// The principal of the token in the header `Authorization`.
    fn authorized(&self, token: &str, site: Option<Site>) -> Result<Principal, Refusal> {
        let hash = KeyHash::of(token);
        if let Some(service) = self.services_by_token.get(&hash) {
            return Ok(Principal::Service(service.clone()));
        }
        if let Some(service) = self.issuers.cached(&hash, self.clock.now_ms()) {
            return Ok(service);
        }
        let unverified = Unverified::read(token)?;
        if let Some(issuer) = unverified.issuer().filter(|name| self.issuers.contains(name)) {
            return self.issuers.verify(issuer, token, hash, &self.clock, site);
        }
        match &unverified.app {
            Some(key) => self.bearer(self.apps.get(key).map_err(|_| Refusal::UnknownApp)?, token),
            None => Err(Refusal::UnknownIssuer),
        }
    }

    fn bearer(&self, app: &App, token: &str) -> Result<Principal, Refusal> {
        let keys = app.tokens.as_ref().ok_or(Refusal::UnknownApp)?;
        match keys.verify(&app.key, token, self.clock.now_ms())? {
            Bearer::App => Ok(Principal::AppAdmin { app: app.key.clone(), by: Credential::Token }),
            Bearer::User(user) => {
                let user = app.user(user).map_err(|_| Refusal::MissingClaim)?.into();
                Ok(Principal::User { app: app.key.clone(), user })
            }
        }
    }
}

/// The configured services, by what identifies them.
#[derive(Default)]
struct Accounts {
    by_token: HashMap<KeyHash, Arc<ServiceAccount>>,
    by_cert: HashMap<String, Arc<ServiceAccount>>,
    /// By issuer and subject.
    by_subject: HashMap<(String, String), Arc<ServiceAccount>>,
}

impl Accounts {
    /// Adds a service. Appends everything that is wrong with it to `errors`, a sentence each.
    fn add(&mut self, config: &ServiceConfig, errors: &mut Vec<String>) {
        let ServiceConfig { name, token_hash, cert_names, issuer, subjects, scopes, apps } = config;
        let account = Arc::new(ServiceAccount {
            name: name.clone(),
            scopes: scopes.clone(),
            apps: apps.clone(),
            turn: Mutex::default(),
        });
        let mut report = |what| errors.push(format!("service \"{name}\": {what}"));
        if token_hash.is_empty() && cert_names.is_empty() && subjects.is_empty() {
            report("no credential; set token_hash, cert_names or subjects");
        }
        if issuer.is_some() == subjects.is_empty() {
            report("set issuer and subjects together, or neither");
        }
        if !insert_all(&mut self.by_token, token_hash, &account) {
            report("token_hash is used twice");
        }
        if !insert_all(&mut self.by_cert, cert_names, &account) {
            report("one of cert_names is used twice");
        }
        let issuer = issuer.as_deref().unwrap_or_default();
        let subjects: Vec<_> =
            subjects.iter().map(|subject| (issuer.to_owned(), subject.clone())).collect();
        if !insert_all(&mut self.by_subject, &subjects, &account) {
            report("one of subjects is used twice");
        }
    }
}

/// Maps all keys to the value. Returns whether none of them was there before.
fn insert_all<K: Clone + Eq + Hash, V: Clone>(
    map: &mut HashMap<K, V>,
    keys: &[K],
    value: &V,
) -> bool {
    keys.iter().all(|key| map.insert(key.clone(), value.clone()).is_none())
}

/// A key is looked up by its hash. The timing reveals nothing useful, because a prober cannot
/// choose the hash of what it sends.
fn find_app<'a>(
    apps: &'a Apps,
    keys: &HashMap<KeyHash, String>,
    key: &str,
) -> Option<&'a Arc<App>> {
    keys.get(&KeyHash::of(key)).and_then(|app| apps.get(app).ok())
}
