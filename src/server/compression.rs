//! Compressed gRPC messages. That of a request is inflated before anything else reads it. A long
//! response is compressed as its request says it is, if the caller accepts that.
//!
//! tonic does both, but outside of the limits of a call, and it compresses the shortest response.
//! Here it only refuses what it does not know. Watches are not compressed.

use std::io::{self, Write as _};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::task::spawn_blocking;

use crate::limits::{
    body::CountedBody,
    concurrency::Permit,
    inflate::{self, Encoding},
    message::ReadError,
};

/// gRPC's prefix of each message: a compression flag and the length.
pub(super) const PREFIX_BYTES: usize = 5;
const COMPRESSED: u8 = 1;
/// A response up to this size fits into one packet anyway.
const MIN_BYTES: usize = 1 << 10;
/// A longer response is compressed on another thread: it takes more than a millisecond.
const MAX_INLINE_BYTES: usize = 64 << 10;
/// The fastest of zstd that its authors recommend.
const ZSTD_LEVEL: i32 = 1;

// Parsed once, because each call looks them up.
static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

fn parse(name: &[u8]) -> Option<Encoding> {
    match name {
        b"gzip" => Some(Encoding::Gzip),
        b"zstd" => Some(Encoding::Zstd),
        _ => None,
    }
}

fn name(encoding: Encoding) -> HeaderValue {
    HeaderValue::from_static(match encoding {
        Encoding::Gzip => "gzip",
        Encoding::Zstd => "zstd",
    })
}

/// How the messages of a request with this head are compressed.
fn request_encoding(headers: &HeaderMap) -> Option<Encoding> {
    parse(headers.get(&GRPC_ENCODING)?.as_bytes())
}

/// How a long response to a request with this head is compressed.
pub(super) fn response_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let encoding = request_encoding(headers)?;
    let mut accepted = headers
        .get_all(&GRPC_ACCEPT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    accepted.any(|name| parse(name.trim_ascii()) == Some(encoding)).then_some(encoding)
}

/// The framed message of a request, inflated if it is compressed. One in an unknown encoding stays
/// as it is, and tonic refuses it. Errors: those of [`inflate::inflate`].
pub(super) fn inflated(
    framed: Bytes,
    headers: &HeaderMap,
    max_bytes: usize,
    permit: &mut Permit,
) -> Result<Bytes, ReadError> {
    let Some((&[COMPRESSED, ..], compressed)) = framed.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(framed);
    };
    let Some(encoding) = request_encoding(headers) else { return Ok(framed) };
    let mut inflated = vec![0; PREFIX_BYTES];
    inflate::inflate(encoding, compressed, &mut inflated, max_bytes, permit)?;
    set_length(&mut inflated);
    Ok(inflated.into())
}

/// The response, compressed if that makes it shorter.
pub(super) async fn compressed<A>(
    response: Response<CountedBody<A>>,
    encoding: Encoding,
) -> Response<CountedBody<A>> {
    let framed = response.body().staged().clone();
    if framed.len() <= MIN_BYTES {
        return response;
    }
    let bytes = framed.len();
    let compressed = if bytes <= MAX_INLINE_BYTES {
        compress(&framed, encoding).ok()
    } else {
        let compressing = spawn_blocking(move || compress(&framed, encoding));
        compressing.await.ok().and_then(Result::ok)
    };
    let Some(shorter) = compressed.filter(|compressed| compressed.len() < bytes) else {
        return response;
    };
    let (mut head, mut body) = response.into_parts();
    body.shorten(shorter.into());
    head.headers.insert(&GRPC_ENCODING, name(encoding));
    Response::from_parts(head, body)
}

/// A framed message, compressed. Errors: none in practice, since it is written to memory.
fn compress(framed: &[u8], encoding: Encoding) -> io::Result<Vec<u8>> {
    let message = framed.get(PREFIX_BYTES..).unwrap_or_default();
    let prefix = vec![COMPRESSED, 0, 0, 0, 0];
    let mut compressed = match encoding {
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(prefix, flate2::Compression::fast());
            encoder.write_all(message)?;
            encoder.finish()?
        }
        Encoding::Zstd => {
            let mut encoder = zstd::Encoder::new(prefix, ZSTD_LEVEL)?;
            encoder.write_all(message)?;
            encoder.finish()?
        }
    };
    set_length(&mut compressed);
    Ok(compressed)
}

/// Sets the length in the prefix of a framed message.
fn set_length(framed: &mut [u8]) {
    if let Some((prefix, message)) = framed.split_first_chunk_mut::<PREFIX_BYTES>() {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        prefix[1..].copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_compressed_only_in_kind_and_if_accepted() {
        let of = |encoding: &'static str, accepted: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(&GRPC_ENCODING, HeaderValue::from_static(encoding));
            headers.insert(&GRPC_ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            response_encoding(&headers)
        };
        assert_eq!(of("gzip", "identity, deflate, gzip"), Some(Encoding::Gzip));
        assert_eq!(of("zstd", "zstd,gzip"), Some(Encoding::Zstd));
        assert_eq!(
            [of("gzip", "zstd"), of("identity", "gzip"), of("deflate", "deflate")],
            [None; 3]
        );
        let accepted = HeaderMap::from_iter([(
            GRPC_ACCEPT_ENCODING.clone(),
            HeaderValue::from_static("gzip"),
        )]);
        assert_eq!(response_encoding(&accepted), None);
    }
}
