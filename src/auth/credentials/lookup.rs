//! All credentials of a configuration, each with whom it is of.

use std::sync::Arc;

use foldhash::HashMap;
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::sync::Mutex;

use super::{
    CertNames, IM_API_KEY, IM_AUTHORIZATION, IM_CLIENT_KEY, ServiceConfig, header, missing,
    strip_bearer,
};
use crate::{
    auth::{
        Credential, Principal, ServiceAccount,
        apps::{App, AppConfig, Apps},
        issuers::{IssuerConfig, Issuers},
        secret::KeyHash,
        token::{Bearer, Unverified, invalid},
    },
    clock::Clock,
    error::{Error, Reason},
    limits::holder::Site,
};

/// All credentials that are good.
pub struct Credentials {
    pub(super) apps: Apps,
    pub(super) clock: Clock,
    services: HashMap<KeyHash, Arc<ServiceAccount>>,
    pub(super) issuers: Issuers,
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
    pub(super) fn service_of(&self, certificate: &CertNames) -> Option<Principal> {
        certificate
            .0
            .iter()
            .find_map(|name| self.by_certificate.get(name).cloned())
            .map(Principal::Service)
    }

    pub(super) fn principal(
        &self,
        headers: &HeaderMap,
        from: Option<Site>,
    ) -> Result<Principal, Error> {
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

/// Keys are found by their hash, which tells a prober nothing about them: it cannot choose the hash
/// of what it sends.
fn find<'a>(apps: &'a Apps, keys: &HashMap<KeyHash, String>, key: &str) -> Option<&'a Arc<App>> {
    keys.get(&KeyHash::of(key)).and_then(|app| apps.get(app).ok())
}
