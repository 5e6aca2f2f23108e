//! Protocols of a listener, and the HTTP limits of one connection.

use std::time::Duration;

use hyper_util::{rt::TokioExecutor, server::conn::auto::Builder};

use super::head_timer::HeadTimer;

/// The maximum size of all headers of a request.
const MAX_HEAD_BYTES: u32 = 32 << 10;
/// The maximum number of concurrent calls on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// Receive windows of HTTP/2: what a client may send before it is read, on one stream and on the
/// whole connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What is buffered for sending on one stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// The maximum number of streams that were reset before they were accepted, which bounds a
/// rapid-reset attack (CVE-2023-44487).
const MAX_RESETS: usize = 64;

/// Which protocols a listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocols {
    /// HTTP/2 only, for gRPC.
    Http2Only,
    /// HTTP/1 or HTTP/2, as the client chooses.
    Auto,
}

/// Idle HTTP/1 connections are closed after `max_idle`.
pub(super) fn builder(
    protocols: Protocols,
    max_idle: Duration,
    head_timer: HeadTimer,
) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(head_timer)
        .header_read_timeout(max_idle)
        .max_buf_size(MAX_HEAD_BYTES as usize);
    let mut http2 = builder.http2();
    http2.max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD_BYTES);
    http2
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    // Small, so that unread responses wait in `CountedBody`, where they are counted.
    http2.max_send_buf_size(SEND_BUFFER_BYTES);
    http2.max_pending_accept_reset_streams(MAX_RESETS).max_local_error_reset_streams(MAX_RESETS);
    if protocols == Protocols::Http2Only { builder.http2_only() } else { builder }
}
