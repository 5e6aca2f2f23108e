//! The record codec: keys, values, events.
//!
//! The first byte of an input names a golden record, whose message the rest is appended to:
//! protobuf merges the two. Or it stands for none, and the rest is a key of its own up to the byte
//! 0xff, which no key holds, and a message. Nothing finds a checksum by itself, so it is put before
//! the message here.
//!
//! What is decoded is encoded as something that is decoded the same, and a key as the same bytes.
//! Under another key, or with another byte, it is nothing. What goes in and out has a line that is
//! read back as the same record, where it holds no time that RFC 3339 has no text for.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{cell::LazyCell, collections::BTreeMap};

use libfuzzer_sys::{Corpus, fuzz_target};
use mute_service::{
    model::{Key, Value},
    store::{Batch, Entry, codec},
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
        Some((key, message)) => hold(key, &[message, rest].concat()),
        None => {
            let mut parts = rest.splitn(2, |byte| *byte == 0xff);
            let (key, message) =
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            hold(key, message);
            // Without a checksum of ours.
            let is_sealed =
                message.get(HEADER_BYTES..).is_some_and(|body| frame(key, body) == message);
            assert!(
                is_sealed
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

fn hold(key: &[u8], message: &[u8]) {
    hold_key(key);
    hold_event(message);
    let sealed = frame(key, message);
    let Ok((decoded, value)) = codec::decode(key, &sealed) else { return };
    let again = codec::encode_value(key, &value);
    assert_eq!(codec::decode(key, &again).unwrap(), (decoded, value.clone()));
    let mut torn = again.clone();
    let at = message.len() % torn.len();
    torn[at] ^= 0x10;
    assert!(codec::decode(key, &torn).is_err() && codec::decode(key, &again[..at]).is_err());
    // Another key, of the same kind or of none.
    assert!(codec::decode(&[key, b"x"].concat(), &again).is_err());
    hold_line(key, again, &value);
}

fn hold_key(bytes: &[u8]) {
    let Ok(key) = codec::decode_key(bytes) else { return };
    assert_eq!(codec::encode_key(key), bytes);
    assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 2);
}

fn hold_event(message: &[u8]) {
    let Ok(event) = codec::decode_event(&frame(&[], message)) else { return };
    let again = Batch::of(&event);
    assert_eq!(
        (codec::decode_event(&again.event).unwrap(), again.at_ms),
        (event.clone(), event.at_ms)
    );
}

/// The year 9999 is the last that has four digits.
fn has_text(value: &Value) -> bool {
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

fn hold_line(key: &[u8], value: Vec<u8>, decoded: &Value) {
    let entry = Entry { key: key.to_vec(), value, revision: 1 };
    let known = KnownRecord::of(&entry).unwrap();
    use Key::{DeletedClient, DeletedRoom, Request};
    let stays = matches!(
        codec::decode_key(key),
        Ok(Request { .. } | DeletedRoom { .. } | DeletedClient { .. })
    );
    let Some(KnownRecord { line, value, app, .. }) = known else { return assert!(stays) };
    assert!(!stays && value == entry.value);
    let text = line.text();
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
    if has_text(decoded) {
        let read: Line = serde_json::from_str(&text).unwrap();
        assert_eq!(read, line);
        // An id or a custom field may be one that no caller could have written.
        if let Ok(record) = read.record() {
            assert_eq!(record, (app, entry.key, entry.value));
        }
    }
}
