//! The three listeners: gRPC (with health and reflection), REST, and admin (probes, metrics,
//! backups). The credentials layer wraps the first two; on the admin listener only a backup needs
//! credentials.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tonic::{codec::CompressionEncoding, server::NamedService as _};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Layer as _, util::MapRequestLayer};

use crate::{
    auth::credentials::{self, Access},
    gateway::{self, Gateway},
    grpc::Api,
    limits::{
        body::{CallGuard, CountedBody},
        concurrency::ConcurrencyLimit,
        connection::{Connection, Exchange},
    },
    proto::{
        DESCRIPTORS,
        v1::{
            directory_service_server::DirectoryServiceServer,
            mute_service_server::MuteServiceServer, token_service_server::TokenServiceServer,
        },
    },
    service::Service,
    sweep,
};

mod admission;
mod backup;
mod calls;
mod compression;
mod connection;
mod forwarded;
mod h2_frames;
mod h2_goaway_fix;
mod head_timer;
mod http;
mod lingering;
mod listener;
mod message;
mod metrics;
mod narrow_window;
mod open_files;
mod parse_faults;
mod reflection;
mod routes;
pub mod tls;
pub mod web;

pub use admission::SiteHolders;
use calls::CallLayer;
use connection::Failure;
pub use connection::{Rules, Stop};
use http::Protocols;
use message::UNAUTHENTICATED_MAX_BYTES;
pub use open_files::ConnectionLimits;
use parse_faults::FaultBody;
pub use routes::Routes;
use web::Origin;

/// All services of the gRPC listener, and what sets the status of gRPC's health service.
pub async fn grpc_routes(
    api: Api,
) -> Result<(Routes<MuteServiceServer<Api>>, HealthReporter), Failure> {
    let (reporter, health) = tonic_health::server::health_reporter();
    set_serving(&reporter, ServingStatus::Serving).await;
    // Older clients know reflection only as v1alpha.
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS);
        builder
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The details of errors: clients look up the types of what they receive.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    // Health and reflection need no credentials.
    macro_rules! compressible {
        ($service:expr) => {
            $service
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
        };
    }
    macro_rules! unauthenticated {
        ($service:expr) => {
            compressible!($service).max_decoding_message_size(UNAUTHENTICATED_MAX_BYTES)
        };
    }
    let services = tonic::service::Routes::new(unauthenticated!(health))
        .add_service(unauthenticated!(reflection::v1::server(reflection().build_v1()?)))
        .add_service(unauthenticated!(reflection::v1alpha::server(reflection().build_v1alpha()?)))
        .add_service(compressible!(DirectoryServiceServer::new(api.clone())))
        .add_service(compressible!(TokenServiceServer::new(api.clone())));
    Ok((Routes::new(compressible!(MuteServiceServer::new(api)), services), reporter))
}

const SERVICES: [&str; 4] = [
    "",
    MuteServiceServer::<Api>::NAME,
    DirectoryServiceServer::<Api>::NAME,
    TokenServiceServer::<Api>::NAME,
];

/// Sets the status that gRPC's health service reports.
pub async fn set_serving(reporter: &HealthReporter, status: ServingStatus) {
    for name in SERVICES {
        reporter.set_service_status(name, status).await;
    }
}

/// Ends the open watches of the health, which would delay a graceful stop.
pub async fn end_health_watches(reporter: &HealthReporter) {
    let mut reporter = reporter.clone();
    for name in SERVICES {
        reporter.clear_service_status(name).await;
    }
}

/// Serves gRPC until `stop` is true, then finishes the running calls. Web pages of these origins
/// may call over grpc-web.
pub async fn serve_grpc(
    listener: TcpListener,
    rules: Rules,
    routes: Routes<MuteServiceServer<Api>>,
    pages: Vec<Origin>,
    access: Arc<Access>,
    limit: Arc<ConcurrencyLimit>,
    stop: Stop,
) {
    let call_layer = CallLayer(limit);
    // Both branches build the same stack, but grpc-web changes the type of its request bodies.
    if pages.is_empty() {
        let service = credentials::layer(access).layer(call_layer.layer(routes));
        listener::serve(
            listener,
            Protocols::Http2Only,
            Rules { name: "grpc", ..rules },
            service,
            stop,
        )
        .await;
    } else {
        let service = credentials::layer(access).layer(call_layer.layer(routes));
        listener::serve(
            listener,
            Protocols::Auto,
            Rules { name: "grpc", ..rules },
            web::wrap(service, &pages),
            stop,
        )
        .await;
    }
}

/// Serves REST until `stop` is true, then finishes the running calls. Web pages of these origins
/// may call.
pub async fn serve_rest(
    listener: TcpListener,
    rules: Rules,
    gateway: Gateway,
    pages: Vec<Origin>,
    access: Arc<Access>,
    stop: Stop,
) {
    let clock = gateway.clock.clone();
    let fault_body: FaultBody = Arc::new(move |status| gateway::fault_body(status, &clock));
    let rules = Rules { name: "rest", fault_body: Some(fault_body), ..rules };
    let routes = credentials::layer(access).layer(gateway::router(gateway));
    let routes = MapRequestLayer::new(gateway::trim_trailing_slash).layer(routes);
    listener::serve(listener, Protocols::Auto, rules, web::wrap_rest(routes, &pages), stop).await;
}

/// Serves probes, metrics and backups until `stop` is true, which is after the other listeners have
/// stopped. The service is not ready once `stopping` is true. Never over TLS: probes and scrapers
/// come from inside the cluster.
pub async fn serve_admin(
    listener: TcpListener,
    rules: Rules,
    service: Arc<Service>,
    data_dir: Option<PathBuf>,
    access: Arc<Access>,
    stopping: Stop,
    stop: Stop,
) {
    let backups = backup::routes(service.clone(), access, stopping.clone());
    let admin = Admin { service, data_dir, stopping };
    let routes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page));
    let rules = Rules {
        name: "admin",
        sites: Arc::default(),
        trusted_proxies: Arc::default(),
        max_age: Duration::ZERO,
        tls: None,
        ..rules
    };
    let routes = routes.with_state(admin).merge(backups).layer(middleware::from_fn(track_exchange));
    listener::serve(listener, Protocols::Auto, rules, routes, stop).await;
}

/// Keeps a connection busy until its response is sent.
async fn track_exchange(request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let (head, body) = next.run(request).await.into_parts();
    let exchange = connection.map(|connection| Exchange::begin(connection, true));
    let guard = CallGuard { exchange, ..CallGuard::default() };
    Response::from_parts(head, Body::new(CountedBody::stream(body, guard)))
}

#[derive(Clone)]
struct Admin {
    service: Arc<Service>,
    data_dir: Option<PathBuf>,
    stopping: Stop,
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if *admin.stopping.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned());
    }
    // A replica that still serves stays in rotation: if the cluster itself is lost, all other
    // replicas are in the same state.
    let status = |refuses_calls| {
        if refuses_calls { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    };
    let service = &admin.service;
    if service.has_old_view() {
        let message = format!("no contact with the cluster for {} s", service.view.age().as_secs());
        return (status(service.refuse_old_views), message);
    }
    if let Some(skew_ms) = sweep::far_skew_ms(&*service.store, &service.clock) {
        let message = format!(
            "the clock differs from those of the other replicas by {} s",
            skew_ms as f64 / 1_000.0
        );
        return (status(service.refuse_skewed_clock), message);
    }
    (StatusCode::OK, "ok".to_owned())
}

async fn metrics_page(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let format = metrics::Format::accepted(&headers);
    let text = metrics::text(&admin.service, admin.data_dir.as_deref(), format);
    ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], text)
}
