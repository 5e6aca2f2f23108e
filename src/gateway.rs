//! The REST gateway: the documented HTTP paths of two vendors, mapped onto the RPCs. It knows vendor JSON and RPC messages, nothing else: every
//! handler makes a message, calls the same method that a gRPC caller reaches, and writes the vendor's envelope. A vendor's quirks live in that
//! vendor's file. Both have the same layout: paths and handlers in one file, envelope and errors in the other.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRef, MatchedPath, Request, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use ipnet::IpNet;
use opentelemetry::KeyValue;
use serde::Serialize;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    auth::credentials::Caller,
    clock::Clock,
    error::Error,
    grpc::Api,
    limits::{
        concurrency::{LONGEST, Load, MESSAGE_PATIENCE},
        connection::{Connection, Exchange},
        holder::What,
        message::{self, Unread},
        sent::{Carried, Sent},
    },
    telemetry::{metrics::METRICS, traces::Followed},
};

mod agora;
mod docs;
mod imkit;

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

/// What the handlers share.
#[derive(Clone)]
pub struct Gateway {
    /// The RPCs.
    pub api: Api,
    /// For the timestamps of the envelopes.
    pub clock: Clock,
    /// Users that one Agora call may name.
    pub max_users: usize,
    /// Whose `X-Forwarded-...` headers count.
    pub trusted_proxies: Arc<[IpNet]>,
    /// How many calls run.
    pub load: Arc<Load>,
}

impl FromRef<Gateway> for Api {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.api.clone()
    }
}

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

/// Around every request: reads it whole, refuses one too many, writes the errors that tell the time, counts, and is followed.
async fn around(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    let (started_ms, started) = (gateway.clock.now_ms(), Instant::now());
    let uri = request.uri().clone();
    let followed = follow(&request);
    let account = Caller::take_account(request.extensions_mut());
    let connection = request.extensions_mut().remove::<Arc<Connection>>();
    let mut carried = Carried::begin(&gateway.load, account, connection, true);
    let response = match &followed {
        None => within_bounds(&uri, &mut carried, request, next).await,
        Some(followed) => followed.around(within_bounds(&uri, &mut carried, request, next)).await,
    };
    let render = |response| agora::render(response, &gateway.clock, started_ms);
    let response = render(response);
    carried.exchange.iter_mut().for_each(Exchange::answer);
    let response = send(response, carried).unwrap_or_else(|error| render(too_many(&uri, &error)));
    let (status, took) = (response.status().as_u16(), started.elapsed());
    METRICS.rest(vendor(&uri), status, took);
    if let Some(followed) = followed {
        followed.end(KeyValue::new("http.response.status_code", i64::from(status)), status >= 500, took);
    }
    response
}

/// The answer, with what it holds until it is taken. Errors: OVERLOADED.
fn send(response: Response, carried: Carried) -> Result<Response, Error> {
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, Body::new(Sent::whole(body, carried)?)))
}

/// By the route, since a path names users.
fn follow(request: &Request) -> Option<Box<Followed>> {
    let route = || request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str);
    let method = || request.method().as_str().to_owned();
    let attributes = || vec![KeyValue::new("http.request.method", method()), KeyValue::new("http.route", route().to_owned())];
    let is_service = Caller::asks_as_service(request.extensions());
    Followed::begin(request.headers(), is_service, || format!("{} {}", method(), route()), attributes)
}

/// Refuses a head that is too large and a body that does not come, and answers for a handler that has panicked or takes too long.
async fn within_bounds(uri: &Uri, carried: &mut Carried, request: Request, next: Next) -> Response {
    match timeout(LONGEST, AssertUnwindSafe(limit(uri, carried, request, next)).catch_unwind()).await {
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

async fn limit(uri: &Uri, carried: &mut Carried, request: Request, next: Next) -> Response {
    let uri_bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if uri_bytes > MAX_URI_BYTES {
        return refuse(uri, StatusCode::URI_TOO_LONG);
    }
    if header_bytes > MAX_HEADER_BYTES {
        return refuse(uri, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let Some(held) = &mut carried.held else { return next.run(request).await };
    let is_known = request.extensions().get::<Caller>().is_some_and(|caller| caller.principal.is_ok());
    let (head, mut body) = request.into_parts();
    // Of one who is not known nothing is read, but where a token is asked for.
    let body = if is_known || uri.path().ends_with(TOKENS) {
        let most = if is_known { MAX_BODY_BYTES } else { MAX_TOKEN_BYTES };
        match message::whole(&mut body, most, held, MESSAGE_PATIENCE).await {
            Ok(bytes) => bytes,
            Err(Unread::TooLarge) => return refuse(uri, StatusCode::PAYLOAD_TOO_LARGE),
            Err(Unread::Late) => return refuse(uri, StatusCode::REQUEST_TIMEOUT),
            Err(Unread::Broken(_)) => return refuse(uri, StatusCode::BAD_REQUEST),
            Err(Unread::Overloaded(error)) => return too_many(uri, &error),
        }
    } else {
        Bytes::new()
    };
    match held.take(What::Call, 1) {
        Ok(()) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(error) => too_many(uri, &error),
    }
}

/// Refuses a request that reaches no handler, in the envelope of the vendor whose path it is most like.
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

/// A message with its caller, as a gRPC method expects it.
fn rpc<T>(caller: &Caller, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

/// Who is calling, as the credentials layer found out.
fn caller(parts: &Parts) -> Caller {
    parts.extensions.get().cloned().unwrap_or_else(Caller::nobody)
}

fn peer(parts: &Parts) -> Option<SocketAddr> {
    parts.extensions.get::<Arc<Connection>>().map(|connection| connection.addr)
}

/// The headers of a proxy that is trusted; nothing where the peer is none.
fn forwarded<'a>(gateway: &Gateway, parts: &'a Parts) -> Option<&'a HeaderMap> {
    let peer = peer(parts)?.ip().to_canonical();
    gateway.trusted_proxies.iter().any(|net| net.contains(&peer)).then_some(&parts.headers)
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// What the caller has named its request by, in the header `Idempotency-Key`, bare or in quotes: the `request_id` of the RPC, which refuses one
/// that is not well-formed. Empty where there is none.
fn request_id(headers: &HeaderMap) -> String {
    let key = headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes())).unwrap_or_default();
    key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(&key).to_owned()
}

/// The request id of one RPC of several that one request makes: the first has the request's own, every other a UUID (version 5) of that and
/// its number, which is as stable. Each is repeated for itself: a request that was cut off half-way does the rest when it is repeated, and what
/// is appended to a list is done too.
fn request_id_of(part: usize, request_id: &str) -> String {
    if part == 0 || request_id.is_empty() {
        return request_id.to_owned();
    }
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{part} {request_id}").as_bytes()).to_string()
}

/// What is wrong with a body.
enum BadBody {
    TooLarge,
    NoJson,
    Broken,
}

/// The bytes of a body that is within its limit.
fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, BadBody> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => BadBody::TooLarge,
        _ => BadBody::Broken,
    })
}

/// A body as JSON, whatever its Content-Type: real SDKs send none, or a form type.
fn json(body: Result<Bytes, BytesRejection>) -> Result<serde_json::Value, BadBody> {
    serde_json::from_slice(&bytes(body)?).map_err(|_| BadBody::NoJson)
}

fn answer<T: Serialize>(status: StatusCode, body: &T, retry_after: Option<Duration>) -> Response {
    let text = serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned());
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], text).into_response();
    wait(&mut response, retry_after);
    response
}

/// Tells when to try again.
fn wait(response: &mut Response, retry_after: Option<Duration>) {
    if let Some(seconds) = retry_after.map(retry_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Whole seconds, at least one.
fn retry_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)
}
