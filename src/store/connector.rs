//! Connections to a member of a cluster over something else than TCP. Tests use it to run a cluster
//! in their own process.

use std::{
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

/// A connection to a member of a cluster.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Connects to the member at a URL. Cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Connect>);

type Connecting<C> = BoxFuture<'static, io::Result<C>>;
type Connect = dyn Fn(Uri) -> Connecting<Box<dyn Connection>> + Send + Sync;

impl Connector {
    /// A connector that calls `connect` with the URL of the member.
    pub fn new(
        connect: impl Fn(Uri) -> Connecting<Box<dyn Connection>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(connect))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Connection>>;
    type Error = io::Error;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = (self.0)(uri);
        Box::pin(async move { Ok(TokioIo::new(connecting.await?)) })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}
