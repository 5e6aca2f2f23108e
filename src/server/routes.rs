//! From the path of a call to the service that answers it.
//!
//! `MuteService` has nearly all calls, and is known by the beginning of the path. The others are found by a router, which takes each path apart, and
//! hands on the parts, for nobody.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tonic::{body::Body, server::NamedService as _};
use tower::{BoxError, Service};

use crate::{grpc::Api, proto::v1::mute_service_server::MuteServiceServer};

type MuteService = MuteServiceServer<Api>;
type Others = tonic::service::Routes;

/// All services of the gRPC listener.
#[derive(Clone)]
pub struct Routes {
    mute: MuteService,
    others: Others,
}

impl Routes {
    pub(super) fn new(mute: MuteService, others: Others) -> Self {
        Self { mute, others: others.prepare() }
    }
}

impl<B> Service<Request<B>> for Routes
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<<MuteService as Service<Request<B>>>::Future, <Others as Service<Request<B>>>::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_for_mute_service(request.uri().path()) {
            Either::Left(self.mute.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

fn is_for_mute_service(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(MuteService::NAME));
    method.is_some_and(|method| method.starts_with('/'))
}
