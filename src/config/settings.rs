//! What may be set, by a flag, a variable or the file.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use ipnet::IpNet;
use serde::Deserialize;

use super::etcd::EtcdSettings;
use crate::{server::web::Origin, store::Engine, telemetry::LogFormat};

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
    pub(super) fn or(self, other: Self) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_before_the_file() {
        let flags = Settings { rate_limit: Some(1), ..Settings::default() };
        let file = Settings { rate_limit: Some(2), max_users: Some(3), ..Settings::default() };
        let both = flags.or(file);
        assert_eq!((both.rate_limit, both.max_users), (Some(1), Some(3)));
    }
}
