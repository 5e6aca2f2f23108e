//! Inflates compressed messages and bodies. What comes out has the limits of what is not
//! compressed: the size of one message, and the bytes of all of them.

use std::io::Read;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

use super::{
    concurrency::{Permit, SMALL_BYTES},
    holder::Resource,
    message::ReadError,
};

/// After each step the limits are checked.
const STEP_BYTES: usize = 16 << 10;
/// The binary logarithm of zstd's largest window. RFC 8878 recommends that decoders accept it; the
/// library's own limit is 128 MiB, which a frame of a few bytes may ask for.
const MAX_WINDOW_LOG: u32 = 23;

/// More than this is inflated off the threads of the runtime: a hostile one takes a tenth of a
/// second.
const MAX_INLINE_BYTES: usize = 64 << 10;

/// How a message or a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Encoding {
    Gzip,
    Zstd,
}

/// Appends what `compressed` holds to `into`, which then has at most `max_bytes`. Errors:
/// [`ReadError::TooLarge`], [`ReadError::Overloaded`], [`ReadError::Malformed`].
pub fn inflate(
    encoding: Encoding,
    compressed: &[u8],
    into: &mut Vec<u8>,
    max_bytes: usize,
    permit: &mut Permit,
) -> Result<(), ReadError> {
    off_runtime(compressed.len() > MAX_INLINE_BYTES, || match encoding {
        // One member, as every encoder writes: many empty ones would cost much and give nothing.
        Encoding::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(compressed);
            append(&mut decoder, into, max_bytes, permit)?;
            if decoder.into_inner().is_empty() { Ok(()) } else { Err(ReadError::Malformed) }
        }
        Encoding::Zstd => {
            let decoder = zstd::Decoder::with_buffer(compressed).and_then(|mut decoder| {
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Ok(decoder)
            });
            append(decoder.map_err(|_| ReadError::Malformed)?, into, max_bytes, permit)
        }
    })
}

/// Does long work where it delays no other task, if there is another thread for these.
fn off_runtime<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    let has_threads = Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_long && has_threads { block_in_place(work) } else { work() }
}

fn append(
    mut inflated: impl Read,
    into: &mut Vec<u8>,
    max_bytes: usize,
    permit: &mut Permit,
) -> Result<(), ReadError> {
    let mut step = [0; STEP_BYTES];
    loop {
        let bytes = inflated.read(&mut step).map_err(|_| ReadError::Malformed)?;
        if bytes == 0 {
            return Ok(());
        }
        if into.len() + bytes > max_bytes {
            return Err(ReadError::TooLarge);
        }
        if into.len() + bytes > SMALL_BYTES {
            permit.acquire(Resource::Byte, bytes).map_err(ReadError::Overloaded)?;
        }
        into.extend_from_slice(&step[..bytes]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::limits::concurrency::{Account, ConcurrencyLimit};

    const MAX_BYTES: usize = 1 << 20;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// What is inflated, and how many bytes the call then holds.
    fn inflated(encoding: Encoding, compressed: &[u8]) -> (Result<Vec<u8>, ReadError>, usize) {
        let limit = ConcurrencyLimit::new(8, 64 << 20);
        let mut permit = limit.permit(Account::default());
        let mut into = Vec::new();
        let result = inflate(encoding, compressed, &mut into, MAX_BYTES, &mut permit);
        (result.map(|()| into), limit.in_use(Resource::Byte))
    }

    #[test]
    fn what_is_inflated_is_bounded_and_counted() {
        let long = vec![b'x'; MAX_BYTES];
        let longer = vec![b'x'; 100 * MAX_BYTES];
        let zstd = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        for (encoding, long, longer) in [
            (Encoding::Gzip, gzip(&long), gzip(&longer)),
            (Encoding::Zstd, zstd(&long), zstd(&longer)),
        ] {
            let (text, held_bytes) = inflated(encoding, &long);
            assert_eq!(text.unwrap().len(), MAX_BYTES);
            assert!((MAX_BYTES - SMALL_BYTES..=MAX_BYTES).contains(&held_bytes), "{held_bytes}");
            let (text, held_bytes) = inflated(encoding, &longer);
            assert!(matches!(text, Err(ReadError::TooLarge)) && held_bytes <= MAX_BYTES);
            let (text, _) = inflated(encoding, &long[..long.len() / 2]);
            assert!(matches!(text, Err(ReadError::Malformed)), "{encoding:?} is cut");
        }
    }

    #[test]
    fn gzip_has_one_member() {
        let members = gzip(b"x").repeat(2);
        assert!(matches!(inflated(Encoding::Gzip, &members).0, Err(ReadError::Malformed)));
    }

    #[test]
    fn a_frame_of_zstd_with_a_huge_window_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(b"x").unwrap();
        let (text, _) = inflated(Encoding::Zstd, &encoder.finish().unwrap());
        assert!(matches!(text, Err(ReadError::Malformed)));
    }
}
