//! Reads the whole body of a request, counted against the permit of its call.
//! `http_body_util::Limited` limits one body; here all of them together have a limit too.

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
    concurrency::{Permit, SMALL_BYTES},
    holder::Resource,
};
use crate::error::Error;

/// Why a body was not read.
#[derive(Debug)]
pub enum ReadError {
    /// It is longer than the limit.
    TooLarge,
    /// It was not complete within the timeout.
    TimedOut,
    /// Other calls hold the bytes that it needs.
    Overloaded(Error),
    /// It is not compressed as it says.
    Malformed,
    /// The connection or the stream failed.
    Transport(BoxError),
}

/// Reads a whole body of at most `max_bytes` within `timeout`.
pub async fn read_whole<B>(
    body: &mut B,
    max_bytes: usize,
    permit: &mut Permit,
    timeout: Duration,
) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(ReadError::TooLarge);
    }
    let mut reader = BodyReader { permit, max_bytes, received: Received::Nothing };
    // Most messages arrive with their head; those need no timer.
    if let Poll::Ready(read) = poll!(reader.read_to_end(body)) {
        return read.map(|()| reader.received.into_bytes());
    }
    reader.permit.acquire(Resource::Message, 1).map_err(ReadError::Overloaded)?;
    let read = tokio::time::timeout(timeout, reader.read_to_end(body)).await;
    reader.permit.release(Resource::Message, 1);
    read.unwrap_or(Err(ReadError::TimedOut)).map(|()| reader.received.into_bytes())
}

struct BodyReader<'a> {
    permit: &'a mut Permit,
    max_bytes: usize,
    received: Received,
}

/// What has been received. A body of one frame is not copied.
enum Received {
    Nothing,
    One(Bytes),
    Several(BytesMut),
}

impl BodyReader<'_> {
    /// Reads to the end. Resumes where it was if it is dropped and called again.
    fn read_to_end<B>(
        &mut self,
        body: &mut B,
    ) -> impl Future<Output = Result<(), ReadError>> + Unpin
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    {
        poll_fn(move |context| {
            while let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(context)) {
                let frame = frame.map_err(|error| ReadError::Transport(error.into()))?;
                if let Ok(data) = frame.into_data() {
                    self.add(data)?;
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn add(&mut self, data: Bytes) -> Result<(), ReadError> {
        // The end of a message often arrives as an empty frame.
        if data.is_empty() {
            return Ok(());
        }
        let bytes = self.received.len() + data.len();
        if bytes > self.max_bytes {
            return Err(ReadError::TooLarge);
        }
        if bytes > SMALL_BYTES {
            self.permit.acquire(Resource::Byte, data.len()).map_err(ReadError::Overloaded)?;
        }
        self.received.add(data);
        Ok(())
    }
}

impl Received {
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

    fn into_bytes(self) -> Bytes {
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
        let mut permit = ConcurrencyLimit::new(8, 1 << 20).permit(Account::default());
        let mut body = Whole::from_stream(stream::iter(frames));
        read_whole(&mut body, 1 << 20, &mut permit, Duration::from_secs(1))
            .await
            .unwrap_or_default()
    }

    #[tokio::test]
    async fn a_body_of_one_frame_is_not_copied() {
        let [first, second, end] =
            [Bytes::from(vec![1; 3_000]), Bytes::from(vec![2; 9_000]), Bytes::new()];
        let one = read(&[end.clone(), first.clone(), end.clone()]).await;
        assert!(one == first && one.as_ptr() == first.as_ptr());
        let several = read(&[first.clone(), second.clone(), first.clone(), end]).await;
        assert_eq!(several, [&first[..], &second, &first].concat());
    }
}
