//! The REST gateway: the documented HTTP paths of two vendors, mapped onto the RPCs. It knows
//! vendor JSON and RPC messages, nothing else: every handler makes a message, calls the same method
//! that a gRPC caller reaches, and writes the vendor's envelope. A vendor's quirks live in that
//! vendor's file. Both have the same layout: paths and handlers in one file, envelope and errors in
//! the other.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
};
use futures_util::FutureExt as _;
use opentelemetry::KeyValue;
use tokio::time::timeout;

use crate::{
    auth::credentials::Caller,
    error::Error,
    limits::{
        body::{CallGuard, CountedBody},
        concurrency::{MAX_DEADLINE, MESSAGE_TIMEOUT},
        connection::{Connection, Exchange},
        holder::Resource,
        message::{self, ReadError},
    },
    telemetry::{metrics::METRICS, traces::CallTrace},
};

mod agora;
mod docs;
mod imkit;
mod wire;

pub use wire::Gateway;
use wire::wait;

/// A body holds at most 60 users of 64 characters, or a profile with 16 KiB of custom fields.
const MAX_BODY_BYTES: usize = 64 << 10;
/// The body of one who is not known and asks for a token.
const MAX_TOKEN_BYTES: usize = 4 << 10;
/// A path with 60 users of 64 characters, each percent-encoded, is within it.
const MAX_URI_BYTES: usize = 16 << 10;
const MAX_HEADER_BYTES: usize = 16 << 10;
/// How the paths end where who has no credentials yet gets one.
const TOKENS: &str = "/token";
const IMKIT: &str = "imkit";

/// All paths of both vendors, and what describes them. The credentials layer goes around it.
pub fn router(gateway: Gateway) -> Router {
    let for_all = gateway.clone();
    agora::routes()
        .merge(imkit::routes())
        .merge(docs::routes())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(for_all, around))
        .with_state(gateway)
}

async fn no_such_path(uri: Uri) -> Response {
    refuse(&uri, StatusCode::NOT_FOUND)
}

async fn no_such_method(uri: Uri) -> Response {
    refuse(&uri, StatusCode::METHOD_NOT_ALLOWED)
}

/// Around every request: reads it whole, refuses one too many, writes the errors that tell the
/// time, counts, and is followed.
async fn around(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    let (started_ms, started) = (gateway.clock.now_ms(), Instant::now());
    let uri = request.uri().clone();
    let followed = follow(&request);
    let account = Caller::take_account(request.extensions_mut());
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let mut guard = CallGuard::begin(&gateway.load, account, connection, true);
    let response = match &followed {
        None => within_bounds(&uri, &mut guard, request, next).await,
        Some(followed) => followed.run(within_bounds(&uri, &mut guard, request, next)).await,
    };
    let render = |response| agora::render(response, &gateway.clock, started_ms);
    let response = render(response);
    guard.exchange.iter_mut().for_each(Exchange::begin_response);
    let response = send(response, guard).unwrap_or_else(|error| render(too_many(&uri, &error)));
    let (status, took) = (response.status().as_u16(), started.elapsed());
    METRICS.rest(vendor(&uri), status, took);
    if let Some(followed) = followed {
        followed.end(
            KeyValue::new("http.response.status_code", i64::from(status)),
            status >= 500,
            took,
        );
    }
    response
}

/// The answer, with what it holds until it is taken. Errors: OVERLOADED.
fn send(response: Response, guard: CallGuard) -> Result<Response, Error> {
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, Body::new(CountedBody::unary(body, guard)?)))
}

/// By the route, since a path names users.
fn follow(request: &Request) -> Option<Box<CallTrace>> {
    let route = || request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str);
    let method = || request.method().as_str().to_owned();
    let attributes = || {
        vec![
            KeyValue::new("http.request.method", method()),
            KeyValue::new("http.route", route().to_owned()),
        ]
    };
    let is_service = Caller::asks_as_service(request.extensions());
    CallTrace::begin(
        request.headers(),
        is_service,
        || format!("{} {}", method(), route()),
        attributes,
    )
}

/// Refuses a head that is too large and a body that does not come, and answers for a handler that
/// has panicked or takes too long.
async fn within_bounds(uri: &Uri, guard: &mut CallGuard, request: Request, next: Next) -> Response {
    match timeout(MAX_DEADLINE, AssertUnwindSafe(limit(uri, guard, request, next)).catch_unwind())
        .await
    {
        Ok(answered) => answered.unwrap_or_else(|_| refuse(uri, StatusCode::INTERNAL_SERVER_ERROR)),
        Err(_) => refuse(uri, StatusCode::REQUEST_TIMEOUT),
    }
}

fn too_many(uri: &Uri, error: &Error) -> Response {
    METRICS.refused(error.reason);
    let mut response = refuse(uri, StatusCode::SERVICE_UNAVAILABLE);
    wait(&mut response, error.retry_after);
    response
}

async fn limit(uri: &Uri, guard: &mut CallGuard, request: Request, next: Next) -> Response {
    let uri_bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let header_bytes: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if uri_bytes > MAX_URI_BYTES {
        return refuse(uri, StatusCode::URI_TOO_LONG);
    }
    if header_bytes > MAX_HEADER_BYTES {
        return refuse(uri, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let Some(permit) = &mut guard.permit else { return next.run(request).await };
    let is_known =
        request.extensions().get::<Caller>().is_some_and(|caller| caller.principal.is_ok());
    let (head, mut body) = request.into_parts();
    // Of one who is not known nothing is read, but where a token is asked for.
    let body = if is_known || uri.path().ends_with(TOKENS) {
        let most = if is_known { MAX_BODY_BYTES } else { MAX_TOKEN_BYTES };
        match message::read_whole(&mut body, most, permit, MESSAGE_TIMEOUT).await {
            Ok(bytes) => bytes,
            Err(ReadError::TooLarge) => return refuse(uri, StatusCode::PAYLOAD_TOO_LARGE),
            Err(ReadError::TimedOut) => return refuse(uri, StatusCode::REQUEST_TIMEOUT),
            Err(ReadError::Transport(_)) => return refuse(uri, StatusCode::BAD_REQUEST),
            Err(ReadError::Overloaded(error)) => return too_many(uri, &error),
        }
    } else {
        Bytes::new()
    };
    match permit.acquire(Resource::Call, 1) {
        Ok(()) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(error) => too_many(uri, &error),
    }
}

/// Refuses a request that reaches no handler, in the envelope of the vendor whose path it is most
/// like.
fn refuse(uri: &Uri, status: StatusCode) -> Response {
    if vendor(uri) == IMKIT { imkit::refuse(status) } else { agora::refuse(status) }
}

/// The vendor whose path it is most like, for metrics too; `docs` is ourselves.
fn vendor(uri: &Uri) -> &'static str {
    match uri.path().split('/').nth(1) {
        Some("admin" | "me" | "rooms") => IMKIT,
        Some("docs" | "openapi.json") => "docs",
        _ => "agora",
    }
}
