//! Middleware around every RPC: it checks credentials, limits concurrency, sets the deadline,
//! counts the outcome and traces the call.
//!
//! A caller without a valid credential is refused on the head alone. Then the whole message must
//! arrive. Only then does the call take a slot among the running calls, which it keeps until its
//! response is sent. A watch keeps its slot only until it has started; after that it counts among
//! the hub's watches. A call without a deadline (`grpc-timeout`) gets the default one.

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

use super::{
    compression,
    message::{self, Message},
};
use crate::{
    auth::credentials::Caller,
    grpc::grpc_timeout,
    limits::{
        body::{CallGuard, CountedBody},
        concurrency::{ConcurrencyLimit, MAX_DEADLINE, MESSAGE_TIMEOUT},
        connection::{Connection, Exchange},
        holder::Resource,
    },
    telemetry::{
        metrics::{METRICS, Method},
        traces::CallTrace,
    },
};

/// The service where callers without credentials get a token.
const TOKENS: &str = "/mute.v1.TokenService/";

/// Every error of this service has it.
const GRPC_STATUS_DETAILS: &str = "grpc-status-details-bin";

// Parsed once, because each call looks them up.
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The middleware as a tower layer.
#[derive(Clone)]
pub(super) struct CallLayer(pub(super) Arc<ConcurrencyLimit>);

impl<Inner> Layer<Inner> for CallLayer {
    type Service = CallMiddleware<Inner>;

    fn layer(&self, inner: Inner) -> CallMiddleware<Inner> {
        CallMiddleware { inner, limit: self.0.clone() }
    }
}

#[derive(Clone)]
pub(super) struct CallMiddleware<Inner> {
    inner: Inner,
    limit: Arc<ConcurrencyLimit>,
}

impl<Inner, ReqBody, ResBody> Service<Request<ReqBody>> for CallMiddleware<Inner>
where
    Inner: Service<
            Request<Message<ReqBody>>,
            Response = Response<ResBody>,
            Error = Infallible,
            Future: Send + Unpin,
        > + Clone
        + Send
        + 'static,
    ReqBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
    ResBody: Body<Data = Bytes, Error: Into<BoxError>> + Default + Unpin + Send + 'static,
{
    type Response = Response<CountedBody<ResBody>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let mut call = CallMetrics::begin(METRICS.method(request.uri().path()), &request);
        if let Err(refusal) = require_credentials(call.method, &request) {
            call.end(refusal.code());
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        }
        let account = Caller::take_account(request.extensions_mut());
        let extensions = request.extensions_mut();
        // A watch ends when its connection closes.
        let connection: Option<Arc<Connection>> =
            if call.method.is_stream { extensions.get().cloned() } else { extensions.remove() };
        // A stream that needs no credentials, such as a watch of the health, does not keep its
        // connection busy.
        let guard = CallGuard::begin(&self.limit, account, connection, call.method.is_ours);
        let trace = call.trace.clone();
        let (head, body) = request.into_parts();
        let response = respond(self.inner.clone(), head, body, call, guard);
        match trace {
            None => Box::pin(response),
            Some(trace) => Box::pin(async move { trace.run(response).await }),
        }
    }
}

/// Errors: why the credentials are invalid, if the method needs any.
fn require_credentials<ReqBody>(method: &Method, request: &Request<ReqBody>) -> Result<(), Status> {
    let is_open = !method.is_ours || request.uri().path().starts_with(TOKENS);
    match request.extensions().get::<Caller>() {
        Some(Caller { principal: Err(error), .. }) if !is_open => Err(error.clone().into()),
        _ => Ok(()),
    }
}

/// Whether this is a long stream that needs no credentials. It has a limit of its own, so that it
/// cannot keep out callers who request a token.
fn is_unauthenticated_stream(path: &str) -> bool {
    path == "/grpc.health.v1.Health/Watch" || path.starts_with("/grpc.reflection.")
}

/// The response to a call.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` stores each argument twice, and each call makes and moves one"
)]
fn respond<Inner, ReqBody, ResBody>(
    mut inner: Inner,
    head: Parts,
    mut body: ReqBody,
    mut call: CallMetrics,
    mut guard: CallGuard,
) -> impl Future<Output = Result<Response<CountedBody<ResBody>>, Infallible>>
where
    Inner: Service<
            Request<Message<ReqBody>>,
            Response = Response<ResBody>,
            Error = Infallible,
            Future: Unpin,
        >,
    ReqBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    ResBody: Body<Data = Bytes, Error: Into<BoxError>> + Default + Unpin,
{
    async move {
        let deadline = deadline(&head.headers);
        // Health watches and reflection read their messages as a stream.
        let has_unary_request = call.method.is_ours || head.uri.path() == message::HEALTH;
        let message = match &mut guard.permit {
            Some(permit) if has_unary_request => {
                let timeout = MESSAGE_TIMEOUT.min(deadline);
                let message = message::read_whole(&head, &mut body, permit, timeout).await;
                message.map(Message::Whole)
            }
            _ => Ok(Message::Stream(body)),
        };
        let encoding = compression::response_encoding(&head.headers);
        let admitted = message.and_then(|message| admit(head, message, &mut guard));
        let response = match admitted.map(|request| inner.call(request)) {
            Ok(response) => with_deadline(call.started, deadline, response).await,
            Err(refusal) => Err(refusal),
        };
        let is_unary = has_unary_request && !call.method.is_stream;
        let mut response =
            response.and_then(|response| counted(call.method, is_unary, response, guard));
        if let Some(encoding) = encoding.filter(|_| is_unary) {
            response = match response {
                // In a box of its own, because few calls compress.
                Ok(response) => Ok(Box::pin(compression::compressed(response, encoding)).await),
                refusal => refusal,
            };
        }
        let mut outcome = outcome_of(&response);
        if outcome == Code::OutOfRange {
            response = response.and_then(|response| translate_too_large(call.method, response));
            outcome = outcome_of(&response);
        }
        call.end(outcome);
        Ok(response.unwrap_or_else(Status::into_http))
    }
}

fn outcome_of<ResBody>(response: &Result<Response<ResBody>, Status>) -> Code {
    response.as_ref().map_or_else(Status::code, |response| code(response.headers()))
}

/// Takes a slot for a call whose message has arrived. Errors: OVERLOADED.
fn admit<ReqBody>(
    head: Parts,
    message: Message<ReqBody>,
    guard: &mut CallGuard,
) -> Result<Request<Message<ReqBody>>, Status> {
    if let Some(permit) = &mut guard.permit {
        let is_stream = is_unauthenticated_stream(head.uri.path());
        permit.acquire(if is_stream { Resource::Stream } else { Resource::Call }, 1)?;
    }
    Ok(Request::from_parts(head, message))
}

/// A response with OUT_OF_RANGE, unless tonic says so that it found the message too large; here it
/// means *list again*. Errors: MESSAGE_TOO_LARGE.
fn translate_too_large<ResBody>(
    method: &Method,
    response: Response<ResBody>,
) -> Result<Response<ResBody>, Status> {
    if response.headers().contains_key(GRPC_STATUS_DETAILS) {
        return Ok(response);
    }
    Err(if method.is_ours {
        message::too_large(&format!("/{}", method.name()))
    } else {
        message::too_large(message::HEALTH)
    })
}

/// The response, with a body that holds the permit until it is sent. Errors: OVERLOADED.
fn counted<ResBody>(
    method: &Method,
    is_unary: bool,
    response: Response<ResBody>,
    mut guard: CallGuard,
) -> Result<Response<CountedBody<ResBody>>, Status>
where
    ResBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let (head, body) = response.into_parts();
    let body = if is_unary {
        guard.exchange.iter_mut().for_each(Exchange::begin_response);
        CountedBody::unary(body, guard)?
    } else {
        // The hub limits watches; other streams keep their slot.
        guard.permit = guard.permit.filter(|_| !method.is_ours);
        CountedBody::stream(body, guard)
    };
    Ok(Response::from_parts(head, body))
}

/// The response. Errors: DEADLINE_EXCEEDED if it is not ready in time.
async fn with_deadline<T>(
    started: Instant,
    deadline: Duration,
    mut answer: impl Future<Output = Result<T, Infallible>> + Unpin,
) -> Result<T, Status> {
    // Most responses are ready at the first poll; those need no timer.
    if let Poll::Ready(Ok(response)) = poll!(&mut answer) {
        return Ok(response);
    }
    match timeout(deadline.saturating_sub(started.elapsed()), answer).await {
        Ok(Ok(response)) => Ok(response),
        Err(_) => Err(Status::deadline_exceeded("the deadline of the call has passed")),
    }
}

/// Counts and traces one call. If it is dropped before its end, the client has cancelled the call.
struct CallMetrics {
    method: &'static Method,
    trace: Option<Box<CallTrace>>,
    started: Instant,
    has_ended: bool,
}

impl CallMetrics {
    fn begin<ReqBody>(method: &'static Method, request: &Request<ReqBody>) -> Self {
        method.started.inc();
        let is_service = Caller::asks_as_service(request.extensions());
        let trace = CallTrace::begin(
            request.headers(),
            is_service,
            || method.name(),
            || vec![KeyValue::new("rpc.system", "grpc")],
        );
        Self { method, trace, started: Instant::now(), has_ended: false }
    }

    fn end(&mut self, code: Code) {
        self.has_ended = true;
        let took = self.started.elapsed();
        self.method.handled(code as usize);
        self.method.handling_seconds.observe(took.as_secs_f64());
        if let Some(trace) = &self.trace {
            trace.end(
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

/// Whether the server is at fault: the codes that OpenTelemetry counts as server errors.
const fn is_failure(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// The code of a response. Errors come in the headers; a response with a message, and a stream that
/// has started, count as OK.
fn code(head: &HeaderMap) -> Code {
    head.get(&GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// The caller's deadline, at most [`MAX_DEADLINE`].
fn deadline(headers: &HeaderMap) -> Duration {
    let requested = headers.get(&GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.to_str().ok()?));
    requested.unwrap_or(MAX_DEADLINE).min(MAX_DEADLINE)
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
