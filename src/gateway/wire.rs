//! Requests and answers, as both vendors have them: the caller, ids, bodies as JSON, and when to
//! try again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRef, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    auth::credentials::Caller,
    clock::Clock,
    grpc::Api,
    limits::{concurrency::ConcurrencyLimit, connection::Connection},
};

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
    pub load: Arc<ConcurrencyLimit>,
}

impl FromRef<Gateway> for Api {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.api.clone()
    }
}

/// A message with its caller, as a gRPC method expects it.
pub(super) fn rpc<T>(caller: &Caller, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

/// Who is calling, as the credentials layer found out.
pub(super) fn caller(parts: &Parts) -> Caller {
    parts.extensions.get().cloned().unwrap_or_else(Caller::anonymous)
}

pub(super) fn peer(parts: &Parts) -> Option<SocketAddr> {
    parts.extensions.get::<Arc<Connection>>().map(|connection| connection.addr)
}

/// The headers of a proxy that is trusted; nothing where the peer is none.
pub(super) fn forwarded<'a>(gateway: &Gateway, parts: &'a Parts) -> Option<&'a HeaderMap> {
    let peer = peer(parts)?.ip().to_canonical();
    gateway.trusted_proxies.iter().any(|net| net.contains(&peer)).then_some(&parts.headers)
}

pub(super) fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// What the caller has named its request by, in the header `Idempotency-Key`, bare or in quotes:
/// the `request_id` of the RPC, which refuses one that is not well-formed. Empty where there is
/// none.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let key = headers
        .get("idempotency-key")
        .map(|key| String::from_utf8_lossy(key.as_bytes()))
        .unwrap_or_default();
    key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(&key).to_owned()
}

/// The request id of one RPC of several that one request makes: the first has the request's own,
/// every other a UUID (version 5) of that and its number, which is as stable. Each is repeated for
/// itself: a request that was cut off half-way does the rest when it is repeated, and what is
/// appended to a list is done too.
pub(super) fn request_id_of(part: usize, request_id: &str) -> String {
    if part == 0 || request_id.is_empty() {
        return request_id.to_owned();
    }
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{part} {request_id}").as_bytes()).to_string()
}

/// What is wrong with a body.
pub(super) enum BadBody {
    TooLarge,
    NoJson,
    Broken,
}

/// The bytes of a body that is within its limit.
pub(super) fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, BadBody> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => BadBody::TooLarge,
        _ => BadBody::Broken,
    })
}

/// A body as JSON, whatever its Content-Type: real SDKs send none, or a form type.
pub(super) fn json(body: Result<Bytes, BytesRejection>) -> Result<serde_json::Value, BadBody> {
    serde_json::from_slice(&bytes(body)?).map_err(|_| BadBody::NoJson)
}

pub(super) fn answer<T: Serialize>(
    status: StatusCode,
    body: &T,
    retry_after: Option<Duration>,
) -> Response {
    let text = serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned());
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], text).into_response();
    wait(&mut response, retry_after);
    response
}

/// Tells when to try again.
pub(super) fn wait(response: &mut Response, retry_after: Option<Duration>) {
    if let Some(seconds) = retry_after.map(retry_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Whole seconds, at least one.
pub(super) fn retry_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)
}
