//! What the targets share. Each target is a binary: libFuzzer calls it with one input after the
//! other, keeps those that reach new code and changes them further. What an input must never do is
//! said there, in assertions: one that fails, a panic of the service, or ten seconds without an end
//! is a finding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sha2::{Digest as _, Sha256};

pub mod memory;
pub mod server;

/// A stored message with its version and checksum before it, as `store/codec.rs` describes it: no
/// fuzzer finds a checksum.
#[must_use]
pub fn frame(key: &[u8], message: &[u8]) -> Vec<u8> {
    [&[1][..], &crc32fast::hash(&[key, message].concat()).to_le_bytes(), message].concat()
}

/// In hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
