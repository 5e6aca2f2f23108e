//! The connections of one listener: how many there may be, how they begin, how old they grow, and how they end.
//!
//! Nobody holds anything for long without asking for something: a handshake, the first request and each head of HTTP/1 have half a minute, and who
//! neither answers nor takes anything for a minute is gone. The kernel sees to that, since HTTP/2's own pings cost a lock for each frame. A
//! connection that has come of age is told to go (GOAWAY), so that callers spread over replicas that were added; so is every one when the service stops.
//! Calls that run are finished.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::extract::ConnectInfo;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rand::RngExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::{Service, ServiceExt as _};

use super::{
    Failure, Stop,
    late::Timely,
    tls::{self, Tls},
};
use crate::auth::credentials::CertNames;

/// For a handshake, for the first request, and for the head of one over HTTP/1, which counts while the connection is idle too.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this much silence the kernel asks whether the other side is still there, so often, and so many times.
const SILENCE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(6);
const PROBES: u32 = 5;
/// For what still runs on a connection that was told to go because of its age.
const GRACE: Duration = Duration::from_secs(30);
/// All headers of a request together.
const HEAD_BYTES: u32 = 32 << 10;
/// Calls at a time on one HTTP/2 connection.
const STREAMS: u32 = 1_024;
/// Streams that were opened and reset before they were looked at: what a rapid-reset attack is made of.
const RESETS: usize = 64;
/// After a connection could not be taken, for want of file descriptors, say.
const AGAIN: Duration = Duration::from_millis(50);

/// Which protocols are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    /// HTTP/2 alone, as gRPC has it.
    Two,
    /// Whichever the client begins with.
    Any,
}

/// What holds for all connections of a listener.
#[derive(Clone)]
pub struct Rules {
    /// Connections at a time; those beyond are closed at once.
    pub max_connections: usize,
    /// At which age a connection is told to go, give or take a tenth; zero is never.
    pub max_age: Duration,
    /// Over TLS, where there is one.
    pub tls: Option<Arc<Tls>>,
}

/// What answers the requests of a listener.
pub(super) trait Answers:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
    type Body: Body<Data: Send, Error: Into<Failure>> + Send + 'static;
}

impl<S, B> Answers for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
    B: Body<Data: Send, Error: Into<Failure>> + Send + 'static,
{
    type Body = B;
}

/// Serves until it is told to stop, then finishes the calls that run.
pub(super) async fn serve(listener: TcpListener, http: Http, rules: Rules, service: impl Answers, stop: Stop) {
    let places = Arc::new(Semaphore::new(rules.max_connections));
    let mut connections = JoinSet::new();
    let (tell, word) = watch::channel(false);
    let mut stopped = pin!(told(stop));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tracing::debug!(%peer, "a connection was refused: there are as many as there may be");
                    continue;
                };
                let (rules, service, stop) = (rules.clone(), service.clone(), word.clone());
                connections.spawn(async move {
                    if let Err(error) = connection(stream, peer, http, &rules, service, stop).await {
                        tracing::debug!(%peer, error, "a connection has ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                sleep(AGAIN).await;
            }
        }
    }
    // The door is shut before those inside are told to go, so that nobody comes back to it and is not let in.
    drop(listener);
    tell.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    http: Http,
    rules: &Rules,
    service: impl Answers,
    stop: Stop,
) -> Result<(), Failure> {
    set_up(&stream)?;
    let Some(certificates) = &rules.tls else {
        return requests(stream, http, rules.max_age, stop, service, Origin { peer, certificate: None }).await;
    };
    let stream = timeout(PATIENCE, certificates.acceptor().accept(stream)).await.map_err(io::Error::from)??;
    let certificate = tls::names(&stream).map(Arc::new);
    requests(stream, http, rules.max_age, stop, service, Origin { peer, certificate }).await
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE).with_retries(PROBES))?;
    // For what was sent: other systems have a time of their own, of minutes.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE + PROBES * PROBE))?;
    Ok(())
}

/// Where a connection comes from.
#[derive(Clone)]
struct Origin {
    peer: SocketAddr,
    certificate: Option<Arc<CertNames>>,
}

async fn requests(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    http: Http,
    max_age: Duration,
    stop: Stop,
    service: impl Answers,
    origin: Origin,
) -> Result<(), Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    let has_asked = asked.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(origin.peer));
        if let Some(names) = &origin.certificate {
            request.extensions_mut().insert(names.clone());
        }
        service.clone().oneshot(request)
    });
    let builder = builder(http);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Timely::new(io)), service));
    // Polled where one of them has come, rather than at each frame.
    let words = FuturesUnordered::<BoxFuture<'_, Word>>::new();
    words.push(sleep(PATIENCE).map(|()| Word::FirstIsDue).boxed());
    words.push(sleep(age(max_age)).map(|()| Word::Old).boxed());
    words.push(told(stop).map(|()| Word::Stop).boxed());
    let mut words = pin!(words);
    let word = loop {
        tokio::select! {
            ended = &mut connection => return ended,
            Some(word) = words.next() => match word {
                Word::FirstIsDue if asked.load(Ordering::Relaxed) => {}
                word => break word,
            }
        }
    };
    if let Word::FirstIsDue = word {
        return Err("nothing was asked".into());
    }
    connection.as_mut().graceful_shutdown();
    match word {
        // Whoever stops the service says for how long.
        Word::Stop => connection.await,
        _ => timeout(GRACE, connection).await.map_err(io::Error::from)?,
    }
}

/// What a connection may have to end for.
enum Word {
    /// The first request should be there.
    FirstIsDue,
    /// It has come of age.
    Old,
    /// The service stops.
    Stop,
}

fn builder(http: Http) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD_BYTES as usize);
    let mut http2 = builder.http2();
    http2.max_concurrent_streams(STREAMS).max_header_list_size(HEAD_BYTES);
    http2.max_pending_accept_reset_streams(RESETS).max_local_error_reset_streams(RESETS);
    if http == Http::Two { builder.http2_only() } else { builder }
}

/// The age of one connection.
fn age(limit: Duration) -> Duration {
    // As good as never.
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    if limit.is_zero() { YEAR } else { limit.mul_f64(rand::rng().random_range(0.9..1.1)) }
}

/// Done when it is told to stop.
async fn told(mut stop: Stop) {
    // An error means that whoever would tell is gone, which tells the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
