//! The settings: each is a flag, an environment variable and a key of the configuration file.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use ipnet::IpNet;
use serde::Deserialize;

use super::{address, etcd::EtcdSettings};
use crate::{server::web::Origin, store::Engine, telemetry::LogFormat};

/// Each setting that is not given is `None`; [`super::Config`] has the defaults.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Storage engine: `sled` is embedded and keeps its files in the data directory; `etcd` is a
    /// cluster that several replicas share [default: sled]
    #[arg(long, value_enum, env = "MUTE_STORE")]
    pub store: Option<Engine>,
    /// Directory of the embedded store [default: ./data]
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Refuse to start where the data directory has no store; otherwise an empty one is made,
    /// with a warning [default: false]
    #[arg(long, value_name = "BOOL", env = "MUTE_REFUSE_MISSING_DATA_DIR", num_args = 0..=1, default_missing_value = "true")]
    pub refuse_missing_data_dir: Option<bool>,
    /// Let dev mode serve addresses that others can reach, although its keys are public; for
    /// containers whose ports are published on loopback only [default: false]
    #[arg(long, value_name = "BOOL", env = "MUTE_DEV_PUBLIC_ADDRESSES", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip)]
    pub dev_public_addresses: Option<bool>,
    /// Where the cluster is, for `--store etcd`
    #[command(flatten)]
    #[serde(default)]
    pub etcd: EtcdSettings,
    /// Address of the gRPC listener; port 0 takes a free port; `:PORT` is every address of this
    /// machine, and `localhost:PORT` is 127.0.0.1 [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR", value_parser = address::listener, env = "MUTE_GRPC_ADDR")]
    #[serde(default, deserialize_with = "address::listener_of_file")]
    pub grpc_addr: Option<SocketAddr>,
    /// Address of the REST listener [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address::listener, env = "MUTE_REST_ADDR")]
    #[serde(default, deserialize_with = "address::listener_of_file")]
    pub rest_addr: Option<SocketAddr>,
    /// Address of the admin listener: health, metrics and backups; do not expose it to the public
    /// [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", value_parser = address::listener, env = "MUTE_ADMIN_ADDR")]
    #[serde(default, deserialize_with = "address::listener_of_file")]
    pub admin_addr: Option<SocketAddr>,
    /// File to write the bound addresses to, as JSON
    #[arg(long, value_name = "FILE", env = "MUTE_ADDR_FILE")]
    pub addr_file: Option<PathBuf>,
    /// Calls per second of one method in one app; admins, room staff and users have a limit each; 0
    /// is unlimited; internal services are never limited [default: 100]
    #[arg(long, value_name = "N", env = "MUTE_RATE_LIMIT")]
    pub rate_limit: Option<u32>,
    /// Calls per second of one user, all methods together; 0 is unlimited [default: 20]
    #[arg(long, value_name = "N", env = "MUTE_USER_RATE_LIMIT")]
    pub user_rate_limit: Option<u32>,
    /// Tokens issued per second in one app; wrong secrets from one address or for one client are
    /// limited to a tenth of it; 0 is unlimited [default: 300]
    #[arg(long, value_name = "N", env = "MUTE_TOKEN_RATE_LIMIT")]
    pub token_rate_limit: Option<u32>,
    /// Maximum number of users in one call of an Agora path, 1 to 100 [default: 60]
    #[arg(long, value_name = "N", env = "MUTE_MAX_USERS")]
    pub max_users: Option<usize>,
    /// Lifetime of an issued token if the caller names none; 0 means that tokens do not expire
    /// [default: 604800, a week]
    #[arg(long, value_name = "SECONDS", env = "MUTE_TOKEN_TTL_SECONDS")]
    pub token_ttl_seconds: Option<u64>,
    /// Networks or addresses of proxies whose headers X-Forwarded-... and Forwarded are trusted
    /// [default: none]
    #[arg(
        long,
        value_name = "CIDR,CIDR",
        value_delimiter = ',',
        value_parser = address::network,
        env = "MUTE_TRUSTED_PROXIES"
    )]
    #[serde(default, deserialize_with = "address::networks_of_file")]
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Number of events to keep; each change is an event: who did what to whom, when and why
    /// [default: 1000000]
    #[arg(long, value_name = "N", env = "MUTE_KEEP_EVENTS")]
    pub keep_events: Option<u64>,
    /// How long to keep events [default: 30]
    #[arg(long, value_name = "DAYS", env = "MUTE_KEEP_DAYS")]
    pub keep_days: Option<u64>,
    /// Maximum number of idempotency records per app; a write with a request id keeps its answer
    /// for a day, so that a retry gets the same answer; one above 1 KiB counts as several; at the
    /// maximum, such writes are refused [default: 1000000]
    #[arg(long, value_name = "N", env = "MUTE_KEEP_REQUESTS")]
    pub keep_requests: Option<u64>,
    /// Maximum number of registered rooms per app [default: 200000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_ROOMS")]
    pub quota_rooms: Option<u64>,
    /// Maximum number of registered clients per app [default: 2000000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_CLIENTS")]
    pub quota_clients: Option<u64>,
    /// Maximum number of mutes, bans and allow list entries per app; users may fill half of it
    /// [default: 2000000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_MUTES")]
    pub quota_mutes: Option<u64>,
    /// Maximum size of all profile texts and custom fields per app [default: 256]
    #[arg(long, value_name = "MIB", env = "MUTE_QUOTA_PROFILE_MIB")]
    pub quota_profile_mib: Option<u64>,
    /// Maximum number of concurrent watches per app on this replica [default: 20000]
    #[arg(long, value_name = "N", env = "MUTE_QUOTA_WATCHERS")]
    pub quota_watchers: Option<u64>,
    /// Interval of the heartbeats that show a watcher that it has missed nothing, 1 to 3600
    /// [default: 15]
    #[arg(long, value_name = "SECONDS", env = "MUTE_WATCH_HEARTBEAT_SECONDS")]
    pub watch_heartbeat_seconds: Option<u64>,
    /// Page cache of the embedded store [default: 8]
    #[arg(long, value_name = "MIB", env = "MUTE_CACHE_MIB")]
    pub cache_mib: Option<u64>,
    /// Size of the embedded store's journal before its commits move to the database; a larger
    /// journal writes less to disk and takes longer to replay at startup [default: 4]
    #[arg(long, value_name = "MIB", env = "MUTE_JOURNAL_MIB")]
    pub journal_mib: Option<u64>,
    /// How stale a replica's view of the cluster may get before /readyz and the log report it, at
    /// least 3 [default: 10]
    #[arg(long, value_name = "SECONDS", env = "MUTE_MAX_VIEW_AGE_SECONDS")]
    pub max_view_age_seconds: Option<u64>,
    /// Refuse checks while the view is staler than that, and answer 503 on /readyz; otherwise
    /// checks are answered from the stale view [default: false]
    #[arg(long, value_name = "BOOL", env = "MUTE_REFUSE_OLD_VIEWS", num_args = 0..=1, default_missing_value = "true")]
    pub refuse_old_views: Option<bool>,
    /// How long to distrust the wall clock after it jumps by more than two seconds; meanwhile a
    /// mute is removed only when it has ended by the old time and by the new time [default: 600]
    #[arg(long, value_name = "SECONDS", env = "MUTE_CLOCK_DOUBT_SECONDS")]
    pub clock_doubt_seconds: Option<u64>,
    /// Answer 503 on /readyz while the wall clock differs by more than two seconds from those of
    /// the other replicas [default: false]
    #[arg(long, value_name = "BOOL", env = "MUTE_REFUSE_SKEWED_CLOCK", num_args = 0..=1, default_missing_value = "true")]
    pub refuse_skewed_clock: Option<bool>,
    /// Certificate of the gRPC and REST listeners, in PEM, with its intermediates; turns TLS on;
    /// read again when it changes
    #[arg(long, value_name = "FILE", env = "MUTE_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", env = "MUTE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities of clients, in PEM; an internal service can then authenticate by a
    /// certificate (see `cert_names` of a service)
    #[arg(long, value_name = "FILE", env = "MUTE_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// Origins of web pages that may call gRPC, over grpc-web, such as `https://console.example`;
    /// `*` allows every origin; in dev mode, pages of this machine may by default [default: none]
    #[arg(
        long,
        value_name = "ORIGIN,ORIGIN",
        value_delimiter = ',',
        env = "MUTE_GRPC_WEB_ORIGINS"
    )]
    pub grpc_web_origins: Option<Vec<Origin>>,
    /// Origins of web pages that may call REST; `*` allows every origin; in dev mode, pages of this
    /// machine may by default [default: none]
    #[arg(long, value_name = "ORIGIN,ORIGIN", value_delimiter = ',', env = "MUTE_REST_ORIGINS")]
    pub rest_origins: Option<Vec<Origin>>,
    /// Maximum number of connections to each of gRPC and REST; fewer where the limit of open files
    /// is too low; at the maximum, an idle connection is closed for a new one, or else the new one
    /// is [default: 10000]
    #[arg(long, value_name = "N", env = "MUTE_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Maximum number of concurrent calls; further calls are refused at once [default: 10000]
    #[arg(long, value_name = "N", env = "MUTE_MAX_CALLS")]
    pub max_calls: Option<usize>,
    /// Maximum memory of the requests and answers of all calls together [default: 64]
    #[arg(long, value_name = "MIB", env = "MUTE_MAX_MESSAGE_MIB")]
    pub max_message_mib: Option<usize>,
    /// Age at which a client is asked to reconnect, give or take a tenth, so that clients spread
    /// over new replicas; 0 is never [default: 1800]
    #[arg(long, value_name = "SECONDS", env = "MUTE_MAX_CONNECTION_AGE_SECONDS")]
    pub max_connection_age_seconds: Option<u64>,
    /// How long an HTTP/1 connection may be idle before it is closed, 30 to 86400; longer than a
    /// proxy in front keeps it, or calls through the proxy fail [default: 75]
    #[arg(long, value_name = "SECONDS", env = "MUTE_MAX_CONNECTION_IDLE_SECONDS")]
    pub max_connection_idle_seconds: Option<u64>,
    /// How long to keep serving after SIGTERM while health reports not ready, so that load
    /// balancers send new calls elsewhere [default: 0]
    #[arg(long, value_name = "SECONDS", env = "MUTE_STOP_DELAY_SECONDS")]
    pub stop_delay_seconds: Option<u64>,
    /// How long running calls may take after that before they are aborted [default: 10]
    #[arg(long, value_name = "SECONDS", env = "MUTE_DRAIN_SECONDS")]
    pub drain_seconds: Option<u64>,
    /// Format of the log, which goes to standard error [default: text]
    #[arg(long, value_enum, env = "MUTE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Collector to send traces to, over OTLP (gRPC), such as `http://127.0.0.1:4317` [default:
    /// none]
    #[arg(long, value_name = "URL", env = "MUTE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Share of calls to trace, 0 to 1; a call of an internal service follows the sampling decision
    /// in its `traceparent` [default: 0.01]
    #[arg(long, value_name = "SHARE", env = "MUTE_TRACE_SHARE")]
    pub trace_share: Option<f64>,
}

impl Settings {
    /// Each setting of `self`, or else that of `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            store: self.store.or(other.store),
            data_dir: self.data_dir.or(other.data_dir),
            refuse_missing_data_dir: self.refuse_missing_data_dir.or(other.refuse_missing_data_dir),
            dev_public_addresses: self.dev_public_addresses.or(other.dev_public_addresses),
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
            rest_origins: self.rest_origins.or(other.rest_origins),
            max_connections: self.max_connections.or(other.max_connections),
            max_calls: self.max_calls.or(other.max_calls),
            max_message_mib: self.max_message_mib.or(other.max_message_mib),
            max_connection_age_seconds: self
                .max_connection_age_seconds
                .or(other.max_connection_age_seconds),
            max_connection_idle_seconds: self
                .max_connection_idle_seconds
                .or(other.max_connection_idle_seconds),
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
    fn a_flag_overrides_the_file() {
        let flags = Settings { rate_limit: Some(1), ..Settings::default() };
        let file = Settings { rate_limit: Some(2), max_users: Some(3), ..Settings::default() };
        let both = flags.or(file);
        assert_eq!((both.rate_limit, both.max_users), (Some(1), Some(3)));
    }
}
