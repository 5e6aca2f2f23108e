//! `GET /backup` on the admin listener: all records of one revision, streamed while the service
//! goes on. For a service with the scope `admin` in all apps, one at a time.
//!
//! A snapshot holds up no commits, but keeps in memory what they overwrite. So it is read by a task
//! of its own, a few pieces ahead of the reader; a reader that hangs up ends it at once, one that
//! does not keep up is cut, and so is every one when the service stops. Whoever was cut has a body
//! that does not end as it should, and a file without an end.

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
    error::{Error, Reason},
    service::Service,
    store::StoreError,
    transfer,
};

/// Pieces read ahead.
const AHEAD: usize = 4;
const READER_TIMEOUT: ReaderTimeout =
    ReaderTimeout { piece: Duration::from_secs(30), bytes_per_s: 1 << 20 };

/// How slow a reader may be.
#[derive(Clone, Copy)]
struct ReaderTimeout {
    /// For one piece, and to begin with for the whole.
    piece: Duration,
    /// What the whole is to keep up with. A disk or a network does a hundred times as much.
    bytes_per_s: u64,
}

impl ReaderTimeout {
    /// For how long the reader may let the next piece wait, after so long that it has let others
    /// wait.
    fn left(self, waited: Duration, sent_bytes: u64) -> Duration {
        let whole = self.piece + Duration::from_secs(sent_bytes / self.bytes_per_s);
        whole.saturating_sub(waited).min(self.piece)
    }
}

#[derive(Clone)]
struct Backups {
    service: Arc<Service>,
    access: Arc<Access>,
    stopping: Stop,
    /// One at a time.
    turn: Arc<Semaphore>,
}

/// The path, for a service that runs.
pub(super) fn routes(service: Arc<Service>, access: Arc<Access>, stopping: Stop) -> Router {
    let backups = Backups { service, access, stopping, turn: Arc::new(Semaphore::new(1)) };
    Router::new().route("/backup", get(answer)).with_state(backups)
}

async fn answer(State(backups): State<Backups>, headers: HeaderMap) -> Response {
    match begin(backups, &headers).await {
        Ok(body) => ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response(),
        Err(error) => refuse(&error),
    }
}

/// Errors: the UNAUTHENTICATED reasons, PERMISSION_DENIED, RATE_LIMITED while another one runs,
/// STORE_UNAVAILABLE.
async fn begin(backups: Backups, headers: &HeaderMap) -> Result<Body, Error> {
    let Backups { service, access, stopping, turn } = backups;
    let principal = access.principal(headers, None)?;
    if !may_back_up(&principal) {
        return Err(Error::new(
            Reason::PermissionDenied,
            "a backup is for a service with the scope \"admin\" and the apps [\"*\"]",
        ));
    }
    let retry_after = Some(Duration::from_secs(10));
    let busy = || Error {
        retry_after,
        ..Error::new(Reason::RateLimited, "another backup is being taken; try again")
    };
    let turn = turn.try_acquire_owned().map_err(|_| busy())?;
    let snapshot = service.store.snapshot().await?;
    tracing::info!(revision = snapshot.revision, by = principal.actor(), "a backup is being taken");
    let pieces = transfer::backup::bytes(snapshot, service.clock.now_ms());
    Ok(Body::from_stream(pump(pieces, turn, stopping, READER_TIMEOUT)))
}

/// The pieces as a body, read by a task that does not depend on who reads the body.
fn pump(
    pieces: impl Stream<Item = Result<Vec<u8>, StoreError>> + Send + 'static,
    turn: OwnedSemaphorePermit,
    stopping: Stop,
    timeout: ReaderTimeout,
) -> impl Stream<Item = io::Result<Bytes>> {
    let (send, sent) = mpsc::channel(AHEAD);
    let (tell_end, end) = oneshot::channel();
    tokio::spawn(async move {
        match forward(pieces, send, stopping, timeout).await {
            Ok(bytes) => {
                tracing::info!(bytes, "the backup is taken");
                let _ = tell_end.send(());
            }
            Err(why) => tracing::warn!(why, "the backup was cut"),
        }
        drop(turn);
    });
    // Without the word that it has ended, the body must not look like a whole one.
    let end = stream::once(end)
        .filter_map(async |end| end.err().map(|_| Err(io::Error::other("the backup was cut"))));
    ReceiverStream::new(sent).map(Ok).chain(end)
}

/// Answers how many bytes it were. Errors: why it was cut.
async fn forward(
    pieces: impl Stream<Item = Result<Vec<u8>, StoreError>>,
    to: mpsc::Sender<Bytes>,
    mut stopping: Stop,
    timeout: ReaderTimeout,
) -> Result<u64, String> {
    let (mut pieces, mut sent_bytes, mut waited) = (std::pin::pin!(pieces), 0, Duration::ZERO);
    while let Some(piece) = pieces.next().await {
        let piece = Bytes::from(piece.map_err(|error| error.to_string())?);
        sent_bytes += piece.len() as u64;
        let (left, since) = (timeout.left(waited, sent_bytes), Instant::now());
        tokio::select! {
            sent = tokio::time::timeout(left, to.send(piece)) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("its reader has hung up".to_owned()),
                Err(_) => return Err(format!("its reader was too slow, after {sent_bytes} bytes")),
            },
            _ = stopping.wait_for(|stopping| *stopping) => return Err("the service is being stopped".to_owned()),
        }
        waited += since.elapsed();
    }
    Ok(sent_bytes)
}

fn refuse(error: &Error) -> Response {
    if let Some(cause) = &error.cause {
        tracing::error!(reason = error.reason.as_str(), cause, "a backup has failed");
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
        Reason::RevisionCompacted | Reason::WatcherTooSlow => StatusCode::GONE,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    /// More pieces than are read ahead, and whether they are still held.
    fn pieces() -> (impl Stream<Item = Result<Vec<u8>, StoreError>> + Send + 'static, Arc<()>) {
        let held = Arc::new(());
        let of_stream = held.clone();
        let piece = move || {
            let _held = &of_stream;
            Ok(vec![0; 1_024])
        };
        (stream::repeat_with(piece).take(100), held)
    }

    async fn turn(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        tokio::time::timeout(Duration::from_secs(20), semaphore.clone().acquire_owned())
            .await
            .unwrap()
            .unwrap()
    }

    #[tokio::test]
    async fn a_reader_that_stalls_hangs_up_or_is_in_the_way_of_a_stop_holds_nothing() {
        let semaphore = Arc::new(Semaphore::new(1));
        let (tell, stopping) = watch::channel(false);
        let slow = ReaderTimeout { piece: Duration::from_millis(20), ..READER_TIMEOUT };
        let day = ReaderTimeout { piece: Duration::from_secs(86_400), ..READER_TIMEOUT };
        // Reads nothing: it is cut, and finds that out when it reads on.
        let (stream, held) = pieces();
        let body = pump(stream, turn(&semaphore).await, stopping.clone(), slow);
        drop(turn(&semaphore).await);
        assert_eq!(Arc::strong_count(&held), 1);
        let read: Vec<_> = body.collect().await;
        assert_eq!(
            read.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, true, true, false]
        );
        // Hangs up.
        let (stream, held) = pieces();
        let mut body = Box::pin(pump(stream, turn(&semaphore).await, stopping.clone(), day));
        assert!(body.next().await.unwrap().is_ok());
        drop(body);
        drop(turn(&semaphore).await);
        assert_eq!(Arc::strong_count(&held), 1);
        // The service stops.
        let (stream, held) = pieces();
        let _body = pump(stream, turn(&semaphore).await, stopping, day);
        tell.send_replace(true);
        drop(turn(&semaphore).await);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_piece_has_half_a_minute_and_the_whole_a_second_more_for_each_mebibyte() {
        let left = |elapsed_s, sent_bytes| {
            READER_TIMEOUT.left(Duration::from_secs(elapsed_s), sent_bytes).as_secs()
        };
        assert_eq!(left(0, 0), 30);
        assert_eq!(left(0, 1 << 30), 30);
        assert_eq!(left(1_040, 1 << 30), 14);
        assert_eq!(left(2_000, 1 << 30), 0);
    }
}
