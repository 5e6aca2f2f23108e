//! The settings of an issuer.

use std::path::PathBuf;

use serde::Deserialize;

/// The settings of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name: the claim `iss`, exact.
    pub issuer: String,
    /// The audience of tokens for this service: the claim `aud`, or one of its values.
    pub audience: String,
    /// The file with its keys, a JWK set.
    pub jwks_file: Option<PathBuf>,
    /// The URL of its keys; either this or the file.
    pub jwks_url: Option<String>,
    /// The file with the certificate authorities of that server, in PEM.
    pub jwks_ca: Option<PathBuf>,
    /// The file with the bearer token that the server requires.
    pub jwks_token_file: Option<PathBuf>,
}
