//! The metrics of RPCs, under the names that gRPC's ecosystem has for them.

use foldhash::HashMap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use prost::Message as _;
use prost_types::{FileDescriptorSet, ServiceDescriptorProto};

use super::{add, seconds};
use crate::proto::DESCRIPTORS;

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

/// Service and method of what is no RPC of ours, for health, reflection and paths that are none.
pub(super) const OTHER: &str = "other";

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
pub(super) struct Methods {
    started: Family<Rpc, Counter>,
    handled: Family<RpcCode, Counter>,
    handling_seconds: Family<Rpc, Histogram>,
}

impl Methods {
    pub(super) fn register(registry: &mut Registry) -> Self {
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
    pub(super) fn all(&self) -> HashMap<String, Method> {
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

    pub(super) fn of(&self, service: &str, method: &str, is_stream: bool) -> Method {
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
