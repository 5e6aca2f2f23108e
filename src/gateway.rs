//! The REST gateway maps the documented HTTP paths of two vendors onto the RPCs. It knows vendor
//! JSON and RPC messages only: each handler builds a message, calls the method that a gRPC caller
//! calls, and writes the vendor's envelope. A vendor's quirks live in that vendor's module. Both
//! modules have the same layout: paths and handlers, then `envelope` (the request and the answer),
//! then `failure` (errors).

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::Response,
};
use futures_util::FutureExt as _;
use opentelemetry::KeyValue;
use tokio::time::timeout;
use tonic::Status;

use crate::{
    auth::credentials::Caller,
    clock::Clock,
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
mod compression;
mod docs;
mod imkit;
mod listing;
mod wire;

use compression::BodyError;
pub use wire::Gateway;
use wire::set_retry_after;

/// A body holds at most 60 users of 64 characters, or a profile with 16 KiB of custom fields.
const MAX_BODY_BYTES: usize = 64 << 10;
/// The body of a token request, whose caller is not authenticated yet.
const MAX_TOKEN_REQUEST_BYTES: usize = 4 << 10;
/// A path with 60 percent-encoded users of 64 characters fits.
const MAX_URI_BYTES: usize = 16 << 10;
const MAX_HEADER_BYTES: usize = 16 << 10;
/// The paths that issue a token end so. Their callers have no credentials yet.
const TOKEN_SUFFIX: &str = "/token";
/// The value of the metrics' `api` label.
const IMKIT: &str = "imkit";

/// All paths of both vendors, and their documentation. The server adds the credentials layer.
pub fn router(gateway: Gateway) -> Router {
    agora::routes()
        .merge(imkit::routes())
        .merge(docs::routes())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(gateway.clone(), limit_and_observe))
        .layer(compression::layer())
        .with_state(gateway)
}

/// A trailing slash is the same path: IMKit documents `/rooms/`.
pub fn trim_trailing_slash<B>(mut request: http::Request<B>) -> http::Request<B> {
    let uri = request.uri();
    let trimmed = uri.path().strip_suffix('/');
    if let Some(path) = trimmed.filter(|path| !path.is_empty() && !path.ends_with('/')) {
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = format!("{path}{query}").parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// The body of an error with this status that has no request: what came is not HTTP.
pub fn fault_body(status: StatusCode, clock: &Clock) -> String {
    agora::fault_body(status, clock)
}

async fn no_such_path(uri: Uri, headers: HeaderMap) -> Response {
    if is_grpc(&headers) { no_grpc_here() } else { refuse(&uri, StatusCode::NOT_FOUND) }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|content_type| content_type.starts_with(b"application/grpc"))
}

/// In the form that gRPC clients read: a page of JSON would be a broken message to them.
fn no_grpc_here() -> Response {
    let message = "this is the REST port; gRPC has a port of its own, 50051 by default";
    Status::unimplemented(message).into_http()
}

async fn no_such_method(uri: Uri) -> Response {
    refuse(&uri, StatusCode::METHOD_NOT_ALLOWED)
}

/// The middleware of every request: enforces the limits, renders vendor errors (which hold times),
/// counts the request and traces it.
async fn limit_and_observe(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Response {
    let started_ms = gateway.clock.now_ms();
    let started = Instant::now();
    let uri = request.uri().clone();
    let trace = begin_trace(&request);
    let account = Caller::take_account(request.extensions_mut());
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let mut guard = CallGuard::begin(&gateway.load, account, connection, true);
    let response = match &trace {
        None => with_deadline(&uri, &mut guard, request, next).await,
        Some(trace) => trace.run(with_deadline(&uri, &mut guard, request, next)).await,
    };
    let render = |response| agora::render(response, &gateway.clock, started_ms);
    let response = render(response);
    guard.exchange.iter_mut().for_each(Exchange::begin_response);
    let response =
        charge_body(response, guard).unwrap_or_else(|error| render(overloaded(&uri, &error)));
    let status = response.status().as_u16();
    let took = started.elapsed();
    METRICS.rest(vendor(&uri), status, took);
    if let Some(trace) = trace {
        trace.end(
            KeyValue::new("http.response.status_code", i64::from(status)),
            status >= 500,
            took,
        );
    }
    response
}

/// Keeps the permit and the memory of a request until its answer is sent. Errors: OVERLOADED.
fn charge_body(response: Response, guard: CallGuard) -> Result<Response, Error> {
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, Body::new(CountedBody::unary(body, guard)?)))
}

/// Begins the trace of a request. It is named after the route: a path holds user ids.
fn begin_trace(request: &Request) -> Option<Box<CallTrace>> {
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

/// Answers in place of a handler that panics or misses the deadline.
async fn with_deadline(uri: &Uri, guard: &mut CallGuard, request: Request, next: Next) -> Response {
    let answer = AssertUnwindSafe(limit_size(uri, guard, request, next)).catch_unwind();
    match timeout(MAX_DEADLINE, answer).await {
        Ok(answer) => answer.unwrap_or_else(|_| refuse(uri, StatusCode::INTERNAL_SERVER_ERROR)),
        Err(_) => refuse(uri, StatusCode::REQUEST_TIMEOUT),
    }
}

fn overloaded(uri: &Uri, error: &Error) -> Response {
    METRICS.refused(error.reason);
    let mut response = refuse(uri, StatusCode::SERVICE_UNAVAILABLE);
    set_retry_after(&mut response, error.retry_after);
    response
}

/// Refuses a URI, headers or a body that are too large, a body that arrives too slowly, and a call
/// beyond the concurrency limit.
async fn limit_size(uri: &Uri, guard: &mut CallGuard, request: Request, next: Next) -> Response {
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
    let is_authenticated =
        request.extensions().get::<Caller>().is_some_and(|caller| caller.principal.is_ok());
    let (head, mut body) = request.into_parts();
    // A body is read for authenticated callers only, and on the paths that issue a token.
    let body = if is_authenticated || uri.path().ends_with(TOKEN_SUFFIX) {
        let max_bytes = if is_authenticated { MAX_BODY_BYTES } else { MAX_TOKEN_REQUEST_BYTES };
        let read = message::read_whole(&mut body, max_bytes, permit, MESSAGE_TIMEOUT).await;
        let read = read.map_err(BodyError::from);
        let inflated =
            read.and_then(|body| compression::inflated(body, &head.headers, max_bytes, permit));
        match inflated {
            Ok(bytes) => bytes,
            Err(error) => return refuse_body(uri, error),
        }
    } else {
        Bytes::new()
    };
    match permit.acquire(Resource::Call, 1) {
        Ok(()) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(error) => overloaded(uri, &error),
    }
}

fn refuse_body(uri: &Uri, error: BodyError) -> Response {
    let error = match error {
        BodyError::Read(error) => error,
        BodyError::UnknownEncoding => {
            // RFC 9110, 15.5.16: the answer names what is accepted.
            let mut refusal = refuse(uri, StatusCode::UNSUPPORTED_MEDIA_TYPE);
            refusal.headers_mut().insert(header::ACCEPT_ENCODING, compression::ACCEPTED);
            return refusal;
        }
    };
    match error {
        ReadError::TooLarge => refuse(uri, StatusCode::PAYLOAD_TOO_LARGE),
        ReadError::TimedOut => refuse(uri, StatusCode::REQUEST_TIMEOUT),
        ReadError::Malformed | ReadError::Transport(_) => refuse(uri, StatusCode::BAD_REQUEST),
        ReadError::Overloaded(error) => overloaded(uri, &error),
    }
}

/// The error of a request that reaches no handler, in the envelope of the vendor whose paths begin
/// like this one.
fn refuse(uri: &Uri, status: StatusCode) -> Response {
    if vendor(uri) == IMKIT { imkit::refuse(status) } else { agora::refuse(status) }
}

/// The vendor whose paths begin like this one, or `docs`. Metrics have it as a label.
fn vendor(uri: &Uri) -> &'static str {
    match uri.path().split('/').nth(1) {
        Some("admin" | "me" | "rooms") => IMKIT,
        Some("" | "docs" | "openapi.json") => "docs",
        _ => "agora",
    }
}
