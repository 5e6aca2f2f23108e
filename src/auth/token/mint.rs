//! Signs tokens.

use base16ct::lower as hex;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{APP_TYPE, AppClaims, SigningKeys, TokenKeys};
use crate::{
    error::{Error, Refusal},
    model::AppKey,
};

#[derive(Serialize)]
struct MintedUserClaims<'a> {
    app: &'a str,
    id: &'a str,
    iat: u64,
    jti: String,
    exp: u64,
}

impl TokenKeys {
    /// Signs an app token that expires after `ttl_s` seconds, or never.
    pub fn mint_app(&self, app: &AppKey, now_ms: u64, ttl_s: Option<u64>) -> Result<String, Error> {
        let iat = now_ms / 1_000;
        let exp = ttl_s.map(|ttl| iat.saturating_add(ttl));
        let claims = AppClaims {
            typ: APP_TYPE.to_owned(),
            app: app.to_string(),
            iat,
            jti: Some(new_id()),
            exp,
        };
        self.sign(&claims, |signer| &signer.app.0)
    }

    /// Signs a user token that expires at this Unix second.
    pub fn mint_user(
        &self,
        app: &AppKey,
        user: &str,
        now_ms: u64,
        exp_s: u64,
    ) -> Result<String, Error> {
        let claims = MintedUserClaims {
            app: app.as_str(),
            id: user,
            iat: now_ms / 1_000,
            jti: new_id(),
            exp: exp_s,
        };
        self.sign(&claims, |signer| &signer.user.0)
    }

    fn sign<C: Serialize>(
        &self,
        claims: &C,
        key: fn(&SigningKeys) -> &EncodingKey,
    ) -> Result<String, Error> {
        let signer = self.signers.first().ok_or(Refusal::UnknownApp)?;
        let header = Header { kid: Some(signer.id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, key(signer)).map_err(Error::internal)
    }
}

/// 96 random bits as hex digits.
fn new_id() -> String {
    hex::encode_string(&rand::random::<[u8; 12]>())
}
