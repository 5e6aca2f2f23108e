//! The configured apps.

use std::sync::Arc;

use foldhash::HashMap;

use super::{
    secret::{KeyHash, Secret, one_or_two},
    token::TokenKeys,
};
use crate::{
    error::{Error, Reason},
    limits::holder::Holder,
    model::{AppKey, UserId, UserRef},
};

/// First segments of other REST paths; an organization cannot have these names.
const RESERVED_ORGS: [&str; 4] = ["admin", "me", "rooms", "app-id"];

/// The settings of one app.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppConfig {
    /// `org#app`, or one word.
    pub key: String,
    /// Whether rooms and clients have to be registered.
    #[serde(default)]
    pub directory: Directory,
    /// Whether `Aa` and `aa` are the same user. Default: yes for `org#app`, no for one word.
    pub case_insensitive_users: Option<bool>,
    /// Hash of the `IM-API-KEY`. This and each of the other keys may be two, the new one and the
    /// old one, during a rotation.
    #[serde(default, deserialize_with = "one_or_two")]
    pub api_key_hash: Vec<KeyHash>,
    /// Hash of the `IM-CLIENT-KEY`.
    #[serde(default, deserialize_with = "one_or_two")]
    pub client_key_hash: Vec<KeyHash>,
    /// The client id for the token endpoint.
    pub client_id: Option<String>,
    /// Hash of the secret that goes with `client_id`.
    #[serde(default, deserialize_with = "one_or_two")]
    pub client_secret_hash: Vec<KeyHash>,
    /// Signs the tokens of the app and its users. The first signs; tokens of both are accepted.
    #[serde(default, deserialize_with = "one_or_two")]
    pub token_secret: Vec<Secret>,
    /// Tokens issued earlier (`iat`), or without `iat`, are refused.
    pub tokens_not_before: Option<toml::value::Datetime>,
    /// Ids (`jti`) of tokens that are refused.
    #[serde(default)]
    pub revoked_tokens: Vec<String>,
}

impl AppConfig {
    /// Whether `Aa` and `aa` are the same user.
    #[must_use]
    pub fn folds_users(&self) -> bool {
        self.case_insensitive_users.unwrap_or(folds_by_default(&self.key))
    }

    /// Its hashed keys, with their field names.
    #[must_use]
    pub fn hashes(&self) -> [(&'static str, &[KeyHash]); 3] {
        [
            ("api_key_hash", &self.api_key_hash),
            ("client_key_hash", &self.client_key_hash),
            ("client_secret_hash", &self.client_secret_hash),
        ]
    }
}

/// Whether the user ids of an app with this key are case-folded by default.
#[must_use]
pub fn folds_by_default(key: &str) -> bool {
    key.contains('#')
}

/// Which rooms and clients exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Directory {
    /// Only those that were registered.
    #[default]
    Strict,
    /// All.
    Open,
}

/// One app at run time.
pub struct App {
    /// Its key.
    pub key: AppKey,
    /// Its index among the apps, for rate limits by app.
    pub number: usize,
    /// Whether rooms and clients have to be registered.
    pub strict: bool,
    /// What its admins hold of the concurrency limits, and what its users hold.
    pub holders: [Arc<Holder>; 2],
    folds_users: bool,
    /// Its token keys; `None` if it has no `token_secret`, so that no token is valid.
    pub tokens: Option<TokenKeys>,
    /// Client id, and two hashes of the secret. With one secret it is there twice, so that the
    /// comparison takes the same time.
    client: Option<(String, [KeyHash; 2])>,
}

impl App {
    /// A user id of this app. Errors: INVALID_ARGUMENT on `user`.
    pub fn user(&self, raw: String) -> Result<UserId, Error> {
        UserId::parse(raw, self.folds_users)
    }

    /// A user id without an allocation, for calls that name very many. Errors: INVALID_ARGUMENT on
    /// `user`.
    pub fn user_ref<'a>(&self, raw: &'a str) -> Result<UserRef<'a>, Error> {
        UserRef::parse(raw, self.folds_users)
    }

    /// The app, if these are its client id and secret. Takes the same time for an unknown app, an
    /// app without a client, a wrong id and a wrong secret.
    #[must_use]
    pub fn with_client(app: Option<Arc<Self>>, id: &str, secret: &str) -> Option<Arc<Self>> {
        let client = app.as_ref().and_then(|app| app.client.as_ref());
        let no_client = (String::new(), [KeyHash::of(""), KeyHash::of("")]);
        let (known_id, [first, second]) = client.unwrap_or(&no_client);
        let secret = KeyHash::of(secret);
        let is_client =
            KeyHash::of(known_id).is_of(id) & (first.equals(&secret) | second.equals(&secret));
        app.filter(|app| is_client & app.client.is_some())
    }
}

/// All apps by key.
#[derive(Default)]
pub struct Apps {
    apps: HashMap<String, Arc<App>>,
}

impl Apps {
    /// The apps of this configuration. Errors: everything that is wrong with it, a sentence each.
    pub fn new(configs: &[AppConfig]) -> Result<Self, Vec<String>> {
        let mut apps = HashMap::default();
        let mut errors = Vec::new();
        for (number, config) in configs.iter().enumerate() {
            match build_app(number, config) {
                Ok(app) => {
                    if apps.insert(config.key.clone(), Arc::new(app)).is_some() {
                        errors.push(format!("app \"{}\": configured twice", config.key));
                    }
                }
                Err(error) => errors.push(format!("app \"{}\": {error}", config.key)),
            }
        }
        if errors.is_empty() { Ok(Self { apps }) } else { Err(errors) }
    }

    /// The app with this key. Errors: APP_NOT_FOUND.
    pub fn get(&self, key: &str) -> Result<&Arc<App>, Error> {
        self.apps.get(key).ok_or_else(|| Error::new(Reason::AppNotFound, "there is no such app"))
    }

    /// Keeps the holders of apps that existed before a reload, so that what they hold still counts.
    pub(super) fn keep_holders(&mut self, before: &Self) {
        for (key, app) in &mut self.apps {
            if let (Some(before), Some(app)) = (before.apps.get(key), Arc::get_mut(app)) {
                app.holders = before.holders.clone();
            }
        }
    }
}

fn build_app(number: usize, config: &AppConfig) -> Result<App, String> {
    let key = AppKey::parse(config.key.clone()).map_err(|error| error.message)?;
    if let Some((org, _)) = config.key.split_once('#')
        && RESERVED_ORGS.contains(&org)
    {
        return Err(format!(
            "the organization \"{org}\" is reserved for other paths; choose another name"
        ));
    }
    let client = match (&config.client_id, &config.client_secret_hash[..]) {
        (Some(id), [first]) => Some((id.clone(), [first.clone(), first.clone()])),
        (Some(id), [first, second]) => Some((id.clone(), [first.clone(), second.clone()])),
        (None, []) => None,
        _ => return Err("set client_id and client_secret_hash together, or neither".to_owned()),
    };
    if client.is_some() && config.token_secret.is_empty() {
        return Err("client_id needs token_secret, which signs the tokens it requests".to_owned());
    }
    if config.token_secret.iter().any(|secret| secret.expose().len() < 16) {
        return Err("token_secret needs at least 16 characters".to_owned());
    }
    Ok(App {
        number,
        holders: Default::default(),
        strict: config.directory == Directory::Strict,
        folds_users: config.folds_users(),
        tokens: TokenKeys::from_secrets(
            &config.token_secret,
            config.tokens_not_before,
            &config.revoked_tokens,
        )?,
        client,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reloaded_app_keeps_what_it_holds() {
        let apps = |keys: &[&str]| {
            let config = |key: &&str| toml::from_str(&format!("key = \"{key}\"")).unwrap();
            Apps::new(&keys.iter().map(config).collect::<Vec<_>>()).unwrap()
        };
        let before = apps(&["gone", "stays"]);
        let mut after = apps(&["stays", "comes"]);
        after.keep_holders(&before);
        let holders = |apps: &Apps, key| apps.get(key).unwrap().holders.clone();
        for (old, new) in holders(&before, "stays").iter().zip(holders(&after, "stays")) {
            assert!(Arc::ptr_eq(old, &new));
        }
        assert!(!Arc::ptr_eq(&holders(&after, "comes")[0], &holders(&before, "gone")[0]));
    }
}
