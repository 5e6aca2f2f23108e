//! IMKit's errors: the status, code and text that each error of the service has there.

use std::time::Duration;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    error::Reason,
    gateway::wire::{self, BadBody},
    grpc::status::DecodedError,
};

/// An error in IMKit's format.
pub(super) struct Failure {
    status: StatusCode,
    /// The text of `RM`.
    summary: &'static str,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(
        status: u16,
        summary: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, summary, code, message: message.into(), retry_after: None }
    }

    /// A field that is missing or invalid.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "Bad Request", "INVALID_REQUEST", message)
    }

    /// An admin unmutes a room that is not muted.
    pub(super) fn room_not_muted() -> Self {
        Self::new(
            400,
            "Room is not muted",
            "ROOM_NOT_MUTED",
            "The specified room is not in the mute list",
        )
    }

    /// The client is not in the directory.
    pub(super) fn client_not_found() -> Self {
        Self::of_reason(Reason::ClientNotFound)
    }

    pub(super) fn of_reason(reason: Reason) -> Self {
        Self::of(DecodedError {
            reason,
            message: String::new(),
            users: Vec::new(),
            retry_after: None,
        })
    }

    /// The IMKit error of an RPC's error.
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
            Reason::MessageTooLarge => Self::of_status(StatusCode::PAYLOAD_TOO_LARGE),
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

    /// The error of a status that no handler returned.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (summary, code, message) = match status {
            StatusCode::NOT_FOUND => ("Not Found", "NOT_FOUND", "Path not found"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("Method Not Allowed", "METHOD_NOT_ALLOWED", "Method not allowed on this path")
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                ("Payload Too Large", "PAYLOAD_TOO_LARGE", "The body is larger than 64 KiB")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => (
                "Unsupported Media Type",
                "UNSUPPORTED_MEDIA_TYPE",
                "The Content-Encoding of a body is gzip or absent",
            ),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
                "Request Header Fields Too Large",
                "HEADER_TOO_LARGE",
                "The headers are larger than 16 KiB, or more than 100",
            ),
            StatusCode::INTERNAL_SERVER_ERROR => {
                ("Internal Server Error", "INTERNAL_ERROR", "internal error")
            }
            StatusCode::URI_TOO_LONG => {
                ("URI Too Long", "URI_TOO_LONG", "The path and query are longer than 16 KiB")
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                ("Service Unavailable", "OVERLOADED", "The service is overloaded; try again later")
            }
            StatusCode::REQUEST_TIMEOUT => {
                ("Request Timeout", "REQUEST_TIMEOUT", "The request took too long")
            }
            _ => ("Bad Request", "INVALID_REQUEST", "The request cannot be served"),
        };
        Self::new(status.as_u16(), summary, code, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(wait) = self.retry_after {
            error["retryAfter"] = Value::from(wire::retry_after_seconds(wait));
        }
        let body = json!({"RC": self.status.as_u16(), "RM": self.summary, "error": error});
        wire::json_response(self.status, &body, self.retry_after)
    }
}

impl From<BadBody> for Failure {
    fn from(body: BadBody) -> Self {
        match body {
            BadBody::TooLarge => Self::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            BadBody::InvalidJson => Self::invalid("The body is not valid JSON"),
            BadBody::Incomplete => Self::of_status(StatusCode::BAD_REQUEST),
            BadBody::NotAString(field) => Self::invalid(format!("{field} must be a string")),
        }
    }
}
