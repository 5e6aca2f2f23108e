//! An answer on its way: what it holds until it is taken, on the account of its call.
//!
//! Whoever sends it takes a piece as soon as the window of the other side has a single byte, keeps
//! it until it is taken, and asks for the next piece only then. So an answer is given away in
//! pieces, which show that it is being read; and the last of them is a small one: until nearly all
//! is taken this is here, and holds all of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tower::BoxError;

use super::{
    concurrency::{Account, ConcurrencyLimit, Permit, SMALL},
    connection::{Connection, Exchange},
    holder::Resource,
};
use crate::error::Error;

/// Answers up to here are not refused to who holds no more than a share, because what they tell may
/// have been done: those of writes are shorter.
const RARELY_REFUSED: usize = 64 << 10;
/// The pieces.
const PIECE: usize = 64 << 10;
/// The last of them. Every window that is let in takes a last piece whole
/// (`server/h2_goaway_fix.rs`).
pub const LAST: usize = 2 << 10;

/// What goes with a call to its end.
#[derive(Default)]
pub struct Carried {
    /// Its place, and its bytes.
    pub held: Option<Permit>,
    /// What it does to its connection.
    pub exchange: Option<Exchange>,
}

impl Carried {
    /// Of a call from its head on: it holds nothing but that its connection is not idle where it
    /// keeps that, which none does whose caller is not known.
    #[must_use]
    pub fn begin(
        load: &Arc<ConcurrencyLimit>,
        account: Account,
        connection: Option<Arc<Connection>>,
        keeps: bool,
    ) -> Self {
        let keeps = keeps && account.is_known();
        let exchange = connection.map(|connection| Exchange::begin(connection, keeps));
        Self { held: Some(load.open(account)), exchange }
    }
}

/// The body of an answer.
#[derive(Default)]
pub struct Sent<A> {
    /// What is left of the frame that is being given away.
    data: Bytes,
    /// Bytes that are held for it.
    held: usize,
    /// What came in the place of data, and was looked at before it was asked for.
    other: Option<Box<Result<Frame<Bytes>, BoxError>>>,
    body: A,
    carried: Carried,
}

impl<A: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Sent<A> {
    /// An answer of one message, which is made now, so that its size is known before anybody takes
    /// it. Errors: OVERLOADED.
    pub fn whole(body: A, carried: Carried) -> Result<Self, Error> {
        let mut sent = Self::stream(body, carried);
        // Where it is not there yet it is asked again, by whoever is to be told.
        match Pin::new(&mut sent.body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => sent.hold(data)?,
                Err(other) => sent.other = Some(Box::new(Ok(other))),
            },
            Poll::Ready(Some(Err(error))) => sent.other = Some(Box::new(Err(error.into()))),
            Poll::Ready(None) | Poll::Pending => {}
        }
        Ok(sent)
    }

    fn hold(&mut self, data: Bytes) -> Result<(), Error> {
        let bytes = data.len();
        if bytes > SMALL
            && let Some(held) = &mut self.carried.held
        {
            if bytes > RARELY_REFUSED {
                held.take(Resource::Byte, bytes)?;
            } else {
                held.take_of_share(Resource::Byte, bytes)?;
            }
            self.held = bytes;
        }
        self.data = data;
        Ok(())
    }

    fn piece(&mut self) -> Option<Bytes> {
        let bytes = match self.data.len() {
            0 => return None,
            bytes if bytes > PIECE + LAST => PIECE,
            bytes if bytes > LAST => bytes - LAST,
            bytes => bytes,
        };
        Some(self.data.split_to(bytes))
    }

    fn release(&mut self) {
        if let Some(held) = &mut self.carried.held {
            held.give_back(Resource::Byte, std::mem::take(&mut self.held));
        }
    }
}

impl<A> Sent<A> {
    /// An answer that goes on, or a refusal.
    pub fn stream(body: A, carried: Carried) -> Self {
        Self { data: Bytes::new(), held: 0, other: None, body, carried }
    }
}

impl<A: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Sent<A> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // Asked for more, what came before was taken.
        if let Some(exchange) = &mut self.carried.exchange {
            exchange.was_taken();
        }
        loop {
            if let Some(piece) = self.piece() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Some(other) = self.other.take() {
                return Poll::Ready(Some(*other));
            }
            self.release();
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(None);
            };
            match frame.map_err(Into::into)?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => self.hold(data)?,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.other.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.data.len() as u64;
        self.body
            .size_hint()
            .exact()
            .map_or_else(SizeHint::default, |bytes| SizeHint::with_exact(left + bytes))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Whole;

    use super::*;
    use crate::limits::concurrency::Who;

    fn known() -> Account {
        Account { caller: Who::Service, ..Account::default() }
    }

    #[tokio::test]
    async fn what_is_not_taken_is_held_and_the_last_piece_is_small() {
        let load = ConcurrencyLimit::new(1, 1_000_000);
        let carried = || Carried { held: Some(load.open(known())), ..Carried::default() };
        let text: Bytes = (0..300_000_u32).map(|at| at.to_le_bytes()[0]).collect::<Vec<_>>().into();
        let mut sent = Sent::whole(Whole::from(text.clone()), carried()).unwrap();
        assert_eq!(
            (load.holds(Resource::Byte), sent.size_hint().exact()),
            (300_000, Some(300_000))
        );
        let (mut read, mut last) = (Vec::new(), 0);
        while let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut sent).poll_frame(context)).await
        {
            assert!(load.holds(Resource::Byte) == 300_000 && !text.is_empty());
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE);
            last = data.len();
            read.extend_from_slice(&data);
        }
        assert!(read == text && last == LAST && sent.is_end_stream());
        drop(sent);
        assert_eq!(load.holds(Resource::Byte), 0);
        // A long one may be refused, a short one is not.
        let mut most = load.open(known());
        most.take(Resource::Byte, 950_000).unwrap();
        assert!(Sent::whole(Whole::from(text.clone()), carried()).is_err());
        assert!(Sent::whole(Whole::from(text.slice(..60_000)), carried()).is_ok());
        assert_eq!(load.holds(Resource::Byte), 950_000);
    }

    /// The last is the first.
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
    async fn an_answer_that_trailers_follow_has_a_small_last_piece_too() {
        for bytes in [1, LAST, LAST + 1, 5_000, 60_000, PIECE + LAST, 200_000] {
            let trailers = Frame::trailers(http::HeaderMap::new());
            let frames = Frames([trailers, Frame::data(Bytes::from(vec![7; bytes]))].into());
            let mut sent = Sent::whole(frames, Carried::default()).unwrap();
            let mut pieces = Vec::new();
            while let Some(frame) =
                std::future::poll_fn(|context| Pin::new(&mut sent).poll_frame(context)).await
            {
                pieces.extend(frame.unwrap().into_data().ok().map(|data| data.len()));
            }
            assert_eq!(pieces.iter().sum::<usize>(), bytes);
            assert!(
                pieces.iter().all(|piece| *piece <= PIECE) && *pieces.last().unwrap() <= LAST,
                "{pieces:?}"
            );
            assert_eq!(pieces.len() == 1, bytes <= LAST, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn each_frame_of_a_long_answer_is_held_for_itself() {
        let load = ConcurrencyLimit::new(1, 1_000_000);
        let pages = [10, 50_000, 20_000, 0, 3]
            .map(|bytes| Ok::<_, std::io::Error>(Bytes::from(vec![7; bytes])));
        let carried = Carried { held: Some(load.open(known())), ..Carried::default() };
        let mut sent =
            Sent::whole(Whole::from_stream(futures_util::stream::iter(pages)), carried).unwrap();
        let (mut bytes, mut most) = (0, 0);
        while let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut sent).poll_frame(context)).await
        {
            most = most.max(load.holds(Resource::Byte));
            bytes += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!((bytes, most, load.holds(Resource::Byte)), (70_013, 50_000, 0));
    }
}
