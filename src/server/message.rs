//! Reads the whole message of a unary call before the call takes a slot.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::request::Parts;
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;
use tower::BoxError;

use super::compression::{self, PREFIX_BYTES};
use crate::{
    error::Error,
    limits::{
        concurrency::Permit,
        message::{self, ReadError},
    },
};

/// A unary method that needs no credentials.
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The default limit of a message: a hundred users, or a profile.
const DEFAULT_MAX_BYTES: usize = 128 << 10;
/// The limit of a message to a method that needs no credentials.
pub(super) const UNAUTHENTICATED_MAX_BYTES: usize = 4 << 10;
/// Paths of methods with another limit, or how they begin: batches (1,000 pairs of the longest ids,
/// 10,000 users), and methods that need no credentials.
const MAX_BYTES: [(&str, usize); 4] = [
    ("/mute.v1.MuteService/BatchCheckSend", 512 << 10),
    ("/mute.v1.MuteService/FilterRecipients", 5 << 19),
    ("/mute.v1.TokenService/", UNAUTHENTICATED_MAX_BYTES),
    ("/grpc.", UNAUTHENTICATED_MAX_BYTES),
];
/// The maximum number of fields of a message: the 10,000 users of one call, and some more. A
/// decoded field takes many times its size on the wire.
const MAX_FIELDS: usize = 10_100;

/// The body of a request, as the RPC handlers receive it.
pub enum Message<B> {
    /// The whole body.
    Whole(Bytes),
    /// The body as a stream, for services whose calls are streams.
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

/// Reads the whole message of a call, and inflates it. Errors: OVERLOADED; MESSAGE_TOO_LARGE, also
/// after inflating; INVALID_ARGUMENT if it has too many fields, or another one follows; INTERNAL if
/// it cannot be inflated; DEADLINE_EXCEEDED if it does not arrive within `timeout`.
pub(super) async fn read_whole<B>(
    head: &Parts,
    body: &mut B,
    permit: &mut Permit,
    timeout: Duration,
) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let max_bytes = max_bytes_of(head.uri.path());
    let refusal = |error| refusal(error, max_bytes);
    let message = message::read_whole(body, max_bytes, permit, timeout).await.map_err(refusal)?;
    // A message that is cut off after its prefix.
    if declared_bytes(&message).is_some_and(|bytes| bytes > max_bytes as u64) {
        return Err(refusal(ReadError::TooLarge));
    }
    if !has_one_message(&message) {
        return Err(Error::invalid("message", "a unary call has exactly one message").into());
    }
    let message =
        compression::inflated(message, &head.headers, max_bytes, permit).map_err(refusal)?;
    if message.len() > DEFAULT_MAX_BYTES && count_fields(&message) > MAX_FIELDS {
        return Err(Error::invalid(
            "message",
            format!("a message has at most {MAX_FIELDS} fields, counting each repetition"),
        )
        .into());
    }
    Ok(message)
}

/// The refusal of a message to the method at this path.
pub(super) fn too_large(path: &str) -> Status {
    refusal(ReadError::TooLarge, max_bytes_of(path))
}

fn refusal(error: ReadError, max_bytes: usize) -> Status {
    match error {
        ReadError::TooLarge => Error::message_too_large(max_bytes).into(),
        ReadError::TimedOut => {
            Status::deadline_exceeded("the request message did not arrive in time")
        }
        ReadError::Overloaded(error) => error.into(),
        // The code that gRPC names for this.
        ReadError::Malformed => Status::internal("the message is not in its grpc-encoding"),
        ReadError::Transport(error) => Status::from_error(error),
    }
}

fn max_bytes_of(path: &str) -> usize {
    MAX_BYTES
        .iter()
        .find(|(start, _)| path.starts_with(start))
        .map_or(DEFAULT_MAX_BYTES, |(_, bytes)| *bytes)
}

/// The length that the prefix of the first message declares, if there is one.
fn declared_bytes(framed: &[u8]) -> Option<u64> {
    let &[_, a, b, c, d] = framed.first_chunk::<PREFIX_BYTES>()?;
    Some(u32::from_be_bytes([a, b, c, d]).into())
}

/// Whether nothing follows the first message. A truncated message passes here and fails to decode.
fn has_one_message(framed: &[u8]) -> bool {
    let message_bytes = framed.len().saturating_sub(PREFIX_BYTES) as u64;
    declared_bytes(framed).is_none_or(|bytes| message_bytes <= bytes)
}

/// How many fields the message has; each repetition counts. It is not decoded, so that a message of
/// millions of fields costs no more than its bytes. Counting stops at malformed bytes, which fail
/// to decode.
fn count_fields(framed: &[u8]) -> usize {
    let mut rest = framed.get(PREFIX_BYTES..).unwrap_or_default();
    let mut fields = 0;
    while let Ok((_, wire)) = prost::encoding::decode_key(&mut rest)
        && prost::encoding::skip_field(
            wire,
            1,
            &mut rest,
            prost::encoding::DecodeContext::default(),
        )
        .is_ok()
    {
        fields += 1;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_their_fields_are_counted() {
        let framed =
            |message: &[u8]| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        let three_fields = framed(&[0x0a, 1, b'a', 0x12, 0, 0x12, 0]);
        assert_eq!((has_one_message(&three_fields), count_fields(&three_fields)), (true, 3));
        assert!(
            has_one_message(b"")
                && has_one_message(&framed(b""))
                && has_one_message(&three_fields[..7])
        );
        assert!(!has_one_message(&[framed(b""), three_fields].concat()));
    }
}
