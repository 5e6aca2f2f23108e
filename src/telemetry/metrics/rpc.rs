//! The metrics of RPCs, under the names that gRPC's ecosystem uses.

use foldhash::HashMap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use prost::Message as _;
use prost_types::{FileDescriptorSet, ServiceDescriptorProto};

use super::register::{latency_histogram, register};
use crate::proto::DESCRIPTORS;

/// The metrics of one RPC method.
pub struct Method {
    /// Whether the method is one of this service's own.
    pub is_ours: bool,
    /// Whether the response is a stream.
    pub is_stream: bool,
    labels: RpcLabels,
    handled: Family<RpcCodeLabels, Counter>,
    handled_ok: Counter,
    /// Calls that have started.
    pub started: Counter,
    /// The time from a call's head to its response; for a stream, to its beginning.
    pub handling_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcCodeLabels {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

/// The service and method of all other paths: health, reflection and unknown ones.
pub(super) const OTHER: &str = "other";

/// gRPC's status codes, by number, as its ecosystem writes them.
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

impl Method {
    /// The service and method, as in the path.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.labels.grpc_service, self.labels.grpc_method)
    }

    /// Counts a call that ended with this gRPC status code.
    pub fn handled(&self, code: usize) {
        if code == 0 {
            self.handled_ok.inc();
            return;
        }
        let RpcLabels { grpc_type, grpc_service, grpc_method } = self.labels.clone();
        let grpc_code = CODES.get(code).copied().unwrap_or("Unknown");
        self.handled
            .get_or_create(&RpcCodeLabels { grpc_type, grpc_service, grpc_method, grpc_code })
            .inc();
    }
}

/// The metrics of all RPC methods.
pub(super) struct Methods {
    started: Family<RpcLabels, Counter>,
    handled: Family<RpcCodeLabels, Counter>,
    handling_seconds: Family<RpcLabels, Histogram>,
}

impl Methods {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let new = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        Self {
            started: register(registry, "grpc_server_started", "RPCs started", Family::default()),
            handled: register(
                registry,
                "grpc_server_handled",
                "RPCs completed, by status code",
                Family::default(),
            ),
            handling_seconds: register(
                registry,
                "grpc_server_handling_seconds",
                "Time from the head of an RPC to its response",
                new,
            ),
        }
    }

    /// The metrics of each method of this service, by path.
    pub(super) fn by_path(&self) -> HashMap<String, Method> {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file;
        let services = files.iter().flat_map(|file| {
            let name =
                |service: &ServiceDescriptorProto| format!("{}.{}", file.package(), service.name());
            file.service.iter().map(move |service| (name(service), service))
        });
        let methods = services.flat_map(|(name, service)| {
            service.method.iter().map(move |method| {
                let path = format!("/{name}/{}", method.name());
                (path, self.method(&name, method.name(), method.server_streaming()))
            })
        });
        methods.collect()
    }

    pub(super) fn method(&self, service: &str, method: &str, is_stream: bool) -> Method {
        let grpc_type = if is_stream { "server_stream" } else { "unary" };
        let labels = RpcLabels {
            grpc_type,
            grpc_service: service.to_owned(),
            grpc_method: method.to_owned(),
        };
        let RpcLabels { grpc_service, grpc_method, .. } = labels.clone();
        let ok = RpcCodeLabels { grpc_type, grpc_service, grpc_method, grpc_code: CODES[0] };
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
