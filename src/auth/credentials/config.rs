//! The settings of an internal service.

use crate::auth::{
    Scope,
    secret::{KeyHash, one_or_two},
};

/// The settings of an internal service.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Its name in logs, and as the actor of what it writes.
    pub name: String,
    /// Hash of its bearer token; two during a rotation.
    #[serde(default, deserialize_with = "one_or_two")]
    pub token_hash: Vec<KeyHash>,
    /// Names in its client certificates: DNS names or URIs, exact.
    #[serde(default)]
    pub cert_names: Vec<String>,
    /// The issuer of its tokens: one of those in the configuration.
    pub issuer: Option<String>,
    /// The subjects of those tokens: the claim `sub`, exact.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// `check`, `write`, `admin`.
    pub scopes: Vec<Scope>,
    /// The apps it may access: app keys, or `*` for all.
    pub apps: Vec<String>,
}
