//! Agora's errors: the status, name and text that each error of the service has there.

use std::time::Duration;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tonic::Status;

use crate::{
    clock::Clock,
    error::Reason,
    gateway::wire::{self, BadBody},
    grpc::status::DecodedError,
};

const GROUP: &str = "com.easemob.group.exception.GroupAuthorizationException";
const FORBIDDEN: &str = "com.easemob.group.exception.ForbiddenOpException";
const PARAMETER: &str = "com.easemob.group.exception.InvalidParameterException";
const ARGUMENT: &str = "java.lang.IllegalArgumentException";

/// An error in Agora's format. [`render`] writes its body, which holds the time and the duration of
/// the request.
#[derive(Clone)]
pub(super) struct Failure {
    status: StatusCode,
    error: &'static str,
    exception: &'static str,
    description: String,
    retry_after: Option<Duration>,
    /// A user is not in the directory.
    is_unknown_user: bool,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    exception: &'a str,
    timestamp: u64,
    duration: u64,
    error_description: &'a str,
}

impl Failure {
    pub(super) fn new(
        status: u16,
        error: &'static str,
        exception: &'static str,
        description: impl Into<String>,
    ) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            error,
            exception,
            description: description.into(),
            retry_after: None,
            is_unknown_user: false,
        }
    }

    /// A field that is missing or invalid.
    pub(super) fn argument(description: impl Into<String>) -> Self {
        Self::new(400, "illegal_argument", ARGUMENT, description)
    }

    /// More users than one call may name. Each path has its own text for it.
    pub(super) fn too_many(description: impl Into<String>) -> Self {
        Self::new(400, "invalid_parameter", PARAMETER, description)
    }

    pub(super) fn not_members(users: &[String]) -> Self {
        Self::new(
            400,
            "forbidden_op",
            FORBIDDEN,
            format!("users [{}] are not members of this group!", users.join(", ")),
        )
    }

    /// If the error is an unknown user: the same with the user's id as the caller wrote it.
    pub(super) fn naming_user(self, user: &str) -> Self {
        if self.is_unknown_user { Self::not_members(&[user.to_owned()]) } else { self }
    }

    pub(super) fn no_room(room: &str) -> Self {
        const EXCEPTION: &str = "com.easemob.group.exception.ResourceNotFoundException";
        Self::new(404, "resource_not_found", EXCEPTION, format!("grpID {room} does not exist!"))
    }

    /// The Agora error of an RPC's error. `room` is the room that the path names, if it names one.
    pub(super) fn of(error: DecodedError, room: &str) -> Self {
        const SECURITY: &str = "com.easemob.im.exceptions.EasemobSecurityException";
        const OAUTH: &str = "Unable to authenticate (OAuth)";
        const UNAVAILABLE: &str = "ServiceUnavailableException";
        let message = || error.message.clone();
        let failure = match error.reason {
            Reason::MissingToken => Self::new(401, "group_authorization", GROUP, "token is blank!"),
            Reason::InvalidToken | Reason::InvalidApiKey | Reason::InvalidClientKey => {
                Self::new(401, "unauthorized", SECURITY, OAUTH)
            }
            Reason::MalformedToken => Self::new(
                401,
                "auth_bad_access_token",
                "EasemobSecurityException",
                "Unable to authenticate due to corrupt access token",
            ),
            Reason::PermissionDenied => Self::new(403, "forbidden_op", FORBIDDEN, message()),
            Reason::OwnerNotMutable => {
                Self::new(403, "forbidden_op", FORBIDDEN, "forbidden operation on group owner!")
            }
            Reason::InvalidCredentials => {
                Self::new(400, "invalid_grant", "InvalidGrantException", message())
            }
            Reason::ClientNotFound => {
                Self { is_unknown_user: true, ..Self::not_members(&error.users) }
            }
            Reason::RoomNotFound => Self::no_room(room),
            Reason::AppNotFound => Self::new(
                404,
                "organization_application_not_found",
                "OrganizationApplicationNotFoundException",
                "Could not find the application of this organization",
            ),
            Reason::InvalidArgument | Reason::RequestIdReused => Self::argument(message()),
            Reason::TooManyUsers => Self::too_many(message()),
            Reason::MessageTooLarge => Self::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            Reason::QuotaExceeded => {
                Self::new(403, "exceed_limit", "ExceedLimitException", message())
            }
            Reason::RateLimited => Self::new(
                429,
                "reach_limit",
                "ReachLimitException",
                "This request has reached api limit",
            ),
            Reason::Overloaded => Self::of_status(StatusCode::SERVICE_UNAVAILABLE),
            Reason::Stopping | Reason::StoreUnavailable | Reason::StoreFull => {
                Self::new(503, "service_unavailable", UNAVAILABLE, message())
            }
            Reason::RevisionCompacted | Reason::WatcherTooSlow | Reason::Internal => {
                Self::new(500, "internal_error", "InternalErrorException", "internal error")
            }
        };
        Self { retry_after: error.retry_after, ..failure }
    }

    /// The error of a status that no handler returned.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (error, exception, description) = match status {
            StatusCode::NOT_FOUND => (
                "service_resource_not_found",
                "ServiceResourceNotFoundException",
                "Service resource not found",
            ),
            StatusCode::METHOD_NOT_ALLOWED => (
                "method_not_allowed",
                "MethodNotAllowedException",
                "Method not allowed on this path",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => {
                ("payload_too_large", "PayloadTooLargeException", "The body is larger than 64 KiB")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => (
                "unsupported_media_type",
                "UnsupportedMediaTypeException",
                "The Content-Encoding of a body is gzip or absent",
            ),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
                "header_too_large",
                "HeaderTooLargeException",
                "The headers are larger than 16 KiB, or more than 100",
            ),
            StatusCode::INTERNAL_SERVER_ERROR => {
                ("internal_error", "InternalErrorException", "internal error")
            }
            StatusCode::URI_TOO_LONG => {
                ("uri_too_long", "UriTooLongException", "The path and query are longer than 16 KiB")
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                ("overloaded", "OverloadedException", "The service is overloaded; try again later")
            }
            StatusCode::REQUEST_TIMEOUT => {
                ("request_timeout", "RequestTimeoutException", "The request took too long")
            }
            _ => ("bad_request", "BadRequestException", "The request cannot be served"),
        };
        Self::new(status.as_u16(), error, exception, description)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The body of an error with this status that has no request.
pub(in crate::gateway) fn fault_body(status: StatusCode, clock: &Clock) -> String {
    let Failure { error, exception, description, .. } = Failure::of_status(status);
    let error_description = &description;
    let timestamp = clock.now_ms();
    wire::json_text(&ErrorBody { error, exception, timestamp, duration: 0, error_description })
}

/// Writes the body of an answer that was made of a [`Failure`]. Other answers stay as they are.
pub(in crate::gateway) fn render(response: Response, clock: &Clock, started_ms: u64) -> Response {
    let Some(failure) = response.extensions().get::<Failure>() else { return response };
    let Failure { error, exception, description, .. } = failure;
    let timestamp = clock.now_ms();
    let duration = timestamp.saturating_sub(started_ms);
    let body = ErrorBody { error, exception, timestamp, duration, error_description: description };
    let mut rendered = wire::json_response(failure.status, &body, failure.retry_after);
    // Headers that a request without a handler got from the router, or from the concurrency limit.
    for name in [header::ACCEPT_ENCODING, header::ALLOW, header::RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            rendered.headers_mut().insert(name, value.clone());
        }
    }
    rendered
}

impl From<BadBody> for Failure {
    fn from(body: BadBody) -> Self {
        match body {
            BadBody::TooLarge => Self::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            BadBody::InvalidJson => Self::new(
                400,
                "json_parse",
                "com.fasterxml.jackson.core.JsonParseException",
                "The body is not valid JSON",
            ),
            BadBody::Incomplete => Self::of_status(StatusCode::BAD_REQUEST),
            BadBody::NotAString(field) => Self::argument(format!("{field} must be a string")),
        }
    }
}

/// The message of an RPC's answer. Errors: the vendor's error; `room` as in [`Failure::of`].
pub(super) fn into_message<T>(
    reply: Result<tonic::Response<T>, Status>,
    room: &str,
) -> Result<T, Failure> {
    reply
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::of(DecodedError::from(status), room))
}
