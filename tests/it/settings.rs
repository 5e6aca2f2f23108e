//! What people read about settings is true: `--help` has each one's default, the README and the sample file have the same.

use std::collections::BTreeMap;

use clap::{Args as _, Command};
use mute_service::config::Settings;

const README: &str = include_str!("../../README.md");
const SAMPLE: &str = include_str!("../../deploy/mute-service.toml");

/// Each setting, with its default as `--help` has it.
fn settings() -> BTreeMap<String, Option<String>> {
    let command = Settings::augment_args(Command::new("serve"));
    let setting = |argument: &clap::Arg| {
        let name = argument.get_long()?.replace('-', "_");
        let help = argument.get_help()?.to_string();
        let default = help.split_once("[default: ").map(|(_, default)| default.trim_end_matches(']').to_owned());
        Some((name, default))
    };
    command.get_arguments().filter_map(setting).collect()
}

#[test]
fn the_readme_has_every_setting_with_its_default_and_none_that_is_not() {
    let mut known = settings();
    let table = README.split_once("| setting | default | why |").unwrap().1;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, defaults, why] = cells[..] else { panic!("{row}") };
        assert!(!why.is_empty(), "{row}");
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            let default = known.remove(name).unwrap_or_else(|| panic!("{name} is no setting"));
            let told = default.unwrap_or_else(|| "none".to_owned());
            assert!(defaults.contains(&told), "{name}: {told} in --help, {defaults} in the README");
        }
    }
    assert_eq!(known, BTreeMap::new(), "not in the README");
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
            let default = default.split(',').next().unwrap();
            assert!(line.contains(default), "{name}: {default} in --help, `{line}` in the sample file");
        }
    }
}
