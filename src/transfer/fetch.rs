//! Fetches a backup from a running service, over plain HTTP: the admin listener is not public, and
//! has no TLS.

use std::{future::Future, io::Write, time::Duration};

use axum::body::Body;
use futures_util::StreamExt as _;
use http::{Request, StatusCode, Uri, header, uri::Scheme};

use super::Failure;
use crate::{
    counted::counted,
    fetch::{
        self,
        peer::{self, Peer, Server},
    },
};

/// For the response, and for each chunk of it.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The most that is read of an error response.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// Fetches a backup from this admin listener, such as `http://127.0.0.1:9090`, and returns its
/// length in bytes. It may be incomplete: call [`super::backup::verify`]. `what` names the output
/// in errors. Errors: [`Failure::Fetch`]; [`Failure::File`] if it cannot be written.
pub async fn backup(
    from: &str,
    token: &str,
    to: &mut (dyn Write + Send),
    what: &str,
) -> Result<u64, Failure> {
    let failed = |error: String| Failure::Fetch { from: from.to_owned(), what: error };
    let mut body = with_timeout(request(from, token)).await.map_err(failed)?.into_data_stream();
    let mut bytes = 0;
    while let Some(chunk) = with_timeout(async { Ok(body.next().await) }).await.map_err(failed)? {
        let chunk =
            chunk.map_err(|error| failed(format!("after {}: {error}", counted(bytes, "byte"))))?;
        to.write_all(&chunk).map_err(|source| Failure::File { what: what.to_owned(), source })?;
        bytes += chunk.len() as u64;
    }
    Ok(bytes)
}

async fn with_timeout<T>(read: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(STALL_TIMEOUT, read)
        .await
        .unwrap_or_else(|_| Err(format!("no data for {} s", STALL_TIMEOUT.as_secs())))
}

async fn request(from: &str, token: &str) -> Result<Body, String> {
    let from = from.trim_end_matches('/');
    let from = if from.contains("://") { from.to_owned() } else { format!("http://{from}") };
    let uri: Uri = from.parse().map_err(|error| format!("it is not a URL: {error}"))?;
    if uri.scheme() != Some(&Scheme::HTTP) {
        return Err("it must be http://HOST:PORT; if a TLS proxy is in front, use a port-forward"
            .to_owned());
    }
    let request = Request::get(format!("{from}/backup"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::empty());
    let request = request.map_err(|error| error.to_string())?;
    let response = match fetch::client(None)?.request(request).await {
        Ok(response) => response,
        Err(error) => return Err(elsewhere(&from).await.unwrap_or(fetch::describe(&error))),
    };
    let status = response.status();
    let body = Body::new(response.into_body());
    if status == StatusCode::OK {
        return Ok(body);
    }
    if let Some(elsewhere) = elsewhere(&from).await {
        return Err(elsewhere);
    }
    let message = axum::body::to_bytes(body, MAX_ERROR_BYTES).await.unwrap_or_default();
    Err(format!("{status}: {}", String::from_utf8_lossy(&message)))
}

/// What answers at this URL, if it is no admin listener.
async fn elsewhere(from: &str) -> Option<String> {
    let which = match peer::identify(from, None).await? {
        Peer { server: Some(Server::Grpc), .. } => "the gRPC port of a service",
        Peer { server: Some(Server::Rest), .. } => "the REST port of a mute-service",
        Peer { server: Some(Server::Http), .. } => "an HTTP server that is no mute-service",
        Peer { uses_tls: true, .. } => "a server with TLS",
        Peer { server: Some(Server::Admin) | None, .. } => return None,
    };
    Some(format!("this is {which}; give the address of its admin port, 9090 by default"))
}
