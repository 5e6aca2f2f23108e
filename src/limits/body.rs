//! The body of a response: it holds bytes of the call's limit until the client has taken it.
//!
//! The sender (hyper, h2) takes a chunk as soon as the window of the client has a single byte,
//! keeps it until it is sent, and only then polls for the next one. So the body is handed over in
//! chunks, and each poll shows that the client is reading. The last chunk is small: until nearly
//! everything is sent, this body exists and holds all of its bytes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tower::BoxError;

use super::{
    concurrency::{Account, ConcurrencyLimit, Permit, SMALL_BYTES},
    connection::{Connection, Exchange},
    holder::Resource,
};
use crate::error::Error;

/// Responses up to this size are not refused to a caller within its share, because what they report
/// may already be done. Responses of writes are shorter.
const RARELY_REFUSED_BYTES: usize = 64 << 10;
/// The size of a chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// The size of the last chunk. Every flow-control window that is accepted takes a last chunk whole
/// (`server/narrow_window.rs`).
pub const LAST_CHUNK_BYTES: usize = 2 << 10;

/// What a call holds until its end.
#[derive(Default)]
pub struct CallGuard {
    /// Its slot among the running calls, and its bytes.
    pub permit: Option<Permit>,
    /// Its effect on the state of its connection.
    pub exchange: Option<Exchange>,
}

impl CallGuard {
    /// For a call whose head has arrived. It holds no resource yet. If `is_busy`, its connection
    /// does not count as idle until the end of the call; calls of unauthenticated callers never
    /// have that effect.
    #[must_use]
    pub fn begin(
        limit: &Arc<ConcurrencyLimit>,
        account: Account,
        connection: Option<Arc<Connection>>,
        is_busy: bool,
    ) -> Self {
        let is_busy = is_busy && account.is_authenticated();
        let exchange = connection.map(|connection| Exchange::begin(connection, is_busy));
        Self { permit: Some(limit.permit(account)), exchange }
    }
}

/// The body of a response.
#[derive(Default)]
pub struct CountedBody<A> {
    /// What remains of the current frame.
    data: Bytes,
    /// Bytes that the permit holds for the current frame.
    held_bytes: usize,
    /// A frame other than data, or an error, that was polled before the sender asked for it.
    early_frame: Option<Box<Result<Frame<Bytes>, BoxError>>>,
    body: A,
    guard: CallGuard,
}

impl<A: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> CountedBody<A> {
    /// A response of one message. Its first frame is polled now, so that its size is known before
    /// the sender asks for it. Errors: OVERLOADED.
    pub fn unary(body: A, guard: CallGuard) -> Result<Self, Error> {
        let mut body = Self::stream(body, guard);
        // If it is pending, the sender polls again with its own waker.
        match Pin::new(&mut body.body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => body.stage(data)?,
                Err(other) => body.early_frame = Some(Box::new(Ok(other))),
            },
            Poll::Ready(Some(Err(error))) => body.early_frame = Some(Box::new(Err(error.into()))),
            Poll::Ready(None) | Poll::Pending => {}
        }
        Ok(body)
    }

    fn stage(&mut self, data: Bytes) -> Result<(), Error> {
        let bytes = data.len();
        if bytes > SMALL_BYTES
            && let Some(permit) = &mut self.guard.permit
        {
            if bytes > RARELY_REFUSED_BYTES {
                permit.acquire(Resource::Byte, bytes)?;
            } else {
                permit.acquire_within_share(Resource::Byte, bytes)?;
            }
            self.held_bytes = bytes;
        }
        self.data = data;
        Ok(())
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        let bytes = match self.data.len() {
            0 => return None,
            bytes if bytes > CHUNK_BYTES + LAST_CHUNK_BYTES => CHUNK_BYTES,
            bytes if bytes > LAST_CHUNK_BYTES => bytes - LAST_CHUNK_BYTES,
            bytes => bytes,
        };
        Some(self.data.split_to(bytes))
    }

    fn release(&mut self) {
        if let Some(permit) = &mut self.guard.permit {
            permit.release(Resource::Byte, std::mem::take(&mut self.held_bytes));
        }
    }
}

impl<A> CountedBody<A> {
    /// A streamed response, or a refusal.
    pub fn stream(body: A, guard: CallGuard) -> Self {
        Self { data: Bytes::new(), held_bytes: 0, early_frame: None, body, guard }
    }

    /// What is sent next: of a unary response, the whole message.
    pub fn staged(&self) -> &Bytes {
        &self.data
    }

    /// Sends this in place of what is staged.
    pub fn shorten(&mut self, shorter: Bytes) {
        let freed_bytes = self.held_bytes.saturating_sub(shorter.len());
        if let Some(permit) = &mut self.guard.permit {
            permit.release(Resource::Byte, freed_bytes);
        }
        self.held_bytes -= freed_bytes;
        self.data = shorter;
    }
}

impl<A: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for CountedBody<A> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // A poll for more means that the client has taken the previous chunk.
        if let Some(exchange) = &mut self.guard.exchange {
            exchange.record_progress();
        }
        loop {
            if let Some(chunk) = self.next_chunk() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(other) = self.early_frame.take() {
                return Poll::Ready(Some(*other));
            }
            self.release();
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(None);
            };
            match frame.map_err(Into::into)?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => self.stage(data)?,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.early_frame.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let pending_bytes = self.data.len() as u64;
        self.body
            .size_hint()
            .exact()
            .map_or_else(SizeHint::default, |bytes| SizeHint::with_exact(pending_bytes + bytes))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as AxumBody;

    use super::*;
    use crate::limits::concurrency::CallerKind;

    fn service() -> Account {
        Account { caller: CallerKind::Service, ..Account::default() }
    }

    #[tokio::test]
    async fn untaken_bytes_are_held_and_the_last_chunk_is_small() {
        let limit = ConcurrencyLimit::new(1, 1_000_000);
        let guard = || CallGuard { permit: Some(limit.permit(service())), ..CallGuard::default() };
        let text: Bytes = (0..300_000_u32).map(|at| at.to_le_bytes()[0]).collect::<Vec<_>>().into();
        let mut body = CountedBody::unary(AxumBody::from(text.clone()), guard()).unwrap();
        assert_eq!(
            (limit.in_use(Resource::Byte), body.size_hint().exact()),
            (300_000, Some(300_000))
        );
        let mut read = Vec::new();
        let mut last = 0;
        while let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            assert!(limit.in_use(Resource::Byte) == 300_000 && !text.is_empty());
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= CHUNK_BYTES);
            last = data.len();
            read.extend_from_slice(&data);
        }
        assert!(read == text && last == LAST_CHUNK_BYTES && body.is_end_stream());
        drop(body);
        assert_eq!(limit.in_use(Resource::Byte), 0);
        // A long response may be refused, a short one is not.
        let mut other = limit.permit(service());
        other.acquire(Resource::Byte, 950_000).unwrap();
        assert!(CountedBody::unary(AxumBody::from(text.clone()), guard()).is_err());
        assert!(CountedBody::unary(AxumBody::from(text.slice(..60_000)), guard()).is_ok());
        assert_eq!(limit.in_use(Resource::Byte), 950_000);
    }

    /// Frames of a body, in reverse order.
    struct Frames(Vec<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    #[tokio::test]
    async fn the_last_chunk_is_small_before_trailers_too() {
        for bytes in [
            1,
            LAST_CHUNK_BYTES,
            LAST_CHUNK_BYTES + 1,
            5_000,
            60_000,
            CHUNK_BYTES + LAST_CHUNK_BYTES,
            200_000,
        ] {
            let trailers = Frame::trailers(http::HeaderMap::new());
            let frames = Frames([trailers, Frame::data(Bytes::from(vec![7; bytes]))].into());
            let mut body = CountedBody::unary(frames, CallGuard::default()).unwrap();
            let mut chunks = Vec::new();
            while let Some(frame) =
                std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
            {
                chunks.extend(frame.unwrap().into_data().ok().map(|data| data.len()));
            }
            assert_eq!(chunks.iter().sum::<usize>(), bytes);
            assert!(
                chunks.iter().all(|chunk| *chunk <= CHUNK_BYTES)
                    && *chunks.last().unwrap() <= LAST_CHUNK_BYTES,
                "{chunks:?}"
            );
            assert_eq!(chunks.len() == 1, bytes <= LAST_CHUNK_BYTES, "{chunks:?}");
        }
    }

    #[tokio::test]
    async fn each_frame_of_a_long_answer_is_held_separately() {
        let limit = ConcurrencyLimit::new(1, 1_000_000);
        let pages = [10, 50_000, 20_000, 0, 3]
            .map(|bytes| Ok::<_, std::io::Error>(Bytes::from(vec![7; bytes])));
        let guard = CallGuard { permit: Some(limit.permit(service())), ..CallGuard::default() };
        let mut body =
            CountedBody::unary(AxumBody::from_stream(futures_util::stream::iter(pages)), guard)
                .unwrap();
        let mut bytes = 0;
        let mut max_held = 0;
        while let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            max_held = max_held.max(limit.in_use(Resource::Byte));
            bytes += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!((bytes, max_held, limit.in_use(Resource::Byte)), (70_013, 50_000, 0));
    }
}
