//! Settings: flag before environment before file before default. Each has its unit in its name, its
//! default beside it, and is checked before anything starts; whatever is wrong is told at once.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use ipnet::IpNet;
use serde::Deserialize;

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
    service::Quotas,
    store::{Engine, Location, Memory, Retention},
    telemetry::LogFormat,
};

mod etcd;
mod weak;

pub use etcd::EtcdSettings;

/// Settings that may be given in any of the three ways.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What keeps the records: `sled` is embedded, in the data directory; `etcd` is a cluster, for
    /// several replicas [default: sled]
    #[arg(long, value_enum, env = "MUTE_STORE")]
    pub store: Option<Engine>,
    /// Where the embedded store is kept [default: ./data]
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the cluster is, for `--store etcd`
    #[command(flatten)]
    #[serde(default)]
    pub etcd: EtcdSettings,
    /// Where gRPC is served; port 0 takes a free one [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR", env = "MUTE_GRPC_ADDR")]
    pub grpc_addr: Option<SocketAddr>,
    /// Where the REST paths are served [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "MUTE_REST_ADDR")]
    pub rest_addr: Option<SocketAddr>,
    /// Where health and metrics are served; keep it from the public [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", env = "MUTE_ADMIN_ADDR")]
    pub admin_addr: Option<SocketAddr>,
    /// A file to write the bound addresses to, as JSON
    #[arg(long, value_name = "FILE", env = "MUTE_ADDR_FILE")]
    pub addr_file: Option<PathBuf>,
    /// Calls a second of one method in one app, by admins, as many by staff and as many by users; 0
    /// is without limit; internal services are not limited [default: 100]
    #[arg(long, value_name = "N", env = "MUTE_RATE_LIMIT")]
    pub rate_limit: Option<u32>,
    /// Calls a second of one user, all methods together; 0 is without limit [default: 20]
    #[arg(long, value_name = "N", env = "MUTE_USER_RATE_LIMIT")]
    pub user_rate_limit: Option<u32>,
    /// Tokens issued a second in one app, and a tenth as many wrong secrets from one address or for
    /// one client; 0 is without limit [default: 300]
    #[arg(long, value_name = "N", env = "MUTE_TOKEN_RATE_LIMIT")]
    pub token_rate_limit: Option<u32>,
    /// Users that one call of an Agora path may name, 1 to 100 [default: 60]
    #[arg(long, value_name = "N", env = "MUTE_MAX_USERS")]
    pub max_users: Option<usize>,
    /// How long an issued token is good for where the caller does not say; 0 is without end
    /// [default: 604800, a week]
    #[arg(long, value_name = "SECONDS", env = "MUTE_TOKEN_TTL_SECONDS")]
    pub token_ttl_seconds: Option<u64>,
    /// Networks of proxies whose X-Forwarded-... headers are believed [default: none]
    #[arg(long, value_name = "CIDR,CIDR", value_delimiter = ',', env = "MUTE_TRUSTED_PROXIES")]
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Events kept, one for each change: who did what to whom, when and why [default: 1000000]
    #[arg(long, value_name = "N", env = "MUTE_KEEP_EVENTS")]
    pub keep_events: Option<u64>,
    /// For how long events are kept [default: 30]
    #[arg(long, value_name = "DAYS", env = "MUTE_KEEP_DAYS")]
    pub keep_days: Option<u64>,
    /// Answers to writes with a request id that one app may have kept for repeats, for a day each;
    /// one longer than 1 KiB counts for several, and one more is refused [default: 1000000]
    #[arg(long, value_name = "N", env = "MUTE_KEEP_REQUESTS")]
    pub keep_requests: Option<u64>,
    /// Registered rooms that one app may have [default: 200000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_ROOMS")]
    pub quota_rooms: Option<u64>,
    /// Registered clients that one app may have [default: 2000000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_CLIENTS")]
    pub quota_clients: Option<u64>,
    /// Mutes of every kind, bans and members of allow lists that one app may have; users may fill
    /// half [default: 2000000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_MUTES")]
    pub quota_mutes: Option<u64>,
    /// Texts of profiles, custom fields among them, that one app may have, in MiB [default: 256]
    #[arg(long, value_name = "MIB", env = "MUTE_QUOTA_PROFILE_MIB")]
    pub quota_profile_mib: Option<u64>,
    /// Watches at a time that one app may have at this replica [default: 20000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_WATCHERS")]
    pub quota_watchers: Option<u64>,
    /// How often a watcher is told that it has missed nothing, 1 to 3600 [default: 15]
    #[arg(long, value_name = "SECONDS", env = "MUTE_WATCH_HEARTBEAT_SECONDS")]
    pub watch_heartbeat_seconds: Option<u64>,
    /// Page cache of the embedded store [default: 8]
    #[arg(long, value_name = "MIB", env = "MUTE_CACHE_MIB")]
    pub cache_mib: Option<u64>,
    /// Commits that the embedded store keeps in its journal before the database takes them; more
    /// writes less, and takes longer to start [default: 4]
    #[arg(long, value_name = "MIB", env = "MUTE_JOURNAL_MIB")]
    pub journal_mib: Option<u64>,
    /// How old what a replica has seen of a cluster may be before /readyz and the log say so, at
    /// least 3 [default: 10]
    #[arg(long, value_name = "SECONDS", env = "MUTE_MAX_VIEW_AGE_SECONDS")]
    pub max_view_age_seconds: Option<u64>,
    /// Refuse checks rather than answer them from what is older than that; /readyz then says 503
    /// [default: false]
    #[arg(long, value_name = "BOOL", env = "MUTE_REFUSE_OLD_VIEWS", num_args = 0..=1, default_missing_value = "true")]
    pub refuse_old_views: Option<bool>,
    /// For how long the wall clock is doubted after it was set by more than two seconds: what ends
    /// is then removed when it has ended by the old time and by the new one [default: 600]
    #[arg(long, value_name = "SECONDS", env = "MUTE_CLOCK_DOUBT_SECONDS")]
    pub clock_doubt_seconds: Option<u64>,
    /// Have /readyz say 503 while the wall clock is more than two seconds from those of the other
    /// replicas [default: false]
    #[arg(long, value_name = "BOOL", env = "MUTE_REFUSE_SKEWED_CLOCK", num_args = 0..=1, default_missing_value = "true")]
    pub refuse_skewed_clock: Option<bool>,
    /// Where gRPC and REST are served over TLS: the certificate, in PEM, with those between it and
    /// its authority; read again when it changes
    #[arg(long, value_name = "FILE", env = "MUTE_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", env = "MUTE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Authorities of clients, in PEM: a client may then be a service by its certificate
    /// (`cert_names` of a service)
    #[arg(long, value_name = "FILE", env = "MUTE_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// Origins of web pages that may call gRPC, over grpc-web, such as `https://console.example`;
    /// `*` is every one [default: none]
    #[arg(
        long,
        value_name = "ORIGIN,ORIGIN",
        value_delimiter = ',',
        env = "MUTE_GRPC_WEB_ORIGINS"
    )]
    pub grpc_web_origins: Option<Vec<Origin>>,
    /// Connections at a time to each of gRPC and REST; beyond them one that is idle makes room, or
    /// the new one is closed at once [default: 10000]
    #[arg(long, value_name = "N", env = "MUTE_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Calls that run at a time; those beyond are refused at once [default: 10000]
    #[arg(long, value_name = "N", env = "MUTE_MAX_CALLS")]
    pub max_calls: Option<usize>,
    /// Memory for messages that come and answers that go, of all calls together, in MiB [default:
    /// 64]
    #[arg(long, value_name = "MIB", env = "MUTE_MAX_MESSAGE_MIB")]
    pub max_message_mib: Option<usize>,
    /// At which age a connection is told to go, give or take a tenth, so that callers spread over
    /// new replicas; 0 is never [default: 1800]
    #[arg(long, value_name = "SECONDS", env = "MUTE_MAX_CONNECTION_AGE_SECONDS")]
    pub max_connection_age_seconds: Option<u64>,
    /// How long to go on after the order to stop, while health says not ready, so that callers are
    /// sent elsewhere first [default: 0]
    #[arg(long, value_name = "SECONDS", env = "MUTE_STOP_DELAY_SECONDS")]
    pub stop_delay_seconds: Option<u64>,
    /// How long calls may go on after that [default: 10]
    #[arg(long, value_name = "SECONDS", env = "MUTE_DRAIN_SECONDS")]
    pub drain_seconds: Option<u64>,
    /// How the log is written, to standard error [default: text]
    #[arg(long, value_enum, env = "MUTE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// A collector that traces are sent to, over OTLP (gRPC), such as `http://127.0.0.1:4317`
    /// [default: none]
    #[arg(long, value_name = "URL", env = "MUTE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// How many of the calls are traced, 0 to 1, where the trace of a service (`traceparent`) does
    /// not say [default: 0.01]
    #[arg(long, value_name = "SHARE", env = "MUTE_TRACE_SHARE")]
    pub trace_share: Option<f64>,
}

impl Settings {
    fn or(self, other: Self) -> Self {
        Self {
            store: self.store.or(other.store),
            data_dir: self.data_dir.or(other.data_dir),
            etcd: self.etcd.or(other.etcd),
            grpc_addr: self.grpc_addr.or(other.grpc_addr),
            rest_addr: self.rest_addr.or(other.rest_addr),
            admin_addr: self.admin_addr.or(other.admin_addr),
            addr_file: self.addr_file.or(other.addr_file),
            rate_limit: self.rate_limit.or(other.rate_limit),
            user_rate_limit: self.user_rate_limit.or(other.user_rate_limit),
            token_rate_limit: self.token_rate_limit.or(other.token_rate_limit),
            max_users: self.max_users.or(other.max_users),
            token_ttl_seconds: self.token_ttl_seconds.or(other.token_ttl_seconds),
            trusted_proxies: self.trusted_proxies.or(other.trusted_proxies),
            keep_events: self.keep_events.or(other.keep_events),
            keep_days: self.keep_days.or(other.keep_days),
            keep_requests: self.keep_requests.or(other.keep_requests),
            quota_rooms: self.quota_rooms.or(other.quota_rooms),
            quota_clients: self.quota_clients.or(other.quota_clients),
            quota_mutes: self.quota_mutes.or(other.quota_mutes),
            quota_profile_mib: self.quota_profile_mib.or(other.quota_profile_mib),
            quota_watchers: self.quota_watchers.or(other.quota_watchers),
            watch_heartbeat_seconds: self.watch_heartbeat_seconds.or(other.watch_heartbeat_seconds),
            cache_mib: self.cache_mib.or(other.cache_mib),
            journal_mib: self.journal_mib.or(other.journal_mib),
            max_view_age_seconds: self.max_view_age_seconds.or(other.max_view_age_seconds),
            refuse_old_views: self.refuse_old_views.or(other.refuse_old_views),
            clock_doubt_seconds: self.clock_doubt_seconds.or(other.clock_doubt_seconds),
            refuse_skewed_clock: self.refuse_skewed_clock.or(other.refuse_skewed_clock),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_client_ca: self.tls_client_ca.or(other.tls_client_ca),
            grpc_web_origins: self.grpc_web_origins.or(other.grpc_web_origins),
            max_connections: self.max_connections.or(other.max_connections),
            max_calls: self.max_calls.or(other.max_calls),
            max_message_mib: self.max_message_mib.or(other.max_message_mib),
            max_connection_age_seconds: self
                .max_connection_age_seconds
                .or(other.max_connection_age_seconds),
            stop_delay_seconds: self.stop_delay_seconds.or(other.stop_delay_seconds),
            drain_seconds: self.drain_seconds.or(other.drain_seconds),
            log_format: self.log_format.or(other.log_format),
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
            trace_share: self.trace_share.or(other.trace_share),
        }
    }
}

/// The whole configuration, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub dev: bool,
    pub place: Location,
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
    pub max_connections: usize,
    pub max_calls: usize,
    pub max_message_bytes: usize,
    pub max_connection_age_seconds: u64,
    pub stop_delay_seconds: u64,
    pub drain_seconds: u64,
    pub log_format: LogFormat,
    pub otlp_endpoint: Option<String>,
    pub trace_share: f64,
    pub apps: Vec<AppConfig>,
    pub services: Vec<ServiceConfig>,
    pub issuers: Vec<IssuerConfig>,
}

/// What a configuration file holds: settings, and who may call.
#[derive(Debug, Default)]
struct File {
    settings: Settings,
    apps: Vec<AppConfig>,
    services: Vec<ServiceConfig>,
    issuers: Vec<IssuerConfig>,
}

impl Config {
    /// Puts flags and environment, the file, and the defaults together. Errors: everything that is
    /// wrong, a sentence each.
    pub fn load(flags: Settings, file: Option<&Path>, dev: bool) -> Result<Self, Vec<String>> {
        let mut file = file.map(File::read).transpose()?.unwrap_or_default();
        if dev {
            file.apps.extend(dev::apps());
            file.services.push(dev::service());
        }
        let settings = flags.or(file.settings);
        let (memory, quotas) = (Memory::default(), Quotas::default());
        let memory = Memory {
            cache_bytes: settings
                .cache_mib
                .map_or(memory.cache_bytes, |mib| mib.saturating_mul(1 << 20)),
            journal_bytes: settings
                .journal_mib
                .map_or(memory.journal_bytes, |mib| mib.saturating_mul(1 << 20)),
        };
        let place = match settings.store.unwrap_or_default() {
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
                    "tls_cert and tls_key go together, and tls_client_ca with both".to_owned(),
                ]);
            }
        };
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let config = Self {
            dev,
            place,
            grpc_addr: settings.grpc_addr.unwrap_or_else(|| local(50_051)),
            rest_addr: settings.rest_addr.unwrap_or_else(|| local(8_080)),
            admin_addr: settings.admin_addr.unwrap_or_else(|| local(9_090)),
            addr_file: settings.addr_file,
            rates: Rates {
                // What the vendors' documents promise for each app.
                calls: settings.rate_limit.unwrap_or(100),
                user_calls: settings.user_rate_limit.unwrap_or(20),
                tokens: settings.token_rate_limit.unwrap_or(300),
            },
            max_users: settings.max_users.unwrap_or(60),
            token_ttl_seconds: settings.token_ttl_seconds.unwrap_or(7 * 24 * 3_600),
            trusted_proxies: settings.trusted_proxies.unwrap_or_default(),
            // The event of one mute takes some 100 bytes, that of a hundred mutes 1 KiB or more.
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
            // Well within the minute after which proxies take an idle stream for dead.
            watch_heartbeat_seconds: settings.watch_heartbeat_seconds.unwrap_or(15),
            // Above the election of a leader.
            max_view_age_seconds: settings.max_view_age_seconds.unwrap_or(10),
            refuse_old_views: settings.refuse_old_views.unwrap_or(false),
            clock_doubt: settings
                .clock_doubt_seconds
                .map_or(crate::clock::DEFAULT_DOUBT, Duration::from_secs),
            refuse_skewed_clock: settings.refuse_skewed_clock.unwrap_or(false),
            tls,
            grpc_web_origins: settings.grpc_web_origins.unwrap_or_default(),
            // An idle connection takes some 10 KiB, a call that runs some more.
            max_connections: settings.max_connections.unwrap_or(10_000),
            max_calls: settings.max_calls.unwrap_or(10_000),
            // Decoded, a message takes some times as much.
            max_message_bytes: settings.max_message_mib.unwrap_or(64).saturating_mul(1 << 20),
            max_connection_age_seconds: settings.max_connection_age_seconds.unwrap_or(1_800),
            stop_delay_seconds: settings.stop_delay_seconds.unwrap_or(0),
            drain_seconds: settings.drain_seconds.unwrap_or(10),
            log_format: settings.log_format.unwrap_or_default(),
            otlp_endpoint: settings.otlp_endpoint,
            // Of 100,000 checks a second more than enough.
            trace_share: settings.trace_share.unwrap_or(0.01),
            apps: file.apps,
            services: file.services,
            issuers: file.issuers,
        };
        let wrong = config.faults();
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    /// Who may call. Errors: everything that is wrong, a sentence each.
    pub fn credentials(&self, clock: &Clock) -> Result<Credentials, Vec<String>> {
        Credentials::new(&self.apps, &self.services, &self.issuers, clock.clone())
    }

    fn faults(&self) -> Vec<String> {
        let mut wrong = self.credentials(&Clock::system()).err().unwrap_or_default();
        wrong.extend(weak::secrets(&self.apps, &self.services));
        if !(1..=100).contains(&self.max_users) {
            wrong.push("max_users is 1 to 100".to_owned());
        }
        if self.token_ttl_seconds > crate::service::MAX_TTL_S {
            wrong.push("token_ttl_seconds is at most 2147483647; 0 is without end".to_owned());
        }
        if self.retention.events == 0 || self.retention.age_ms == 0 {
            wrong.push("keep_events is at least 1, keep_days at least 1".to_owned());
        }
        let Quotas { rooms, clients, mutes, profile_bytes, requests, watchers } = self.quotas;
        if [rooms, clients, mutes, profile_bytes, requests, watchers].contains(&0) {
            wrong.push("keep_requests and every quota are at least 1".to_owned());
        }
        if self.max_view_age_seconds < 3 {
            wrong.push("max_view_age_seconds is at least 3".to_owned());
        }
        if self.max_connections == 0 || self.max_calls == 0 {
            wrong.push("max_connections is at least 1, max_calls at least 1".to_owned());
        }
        if !(16..=1 << 20).contains(&(self.max_message_bytes >> 20)) {
            wrong.push("max_message_mib is 16 to 1048576".to_owned());
        }
        if !(0.0..=1.0).contains(&self.trace_share) {
            wrong.push("trace_share is 0 to 1".to_owned());
        }
        if self.otlp_endpoint.as_ref().is_some_and(|endpoint| !endpoint.starts_with("http://")) {
            wrong.push("otlp_endpoint is http://HOST:PORT, where a collector takes OTLP over gRPC; one elsewhere is reached through one beside this".to_owned());
        }
        if !(1..=3_600).contains(&self.watch_heartbeat_seconds) {
            wrong.push("watch_heartbeat_seconds is 1 to 3600".to_owned());
        }
        if let Location::Directory { memory, .. } = &self.place {
            if !(1..=1 << 20).contains(&(memory.cache_bytes >> 20)) {
                wrong.push("cache_mib is 1 to 1048576".to_owned());
            }
            if !(1..=1 << 10).contains(&(memory.journal_bytes >> 20)) {
                wrong.push("journal_mib is 1 to 1024".to_owned());
            }
        }
        for service in &self.services {
            for app in &service.apps {
                if app != "*" && !self.apps.iter().any(|known| known.key == *app) {
                    wrong.push(format!(
                        "service \"{}\": the app \"{app}\" is not configured",
                        service.name
                    ));
                }
            }
        }
        if self.dev {
            for (name, addr) in [
                ("grpc_addr", self.grpc_addr),
                ("rest_addr", self.rest_addr),
                ("admin_addr", self.admin_addr),
            ] {
                if !addr.ip().is_loopback() {
                    wrong.push(format!("{name} {addr}: dev mode has well-known keys and serves loopback addresses only"));
                }
            }
        }
        wrong
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, Vec<String>> {
        let text = fs::read_to_string(path)
            .map_err(|error| vec![format!("{}: {error}", path.display())])?;
        Self::parse(&text).map_err(|wrong| {
            wrong.into_iter().map(|what| format!("{}: {what}", path.display())).collect()
        })
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        // The message and the line, never the line's text: it may hold a secret.
        let place = |error: &toml::de::Error| {
            error.span().map_or(0, |span| text[..span.start].lines().count().max(1))
        };
        let tell = |error: toml::de::Error| format!("line {}: {}", place(&error), error.message());
        let mut table: toml::Table = text.parse().map_err(|error| vec![tell(error)])?;
        let mut wrong = Vec::new();
        let apps = list(&mut table, "apps", &mut wrong);
        let services = list(&mut table, "services", &mut wrong);
        let issuers = list(&mut table, "issuers", &mut wrong);
        let settings = table.try_into().unwrap_or_else(|error: toml::de::Error| {
            wrong.push(error.message().to_owned());
            Settings::default()
        });
        if wrong.is_empty() { Ok(Self { settings, apps, services, issuers }) } else { Err(wrong) }
    }
}

/// Takes a list of tables out of the file; what is wrong with one does not hide what is wrong with
/// the next.
fn list<T: serde::de::DeserializeOwned>(
    table: &mut toml::Table,
    name: &str,
    wrong: &mut Vec<String>,
) -> Vec<T> {
    let items = match table.remove(name) {
        None => return Vec::new(),
        Some(toml::Value::Array(items)) => items,
        Some(_) => {
            wrong.push(format!("{name} is a list of tables: [[{name}]]"));
            return Vec::new();
        }
    };
    let item = |(number, item): (usize, toml::Value)| {
        let item = item.try_into().map_err(|error: toml::de::Error| {
            wrong.push(format!("[[{name}]] number {}: {}", number + 1, error.message()))
        });
        item.ok()
    };
    items.into_iter().enumerate().filter_map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_configuration_is_good() {
        let file = File::parse(include_str!("../deploy/mute-service.toml"));
        let wrong = file
            .and_then(|file| {
                Credentials::new(&file.apps, &file.services, &file.issuers, Clock::system())
                    .map(drop)
            })
            .err();
        assert_eq!(wrong, None);
    }

    #[test]
    fn unknown_keys_are_refused_and_all_faults_are_told() {
        let text = "grpc_adr = \"127.0.0.1:1\"\n[[apps]]\nkey = \"a\"\ncolour = 1\n[[apps]]\nkey = \"b\"\napi_key_hash = \"plain\"\n";
        let wrong = File::parse(text).err().unwrap_or_default().join("\n");
        for word in ["grpc_adr", "colour", "hash-key"] {
            assert!(wrong.contains(word), "{word} in {wrong}");
        }
    }

    #[test]
    fn a_flag_is_before_the_file() {
        let flags = Settings { rate_limit: Some(1), ..Settings::default() };
        let file = Settings { rate_limit: Some(2), max_users: Some(3), ..Settings::default() };
        let both = flags.or(file);
        assert_eq!((both.rate_limit, both.max_users), (Some(1), Some(3)));
    }

    #[test]
    fn dev_mode_serves_loopback_only() {
        let open = Settings { rest_addr: "0.0.0.0:8080".parse().ok(), ..Settings::default() };
        let wrong = Config::load(open.clone(), None, true).err().unwrap_or_default();
        assert!(wrong.iter().any(|what| what.contains("loopback")), "{wrong:?}");
        assert!(Config::load(open, None, false).is_ok());
    }
}
