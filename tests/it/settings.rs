//! What people read about settings is true: `--help`, the README and the sample file have the
//! default that is in force; and what comes before what.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use clap::{Args as _, Command, FromArgMatches as _};
use mute_service::config::{Config, Settings};

use crate::process::{program, text};

const README: &str = include_str!("../../README.md");
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

/// The default of one of a row's settings, whose cell has one for each of them, or one for all.
fn default_of(name: &str, names: &[&str], cell: &str) -> String {
    let of_all = match cell.split_once("; the prefix is ") {
        Some((_, prefix)) if name == "etcd_prefix" => prefix,
        Some((of_others, _)) => of_others,
        None => cell,
    };
    let each: Vec<_> = cell.split(", ").collect();
    let place = names.iter().position(|other| *other == name).unwrap();
    if names.len() > 1 && each.len() == names.len() {
        each[place].to_owned()
    } else {
        of_all.to_owned()
    }
}

#[test]
fn the_readme_has_every_setting_with_its_default_and_none_that_is_not() {
    let mut known = settings();
    let table = README.split_once("| setting | default | why |").unwrap().1;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, defaults, why] = cells[..] else { panic!("{row}") };
        assert!(!why.is_empty(), "{row}");
        let names_of: Vec<_> = names.split(", ").map(|name| name.trim_matches('`')).collect();
        for &name in &names_of {
            let default = known.remove(name).unwrap_or_else(|| panic!("{name} is no setting"));
            let told = default.unwrap_or_else(|| "none".to_owned());
            assert_eq!(
                default_of(name, &names_of, defaults),
                told,
                "{name} in the README, and in --help"
            );
        }
    }
    assert_eq!(known, BTreeMap::new(), "not in the README");
}

/// As the sample file has it: a text where it is nothing else.
fn value(raw: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {raw}"));
    parsed.map_or_else(|_| raw.into(), |table| table["value"].clone())
}

#[test]
fn the_sample_file_has_every_setting_with_its_default() {
    let lines: Vec<_> = SAMPLE.lines().map(|line| line.trim_start_matches("# ")).collect();
    for (name, default) in settings() {
        // How others are told where it listens is for a command line.
        if name == "addr_file" {
            continue;
        }
        let name = name.strip_prefix("etcd_").unwrap_or(&name).to_owned();
        let line = lines.iter().find(|line| line.starts_with(&format!("{name} = ")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in the sample file"));
        let is_commented_out = SAMPLE.contains(&format!("# {line}"));
        if let Some(default) = default.filter(|default| is_commented_out && default != "none") {
            let sample: toml::Table = toml::from_str(line).unwrap();
            assert_eq!(sample[&name], value(default.split(',').next().unwrap()), "{name}");
        }
    }
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
