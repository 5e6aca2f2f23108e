//! What people read about settings is true: `--help` and the sample file have the default that is
//! in force; and what comes before what.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use clap::{Args as _, Command, FromArgMatches as _};
use mute_service::config::{Config, Settings};

use crate::process::{program, text};

const SAMPLE: &str = include_str!("../../deploy/mute-service.toml");

/// The variables of tests and benchmarks that a text has.
fn knobs(text: &str) -> BTreeSet<String> {
    let is_of_name = |at: char| at.is_ascii_uppercase() || at == '_';
    let words = text
        .split(|at| !is_of_name(at))
        .filter(|word| word.starts_with("MUTE_TEST_") || word.starts_with("MUTE_BENCH_"));
    words.chain(text.contains("MUTE_BLESS").then_some("MUTE_BLESS")).map(str::to_owned).collect()
}

#[test]
fn the_page_of_tests_has_every_knob_and_none_that_is_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut pending: Vec<PathBuf> =
        ["it", "bench", "skips"].map(|directory| root.join(directory)).into();
    let mut found = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with("settings.rs") {
            found.extend(knobs(&fs::read_to_string(path).unwrap()));
        }
    }
    // A test tells its own processes by it.
    found.remove("MUTE_TEST_NTH_PROCESS");
    assert_eq!(knobs(&fs::read_to_string(root.join("README.md")).unwrap()), found);
}

/// Each setting, with its default as `--help` has it.
fn settings() -> BTreeMap<String, Option<String>> {
    let command = Settings::augment_args(Command::new("serve"));
    let setting = |argument: &clap::Arg| {
        let name = argument.get_long()?.replace('-', "_");
        let help = argument.get_help()?.to_string();
        let default = help
            .split_once("[default: ")
            .map(|(_, default)| default.trim_end_matches(']').to_owned());
        Some((name, default))
    };
    command.get_arguments().filter_map(setting).collect()
}

/// As the sample file has it: a text where it is nothing else.
fn value(raw: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {raw}"));
    parsed.map_or_else(|_| raw.into(), |table| table["value"].clone())
}

/// Name and value of a line of the sample file, where it is a setting, commented out or not.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim_start_matches("# ").split_once(" = ")?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_name.then_some((name, value))
}

#[test]
fn the_sample_file_explains_every_setting_and_has_its_default() {
    let mut known = settings();
    // For tests: no file has it.
    known.remove("addr_file");
    // Dev mode needs no file.
    known.remove("dev_public_addresses");
    let mut table = "";
    for paragraph in SAMPLE.split("\n\n") {
        let is_explained = paragraph.starts_with("# ") && setting(paragraph).is_none();
        for line in paragraph.lines() {
            let text = line.trim_start_matches("# ");
            if text.starts_with('[') && text.ends_with(']') {
                table = text;
            }
            let (Some((name, sample)), "" | "[etcd]") = (setting(line), table) else { continue };
            let prefix = if table.is_empty() { "" } else { "etcd_" };
            let name = format!("{prefix}{name}");
            let default = known.remove(&name).unwrap_or_else(|| panic!("{name} is no setting"));
            assert!(is_explained, "{name} has no comment above it");
            let Some(default) = default.filter(|default| default != "none") else { continue };
            let default = default.split(',').next().unwrap();
            if line.starts_with("# ") {
                let sample = sample.split(" #").next().unwrap().trim();
                assert_eq!(value(sample), value(default), "{name}");
            } else {
                assert!(paragraph.contains(default), "{name}: the comment has no default");
            }
        }
    }
    assert_eq!(known, BTreeMap::new(), "not in the sample file");
}

/// The configuration of these flags and this file.
fn load(flags: &[(&str, &str)], file: Option<&Path>) -> String {
    let flags: Vec<_> =
        flags.iter().map(|(name, value)| format!("--{}={value}", name.replace('_', "-"))).collect();
    let command = Settings::augment_args(Command::new("serve").no_binary_name(true));
    let flags = Settings::from_arg_matches(&command.try_get_matches_from(flags).unwrap()).unwrap();
    format!("{:?}", Config::load(flags, file, false).unwrap())
}

#[test]
fn the_defaults_in_the_help_are_those_in_force() {
    for (name, default) in settings() {
        let default = default.filter(|default| {
            default != "none" && name != "data_dir" && !name.starts_with("etcd_")
        });
        if let Some(default) = default {
            assert_eq!(
                load(&[(&name, default.split(',').next().unwrap())], None),
                load(&[], None),
                "{name}"
            );
        }
    }
}

/// A setting of each type, with two values, of which the first is not the default.
const TYPES: [(&str, &str, &str); 8] = [
    ("max_users", "7", "8"),
    ("trace_share", "0.5", "0.25"),
    ("refuse_old_views", "true", "false"),
    ("rest_addr", "127.0.0.2:1", "127.0.0.3:1"),
    ("data_dir", "here", "there"),
    ("log_format", "json", "text"),
    ("otlp_endpoint", "http://here:1", "http://there:1"),
    ("trusted_proxies", "10.0.0.0/8", "192.168.0.0/16"),
];

/// A line of the file.
fn line(name: &str, value: &str) -> String {
    match name {
        "max_users" | "trace_share" | "refuse_old_views" => format!("{name} = {value}\n"),
        "trusted_proxies" => format!("{name} = [\"{value}\"]\n"),
        _ => format!("{name} = \"{value}\"\n"),
    }
}

#[test]
fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    for (name, one, other) in TYPES {
        fs::write(&path, line(name, one)).unwrap();
        let of_file = load(&[], Some(&path));
        assert!(
            of_file == load(&[(name, one)], None) && of_file != load(&[], None),
            "{name}: the file"
        );
        let of_both = load(&[(name, other)], Some(&path));
        assert!(of_both == load(&[(name, other)], None) && of_both != of_file, "{name}: the flag");
    }
}

#[test]
fn the_environment_comes_after_a_flag_and_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    // A good value, a bad one, and what is said of the bad one.
    let cases = [
        ("max_users", "60", "0", "max_users"),
        ("trace_share", "0.5", "2.0", "trace_share"),
        ("rest_addr", "127.0.0.1:0", "0.0.0.0:0", "loopback"),
        ("otlp_endpoint", "http://here:1", "here", "otlp_endpoint"),
        ("store", "sled", "etcd", "--etcd-endpoints"),
    ];
    for (name, good, bad, complaint) in cases {
        let refusal = |flag: Option<&str>, environment: &str, file: &str| {
            fs::write(&path, line(name, file)).unwrap();
            let mut command = program();
            command.args(["check-config", "--dev", "--config", path.to_str().unwrap()]);
            command.env(format!("MUTE_{}", name.to_uppercase()), environment);
            command.args(flag.map(|value| format!("--{}={value}", name.replace('_', "-"))));
            let output = command.output().unwrap();
            (output.status.code() != Some(0)).then(|| text(&output.stderr))
        };
        assert_eq!(refusal(Some(good), bad, bad), None, "{name}: the flag");
        assert_eq!(refusal(None, good, bad), None, "{name}: the environment");
        for told in [refusal(Some(bad), good, good), refusal(None, bad, good)] {
            assert!(told.is_some_and(|told| told.contains(complaint)), "{name}");
        }
    }
}
