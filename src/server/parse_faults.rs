//! Gives a body to the answers that hyper writes by itself. To a request that is not HTTP, or whose
//! head is too large, hyper answers with a head alone, and calls no service. REST answers have a
//! JSON object, because SDKs wait for ever for one.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The JSON body of an error with this status.
pub type FaultBody = Arc<dyn Fn(StatusCode) -> String + Send + Sync>;

/// What hyper's own answers have after the line of the status; our answers have a Content-Type.
const FIRST_HEADERS: &[u8] = b"\r\nconnection: close\r\ncontent-length: 0\r\n";
/// More than the head of such an answer has.
const MAX_HEAD_BYTES: usize = 256;

/// A connection whose bare error answers get a body, if there is a `body` for them.
pub(super) struct WithFaultBodies<T> {
    io: T,
    body: Option<FaultBody>,
    /// What counts as written and is not yet.
    pending: Bytes,
}

impl<T> WithFaultBodies<T> {
    pub(super) fn new(io: T, body: Option<FaultBody>) -> Self {
        Self { io, body, pending: Bytes::new() }
    }
}

/// The bytes with a body, if they end with a bare error answer.
fn completed(bytes: &[u8], body: &FaultBody) -> Option<Bytes> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let tail = bytes.len().saturating_sub(MAX_HEAD_BYTES);
    let at = tail + rfind(&bytes[tail..], b"HTTP/1.")?;
    let (before, head) = bytes.split_at(at);
    let line_end = rfind(head, FIRST_HEADERS)?;
    let status =
        StatusCode::from_bytes(head.get(9..12)?).ok().filter(StatusCode::is_client_error)?;
    let body = body(status);
    let headers = format!(
        "\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    let rest = &head[line_end + FIRST_HEADERS.len()..];
    let parts = [before, &head[..line_end], headers.as_bytes(), rest, body.as_bytes()];
    Some(parts.concat().into())
}

fn rfind(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).rposition(|window| window == wanted)
}

impl<T: AsyncWrite + Unpin> WithFaultBodies<T> {
    fn write_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WithFaultBodies<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WithFaultBodies<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_pending(context))?;
        match self.body.as_ref().and_then(|body| completed(bytes, body)) {
            None => Pin::new(&mut self.io).poll_write(context, bytes),
            Some(completed) => {
                self.pending = completed;
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_pending(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_pending(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    /// hyper writes a bare answer in one part.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match parts {
            [part] => self.poll_write(context, part),
            _ => {
                ready!(self.write_pending(context))?;
                Pin::new(&mut self.io).poll_write_vectored(context, parts)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_error_answer_gets_a_body() {
        let body: FaultBody = Arc::new(|status| format!("{{\"status\":{}}}", status.as_u16()));
        let completed = |text: &str| completed(text.as_bytes(), &body);
        let bare =
            "HTTP/1.1 431 Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let with_body = "HTTP/1.1 431 Too Large\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 14\r\ndate: x\r\n\r\n{\"status\":431}";
        assert_eq!(completed(bare).as_deref(), Some(with_body.as_bytes()));
        let old = |text: &str| text.replacen("HTTP/1.1", "HTTP/1.0", 1);
        assert_eq!(completed(&old(bare)).as_deref(), Some(old(with_body).as_bytes()));
        let after_another = completed(&format!("HTTP/1.1 200 OK\r\n\r\n{{}}{bare}"));
        let expected = format!("HTTP/1.1 200 OK\r\n\r\n{{}}{with_body}");
        assert_eq!(after_another.as_deref(), Some(expected.as_bytes()));
        for other in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n",
            with_body,
            "",
        ] {
            assert_eq!(completed(other), None, "{other}");
        }
    }
}
