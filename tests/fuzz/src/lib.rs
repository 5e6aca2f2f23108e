//! Shared code of the targets. Each target is a binary: libFuzzer calls it with one input after the
//! other, keeps the inputs that reach new code, and mutates them. A target states as assertions
//! what must hold for every input. A failed assertion, a panic of the service, or an input that
//! takes ten seconds is a finding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sha2::{Digest as _, Sha256};

pub mod memory;
pub mod server;

/// A stored message after its version and checksum, as described in `store/codec.rs`: no fuzzer
/// finds a checksum.
#[must_use]
pub fn frame(key: &[u8], message: &[u8]) -> Vec<u8> {
    [&[1][..], &crc32fast::hash(&[key, message].concat()).to_le_bytes(), message].concat()
}

/// The SHA-256 of these bytes, in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
