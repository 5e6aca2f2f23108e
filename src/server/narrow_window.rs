//! A client whose windows are too small for even the last piece of an answer is let go: h2 would
//! keep what it does not take, and nothing counts that. h2 has no setting for it.

use crate::limits::body::LAST_CHUNK_BYTES;

const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
/// No client has less than 65,535 that does not mean to, and gRPC's C core, when it is short of
/// memory, no less than this (or nothing).
const LEAST_WINDOW: usize = LAST_CHUNK_BYTES;

/// Whether this setting of a client (RFC 9113, section 6.5.1) makes its windows too small.
pub(super) fn is_narrow(setting: [u8; 6]) -> bool {
    let [name @ .., a, b, c, d] = setting;
    name == INITIAL_WINDOW_SIZE && (u32::from_be_bytes([a, b, c, d]) as usize) < LEAST_WINDOW
}
