//! The three listeners: gRPC with health and reflection, REST, and admin. The credentials layer
//! goes around the first two; of what admin serves, only a backup needs credentials.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Layer as _;

use crate::{
    auth::credentials::{self, Access},
    gateway::{self, Gateway},
    grpc::Api,
    limits::{
        concurrency::ConcurrencyLimit,
        connection::{Connection, Exchange},
        sent::{Carried, Sent},
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
mod forwarded;
mod h2_goaway_fix;
mod http;
mod listener;
mod message;
mod metrics;
mod routes;
pub mod tls;
pub mod web;

pub use admission::Sites;
use calls::Calls;
use http::Http;
use listener::Failure;
pub use listener::{Rules, Stop};
pub use routes::Routes;
use web::Origin;

/// Probes, scrapers and backups.
const ADMIN_CONNECTIONS: usize = 256;

/// For a message of health and reflection.
const STRANGERS_BYTES: usize = 4 << 10;

/// Health as gRPC's own service tells it, and the routes of all services.
pub async fn grpc_routes(
    api: Api,
) -> Result<(Routes<MuteServiceServer<Api>>, HealthReporter), Failure> {
    let (reporter, health) = tonic_health::server::health_reporter();
    set_serving(&reporter, ServingStatus::Serving).await;
    // Older clients know reflection by its first name only.
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS);
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Who asks for these need not be known.
    let mut others = tonic::service::Routes::new(health.max_decoding_message_size(STRANGERS_BYTES));
    others =
        others.add_service(reflection().build_v1()?.max_decoding_message_size(STRANGERS_BYTES));
    others = others
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(STRANGERS_BYTES));
    others = others
        .add_service(DirectoryServiceServer::new(api.clone()))
        .add_service(TokenServiceServer::new(api.clone()));
    Ok((Routes::new(MuteServiceServer::new(api), others), reporter))
}

const SERVICES: [&str; 4] = [
    "",
    MuteServiceServer::<Api>::NAME,
    DirectoryServiceServer::<Api>::NAME,
    TokenServiceServer::<Api>::NAME,
];

/// Tells gRPC's health checkers.
pub async fn set_serving(reporter: &HealthReporter, status: ServingStatus) {
    for name in SERVICES {
        reporter.set_service_status(name, status).await;
    }
}

/// Ends the streams of those who watch the health, which would hold up a stop.
pub async fn end_health_watches(reporter: &HealthReporter) {
    let mut reporter = reporter.clone();
    for name in SERVICES {
        reporter.clear_service_status(name).await;
    }
}

/// Serves gRPC until it is told to stop, then finishes the calls that run; to pages of these
/// origins over grpc-web too.
pub async fn serve_grpc(
    listener: TcpListener,
    rules: Rules,
    routes: Routes<MuteServiceServer<Api>>,
    pages: Vec<Origin>,
    access: Arc<Access>,
    load: Arc<ConcurrencyLimit>,
    stop: Stop,
) {
    let calls = Calls(load);
    // The same in both, but of two types: for bodies as they come, and as grpc-web hands them on.
    if pages.is_empty() {
        let calls = credentials::layer(access).layer(calls.layer(routes));
        listener::serve(listener, Http::Two, Rules { name: "grpc", ..rules }, calls, stop).await;
    } else {
        let calls = credentials::layer(access).layer(calls.layer(routes));
        listener::serve(
            listener,
            Http::Any,
            Rules { name: "grpc", ..rules },
            web::around(calls, &pages),
            stop,
        )
        .await;
    }
}

/// Serves REST until it is told to stop, then finishes the calls that run.
pub async fn serve_rest(
    listener: TcpListener,
    rules: Rules,
    gateway: Gateway,
    access: Arc<Access>,
    stop: Stop,
) {
    let routes = credentials::layer(access).layer(gateway::router(gateway));
    listener::serve(listener, Http::Any, Rules { name: "rest", ..rules }, routes, stop).await;
}

/// Serves health, metrics and backups until it is told to stop, which is after all else; `stopping`
/// tells when not to be ready any more. Never over TLS: probes and scrapers come to it from within.
pub async fn serve_admin(
    listener: TcpListener,
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
        max_connections: ADMIN_CONNECTIONS,
        name: "admin",
        sites: Arc::default(),
        trusted_proxies: Arc::default(),
        max_age: Duration::ZERO,
        tls: None,
    };
    let routes = routes.with_state(admin).merge(backups).layer(middleware::from_fn(keep));
    listener::serve(listener, Http::Any, rules, routes, stop).await;
}

/// A connection is not idle while what it has asked for is being sent.
async fn keep(request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let (head, body) = next.run(request).await.into_parts();
    let exchange = connection.map(|connection| Exchange::begin(connection, true));
    let carried = Carried { exchange, ..Carried::default() };
    Response::from_parts(head, Body::new(Sent::stream(body, carried)))
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
    // A replica that answers all the same stays in rotation: where the cluster itself is lost, so
    // are all others.
    let status = |refuses| if refuses { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let service = &admin.service;
    if service.has_old_view() {
        let told = format!("the cluster was not heard from for {} s", service.view.age().as_secs());
        return (status(service.refuse_old_views), told);
    }
    if let Some(skew_ms) = sweep::far_skew_ms(&*service.store, &service.clock) {
        let told =
            format!("the clock is {} s from those of the other replicas", skew_ms as f64 / 1_000.0);
        return (status(service.refuse_skewed_clock), told);
    }
    (StatusCode::OK, "ok".to_owned())
}

async fn metrics_page(State(admin): State<Admin>) -> impl IntoResponse {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], metrics::text(&admin.service, admin.data_dir.as_deref()))
}
