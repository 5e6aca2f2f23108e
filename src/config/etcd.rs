//! Where the cluster is, and how it lets us in.

use std::{fs, path::PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::store::{ClusterConfig, ClusterTls, ClusterUser};

/// The table `[etcd]` of the file; each setting is a flag and a variable too.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSettings {
    /// URLs of the cluster's members, for `--store etcd`; where one does not answer, the next is
    /// asked
    #[arg(
        id = "etcd_endpoints",
        long = "etcd-endpoints",
        value_name = "URL,URL",
        value_delimiter = ',',
        env = "MUTE_ETCD_ENDPOINTS"
    )]
    pub endpoints: Option<Vec<String>>,
    /// What all keys begin with: services with different ones share a cluster and nothing else
    /// [default: mute/]
    #[arg(id = "etcd_prefix", long = "etcd-prefix", value_name = "TEXT", env = "MUTE_ETCD_PREFIX")]
    pub prefix: Option<String>,
    /// A user of the cluster that may read and write below the prefix
    #[arg(id = "etcd_user", long = "etcd-user", value_name = "NAME", env = "MUTE_ETCD_USER")]
    pub user: Option<String>,
    /// A file with the user's password
    #[arg(
        id = "etcd_password_file",
        long = "etcd-password-file",
        value_name = "FILE",
        env = "MUTE_ETCD_PASSWORD_FILE"
    )]
    pub password_file: Option<PathBuf>,
    /// The certificate authority of the members, in PEM, for `https` endpoints
    #[arg(id = "etcd_ca", long = "etcd-ca", value_name = "FILE", env = "MUTE_ETCD_CA")]
    pub ca: Option<PathBuf>,
    /// Our certificate, in PEM, where the cluster wants one
    #[arg(id = "etcd_cert", long = "etcd-cert", value_name = "FILE", env = "MUTE_ETCD_CERT")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(id = "etcd_key", long = "etcd-key", value_name = "FILE", env = "MUTE_ETCD_KEY")]
    pub key: Option<PathBuf>,
}

impl EtcdSettings {
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

    /// Errors: everything that is wrong, a sentence each.
    pub fn cluster(self) -> Result<ClusterConfig, Vec<String>> {
        let Self { endpoints, prefix, user, password_file, ca, cert, key } = self;
        let mut wrong = Vec::new();
        let mut read = |name: &str, path: Option<PathBuf>| {
            let path = path?;
            let text = fs::read_to_string(&path)
                .map_err(|error| wrong.push(format!("etcd_{name}: {}: {error}", path.display())));
            text.ok()
        };
        let password = read("password_file", password_file);
        let ca = read("ca", ca);
        let cert = read("cert", cert);
        let key = read("key", key);
        let endpoints = endpoints.unwrap_or_default();
        if endpoints.is_empty() {
            wrong.push(
                "--store etcd needs --etcd-endpoints, such as http://127.0.0.1:2379".to_owned(),
            );
        }
        for endpoint in &endpoints {
            match endpoint.split_once("://") {
                Some(("http", _)) => {}
                Some(("https", _)) if ca.is_some() => {}
                Some(("https", _)) => wrong.push(format!("{endpoint}: https needs --etcd-ca")),
                _ => wrong.push(format!(
                    "etcd endpoint \"{endpoint}\" is no URL: http://HOST:2379, or https://"
                )),
            }
        }
        let prefix = prefix.unwrap_or_else(|| "mute/".to_owned());
        if prefix.is_empty() {
            wrong.push(
                "etcd_prefix is empty: the service would take all keys of the cluster for its own"
                    .to_owned(),
            );
        }
        if prefix.chars().any(char::is_control) {
            wrong.push("etcd_prefix holds a control character".to_owned());
        }
        if user.is_some() != password.is_some() || cert.is_some() != key.is_some() {
            wrong.push(
                "--etcd-user goes with --etcd-password-file, and --etcd-cert with --etcd-key"
                    .to_owned(),
            );
        }
        let user = user.zip(password).map(|(name, text)| {
            let password = text.trim_end_matches(['\r', '\n']).to_owned();
            ClusterUser { name, password }
        });
        let tls = ca.map(|ca| ClusterTls { ca, identity: cert.zip(key) });
        if wrong.is_empty() {
            Ok(ClusterConfig { endpoints, prefix, user, tls, connector: None })
        } else {
            Err(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_not_empty_and_holds_no_control_character() {
        let wrong = |prefix: &str| {
            let endpoints = Some(vec!["http://127.0.0.1:2379".to_owned()]);
            let settings = EtcdSettings {
                endpoints,
                prefix: Some(prefix.to_owned()),
                ..EtcdSettings::default()
            };
            settings.cluster().err().unwrap_or_default().len()
        };
        assert_eq!(["mute/", "mute/dev/", "", "mute\0", "mute/\n"].map(wrong), [0, 0, 1, 1, 1]);
    }
}
