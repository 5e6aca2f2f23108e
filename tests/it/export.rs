//! Exports: JSON lines that a person can read. An import checks all lines before it writes any
//! record.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
};

use futures_util::StreamExt as _;
use mute_service::{
    auth::apps::AppConfig,
    dev,
    model::{ClientProfile, EventKind, Expire, Key, Provenance, Restriction, RoomProfile, Value},
    store::{self, Batch, Location, Operation, Retention, Store, codec},
    transfer::{
        self, Failure, PROGRAM, export,
        fold::Folds,
        import::{self, Incoming},
        line::Line,
        merge::{MergePlan, Mode},
    },
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::{
    etcd::Etcd,
    harness::START_MS,
    process::{program, run, text},
    records,
};

mod pipe;
mod properties;

const OTHER: &str = "Other";

async fn open(directory: &Path) -> Arc<dyn Store> {
    store::open(&Location::directory(directory), Retention { events: 1_000_000, age_ms: u64::MAX })
        .await
        .unwrap()
}

fn restriction(reason: &str) -> Value {
    let provenance = Provenance { actor: "app".into(), reason: reason.into() };
    Value::Restriction(Restriction {
        expire: Expire::NEVER,
        set_ms: START_MS,
        provenance: Arc::new(provenance),
    })
}

async fn put(store: &dyn Store, records: &[(Key<'_>, Value)]) {
    let event = mute_service::model::Event::new(EventKind::Muted, OTHER, "", 1);
    let mut batch = Batch::of(&event);
    records.iter().for_each(|(key, value)| batch.put(*key, value.clone()));
    store.commit(batch.encode()).await.unwrap();
}

/// A closed data directory with a record of every kind and form.
async fn every_kind(directory: &Path) {
    let store = open(directory).await;
    let records: Vec<_> =
        records::records().into_iter().map(|(_, key, value)| (key, value)).collect();
    put(&*store, &records).await;
    store.close().await.unwrap();
}

async fn export_text(store: &dyn Store, app: Option<&str>) -> String {
    let mut bytes = Vec::new();
    export::export(store, app, START_MS, &mut bytes, "a test").await.unwrap();
    String::from_utf8(bytes).unwrap()
}

fn read(text: &str) -> Incoming {
    import::read(text.as_bytes(), Folds::default())
        .unwrap()
        .unwrap_or_else(|faults| panic!("{faults}"))
}

async fn import(store: &dyn Store, text: &str, mode: Mode) -> [u64; 4] {
    let plan =
        MergePlan::of(read(text), Some(store.snapshot().await.unwrap()), mode).await.unwrap();
    let counts = [plan.new, plan.changed, plan.removed, plan.same];
    plan.commit(store, START_MS, |_| {}).await.unwrap();
    counts
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs the program with this input.
fn pipe(input: &[u8], arguments: &[&str]) -> Output {
    let mut child = program()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// An export of these lines, with a matching header and end.
pub fn framed(lines: &[&str]) -> String {
    let header = r#"{"kind":"header","format":"mute-service export","version":1,"revision":1,"time":"2022-01-13T07:59:10Z","program":"p"}"#;
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let sha256: String = Sha256::digest(&lines).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{header}\n{lines}{{\"kind\":\"end\",\"records\":{},\"sha256\":\"{sha256}\"}}\n",
        lines.lines().count()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_kind_is_written_and_read_as_version_1() {
    let directory = tempfile::tempdir().unwrap();
    let again = tempfile::tempdir().unwrap();
    every_kind(directory.path()).await;
    let written = export_text(&*open(directory.path()).await, None)
        .await
        .replace(PROGRAM, "mute-service 0.1.0");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transfer/v1.jsonl");
    if std::env::var_os("MUTE_BLESS").is_some() {
        fs::write(&golden, &written).unwrap();
    }
    let golden = fs::read_to_string(golden).unwrap();
    assert_eq!(written, golden);
    let store = open(again.path()).await;
    assert_eq!(import(&*store, &golden, Mode::Merge).await, [9, 0, 0, 0]);
    let mut snapshot = store.snapshot().await.unwrap();
    let page = snapshot.pages.next().await.unwrap().unwrap();
    // Idempotency records and tombstones are not exported.
    let mut expected: Vec<_> = records::records()
        .into_iter()
        .filter(|(_, key, _)| {
            !matches!(
                key,
                Key::Request { .. } | Key::DeletedRoom { .. } | Key::DeletedClient { .. }
            )
        })
        .map(|(_, key, value)| {
            let key = codec::encode_key(key);
            let value = codec::encode_value(&key, &value);
            (key, value)
        })
        .collect();
    expected.sort();
    assert_eq!(
        page.into_iter().map(|entry| (entry.key, entry.value)).collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_of_an_export_is_the_same_store_and_idempotent() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let again = directory.path().join("again");
    let file = directory.path().join("file");
    every_kind(&data).await;
    let exported = run(&["export", "--data-dir", path(&data)]);
    let lines = stdout(&exported);
    let verify = |data: &Path| stdout(&run(&["verify", "--data-dir", path(data)]));
    let tried = pipe(lines.as_bytes(), &["import", "--data-dir", path(&again), "--dry-run", "-"]);
    assert_eq!(stdout(&tried), "Would import: 9 new, 0 changed, 0 removed, 0 unchanged\n");
    assert!(!again.exists());
    let imported = pipe(lines.as_bytes(), &["import", "--data-dir", path(&again), "-"]);
    assert_eq!(stdout(&imported), "Imported: 9 new, 0 changed, 0 removed, 0 unchanged\n");
    let hash = |report: &str| report.lines().last().unwrap().to_owned();
    let once = verify(&again);
    assert_eq!(hash(&once), hash(&verify(&data)));
    stdout(&run(&["export", "--data-dir", path(&data), "--output", path(&file)]));
    let repeated = run(&["import", "--data-dir", path(&again), "--mode", "replace", path(&file)]);
    assert_eq!(stdout(&repeated), "Imported: 0 new, 0 changed, 0 removed, 9 unchanged\n");
    // The output includes the revision.
    assert_eq!(verify(&again), once);
    // The hash covers the exported lines, so anyone can verify it.
    let records: Vec<_> = lines.split_inclusive('\n').collect();
    let sha256: String = Sha256::digest(records[1..records.len() - 1].concat())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hash(&once), format!("sha256 {sha256}"));
    assert_eq!(run(&["export", "--data-dir", "/nowhere"]).status.code(), Some(1));
    assert_eq!(
        run(&["export", "--data-dir", path(&data), "--app", "a#b#c"]).status.code(),
        Some(64)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_with_faults_names_their_lines_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    every_kind(&data).await;
    let before = stdout(&run(&["verify", "--data-dir", path(&data)]));
    let good =
        r#"{"kind":"member_mute","app":"a","room":"r","user":"u","set":"2022-01-13T07:59:10Z"}"#;
    let with = |from: &str, to: &str| good.replace(from, to);
    let bad = [
        ("a bad app key", with(r#""app":"a""#, r#""app":"a#b#c""#), "an app key is"),
        ("a bad room id", with(r#""r""#, &format!("\"{}\"", "r".repeat(129))), "a room id is"),
        ("a bad user id", with(r#""u""#, r#""a\u0001""#), "a user id is"),
        ("a bad time", with("2022-01-13T07:59:10Z", "yesterday"), "is not an RFC 3339 time"),
        ("an empty time", with("2022-01-13T07:59:10Z", ""), "is not an RFC 3339 time"),
        ("a part of a millisecond", with("10Z", "10.0001Z"), "is not an RFC 3339 time"),
        ("before 1970", with("2022", "1969"), "is not an RFC 3339 time"),
        ("a long year", with("2022", "+20222"), "is not an RFC 3339 time"),
        ("an end of 0", with(r#","set""#, r#","expire":"1970-01-01T00:00:00Z","set""#), "cannot be stored as it is"),
        ("an unknown field", with(r#","set""#, r#","until":1,"set""#), "unknown field `until`"),
        ("an unknown kind", with("member_mute", "mute"), "unknown variant `mute`"),
        ("a field missing", with(r#","user":"u""#, ""), "a member mute must name app, room and user only"),
        ("a field too many", with("member_mute", "user_mute"), "a user mute must name app and user only"),
        ("no place", with("member_mute", "notification_mute"), "a notification mute must name app, user, room and place only"),
        ("the last place there is", with("member_mute", "notification_mute").replace(r#","set""#, r#","place":18446744073709551615,"set""#), "place must be less than"),
        ("not JSON", "{".into(), "EOF while parsing"),
        ("an empty line", String::new(), "EOF while parsing"),
        ("custom fields", r#"{"kind":"client","app":"a","user":"u","custom_json":"[]","created":"2022-01-13T07:59:10Z","updated":"2022-01-13T07:59:10Z"}"#.into(), "a JSON object as text"),
        ("an admin", r#"{"kind":"room","app":"a","room":"r","admins":[""],"created":"2022-01-13T07:59:10Z","updated":"2022-01-13T07:59:10Z"}"#.into(), "a user id is"),
        ("too large", with(r#","set""#, &format!(r#","reason":"{}","set""#, "r".repeat(40_000))), "the record is larger than"),
        ("twice", good.into(), "a duplicate of line 2"),
    ];
    for (what, line, expected) in &bad {
        let faults = import::read(framed(&[good, line]).as_bytes(), Folds::default())
            .unwrap()
            .err()
            .unwrap_or_else(|| panic!("{what}: accepted"));
        assert!(
            faults.to_string().starts_with("line 3: ") && faults.to_string().contains(expected),
            "{what}: {faults}"
        );
    }
    assert_eq!(
        import::read(framed(&[good]).as_bytes(), Folds::default()).unwrap().unwrap().records.len(),
        1
    );
    // All faults of a file are reported at once, up to a limit.
    let lines: Vec<_> = std::iter::once(good)
        .chain(bad.iter().map(|(_, line, _)| line.as_str()))
        .chain([good; 5])
        .collect();
    let file = directory.path().join("file");
    fs::write(&file, framed(&lines)).unwrap();
    let refused = run(&["import", "--data-dir", path(&data), path(&file)]);
    assert_eq!(refused.status.code(), Some(1));
    let error = text(&refused.stderr);
    let expected = (3..23).map(|line| format!("line {line}: ")).collect::<Vec<_>>();
    assert!(
        expected.iter().all(|line| error.contains(line))
            && error.contains("and 6 more")
            && error.contains(path(&file)),
        "{error}"
    );
    assert_eq!(stdout(&run(&["verify", "--data-dir", path(&data)])), before);
}

#[test]
fn a_truncated_or_changed_file_is_refused() {
    let line = |user: &str| {
        format!(r#"{{"kind":"user_mute","app":"a","user":"{user}","set":"2022-01-13T07:59:10Z"}}"#)
    };
    let good = framed(&[&line("u"), &line("v")]);
    let whole: Vec<_> = good.split_inclusive('\n').collect();
    let fault = |text: &str| {
        import::read(text.as_bytes(), Folds::default())
            .unwrap()
            .err()
            .map(|faults| faults.to_string())
            .unwrap_or_default()
    };
    assert_eq!(fault(&good), "");
    let cases = [
        (String::new(), "line 1: the file is empty"),
        (whole[..3].concat(), "line 3: the file is truncated: it has no \"end\" line"),
        (whole[..1].concat(), "line 1: the file is truncated"),
        (
            [whole[0], whole[1], whole[3]].concat(),
            "line 3: the file has 1 record, but this line says 2",
        ),
        (good.replace("\"v\"", "\"w\""), "line 4: the SHA-256 of the records is"),
        ([&whole[..], &whole[1..2]].concat().concat(), "line 5: a line after the \"end\" line"),
        (whole[1..].concat(), "line 1: the first line is not a \"header\" line"),
        (good.replace("\"version\":1", "\"version\":2"), "line 1: the format has version 2"),
        (good.replace("mute-service export", "another"), "line 1: the format is \"another\""),
        (
            [whole[0], whole[0], whole[1], whole[2], whole[3]].concat(),
            "line 2: a \"header\" line that is not the first line",
        ),
        (
            good.replace("\"revision\"", "\"app\":\"b\",\"revision\""),
            "line 2: its app is \"a\", but that of the header is \"b\"",
        ),
        ([whole[0], &"x".repeat(200_000)].concat(), "line 2: it is longer than"),
    ];
    for (text, expected) in cases {
        assert!(fault(&text).contains(expected), "{expected}: {}", fault(&text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merge_keeps_other_records_and_replace_removes_the_apps() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let key = |app, user| Key::UserMute { app, user };
    put(
        &*store,
        &[
            (key("a", "u1"), restriction("old")),
            (key("a", "u2"), restriction("")),
            (key(OTHER, "u1"), restriction("")),
        ],
    )
    .await;
    let all = export_text(&*store, None).await;
    let of_a = export_text(&*store, Some("a")).await;
    assert_eq!((all.lines().count(), of_a.lines().count()), (5, 4));
    // One record is changed, one deleted, one new; another app has a new one too.
    put(
        &*store,
        &[
            (key("a", "u1"), restriction("new")),
            (key("a", "u3"), restriction("")),
            (key(OTHER, "u3"), restriction("")),
        ],
    )
    .await;
    let mut delete = Batch::of(&mute_service::model::Event::new(EventKind::Unmuted, "a", "", 1));
    delete.delete(key("a", "u2"));
    store.commit(delete.encode()).await.unwrap();
    let changed = export_text(&*store, None).await;
    assert_eq!(import(&*store, &of_a, Mode::Merge).await, [1, 1, 0, 0]);
    let merged = export_text(&*store, None).await;
    for record in [
        r#""user":"u1","set":"2022-01-13T07:59:10.410Z","actor":"app","reason":"old""#,
        r#""user":"u2""#,
        r#""user":"u3""#,
    ] {
        assert!(merged.contains(record), "{record} in {merged}");
    }
    assert_eq!(import(&*store, &changed, Mode::Replace).await, [0, 1, 1, 3]);
    assert_eq!(import(&*store, &of_a, Mode::Replace).await, [1, 1, 1, 0]);
    assert_eq!(
        export_text(&*store, Some("a")).await.lines().skip(1).collect::<Vec<_>>(),
        of_a.lines().skip(1).collect::<Vec<_>>()
    );
    assert_eq!(export_text(&*store, Some(OTHER)).await.lines().count(), 4);
    assert_eq!(import(&*store, &all, Mode::Replace).await, [0, 0, 1, 3]);
    let records = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(records(&export_text(&*store, None).await), records(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_commits_100_records_of_an_app_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let line = |app: &str, user: usize| {
        format!(
            r#"{{"kind":"user_mute","app":"{app}","user":"{user}","set":"2022-01-13T07:59:10Z"}}"#
        )
    };
    let lines: Vec<_> =
        (0..250).map(|user| line("a", user)).chain((0..50).map(|user| line("b", user))).collect();
    let store = open(directory.path()).await;
    let file = framed(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let plan = MergePlan::of(read(&file), None, Mode::Merge).await.unwrap();
    let mut progress = Vec::new();
    let total = plan.changes();
    plan.commit(&*store, START_MS, |done| progress.push(done)).await.unwrap();
    assert_eq!((total, progress.len(), progress.last()), (300, 4, Some(&300)));
    let commits: Vec<_> = store.watch(0).await.unwrap().take(4).collect().await;
    let mut sizes = Vec::new();
    for commit in commits.into_iter().map(Result::unwrap) {
        let event = codec::decode_event(&commit.event).unwrap();
        assert_eq!(
            (event.kind, event.at_ms, commit.at_ms),
            (EventKind::Imported, START_MS, START_MS)
        );
        sizes.push((event.app, commit.operations.len()));
    }
    sizes.sort();
    assert_eq!(sizes, [("a".into(), 50), ("a".into(), 100), ("a".into(), 100), ("b".into(), 50)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_commits_at_most_half_a_megabyte_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let plan = MergePlan::of(read(&large_clients(120)), None, Mode::Merge).await.unwrap();
    let mut progress = Vec::new();
    plan.commit(&*store, START_MS, |done| progress.push(done)).await.unwrap();
    assert_eq!((progress.len(), progress.last()), (4, Some(&120)));
    let commits: Vec<_> = store.watch(0).await.unwrap().take(4).collect().await;
    for commit in commits.into_iter().map(Result::unwrap) {
        let bytes = commit.operations.iter().map(|operation| match operation {
            Operation::Put { key, value } => key.len() + value.len(),
            other => panic!("{other:?}"),
        });
        assert!(bytes.sum::<usize>() <= 512 << 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_records_are_imported_over_etcd() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let store = transfer::open(&etcd.location(), true).await.unwrap();
    assert_eq!(import(&*store, &large_clients(120), Mode::Merge).await, [120, 0, 0, 0]);
    assert_eq!(export_text(&*store, None).await.lines().count(), 122);
}

#[test]
fn user_ids_are_folded_where_the_app_folds_them() {
    let line = |app: &str, user: &str| {
        format!(
            r#"{{"kind":"member_mute","app":"{app}","room":"r","user":"{user}","set":"2022-01-13T07:59:10Z"}}"#
        )
    };
    let room = r#"{"kind":"room","app":"o#a","room":"r","owner":"Oo","admins":["Aa"],"created":"2022-01-13T07:59:10Z","updated":"2022-01-13T07:59:10Z"}"#;
    let fold = |key: &str, fold| AppConfig {
        key: key.into(),
        case_insensitive_users: fold,
        ..dev::apps()[0].clone()
    };
    let apps = [fold("o#a", None), fold("o#b", Some(false)), fold("c", Some(true))];
    let read = |lines: &[&str], folds| import::read(framed(lines).as_bytes(), folds).unwrap();
    let keys = |incoming: Incoming| incoming.records.into_keys().collect::<BTreeSet<_>>();
    let key = |app: &str, user: &str| codec::encode_key(Key::MemberMute { app, room: "r", user });
    let mixed = ["o#a", "o#b", "c", "d"].map(|app| line(app, "Aa"));
    let found = keys(read(&mixed.each_ref().map(String::as_str), Folds::of(&apps)).unwrap());
    assert_eq!(found, [key("o#a", "aa"), key("o#b", "Aa"), key("c", "aa"), key("d", "Aa")].into());
    let (_, profile) = read(&[room], Folds::of(&apps)).unwrap().records.pop_first().unwrap().1;
    assert!(
        profile.windows(2).any(|part| part == b"oo")
            && profile.windows(2).any(|part| part == b"aa")
    );
    let twice = read(&[&line("c", "Aa"), &line("c", "aA")], Folds::of(&apps)).err().unwrap();
    assert!(twice.to_string().contains("line 3: a duplicate of line 2"), "{twice}");
    // Without the configuration, an import does not guess whether to fold.
    for unknown in [line("o#a", "Aa"), room.to_owned()] {
        let refused = read(&[&unknown], Folds::default()).err().unwrap();
        assert!(
            refused.to_string().contains("line 2: the user id")
                && refused.to_string().contains("--config"),
            "{refused}"
        );
    }
}

/// An export of this many clients of 16 KB each.
fn large_clients(count: usize) -> String {
    let custom = serde_json::json!({ "text": "x".repeat(16_000) }).to_string();
    let time = "2022-01-13T07:59:10Z";
    let line = |user| {
        let id = format!("u{user}");
        serde_json::json!({"kind": "client", "app": "a", "user": id, "custom_json": custom, "created": time, "updated": time})
            .to_string()
    };
    let lines: Vec<_> = (0..count).map(line).collect();
    framed(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_during_an_import_are_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let line = |reason: &str| {
        format!(
            r#"{{"kind":"user_mute","app":"a","user":"u","set":"2022-01-13T07:59:10Z","reason":"{reason}"}}"#
        )
    };
    let plan = MergePlan::of(
        read(&framed(&[&line("file")])),
        Some(store.snapshot().await.unwrap()),
        Mode::Merge,
    )
    .await
    .unwrap();
    put(&*store, &[(Key::UserMute { app: "a", user: "u" }, restriction("other"))]).await;
    assert!(matches!(plan.commit(&*store, START_MS, |_| {}).await, Err(Failure::Conflict)));
    assert!(export_text(&*store, None).await.contains("other"));
    assert_eq!(import(&*store, &framed(&[&line("file")]), Mode::Merge).await, [0, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_of_a_running_service_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for command in ["export", "verify"] {
        let refused = run(&[command, "--data-dir", path(directory.path())]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            text(&refused.stderr).contains("in use by another mute-service"),
            "{}",
            text(&refused.stderr)
        );
    }
    let opened = transfer::open(&Location::directory(&directory.path().join("none")), false).await;
    assert!(matches!(opened.err(), Some(Failure::NoStore(_))));
    drop(store);
}
