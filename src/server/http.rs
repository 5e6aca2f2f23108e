//! Which protocols a listener speaks, and what one connection may take of each.

use std::time::Duration;

use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};

/// For a handshake, for the first request, and for the head of one over HTTP/1, which counts while
/// the connection is idle too.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// All headers of a request together.
const HEAD_BYTES: u32 = 32 << 10;
/// Calls at a time on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// What a client may send before somebody takes it: on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const WINDOW: u32 = 1 << 20;
/// What is sent on one stream before the client has taken it.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that were opened and reset before they were looked at: what a rapid-reset attack is made
/// of.
const RESETS: usize = 64;

/// Which protocols are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    /// HTTP/2 alone, as gRPC has it.
    Two,
    /// Whichever the client begins with.
    Any,
}

pub(super) fn builder(http: Http) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES as usize);
    let mut http2 = builder.http2();
    http2.max_concurrent_streams(STREAMS).max_header_list_size(HEAD_BYTES);
    http2.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(WINDOW);
    // An answer that is not taken is held where it is counted.
    http2.max_send_buf_size(SEND_BUFFER);
    http2.max_pending_accept_reset_streams(RESETS).max_local_error_reset_streams(RESETS);
    if http == Http::Two { builder.http2_only() } else { builder }
}
