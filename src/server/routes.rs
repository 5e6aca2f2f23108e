//! From the path of a call to the service that answers it.
//!
//! One service has nearly all calls, and is known by the beginning of the path. The others are
//! found by a router, which takes each path apart, and hands on the parts, for nobody.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tonic::{body::Body, server::NamedService};
use tower::{BoxError, Service};

type Others = tonic::service::Routes;

/// As services of tonic give it.
type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// All services of the gRPC listener.
#[derive(Clone)]
pub struct Routes<M> {
    main: M,
    others: Others,
}

impl<M> Routes<M> {
    pub(super) fn new(main: M, others: Others) -> Self {
        Self { main, others: others.prepare() }
    }
}

impl<M, B> Service<Request<B>> for Routes<M>
where
    M: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = Answer>
        + NamedService,
    B: HttpBody<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Services of tonic, and its router, always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_for::<M>(request.uri().path()) {
            self.main.call(request)
        } else {
            Box::pin(self.others.call(request))
        }
    }
}

fn is_for<M: NamedService>(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(M::NAME));
    method.is_some_and(|method| method.starts_with('/'))
}
