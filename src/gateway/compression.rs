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

/// The other registered codings that change a body (IANA, HTTP Content Coding Registry).
const OTHER_CODINGS: [&[u8]; 10] = [
    b"br",
    b"zstd",
    b"deflate",
    b"compress",
    b"x-compress",
    b"dcb",
    b"dcz",
    b"aes128gcm",
    b"exi",
    b"pack200-gzip",
];

/// Why a body is not inflated.
pub(super) enum BodyError {
    /// It is compressed in another way than by gzip.
    UnknownEncoding,
    Read(ReadError),
}

impl From<ReadError> for BodyError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Compresses long answers by gzip, where `Accept-Encoding` allows it. Outside of the layer that
/// counts the bytes of answers, so that they count until they have been compressed.
pub(super) fn layer() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(MIN_BYTES))
}

/// The body as it was before its sender compressed it. Errors: [`BodyError::UnknownEncoding`], and
/// those of [`inflate::inflate`].
pub(super) fn inflated(
    body: Bytes,
    headers: &HeaderMap,
    max_bytes: usize,
    permit: &mut Permit,
) -> Result<Bytes, BodyError> {
    // Some clients send the header with every request.
    if body.is_empty() {
        return Ok(body);
    }
    let Some(encoding) = encoding(headers)? else { return Ok(body) };
    let mut inflated = Vec::new();
    inflate::inflate(encoding, &body, &mut inflated, max_bytes, permit)?;
    Ok(inflated.into())
}

/// How a body is compressed; `None`: not at all. Names that are no content codings count for
/// nothing: some clients name the character set there.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, BodyError> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut names = names.map(|name| name.trim_ascii().to_ascii_lowercase());
    names.try_fold(None, |found, name| match name.as_slice() {
        b"gzip" | b"x-gzip" if found.is_none() => Ok(Some(Encoding::Gzip)),
        b"gzip" | b"x-gzip" => Err(BodyError::UnknownEncoding),
        name if OTHER_CODINGS.contains(&name) => Err(BodyError::UnknownEncoding),
        _ => Ok(found),
    })
}
