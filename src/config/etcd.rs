//! The settings of the etcd cluster: its members, and how this process authenticates to them.

use std::{fs, path::PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::store::{ClusterConfig, ClusterTls, ClusterUser};

/// The table `[etcd]` of the file. Each setting is a flag and an environment variable too.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSettings {
    /// URLs of the cluster's members, for `--store etcd`; if one does not answer, the next is tried
    #[arg(
        id = "etcd_endpoints",
        long = "etcd-endpoints",
        value_name = "URL,URL",
        value_delimiter = ',',
        env = "MUTE_ETCD_ENDPOINTS"
    )]
    pub endpoints: Option<Vec<String>>,
    /// Prefix of all keys; services with different prefixes can share a cluster [default: mute/]
    #[arg(id = "etcd_prefix", long = "etcd-prefix", value_name = "TEXT", env = "MUTE_ETCD_PREFIX")]
    pub prefix: Option<String>,
    /// User of the cluster; it needs to read and write below the prefix
    #[arg(id = "etcd_user", long = "etcd-user", value_name = "NAME", env = "MUTE_ETCD_USER")]
    pub user: Option<String>,
    /// File with the user's password
    #[arg(
        id = "etcd_password_file",
        long = "etcd-password-file",
        value_name = "FILE",
        env = "MUTE_ETCD_PASSWORD_FILE"
    )]
    pub password_file: Option<PathBuf>,
    /// Certificate authority of the members, in PEM; required for `https` endpoints
    #[arg(id = "etcd_ca", long = "etcd-ca", value_name = "FILE", env = "MUTE_ETCD_CA")]
    pub ca: Option<PathBuf>,
    /// Client certificate, in PEM, if the cluster requires one
    #[arg(id = "etcd_cert", long = "etcd-cert", value_name = "FILE", env = "MUTE_ETCD_CERT")]
    pub cert: Option<PathBuf>,
    /// Private key of the client certificate, in PEM
    #[arg(id = "etcd_key", long = "etcd-key", value_name = "FILE", env = "MUTE_ETCD_KEY")]
    pub key: Option<PathBuf>,
}

impl EtcdSettings {
    /// Each setting of `self`, or else that of `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            endpoints: self.endpoints.or(other.endpoints),
            prefix: self.prefix.or(other.prefix),
            user: self.user.or(other.user),
            password_file: self.password_file.or(other.password_file),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
        }
    }

    /// The cluster's configuration. Errors: all that is wrong, a sentence each.
    pub fn cluster(self) -> Result<ClusterConfig, Vec<String>> {
        let Self { endpoints, prefix, user, password_file, ca, cert, key } = self;
        let mut errors = Vec::new();
        let mut read = |name: &str, path: Option<PathBuf>| {
            let path = path?;
            let text = fs::read_to_string(&path)
                .map_err(|error| errors.push(format!("etcd_{name}: {}: {error}", path.display())));
            text.ok()
        };
        let password = read("password_file", password_file);
        let ca = read("ca", ca);
        let cert = read("cert", cert);
        let key = read("key", key);
        let endpoints = endpoints.unwrap_or_default();
        if endpoints.is_empty() {
            errors.push(
                "--store etcd needs --etcd-endpoints, such as http://127.0.0.1:2379".to_owned(),
            );
        }
        for endpoint in &endpoints {
            match endpoint.split_once("://") {
                Some(("http", _)) => {}
                Some(("https", _)) if ca.is_some() => {}
                Some(("https", _)) => errors.push(format!(
                    "etcd_endpoints: \"{endpoint}\" is https, which needs --etcd-ca"
                )),
                _ => errors.push(format!(
                    "etcd_endpoints: \"{endpoint}\" is not a URL; write http://HOST:2379 or https://HOST:2379"
                )),
            }
        }
        let prefix = prefix.unwrap_or_else(|| "mute/".to_owned());
        if prefix.is_empty() {
            errors.push(
                "etcd_prefix must not be empty: the service would treat all keys of the cluster as its own"
                    .to_owned(),
            );
        }
        if prefix.chars().any(char::is_control) {
            errors.push("etcd_prefix must not contain control characters".to_owned());
        }
        if user.is_some() != password.is_some() || cert.is_some() != key.is_some() {
            errors.push(
                "--etcd-user needs --etcd-password-file, and --etcd-cert needs --etcd-key; each works in its pair only"
                    .to_owned(),
            );
        }
        let user = user.zip(password).map(|(name, text)| {
            let password = text.trim_end_matches(['\r', '\n']).to_owned();
            ClusterUser { name, password }
        });
        let tls = ca.map(|ca| ClusterTls { ca, identity: cert.zip(key) });
        if errors.is_empty() {
            Ok(ClusterConfig { endpoints, prefix, user, tls, connector: None })
        } else {
            Err(errors)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_not_empty_and_has_no_control_characters() {
        let error_count = |prefix: &str| {
            let endpoints = Some(vec!["http://127.0.0.1:2379".to_owned()]);
            let settings = EtcdSettings {
                endpoints,
                prefix: Some(prefix.to_owned()),
                ..EtcdSettings::default()
            };
            settings.cluster().err().unwrap_or_default().len()
        };
        assert_eq!(
            ["mute/", "mute/dev/", "", "mute\0", "mute/\n"].map(error_count),
            [0, 0, 1, 1, 1]
        );
    }
}
