//! The configuration. A flag overrides an environment variable, which overrides the file, which
//! overrides the default. A setting has its unit in its name and its default beside it. All
//! settings are checked before anything starts, and all errors are reported at once.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    auth::{
        apps::AppConfig,
        credentials::{Credentials, ServiceConfig},
        issuers::IssuerConfig,
    },
    clock::Clock,
    dev,
    limits::rate::Rates,
    server::{tls::TlsFiles, web::Origin},
    service::{MAX_TTL_S, Quotas},
    store::{Engine, Location, Memory, Retention},
    telemetry::LogFormat,
};

mod address;
mod etcd;
mod file;
mod settings;
mod weak;

pub use etcd::EtcdSettings;
pub use file::ConfigText;
pub use settings::Settings;

/// The complete configuration, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub dev: bool,
    pub dev_public_addresses: bool,
    pub location: Location,
    pub refuse_missing_data_dir: bool,
    pub grpc_addr: SocketAddr,
    pub rest_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub addr_file: Option<PathBuf>,
    pub rates: Rates,
    pub max_users: usize,
    pub token_ttl_seconds: u64,
    pub trusted_proxies: Vec<IpNet>,
    pub retention: Retention,
    pub quotas: Quotas,
    pub watch_heartbeat_seconds: u64,
    pub max_view_age_seconds: u64,
    pub refuse_old_views: bool,
    pub clock_doubt: Duration,
    pub refuse_skewed_clock: bool,
    pub tls: Option<TlsFiles>,
    pub grpc_web_origins: Vec<Origin>,
    pub rest_origins: Vec<Origin>,
    pub max_connections: usize,
    pub max_calls: usize,
    pub max_message_bytes: usize,
    pub max_connection_age_seconds: u64,
    pub max_connection_idle_seconds: u64,
    pub stop_delay_seconds: u64,
    pub drain_seconds: u64,
    pub log_format: LogFormat,
    pub otlp_endpoint: Option<String>,
    pub trace_share: f64,
    pub apps: Vec<AppConfig>,
    pub services: Vec<ServiceConfig>,
    pub issuers: Vec<IssuerConfig>,
}

impl Config {
    /// Merges flags, environment, file and defaults. Errors: all that is wrong, a sentence each.
    pub fn load(flags: Settings, file: Option<&Path>, dev: bool) -> Result<Self, Vec<String>> {
        Self::parse(flags, file.map(ConfigText::read).transpose()?.as_ref(), dev)
    }

    /// Like [`Self::load`], of a file that was read.
    pub fn parse(
        flags: Settings,
        file: Option<&ConfigText>,
        dev: bool,
    ) -> Result<Self, Vec<String>> {
        let mut file = file.map(ConfigText::parse).transpose()?.unwrap_or_default();
        if dev {
            // Its token is public, and a backup has the records of every app.
            let backup = file.apps.is_empty().then(dev::backup_service);
            file.apps.extend(dev::apps());
            file.services.push(dev::service());
            file.services.extend(backup);
        }
        let settings = flags.or(file.settings);
        let memory = Memory::default();
        let quotas = Quotas::default();
        let memory = Memory {
            cache_bytes: settings
                .cache_mib
                .map_or(memory.cache_bytes, |mib| mib.saturating_mul(1 << 20)),
            journal_bytes: settings
                .journal_mib
                .map_or(memory.journal_bytes, |mib| mib.saturating_mul(1 << 20)),
        };
        let location = match settings.store.unwrap_or_default() {
            Engine::Sled => Location::Directory {
                path: settings.data_dir.unwrap_or_else(|| PathBuf::from("data")),
                memory,
            },
            Engine::Etcd => Location::Cluster(settings.etcd.cluster()?),
        };
        let tls = match (settings.tls_cert, settings.tls_key, settings.tls_client_ca) {
            (Some(cert), Some(key), client_ca) => Some(TlsFiles { cert, key, client_ca }),
            (None, None, None) => None,
            _ => {
                return Err(vec![
                    "TLS needs both tls_cert and tls_key; tls_client_ca needs both too".to_owned(),
                ]);
            }
        };
        // A page can do with the public keys of dev mode only what every program here can.
        let default_origins = || if dev { vec![Origin::Loopback] } else { Vec::new() };
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let config = Self {
            dev,
            dev_public_addresses: settings.dev_public_addresses.unwrap_or(false),
            location,
            refuse_missing_data_dir: settings.refuse_missing_data_dir.unwrap_or(false),
            grpc_addr: settings.grpc_addr.unwrap_or_else(|| loopback(50_051)),
            rest_addr: settings.rest_addr.unwrap_or_else(|| loopback(8_080)),
            admin_addr: settings.admin_addr.unwrap_or_else(|| loopback(9_090)),
            addr_file: settings.addr_file,
            rates: Rates {
                // The limit that the vendors' documents state for each app.
                calls: settings.rate_limit.unwrap_or(100),
                user_calls: settings.user_rate_limit.unwrap_or(20),
                tokens: settings.token_rate_limit.unwrap_or(300),
            },
            max_users: settings.max_users.unwrap_or(60),
            token_ttl_seconds: settings.token_ttl_seconds.unwrap_or(7 * 24 * 3_600),
            trusted_proxies: settings.trusted_proxies.unwrap_or_default(),
            // The event of one mute takes some 100 bytes, that of 100 mutes 1 KiB or more.
            retention: Retention {
                events: settings.keep_events.unwrap_or(1_000_000),
                age_ms: settings.keep_days.unwrap_or(30).saturating_mul(24 * 3_600_000),
            },
            quotas: Quotas {
                rooms: settings.quota_rooms.unwrap_or(quotas.rooms),
                clients: settings.quota_clients.unwrap_or(quotas.clients),
                mutes: settings.quota_mutes.unwrap_or(quotas.mutes),
                profile_bytes: settings
                    .quota_profile_mib
                    .map_or(quotas.profile_bytes, |mib| mib.saturating_mul(1 << 20)),
                requests: settings.keep_requests.unwrap_or(quotas.requests),
                watchers: settings.quota_watchers.unwrap_or(quotas.watchers),
            },
            // Proxies close a stream that is idle for a minute.
            watch_heartbeat_seconds: settings.watch_heartbeat_seconds.unwrap_or(15),
            // More than the election of a leader takes.
            max_view_age_seconds: settings.max_view_age_seconds.unwrap_or(10),
            refuse_old_views: settings.refuse_old_views.unwrap_or(false),
            clock_doubt: settings
                .clock_doubt_seconds
                .map_or(crate::clock::DEFAULT_DOUBT, Duration::from_secs),
            refuse_skewed_clock: settings.refuse_skewed_clock.unwrap_or(false),
            tls,
            grpc_web_origins: settings.grpc_web_origins.unwrap_or_else(default_origins),
            rest_origins: settings.rest_origins.unwrap_or_else(default_origins),
            // An idle connection takes some 10 KiB; a running call takes more.
            max_connections: settings.max_connections.unwrap_or(10_000),
            max_calls: settings.max_calls.unwrap_or(10_000),
            // Size on the wire; a decoded message takes several times as much.
            max_message_bytes: settings.max_message_mib.unwrap_or(64).saturating_mul(1 << 20),
            max_connection_age_seconds: settings.max_connection_age_seconds.unwrap_or(1_800),
            // Above the 60 seconds of nginx and of most load balancers.
            max_connection_idle_seconds: settings.max_connection_idle_seconds.unwrap_or(75),
            stop_delay_seconds: settings.stop_delay_seconds.unwrap_or(0),
            drain_seconds: settings.drain_seconds.unwrap_or(10),
            log_format: settings.log_format.unwrap_or_default(),
            otlp_endpoint: settings.otlp_endpoint,
            // At 100,000 checks a second, more than enough.
            trace_share: settings.trace_share.unwrap_or(0.01),
            apps: file.apps,
            services: file.services,
            issuers: file.issuers,
        };
        let errors = config.errors();
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// The callers and their credentials. Errors: all that is wrong, a sentence each.
    pub fn credentials(&self, clock: &Clock) -> Result<Credentials, Vec<String>> {
        Credentials::new(&self.apps, &self.services, &self.issuers, clock.clone())
    }

    fn errors(&self) -> Vec<String> {
        let mut errors = self.credentials(&Clock::system()).err().unwrap_or_default();
        errors.extend(weak::errors(&self.apps, &self.services));
        if !(1..=100).contains(&self.max_users) {
            errors.push("max_users must be 1 to 100".to_owned());
        }
        if self.token_ttl_seconds > MAX_TTL_S {
            errors.push(
                "token_ttl_seconds must be at most 2147483647; 0 means that tokens do not expire"
                    .to_owned(),
            );
        }
        if self.retention.events == 0 || self.retention.age_ms == 0 {
            errors.push("keep_events and keep_days must be at least 1".to_owned());
        }
        let Quotas { rooms, clients, mutes, profile_bytes, requests, watchers } = self.quotas;
        if [rooms, clients, mutes, profile_bytes, requests, watchers].contains(&0) {
            errors.push("keep_requests and each quota must be at least 1".to_owned());
        }
        if self.max_view_age_seconds < 3 {
            errors.push("max_view_age_seconds must be at least 3".to_owned());
        }
        if self.max_connections == 0 || self.max_calls == 0 {
            errors.push("max_connections and max_calls must be at least 1".to_owned());
        }
        if !(30..=86_400).contains(&self.max_connection_idle_seconds) {
            errors.push("max_connection_idle_seconds must be 30 to 86400".to_owned());
        }
        if !(16..=1 << 20).contains(&(self.max_message_bytes >> 20)) {
            errors.push("max_message_mib must be 16 to 1048576".to_owned());
        }
        if !(0.0..=1.0).contains(&self.trace_share) {
            errors.push("trace_share must be 0 to 1".to_owned());
        }
        if self.otlp_endpoint.as_ref().is_some_and(|endpoint| !endpoint.starts_with("http://")) {
            errors.push(
                "otlp_endpoint must be http://HOST:PORT of a collector that accepts OTLP over gRPC; \
                 TLS is not supported: run a local collector that forwards"
                    .to_owned(),
            );
        }
        if !(1..=3_600).contains(&self.watch_heartbeat_seconds) {
            errors.push("watch_heartbeat_seconds must be 1 to 3600".to_owned());
        }
        if let Location::Directory { memory, .. } = &self.location {
            if !(1..=1 << 20).contains(&(memory.cache_bytes >> 20)) {
                errors.push("cache_mib must be 1 to 1048576".to_owned());
            }
            if !(1..=1 << 10).contains(&(memory.journal_bytes >> 20)) {
                errors.push("journal_mib must be 1 to 1024".to_owned());
            }
        }
        for service in &self.services {
            for app in &service.apps {
                if app != "*" && !self.apps.iter().any(|configured| configured.key == *app) {
                    errors.push(format!(
                        "service \"{}\": the app \"{app}\" is not configured: \
                         add it to [[apps]], or correct the key",
                        service.name
                    ));
                }
            }
        }
        if self.dev && !self.dev_public_addresses {
            for (name, addr) in [
                ("grpc_addr", self.grpc_addr),
                ("rest_addr", self.rest_addr),
                ("admin_addr", self.admin_addr),
            ] {
                if !addr.ip().is_loopback() {
                    errors.push(format!(
                        "{name} {addr}: dev mode has public keys and serves loopback addresses only; \
                         choose a loopback address, leave out --dev, or set \
                         --dev-public-addresses where only you can reach this address"
                    ));
                }
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_public_token_has_the_rights_of_an_admin_of_other_apps() {
        let app =
            "[[apps]]\nkey = \"org#app\"\ntoken_secret = \"0123456789abcdef0123456789abcdef\"";
        for (text, expected) in [("", true), (app, false)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let config = Config::load(Settings::default(), Some(file.path()), true).unwrap();
            let is_public = config.services.iter().any(|service| service.apps == ["*"]);
            assert_eq!(is_public, expected, "{text}");
        }
    }

    #[test]
    fn dev_mode_serves_loopback_only() {
        let public = Settings { rest_addr: "0.0.0.0:8080".parse().ok(), ..Settings::default() };
        let errors = Config::load(public.clone(), None, true).err().unwrap_or_default();
        assert!(errors.iter().any(|error| error.contains("loopback")), "{errors:?}");
        assert!(Config::load(public, None, false).is_ok());
    }
}
