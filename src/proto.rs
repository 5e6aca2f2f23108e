//! The messages compiled from `proto/`. `v1` is the API: known to `grpc`, `gateway` and `ctl` only.
//! `store_v1` is what is stored: known to the record codec, to the form of a backup, and to an
//! engine that keeps a log of events.

mod codec;

/// The API, package `mute.v1`.
#[allow(missing_docs, clippy::all, clippy::expect_used, clippy::unwrap_used, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("mute.v1");
}

/// The rule that decided a check. The view decides with it, the metrics count by it and the API
/// returns it, so that a new rule is added in one place. (Messages of the API stay at its edge.)
pub use v1::Rule;

/// Stored messages, package `mute.store.v1`.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub(crate) mod store_v1 {
    tonic::include_proto!("mute.store.v1");
}

/// etcd's API, as far as we call it.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub(crate) mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// Every message and service as a `FileDescriptorSet`, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
