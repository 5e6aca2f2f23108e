//! The house: dependencies point down only. A test reads the sources, because a rule that nothing holds does not hold.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Each source file with its text, comments and the tests at its end left out.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut pending, mut sources) = (vec![root.clone()], BTreeMap::new());
    while let Some(directory) = pending.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(&root).map(PathBuf::from).unwrap().to_str().unwrap().to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                sources.insert(name, lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    assert!(sources.len() > 30, "{:?}", sources.keys());
    sources
}

/// The files in which one of the words stands, other than those below `allowed`.
fn found(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let has = |code: &str| words.iter().any(|word| code.contains(word));
    let outside = |name: &str| !allowed.iter().any(|allowed| name.starts_with(allowed));
    sources().into_iter().filter(|(name, code)| outside(name) && has(code)).map(|(name, _)| name).collect()
}

#[test]
fn an_engine_is_known_to_its_own_file_and_named_where_it_is_chosen() {
    let sources = sources();
    let named = |word: &str| -> BTreeMap<String, Vec<String>> {
        let lines = |code: &str| -> Vec<_> {
            code.lines().filter(|line| line.to_lowercase().contains(word)).map(|line| line.trim().to_owned()).collect()
        };
        sources.iter().map(|(file, code)| (file.clone(), lines(code))).filter(|(_, lines)| !lines.is_empty()).collect()
    };
    let files = |named: &BTreeMap<String, Vec<String>>| named.keys().cloned().collect::<Vec<_>>();
    let sled = named("sled");
    assert_eq!(files(&sled), ["cli/transfer.rs", "config.rs", "store.rs", "store/embedded.rs", "store/sled.rs"]);
    assert_eq!(
        (sled["store.rs"].join(" "), sled["store/embedded.rs"].join(" ")),
        ("mod sled; Sled,".into(), "sled::Tree,".into())
    );
    // Above the store it is chosen by name, and its settings are read.
    let etcd = named("etcd");
    let above: Vec<_> = files(&etcd).into_iter().filter(|file| !file.starts_with("store")).collect();
    assert_eq!(above, ["cli/transfer.rs", "config.rs", "config/etcd.rs", "proto.rs"]);
    assert_eq!(found(&["proto::etcd", "etcdserverpb"], &["store/etcd.rs", "proto.rs"]), [""; 0]);
}

#[test]
fn messages_of_the_api_are_known_to_grpc_and_its_callers_only() {
    assert_eq!(found(&["proto::v1", " v1::{", " v1 as pb"], &["grpc", "gateway", "ctl", "server.rs"]), [""; 0]);
}

#[test]
fn stored_messages_are_known_to_the_store_only() {
    assert_eq!(found(&["store_v1"], &["store/", "proto.rs"]), [""; 0]);
}

#[test]
fn the_gateway_knows_no_model_view_store_or_service() {
    reaches_none_of("gateway", &["model", "view", "store", "service", "server"]);
}

#[test]
fn a_person_is_a_caller_like_any_other() {
    reaches_none_of("ctl", &["app", "auth", "config", "error", "gateway", "grpc", "model", "service", "store", "view", "watch"]);
}

/// The files of this name, and below it, know none of those.
fn reaches_none_of(floor: &str, others: &[&str]) {
    for (name, code) in sources().into_iter().filter(|(name, _)| name.starts_with(floor)) {
        for other in others {
            let ways = [format!("crate::{other}"), format!(" {other}::"), format!("\n    {other}::")];
            assert!(!ways.iter().any(|way| code.contains(way)), "{name} reaches {other}");
        }
    }
}

#[test]
fn the_way_in_and_out_goes_through_the_store_alone() {
    for (name, code) in sources().into_iter().filter(|(name, _)| name.starts_with("transfer")) {
        for beside in ["view", "service", "sweep", "auth", "app"] {
            assert!(!code.contains(&format!("crate::{beside}::")), "{name} reaches {beside}");
        }
    }
}

#[test]
fn nobody_reaches_up() {
    let floors: [&[&str]; 5] = [
        &["gateway", "ctl"],
        &["grpc"],
        &["service", "sweep", "transfer"],
        &["view", "watch"],
        &["store", "model", "error", "clock"],
    ];
    for (floor, names) in floors.iter().enumerate() {
        for (file, code) in sources() {
            if !names.iter().any(|name| file.starts_with(name)) {
                continue;
            }
            for upper in floors[..floor].iter().copied().flatten() {
                let reaches = code.contains(&format!("crate::{upper}")) || code.contains(&format!("\n    {upper}::"));
                assert!(!reaches, "{file} reaches up to {upper}");
            }
        }
    }
}
