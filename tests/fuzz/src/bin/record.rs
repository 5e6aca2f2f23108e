//! The record codec: keys, values, events.
//!
//! The first byte of an input selects a golden record, to whose message the rest is appended:
//! protobuf merges the two. If it selects none, the rest is a key, then the byte 0xff, which no key
//! contains, and a message. No fuzzer finds a checksum, so the target prepends it.
//!
//! A decoded value is encoded into something that decodes to the same, and a key into the same
//! bytes. Under another key, or with a changed byte, a value does not decode. A record has an
//! export line that reads back as the same record, unless it has a time that RFC 3339 cannot
//! express.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{cell::LazyCell, collections::BTreeMap};

use libfuzzer_sys::{Corpus, fuzz_target};
use mute_service::{
    model::{Key, Value},
    store::{EncodedBatch, Entry, codec},
    transfer::{line::Line, record::KnownRecord},
};
use mute_service_fuzz::frame;

const HEADER_BYTES: usize = 5;

thread_local! {
    static GOLDEN: LazyCell<Vec<(Vec<u8>, Vec<u8>)>> = LazyCell::new(golden);
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((first, rest)) = input.split_first() else { return Corpus::Reject };
    GOLDEN.with(|golden| match golden.get(usize::from(*first)) {
        Some((key, message)) => check(key, &[message, rest].concat()),
        None => {
            let mut parts = rest.splitn(2, |byte| *byte == 0xff);
            let key = parts.next().unwrap_or_default();
            let message = parts.next().unwrap_or_default();
            check(key, message);
            // Without a correct checksum nothing decodes.
            let is_framed =
                message.get(HEADER_BYTES..).is_some_and(|body| frame(key, body) == message);
            assert!(
                is_framed
                    || (codec::decode(key, message).is_err()
                        && codec::decode_event(message).is_err())
            );
        }
    });
    Corpus::Keep
});

/// Keys, and messages without version and checksum.
fn golden() -> Vec<(Vec<u8>, Vec<u8>)> {
    let records: BTreeMap<String, [String; 2]> =
        serde_json::from_str(include_str!("../../../golden/records/v1.json")).unwrap();
    let unhex = |text: String| -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect()
    };
    let records = records.into_values().map(|record| record.map(unhex));
    records.map(|[key, value]| (key, value[HEADER_BYTES..].to_vec())).collect()
}

fn check(key: &[u8], message: &[u8]) {
    check_key(key);
    check_event(message);
    let framed = frame(key, message);
    let Ok((decoded, value)) = codec::decode(key, &framed) else { return };
    let again = codec::encode_value(key, &value);
    assert_eq!(codec::decode(key, &again).unwrap(), (decoded, value.clone()));
    let mut changed = again.clone();
    let at = message.len() % changed.len();
    changed[at] ^= 0x10;
    assert!(codec::decode(key, &changed).is_err() && codec::decode(key, &again[..at]).is_err());
    // Another key, of the same kind or invalid.
    assert!(codec::decode(&[key, b"x"].concat(), &again).is_err());
    check_line(key, again, &value);
}

fn check_key(bytes: &[u8]) {
    let Ok(key) = codec::decode_key(bytes) else { return };
    assert_eq!(codec::encode_key(key), bytes);
    assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 2);
}

fn check_event(message: &[u8]) {
    let Ok(event) = codec::decode_event(&frame(&[], message)) else { return };
    let again = EncodedBatch::of(&event);
    assert_eq!(
        (codec::decode_event(&again.event).unwrap(), again.at_ms),
        (event.clone(), event.at_ms)
    );
}

/// Whether RFC 3339 can express all times of the value: 9999 is the last year with four digits.
fn has_rfc3339_times(value: &Value) -> bool {
    const END_MS: u64 = 253_402_300_800_000;
    let times = match value {
        Value::Room(room) => vec![room.created_ms, room.updated_ms],
        Value::Client(client) => {
            vec![client.created_ms, client.updated_ms, client.last_login_ms.unwrap_or(0)]
        }
        Value::Restriction(restriction) | Value::NotificationMute(restriction, _) => {
            vec![restriction.set_ms, restriction.expire.ms().unwrap_or(0)]
        }
        Value::Request(_) | Value::Deleted(_) => Vec::new(),
    };
    times.iter().all(|ms| *ms < END_MS)
}

fn check_line(key: &[u8], value: Vec<u8>, decoded: &Value) {
    let entry = Entry { key: key.to_vec(), value, revision: 1 };
    let exported = KnownRecord::of(&entry).unwrap();
    use Key::{DeletedClient, DeletedRoom, Request};
    let is_internal = matches!(
        codec::decode_key(key),
        Ok(Request { .. } | DeletedRoom { .. } | DeletedClient { .. })
    );
    let Some(KnownRecord { line, value, app, .. }) = exported else { return assert!(is_internal) };
    assert!(!is_internal && value == entry.value);
    let text = line.text();
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
    if has_rfc3339_times(decoded) {
        let read: Line = serde_json::from_str(&text).unwrap();
        assert_eq!(read, line);
        // An id or a custom field may be one that no caller could have written.
        if let Ok(record) = read.record() {
            assert_eq!(record, (app, entry.key, entry.value));
        }
    }
}
