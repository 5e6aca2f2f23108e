//! What callers may hold at a time, and how often they may call, over gRPC and REST together.

pub mod concurrency;
pub mod connection;
pub mod holder;
pub mod message;
pub mod rate;
pub mod sent;
