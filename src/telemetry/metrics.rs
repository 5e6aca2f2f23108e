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
use prost::Message as _;
use prost_types::{FileDescriptorSet, ServiceDescriptorProto};

use crate::{error::Reason, proto::DESCRIPTORS};

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

/// What counts the calls of one RPC.
pub struct Method {
    /// Whether it is an RPC of this service's own.
    pub is_ours: bool,
    /// Whether its answer is a stream.
    pub is_stream: bool,
    labels: Rpc,
    handled: Family<RpcCode, Counter>,
    handled_ok: Counter,
    /// Calls that have begun.
    pub started: Counter,
    /// From a call's head to its answer; of a stream, to its beginning.
    pub handling_seconds: Histogram,
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
struct Rpc {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcCode {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
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

/// Service and method of what is no RPC of ours, for health, reflection and paths that are none.
const OTHER: &str = "other";

/// gRPC's codes, by number, as its ecosystem writes them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

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

impl Method {
    /// Service and method, as the path has them.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.labels.grpc_service, self.labels.grpc_method)
    }

    /// Counts a call that has ended with this code of gRPC.
    pub fn handled(&self, code: usize) {
        if code == 0 {
            self.handled_ok.inc();
            return;
        }
        let Rpc { grpc_type, grpc_service, grpc_method } = self.labels.clone();
        let grpc_code = CODES.get(code).copied().unwrap_or("Unknown");
        self.handled
            .get_or_create(&RpcCode { grpc_type, grpc_service, grpc_method, grpc_code })
            .inc();
    }
}

/// The metrics of all RPCs.
struct Methods {
    started: Family<Rpc, Counter>,
    handled: Family<RpcCode, Counter>,
    handling_seconds: Family<Rpc, Histogram>,
}

impl Methods {
    fn register(registry: &mut Registry) -> Self {
        let new = Family::new_with_constructor(seconds as fn() -> Histogram);
        Self {
            started: add(
                registry,
                "grpc_server_started",
                "RPCs that have begun",
                Family::default(),
            ),
            handled: add(
                registry,
                "grpc_server_handled",
                "RPCs that have ended, by code",
                Family::default(),
            ),
            handling_seconds: add(
                registry,
                "grpc_server_handling_seconds",
                "From an RPC's head to its answer",
                new,
            ),
        }
    }

    /// By path.
    fn all(&self) -> HashMap<String, Method> {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file;
        let services = files.iter().flat_map(|file| {
            let name =
                |service: &ServiceDescriptorProto| format!("{}.{}", file.package(), service.name());
            file.service.iter().map(move |service| (name(service), service))
        });
        let methods = services.flat_map(|(name, service)| {
            service.method.iter().map(move |method| {
                let path = format!("/{name}/{}", method.name());
                (path, self.of(&name, method.name(), method.server_streaming()))
            })
        });
        methods.collect()
    }

    fn of(&self, service: &str, method: &str, is_stream: bool) -> Method {
        let grpc_type = if is_stream { "server_stream" } else { "unary" };
        let labels =
            Rpc { grpc_type, grpc_service: service.to_owned(), grpc_method: method.to_owned() };
        let Rpc { grpc_service, grpc_method, .. } = labels.clone();
        let ok = RpcCode { grpc_type, grpc_service, grpc_method, grpc_code: CODES[0] };
        Method {
            is_ours: service != OTHER,
            is_stream,
            started: self.started.get_or_create_owned(&labels),
            handled: self.handled.clone(),
            handled_ok: self.handled.get_or_create_owned(&ok),
            handling_seconds: self.handling_seconds.get_or_create_owned(&labels),
            labels,
        }
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
