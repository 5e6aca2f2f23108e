//! Tokens: JWTs with HS256. A user token is signed with the app's secret, as the app's own back end
//! would sign it. An app token is signed with a key derived from the secret, so that a party who
//! can get user tokens signed cannot get an app token signed.

use std::collections::HashSet;

use base16ct::lower as hex;
use jsonwebtoken::{DecodingKey, EncodingKey};
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use toml::value::Datetime;

use super::secret::Secret;

mod mint;
mod verify;

pub use verify::{Bearer, Unverified};

/// The claim `typ` of an app token.
const APP_TYPE: &str = "app";

/// Signs and verifies the tokens of one app.
pub struct TokenKeys {
    /// The first signs; signatures of all of them are accepted.
    signers: Vec<SigningKeys>,
    /// Tokens issued before this time, or without `iat`, are refused. In Unix milliseconds.
    not_before_ms: Option<u64>,
    revoked: HashSet<String>,
}

/// The keys derived from one secret.
struct SigningKeys {
    /// The key id in the tokens it signs (`kid`): part of a hash of the secret.
    id: String,
    user: (EncodingKey, DecodingKey),
    app: (EncodingKey, DecodingKey),
}

#[derive(Serialize, Deserialize)]
struct AppClaims {
    typ: String,
    app: String,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
}

impl TokenKeys {
    /// The token keys of an app's secrets; `None` without a secret. Tokens issued before
    /// `not_before`, and those with the ids (`jti`) in `revoked`, are refused. Errors: what is
    /// wrong with the settings.
    pub fn from_secrets(
        secrets: &[Secret],
        not_before: Option<Datetime>,
        revoked: &[String],
    ) -> Result<Option<Self>, String> {
        let not_before_ms = not_before.map(|time| {
            let time = time
                .offset
                .and_then(|_| time.to_string().parse::<Timestamp>().ok())
                .filter(|time| time.seconds >= 0);
            let time =
                time.ok_or("tokens_not_before needs a time zone, as in 2030-01-31T12:00:00Z")?;
            Ok::<_, String>(time.seconds.unsigned_abs() * 1_000)
        });
        Ok((!secrets.is_empty()).then_some(Self {
            signers: secrets.iter().map(SigningKeys::from_secret).collect(),
            not_before_ms: not_before_ms.transpose()?,
            revoked: revoked.iter().cloned().collect(),
        }))
    }

    /// The ids of the accepted keys; the first is that of new tokens.
    pub fn signers(&self) -> impl Iterator<Item = &str> {
        self.signers.iter().map(|signer| signer.id.as_str())
    }
}

impl SigningKeys {
    fn from_secret(secret: &Secret) -> Self {
        let hash =
            |what: &str| Sha256::new().chain_update(what).chain_update(secret.expose()).finalize();
        let pair = |key: &[u8]| (EncodingKey::from_secret(key), DecodingKey::from_secret(key));
        Self {
            id: hex::encode_string(&hash("mute-service key id\0")[..4]),
            user: pair(secret.expose().as_bytes()),
            app: pair(&hash("mute-service app token\0")),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::{Algorithm, Header};

    use super::*;
    use crate::{
        auth::apps::AppConfig,
        error::{Error, Reason, Refusal},
        model::AppKey,
    };

    const NOW_MS: u64 = 1_700_000_000_000;
    const NOW_S: u64 = NOW_MS / 1_000;

    fn app(key: &str) -> AppKey {
        AppKey::parse(key.to_owned()).unwrap_or_else(|error| unreachable!("{error}"))
    }

    fn keys() -> TokenKeys {
        keys_with(&["app secret"], |_| ())
    }

    fn keys_of(config: &AppConfig) -> Result<Option<TokenKeys>, String> {
        TokenKeys::from_secrets(
            &config.token_secret,
            config.tokens_not_before,
            &config.revoked_tokens,
        )
    }

    fn configured(secrets: &[&str]) -> AppConfig {
        let config: AppConfig =
            toml::from_str("key = \"a\"").unwrap_or_else(|error| unreachable!("{error}"));
        AppConfig { token_secret: secrets.iter().copied().map(Secret::new).collect(), ..config }
    }

    fn keys_with(secrets: &[&str], set: impl FnOnce(&mut AppConfig)) -> TokenKeys {
        let mut config = configured(secrets);
        set(&mut config);
        keys_of(&config).ok().flatten().unwrap_or_else(|| unreachable!())
    }

    fn reason(result: Result<Bearer, Refusal>) -> Option<Reason> {
        result.err().map(|refusal| Error::from(refusal).reason)
    }

    #[test]
    fn tokens_are_valid_until_they_expire_in_their_app() -> Result<(), Error> {
        let keys = keys();
        let token = keys.mint_app(&app("a"), NOW_MS, Some(10))?;
        assert_eq!(keys.verify(&app("a"), &token, NOW_MS + 9_999)?, Bearer::App);
        assert_eq!(
            reason(keys.verify(&app("a"), &token, NOW_MS + 10_000)),
            Some(Reason::InvalidToken)
        );
        assert_eq!(reason(keys.verify(&app("b"), &token, NOW_MS)), Some(Reason::InvalidToken));
        let endless = keys.mint_app(&app("a"), NOW_MS, None)?;
        assert_eq!(keys.verify(&app("a"), &endless, u64::MAX)?, Bearer::App);
        let user = keys.mint_user(&app("a"), "u", NOW_MS, NOW_S + 10)?;
        assert_eq!(keys.verify(&app("a"), &user, NOW_MS)?, Bearer::User("u".to_owned()));
        assert_eq!(
            reason(keys.verify(&app("a"), &user, NOW_MS + 10_000)),
            Some(Reason::InvalidToken)
        );
        Ok(())
    }

    #[test]
    fn forged_tokens_are_refused() -> Result<(), Error> {
        let keys = keys();
        let secret = EncodingKey::from_secret(b"app secret");
        let forge = |header: &Header, claims: serde_json::Value| {
            jsonwebtoken::encode(header, &claims, &secret)
                .unwrap_or_else(|error| unreachable!("{error}"))
        };
        let plain = Header::new(Algorithm::HS256);
        // An app token signed with the key of user tokens.
        let as_app = forge(&plain, serde_json::json!({"typ": "app", "app": "a", "iat": 1}));
        assert_eq!(reason(keys.verify(&app("a"), &as_app, NOW_MS)), Some(Reason::InvalidToken));
        // Another algorithm, no expiry, not yet valid, no user, another app.
        let other = forge(
            &Header::new(Algorithm::HS512),
            serde_json::json!({"id": "u", "exp": NOW_S + 10}),
        );
        let endless = forge(&plain, serde_json::json!({"id": "u"}));
        let early =
            forge(&plain, serde_json::json!({"id": "u", "exp": NOW_S + 10, "nbf": NOW_S + 5}));
        let without_user = forge(&plain, serde_json::json!({"exp": NOW_S + 10}));
        let other_app =
            forge(&plain, serde_json::json!({"id": "u", "exp": NOW_S + 10, "app": "b"}));
        for token in [other, endless, early, without_user, other_app] {
            assert_eq!(
                reason(keys.verify(&app("a"), &token, NOW_MS)),
                Some(Reason::InvalidToken),
                "{token}"
            );
        }
        // A missing signature, and one of another message.
        let good = keys.mint_user(&app("a"), "u", NOW_MS, NOW_S + 10)?;
        let (unsigned, _) = good.rsplit_once('.').unwrap_or_default();
        let none = "eyJhbGciOiJub25lIn0.eyJpZCI6InUiLCJleHAiOjk5OTk5OTk5OTl9.";
        assert_eq!(
            reason(keys.verify(&app("a"), &format!("{unsigned}."), NOW_MS)),
            Some(Reason::InvalidToken)
        );
        assert!(keys.verify(&app("a"), none, NOW_MS).is_err());
        let critical = r#"{"alg":"HS256","crit":["exp"],"exp":1}"#;
        let claims = good.split('.').nth(1).unwrap_or_default();
        let critical = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(critical));
        let key = EncodingKey::from_secret(b"app secret");
        let signature = jsonwebtoken::crypto::sign(critical.as_bytes(), &key, Algorithm::HS256)
            .unwrap_or_default();
        assert_eq!(
            reason(keys.verify(&app("a"), &format!("{critical}.{signature}"), NOW_MS)),
            Some(Reason::InvalidToken)
        );
        for garbage in ["", "x", "a.b.c", "YWMt4LqJIul7EeizhBO5TSO_UgAAAA"] {
            assert_eq!(
                reason(keys.verify(&app("a"), garbage, NOW_MS)),
                Some(Reason::MalformedToken),
                "{garbage}"
            );
        }
        Ok(())
    }

    #[test]
    fn tokens_of_two_secrets_are_valid_during_a_rotation() -> Result<(), Error> {
        let [old, both, new] =
            [&["old"][..], &["new", "old"], &["new"]].map(|secrets| keys_with(secrets, |_| ()));
        let tokens = |keys: &TokenKeys| {
            Ok::<_, Error>([
                keys.mint_app(&app("a"), NOW_MS, None)?,
                keys.mint_user(&app("a"), "u", NOW_MS, NOW_S + 10)?,
            ])
        };
        let is_good = |keys: &TokenKeys, token: &str| keys.verify(&app("a"), token, NOW_MS).is_ok();
        // An app's own back end names no key, or one that is unknown here.
        let own = |kid: Option<&str>| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
            let claims = serde_json::json!({"app": "a", "id": "u", "exp": NOW_S + 10});
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(b"old"))
                .map_err(Error::internal)
        };
        for token in [tokens(&old)?.to_vec(), vec![own(None)?, own(Some("theirs"))?]].concat() {
            assert_eq!([&old, &both, &new].map(|keys| is_good(keys, &token)), [true, true, false]);
        }
        // Claims of a back end's tokens that have another type than ours.
        let claims = serde_json::json!({"id": "u", "exp": NOW_S + 10, "jti": 17, "iat": "today"});
        let odd = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(b"old"),
        );
        assert!(is_good(&both, &odd.map_err(Error::internal)?));
        for token in tokens(&both)? {
            assert_eq!([&old, &both, &new].map(|keys| is_good(keys, &token)), [false, true, true]);
            assert_eq!(Unverified::read(&token)?.signer.as_deref(), new.signers().next());
        }
        Ok(())
    }

    #[test]
    fn tokens_are_revoked_by_id_and_by_issue_time() -> Result<(), Error> {
        let issued = |keys: &TokenKeys, at_ms| {
            Ok::<_, Error>([
                keys.mint_app(&app("a"), at_ms, None)?,
                keys.mint_user(&app("a"), "u", at_ms, NOW_S + 10)?,
            ])
        };
        let not_before_now = keys_with(&["app secret"], |app| {
            app.tokens_not_before = "2023-11-14T22:13:20Z".parse().ok()
        });
        let local = AppConfig {
            tokens_not_before: "2023-11-14T22:13:20".parse().ok(),
            ..configured(&["app secret"])
        };
        assert!(keys_of(&local).is_err());
        for token in issued(&keys(), NOW_MS)? {
            assert!(not_before_now.verify(&app("a"), &token, NOW_MS).is_ok());
            let id = Unverified::read(&token)?.id().unwrap_or_default().to_owned();
            assert!(!id.is_empty());
            let revoking = keys_with(&["app secret"], |app| app.revoked_tokens = vec![id]);
            assert_eq!(
                reason(revoking.verify(&app("a"), &token, NOW_MS)),
                Some(Reason::InvalidToken)
            );
        }
        let claims = serde_json::json!({"app": "a", "id": "u", "exp": NOW_S + 10});
        let undated = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(b"app secret"),
        );
        for token in
            [issued(&keys(), NOW_MS - 1_000)?.to_vec(), vec![undated.map_err(Error::internal)?]]
                .concat()
        {
            assert!(keys().verify(&app("a"), &token, NOW_MS).is_ok());
            assert_eq!(
                reason(not_before_now.verify(&app("a"), &token, NOW_MS)),
                Some(Reason::InvalidToken)
            );
        }
        Ok(())
    }
}
