//! What both vendors share in requests and answers: the caller, request ids, JSON bodies, and the
//! `Retry-After` header.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRef, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Buf as _;
use ipnet::IpNet;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    auth::credentials::Caller,
    clock::Clock,
    grpc::Api,
    limits::{concurrency::ConcurrencyLimit, connection::Connection},
};

/// The state that handlers share.
#[derive(Clone)]
pub struct Gateway {
    /// The RPCs.
    pub api: Api,
    /// The time in the envelopes.
    pub clock: Clock,
    /// The maximum number of users in one Agora call.
    pub max_users: usize,
    /// Whether the listener uses TLS.
    pub is_tls: bool,
    /// Proxies whose `X-Forwarded-...` and `Forwarded` headers are trusted.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Limits the calls that run at a time, and the memory of their messages.
    pub load: Arc<ConcurrencyLimit>,
}

impl FromRef<Gateway> for Api {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.api.clone()
    }
}

/// A request for a gRPC method, with its caller.
pub(super) fn rpc<T>(caller: &Caller, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

/// The caller that the credentials layer has authenticated.
pub(super) fn caller(parts: &Parts) -> Caller {
    parts.extensions.get().cloned().unwrap_or_else(Caller::anonymous)
}

/// The address of the other end of the connection, which may be a proxy.
pub(super) fn peer(parts: &Parts) -> Option<SocketAddr> {
    parts.extensions.get::<Arc<Connection>>().map(|connection| connection.addr)
}

/// The headers of a request that comes from a trusted proxy; none for any other peer.
pub(super) fn forwarded_headers<'a>(gateway: &Gateway, parts: &'a Parts) -> Option<&'a HeaderMap> {
    let peer = peer(parts)?.ip();
    gateway.trusted_proxies.iter().any(|net| net.contains(&peer)).then_some(&parts.headers)
}

/// A header's value, if it is visible ASCII.
pub(super) fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The RPC's `request_id`, from the header `Idempotency-Key`, which may be quoted; empty without
/// that header. The RPC validates it.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let key = headers
        .get("idempotency-key")
        .map(|key| String::from_utf8_lossy(key.as_bytes()))
        .unwrap_or_default();
    key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(&key).to_owned()
}

/// The request id of RPC number `part` of one HTTP request. The first RPC has the request's own id,
/// each other a UUID (version 5) of that id and its number, so that a retry sends the same ids.
/// Each RPC is idempotent by itself: the retry of a request that was interrupted half-way does the
/// rest, and a retry with more elements at the end of the list does those too.
pub(super) fn part_request_id(part: usize, request_id: &str) -> String {
    if part == 0 || request_id.is_empty() {
        return request_id.to_owned();
    }
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{part} {request_id}").as_bytes()).to_string()
}

/// Why a body is refused.
pub(super) enum BadBody {
    TooLarge,
    InvalidJson,
    /// The connection failed before all of it was read.
    Incomplete,
    /// This field is neither a string nor null.
    NotAString(String),
}

/// The bytes of a body, without a byte order mark. Errors: it is too large, or incomplete.
pub(super) fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, BadBody> {
    let mut body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => BadBody::TooLarge,
        _ => BadBody::Incomplete,
    })?;
    if body.starts_with(BOM) {
        body.advance(BOM.len());
    }
    Ok(body)
}

/// The byte order mark that some programs put before a text.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// A body as JSON, whatever its Content-Type: SDKs in use send none, or a form type.
pub(super) fn json(body: Result<Bytes, BytesRejection>) -> Result<serde_json::Value, BadBody> {
    serde_json::from_slice(&bytes(body)?).map_err(|_| BadBody::InvalidJson)
}

/// A field that is a string, null or absent. Errors: it is something else.
pub(super) fn optional_string(
    body: &serde_json::Map<String, serde_json::Value>,
    name: &str,
) -> Result<Option<String>, BadBody> {
    match body.get(name) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(BadBody::NotAString(name.to_owned())),
    }
}

/// One line of JSON, which ends where a shell's next prompt begins.
pub(super) fn json_text<T: Serialize>(body: &T) -> String {
    serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned()) + "\n"
}

/// An answer with a JSON body.
pub(super) fn json_response<T: Serialize>(
    status: StatusCode,
    body: &T,
    retry_after: Option<Duration>,
) -> Response {
    let text = json_text(body);
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], text).into_response();
    set_retry_after(&mut response, retry_after);
    response
}

/// Sets the header `Retry-After`, if there is a time to wait.
pub(super) fn set_retry_after(response: &mut Response, retry_after: Option<Duration>) {
    if let Some(seconds) = retry_after.map(retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Whole seconds, rounded up; at least one.
pub(super) fn retry_after_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)
}
