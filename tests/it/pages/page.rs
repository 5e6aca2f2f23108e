//! Reads the examples out of a page, and blanks out what differs from run to run.

use std::{fs, path::Path};

use serde_json::{Value, json};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub fn page(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// A block between two lines of three backticks.
pub struct Block<'a> {
    pub language: &'a str,
    pub text: &'a str,
}

pub fn blocks(page: &str) -> Vec<Block<'_>> {
    let fenced = page.split("\n```").skip(1).step_by(2);
    fenced
        .map(|block| block.split_once('\n').unwrap())
        .map(|(language, text)| Block { language, text })
        .collect()
}

/// The texts of the blocks in this language.
pub fn texts<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let blocks = blocks(page).into_iter();
    blocks.filter(|block| block.language == language).map(|block| block.text).collect()
}

/// The commands of a block in sh, each in one line.
pub fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", "");
    let lines = joined.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// Whether an answer has what is shown of it, times and numbers aside.
pub fn has(answer: &Value, shown: &Value) -> bool {
    match (answer, shown) {
        (Value::Object(answer), Value::Object(shown)) => shown
            .iter()
            .all(|(name, shown)| answer.get(name).is_some_and(|answer| has(answer, shown))),
        _ => masked(answer) == masked(shown),
    }
}

/// Where the links of a page lead, those to other sites left out.
pub fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target).filter(|target| !target.starts_with("http"))
}

/// What a link to a heading of a page ends with, as GitHub makes it.
pub fn anchors(path: &Path) -> Vec<String> {
    let page = fs::read_to_string(path).unwrap();
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|at| at.is_alphanumeric() || "_- ".contains(*at));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// A block in console.
#[derive(Debug, Default)]
pub struct Session {
    /// What comes before each command: the lines that export variables.
    pub exports: String,
    pub steps: Vec<Step>,
}

#[derive(Debug)]
pub struct Step {
    pub command: String,
    /// What it prints.
    pub out: String,
}

pub fn session(block: &str) -> Session {
    let mut session = Session::default();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(export) if export.starts_with("export ") => {
                session.exports += &format!("{export}\n")
            }
            Some(command) => {
                session.steps.push(Step { command: command.to_owned(), out: String::new() })
            }
            None => session.steps.last_mut().unwrap().out += &format!("{line}\n"),
        }
    }
    session
}

/// A text's words, with a blank for times, and without how long is left (`(in 2h)`).
pub fn words(text: &str) -> Vec<String> {
    let mut parts = text.split("(in ");
    let mut lasting = parts.next().unwrap().to_owned();
    for part in parts {
        lasting += part.split_once(')').unwrap().1;
    }
    lasting
        .split_whitespace()
        .map(|word| if is_time(word) { "TIME" } else { word }.to_owned())
        .collect()
}

/// An answer in JSON, with a blank for times and numbers.
pub fn masked(answer: &Value) -> Value {
    match answer {
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (name.clone(), masked(field))).collect()
        }
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Number(_) => json!("NUMBER"),
        Value::String(text) if text.parse::<u64>().is_ok() => json!("NUMBER"),
        Value::String(text) if is_time(text) => json!("TIME"),
        other => other.clone(),
    }
}

fn is_time(word: &str) -> bool {
    humantime::parse_rfc3339(word).is_ok()
}
