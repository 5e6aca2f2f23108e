//! Records and bytes that are drawn at random.

use super::*;

fn name() -> impl Strategy<Value = String> {
    "\\PC{1,20}"
}

fn any_record() -> impl Strategy<Value = (u8, [String; 3], Value)> {
    let ms = || 0..253_402_300_800_000_u64;
    let restriction = (prop::option::of(1..253_402_300_800_000_u64), ms(), ".*", ".*").prop_map(
        |(expire, set_ms, actor, reason)| {
            let provenance = Provenance { actor: actor.into(), reason: reason.into() };
            Restriction {
                expire: expire.map_or(Expire::NEVER, Expire::at_ms),
                set_ms,
                provenance: Arc::new(provenance),
            }
        },
    );
    let room = (".*", ".*", prop::collection::vec(name(), 0..3), ms(), ms()).prop_map(
        |(name, description, admins, created_ms, updated_ms)| RoomProfile {
            name,
            description,
            owner: admins.first().cloned().unwrap_or_default(),
            admins,
            created_ms,
            updated_ms,
        },
    );
    let client = (
        prop::option::of(".*"),
        prop::option::of(any::<bool>()),
        prop::option::of(1..9_999_999_999_u64),
        any::<f64>(),
    )
        .prop_map(|(nickname, is_robot, last_login_ms, number)| ClientProfile {
            nickname,
            is_robot,
            last_login_ms,
            custom_json: serde_json::json!({ "n": number }).to_string(),
            ..ClientProfile::default()
        });
    (0..7_u8, "[a-z]{1,8}(#[a-z]{1,8})?", name(), name(), restriction, room, client, 0..u64::MAX)
        .prop_map(|(kind, app, a, b, restriction, room, client, place)| {
            let value = match kind {
                0 => Value::Room(room),
                1 => Value::Client(client),
                2 => Value::NotificationMute(restriction, place),
                _ => Value::Restriction(restriction),
            };
            (kind, [app, a, b], value)
        })
}

proptest! {
    #[test]
    fn a_record_survives_being_written_as_a_line((kind, [app, a, b], value) in any_record()) {
        let app = app.as_str();
        let room = a.as_str();
        let user = b.as_str();
        let key = match kind {
            0 => Key::Room { app, room },
            1 => Key::Client { app, user },
            2 => Key::NotificationMute { app, user, room },
            3 => Key::Ban { app, room },
            4 => Key::MemberMute { app, room, user },
            5 => Key::Allowed { app, room, user },
            _ => Key::UserMute { app, user },
        };
        let key = codec::encode_key(key);
        let text = Line::of(codec::decode_key(&key).unwrap(), value.clone()).unwrap().text();
        let line: Line = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(line.text(), text.clone());
        let (found_app, found_key, found_value) = line.record().map_err(|what| TestCaseError::fail(format!("{what}: {text}")))?;
        prop_assert_eq!(found_app, app);
        prop_assert_eq!(found_value, codec::encode_value(&key, &value));
        prop_assert_eq!(found_key, key);
    }

    #[test]
    fn no_bytes_make_an_import_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), line in "\\{\"kind\":\"[a-z_]{1,8}\",.{0,60}\\}") {
        let _ = import::read(&bytes[..], Folds::default());
        let _ = import::read(framed(&[&line.replace('\n', " ")]).as_bytes(), Folds::default());
    }
}
