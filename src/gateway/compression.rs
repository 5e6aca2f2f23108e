//! Compressed bodies of requests, and compressed answers.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, header},
};
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, predicate::SizeAbove},
};

use crate::limits::{
    concurrency::Permit,
    inflate::{self, Encoding},
    message::ReadError,
};

/// Answers from this size on are compressed for callers that accept it. A shorter one fits into one
/// packet anyway.
const MIN_BYTES: u16 = 1 << 10;

/// What a body may be compressed by.
pub(super) const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip");

/// The body of a request is compressed in another way.
pub(super) struct UnknownEncoding;

/// Compresses long answers by gzip, where `Accept-Encoding` allows it. Outside of the layer that
/// counts the bytes of answers, so that they count until they have been compressed.
pub(super) fn layer() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(MIN_BYTES))
}

/// How the body of a request is compressed; `None`: not at all.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, UnknownEncoding> {
    let mut names = headers.get_all(header::CONTENT_ENCODING).iter();
    match names.next().map(|name| name.as_bytes().trim_ascii().to_ascii_lowercase()).as_deref() {
        _ if names.next().is_some() => Err(UnknownEncoding),
        None | Some(b"" | b"identity") => Ok(None),
        Some(b"gzip" | b"x-gzip") => Ok(Some(Encoding::Gzip)),
        Some(_) => Err(UnknownEncoding),
    }
}

/// The body, inflated. Errors: those of [`inflate::inflate`].
pub(super) fn inflated(
    body: Bytes,
    encoding: Option<Encoding>,
    max_bytes: usize,
    permit: &mut Permit,
) -> Result<Bytes, ReadError> {
    // Some clients send the header with every request.
    let Some(encoding) = encoding.filter(|_| !body.is_empty()) else { return Ok(body) };
    let mut inflated = Vec::new();
    inflate::inflate(encoding, &body, &mut inflated, max_bytes, permit)?;
    Ok(inflated.into())
}
