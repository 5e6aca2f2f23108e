//! The caller of an IMKit path, and the envelope of its answer.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path},
    http::{StatusCode, header, request::Parts},
    response::Response,
};
use serde::Serialize;

use super::failure::Failure;
use crate::{
    auth::{Credential, Principal, credentials::Caller},
    error::Reason,
    gateway::wire::{self, Gateway},
    limits::holder::Peer,
};

type Segments = HashMap<String, String>;

/// A request of an app's admin, authenticated by the app's API key.
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
    /// The path segment with that name.
    pub(super) fn segment(&self, name: &str) -> String {
        self.segments.get(name).cloned().unwrap_or_default()
    }
}

/// A request of a user about itself, authenticated by the app's client key and the user's token.
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
        let user_agent = wire::header_text(&parts.headers, header::USER_AGENT).map(str::to_owned);
        let peer = peer(parts);
        let started_ms = gateway.clock.now_ms();
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
    /// The path segment with that name.
    pub(super) fn segment(&self, name: &str) -> String {
        self.segments.get(name).cloned().unwrap_or_default()
    }

    /// The address that the request came from.
    pub(super) fn address(&self) -> Option<Address> {
        let (ip, port) = self.peer?;
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        Some(Address::new(ip.to_string(), family, port.map(u32::from)))
    }
}

/// The caller's address. Behind a trusted proxy it comes from a header, which has no port.
fn peer(parts: &Parts) -> Option<(IpAddr, Option<u16>)> {
    let proxied = parts.extensions.get::<Arc<Peer>>().map(|peer| (peer.ip, None));
    proxied.or_else(|| wire::peer(parts).map(|peer| (peer.ip(), Some(peer.port()))))
}

async fn segments(parts: &mut Parts, gateway: &Gateway) -> Result<Segments, Failure> {
    let segments = Path::<Segments>::from_request_parts(parts, gateway).await;
    segments.map(|Path(segments)| segments).map_err(|_| Failure::invalid("the path must be UTF-8"))
}

#[derive(Serialize)]
struct Success<T> {
    #[serde(rename = "RC")]
    code: u16,
    #[serde(rename = "RM")]
    message: &'static str,
    result: T,
}

/// A successful answer with this result.
pub(super) fn success<T: Serialize>(result: T) -> Response {
    wire::json_response(StatusCode::OK, &Success { code: 0, message: "OK", result }, None)
}

/// The text of a list's answer before its elements, and what renders the text after them.
pub(super) fn list_parts(total: i64) -> (String, impl Fn(usize) -> String + Send + use<>) {
    let head = format!(r#"{{"RC":0,"RM":"OK","result":{{"totalCount":{total},"data":["#);
    (head, |_| "]}}\n".to_owned())
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
