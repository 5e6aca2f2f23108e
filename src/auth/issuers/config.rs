//! An issuer as it stands in the configuration.

use std::path::PathBuf;

use serde::Deserialize;

/// An issuer as it stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name: the claim `iss`, whole.
    pub issuer: String,
    /// What its tokens for us are for: the claim `aud`, or one of them.
    pub audience: String,
    /// Its keys, a JWK set.
    pub jwks_file: Option<PathBuf>,
    /// Where it shows them instead.
    pub jwks_url: Option<String>,
    /// Authorities of that server, in PEM.
    pub jwks_ca: Option<PathBuf>,
    /// A file with the bearer token that the server wants.
    pub jwks_token_file: Option<PathBuf>,
}
