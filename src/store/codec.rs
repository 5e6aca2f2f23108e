//! The encoding of keys and values, the same for every engine. Golden files
//! (`tests/golden/records`) hold every version ever written.
//!
//! # Keys
//! - `r APP 0 ROOM 0 KIND [USER]`: a room. All its records share a prefix; its member mutes are in
//!   the order of users.
//! - `c APP 0 USER 0 KIND [ROOM]`: a client. All its records share a prefix.
//! - `u APP 0 USER 0 KIND`: a user's records that outlive the client.
//! - `q APP 0 REQUEST 0 KIND`: the answer to a request, kept for its repeats.
//! - `R APP 0 ROOM 0 KIND` and `C APP 0 USER 0 KIND`: tombstones. They sort first, so a reader in
//!   key order sees a tombstone before the records that it deletes.
//!
//! Ids contain no control characters, so NUL terminates one.
//!
//! # Values
//! A value is a version byte, the CRC-32 of key and message (little-endian), and the message of
//! `mute.store.v1`. The checksum covers the key, so a value stored under the wrong key is detected.

use prost::Message;

use self::messages::{
    client_message, client_model, event_message, expire_model, idempotency_message,
    idempotency_model, kind_model, restriction_message, restriction_model, room_message,
    room_model,
};
use super::{StoreError, StoredEvent};
use crate::{
    model::{Event, EventKind, Key, Value},
    proto::store_v1 as pb,
};

mod messages;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;
const ROOM: u8 = b'r';
const CLIENT: u8 = b'c';
const USER: u8 = b'u';
const REQUEST: u8 = b'q';
const DELETED_ROOM: u8 = b'R';
const DELETED_CLIENT: u8 = b'C';
const PROFILE: u8 = b'p';
const BAN: u8 = b'b';
const MUTED: u8 = b'm';
const ALLOWED: u8 = b'a';
const NOTIFICATION: u8 = b'n';

fn join(kind: u8, app: &str, id: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(app.len() + id.len() + 3 + 65);
    bytes.push(kind);
    bytes.extend_from_slice(app.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(id.as_bytes());
    bytes.push(0);
    bytes
}

/// Encodes an event.
#[must_use]
pub fn encode_event(event: &Event) -> Vec<u8> {
    frame(&[], &event_message(event))
}

/// Encodes a key.
#[must_use]
pub fn encode_key(key: Key<'_>) -> Vec<u8> {
    let (mut bytes, kind, suffix) = match key {
        Key::Room { app, room } => (join(ROOM, app, room), PROFILE, ""),
        Key::Ban { app, room } => (join(ROOM, app, room), BAN, ""),
        Key::MemberMute { app, room, user } => (join(ROOM, app, room), MUTED, user),
        Key::Allowed { app, room, user } => (join(ROOM, app, room), ALLOWED, user),
        Key::Client { app, user } => (join(CLIENT, app, user), PROFILE, ""),
        Key::NotificationMute { app, user, room } => (join(CLIENT, app, user), NOTIFICATION, room),
        Key::UserMute { app, user } => (join(USER, app, user), MUTED, ""),
        Key::Request { app, id } => (join(REQUEST, app, id), PROFILE, ""),
        Key::DeletedRoom { app, room } => (join(DELETED_ROOM, app, room), PROFILE, ""),
        Key::DeletedClient { app, user } => (join(DELETED_CLIENT, app, user), PROFILE, ""),
    };
    bytes.push(kind);
    bytes.extend_from_slice(suffix.as_bytes());
    bytes
}

/// Decodes a key. Errors: [`StoreError::Corrupt`].
pub fn decode_key(bytes: &[u8]) -> Result<Key<'_>, StoreError> {
    parse_key(bytes).ok_or_else(|| corrupt(bytes, "this is not a key of mute-service"))
}

fn parse_key(bytes: &[u8]) -> Option<Key<'_>> {
    let (first, rest) = bytes.split_first()?;
    let (app, rest) = std::str::from_utf8(rest).ok()?.split_once('\0')?;
    let (id, rest) = rest.split_once('\0')?;
    let kind = *rest.as_bytes().first()?;
    let suffix = rest.get(1..)?;
    match (*first, kind, suffix.is_empty()) {
        (ROOM, PROFILE, true) => Some(Key::Room { app, room: id }),
        (ROOM, BAN, true) => Some(Key::Ban { app, room: id }),
        (ROOM, MUTED, false) => Some(Key::MemberMute { app, room: id, user: suffix }),
        (ROOM, ALLOWED, false) => Some(Key::Allowed { app, room: id, user: suffix }),
        (CLIENT, PROFILE, true) => Some(Key::Client { app, user: id }),
        (CLIENT, NOTIFICATION, false) => {
            Some(Key::NotificationMute { app, user: id, room: suffix })
        }
        (USER, MUTED, true) => Some(Key::UserMute { app, user: id }),
        (REQUEST, PROFILE, true) => Some(Key::Request { app, id }),
        (DELETED_ROOM, PROFILE, true) => Some(Key::DeletedRoom { app, room: id }),
        (DELETED_CLIENT, PROFILE, true) => Some(Key::DeletedClient { app, user: id }),
        _ => None,
    }
}

/// Encodes the value of this key.
#[must_use]
pub fn encode_value(key: &[u8], value: &Value) -> Vec<u8> {
    match value {
        Value::Room(room) => frame(key, &room_message(room)),
        Value::Client(client) => frame(key, &client_message(client)),
        Value::Restriction(restriction) => frame(key, &restriction_message(restriction, 0)),
        Value::NotificationMute(restriction, place) => {
            frame(key, &restriction_message(restriction, *place))
        }
        Value::Request(record) => frame(key, &idempotency_message(record)),
        Value::Deleted(at_ms) => frame(key, &pb::Deleted { at_ms: *at_ms }),
    }
}

/// Decodes the key and the value of a record. Errors: [`StoreError::Corrupt`].
pub fn decode<'a>(key: &'a [u8], value: &[u8]) -> Result<(Key<'a>, Value), StoreError> {
    let decoded = decode_key(key)?;
    Ok((decoded, decode_value(key, decoded, value)?))
}

/// Decodes the value of a record. `decoded` is `key`, decoded. Errors: [`StoreError::Corrupt`].
pub fn decode_value(key: &[u8], decoded: Key<'_>, value: &[u8]) -> Result<Value, StoreError> {
    Ok(match decoded {
        Key::Room { .. } => Value::Room(room_model(unframe(key, value)?)),
        Key::Client { .. } => Value::Client(client_model(unframe(key, value)?)),
        Key::Ban { .. } | Key::MemberMute { .. } | Key::Allowed { .. } | Key::UserMute { .. } => {
            Value::Restriction(restriction_model(unframe(key, value)?).0)
        }
        Key::NotificationMute { .. } => {
            let (restriction, place) = restriction_model(unframe(key, value)?);
            Value::NotificationMute(restriction, place)
        }
        Key::Request { .. } => {
            let record = idempotency_model(unframe(key, value)?);
            Value::Request(record.ok_or_else(|| corrupt(key, "the fingerprint is not 16 bytes"))?)
        }
        Key::DeletedRoom { .. } | Key::DeletedClient { .. } => {
            Value::Deleted(unframe::<pb::Deleted>(key, value)?.at_ms)
        }
    })
}

/// Decodes an event. Errors: [`StoreError::Corrupt`].
pub fn decode_event(bytes: &[u8]) -> Result<Event, StoreError> {
    let message: pb::Event = unframe(&[], bytes)?;
    let kind =
        kind_model(message.kind()).ok_or_else(|| corrupt(&[], "the kind of event is unknown"))?;
    // Versions before BAN_EXPIRED wrote the end of a ban as an EXPIRED without users.
    let kind = if kind == EventKind::Expired && message.users.is_empty() {
        EventKind::BanExpired
    } else {
        kind
    };
    Ok(Event {
        kind,
        app: message.app,
        room: message.room,
        users: message.users,
        actor: message.actor,
        reason: message.reason,
        at_ms: message.at_ms,
        expire: expire_model(message.expire_ms),
        request_id: message.request_id,
    })
}

/// Only the app of an event; the other fields are skipped.
#[derive(Message)]
struct EventApp {
    #[prost(string, tag = "2")]
    app: String,
}

/// The app of each event; empty if the event is empty. Much cheaper than [`decode_event`].
///
/// Errors: [`StoreError::Corrupt`].
pub fn apps_of_events(events: &[StoredEvent]) -> Result<Vec<String>, StoreError> {
    events.iter().map(app_of_event).collect()
}

fn app_of_event(stored: &StoredEvent) -> Result<String, StoreError> {
    match &stored.event[..] {
        [] => Ok(String::new()),
        bytes => Ok(unframe::<EventApp>(&[], bytes)?.app),
    }
}

/// Encodes a message behind its version and checksum.
pub(crate) fn frame<M: Message>(key: &[u8], message: &M) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + message.encoded_len());
    bytes.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    // Encoding fails only in a buffer that is too small, and a Vec grows.
    let _ = message.encode(&mut bytes);
    let sum = checksum([key, &bytes[HEADER_BYTES..]]);
    bytes[1..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Checks version and checksum, and decodes the message. Errors: [`StoreError::Corrupt`].
pub(crate) fn unframe<M: Message + Default>(key: &[u8], bytes: &[u8]) -> Result<M, StoreError> {
    let Some((&[version, a, b, c, d], body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt(key, "the value is shorter than its header"));
    };
    if version != VERSION {
        return Err(corrupt(
            key,
            &format!("the value has version {version}; this program reads version {VERSION}"),
        ));
    }
    if checksum([key, body]) != u32::from_le_bytes([a, b, c, d]) {
        return Err(corrupt(key, "the checksum of the value is wrong"));
    }
    M::decode(body).map_err(|error| corrupt(key, &error.to_string()))
}

pub(super) fn checksum<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

pub(super) fn corrupt(key: &[u8], what: &str) -> StoreError {
    StoreError::Corrupt { place: format!("key \"{}\"", key.escape_ascii()), what: what.to_owned() }
}
