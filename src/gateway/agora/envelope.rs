//! What a request to an Agora path is about, and the envelopes of its answers and errors.

use std::collections::HashMap;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Path, rejection::BytesRejection},
    http::{StatusCode, header, request::Parts},
    response::Response,
};
use serde::Serialize;
use serde_json::Value;
use tonic::Status;
use uuid::Uuid;

use super::failure::Failure;
use crate::{
    auth::credentials::Caller,
    clock::Clock,
    gateway::wire::{self, Gateway},
};

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
