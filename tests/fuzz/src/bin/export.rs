//! Exports: lines, and the records they become.
//!
//! An input is the text of an export, as in `tests/golden/transfer`. It is read as it is, and then
//! with a header and an end that fit, which no fuzzer finds.
//!
//! What is accepted says the same when it is written again, and is the same records, whatever the
//! order of its lines; it is imported into an empty store once, and then there is nothing to
//! import; and the service starts over it. What is refused is refused with words.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{cell::LazyCell, collections::BTreeSet};

use libfuzzer_sys::fuzz_target;
use mute_service::{
    store::{Store as _, codec},
    transfer::{
        export,
        import::{self, Incoming},
        line::Line,
        merge::{Mode, Plan},
    },
    view::View,
};
use mute_service_fuzz::{
    memory::{Memory, Records},
    server::START_MS,
    sha256,
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

const HEADER: &str = r#"{"kind":"header","format":"mute-service export","version":1,"revision":1,"time":"2022-01-13T07:59:10Z","program":"p"}"#;

const TIMES: [&str; 5] = ["expire", "set", "created", "updated", "last_login"];

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        LazyCell::new(|| Builder::new_current_thread().enable_time().build().unwrap());
}

fuzz_target!(|input: &[u8]| {
    let hold = |incoming: &Incoming| RUNTIME.with(|runtime| runtime.block_on(hold(incoming)));
    if let Some(incoming) = read(input) {
        hold(&incoming);
    }
    let of_kind =
        |line: &[u8], kind: &str| line.starts_with(format!("{{\"kind\":\"{kind}\"").as_bytes());
    let lines: Vec<_> =
        input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let header =
        lines.iter().find(|line| of_kind(line, "header")).map_or(HEADER.as_bytes(), |line| *line);
    let records: Vec<_> = lines
        .iter()
        .filter(|line| !of_kind(line, "header") && !of_kind(line, "end"))
        .copied()
        .collect();
    let there = read(&framed(header, records.iter().copied()));
    let back = read(&framed(header, records.iter().rev().copied()));
    assert_eq!(there.as_ref().map(keys_and_values), back.as_ref().map(keys_and_values));
    // Lines that are good each by itself are good together, where none is of the record of another.
    let mut keys = BTreeSet::new();
    let good: Vec<_> = records
        .iter()
        .filter(|line| key(line).is_some_and(|key| keys.insert(key)))
        .copied()
        .collect();
    let incoming = read(&framed(HEADER.as_bytes(), good.iter().copied())).expect("good lines");
    assert_eq!(incoming.records.len(), good.len());
    good.into_iter().for_each(hold_meaning);
    hold(&incoming);
});

/// Of a line that is good by itself.
fn key(line: &[u8]) -> Option<Vec<u8>> {
    let (_, key, _) = serde_json::from_slice::<Line>(line).ok()?.record().ok()?;
    Some(key)
}

/// Nothing where it is refused.
fn read(text: &[u8]) -> Option<Incoming> {
    match import::read(text, Default::default()).expect("bytes in memory") {
        Ok(incoming) => Some(incoming),
        Err(faults) => {
            let told = faults.to_string();
            assert!(told.lines().any(|line| line.starts_with("line ")), "{told}");
            None
        }
    }
}

/// These lines, with a header before them and an end that fits behind them.
fn framed<'a>(header: &[u8], lines: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut records, mut count) = (Vec::new(), 0);
    for line in lines {
        records.extend([line, b"\n"].concat());
        count += 1;
    }
    let end =
        format!("{{\"kind\":\"end\",\"records\":{count},\"sha256\":\"{}\"}}\n", sha256(&records));
    [header, b"\n", &records, end.as_bytes()].concat()
}

fn keys_and_values(incoming: &Incoming) -> Vec<(&[u8], &[u8])> {
    incoming.records.iter().map(|(key, (_, value))| (key.as_slice(), value.as_slice())).collect()
}

/// A line that was accepted says the same when it is written again.
fn hold_meaning(line: &[u8]) {
    let said: Value = serde_json::from_slice(line).unwrap();
    let told: Value =
        serde_json::from_str(&serde_json::from_slice::<Line>(line).unwrap().text()).unwrap();
    for (name, told) in told.as_object().unwrap() {
        match (TIMES.contains(&name.as_str()), said[name].as_str()) {
            // A time may be written in many ways; one of its own ways is kept, but for thousandths
            // that are none.
            (true, Some(time)) if !is_ours(time) => {}
            (true, Some(time)) => assert_eq!(told, &time.replace(".000Z", "Z")),
            _ => assert_eq!(told, &said[name]),
        }
    }
    let is_left_out = |value: &Value| {
        value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty)
    };
    assert!(
        said.as_object()
            .unwrap()
            .iter()
            .all(|(name, value)| told.get(name).is_some() || is_left_out(value))
    );
}

/// `2022-01-13T07:59:10.410Z`, and no leap second.
fn is_ours(time: &str) -> bool {
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    form == "0000-00-00T00:00:00.000Z" && !time.contains(":60")
}

async fn hold(incoming: &Incoming) {
    let copy = || Incoming { app: incoming.app.clone(), records: incoming.records.clone() };
    for (key, (_, value)) in &incoming.records {
        let (decoded, model) = codec::decode(key, value).unwrap();
        let line = Line::of(decoded, model).unwrap();
        let (app, same_key, same_value) = line.record().unwrap();
        assert!(
            &same_key == key
                && &same_value == value
                && incoming.app.as_ref().is_none_or(|of| *of == app)
        );
    }
    let store = Memory::of(Records::default());
    let plan = Plan::of(copy(), None, Mode::Merge).await.unwrap();
    assert_eq!(
        (plan.new, plan.changes()),
        (incoming.records.len() as u64, incoming.records.len() as u64)
    );
    plan.commit(&*store, START_MS, |_| {}).await.unwrap();
    let again =
        Plan::of(copy(), Some(store.snapshot().await.unwrap()), Mode::Replace).await.unwrap();
    assert_eq!((again.same, again.changes()), (incoming.records.len() as u64, 0));
    let mut exported = Vec::new();
    export::export(&*store, None, START_MS, &mut exported, "memory").await.unwrap();
    assert_eq!(
        keys_and_values(&read(&exported).expect("an export of our own")),
        keys_and_values(incoming)
    );
    View::load(&*store).await.unwrap();
}
