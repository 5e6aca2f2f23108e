//! How the sources are written: the length of lines and of names, and words that are not used.

use std::{
    fs,
    path::{Path, PathBuf},
};

const MAX_LINE: usize = 100;
const MAX_TEST_NAME: usize = 60;

/// Files with text that is quoted as it is shown, in lines of its own.
const QUOTING: [&str; 2] = ["src/dev.rs", "tests/it/ctl.rs"];

/// Names that were replaced by those of the field (the words stand in `src/lib.rs`), and words
/// that plain English does without.
const REPLACED: &[&str] = &[
    "AGAIN",
    "Anybody",
    "Attempt",
    "Carried",
    "Chapter",
    "Counted",
    "DueMark",
    "Expectation",
    "Filler",
    "Followed",
    "Hands",
    "Keeper",
    "LETTING_GO",
    "LOOK",
    "LONGEST",
    "Logged",
    "LoggedEvent",
    "MarkLine",
    "Missed",
    "Overtaken",
    "PATIENCE",
    "Recent",
    "Seat",
    "Tally",
    "Told",
    "Unread",
    "WAY_BACK",
    "Watching",
    "WentBack",
    "anew",
    "both_doors",
    "caught_up",
    "cut_back",
    "enter_write",
    "forgetful",
    "hand_out",
    "held_up",
    "keep_new",
    "let_go",
    "patience",
    "silenced",
    "tell_time",
    "unseal",
    "whoever",
    "write_ahead",
];

/// Every file with one of these extensions below these places of the repository.
pub fn texts(places: &[&str], extensions: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
    let mut texts = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            let is_generated =
                |path: &PathBuf| path.ends_with("target") || path.ends_with("node_modules");
            pending.extend(entries.filter(|path| !is_generated(path)));
        } else if path.extension().is_some_and(|end| extensions.iter().any(|known| end == *known)) {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            texts.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(texts.len() > 3, "{texts:?}");
    texts
}

/// Where a line of any file is as `is_wrong` says.
fn wrong_lines(texts: &[(String, String)], is_wrong: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let lines = texts.iter().flat_map(|(name, text)| {
        text.lines().enumerate().map(move |(number, line)| (name, number + 1, line))
    });
    lines
        .filter(|(name, _, line)| is_wrong(name, line))
        .map(|(name, number, line)| format!("{name}:{number}: {}", line.trim()))
        .collect()
}

/// A word in lower case is also found at the beginning of a sentence.
fn is_replaced(word: &str) -> bool {
    REPLACED.contains(&word) || REPLACED.contains(&&*word.to_lowercase())
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|character: char| !(character.is_alphanumeric() || character == '_'))
}

/// A text in quotes and a URL may be longer, so that a search finds them whole.
#[test]
fn lines_have_at_most_100_characters() {
    let long = wrong_lines(
        &texts(&["src", "tests", "proto", "build.rs"], &["rs", "proto"]),
        |name, line| {
            let is_quoted = line.contains('"') || line.contains("https://");
            line.chars().count() > MAX_LINE && !is_quoted && !QUOTING.contains(&name)
        },
    );
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn names_of_tests_have_at_most_60_characters() {
    let long = wrong_lines(&texts(&["src", "tests"], &["rs"]), |_, line| {
        let name = line.trim_start().trim_start_matches("async ").strip_prefix("fn ");
        name.and_then(|name| name.split(['(', '<']).next())
            .is_some_and(|name| name.len() > MAX_TEST_NAME)
    });
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn replaced_words_are_used_nowhere() {
    let places = ["src", "tests", "proto", "deploy", "README.md"];
    let found =
        wrong_lines(&texts(&places, &["rs", "proto", "md", "toml", "yaml"]), |name, line| {
            name != "tests/it/style.rs" && words(line).any(is_replaced)
        });
    assert!(found.is_empty(), "{found:#?}");
}
