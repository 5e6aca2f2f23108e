//! What callers may have at a time and a second, of both doors together, and how each of them is told that it is too much.

pub mod concurrency;
pub mod connection;
pub mod holder;
pub mod message;
pub mod rate;
pub mod sent;
