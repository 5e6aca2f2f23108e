//! Concurrency and rate limits, shared by gRPC and REST: how many calls, bytes and streams a caller
//! may hold at a time, and how often it may call.

pub mod body;
pub mod concurrency;
pub mod connection;
pub mod holder;
pub mod inflate;
pub mod message;
pub mod rate;
pub mod window;
