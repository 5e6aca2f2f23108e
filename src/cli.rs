//! The command line: what can be asked of the program, and its exit codes: 0, 64 for usage and
//! configuration, 1 for a failure.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use rustix::fs::Mode;

use crate::{app::Failure, ctl, telemetry};

mod credentials;
mod output;
mod progress;
mod serve;
mod source;
mod transfer;

use output::{complain, say};

const USAGE: u8 = 64;
const FAILURE: u8 = 1;
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (revision ",
    env!("MUTE_BUILD_REVISION"),
    ", built ",
    env!("MUTE_BUILD_DATE"),
    ")"
);

#[derive(Parser)]
#[command(
    name = "mute-service",
    version = VERSION,
    about,
    after_help = "Without a command it is `serve --dev`: the embedded store in ./data, loopback only, with the documents' own apps, users and rooms.\n\
                  MUTE_LOG sets the log level, such as `debug` or `mute_service=debug,h2=warn`.\n\
                  Exit codes: 0, 64 for usage and configuration, 1 for a failure."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve gRPC, REST and admin until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// Check a configuration, tell everything that is wrong with it, and start nothing
    CheckConfig(serve::Serve),
    /// Mint an app token, or a user token, of a configured app
    Token(credentials::Token),
    /// Print the hash of a key, to be put in the configuration; the key is read from standard input
    /// where it is not given
    HashKey {
        /// A random key of at least 32 characters; what is given here can be seen by others on the
        /// machine
        key: Option<String>,
    },
    /// Write the records of a stopped service as JSON lines, one record each
    ///
    /// A header, a line for each record, and an end with their number and SHA-256, so that a file
    /// that was cut is found out. Times are RFC 3339; without "expire" a mark is for good. It can
    /// be imported into any store.
    Export(transfer::Export),
    /// Put an export into the store of a stopped service
    ///
    /// All of the file is checked first, and where anything is wrong with it, it is told by its
    /// line and nothing is changed. Records that are there already are left alone, so an import
    /// that was interrupted is simply done again. Takes some 200 bytes of memory for each record. A
    /// file made elsewhere needs a header and an end, whose "sha256" is that of the lines between:
    /// `sed '1d;$d' FILE | sha256sum`. In an app that folds users' case, ids are folded where
    /// --config names its configuration; without it, an id of an app org#app has to be in lower
    /// case.
    Import(transfer::Import),
    /// Read everything, check every checksum, and print the number of records of each kind and
    /// their hash
    ///
    /// The hash is of the records alone: two stores, or a store and a backup, that have the same
    /// records have the same hash, whatever engine keeps them and whatever their revisions are.
    Verify(transfer::Verify),
    /// Write one file with all records of one revision, of a running service or a stopped one
    ///
    /// A running service goes on meanwhile. The file is read back and checked before it gets its
    /// name.
    Backup(transfer::Backup),
    /// Put a backup back, into an empty directory of an embedded store
    ///
    /// The backup is checked before anything is written, and the directory is a store only when all
    /// of it is on the disk. Records keep their revisions; new ones go on above all that the lost
    /// store can have given out, so that whoever followed its changes is told to begin anew. The
    /// history of events is not in a backup.
    Restore(transfer::Restore),
    /// Mute, ban, check and watch by hand, over gRPC
    Ctl(ctl::Ctl),
    /// Print what makes a shell complete the commands, to be put where it looks for it
    #[command(
        after_help = "Example: mute-service completions bash > ~/.local/share/bash-completion/completions/mute-service"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the program with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Whatever is written, a store, its backup, an export, may hold everything: it is for its owner
    // alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let arguments: Vec<_> = std::env::args_os().collect();
    let parsed = if arguments.len() > 1 {
        Cli::try_parse_from(arguments)
    } else {
        Cli::try_parse_from(["mute-service", "serve", "--dev"])
    };
    match parsed {
        Ok(cli) => run(cli.command),
        Err(error) => {
            // A closed pipe is nobody to tell of it.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            }
        }
    }
}

fn run(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Serve(serve::Serve { source, settings }) => serve::serve(&source, settings),
        Command::CheckConfig(serve::Serve { source, settings }) => {
            serve::check_config(&source, settings)
        }
        Command::Token(token) => credentials::mint(&token),
        Command::HashKey { key } => credentials::hash_key(key),
        Command::Export(export) => transfer::export(export),
        Command::Import(import) => transfer::import(import),
        Command::Verify(verify) => transfer::verify(verify),
        Command::Backup(backup) => transfer::backup(backup),
        Command::Restore(restore) => transfer::restore(restore),
        Command::Ctl(ctl) => return ctl::run(ctl),
        Command::Completions { shell } => {
            completions(shell);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if telemetry::logs_are_json() {
                tracing::error!(error = %failure, "the service has failed");
            } else {
                complain(&failure.to_string());
            }
            ExitCode::from(if matches!(failure, Failure::Config(_)) { USAGE } else { FAILURE })
        }
    }
}

fn completions(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mute-service", &mut script);
    say(&String::from_utf8_lossy(&script));
}
