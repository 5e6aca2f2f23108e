//! The message of a call, read whole before it has a place among those that run.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;
use tower::BoxError;

use crate::{
    error::Error,
    limits::{
        concurrency::Permit,
        message::{self, Unread},
    },
};

/// What anybody may ask, and gets one answer to.
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// For a message of a call that has no bound of its own: a hundred users, or a profile.
const BYTES: usize = 128 << 10;
/// Other bounds: of calls that name many, 1,000 pairs of the longest ids and 10,000 users; and of
/// those that anybody may make.
const OTHERS: [(&str, usize); 4] = [
    ("/mute.v1.MuteService/BatchCheckSend", 512 << 10),
    ("/mute.v1.MuteService/FilterRecipients", 5 << 19),
    ("/mute.v1.TokenService/IssueToken", 4 << 10),
    (HEALTH, 4 << 10),
];
/// Of gRPC, before each message: whether it is compressed, and its length.
const FRAME: usize = 5;
/// Parts of a message at most: the 10,000 users of one call, and what goes with them. Decoded, each
/// takes many times what it has on the wire.
const MAX_PARTS: usize = 10_100;

/// The body of a request, as the RPCs get it.
pub enum Message<B> {
    /// All of it.
    Whole(Bytes),
    /// As it comes: of a service whose calls are streams.
    Stream(B),
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Message<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// The whole message of a call at this path. Errors: OVERLOADED, INVALID_ARGUMENT where it is too
/// large or has too many parts, DEADLINE_EXCEEDED where it does not come within `timeout`.
pub(super) async fn whole<B>(
    path: &str,
    body: &mut B,
    held: &mut Permit,
    timeout: Duration,
) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let most = max_bytes(path);
    let message =
        message::whole(body, most, held, timeout).await.map_err(|unread| match unread {
            Unread::TooLarge => Error::invalid(
                "message",
                format!("a message of this call has at most {most} bytes"),
            )
            .into(),
            Unread::Late => {
                Status::deadline_exceeded("the message of the call has not come in time")
            }
            Unread::Overloaded(error) => error.into(),
            Unread::Broken(error) => Status::from_error(error),
        })?;
    if !is_one(&message) {
        return Err(Error::invalid("message", "a call has one message").into());
    }
    if message.len() > BYTES && parts(&message) > MAX_PARTS {
        return Err(
            Error::invalid("message", format!("a message has at most {MAX_PARTS} parts")).into()
        );
    }
    Ok(message)
}

fn max_bytes(path: &str) -> usize {
    OTHERS.iter().find(|(other, _)| *other == path).map_or(BYTES, |(_, bytes)| *bytes)
}

/// Whether nothing comes after the first message. One that is cut short is found wrong when it is
/// decoded.
fn is_one(framed: &[u8]) -> bool {
    let Some((&[_, a, b, c, d], message)) = framed.split_first_chunk::<FRAME>() else {
        return true;
    };
    message.len() as u64 <= u64::from(u32::from_be_bytes([a, b, c, d]))
}

/// How many fields the message has, each time that a repeated one is there: counted without
/// decoding it, so that one of millions costs nothing but its bytes. Where it is no message the
/// rest counts for nothing: it is found wrong when it is decoded.
fn parts(framed: &[u8]) -> usize {
    let mut rest = framed.get(FRAME..).unwrap_or_default();
    let mut parts = 0;
    while let Ok((_, wire)) = prost::encoding::decode_key(&mut rest)
        && prost::encoding::skip_field(
            wire,
            1,
            &mut rest,
            prost::encoding::DecodeContext::default(),
        )
        .is_ok()
    {
        parts += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_message_is_found_and_the_parts_of_one_are_counted() {
        let framed =
            |message: &[u8]| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        let parts_of_three = framed(&[0x0a, 1, b'a', 0x12, 0, 0x12, 0]);
        assert_eq!((is_one(&parts_of_three), parts(&parts_of_three)), (true, 3));
        assert!(is_one(b"") && is_one(&framed(b"")) && is_one(&parts_of_three[..7]));
        assert!(!is_one(&[framed(b""), parts_of_three].concat()));
    }
}
