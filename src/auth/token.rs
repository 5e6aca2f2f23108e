//! Tokens: JWT, HS256. A user token is signed with the app's secret, as the app's own back end would sign it; an app token with a key derived
//! from it, so that whoever can have users' tokens signed cannot have one made that passes for an app's.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::secret::Secret;
use crate::{
    error::{Error, Reason},
    model::AppKey,
};

/// What distinguishes an app token, in the claim `typ`.
const APP: &str = "app";

/// Signs and checks the tokens of one app.
pub struct TokenKeys {
    user: (EncodingKey, DecodingKey),
    app: (EncodingKey, DecodingKey),
}

#[derive(Serialize, Deserialize)]
struct AppClaims {
    typ: String,
    app: String,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
}

#[derive(Serialize)]
struct MintedUserClaims<'a> {
    app: &'a str,
    id: &'a str,
    exp: u64,
}

/// What an app's own back end may have signed. RFC 7519 lets times have a fraction.
#[derive(Deserialize)]
struct UserClaims {
    app: Option<String>,
    id: Option<String>,
    sub: Option<String>,
    nbf: Option<f64>,
    exp: f64,
}

/// What a token says of itself before its signature is looked at: which key to look with, and nothing else.
#[derive(Deserialize)]
pub struct Unverified {
    /// The app that is said to have issued it.
    pub app: Option<String>,
    iss: Option<serde_json::Value>,
    typ: Option<String>,
    exp: Option<serde_json::Value>,
}

/// What a token said, once its signature was found good.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bearer {
    App,
    User(String),
}

impl Unverified {
    /// Errors: MALFORMED_TOKEN where it is no JWT.
    pub fn read(token: &str) -> Result<Self, Error> {
        jsonwebtoken::decode_header(token).map_err(|_| malformed())?;
        if says_crit(token) {
            return Err(invalid());
        }
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| malformed())
    }

    /// When it is said to end, in Unix milliseconds.
    #[must_use]
    pub fn ends_ms(&self) -> Option<u64> {
        Some((self.exp.as_ref()?.as_f64()? * 1_000.0) as u64)
    }

    /// Who else is said to have issued it.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.iss.as_ref()?.as_str()
    }
}

impl TokenKeys {
    /// Keys from the app's secret.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let derived = Sha256::new().chain_update("mute-service app token\0").chain_update(secret.expose()).finalize();
        let pair = |key: &[u8]| (EncodingKey::from_secret(key), DecodingKey::from_secret(key));
        Self { user: pair(secret.expose().as_bytes()), app: pair(&derived) }
    }

    /// An app token, for so many seconds or without end.
    pub fn mint_app(&self, app: &AppKey, now_ms: u64, ttl_s: Option<u64>) -> Result<String, Error> {
        let iat = now_ms / 1_000;
        let claims = AppClaims { typ: APP.to_owned(), app: app.to_string(), iat, exp: ttl_s.map(|ttl| iat.saturating_add(ttl)) };
        sign(&claims, &self.app.0)
    }

    /// A user token, good until that Unix second.
    pub fn mint_user(&self, app: &AppKey, user: &str, exp_s: u64) -> Result<String, Error> {
        sign(&MintedUserClaims { app: app.as_str(), id: user, exp: exp_s }, &self.user.0)
    }

    /// Checks signature, algorithm, app and time. Errors: MALFORMED_TOKEN, INVALID_TOKEN.
    pub fn verify(&self, app: &AppKey, token: &str, now_ms: u64) -> Result<Bearer, Error> {
        if Unverified::read(token)?.typ.as_deref() == Some(APP) {
            let claims: AppClaims = check(token, &self.app.1)?;
            let in_time = claims.exp.is_none_or(|exp| now_ms < exp.saturating_mul(1_000));
            return if claims.app == app.as_str() && in_time { Ok(Bearer::App) } else { Err(invalid()) };
        }
        let claims: UserClaims = check(token, &self.user.1)?;
        let now_s = now_ms as f64 / 1_000.0;
        let in_time = now_s < claims.exp && claims.nbf.is_none_or(|nbf| nbf <= now_s);
        let of_app = claims.app.is_none_or(|of| of == app.as_str());
        match claims.id.or(claims.sub) {
            Some(user) if in_time && of_app => Ok(Bearer::User(user)),
            _ => Err(invalid()),
        }
    }
}

/// Whether the header names extensions that whoever takes the token has to understand (RFC 7515, section 4.1.11): we understand none.
fn says_crit(token: &str) -> bool {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header = header.and_then(|header| serde_json::from_slice::<serde_json::Map<_, _>>(&header).ok());
    header.is_some_and(|header: serde_json::Map<String, serde_json::Value>| header.contains_key("crit"))
}

fn sign<C: Serialize>(claims: &C, key: &EncodingKey) -> Result<String, Error> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, key).map_err(Error::internal)
}

/// Times are compared by the caller, with the service's one clock.
fn check<C: DeserializeOwned>(token: &str, key: &DecodingKey) -> Result<C, Error> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    jsonwebtoken::decode(token, key, &validation).map(|data| data.claims).map_err(|_| invalid())
}

/// It is wrong, or of another app or time.
pub(super) fn invalid() -> Error {
    Error::new(Reason::InvalidToken, "the token is invalid or has expired")
}

/// It is no token at all.
pub(super) fn malformed() -> Error {
    Error::new(Reason::MalformedToken, "what was sent as a token is no token of this service")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;
    const NOW_S: u64 = NOW_MS / 1_000;

    fn app(key: &str) -> AppKey {
        AppKey::parse(key.to_owned()).unwrap_or_else(|error| unreachable!("{error}"))
    }

    fn keys() -> TokenKeys {
        TokenKeys::new(&Secret::new("app secret"))
    }

    fn reason(result: Result<Bearer, Error>) -> Option<Reason> {
        result.err().map(|error| error.reason)
    }

    #[test]
    fn tokens_are_good_until_their_end_and_in_their_app() -> Result<(), Error> {
        let keys = keys();
        let token = keys.mint_app(&app("a"), NOW_MS, Some(10))?;
        assert_eq!(keys.verify(&app("a"), &token, NOW_MS + 9_999)?, Bearer::App);
        assert_eq!(reason(keys.verify(&app("a"), &token, NOW_MS + 10_000)), Some(Reason::InvalidToken));
        assert_eq!(reason(keys.verify(&app("b"), &token, NOW_MS)), Some(Reason::InvalidToken));
        let endless = keys.mint_app(&app("a"), NOW_MS, None)?;
        assert_eq!(keys.verify(&app("a"), &endless, u64::MAX)?, Bearer::App);
        let user = keys.mint_user(&app("a"), "u", NOW_S + 10)?;
        assert_eq!(keys.verify(&app("a"), &user, NOW_MS)?, Bearer::User("u".to_owned()));
        assert_eq!(reason(keys.verify(&app("a"), &user, NOW_MS + 10_000)), Some(Reason::InvalidToken));
        Ok(())
    }

    #[test]
    fn forged_tokens_are_refused() -> Result<(), Error> {
        let keys = keys();
        let secret = EncodingKey::from_secret(b"app secret");
        let forge = |header: &Header, claims: serde_json::Value| {
            jsonwebtoken::encode(header, &claims, &secret).unwrap_or_else(|error| unreachable!("{error}"))
        };
        let plain = Header::new(Algorithm::HS256);
        // An app token signed with what signs users' tokens.
        let as_app = forge(&plain, serde_json::json!({"typ": "app", "app": "a", "iat": 1}));
        assert_eq!(reason(keys.verify(&app("a"), &as_app, NOW_MS)), Some(Reason::InvalidToken));
        // Another algorithm, no end, not yet, no user.
        let other = forge(&Header::new(Algorithm::HS512), serde_json::json!({"id": "u", "exp": NOW_S + 10}));
        let endless = forge(&plain, serde_json::json!({"id": "u"}));
        let early = forge(&plain, serde_json::json!({"id": "u", "exp": NOW_S + 10, "nbf": NOW_S + 5}));
        let nobody = forge(&plain, serde_json::json!({"exp": NOW_S + 10}));
        let elsewhere = forge(&plain, serde_json::json!({"id": "u", "exp": NOW_S + 10, "app": "b"}));
        for token in [other, endless, early, nobody, elsewhere] {
            assert_eq!(reason(keys.verify(&app("a"), &token, NOW_MS)), Some(Reason::InvalidToken), "{token}");
        }
        // A signature that is not there, or not its own.
        let good = keys.mint_user(&app("a"), "u", NOW_S + 10)?;
        let (unsigned, _) = good.rsplit_once('.').unwrap_or_default();
        let none = "eyJhbGciOiJub25lIn0.eyJpZCI6InUiLCJleHAiOjk5OTk5OTk5OTl9.";
        assert_eq!(reason(keys.verify(&app("a"), &format!("{unsigned}."), NOW_MS)), Some(Reason::InvalidToken));
        assert!(keys.verify(&app("a"), none, NOW_MS).is_err());
        let critical = r#"{"alg":"HS256","crit":["exp"],"exp":1}"#;
        let claims = good.split('.').nth(1).unwrap_or_default();
        let critical = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(critical));
        let key = EncodingKey::from_secret(b"app secret");
        let signature = jsonwebtoken::crypto::sign(critical.as_bytes(), &key, Algorithm::HS256).unwrap_or_default();
        assert_eq!(reason(keys.verify(&app("a"), &format!("{critical}.{signature}"), NOW_MS)), Some(Reason::InvalidToken));
        for garbage in ["", "x", "a.b.c", "YWMt4LqJIul7EeizhBO5TSO_UgAAAA"] {
            assert_eq!(reason(keys.verify(&app("a"), garbage, NOW_MS)), Some(Reason::MalformedToken), "{garbage}");
        }
        Ok(())
    }
}
