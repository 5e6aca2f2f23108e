//! The request to an Agora path, and the envelope of its answer.

use std::collections::HashMap;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Path, rejection::BytesRejection},
    http::{StatusCode, request::Parts},
    response::Response,
};
use serde::Serialize;
use serde_json::Value;
use tonic::Status;
use uuid::Uuid;

use super::{failure::Failure, uri};
use crate::{
    auth::credentials::Caller,
    clock::Clock,
    gateway::wire::{self, Gateway},
};

pub(super) type Body = Result<Bytes, BytesRejection>;
pub(super) type Outcome = Result<Response, Failure>;

/// An authenticated request: the app and the ids in its path, its caller, and when it arrived.
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

    /// Refuses a caller that is not authenticated before it looks at anything else.
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
        let Path(mut segments) =
            segments.map_err(|_| Failure::argument("the path must be UTF-8"))?;
        // A path below `/app-id` has no organization. An empty one is another case: an invalid key.
        let organization = segments.remove("org_name");
        let application_name = segments.remove("app_name").unwrap_or_default();
        let app = match &organization {
            Some(organization) => format!("{organization}#{application_name}"),
            None => application_name.clone(),
        };
        let organization = organization.unwrap_or_default();
        let caller = wire::caller(parts);
        let uri = uri::requested(gateway, parts);
        let clock = gateway.clock.clone();
        let request_id = wire::request_id(&parts.headers);
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
    /// The path segment with that name.
    pub(super) fn segment(&self, name: &str) -> String {
        self.segments.get(name).cloned().unwrap_or_default()
    }

    /// The application's UUID, derived from the app's key, so that it never changes.
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
        wire::json_response(StatusCode::OK, &envelope, None)
    }

    fn head<'a>(&'a self, action: &'a str, entities: &'a [Value]) -> Head<'a> {
        let organization = &self.organization;
        let application_name = &self.application_name;
        Head {
            action,
            application: self.application(),
            uri: &self.uri,
            entities,
            organization,
            application_name,
        }
    }

    /// The current time and the duration of the request so far, in milliseconds.
    fn times(&self) -> (u64, u64) {
        let now_ms = self.clock.now_ms();
        (now_ms, now_ms.saturating_sub(self.started_ms))
    }

    /// The text before the elements of a streamed `data` array, and a function that renders the
    /// text after them from their number, which the envelope has if `with_count`.
    pub(super) fn envelope_parts(
        &self,
        action: &str,
        with_count: bool,
    ) -> (String, impl Fn(usize) -> String + Send + use<>) {
        let head = serde_json::to_string(&self.head(action, &[])).unwrap_or_default();
        let head = format!("{},\"data\":[", head.trim_end_matches('}'));
        let clock = self.clock.clone();
        let started_ms = self.started_ms;
        let tail = move |count: usize| {
            let now_ms = clock.now_ms();
            let count = if with_count { format!(",\"count\":{count}") } else { String::new() };
            format!(
                "]{count},\"timestamp\":{now_ms},\"duration\":{}}}\n",
                now_ms.saturating_sub(started_ms)
            )
        };
        (head, tail)
    }
}
