//! Verifies tokens.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::{Deserialize, de::DeserializeOwned};

use super::{APP_TYPE, AppClaims, SigningKeys, TokenKeys};
use crate::{error::Refusal, model::AppKey};

/// The claims of a user token, which an app's own back end may have signed. RFC 7519 allows
/// fractions in times.
#[derive(Deserialize)]
struct UserClaims {
    app: Option<String>,
    id: Option<String>,
    sub: Option<String>,
    /// Any type, because back ends may use these claims differently.
    iat: Option<serde_json::Value>,
    jti: Option<serde_json::Value>,
    nbf: Option<f64>,
    exp: f64,
}

/// The claims of a token before its signature is verified. They only select the key to verify with.
#[derive(Deserialize)]
pub struct Unverified {
    /// The app that it claims to be issued for.
    pub app: Option<String>,
    /// Its id, for revocation.
    jti: Option<serde_json::Value>,
    /// The id of the key that it claims to be signed with.
    #[serde(skip)]
    pub signer: Option<String>,
    iss: Option<serde_json::Value>,
    typ: Option<String>,
    exp: Option<serde_json::Value>,
}

/// What a verified token says.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bearer {
    App,
    User(String),
}

impl Unverified {
    /// Reads the claims. Errors: it is not a JWT, or its header has `crit`.
    pub fn read(token: &str) -> Result<Self, Refusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::NotAToken)?;
        if has_crit(token) {
            return Err(Refusal::CriticalHeader);
        }
        let claims: Self = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| Refusal::NotAToken)?;
        Ok(Self { signer: header.kid, ..claims })
    }

    /// Its id, for revocation.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.jti.as_ref()?.as_str()
    }

    /// The expiry that it claims, in Unix milliseconds.
    #[must_use]
    pub fn ends_ms(&self) -> Option<u64> {
        Some((self.exp.as_ref()?.as_f64()? * 1_000.0) as u64)
    }

    /// The external issuer that it claims.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.iss.as_ref()?.as_str()
    }
}

impl TokenKeys {
    /// Verifies signature, algorithm, app, time and revocation.
    pub fn verify(&self, app: &AppKey, token: &str, now_ms: u64) -> Result<Bearer, Refusal> {
        let unverified = Unverified::read(token)?;
        let signer = unverified.signer.as_deref();
        if unverified.typ.as_deref() == Some(APP_TYPE) {
            let claims: AppClaims = self.decode_signed(token, signer, |signer| &signer.app.1)?;
            let is_expired = claims.exp.is_some_and(|exp| exp.saturating_mul(1_000) <= now_ms);
            refuse_if(is_expired, Refusal::Expired)?;
            refuse_if(claims.app != app.as_str(), Refusal::WrongApp)?;
            let is_revoked = self.is_revoked(claims.jti.as_deref(), Some(claims.iat as f64));
            refuse_if(is_revoked, Refusal::Revoked)?;
            return Ok(Bearer::App);
        }
        let claims: UserClaims = self.decode_signed(token, signer, |signer| &signer.user.1)?;
        let now_s = now_ms as f64 / 1_000.0;
        let is_in_time = now_s < claims.exp;
        refuse_if(!is_in_time, Refusal::Expired)?;
        let has_started = claims.nbf.is_none_or(|nbf| nbf <= now_s);
        refuse_if(!has_started, Refusal::NotYetValid)?;
        let is_of_app = claims.app.is_none_or(|claimed| claimed == app.as_str());
        refuse_if(!is_of_app, Refusal::WrongApp)?;
        let id = claims.jti.as_ref().and_then(|id| id.as_str());
        let issued_at_s = claims.iat.as_ref().and_then(|iat| iat.as_f64());
        refuse_if(self.is_revoked(id, issued_at_s), Refusal::Revoked)?;
        claims.id.or(claims.sub).map(Bearer::User).ok_or(Refusal::MissingClaim)
    }

    fn is_revoked(&self, id: Option<&str>, issued_at_s: Option<f64>) -> bool {
        id.is_some_and(|id| self.revoked.contains(id))
            || self.not_before_ms.is_some_and(|not_before_ms| {
                issued_at_s.is_none_or(|issued_at_s| issued_at_s * 1_000.0 < not_before_ms as f64)
            })
    }

    /// Verifies the signature with the named key if it is one of ours, else with each key: back
    /// ends that sign user tokens themselves name no key, or one of their own. The caller compares
    /// times, with the service's clock.
    fn decode_signed<C: DeserializeOwned>(
        &self,
        token: &str,
        key_id: Option<&str>,
        key: fn(&SigningKeys) -> &DecodingKey,
    ) -> Result<C, Refusal> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let is_named = |signer: &&SigningKeys| Some(signer.id.as_str()) == key_id;
        let named = self.signers.iter().find(is_named);
        let candidates = named.into_iter().chain(self.signers.iter().filter(|_| named.is_none()));
        let mut refusal = Refusal::WrongSignature;
        for signer in candidates {
            match jsonwebtoken::decode(token, key(signer), &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => match error.kind() {
                    ErrorKind::InvalidAlgorithm => refusal = Refusal::WrongAlgorithm,
                    // The claims are parsed after the signature was found valid.
                    ErrorKind::Json(_) => refusal = Refusal::MissingClaim,
                    _ => {}
                },
            }
        }
        Err(refusal)
    }
}

fn refuse_if(is_wrong: bool, refusal: Refusal) -> Result<(), Refusal> {
    if is_wrong { Err(refusal) } else { Ok(()) }
}

/// Whether the header has `crit`, extensions that the recipient must understand (RFC 7515, section
/// 4.1.11). This service understands none.
fn has_crit(token: &str) -> bool {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header =
        header.and_then(|header| serde_json::from_slice::<serde_json::Map<_, _>>(&header).ok());
    header.is_some_and(|header: serde_json::Map<String, serde_json::Value>| {
        header.contains_key("crit")
    })
}
