//! The stored form of every record. `tests/golden/records/v1.json` pins version 1, which must stay
//! readable forever. A change of the form is a new version with its own golden file. `MUTE_BLESS=1`
//! writes the file.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use mute_service::{
    model::{
        Address, ClientProfile, Event, EventKind, Expire, IdempotencyRecord, Key, Provenance,
        Restriction, RoomProfile, Value,
    },
    store::{EncodedBatch, StoreError, codec},
};
use proptest::prelude::*;

const APP: &str = "easemob-demo#testapp";

fn restriction(expire: Expire) -> Restriction {
    let provenance = Provenance { actor: "service:chat".into(), reason: "spam, ünïcode".into() };
    Restriction { expire, set_ms: 1_642_060_750_410, provenance: Arc::new(provenance) }
}

pub fn records() -> Vec<(&'static str, Key<'static>, Value)> {
    let app = APP;
    let room = "1265710621211";
    let user = "user1";
    let client = ClientProfile {
        nickname: Some("AAA".into()),
        avatar_url: Some("http://example.com/a".into()),
        description: Some(String::new()),
        email: Some("a@example.com".into()),
        is_robot: Some(false),
        address: Some(Address { address: "::1".into(), family: "IPv6".into(), port: 50_392 }),
        user_agent: Some("curl".into()),
        last_login_ms: Some(1_583_726_632_592),
        custom_json: r#"{"level":3}"#.into(),
        created_ms: 1,
        updated_ms: 2,
    };
    let profile = RoomProfile {
        name: "name".into(),
        description: "description".into(),
        owner: "owner1".into(),
        admins: vec!["admin1".into(), "admin2".into()],
        created_ms: 3,
        updated_ms: 4,
    };
    let until = Expire::at_ms(1_642_148_173_726);
    let id = "123e4567-e89b-12d3-a456-426614174000";
    let answered = IdempotencyRecord {
        fingerprint: *b"0123456789abcdef",
        answer: (*b"any bytes\0").into(),
        expire: until,
    };
    vec![
        ("room", Key::Room { app, room }, Value::Room(profile)),
        ("ban", Key::Ban { app, room }, Value::Restriction(restriction(until))),
        (
            "member mute",
            Key::MemberMute { app, room, user },
            Value::Restriction(restriction(until)),
        ),
        (
            "member mute for good",
            Key::MemberMute { app, room, user: "user2" },
            Value::Restriction(restriction(Expire::NEVER)),
        ),
        (
            "allowed",
            Key::Allowed { app, room, user },
            Value::Restriction(restriction(Expire::NEVER)),
        ),
        ("client", Key::Client { app, user }, Value::Client(client)),
        ("empty client", Key::Client { app, user: "ü" }, Value::Client(ClientProfile::default())),
        (
            "notification mute",
            Key::NotificationMute { app, user, room },
            Value::NotificationMute(restriction(until), 7),
        ),
        ("user mute", Key::UserMute { app, user }, Value::Restriction(restriction(until))),
        ("request", Key::Request { app, id }, Value::Request(answered)),
        ("deleted room", Key::DeletedRoom { app, room: "gone" }, Value::Deleted(1_642_060_750_410)),
        (
            "deleted client",
            Key::DeletedClient { app, user: "gone" },
            Value::Deleted(1_642_060_750_410),
        ),
    ]
}

fn event() -> Event {
    Event {
        room: "1265710621211".into(),
        users: vec!["user1".into(), "user2".into()],
        reason: "spam".into(),
        expire: Expire::at_ms(1_642_148_173_726),
        ..Event::new(EventKind::Muted, APP, "app", 1_642_060_750_410)
    }
}

fn events() -> [(&'static str, Event); 5] {
    let ended = |kind, users| Event {
        kind,
        users,
        actor: "service".into(),
        reason: String::new(),
        expire: Expire::NEVER,
        ..event()
    };
    let request_id = "123e4567-e89b-12d3-a456-426614174000".into();
    [
        ("event", event()),
        ("event with a request id", Event { request_id, ..event() }),
        ("event ban expired", ended(EventKind::BanExpired, Vec::new())),
        (
            "event notifications expired",
            ended(EventKind::NotificationsExpired, vec!["user1".into()]),
        ),
        (
            "event user mute expired",
            Event {
                room: String::new(),
                ..ended(EventKind::UserMuteExpired, vec!["user1".into()])
            },
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn version_1_matches_its_golden_file_both_ways() {
    let mut written: BTreeMap<_, _> = records()
        .iter()
        .map(|(name, key, value)| {
            let key = codec::encode_key(*key);
            ((*name).to_owned(), [hex(&key), hex(&codec::encode_value(&key, value))])
        })
        .collect();
    for (name, event) in events() {
        written.insert(name.to_owned(), [String::new(), hex(&EncodedBatch::of(&event).event)]);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/records/v1.json");
    if std::env::var_os("MUTE_BLESS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&written).unwrap() + "\n").unwrap();
    }
    let golden: BTreeMap<String, [String; 2]> =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(written, golden);
    for (name, key, value) in records() {
        let [stored_key, stored_value] = golden[name].each_ref().map(|text| unhex(text));
        assert_eq!(codec::decode(&stored_key, &stored_value).unwrap(), (key, value), "{name}");
    }
    for (name, event) in events() {
        assert_eq!(codec::decode_event(&unhex(&golden[name][1])).unwrap(), event, "{name}");
    }
    // The expiry of a ban, in the form used before it had its own kind.
    let ended = Event { kind: EventKind::Expired, users: Vec::new(), ..event() };
    assert_eq!(
        codec::decode_event(&EncodedBatch::of(&ended).event).unwrap(),
        Event { kind: EventKind::BanExpired, ..ended }
    );
}

#[test]
fn a_changed_byte_or_a_moved_value_is_detected() {
    for (name, key, value) in records() {
        let key = codec::encode_key(key);
        let value = codec::encode_value(&key, &value);
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 0x10;
            assert!(
                matches!(codec::decode(&key, &changed), Err(StoreError::Corrupt { .. })),
                "{name} at {at}"
            );
            assert!(codec::decode(&key, &value[..at]).is_err(), "{name} cut at {at}");
        }
        let other = [key.as_slice(), b"x"].concat();
        assert!(codec::decode(&other, &value).is_err(), "{name} under another key");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_codec_panic(
        key in proptest::collection::vec(any::<u8>(), 0..64),
        value in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let _ = codec::decode(&key, &value);
        let _ = codec::decode_event(&value);
    }

    #[test]
    fn keys_decode_to_what_was_encoded(app in "[a-z]{1,8}(#[a-z]{1,8})?", room in "\\PC{1,20}", user in "\\PC{1,20}") {
        let app = app.as_str(); let room = room.as_str(); let user = user.as_str();
        for key in [
            Key::Room { app, room },
            Key::Ban { app, room },
            Key::MemberMute { app, room, user },
            Key::Allowed { app, room, user },
            Key::Client { app, user },
            Key::NotificationMute { app, user, room },
            Key::UserMute { app, user },
            Key::Request { app, id: user },
        ] {
            let bytes = codec::encode_key(key);
            prop_assert_eq!(codec::decode_key(&bytes).unwrap(), key);
        }
    }
}
