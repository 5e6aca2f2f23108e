//! Routes a call to its service by the path.
//!
//! One service has nearly all calls and is recognized by the prefix of the path. The others go
//! through tonic's router, which parses each path into parts that are not used here.

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

type OtherServices = tonic::service::Routes;

/// The future type of tonic's generated services.
type ResponseFuture = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// All services of the gRPC listener.
#[derive(Clone)]
pub struct Routes<M> {
    main: M,
    others: OtherServices,
}

impl<M> Routes<M> {
    pub(super) fn new(main: M, others: OtherServices) -> Self {
        Self { main, others: others.prepare() }
    }
}

impl<M, B> Service<Request<B>> for Routes<M>
where
    M: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = ResponseFuture>
        + NamedService,
    B: HttpBody<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Services of tonic and its router are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_method_of::<M>(request.uri().path()) {
            self.main.call(request)
        } else {
            Box::pin(self.others.call(request))
        }
    }
}

fn is_method_of<M: NamedService>(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(M::NAME));
    method.is_some_and(|method| method.starts_with('/'))
}
