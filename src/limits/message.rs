//! The body of a request, read whole on the account of its call.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::poll;
use hyper::body::Body;
use tower::BoxError;

use super::{
    concurrency::{Permit, SMALL},
    holder::Resource,
};
use crate::error::Error;

/// Why a message was not read.
#[derive(Debug)]
pub enum Unread {
    /// It has more bytes than it may.
    TooLarge,
    /// It has not come in time.
    Late,
    /// Others hold what it needs.
    Overloaded(Error),
    /// The caller has broken it off.
    Broken(BoxError),
}

/// The whole of a body of at most so many bytes, which is to come within `timeout`.
pub async fn whole<B>(
    body: &mut B,
    most: usize,
    held: &mut Permit,
    timeout: Duration,
) -> Result<Bytes, Unread>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    if body.size_hint().lower() > most as u64 {
        return Err(Unread::TooLarge);
    }
    let mut reading = Reading { held, most, read: Read::Nothing };
    // Most messages have come with their head, and need no timer.
    if let Poll::Ready(read) = poll!(reading.rest(body)) {
        return read.map(|()| reading.read.bytes());
    }
    reading.held.take(Resource::Message, 1).map_err(Unread::Overloaded)?;
    let read = tokio::time::timeout(timeout, reading.rest(body)).await;
    reading.held.give_back(Resource::Message, 1);
    read.unwrap_or(Err(Unread::Late)).map(|()| reading.read.bytes())
}

struct Reading<'a> {
    held: &'a mut Permit,
    most: usize,
    read: Read,
}

/// What has come.
enum Read {
    Nothing,
    One(Bytes),
    Several(BytesMut),
}

impl Reading<'_> {
    /// Reads on to the end. What was read is kept where this is dropped, and gone on with when it
    /// is called again.
    fn rest<B>(&mut self, body: &mut B) -> impl Future<Output = Result<(), Unread>> + Unpin
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    {
        poll_fn(move |context| {
            while let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(context)) {
                let frame = frame.map_err(|error| Unread::Broken(error.into()))?;
                if let Ok(data) = frame.into_data() {
                    self.add(data)?;
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn add(&mut self, data: Bytes) -> Result<(), Unread> {
        // The end of a message often comes in a frame of its own.
        if data.is_empty() {
            return Ok(());
        }
        let bytes = self.read.len() + data.len();
        if bytes > self.most {
            return Err(Unread::TooLarge);
        }
        if bytes > SMALL {
            self.held.take(Resource::Byte, data.len()).map_err(Unread::Overloaded)?;
        }
        self.read.add(data);
        Ok(())
    }
}

impl Read {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(bytes) => bytes.len(),
            Self::Several(bytes) => bytes.len(),
        }
    }

    fn add(&mut self, data: Bytes) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut bytes = BytesMut::with_capacity(2 * (first.len() + data.len()));
                bytes.extend_from_slice(&first);
                bytes.extend_from_slice(&data);
                Self::Several(bytes)
            }
            Self::Several(mut bytes) => {
                bytes.extend_from_slice(&data);
                Self::Several(bytes)
            }
        };
    }

    fn bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Several(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Whole;
    use futures_util::stream;

    use super::*;
    use crate::limits::concurrency::{Account, ConcurrencyLimit};

    async fn read(frames: &[Bytes]) -> Bytes {
        let frames: Vec<_> = frames.iter().cloned().map(Ok::<_, std::io::Error>).collect();
        let mut held = ConcurrencyLimit::new(8, 1 << 20).open(Account::default());
        let mut body = Whole::from_stream(stream::iter(frames));
        whole(&mut body, 1 << 20, &mut held, Duration::from_secs(1)).await.unwrap_or_default()
    }

    #[tokio::test]
    async fn a_message_is_what_its_frames_are_and_one_of_one_frame_is_not_copied() {
        let [first, second, end] =
            [Bytes::from(vec![1; 3_000]), Bytes::from(vec![2; 9_000]), Bytes::new()];
        let one = read(&[end.clone(), first.clone(), end.clone()]).await;
        assert!(one == first && one.as_ptr() == first.as_ptr());
        let several = read(&[first.clone(), second.clone(), first.clone(), end]).await;
        assert_eq!(several, [&first[..], &second, &first].concat());
    }
}
