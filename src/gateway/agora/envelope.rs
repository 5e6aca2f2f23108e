//! What a request to an Agora path is about, and the envelopes of its answers and errors.

use std::{collections::HashMap, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Path, rejection::BytesRejection},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use tonic::Status;
use uuid::Uuid;

use crate::{
    auth::credentials::Caller,
    clock::Clock,
    error::Reason,
    gateway::wire::{self, BadBody, Gateway},
    grpc::status::DecodedError,
};

const GROUP: &str = "com.easemob.group.exception.GroupAuthorizationException";
const FORBIDDEN: &str = "com.easemob.group.exception.ForbiddenOpException";
const PARAMETER: &str = "com.easemob.group.exception.InvalidParameterException";
const ARGUMENT: &str = "java.lang.IllegalArgumentException";

pub(super) type Body = Result<Bytes, BytesRejection>;
pub(super) type Outcome = Result<Response, Failure>;

/// One request: the app and the ids in its path, who sent it, and when.
pub(super) struct VendorRequest {
    /// `org#app`, or the id of an `/app-id/` path.
    pub(super) app: String,
    pub(super) caller: Caller,
    /// From `Idempotency-Key`; may be empty.
    pub(super) request_id: String,
    organization: String,
    application_name: String,
    segments: HashMap<String, String>,
    uri: String,
    clock: Clock,
    started_ms: u64,
}

/// A request that needs no credential.
pub(super) struct Unauthenticated(pub(super) VendorRequest);

impl FromRequestParts<Gateway> for VendorRequest {
    type Rejection = Failure;

    /// Whoever is not known is refused before anything else is looked at.
    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Failure> {
        let Unauthenticated(request) = Unauthenticated::from_request_parts(parts, gateway).await?;
        match &request.caller.principal {
            Ok(_) => Ok(request),
            Err(error) => Err(Failure::of(Status::from(error.clone()).into(), "")),
        }
    }
}

impl FromRequestParts<Gateway> for Unauthenticated {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Failure> {
        let started_ms = gateway.clock.now_ms();
        let segments = Path::<HashMap<String, String>>::from_request_parts(parts, gateway).await;
        let Path(mut segments) = segments.map_err(|_| Failure::argument("the path is no UTF-8"))?;
        // A path of `/app-id` has none, which is another matter than an empty one.
        let organization = segments.remove("org_name");
        let application_name = segments.remove("app_name").unwrap_or_default();
        let app = match &organization {
            Some(organization) => format!("{organization}#{application_name}"),
            None => application_name.clone(),
        };
        let organization = organization.unwrap_or_default();
        let (caller, uri) = (wire::caller(parts), full_uri(gateway, parts));
        let (clock, request_id) = (gateway.clock.clone(), wire::request_id(&parts.headers));
        Ok(Self(VendorRequest {
            app,
            caller,
            request_id,
            organization,
            application_name,
            segments,
            uri,
            clock,
            started_ms,
        }))
    }
}

fn first_of(list: &str) -> Option<&str> {
    list.split(',').next().map(str::trim)
}

/// Scheme and host as the caller sees them, without the query.
fn full_uri(gateway: &Gateway, parts: &Parts) -> String {
    // Each proxy adds itself to such a list; the first is what the caller has asked.
    let forwarded = |name| {
        wire::forwarded(gateway, parts)
            .and_then(|headers| wire::text(headers, name))
            .and_then(first_of)
    };
    let scheme = forwarded("x-forwarded-proto").unwrap_or("http");
    let host = forwarded("x-forwarded-host").or_else(|| wire::text(&parts.headers, header::HOST));
    let host = host
        .or_else(|| parts.uri.authority().map(|authority| authority.as_str()))
        .unwrap_or("localhost");
    format!("{scheme}://{host}{}", parts.uri.path())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    action: &'a str,
    application: Uuid,
    uri: &'a str,
    entities: &'a [Value],
    organization: &'a str,
    application_name: &'a str,
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    #[serde(flatten)]
    head: Head<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
    timestamp: u64,
    duration: u64,
}

impl VendorRequest {
    /// The path's segment of that name.
    pub(super) fn segment(&self, name: &str) -> String {
        self.segments.get(name).cloned().unwrap_or_default()
    }

    /// The application's UUID, the same for ever.
    pub(super) fn application(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, self.app.as_bytes())
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The answer with `data`.
    pub(super) fn data<T: Serialize>(&self, action: &str, data: T) -> Response {
        self.envelope(action, &[], Some(data))
    }

    /// The answer with `entities`.
    pub(super) fn entities(&self, action: &str, entities: &[Value]) -> Response {
        self.envelope(action, entities, None::<()>)
    }

    fn envelope<T: Serialize>(
        &self,
        action: &str,
        entities: &[Value],
        data: Option<T>,
    ) -> Response {
        let (timestamp, duration) = self.times();
        let envelope = Envelope { head: self.head(action, entities), data, timestamp, duration };
        wire::answer(StatusCode::OK, &envelope, None)
    }

    fn head<'a>(&'a self, action: &'a str, entities: &'a [Value]) -> Head<'a> {
        let (organization, application_name) = (&self.organization, &self.application_name);
        Head {
            action,
            application: self.application(),
            uri: &self.uri,
            entities,
            organization,
            application_name,
        }
    }

    /// When the answer is made, and how long that took.
    fn times(&self) -> (u64, u64) {
        let now_ms = self.clock.now_ms();
        (now_ms, now_ms.saturating_sub(self.started_ms))
    }

    /// What comes before and after the elements of a streamed `data` array.
    pub(super) fn around(
        &self,
        action: &str,
    ) -> (String, impl Fn(Option<usize>) -> String + Send + use<>) {
        let head = serde_json::to_string(&self.head(action, &[])).unwrap_or_default();
        let head = format!("{},\"data\":[", head.trim_end_matches('}'));
        let (clock, started_ms) = (self.clock.clone(), self.started_ms);
        let tail = move |count: Option<usize>| {
            let now_ms = clock.now_ms();
            let count = count.map_or_else(String::new, |count| format!(",\"count\":{count}"));
            format!(
                "]{count},\"timestamp\":{now_ms},\"duration\":{}}}",
                now_ms.saturating_sub(started_ms)
            )
        };
        (head, tail)
    }
}

/// One error, as Agora's callers know it. [`render`] makes an answer of it, which tells when it was
/// made and how long that took.
#[derive(Clone)]
pub(super) struct Failure {
    status: StatusCode,
    error: &'static str,
    exception: &'static str,
    description: String,
    retry_after: Option<Duration>,
    /// The directory lacks a user.
    lacking: bool,
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
            lacking: false,
        }
    }

    /// A field that is not as documented.
    pub(super) fn argument(description: impl Into<String>) -> Self {
        Self::new(400, "illegal_argument", ARGUMENT, description)
    }

    /// More users than a call may name, in the words of the path.
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

    /// Names the one user that the directory lacks, where that is what is wrong, as the caller
    /// wrote it.
    pub(super) fn naming(self, user: &str) -> Self {
        if self.lacking { Self::not_members(&[user.to_owned()]) } else { self }
    }

    pub(super) fn no_room(room: &str) -> Self {
        const EXCEPTION: &str = "com.easemob.group.exception.ResourceNotFoundException";
        Self::new(404, "resource_not_found", EXCEPTION, format!("grpID {room} does not exist!"))
    }

    /// The error table's Agora column.
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
            Reason::ClientNotFound => Self { lacking: true, ..Self::not_members(&error.users) },
            Reason::RoomNotFound => Self::no_room(room),
            Reason::AppNotFound => Self::new(
                404,
                "organization_application_not_found",
                "OrganizationApplicationNotFoundException",
                "Could not find the application of this organization",
            ),
            Reason::InvalidArgument | Reason::RequestIdReused => Self::argument(message()),
            Reason::TooManyUsers => Self::too_many(message()),
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

    /// A status that comes of no handler.
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
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
                "header_too_large",
                "HeaderTooLargeException",
                "The headers are larger than 16 KiB",
            ),
            StatusCode::INTERNAL_SERVER_ERROR => {
                ("internal_error", "InternalErrorException", "internal error")
            }
            StatusCode::URI_TOO_LONG => {
                ("uri_too_long", "UriTooLongException", "The path and query are longer than 16 KiB")
            }
            StatusCode::SERVICE_UNAVAILABLE => (
                "overloaded",
                "OverloadedException",
                "The service has as many calls as it can take; try again",
            ),
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

/// Writes the body of an answer that a [`Failure`] was made into; leaves any other as it is.
pub(in crate::gateway) fn render(response: Response, clock: &Clock, started_ms: u64) -> Response {
    let Some(failure) = response.extensions().get::<Failure>() else { return response };
    let Failure { error, exception, description, .. } = failure;
    let timestamp = clock.now_ms();
    let duration = timestamp.saturating_sub(started_ms);
    let body = ErrorBody { error, exception, timestamp, duration, error_description: description };
    let mut rendered = wire::answer(failure.status, &body, failure.retry_after);
    // What a failure that reached no handler was given.
    for name in [header::ALLOW, header::RETRY_AFTER] {
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
            BadBody::NoJson => Self::new(
                400,
                "json_parse",
                "com.fasterxml.jackson.core.JsonParseException",
                "The body is not valid JSON",
            ),
            BadBody::Broken => Self::of_status(StatusCode::BAD_REQUEST),
        }
    }
}

/// The answer of an RPC. Errors: what the vendor says in its place; of a room where one is named.
pub(super) fn into_message<T>(
    reply: Result<tonic::Response<T>, Status>,
    room: &str,
) -> Result<T, Failure> {
    reply
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::of(DecodedError::from(status), room))
}
