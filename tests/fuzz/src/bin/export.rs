//! Exports: lines and the records they become.
//!
//! An input is the text of an export, as in `tests/golden/transfer`. It is read as it is, and then
//! with a matching header and end, which no fuzzer finds.
//!
//! An accepted export means the same when it is written again, and becomes the same records in any
//! order of its lines. It is imported into an empty store once, and then there is nothing left to
//! import; and the view loads from it. A refusal names the line.
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
        merge::{MergePlan, Mode},
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
    let check = |incoming: &Incoming| RUNTIME.with(|runtime| runtime.block_on(check(incoming)));
    if let Some(incoming) = read(input) {
        check(&incoming);
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
    let forward = read(&framed(header, records.iter().copied()));
    let backward = read(&framed(header, records.iter().rev().copied()));
    assert_eq!(forward.as_ref().map(keys_and_values), backward.as_ref().map(keys_and_values));
    // Lines that are valid alone are valid together, unless two are of the same record.
    let mut keys = BTreeSet::new();
    let valid: Vec<_> = records
        .iter()
        .filter(|line| key(line).is_some_and(|key| keys.insert(key)))
        .copied()
        .collect();
    let incoming = read(&framed(HEADER.as_bytes(), valid.iter().copied())).expect("valid lines");
    assert_eq!(incoming.records.len(), valid.len());
    valid.into_iter().for_each(check_meaning);
    check(&incoming);
});

/// The key of a line that is valid alone.
fn key(line: &[u8]) -> Option<Vec<u8>> {
    let (_, key, _) = serde_json::from_slice::<Line>(line).ok()?.record().ok()?;
    Some(key)
}

/// `None` where the text is refused.
fn read(text: &[u8]) -> Option<Incoming> {
    match import::read(text, Default::default()).expect("bytes in memory") {
        Ok(incoming) => Some(incoming),
        Err(faults) => {
            let message = faults.to_string();
            assert!(message.lines().any(|line| line.starts_with("line ")), "{message}");
            None
        }
    }
}

/// These lines between a header and a matching end.
fn framed<'a>(header: &[u8], lines: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut count = 0;
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

/// Checks that an accepted line means the same when it is written again.
fn check_meaning(line: &[u8]) {
    let original: Value = serde_json::from_slice(line).unwrap();
    let rewritten: Value =
        serde_json::from_str(&serde_json::from_slice::<Line>(line).unwrap().text()).unwrap();
    for (name, rewritten) in rewritten.as_object().unwrap() {
        match (TIMES.contains(&name.as_str()), original[name].as_str()) {
            // A time can be written in many ways. One in the form of the export stays as it is,
            // except for zero milliseconds.
            (true, Some(time)) if !has_export_form(time) => {}
            (true, Some(time)) => assert_eq!(rewritten, &time.replace(".000Z", "Z")),
            _ => assert_eq!(rewritten, &original[name]),
        }
    }
    let is_left_out = |value: &Value| {
        value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty)
    };
    assert!(
        original
            .as_object()
            .unwrap()
            .iter()
            .all(|(name, value)| rewritten.get(name).is_some() || is_left_out(value))
    );
}

/// Whether a time has the form `2022-01-13T07:59:10.410Z` and is no leap second.
fn has_export_form(time: &str) -> bool {
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    form == "0000-00-00T00:00:00.000Z" && !time.contains(":60")
}

async fn check(incoming: &Incoming) {
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
    let plan = MergePlan::of(copy(), None, Mode::Merge).await.unwrap();
    assert_eq!(
        (plan.new, plan.changes()),
        (incoming.records.len() as u64, incoming.records.len() as u64)
    );
    plan.commit(&*store, START_MS, |_| {}).await.unwrap();
    let again =
        MergePlan::of(copy(), Some(store.snapshot().await.unwrap()), Mode::Replace).await.unwrap();
    assert_eq!((again.same, again.changes()), (incoming.records.len() as u64, 0));
    let mut exported = Vec::new();
    export::export(&*store, None, START_MS, &mut exported, "memory").await.unwrap();
    assert_eq!(
        keys_and_values(&read(&exported).expect("an export of the program")),
        keys_and_values(incoming)
    );
    View::load(&*store).await.unwrap();
}
