//! Every metric that counts, by name. They are of the process, so whoever has something to count
//! does; what is true at a moment is read from the service when it is asked for (`telemetry.rs`).
//! Labels take their values from lists in the code, never from callers.

use std::{sync::LazyLock, time::Duration};

use foldhash::HashMap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

use crate::error::Reason;

mod rpc;

pub use rpc::Method;
use rpc::{Methods, OTHER};

/// Where everything is counted.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// From a quarter of a millisecond, each four times the one before.
const SECONDS: [f64; 9] = [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384];
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1_024.0];

/// Reasons that are counted as failures of the caller's credentials, and of the store.
const OF_CREDENTIALS: [Reason; 7] = [
    Reason::InvalidApiKey,
    Reason::InvalidClientKey,
    Reason::InvalidToken,
    Reason::MalformedToken,
    Reason::MissingToken,
    Reason::InvalidCredentials,
    Reason::PermissionDenied,
];
const OF_THE_STORE: [Reason; 2] = [Reason::StoreUnavailable, Reason::StoreFull];

/// The names are those of the fields, with `mute_` before them; those of gRPC are the ones its
/// ecosystem has.
pub struct Metrics {
    registry: Registry,
    rest_handled: Family<Rest, Counter>,
    rest_handling_seconds: Family<Api, Histogram>,
    commit_seconds: Histogram,
    commit_group_size: Histogram,
    commits: Counter,
    store_errors: Family<Why, Counter>,
    expiries: Counter,
    expiry_lag_seconds: Histogram,
    rate_limited: Counter,
    auth_failures: Family<Why, Counter>,
    issuer_failures: Counter,
    calls_shed: Counter,
    connections_refused: Counter,
    connections: Family<Listener, Gauge>,
    foreign_keys: Counter,
    checks: [Counter; Check::ALL.len()],
    methods: HashMap<String, Method>,
    other: Method,
}

/// The rule that a check's answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Check {
    None,
    UserMute,
    MemberMute,
    RoomBan,
    RoomStaff,
    AllowList,
    NotRegistered,
}

impl Check {
    const ALL: [Self; 7] = [
        Self::None,
        Self::UserMute,
        Self::MemberMute,
        Self::RoomBan,
        Self::RoomStaff,
        Self::AllowList,
        Self::NotRegistered,
    ];

    const fn labels(self) -> Answer {
        let (answer, rule) = match self {
            Self::None => ("allowed", "none"),
            Self::RoomStaff => ("allowed", "room_staff"),
            Self::AllowList => ("allowed", "allow_list"),
            Self::UserMute => ("denied", "user_mute"),
            Self::MemberMute => ("denied", "member_mute"),
            Self::RoomBan => ("denied", "room_ban"),
            Self::NotRegistered => ("denied", "not_registered"),
        };
        Answer { answer, rule }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    answer: &'static str,
    rule: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Api {
    api: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rest {
    api: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::default();
        let methods = Methods::register(&mut registry);
        let ours = registry.sub_registry_with_prefix("mute");
        let checked =
            "Pairs of user and room that were checked, by answer and the rule it comes from";
        let checks = add(ours, "checks", checked, Family::<Answer, Counter>::default());
        Self {
            rest_handled: add(
                ours,
                "rest_handled",
                "REST calls answered, by vendor and status",
                Family::default(),
            ),
            rest_handling_seconds: add(
                ours,
                "rest_handling_seconds",
                "From a REST call's head to its answer",
                Family::new_with_constructor(seconds as fn() -> Histogram),
            ),
            commits: add(ours, "commits", "Commits that became durable", Counter::default()),
            commit_group_size: add(
                ours,
                "commit_group_size",
                "Commits that became durable together: by one sync, or one transaction of the cluster",
                Histogram::new(SIZES),
            ),
            commit_seconds: add(
                ours,
                "commit_seconds",
                "How long it took to make them durable",
                seconds(),
            ),
            store_errors: add(
                ours,
                "store_errors",
                "Answers that told of the store's failures",
                by(&OF_THE_STORE),
            ),
            expiries: add(
                ours,
                "expiries",
                "Marks that have ended by themselves and were swept",
                Counter::default(),
            ),
            expiry_lag_seconds: add(
                ours,
                "expiry_lag_seconds",
                "From the end of a mark to its EXPIRED",
                seconds(),
            ),
            rate_limited: add(
                ours,
                "rate_limited",
                "Calls refused for the rate of their method in their app",
                Counter::default(),
            ),
            auth_failures: add(
                ours,
                "auth_failures",
                "Calls refused for their credentials",
                by(&OF_CREDENTIALS),
            ),
            issuer_failures: add(
                ours,
                "issuer_failures",
                "Times that the keys of an issuer could not be read",
                Counter::default(),
            ),
            calls_shed: add(
                ours,
                "calls_shed",
                "Calls refused because as many ran as may",
                Counter::default(),
            ),
            connections_refused: add(
                ours,
                "connections_refused",
                "Connections refused because there were as many as there may be, or the share of their address was taken",
                Counter::default(),
            ),
            connections: add(
                ours,
                "connections",
                "Open connections, by listener",
                Family::default(),
            ),
            foreign_keys: add(
                ours,
                "foreign_keys",
                "Keys below this service's prefix of the cluster that are none of its own, and were passed over",
                Counter::default(),
            ),
            checks: Check::ALL.map(|check| checks.get_or_create_owned(&check.labels())),
            other: methods.of(OTHER, OTHER, false),
            methods: methods.all(),
            registry,
        }
    }

    /// Counts the checks of one call.
    pub fn checked(&self, checks: impl IntoIterator<Item = Check>) {
        let mut counts = [0; Check::ALL.len()];
        checks.into_iter().for_each(|check| counts[check as usize] += 1);
        // One that is zero touches nothing: all threads share the counters.
        for (counter, count) in self.checks.iter().zip(counts).filter(|(_, count)| *count > 0) {
            counter.inc_by(count);
        }
    }

    /// Counts commits that became durable together, in so long.
    pub fn committed(&self, commits: usize, took: Duration) {
        self.commits.inc_by(commits as u64);
        self.commit_group_size.observe(commits as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// Counts a REST call that was answered, by the vendor of its path.
    pub fn rest(&self, api: &'static str, status: u16, took: Duration) {
        self.rest_handled.get_or_create(&Rest { api, status }).inc();
        self.rest_handling_seconds.get_or_create(&Api { api }).observe(took.as_secs_f64());
    }

    /// Counts marks whose end was told, so long after it where that is known.
    pub fn expired(&self, restrictions: usize, lag: Option<Duration>) {
        self.expiries.inc_by(restrictions as u64);
        lag.iter().for_each(|lag| self.expiry_lag_seconds.observe(lag.as_secs_f64()));
    }

    /// Counts a refusal, where its reason is one that is counted.
    pub fn refused(&self, reason: Reason) {
        let why = Why { reason: reason.as_str() };
        if OF_CREDENTIALS.contains(&reason) {
            self.auth_failures.get_or_create(&why).inc();
        } else if OF_THE_STORE.contains(&reason) {
            self.store_errors.get_or_create(&why).inc();
        } else if reason == Reason::RateLimited {
            self.rate_limited.inc();
        } else if reason == Reason::Overloaded {
            self.calls_shed.inc();
        }
    }

    /// Counts that the keys of an issuer could not be read.
    pub fn issuer_failed(&self) {
        self.issuer_failures.inc();
    }

    /// Counts a connection that was refused.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// Notes how many connections a listener has.
    pub fn connections(&self, listener: &'static str, count: usize) {
        self.connections
            .get_or_create(&Listener { listener })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a key of the cluster that is none of ours.
    pub fn foreign_key(&self) {
        self.foreign_keys.inc();
    }

    /// What counts the calls of the RPC at this path, `/package.Service/Method`; those of paths
    /// that are none are counted together.
    #[must_use]
    pub fn method(&self, path: &str) -> &Method {
        self.methods.get(path).unwrap_or(&self.other)
    }

    /// Everything that was counted so far.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Each is there from the start, so that its first event is seen as a change.
fn by(reasons: &[Reason]) -> Family<Why, Counter> {
    let family = Family::default();
    reasons
        .iter()
        .for_each(|reason| drop(family.get_or_create_owned(&Why { reason: reason.as_str() })));
    family
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
