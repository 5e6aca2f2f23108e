//! Serves one connection: TLS, its timeouts, its maximum age and its graceful shutdown.
//!
//! A connection cannot be held open without use. The handshake, the first request and each HTTP/1
//! head must arrive within half a minute. An idle HTTP/1 connection is closed after `max_idle`,
//! because it may be closed only when no request can be under way to it; an idle HTTP/2 connection
//! stays open. A peer that neither responds nor acknowledges data for a minute is disconnected: the
//! kernel does this (keepalive and user timeout), because pings of HTTP/2 cost a lock for each
//! frame. The kernel does not see responses that wait for an HTTP/2 window, so those are checked
//! here.
//!
//! At its maximum age a connection is asked to close, so that callers spread over added replicas:
//! by GOAWAY, or over HTTP/1 by `connection: close` in its next response. When the service stops,
//! all connections close. Running calls are finished, and watches end with the revision to resume
//! from.

use std::{
    convert::Infallible,
    error::Error as StdError,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _, TryFutureExt as _,
    future::{BoxFuture, Either},
    stream::FuturesUnordered,
};
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rand::RngExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tower::{Service, ServiceExt as _};

use super::{
    admission::SiteHolders,
    forwarded,
    h2_frames::Inspected,
    head_timer::HEAD_TIMEOUT,
    http::{Protocols, builder},
    lingering::Lingering,
    parse_faults::{FaultBody, WithFaultBodies},
    tls::{self, Tls},
};
use crate::{
    auth::credentials::CertNames,
    limits::{
        concurrency::MAX_DEADLINE,
        connection::{Connection, POLL_INTERVAL},
        holder::Peer,
    },
};

/// TCP keepalive: the idle time before the first probe, the interval between probes, and how many
/// unanswered ones end the connection.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
const KEEPALIVE_PROBES: u32 = 5;
/// How long running calls may take after the connection reached its maximum age: longer than any
/// call but a watch, and longer than a watch takes to end.
const DRAIN_TIMEOUT: Duration = MAX_DEADLINE.saturating_add(Duration::from_secs(5));
/// The same, for an evicted connection, which had no open call.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) type Failure = Box<dyn StdError + Send + Sync>;

/// Becomes `true` when the service stops.
pub type Stop = watch::Receiver<bool>;

/// The rules for the connections of one listener.
#[derive(Clone)]
pub struct Rules {
    /// The maximum number of connections. Beyond it, a new one evicts an idle one or is closed at
    /// once.
    pub max_connections: usize,
    /// The listener's name in metrics.
    pub name: &'static str,
    /// What each address holds, across all listeners.
    pub sites: Arc<SiteHolders>,
    /// Trusted proxies. Their connections carry the calls of others, so they have no share.
    pub trusted_proxies: Arc<[IpNet]>,
    /// The age at which a connection is closed gracefully, plus or minus a tenth; zero means never.
    pub max_age: Duration,
    /// How long an HTTP/1 connection may be idle between two requests.
    pub max_idle: Duration,
    /// TLS, if the listener uses it.
    pub tls: Option<Arc<Tls>>,
    /// The body of an answer to what is not HTTP; without it, such an answer has none.
    pub fault_body: Option<FaultBody>,
}

/// The HTTP service that handles the requests of a listener.
pub(super) trait HttpService:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
    type Body: Body<Data: Send, Error: Into<Failure>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data: Send, Error: Into<Failure>> + Send + 'static,
{
    type Body = B;
}

/// Serves a connection until it ends. Errors: why it was cut.
pub(super) async fn serve_connection(
    stream: TcpStream,
    info: ConnectionInfo,
    protocols: Protocols,
    rules: &Rules,
    service: impl HttpService,
    stop: Stop,
) -> Result<(), Failure> {
    configure_socket(&stream)?;
    let Some(certificates) = &rules.tls else {
        return serve_requests(stream, protocols, rules, stop, service, info).await;
    };
    let stream = tokio::select! {
        stream = timeout(HEAD_TIMEOUT, certificates.acceptor(protocols).accept(stream)) => {
            let peer = info.state.addr;
            let stream = stream.map_err(io::Error::from)?;
            stream.inspect_err(|error| tls::report_refusal(peer, error))?
        }
        () = info.evicted.notified() => {
            return Err("evicted to make room for another connection".into());
        }
    };
    let certificate = tls::cert_names(&stream).map(Arc::new);
    serve_requests(stream, protocols, rules, stop, service, ConnectionInfo { certificate, ..info })
        .await
}

fn configure_socket(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    // For unacknowledged data. Other systems have a timeout of minutes.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(KEEPALIVE_TIME + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL))?;
    Ok(())
}

/// The state of a connection, what notifies it of its eviction, and the client certificate.
#[derive(Clone)]
pub(super) struct ConnectionInfo {
    pub(super) state: Arc<Connection>,
    pub(super) evicted: Arc<Notify>,
    pub(super) certificate: Option<Arc<CertNames>>,
}

async fn serve_requests(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    protocols: Protocols,
    rules: &Rules,
    stop: Stop,
    service: impl HttpService,
    info: ConnectionInfo,
) -> Result<(), Failure> {
    let has_request = Arc::new(AtomicBool::new(false));
    let is_http1 = Arc::new(AtomicBool::new(false));
    let proxies =
        info.state.peer.is_none().then(|| (rules.trusted_proxies.clone(), rules.sites.clone()));
    let mark_request = has_request.clone();
    let mark_http1 = is_http1.clone();
    let state = info.state.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let over_http1 = request.version() < Version::HTTP_2;
        mark_request.store(true, Ordering::Relaxed);
        mark_http1.store(over_http1, Ordering::Relaxed);
        request.extensions_mut().insert(info.state.clone());
        if let Some((trusted, sites)) = &proxies
            && let Some(ip) = forwarded::caller(request.headers(), trusted)
        {
            request.extensions_mut().insert(Arc::new(Peer { ip, holder: sites.holder(ip.into()) }));
        }
        if let Some(names) = &info.certificate {
            request.extensions_mut().insert(names.clone());
        }
        let response = service.clone().oneshot(request);
        if !over_http1 {
            return Either::Left(response);
        }
        let state = info.state.clone();
        Either::Right(response.map_ok(move |mut response| {
            if state.is_closing() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }))
    });
    let is_brief = Arc::new(AtomicBool::new(false));
    let io = Inspected::new(Lingering::new(io, is_brief.clone()));
    let builder = builder(protocols, rules.max_idle, io.head_timer());
    let io = WithFaultBodies::new(io, rules.fault_body.clone());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    // This set is polled only when one of its futures is ready, not at each frame.
    let events = FuturesUnordered::<BoxFuture<'_, Event>>::new();
    events.push(sleep(HEAD_TIMEOUT).map(|()| Event::FirstRequestDue).boxed());
    events.push(sleep(jittered(rules.max_age)).map(|()| Event::MaxAge).boxed());
    events.push(sleep(POLL_INTERVAL).map(|()| Event::CheckUnread).boxed());
    events.push(async { info.evicted.notified().await }.map(|()| Event::Evicted).boxed());
    events.push(stop_requested(stop).map(|()| Event::Stop).boxed());
    let mut events = pin!(events);
    let event = loop {
        tokio::select! {
            ended = &mut connection => return ended,
            Some(event) = events.next() => match event {
                Event::FirstRequestDue if has_request.load(Ordering::Relaxed) => {}
                // A proxy carries responses of several callers: one that does not read must not cut
                // off the others.
                Event::CheckUnread if !state.check_unread() || state.peer.is_none() => {
                    events.push(sleep(POLL_INTERVAL).map(|()| Event::CheckUnread).boxed());
                }
                // Closed now, it could lose the request that is under way to it.
                Event::MaxAge if is_http1.load(Ordering::Relaxed) => {
                    state.begin_close();
                    let last = DRAIN_TIMEOUT.max(rules.max_idle);
                    events.push(sleep(last).map(|()| Event::Outlived).boxed());
                }
                event => break event,
            }
        }
    };
    match event {
        Event::FirstRequestDue => return Err("no request arrived in time".into()),
        Event::CheckUnread => return Err("the client does not read its responses".into()),
        Event::Outlived => return Err("a response took too long after the maximum age".into()),
        Event::Evicted | Event::MaxAge | Event::Stop => {}
    }
    state.begin_close();
    is_brief.store(matches!(event, Event::Stop), Ordering::Relaxed);
    connection.as_mut().graceful_shutdown();
    match event {
        // The owner of the process limits how long this takes.
        Event::Stop => connection.await,
        // A call may have begun since; then it gets the longer timeout.
        Event::Evicted if state.idle().is_some() => {
            timeout(EVICTION_TIMEOUT, connection).await.map_err(io::Error::from)?
        }
        _ => timeout(DRAIN_TIMEOUT, connection).await.map_err(io::Error::from)?,
    }
}

/// An event that may end a connection.
enum Event {
    /// The time for the first request is over.
    FirstRequestDue,
    /// It is time to check for unread responses.
    CheckUnread,
    /// It was evicted.
    Evicted,
    /// It reached its maximum age.
    MaxAge,
    /// It is still open, long after that.
    Outlived,
    /// The service stops.
    Stop,
}

/// The limit, plus or minus a tenth.
fn jittered(limit: Duration) -> Duration {
    // Stands for "never".
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    if limit.is_zero() { YEAR } else { limit.mul_f64(rand::rng().random_range(0.9..1.1)) }
}

/// Completes when the service stops.
pub(super) async fn stop_requested(mut stop: Stop) {
    // An error means that the sender is gone, which also means to stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests;
