//! `GET /backup` on the admin listener: all records of one revision, streamed while the service
//! keeps running. It needs a service with the scope `admin` in all apps. One backup runs at a time.
//!
//! A snapshot does not block commits, but keeps what they overwrite in memory. So it is read by its
//! own task, a few chunks ahead of the client. The task ends at once if the client hangs up, if the
//! client is too slow, or if the service stops. The body of an aborted backup ends with an error,
//! and its file has no end marker.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::Stop;
use crate::{
    auth::{credentials::Access, may_back_up},
    counted::counted,
    error::{Error, Reason},
    service::Service,
    store::StoreError,
    transfer,
};

/// The number of chunks that are read ahead of the client.
const CHUNKS_AHEAD: usize = 4;
const DEFAULT_TIMEOUT: ReaderTimeout =
    ReaderTimeout { chunk: Duration::from_secs(30), bytes_per_s: 1 << 20 };

/// How slow a client may be.
#[derive(Clone, Copy)]
struct ReaderTimeout {
    /// The time for one chunk. It is also the initial budget for the whole backup.
    chunk: Duration,
    /// The minimum rate of the whole backup. A disk or a network is about a hundred times as fast.
    bytes_per_s: u64,
}

impl ReaderTimeout {
    /// How long the client may take for the next chunk, after waiting `waited` for the previous
    /// ones.
    fn remaining(self, waited: Duration, sent_bytes: u64) -> Duration {
        let whole = self.chunk + Duration::from_secs(sent_bytes / self.bytes_per_s);
        whole.saturating_sub(waited).min(self.chunk)
    }
}

#[derive(Clone)]
struct Backups {
    service: Arc<Service>,
    access: Arc<Access>,
    stopping: Stop,
    /// Held by the one running backup.
    semaphore: Arc<Semaphore>,
}

/// The route of the backup.
pub(super) fn routes(service: Arc<Service>, access: Arc<Access>, stopping: Stop) -> Router {
    let backups = Backups { service, access, stopping, semaphore: Arc::new(Semaphore::new(1)) };
    Router::new().route("/backup", get(handle)).with_state(backups)
}

async fn handle(State(backups): State<Backups>, headers: HeaderMap) -> Response {
    match start(backups, &headers).await {
        Ok(body) => ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response(),
        Err(error) => refuse(&error),
    }
}

/// Starts a backup. Errors: the UNAUTHENTICATED reasons, PERMISSION_DENIED, RATE_LIMITED while
/// another one runs, STORE_UNAVAILABLE.
async fn start(backups: Backups, headers: &HeaderMap) -> Result<Body, Error> {
    let Backups { service, access, stopping, semaphore } = backups;
    let principal = access.principal(headers, None)?;
    if !may_back_up(&principal) {
        return Err(Error::new(
            Reason::PermissionDenied,
            "a backup needs a service with the scope \"admin\" and the apps [\"*\"]",
        ));
    }
    let retry_after = Some(Duration::from_secs(10));
    let busy = || Error {
        retry_after,
        ..Error::new(Reason::RateLimited, "another backup is running; try again later")
    };
    let permit = semaphore.try_acquire_owned().map_err(|_| busy())?;
    let snapshot = service.store.snapshot().await?;
    tracing::info!(revision = snapshot.revision, by = principal.actor(), "a backup has started");
    let chunks = transfer::backup::bytes(snapshot, service.clock.now_ms());
    Ok(Body::from_stream(pump(chunks, permit, stopping, DEFAULT_TIMEOUT)))
}

/// The chunks as a body. They are read by a task that does not depend on when the body is polled.
fn pump(
    chunks: impl Stream<Item = Result<Vec<u8>, StoreError>> + Send + 'static,
    permit: OwnedSemaphorePermit,
    stopping: Stop,
    timeout: ReaderTimeout,
) -> impl Stream<Item = io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let (end_sender, end_receiver) = oneshot::channel();
    tokio::spawn(async move {
        match forward(chunks, sender, stopping, timeout).await {
            Ok(bytes) => {
                tracing::info!(bytes, "the backup is complete");
                let _ = end_sender.send(());
            }
            Err(reason) => tracing::warn!(why = reason, "the backup was aborted"),
        }
        drop(permit);
    });
    // If the task did not complete, the body must end with an error.
    let end = stream::once(end_receiver)
        .filter_map(async |end| end.err().map(|_| Err(io::Error::other("the backup was aborted"))));
    ReceiverStream::new(receiver).map(Ok).chain(end)
}

/// Returns the number of bytes sent. Errors: why the backup was aborted.
async fn forward(
    chunks: impl Stream<Item = Result<Vec<u8>, StoreError>>,
    to: mpsc::Sender<Bytes>,
    mut stopping: Stop,
    timeout: ReaderTimeout,
) -> Result<u64, String> {
    let mut chunks = std::pin::pin!(chunks);
    let mut sent_bytes = 0;
    let mut waited = Duration::ZERO;
    while let Some(chunk) = chunks.next().await {
        let chunk = Bytes::from(chunk.map_err(|error| error.to_string())?);
        sent_bytes += chunk.len() as u64;
        let remaining = timeout.remaining(waited, sent_bytes);
        let started = Instant::now();
        tokio::select! {
            sent = tokio::time::timeout(remaining, to.send(chunk)) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the client hung up".to_owned()),
                Err(_) => {
                    let sent = counted(sent_bytes, "byte");
                    return Err(format!("the client was too slow, after {sent}"));
                }
            },
            _ = stopping.wait_for(|stopping| *stopping) => {
                return Err("the service is stopping".to_owned());
            }
        }
        waited += started.elapsed();
    }
    Ok(sent_bytes)
}

fn refuse(error: &Error) -> Response {
    if let Some(cause) = &error.cause {
        tracing::error!(reason = error.reason.as_str(), cause, "a backup failed");
    }
    let body = json!({ "reason": error.reason.as_str(), "message": error.message });
    let mut response = (status(error.reason), Json(body)).into_response();
    if let Some(wait) = error.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

const fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::InvalidApiKey
        | Reason::InvalidClientKey
        | Reason::InvalidToken
        | Reason::MalformedToken
        | Reason::MissingToken
        | Reason::InvalidCredentials => StatusCode::UNAUTHORIZED,
        Reason::PermissionDenied => StatusCode::FORBIDDEN,
        Reason::RateLimited | Reason::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
        Reason::StoreUnavailable | Reason::StoreFull | Reason::Stopping | Reason::Overloaded => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Reason::ClientNotFound | Reason::RoomNotFound | Reason::AppNotFound => {
            StatusCode::NOT_FOUND
        }
        Reason::OwnerNotMutable
        | Reason::InvalidArgument
        | Reason::TooManyUsers
        | Reason::RequestIdReused => StatusCode::BAD_REQUEST,
        Reason::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::RevisionCompacted | Reason::WatcherTooSlow => StatusCode::GONE,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    /// More chunks than are read ahead, and a token whose count shows whether they still exist.
    fn chunks() -> (impl Stream<Item = Result<Vec<u8>, StoreError>> + Send + 'static, Arc<()>) {
        let token = Arc::new(());
        let token_of_stream = token.clone();
        let chunk = move || {
            let _held = &token_of_stream;
            Ok(vec![0; 1_024])
        };
        (stream::repeat_with(chunk).take(100), token)
    }

    async fn permit(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        tokio::time::timeout(Duration::from_secs(20), semaphore.clone().acquire_owned())
            .await
            .unwrap()
            .unwrap()
    }

    #[tokio::test]
    async fn an_aborted_backup_releases_its_snapshot() {
        let semaphore = Arc::new(Semaphore::new(1));
        let (stop_sender, stopping) = watch::channel(false);
        let slow = ReaderTimeout { chunk: Duration::from_millis(20), ..DEFAULT_TIMEOUT };
        let day = ReaderTimeout { chunk: Duration::from_secs(86_400), ..DEFAULT_TIMEOUT };
        // The client reads nothing: the backup is aborted, and a later read shows it.
        let (stream, token) = chunks();
        let body = pump(stream, permit(&semaphore).await, stopping.clone(), slow);
        drop(permit(&semaphore).await);
        assert_eq!(Arc::strong_count(&token), 1);
        let read: Vec<_> = body.collect().await;
        assert_eq!(
            read.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, true, true, false]
        );
        // The client hangs up.
        let (stream, token) = chunks();
        let mut body = Box::pin(pump(stream, permit(&semaphore).await, stopping.clone(), day));
        assert!(body.next().await.unwrap().is_ok());
        drop(body);
        drop(permit(&semaphore).await);
        assert_eq!(Arc::strong_count(&token), 1);
        // The service stops.
        let (stream, token) = chunks();
        let _body = pump(stream, permit(&semaphore).await, stopping, day);
        stop_sender.send_replace(true);
        drop(permit(&semaphore).await);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn the_time_budget_grows_with_the_bytes_sent() {
        let remaining = |elapsed_s, sent_bytes| {
            DEFAULT_TIMEOUT.remaining(Duration::from_secs(elapsed_s), sent_bytes).as_secs()
        };
        assert_eq!(remaining(0, 0), 30);
        assert_eq!(remaining(0, 1 << 30), 30);
        assert_eq!(remaining(1_040, 1 << 30), 14);
        assert_eq!(remaining(2_000, 1 << 30), 0);
    }
}
