//! The words of the domain as types: ids that cannot be wrong, times, and the records that are
//! stored. Knows no protocol and no engine.

mod expire;
mod ids;
mod record;

pub use expire::Expire;
pub use ids::{AppKey, RequestId, RoomId, UserId, UserRef};
pub use record::{
    Address, ClientProfile, Event, EventKind, IdempotencyRecord, Key, Owner, Provenance,
    Restriction, RoomProfile, Value,
};
