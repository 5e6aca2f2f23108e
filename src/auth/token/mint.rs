//! Signs tokens.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{APP, AppClaims, Signer, TokenKeys, hex, invalid};
use crate::{error::Error, model::AppKey};

#[derive(Serialize)]
struct MintedUserClaims<'a> {
    app: &'a str,
    id: &'a str,
    iat: u64,
    jti: String,
    exp: u64,
}

impl TokenKeys {
    /// An app token, for so many seconds or without end.
    pub fn mint_app(&self, app: &AppKey, now_ms: u64, ttl_s: Option<u64>) -> Result<String, Error> {
        let iat = now_ms / 1_000;
        let exp = ttl_s.map(|ttl| iat.saturating_add(ttl));
        let claims =
            AppClaims { typ: APP.to_owned(), app: app.to_string(), iat, jti: Some(new_id()), exp };
        self.sign(&claims, |signer| &signer.app.0)
    }

    /// A user token, good until that Unix second.
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
        key: fn(&Signer) -> &EncodingKey,
    ) -> Result<String, Error> {
        let signer = self.signers.first().ok_or_else(invalid)?;
        let header = Header { kid: Some(signer.id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, key(signer)).map_err(Error::internal)
    }
}

/// 96 bits of chance, as hex digits.
fn new_id() -> String {
    hex(&rand::random::<[u8; 12]>())
}
