//! Prints completion scripts.

use clap::Command;
use clap_complete::Shell;

use super::output::say;
use crate::app::Failure;

const NAME: &str = "mute-service";

pub(super) fn print(shell: Shell, command: &mut Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, NAME, &mut script);
    say(&with_one_name(&String::from_utf8_lossy(&script)))
}

/// clap_complete's script for bash takes the hyphen of the program's name for one within a
/// command's name in the labels of its states, but not where it enters a state. So no label below
/// the first word was ever reached. Other scripts have no such labels.
fn with_one_name(script: &str) -> String {
    let entered = NAME.replace('-', "__");
    let labelled = NAME.replace('-', "__subcmd__");
    script.replace(&labelled, &entered)
}
