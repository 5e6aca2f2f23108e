//! The apps of this service, as configured.

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

/// First segments of paths that are no organization's.
const RESERVED: [&str; 4] = ["admin", "me", "rooms", "app-id"];

/// One app as it stands in the configuration.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppConfig {
    /// `org#app`, or one word.
    pub key: String,
    /// Whether rooms and clients have to be registered.
    #[serde(default)]
    pub directory: Directory,
    /// Whether `Aa` and `aa` are the same user. Without it: yes for `org#app`, no for one word.
    pub case_insensitive_users: Option<bool>,
    /// Hash of the `IM-API-KEY`. Of this and each of the other keys there may be two, while one
    /// takes the place of the other.
    #[serde(default, deserialize_with = "one_or_two")]
    pub api_key_hash: Vec<KeyHash>,
    /// Hash of the `IM-CLIENT-KEY`.
    #[serde(default, deserialize_with = "one_or_two")]
    pub client_key_hash: Vec<KeyHash>,
    /// For the token endpoint.
    pub client_id: Option<String>,
    /// Hash of the secret that goes with `client_id`.
    #[serde(default, deserialize_with = "one_or_two")]
    pub client_secret_hash: Vec<KeyHash>,
    /// The first signs the app's tokens, and its users'; what either has signed is good.
    #[serde(default, deserialize_with = "one_or_two")]
    pub token_secret: Vec<Secret>,
    /// Tokens that were issued before (`iat`), or do not say when, are refused.
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

    /// Its keys that are there as hashes, each with the name of its field.
    #[must_use]
    pub fn hashes(&self) -> [(&'static str, &[KeyHash]); 3] {
        [
            ("api_key_hash", &self.api_key_hash),
            ("client_key_hash", &self.client_key_hash),
            ("client_secret_hash", &self.client_secret_hash),
        ]
    }
}

/// Whether the users of an app with this key are folded where its configuration does not say it.
#[must_use]
pub fn folds_by_default(key: &str) -> bool {
    key.contains('#')
}

/// Which rooms and clients exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Directory {
    /// Those that were registered.
    #[default]
    Strict,
    /// All.
    Open,
}

/// One app at work.
pub struct App {
    /// Its key.
    pub key: AppKey,
    /// Its place among the apps, for what is counted by app.
    pub number: usize,
    /// Whether rooms and clients have to be registered.
    pub strict: bool,
    /// What its admins hold, and what its users do.
    pub holders: [Arc<Holder>; 2],
    fold: bool,
    /// Nothing where no token of this app can be good.
    pub tokens: Option<TokenKeys>,
    /// Id and hashes of the secret: two of them, so that one takes as long as two.
    client: Option<(String, [KeyHash; 2])>,
}

impl App {
    /// A user id of this app. Errors: INVALID_ARGUMENT on `user`.
    pub fn user(&self, raw: String) -> Result<UserId, Error> {
        UserId::parse(raw, self.fold)
    }

    /// The same, of one of very many. Errors: INVALID_ARGUMENT on `user`.
    pub fn user_ref<'a>(&self, raw: &'a str) -> Result<UserRef<'a>, Error> {
        UserRef::parse(raw, self.fold)
    }

    /// The app, where these are its client id and secret. Takes the same time for an app that is
    /// not there or has no client, a wrong id, and a wrong secret.
    #[must_use]
    pub fn with_client(app: Option<Arc<Self>>, id: &str, secret: &str) -> Option<Arc<Self>> {
        let client = app.as_ref().and_then(|app| app.client.as_ref());
        let nobody = (String::new(), [KeyHash::of(""), KeyHash::of("")]);
        let (known_id, [one, other]) = client.unwrap_or(&nobody);
        let secret = KeyHash::of(secret);
        let is_of = KeyHash::of(known_id).is_of(id) & (one.is(&secret) | other.is(&secret));
        app.filter(|app| is_of & app.client.is_some())
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
        let (mut apps, mut wrong) = (HashMap::default(), Vec::new());
        for (number, config) in configs.iter().enumerate() {
            match build(number, config) {
                Ok(app) => {
                    if apps.insert(config.key.clone(), Arc::new(app)).is_some() {
                        wrong.push(format!("app \"{}\": configured twice", config.key));
                    }
                }
                Err(what) => wrong.push(format!("app \"{}\": {what}", config.key)),
            }
        }
        if wrong.is_empty() { Ok(Self { apps }) } else { Err(wrong) }
    }

    /// The app of that key. Errors: APP_NOT_FOUND.
    pub fn get(&self, key: &str) -> Result<&Arc<App>, Error> {
        self.apps.get(key).ok_or_else(|| Error::new(Reason::AppNotFound, "there is no such app"))
    }

    /// What an app holds is held by the same one when it is configured anew.
    pub(super) fn keep_holders(&mut self, before: &Self) {
        for (key, app) in &mut self.apps {
            if let (Some(before), Some(app)) = (before.apps.get(key), Arc::get_mut(app)) {
                app.holders = before.holders.clone();
            }
        }
    }
}

fn build(number: usize, config: &AppConfig) -> Result<App, String> {
    let key = AppKey::parse(config.key.clone()).map_err(|error| error.message)?;
    if let Some((org, _)) = config.key.split_once('#')
        && RESERVED.contains(&org)
    {
        return Err(format!(
            "\"{org}\" is the beginning of other paths; the organization needs another name"
        ));
    }
    let client = match (&config.client_id, &config.client_secret_hash[..]) {
        (Some(id), [one]) => Some((id.clone(), [one.clone(), one.clone()])),
        (Some(id), [one, other]) => Some((id.clone(), [one.clone(), other.clone()])),
        (None, []) => None,
        _ => return Err("client_id and client_secret_hash go together".to_owned()),
    };
    if client.is_some() && config.token_secret.is_empty() {
        return Err("client_id needs token_secret, to sign the tokens that it gets".to_owned());
    }
    if config.token_secret.iter().any(|secret| secret.expose().len() < 16) {
        return Err("token_secret is shorter than 16 characters".to_owned());
    }
    Ok(App {
        number,
        holders: Default::default(),
        strict: config.directory == Directory::Strict,
        fold: config.folds_users(),
        tokens: TokenKeys::of(
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
    fn an_app_that_is_configured_anew_holds_what_it_held() {
        let apps = |keys: &[&str]| {
            let config = |key: &&str| toml::from_str(&format!("key = \"{key}\"")).unwrap();
            Apps::new(&keys.iter().map(config).collect::<Vec<_>>()).unwrap()
        };
        let (before, mut after) = (apps(&["gone", "stays"]), apps(&["stays", "comes"]));
        after.keep_holders(&before);
        let holders = |apps: &Apps, key| apps.get(key).unwrap().holders.clone();
        for (old, new) in holders(&before, "stays").iter().zip(holders(&after, "stays")) {
            assert!(Arc::ptr_eq(old, &new));
        }
        assert!(!Arc::ptr_eq(&holders(&after, "comes")[0], &holders(&before, "gone")[0]));
    }
}
