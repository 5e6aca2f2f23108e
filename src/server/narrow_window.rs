//! Refuses clients whose flow-control window is smaller than the last chunk of a response. h2 would
//! hold the rest of such a response in memory that no limit counts, and has no setting for it.

use crate::limits::body::LAST_CHUNK_BYTES;

const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
/// The default is 65,535. gRPC's C core goes no lower than this when it is short of memory (or
/// sets 0).
const MIN_WINDOW_BYTES: usize = LAST_CHUNK_BYTES;

/// Whether this setting (RFC 9113, section 6.5.1) makes the client's windows too small.
pub(super) fn is_narrow(setting: [u8; 6]) -> bool {
    let [name @ .., a, b, c, d] = setting;
    name == INITIAL_WINDOW_SIZE && (u32::from_be_bytes([a, b, c, d]) as usize) < MIN_WINDOW_BYTES
}
