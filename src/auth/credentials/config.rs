//! An internal service as it stands in the configuration.

use crate::auth::{
    Scope,
    secret::{KeyHash, one_or_two},
};

/// An internal service as it stands in the configuration.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// For logs, and as actor of what it writes.
    pub name: String,
    /// Hash of its bearer token; two while one takes the place of the other.
    #[serde(default, deserialize_with = "one_or_two")]
    pub token_hash: Vec<KeyHash>,
    /// Names that its client certificates are for: DNS names or URIs, whole.
    #[serde(default)]
    pub cert_names: Vec<String>,
    /// Who issues its tokens: one of the issuers of the configuration.
    pub issuer: Option<String>,
    /// Whom those are about: the claim `sub`, whole.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// `check`, `write`, `admin`.
    pub scopes: Vec<Scope>,
    /// App keys, or `*` for all.
    pub apps: Vec<String>,
}
