//! Fetches a backup from a service that runs, over plain HTTP: the admin listener is not for the
//! public, and has no TLS of its own.

use std::{future::Future, io::Write, time::Duration};

use axum::body::Body;
use futures_util::StreamExt as _;
use http::{Request, StatusCode, Uri, header, uri::Scheme};

use super::Failure;
use crate::fetch;

/// For a connection, an answer, and each piece of it.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Of an answer that is an error.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// Writes the backup of the service whose admin listener is at this address, such as
/// `http://127.0.0.1:9090`. That it is whole is for [`super::backup::verify`] to say. Errors:
/// [`Failure::Fetch`], [`Failure::File`] where it cannot be written.
pub async fn backup(
    from: &str,
    token: &str,
    to: &mut (dyn Write + Send),
    what: &str,
) -> Result<u64, Failure> {
    let failed = |error: String| Failure::Fetch { from: from.to_owned(), what: error };
    let mut body = in_time(request(from, token)).await.map_err(failed)?.into_data_stream();
    let mut bytes = 0;
    while let Some(piece) = in_time(async { Ok(body.next().await) }).await.map_err(failed)? {
        let piece = piece.map_err(|error| failed(format!("after {bytes} bytes: {error}")))?;
        to.write_all(&piece).map_err(|source| Failure::File { what: what.to_owned(), source })?;
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(STALL_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(format!("nothing has come for {} s", STALL_TIMEOUT.as_secs())))
}

async fn request(from: &str, token: &str) -> Result<Body, String> {
    let uri: Uri =
        from.trim_end_matches('/').parse().map_err(|error| format!("it is no URL: {error}"))?;
    if uri.scheme() != Some(&Scheme::HTTP) {
        return Err(
            "an address is http://HOST:PORT; where TLS is in between, go through a port-forward"
                .to_owned(),
        );
    }
    let request = Request::get(format!("{}/backup", from.trim_end_matches('/')))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::empty());
    let request = request.map_err(|error| error.to_string())?;
    let answer =
        fetch::client(None)?.request(request).await.map_err(|error| fetch::describe(&error))?;
    let (head, body) = (answer.status(), Body::new(answer.into_body()));
    if head == StatusCode::OK {
        return Ok(body);
    }
    let told = axum::body::to_bytes(body, MAX_ERROR_BYTES).await.unwrap_or_default();
    Err(format!("{head}: {}", String::from_utf8_lossy(&told)))
}
