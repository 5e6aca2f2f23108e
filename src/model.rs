//! The types of the domain: valid ids, times, and the records of the store. Independent of
//! protocols and storage engines.

mod expire;
mod ids;
mod record;

pub use expire::Expire;
pub use ids::{AppKey, RequestId, RoomId, UserId, UserRef};
pub use record::{
    Address, ClientProfile, Event, EventKind, IdempotencyRecord, Key, Owner, Provenance,
    Restriction, RoomProfile, Value,
};
