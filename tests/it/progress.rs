//! Progress of long commands: shown on the last line of a terminal, and only there.

use std::process::Stdio;

use crate::{
    process::{Process, mute, program, run, text},
    terminal::{OnTerminal, Stream},
};

/// What a program shows whose standard error is a terminal.
fn shown(arguments: &[&str]) -> String {
    let mut program = program();
    program.args(arguments).stdout(Stdio::null());
    let (shown, code) = OnTerminal::spawn(program, 80, &[Stream::Err]).ended();
    assert_eq!(code, Some(0), "{shown}");
    shown
}

#[tokio::test]
async fn long_commands_show_progress_on_a_terminal_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let process = Process::start(directory.path());
    let users = |from: usize| (from..from + 100).map(|number| format!("u{number}")).collect();
    for from in [0, 100, 200] {
        mute(&mut process.mutes().await, "room", users(from)).await.unwrap();
    }
    drop(process);
    let [data, backup, export] = ["data", "backup", "export"].map(path);
    let cases = |to: &str| -> Vec<(Vec<String>, &[&str])> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        vec![
            (
                words(&["backup", "--data-dir", &data, "--output", &backup]),
                &["written", "checking", "100 % of "][..],
            ),
            (
                words(&["restore", "--data-dir", &path(&format!("restored{to}")), &backup]),
                &["checking", "restoring", "100 % of "],
            ),
            (words(&["export", "--data-dir", &data, "--output", &export]), &["written"]),
            (
                words(&["import", "--data-dir", &path(&format!("imported{to}")), &export]),
                &["checking", "importing", "100 % of 3"],
            ),
            (words(&["verify", "--data-dir", &data]), &["records read"]),
            (words(&["verify", "--backup", &backup]), &["checking", "100 % of "]),
        ]
    };
    for (arguments, words) in cases("") {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let shown = shown(&arguments);
        for word in words {
            assert!(shown.contains(word), "{arguments:?}: {word}: {shown:?}");
        }
        let rest = shown.rsplit("\u{1b}[2K").next().unwrap();
        assert!(
            !words.iter().any(|word| rest.contains(word)),
            "{arguments:?}: the progress is still there: {shown:?}"
        );
    }
    for (arguments, words) in cases("2") {
        let done = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let stderr = text(&done.stderr);
        assert!(
            done.status.success() && !stderr.contains(['\r', '\u{1b}']),
            "{arguments:?}: {stderr:?}"
        );
        assert!(!words.iter().any(|word| stderr.contains(word)), "{arguments:?}: {stderr:?}");
    }
}
