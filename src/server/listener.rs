//! The connections of one listener: how many there may be, how they begin, how old they grow, and
//! how they end.
//!
//! Nobody holds anything for long without asking for something: a handshake, the first request and
//! each head of HTTP/1 have half a minute, and who neither answers nor takes anything for a minute
//! is gone. The kernel sees to that, since HTTP/2's own pings cost a lock for each frame; of
//! answers that wait for a window it knows nothing, so those are looked after here. Where all
//! places are taken, who is idle makes room (`admission.rs`). A connection that has come of age is
//! told to go (GOAWAY), so that callers spread over replicas that were added; so is every one when
//! the service stops. Calls that run are finished.

use std::{
    collections::HashMap,
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

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rand::RngExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::{Service, ServiceExt as _};

use super::{
    admission::{Door, Sites},
    forwarded,
    h2_goaway_fix::GoawayFix,
    http::{HEAD_TIMEOUT, Http, builder},
    tls::{self, Tls},
};
use crate::{
    auth::credentials::CertNames,
    limits::{
        connection::{Connection, POLL_INTERVAL},
        holder::Peer,
    },
    telemetry::metrics::METRICS,
};

/// After this much silence the kernel asks whether the other side is still there, so often, and so
/// many times.
const SILENCE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(6);
const PROBES: u32 = 5;
/// For what still runs on a connection that was told to go because of its age.
const GRACE: Duration = Duration::from_secs(30);
/// The same, of one on which nothing was open when others wanted its place.
const AT_ONCE: Duration = Duration::from_secs(1);
/// After a connection could not be taken, for want of file descriptors, say.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

pub(super) type Failure = Box<dyn StdError + Send + Sync>;

/// Tells when to stop.
pub type Stop = watch::Receiver<bool>;

/// What holds for all connections of a listener.
#[derive(Clone)]
pub struct Rules {
    /// Connections at a time; those beyond are closed at once, unless one that is idle makes room.
    pub max_connections: usize,
    /// What the listener is called in metrics.
    pub name: &'static str,
    /// What each address holds.
    pub sites: Arc<Sites>,
    /// Whose connections are those of others, so that they have no share.
    pub trusted_proxies: Arc<[IpNet]>,
    /// At which age a connection is told to go, give or take a tenth; zero is never.
    pub max_age: Duration,
    /// Over TLS, where there is one.
    pub tls: Option<Arc<Tls>>,
}

/// What answers the requests of a listener.
pub(super) trait Answers:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
    type Body: Body<Data: Send, Error: Into<Failure>> + Send + 'static;
}

impl<S, B> Answers for S
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

/// Serves until it is told to stop, then finishes the calls that run.
pub(super) async fn serve(
    listener: TcpListener,
    http: Http,
    rules: Rules,
    service: impl Answers,
    stop: Stop,
) {
    let mut door =
        Door::new(rules.max_connections, rules.trusted_proxies.clone(), rules.sites.clone());
    let (mut connections, mut numbers) = (JoinSet::new(), HashMap::new());
    let (tell, word) = watch::channel(false);
    let mut stopped = pin!(stopped(stop));
    loop {
        METRICS.connections(rules.name, door.guests());
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
            Some(ended) = connections.join_next_with_id() => {
                // Its place is free also after a panic.
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                numbers.remove(&id).into_iter().for_each(|number| door.leave(number));
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some((number, place, go)) = door.enter(peer) else {
                    METRICS.connection_refused();
                    tracing::debug!(%peer, "a connection was refused: there are as many as there may be");
                    continue;
                };
                let (rules, service, stop) = (rules.clone(), service.clone(), word.clone());
                let task = connections.spawn(async move {
                    let origin = Origin { place, go, certificate: None };
                    let connection = connection(stream, origin, http, &rules, service, stop);
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, error, "a connection has ended");
                    }
                });
                numbers.insert(task.id(), number);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    // The door is shut before those inside are told to go, so that nobody comes back to it and is
    // not let in.
    drop(listener);
    tell.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    origin: Origin,
    http: Http,
    rules: &Rules,
    service: impl Answers,
    stop: Stop,
) -> Result<(), Failure> {
    set_up(&stream)?;
    let Some(certificates) = &rules.tls else {
        return requests(stream, http, rules, stop, service, origin).await;
    };
    let stream = tokio::select! {
        stream = timeout(HEAD_TIMEOUT, certificates.acceptor(http).accept(stream)) => stream.map_err(io::Error::from)??,
        () = origin.go.notified() => return Err("others wanted its place".into()),
    };
    let certificate = tls::names(&stream).map(Arc::new);
    requests(stream, http, rules, stop, service, Origin { certificate, ..origin }).await
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE).with_retries(PROBES),
    )?;
    // For what was sent: other systems have a time of their own, of minutes.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE + PROBES * PROBE))?;
    Ok(())
}

/// Where a connection comes from.
#[derive(Clone)]
struct Origin {
    place: Arc<Connection>,
    go: Arc<Notify>,
    certificate: Option<Arc<CertNames>>,
}

async fn requests(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    http: Http,
    rules: &Rules,
    stop: Stop,
    service: impl Answers,
    origin: Origin,
) -> Result<(), Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    let proxies =
        origin.place.peer.is_none().then(|| (rules.trusted_proxies.clone(), rules.sites.clone()));
    let (has_asked, place) = (asked.clone(), origin.place.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(origin.place.clone());
        if let Some((trusted, sites)) = &proxies
            && let Some(ip) = forwarded::caller(request.headers(), trusted)
        {
            request.extensions_mut().insert(Arc::new(Peer { ip, holder: sites.holder(ip.into()) }));
        }
        if let Some(names) = &origin.certificate {
            request.extensions_mut().insert(names.clone());
        }
        service.clone().oneshot(request)
    });
    let builder = builder(http);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(GoawayFix::new(io)), service));
    // Polled where one of them has come, rather than at each frame.
    let words = FuturesUnordered::<BoxFuture<'_, ShutdownReason>>::new();
    words.push(sleep(HEAD_TIMEOUT).map(|()| ShutdownReason::FirstIsDue).boxed());
    words.push(sleep(age(rules.max_age)).map(|()| ShutdownReason::Old).boxed());
    words.push(sleep(POLL_INTERVAL).map(|()| ShutdownReason::Look).boxed());
    words.push(async { origin.go.notified().await }.map(|()| ShutdownReason::Go).boxed());
    words.push(stopped(stop).map(|()| ShutdownReason::Stop).boxed());
    let mut words = pin!(words);
    let word = loop {
        tokio::select! {
            ended = &mut connection => return ended,
            Some(word) = words.next() => match word {
                ShutdownReason::FirstIsDue if asked.load(Ordering::Relaxed) => {}
                // A proxy carries the answers of others, who are not to be cut for one of them.
                ShutdownReason::Look if !place.look() || place.peer.is_none() => words.push(sleep(POLL_INTERVAL).map(|()| ShutdownReason::Look).boxed()),
                word => break word,
            }
        }
    };
    match word {
        ShutdownReason::FirstIsDue => return Err("nothing was asked".into()),
        ShutdownReason::Look => return Err("answers were not read".into()),
        ShutdownReason::Go | ShutdownReason::Old | ShutdownReason::Stop => {}
    }
    connection.as_mut().graceful_shutdown();
    match word {
        // Whoever stops the service says for how long.
        ShutdownReason::Stop => connection.await,
        // A call may have begun meanwhile.
        ShutdownReason::Go if place.idle().is_some() => {
            timeout(AT_ONCE, connection).await.map_err(io::Error::from)?
        }
        _ => timeout(GRACE, connection).await.map_err(io::Error::from)?,
    }
}

/// What a connection may have to end for.
enum ShutdownReason {
    /// The first request should be there.
    FirstIsDue,
    /// Whether answers wait to be read is to be looked at.
    Look,
    /// Others want its place.
    Go,
    /// It has come of age.
    Old,
    /// The service stops.
    Stop,
}

/// The age of one connection.
fn age(limit: Duration) -> Duration {
    // As good as never.
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    if limit.is_zero() { YEAR } else { limit.mul_f64(rand::rng().random_range(0.9..1.1)) }
}

/// Done when it is told to stop.
async fn stopped(mut stop: Stop) {
    // An error means that whoever would tell is gone, which tells the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
