//! From the path of a call to the service that answers it.
//!
//! `MuteService` has nearly all calls, and is known by the beginning of the path. The others are found by a router, which takes each path apart, and
//! hands on the parts, for nobody.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
    routing::future::RouteFuture,
};
use futures_util::{
    TryFutureExt as _,
    future::{Either, MapOk},
};
use tonic::server::NamedService as _;
use tower::Service;

use crate::{grpc::Api, proto::v1::mute_service_server::MuteServiceServer};

type MuteService = MuteServiceServer<Api>;

/// All services of the gRPC listener.
#[derive(Clone)]
pub struct Routes {
    mute: MuteService,
    others: Router,
}

impl Routes {
    pub(super) fn new(mute: MuteService, others: tonic::service::Routes) -> Self {
        Self { mute, others: others.prepare().into_axum_router() }
    }
}

impl Service<Request<Body>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<MapOk<<MuteService as Service<Request<Body>>>::Future, ToBody>, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_for_mute_service(request.uri().path()) {
            let to_body: ToBody = |response| response.map(Body::new);
            Either::Left(self.mute.call(request).map_ok(to_body))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

type ToBody = fn(Response<tonic::body::Body>) -> Response<Body>;

fn is_for_mute_service(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(MuteService::NAME));
    method.is_some_and(|method| method.starts_with('/'))
}
