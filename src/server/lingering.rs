//! A connection that closes in two steps: it ends what it sends, then reads until the peer has
//! closed too. A socket that is closed with unread input sends a reset, at which the peer may lose
//! the end of a response that it has not read yet (RFC 9112, section 9.6). Input comes late when a
//! client acknowledges a response, calls once more after a GOAWAY, or goes on with a body that was
//! refused.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long the peer may take to close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// The same while the service stops, which idle connections must not delay.
const BRIEF_TIMEOUT: Duration = Duration::from_millis(100);

pub(super) struct Lingering<T> {
    io: T,
    is_brief: Arc<AtomicBool>,
    /// Set once everything is sent.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl<T> Lingering<T> {
    /// `is_brief` is true while the service stops.
    pub(super) fn new(io: T, is_brief: Arc<AtomicBool>) -> Self {
        Self { io, is_brief, timeout: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, is_brief, timeout } = &mut *self;
        if timeout.is_none() {
            ready!(Pin::new(&mut *io).poll_shutdown(context))?;
        }
        let brief = is_brief.load(Ordering::Relaxed).then_some(BRIEF_TIMEOUT);
        let timeout =
            timeout.get_or_insert_with(|| Box::pin(sleep(brief.unwrap_or(LINGER_TIMEOUT))));
        while timeout.as_mut().poll(context).is_pending() {
            let mut unread = [0; 1_024];
            let mut buffer = ReadBuf::new(&mut unread);
            let read = ready!(Pin::new(&mut *io).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_its_peer_before_it_closes() {
        let early = Duration::from_millis(300);
        let never = LINGER_TIMEOUT * 2;
        for (is_brief, closes_after, expected) in
            [(false, early, 300), (false, never, 1_000), (true, never, 100)]
        {
            let (mut client, server) = duplex(64);
            let started = Instant::now();
            let closed = tokio::spawn(async move {
                let mut server = Lingering::new(server, Arc::new(is_brief.into()));
                server.write_all(b"the end").await.unwrap();
                server.shutdown().await.unwrap();
                started.elapsed().as_millis()
            });
            let mut received = String::new();
            client.read_to_string(&mut received).await.unwrap();
            assert_eq!(received, "the end");
            // More than the buffer between them has room for.
            client.write_all(&[0; 1_000]).await.unwrap();
            sleep(closes_after).await;
            drop(client);
            assert_eq!(closed.await.unwrap(), expected);
        }
    }
}
