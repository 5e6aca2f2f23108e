//! Around every RPC: how many run, for how long one may, how each has ended, and who follows it.
//!
//! A call beyond what may run is refused at once, because one that waits for its turn has often given up when it comes. Streams count until
//! they have begun: the hub sees to what comes after. A call without a deadline of its own (`grpc-timeout`) has one of ours.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{future::BoxFuture, poll};
use http::{HeaderMap, HeaderName, Request, Response};
use opentelemetry::KeyValue;
use tokio::time::{error::Elapsed, timeout};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::{
    grpc::grpc_timeout,
    load::{LONGEST, Load},
    telemetry::{
        metrics::{METRICS, Method},
        traces::Followed,
    },
};

// As they are looked for in each call: text would be read as a name each time.
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The layer.
#[derive(Clone)]
pub(super) struct Calls(pub(super) Arc<Load>);

impl<S> Layer<S> for Calls {
    type Service = Around<S>;

    fn layer(&self, inner: S) -> Around<S> {
        Around { inner, load: self.0.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Around<S> {
    inner: S,
    load: Arc<Load>,
}

impl<S, Q, A> Service<Request<Q>> for Around<S>
where
    S: Service<Request<Q>, Response = Response<A>, Error = Infallible, Future: Send + 'static>,
    A: Default + Send + 'static,
{
    type Response = Response<A>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<A>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let mut call = Counted::begin(METRICS.method(request.uri().path()), request.headers());
        let running = match self.load.enter() {
            Ok(running) => running,
            Err(error) => {
                let refused = Status::from(error);
                call.end(refused.code());
                return Box::pin(std::future::ready(Ok(refused.into_http())));
            }
        };
        let deadline = deadline(request.headers());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _running = running;
            // Pinned once and handed on by reference: it is large, and would have a place in each of what it is handed to.
            let mut answer = pin!(answer);
            let answered = match &call.followed {
                None => within(deadline, answer.as_mut()).await,
                Some(followed) => followed.around(within(deadline, answer.as_mut())).await,
            };
            let Ok(response) = answered else {
                call.end(Code::DeadlineExceeded);
                return Ok(Status::deadline_exceeded("the deadline of the call has passed").into_http());
            };
            let response = response?;
            call.end(code(response.headers()));
            Ok(response)
        })
    }
}

/// The answer, or an error where it does not come in time.
async fn within<A: Future>(deadline: Duration, mut answer: Pin<&mut A>) -> Result<A::Output, Elapsed> {
    // Most calls are answered at once, and need no timer.
    match poll!(answer.as_mut()) {
        Poll::Ready(answered) => Ok(answered),
        Poll::Pending => timeout(deadline, answer).await,
    }
}

/// A call as it is counted and followed: one that is dropped before it has ended was given up.
struct Counted {
    method: &'static Method,
    followed: Option<Box<Followed>>,
    begun: Instant,
    has_ended: bool,
}

impl Counted {
    fn begin(method: &'static Method, headers: &HeaderMap) -> Self {
        method.started.inc();
        let followed = Followed::begin(headers, || method.name(), || vec![KeyValue::new("rpc.system", "grpc")]);
        Self { method, followed, begun: Instant::now(), has_ended: false }
    }

    fn end(&mut self, code: Code) {
        self.has_ended = true;
        let took = self.begun.elapsed();
        self.method.handled(code as usize);
        self.method.handling_seconds.observe(took.as_secs_f64());
        if let Some(followed) = &self.followed {
            followed.end(KeyValue::new("rpc.grpc.status_code", i64::from(code as i32)), is_failure(code), took);
        }
    }
}

impl Drop for Counted {
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

/// Errors are told in the head; an answer that has one message, and a stream that has begun, are good.
fn code(head: &HeaderMap) -> Code {
    head.get(&GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// What the caller says, within a minute.
fn deadline(headers: &HeaderMap) -> Duration {
    let told = headers.get(&GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.to_str().ok()?));
    told.unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_the_callers_and_at_most_60_seconds() {
        let of = |timeout: &'static str| deadline(&HeaderMap::from_iter([(GRPC_TIMEOUT.clone(), timeout.parse().unwrap())]));
        let minute = Duration::from_secs(60);
        assert_eq!(deadline(&HeaderMap::new()), minute);
        assert_eq!([of("59S"), of("200m")], [Duration::from_secs(59), Duration::from_millis(200)]);
        assert_eq!([of("61S"), of("2M"), of("1H"), of("soon")], [minute; 4]);
    }
}
