//! Checks tokens.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, de::DeserializeOwned};

use super::{APP, AppClaims, Signer, TokenKeys, invalid, malformed};
use crate::{error::Error, model::AppKey};

/// What an app's own back end may have signed. RFC 7519 lets times have a fraction.
#[derive(Deserialize)]
struct UserClaims {
    app: Option<String>,
    id: Option<String>,
    sub: Option<String>,
    /// Whatever they are: who signs them need not mean what we do.
    iat: Option<serde_json::Value>,
    jti: Option<serde_json::Value>,
    nbf: Option<f64>,
    exp: f64,
}

/// What a token says of itself before its signature is looked at: which key to look with, and
/// nothing else.
#[derive(Deserialize)]
pub struct Unverified {
    /// The app that is said to have issued it.
    pub app: Option<String>,
    /// What it can be revoked by.
    jti: Option<serde_json::Value>,
    /// The key that is said to have signed it.
    #[serde(skip)]
    pub signer: Option<String>,
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
        let header = jsonwebtoken::decode_header(token).map_err(|_| malformed())?;
        if says_crit(token) {
            return Err(invalid());
        }
        let claims: Self =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| malformed())?;
        Ok(Self { signer: header.kid, ..claims })
    }

    /// What it can be revoked by.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.jti.as_ref()?.as_str()
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
    /// Checks signature, algorithm, app and time, and that it was not revoked. Errors:
    /// MALFORMED_TOKEN, INVALID_TOKEN.
    pub fn verify(&self, app: &AppKey, token: &str, now_ms: u64) -> Result<Bearer, Error> {
        let unverified = Unverified::read(token)?;
        let signer = unverified.signer.as_deref();
        if unverified.typ.as_deref() == Some(APP) {
            let claims: AppClaims = self.check(token, signer, |signer| &signer.app.1)?;
            let in_time = claims.exp.is_none_or(|exp| now_ms < exp.saturating_mul(1_000));
            let is_good = in_time
                && claims.app == app.as_str()
                && !self.has_revoked(claims.jti.as_deref(), Some(claims.iat as f64));
            return if is_good { Ok(Bearer::App) } else { Err(invalid()) };
        }
        let claims: UserClaims = self.check(token, signer, |signer| &signer.user.1)?;
        let now_s = now_ms as f64 / 1_000.0;
        let in_time = now_s < claims.exp && claims.nbf.is_none_or(|nbf| nbf <= now_s);
        let of_app = claims.app.is_none_or(|of| of == app.as_str());
        let id = claims.jti.as_ref().and_then(|id| id.as_str());
        let is_good = in_time
            && of_app
            && !self.has_revoked(id, claims.iat.as_ref().and_then(|iat| iat.as_f64()));
        match claims.id.or(claims.sub) {
            Some(user) if is_good => Ok(Bearer::User(user)),
            _ => Err(invalid()),
        }
    }

    fn has_revoked(&self, id: Option<&str>, issued_s: Option<f64>) -> bool {
        id.is_some_and(|id| self.revoked.contains(id))
            || self.not_before_ms.is_some_and(|not_before_ms| {
                issued_s.is_none_or(|at_s| at_s * 1_000.0 < not_before_ms as f64)
            })
    }

    /// By the key that is named, where it is one of ours; back ends that sign their users' tokens
    /// themselves name none, or one of their own. Times are compared by the caller, with the
    /// service's one clock.
    fn check<C: DeserializeOwned>(
        &self,
        token: &str,
        named: Option<&str>,
        key: fn(&Signer) -> &DecodingKey,
    ) -> Result<C, Error> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let is_named = |signer: &&Signer| Some(signer.id.as_str()) == named;
        let one = self.signers.iter().find(is_named);
        let tried = one.into_iter().chain(self.signers.iter().filter(|_| one.is_none()));
        let mut checked = tried.map(|signer| jsonwebtoken::decode(token, key(signer), &validation));
        checked.find_map(Result::ok).map(|data| data.claims).ok_or_else(invalid)
    }
}

/// Whether the header names extensions that whoever takes the token has to understand (RFC 7515,
/// section 4.1.11): we understand none.
fn says_crit(token: &str) -> bool {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header =
        header.and_then(|header| serde_json::from_slice::<serde_json::Map<_, _>>(&header).ok());
    header.is_some_and(|header: serde_json::Map<String, serde_json::Value>| {
        header.contains_key("crit")
    })
}
