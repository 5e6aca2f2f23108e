//! Around every RPC: who may begin one, how many run, for how long one may, how each has ended, and
//! who follows it.
//!
//! Whoever is not known is refused by the head alone. Then the message has to come whole, and only
//! then the call takes a place among those that run, until its answer is taken. Watches count until
//! they have begun: the hub sees to what comes after. A call without a deadline of its own
//! (`grpc-timeout`) has one of ours.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, poll};
use http::{HeaderMap, HeaderName, Request, Response, request::Parts};
use hyper::body::Body;
use opentelemetry::KeyValue;
use tokio::time::timeout;
use tonic::{Code, Status};
use tower::{BoxError, Layer, Service};

use super::message::{self, Message};
use crate::{
    auth::credentials::Caller,
    grpc::grpc_timeout,
    limits::{
        concurrency::{ConcurrencyLimit, MAX_DEADLINE, MESSAGE_TIMEOUT},
        connection::{Connection, Exchange},
        holder::Resource,
        sent::{Carried, Sent},
    },
    telemetry::{
        metrics::{METRICS, Method},
        traces::Followed,
    },
};

/// Where those who have no credentials yet get one.
const TOKENS: &str = "/mute.v1.TokenService/";

// As they are looked for in each call: text would be read as a name each time.
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The layer.
#[derive(Clone)]
pub(super) struct Calls(pub(super) Arc<ConcurrencyLimit>);

impl<S> Layer<S> for Calls {
    type Service = CallMiddleware<S>;

    fn layer(&self, inner: S) -> CallMiddleware<S> {
        CallMiddleware { inner, load: self.0.clone() }
    }
}

#[derive(Clone)]
pub(super) struct CallMiddleware<S> {
    inner: S,
    load: Arc<ConcurrencyLimit>,
}

impl<S, Q, A> Service<Request<Q>> for CallMiddleware<S>
where
    S: Service<
            Request<Message<Q>>,
            Response = Response<A>,
            Error = Infallible,
            Future: Send + Unpin,
        > + Clone
        + Send
        + 'static,
    Q: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
    A: Body<Data = Bytes, Error: Into<BoxError>> + Default + Unpin + Send + 'static,
{
    type Response = Response<Sent<A>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let mut call = CallMetrics::begin(METRICS.method(request.uri().path()), &request);
        if let Err(refused) = known(call.method, &request) {
            call.end(refused.code());
            return Box::pin(std::future::ready(Ok(refused.into_http())));
        }
        let account = Caller::take_account(request.extensions_mut());
        let connection = request.extensions_mut().remove::<Arc<Connection>>();
        // What anybody may hold open, such as a watch of the health, keeps no connection.
        let carried = Carried::begin(&self.load, account, connection, call.method.is_ours);
        let followed = call.followed.clone();
        let (head, body) = request.into_parts();
        let answered = answered(self.inner.clone(), head, body, call, carried);
        match followed {
            None => Box::pin(answered),
            Some(followed) => Box::pin(async move { followed.around(answered).await }),
        }
    }
}

/// Errors: why the caller is not known, where it has to be.
fn known<Q>(method: &Method, request: &Request<Q>) -> Result<(), Status> {
    let is_open = !method.is_ours || request.uri().path().starts_with(TOKENS);
    match request.extensions().get::<Caller>() {
        Some(Caller { principal: Err(error), .. }) if !is_open => Err(error.clone().into()),
        _ => Ok(()),
    }
}

/// A stream that need not be known to anybody, and stays open: it is not to keep those out who ask
/// for a token.
fn is_for_anybody(path: &str) -> bool {
    path == "/grpc.health.v1.Health/Watch" || path.starts_with("/grpc.reflection.")
}

/// The answer to a call.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` has room for each argument twice, and this is made and moved in each call"
)]
fn answered<S, Q, A>(
    mut inner: S,
    head: Parts,
    mut body: Q,
    mut call: CallMetrics,
    mut carried: Carried,
) -> impl Future<Output = Result<Response<Sent<A>>, Infallible>>
where
    S: Service<Request<Message<Q>>, Response = Response<A>, Error = Infallible, Future: Unpin>,
    Q: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    A: Body<Data = Bytes, Error: Into<BoxError>> + Default + Unpin,
{
    async move {
        let deadline = deadline(&head.headers);
        // The others are read as they come: health's watch and reflection.
        let has_one = call.method.is_ours || head.uri.path() == message::HEALTH;
        let message = match &mut carried.held {
            Some(held) if has_one => {
                let whole =
                    message::whole(head.uri.path(), &mut body, held, MESSAGE_TIMEOUT.min(deadline))
                        .await;
                whole.map(Message::Whole)
            }
            _ => Ok(Message::Stream(body)),
        };
        let placed = message.and_then(|message| place(head, message, &mut carried));
        let response = match placed.map(|request| inner.call(request)) {
            Ok(response) => within(call.begun, deadline, response).await,
            Err(refused) => Err(refused),
        };
        let is_one = has_one && !call.method.is_stream;
        let sent = response.and_then(|response| send(call.method, is_one, response, carried));
        call.end(sent.as_ref().map_or_else(Status::code, |response| code(response.headers())));
        Ok(sent.unwrap_or_else(Status::into_http))
    }
}

/// The request of a call whose message has come, and which has a place now. Errors: OVERLOADED.
fn place<Q>(
    head: Parts,
    message: Message<Q>,
    carried: &mut Carried,
) -> Result<Request<Message<Q>>, Status> {
    if let Some(held) = &mut carried.held {
        held.take(
            if is_for_anybody(head.uri.path()) { Resource::Stream } else { Resource::Call },
            1,
        )?;
    }
    Ok(Request::from_parts(head, message))
}

/// The answer with what it holds until it is taken. Errors: OVERLOADED.
fn send<A>(
    method: &Method,
    is_one: bool,
    response: Response<A>,
    mut carried: Carried,
) -> Result<Response<Sent<A>>, Status>
where
    A: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let (head, body) = response.into_parts();
    let sent = if is_one {
        carried.exchange.iter_mut().for_each(Exchange::answer);
        Sent::whole(body, carried)?
    } else {
        // A watch has a seat of its own; whatever else is a stream keeps its place.
        carried.held = carried.held.filter(|_| !method.is_ours);
        Sent::stream(body, carried)
    };
    Ok(Response::from_parts(head, sent))
}

/// The answer. Errors: DEADLINE_EXCEEDED where it does not come in time.
async fn within<T>(
    begun: Instant,
    deadline: Duration,
    mut answer: impl Future<Output = Result<T, Infallible>> + Unpin,
) -> Result<T, Status> {
    // Most calls are answered at once, and need no timer.
    if let Poll::Ready(Ok(answered)) = poll!(&mut answer) {
        return Ok(answered);
    }
    match timeout(deadline.saturating_sub(begun.elapsed()), answer).await {
        Ok(Ok(answered)) => Ok(answered),
        Err(_) => Err(Status::deadline_exceeded("the deadline of the call has passed")),
    }
}

/// A call as it is counted and followed: one that is dropped before it has ended was given up.
struct CallMetrics {
    method: &'static Method,
    followed: Option<Box<Followed>>,
    begun: Instant,
    has_ended: bool,
}

impl CallMetrics {
    fn begin<Q>(method: &'static Method, request: &Request<Q>) -> Self {
        method.started.inc();
        let is_service = Caller::asks_as_service(request.extensions());
        let followed = Followed::begin(
            request.headers(),
            is_service,
            || method.name(),
            || vec![KeyValue::new("rpc.system", "grpc")],
        );
        Self { method, followed, begun: Instant::now(), has_ended: false }
    }

    fn end(&mut self, code: Code) {
        self.has_ended = true;
        let took = self.begun.elapsed();
        self.method.handled(code as usize);
        self.method.handling_seconds.observe(took.as_secs_f64());
        if let Some(followed) = &self.followed {
            followed.end(
                KeyValue::new("rpc.grpc.status_code", i64::from(code as i32)),
                is_failure(code),
                took,
            );
        }
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        if !self.has_ended {
            self.method.handled(Code::Cancelled as usize);
        }
    }
}

/// Whether it is ours, rather than the caller's: what OpenTelemetry takes for an error of a server.
const fn is_failure(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// Errors are told in the head; an answer that has one message, and a stream that has begun, are
/// good.
fn code(head: &HeaderMap) -> Code {
    head.get(&GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// What the caller says, within a minute.
fn deadline(headers: &HeaderMap) -> Duration {
    let told = headers.get(&GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.to_str().ok()?));
    told.unwrap_or(MAX_DEADLINE).min(MAX_DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_the_callers_and_at_most_60_seconds() {
        let of = |timeout: &'static str| {
            deadline(&HeaderMap::from_iter([(GRPC_TIMEOUT.clone(), timeout.parse().unwrap())]))
        };
        let minute = Duration::from_secs(60);
        assert_eq!(deadline(&HeaderMap::new()), minute);
        assert_eq!([of("59S"), of("200m")], [Duration::from_secs(59), Duration::from_millis(200)]);
        assert_eq!([of("61S"), of("2M"), of("1H"), of("soon")], [minute; 4]);
    }
}
