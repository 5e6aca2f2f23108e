//! The completion scripts, in a real bash and a real zsh: after each command they offer its sub
//! commands and its flags, which are those that its `-h` lists.

use std::{fs, path::Path, process::Command};

use crate::{
    process::{program, text},
    terminal::{OnTerminal, Stream},
    tools::has_program,
};

/// A line that is typed, and what has to be offered at its end.
struct Question {
    typed: String,
    expected: Vec<String>,
}

/// Asks for the sub commands and flags of each command.
fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    let mut paths = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let (commands, flags) = help(&path);
        let line = [vec!["mute-service".to_owned()], path.clone()].concat().join(" ");
        // `help` takes the names of the others.
        let deeper = commands.iter().filter(|name| *name != "help");
        paths.extend(deeper.map(|name| [path.clone(), vec![name.clone()]].concat()));
        if !commands.is_empty() {
            questions.push(Question { typed: format!("{line} "), expected: commands });
        }
        questions.push(Question { typed: format!("{line} --"), expected: flags });
    }
    assert!(questions.len() > 30, "{}", questions.len());
    questions
}

/// The sub commands and the flags that `-h` of a command lists.
fn help(path: &[String]) -> (Vec<String>, Vec<String>) {
    let output = program().args(path).arg("-h").output().unwrap();
    let help = text(&output.stdout);
    let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default().lines();
    let commands = listed
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    let flags = help.lines().filter_map(|line| {
        let flag = line.strip_prefix("      ").or(line.strip_prefix("  -h, "))?;
        let flag = flag.split(|character: char| !character.is_alphanumeric() && character != '-');
        flag.into_iter().next().filter(|flag| flag.starts_with("--")).map(str::to_owned)
    });
    (commands, flags.collect())
}

fn script(shell: &str, to: &Path) {
    let output = program().args(["completions", shell]).output().unwrap();
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::write(to, output.stdout).unwrap();
}

/// Writes the lines that are typed, for a shell in this directory.
fn ask(questions: &[Question], directory: &Path) {
    let lines: Vec<_> = questions.iter().map(|question| format!("{}\n", question.typed)).collect();
    fs::write(directory.join("questions"), lines.concat()).unwrap();
}

/// Reads the shell's answers: a line each, with what it offers after a bar.
fn check(questions: &[Question], answers: &str) {
    let mut wrong = Vec::new();
    for question in questions {
        let mark = format!("{}|", question.typed);
        let answer = answers.lines().find_map(|line| line.strip_prefix(&mark)).unwrap_or_default();
        let offered: Vec<_> = answer.split(' ').collect();
        let missing = question.expected.iter().filter(|name| !offered.contains(&name.as_str()));
        wrong.extend(missing.map(|name| format!("{:?} does not offer {name}", question.typed)));
    }
    assert!(wrong.is_empty(), "{} are missing:\n{}", wrong.len(), wrong.join("\n"));
}

const IN_BASH: &str = r#"
. /usr/share/bash-completion/bash_completion
_completion_loader mute-service
function=$(complete -p mute-service | sed 's/.*-F \([^ ]*\) .*/\1/')
while IFS= read -r question; do
  read -ra COMP_WORDS <<<"$question"
  [[ $question == *' ' ]] && COMP_WORDS+=('')
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  "$function" mute-service "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  printf '%s|%s\n' "$question" "${COMPREPLY[*]}"
done <questions
"#;

/// A bash that finds the script where `completions --help` says to save it.
fn bash(directory: &Path) -> Option<Command> {
    let is_there = Path::new("/usr/share/bash-completion/bash_completion").exists();
    if !has_program("bash", "bash") || !is_there {
        crate::harness::skipped("install bash-completion");
        return None;
    }
    script("bash", &directory.join(".local/share/bash-completion/completions/mute-service"));
    let mut bash = Command::new("bash");
    bash.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", directory).current_dir(directory);
    Some(bash)
}

#[test]
fn bash_completes_every_command_and_flag() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut bash) = bash(directory.path()) else { return };
    let questions = questions();
    ask(&questions, directory.path());
    let output = bash.args(["--norc", "-c", IN_BASH]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    check(&questions, &text(&output.stdout));
}

#[test]
fn a_tab_in_bash_completes_a_sub_command() {
    let directory = tempfile::tempdir().unwrap();
    let Some(bash) = bash(directory.path()) else { return };
    let rc = ". /usr/share/bash-completion/bash_completion\n\
              mute-service() { echo \"ran: $*\"; }\nPS1='ready> '\n";
    fs::write(directory.path().join("rc"), rc).unwrap();
    let mut session = Command::new("setsid");
    session.args(["--ctty", "--wait", "bash", "--noprofile", "--rcfile", "rc", "-i"]);
    session.envs(bash.get_envs().filter_map(|(name, value)| Some((name, value?))));
    session.current_dir(directory.path());
    let streams = [Stream::In, Stream::Out, Stream::Err];
    let mut session = OnTerminal::spawn(session, 100, &streams);
    session.read_until("ready> ");
    session.type_keys("mute-service ctl mute-n\tr u --fo\t1m\n");
    session.read_until("ran: ");
    assert_eq!(session.read_until("\r\n"), "ctl mute-notifications r u --for 1m\r\n");
    session.type_keys("exit\n");
    session.ended();
}

const IN_ZSH: &str = r#"
fpath=($ZDOTDIR $fpath)
autoload -Uz compinit && compinit -u -d $ZDOTDIR/dump
compadd() {
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
  local -a __offered
  builtin compadd -A __offered "$@"
  offered+=($__offered)
  builtin compadd "$@"
}
ask() {
  local question
  while IFS= read -r question; do
    BUFFER=$question CURSOR=$#question
    typeset -ga offered=()
    zle list-choices
    print -r -- "$question|${(j: :)offered}" >>$ZDOTDIR/answers
  done <$ZDOTDIR/questions
  exit
}
zle -N zle-line-init ask
"#;

#[test]
fn zsh_completes_every_command_and_flag() {
    if !has_program("zsh", "zsh") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    script("zsh", &directory.path().join("_mute-service"));
    fs::write(directory.path().join(".zshrc"), IN_ZSH).unwrap();
    let questions = questions();
    ask(&questions, directory.path());
    let mut zsh = Command::new("setsid");
    zsh.args(["--ctty", "--wait", "zsh", "-d", "-i"]);
    zsh.env_clear().env("PATH", "/usr/bin:/bin").env("ZDOTDIR", directory.path());
    let zsh = OnTerminal::spawn(zsh, 100, &[Stream::In, Stream::Out, Stream::Err]);
    let (shown, _) = zsh.ended();
    let answers = fs::read_to_string(directory.path().join("answers"));
    check(&questions, &answers.unwrap_or_else(|_| panic!("{shown}")));
}
