//! Who a request to an IMKit path comes from, and the envelopes of its answers and errors.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Path},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    auth::{Credential, Principal, credentials::Caller},
    error::Reason,
    gateway::wire::{self, BadBody, Gateway},
    grpc::status::DecodedError,
    limits::holder::Peer,
};

type Segments = HashMap<String, String>;

/// A request of an app's admin: whoever has its API key.
pub(super) struct Admin {
    pub(super) app: String,
    pub(super) caller: Caller,
    /// From `Idempotency-Key`; may be empty.
    pub(super) request_id: String,
    segments: Segments,
}

impl FromRequestParts<Gateway> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Failure> {
        let caller = wire::caller(parts);
        let app = match &caller.principal {
            Ok(Principal::AppAdmin { app, by: Credential::ApiKey }) => app.to_string(),
            Ok(_) | Err(_) => return Err(Failure::of_reason(Reason::InvalidApiKey)),
        };
        let request_id = wire::request_id(&parts.headers);
        Ok(Self { app, caller, request_id, segments: segments(parts, gateway).await? })
    }
}

impl Admin {
    /// The path's segment of that name.
    pub(super) fn segment(&self, name: &str) -> String {
        self.segments.get(name).cloned().unwrap_or_default()
    }
}

/// A request of a user for itself: with the app's client key and a token of its own.
pub(super) struct Me {
    pub(super) app: String,
    pub(super) user: String,
    pub(super) caller: Caller,
    /// From `Idempotency-Key`; may be empty.
    pub(super) request_id: String,
    pub(super) user_agent: Option<String>,
    pub(super) started_ms: u64,
    segments: Segments,
    peer: Option<(IpAddr, Option<u16>)>,
}

impl FromRequestParts<Gateway> for Me {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Failure> {
        let caller = wire::caller(parts);
        let (app, user) = match &caller.principal {
            _ if !parts.headers.contains_key("im-client-key") => {
                return Err(Failure::of_reason(Reason::InvalidClientKey));
            }
            Ok(Principal::User { app, user }) => (app.to_string(), user.clone()),
            Err(error) => return Err(Failure::of_reason(error.reason)),
            Ok(_) => return Err(Failure::of_reason(Reason::InvalidToken)),
        };
        let user_agent = wire::text(&parts.headers, header::USER_AGENT).map(str::to_owned);
        let (peer, started_ms) = (peer(parts), gateway.clock.now_ms());
        let request_id = wire::request_id(&parts.headers);
        Ok(Self {
            app,
            user,
            caller,
            request_id,
            user_agent,
            started_ms,
            segments: segments(parts, gateway).await?,
            peer,
        })
    }
}

impl Me {
    /// The path's segment of that name.
    pub(super) fn segment(&self, name: &str) -> String {
        self.segments.get(name).cloned().unwrap_or_default()
    }

    /// Where the request came from.
    pub(super) fn address(&self) -> Option<Address> {
        let (ip, port) = self.peer?;
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        Some(Address::new(ip.to_string(), family, port.map(u32::from)))
    }
}

/// The caller behind a trusted proxy, whose port it does not tell; else the connection.
fn peer(parts: &Parts) -> Option<(IpAddr, Option<u16>)> {
    let behind = parts.extensions.get::<Arc<Peer>>().map(|peer| (peer.ip, None));
    behind.or_else(|| wire::peer(parts).map(|peer| (peer.ip(), Some(peer.port()))))
}

async fn segments(parts: &mut Parts, gateway: &Gateway) -> Result<Segments, Failure> {
    let segments = Path::<Segments>::from_request_parts(parts, gateway).await;
    segments.map(|Path(segments)| segments).map_err(|_| Failure::invalid("the path is no UTF-8"))
}

#[derive(Serialize)]
struct Success<T> {
    #[serde(rename = "RC")]
    code: u16,
    #[serde(rename = "RM")]
    message: &'static str,
    result: T,
}

/// The answer with this result.
pub(super) fn done<T: Serialize>(result: T) -> Response {
    wire::answer(StatusCode::OK, &Success { code: 0, message: "OK", result }, None)
}

/// One error, as IMKit's callers know it.
pub(super) struct Failure {
    status: StatusCode,
    /// The line in `RM`.
    line: &'static str,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(
        status: u16,
        line: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, line, code, message: message.into(), retry_after: None }
    }

    /// A request that is not as documented.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "Bad Request", "INVALID_REQUEST", message)
    }

    /// An admin has unmuted a room that was not muted.
    pub(super) fn room_not_muted() -> Self {
        Self::new(
            400,
            "Room is not muted",
            "ROOM_NOT_MUTED",
            "The specified room is not in the mute list",
        )
    }

    /// The directory lacks the client.
    pub(super) fn client_not_found() -> Self {
        Self::of_reason(Reason::ClientNotFound)
    }

    fn of_reason(reason: Reason) -> Self {
        Self::of(DecodedError {
            reason,
            message: String::new(),
            users: Vec::new(),
            retry_after: None,
        })
    }

    /// The error table's IMKit column.
    pub(super) fn of(error: DecodedError) -> Self {
        const UNAVAILABLE: &str = "Service Unavailable";
        let message = error.message;
        let failure = match error.reason {
            Reason::InvalidApiKey => {
                Self::new(401, "Unauthorized", "INVALID_API_KEY", "Invalid or missing API key")
            }
            Reason::InvalidClientKey => {
                Self::new(403, "Forbidden", "INVALID_CLIENT_KEY", "Invalid client key")
            }
            Reason::InvalidToken
            | Reason::MalformedToken
            | Reason::MissingToken
            | Reason::InvalidCredentials => {
                Self::new(401, "Unauthorized", "INVALID_TOKEN", "Invalid or expired token")
            }
            Reason::PermissionDenied => {
                Self::new(403, "Forbidden", "INSUFFICIENT_PERMISSIONS", message)
            }
            Reason::ClientNotFound => Self::new(
                404,
                "Client not found",
                "CLIENT_NOT_FOUND",
                "The specified client does not exist",
            ),
            Reason::RoomNotFound => Self::new(
                404,
                "Room not found",
                "ROOM_NOT_FOUND",
                "The specified room does not exist",
            ),
            Reason::AppNotFound => Self::new(404, "Not Found", "NOT_FOUND", message),
            Reason::OwnerNotMutable
            | Reason::InvalidArgument
            | Reason::TooManyUsers
            | Reason::RequestIdReused => Self::invalid(message),
            Reason::QuotaExceeded => Self::new(403, "Forbidden", "QUOTA_EXCEEDED", message),
            Reason::RateLimited => {
                Self::new(429, "Too Many Requests", "RATE_LIMIT_EXCEEDED", message)
            }
            Reason::Overloaded => Self::of_status(StatusCode::SERVICE_UNAVAILABLE),
            Reason::Stopping | Reason::StoreUnavailable | Reason::StoreFull => {
                Self::new(503, UNAVAILABLE, "SERVICE_UNAVAILABLE", message)
            }
            Reason::RevisionCompacted | Reason::WatcherTooSlow | Reason::Internal => {
                Self::new(500, "Internal Server Error", "INTERNAL_ERROR", "internal error")
            }
        };
        Self { retry_after: error.retry_after, ..failure }
    }

    /// A status that comes of no handler.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (line, code, message) = match status {
            StatusCode::NOT_FOUND => ("Not Found", "NOT_FOUND", "There is no such path"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("Method Not Allowed", "METHOD_NOT_ALLOWED", "The path has no such method")
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                ("Payload Too Large", "PAYLOAD_TOO_LARGE", "The body is larger than 64 KiB")
            }
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
                "Request Header Fields Too Large",
                "HEADER_TOO_LARGE",
                "The headers are larger than 16 KiB",
            ),
            StatusCode::INTERNAL_SERVER_ERROR => {
                ("Internal Server Error", "INTERNAL_ERROR", "internal error")
            }
            StatusCode::URI_TOO_LONG => {
                ("URI Too Long", "URI_TOO_LONG", "The path and query are longer than 16 KiB")
            }
            StatusCode::SERVICE_UNAVAILABLE => (
                "Service Unavailable",
                "OVERLOADED",
                "The service has as many calls as it can take; try again",
            ),
            StatusCode::REQUEST_TIMEOUT => {
                ("Request Timeout", "REQUEST_TIMEOUT", "The request took too long")
            }
            _ => ("Bad Request", "INVALID_REQUEST", "The request cannot be served"),
        };
        Self::new(status.as_u16(), line, code, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(wait) = self.retry_after {
            error["retryAfter"] = Value::from(wire::retry_seconds(wait));
        }
        let body = json!({"RC": self.status.as_u16(), "RM": self.line, "error": error});
        wire::answer(self.status, &body, self.retry_after)
    }
}

impl From<BadBody> for Failure {
    fn from(body: BadBody) -> Self {
        match body {
            BadBody::TooLarge => Self::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            BadBody::NoJson => Self::invalid("The body is not valid JSON"),
            BadBody::Broken => Self::of_status(StatusCode::BAD_REQUEST),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Address {
    address: String,
    family: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u32>,
}

impl Address {
    pub(super) fn new(address: String, family: &str, port: Option<u32>) -> Self {
        Self { address, family: family.to_owned(), port }
    }
}
