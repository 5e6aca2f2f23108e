//! The metrics that are counted as events happen. They belong to the process, so any module may
//! count. Gauges of the current state are read from the service for each scrape
//! (`server/metrics.rs`). The values of labels come from lists in the code, never from callers.

use std::{sync::LazyLock, time::Duration};

use foldhash::HashMap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    error::{Reason, Refusal},
    proto::Rule,
};

mod register;
mod reload;
mod rpc;

use register::{latency_histogram, register};
pub use reload::{Outcome, Reloaded, Reloads};
pub use rpc::Method;
use rpc::{Methods, OTHER};

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

const SIZE_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1_024.0];

/// Reasons that count as failures of credentials, and of the store.
const CREDENTIAL_REASONS: [Reason; 7] = [
    Reason::InvalidApiKey,
    Reason::InvalidClientKey,
    Reason::InvalidToken,
    Reason::MalformedToken,
    Reason::MissingToken,
    Reason::InvalidCredentials,
    Reason::PermissionDenied,
];
const STORE_REASONS: [Reason; 2] = [Reason::StoreUnavailable, Reason::StoreFull];

/// Metrics are named after their fields, with the prefix `mute_`; RPCs have the names of gRPC's
/// ecosystem.
pub struct Metrics {
    registry: Registry,
    /// Files that are read again, and certificates.
    pub reloads: Reloads,
    rest_handled: Family<RestLabels, Counter>,
    rest_handling_seconds: Family<ApiLabels, Histogram>,
    commit_seconds: Histogram,
    commit_group_size: Histogram,
    commits: Counter,
    store_errors: Family<ReasonLabels, Counter>,
    expiries: Counter,
    expiry_lag_seconds: Histogram,
    rate_limited: Counter,
    auth_failures: Family<ReasonLabels, Counter>,
    credentials_refused: Family<CauseLabels, Counter>,
    issuer_failures: Counter,
    calls_shed: Counter,
    connections_refused: Counter,
    connections: Family<ListenerLabels, Gauge>,
    foreign_keys: Counter,
    checks: [Counter; RULES.len()],
    methods: HashMap<String, Method>,
    other_method: Method,
}

/// Every rule, at the index that is its number in the API.
const RULES: [Rule; 8] = [
    Rule::Unspecified,
    Rule::None,
    Rule::MemberMute,
    Rule::RoomBan,
    Rule::RoomStaff,
    Rule::AllowList,
    Rule::NotRegistered,
    Rule::UserMute,
];

const fn check_labels(rule: Rule) -> CheckLabels {
    let (answer, rule) = match rule {
        Rule::Unspecified | Rule::None => ("allowed", "none"),
        Rule::RoomStaff => ("allowed", "room_staff"),
        Rule::AllowList => ("allowed", "allow_list"),
        Rule::UserMute => ("denied", "user_mute"),
        Rule::MemberMute => ("denied", "member_mute"),
        Rule::RoomBan => ("denied", "room_ban"),
        Rule::NotRegistered => ("denied", "not_registered"),
    };
    CheckLabels { answer, rule }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    answer: &'static str,
    rule: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabels {
    api: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RestLabels {
    api: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::default();
        let methods = Methods::register(&mut registry);
        let own_registry = registry.sub_registry_with_prefix("mute");
        let help = "Checked pairs of user and room, by answer and deciding rule";
        let checks =
            register(own_registry, "checks", help, Family::<CheckLabels, Counter>::default());
        Self {
            reloads: Reloads::register(own_registry),
            rest_handled: register(
                own_registry,
                "rest_handled",
                "REST calls answered, by vendor and status",
                Family::default(),
            ),
            rest_handling_seconds: register(
                own_registry,
                "rest_handling_seconds",
                "Time from the head of a REST request to its response",
                Family::new_with_constructor(latency_histogram as fn() -> Histogram),
            ),
            commits: register(
                own_registry,
                "commits",
                "Commits that became durable",
                Counter::default(),
            ),
            commit_group_size: register(
                own_registry,
                "commit_group_size",
                "Commits that one sync, or one transaction of the cluster, made durable",
                Histogram::new(SIZE_BUCKETS),
            ),
            commit_seconds: register(
                own_registry,
                "commit_seconds",
                "Time to make a group of commits durable",
                latency_histogram(),
            ),
            store_errors: register(
                own_registry,
                "store_errors",
                "Calls that failed because of the store, by reason",
                by_reason(&STORE_REASONS),
            ),
            expiries: register(
                own_registry,
                "expiries",
                "Mutes and bans that expired and were swept",
                Counter::default(),
            ),
            expiry_lag_seconds: register(
                own_registry,
                "expiry_lag_seconds",
                "Time from the end of a mute or ban to its EXPIRED event",
                latency_histogram(),
            ),
            rate_limited: register(
                own_registry,
                "rate_limited",
                "Calls refused by a rate limit",
                Counter::default(),
            ),
            auth_failures: register(
                own_registry,
                "auth_failures",
                "Calls refused because of their credentials, by reason",
                by_reason(&CREDENTIAL_REASONS),
            ),
            credentials_refused: register(
                own_registry,
                "credentials_refused",
                "Credentials refused, by what was wrong with them",
                by_cause(),
            ),
            issuer_failures: register(
                own_registry,
                "issuer_failures",
                "Failed reads of the keys of an issuer",
                Counter::default(),
            ),
            calls_shed: register(
                own_registry,
                "calls_shed",
                "Calls refused by a concurrency limit",
                Counter::default(),
            ),
            connections_refused: register(
                own_registry,
                "connections_refused",
                "Connections refused because the listener was full or their address had its share",
                Counter::default(),
            ),
            connections: register(
                own_registry,
                "connections",
                "Open connections, by listener",
                Family::default(),
            ),
            foreign_keys: register(
                own_registry,
                "foreign_keys",
                "Foreign keys under this service's prefix of the cluster, which are ignored",
                Counter::default(),
            ),
            checks: RULES.map(|rule| checks.get_or_create_owned(&check_labels(rule))),
            other_method: methods.method(OTHER, OTHER, false),
            methods: methods.by_path(),
            registry,
        }
    }

    /// Counts the checks of one call, by the rules that decided them.
    pub fn checked(&self, rules: impl IntoIterator<Item = Rule>) {
        let mut counts = [0; RULES.len()];
        rules.into_iter().for_each(|rule| counts[rule as usize] += 1);
        // One that is zero touches nothing: all threads share the counters.
        for (counter, count) in self.checks.iter().zip(counts).filter(|(_, count)| *count > 0) {
            counter.inc_by(count);
        }
    }

    /// Counts a group of commits that became durable together, and how long that took.
    pub fn committed(&self, commits: usize, took: Duration) {
        self.commits.inc_by(commits as u64);
        self.commit_group_size.observe(commits as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// Counts a REST call with its response, by the vendor of its path.
    pub fn rest(&self, api: &'static str, status: u16, took: Duration) {
        self.rest_handled.get_or_create(&RestLabels { api, status }).inc();
        self.rest_handling_seconds.get_or_create(&ApiLabels { api }).observe(took.as_secs_f64());
    }

    /// Counts mutes and bans whose expiry was reported, and how late that was if it is known.
    pub fn expired(&self, restrictions: usize, lag: Option<Duration>) {
        self.expiries.inc_by(restrictions as u64);
        lag.iter().for_each(|lag| self.expiry_lag_seconds.observe(lag.as_secs_f64()));
    }

    /// Counts a refusal, if there is a metric for its reason.
    pub fn refused(&self, reason: Reason) {
        let labels = ReasonLabels { reason: reason.as_str() };
        if CREDENTIAL_REASONS.contains(&reason) {
            self.auth_failures.get_or_create(&labels).inc();
        } else if STORE_REASONS.contains(&reason) {
            self.store_errors.get_or_create(&labels).inc();
        } else if reason == Reason::RateLimited {
            self.rate_limited.inc();
        } else if reason == Reason::Overloaded {
            self.calls_shed.inc();
        }
    }

    /// Counts a refused credential.
    pub fn credential_refused(&self, refusal: Refusal) {
        self.credentials_refused.get_or_create(&CauseLabels { cause: refusal.as_str() }).inc();
    }

    /// Counts a failed read of an issuer's keys.
    pub fn issuer_failed(&self) {
        self.issuer_failures.inc();
    }

    /// Counts a refused connection.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// Sets the number of open connections of a listener.
    pub fn connections(&self, listener: &'static str, count: usize) {
        self.connections
            .get_or_create(&ListenerLabels { listener })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a foreign key under the service's prefix of the cluster.
    pub fn foreign_key(&self) {
        self.foreign_keys.inc();
    }

    /// The metrics of the RPC at this path, `/package.Service/Method`. Unknown paths share one.
    #[must_use]
    pub fn method(&self, path: &str) -> &Method {
        self.methods.get(path).unwrap_or(&self.other_method)
    }

    /// The registry with all metrics of the process.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// A counter for each reason. All exist from the start, so that the first event shows as a change.
fn by_reason(reasons: &[Reason]) -> Family<ReasonLabels, Counter> {
    let family = Family::default();
    reasons.iter().for_each(|reason| {
        drop(family.get_or_create_owned(&ReasonLabels { reason: reason.as_str() }))
    });
    family
}

/// The same for each cause of a refusal.
fn by_cause() -> Family<CauseLabels, Counter> {
    let family = Family::default();
    Refusal::ALL.iter().for_each(|refusal| {
        drop(family.get_or_create_owned(&CauseLabels { cause: refusal.as_str() }))
    });
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_counted_by_its_own_number() {
        let all: Vec<_> = (0..).map_while(|number| Rule::try_from(number).ok()).collect();
        assert_eq!(all, RULES);
    }
}
