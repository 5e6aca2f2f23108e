//! The command line: the commands, and the exit codes: 0 for success, 64 for an error in usage or
//! configuration, 1 for any other failure.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};
use rustix::fs::Mode;

use crate::{app::Failure, ctl, telemetry};

mod completions;
mod credentials;
mod environment;
mod output;
mod progress;
mod reload;
mod resources;
mod serve;
mod source;
mod suggestions;
mod transfer;

use output::complain;

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
    after_help = "Without a command, `serve --dev` runs, with the flags that are given, unless they or MUTE_CONFIG name a configuration: the embedded store in ./data, loopback addresses only, and the apps, users and rooms of the vendors' examples.\n\
                  MUTE_LOG sets the log level, such as `debug` or `mute_service=debug,h2=warn`.\n\
                  Exit codes: 0 for success, 64 for an error in usage or configuration, 1 for any other failure; `ctl check` has its own."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service: gRPC, REST and admin, until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// Check a configuration and report all errors in it, without starting the service
    CheckConfig(serve::Serve),
    /// Mint a token for a configured app or for one of its users
    Token(credentials::Token),
    /// Print the hash of a key, for the configuration; without KEY, the key is read from standard
    /// input
    HashKey {
        /// A random key of at least 32 characters; other users of the machine can see arguments, so
        /// prefer standard input
        key: Option<String>,
    },
    /// Export the records of a stopped service as JSON lines
    ///
    /// The export has a header line, one line per record, and an end line with the number of
    /// records and their SHA-256, by which a truncated file is detected. Times are RFC 3339. A mute
    /// or ban without "expire" is for good. An export can be imported into either storage engine.
    Export(transfer::Export),
    /// Import an export into the store of a stopped service
    ///
    /// The whole file is checked first; if it has errors, they are reported with their line numbers
    /// and nothing is changed. Records that the store has already are not written again, so repeat
    /// an import that was interrupted. An import takes some 200 bytes of memory per record. A file
    /// from another source needs a header line and an end line, whose "sha256" is that of the lines
    /// between them: `sed '1d;$d' FILE | sha256sum`. For apps with case-insensitive user ids, name
    /// the service's configuration with --config, and the ids are converted to lower case; without
    /// it, the user ids of an app org#app must be in lower case.
    Import(transfer::Import),
    /// Read a whole store or backup, verify all checksums, and print the number of records of each
    /// kind and a hash
    ///
    /// The hash covers the records only: stores and backups with the same records have the same
    /// hash, whatever their engines and revisions.
    Verify(transfer::Verify),
    /// Back up all records at one revision to a file, from a running service or a stopped one
    ///
    /// A running service keeps serving meanwhile. The file is read back and verified before it
    /// replaces an older one.
    Backup(transfer::Backup),
    /// Restore a backup into an empty directory, as an embedded store
    ///
    /// The backup is verified before anything is written, and the directory becomes a store only
    /// when all of it is on disk. Records keep their revisions. New revisions start above all that
    /// the lost store can have issued, so that watchers of the lost store must list and watch
    /// again. A backup does not contain the history of events.
    Restore(transfer::Restore),
    /// Call a running service over gRPC: register rooms and users, mute, ban, check, watch
    Ctl(ctl::Ctl),
    /// Print a completion script for a shell; save it where the shell looks for completions
    #[command(
        after_help = "Example: mute-service completions bash > ~/.local/share/bash-completion/completions/mute-service"
    )]
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
}

/// Runs the program with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Stores, backups and exports hold all records: only their owner may read them.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    match with_command(std::env::args_os().collect()).and_then(parse) {
        Ok(cli) => run(cli.command),
        Err(error) => {
            let error = suggestions::with_missing_show(suggestions::nearest_first(error));
            let printed = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    ended(output::written(printed))
                }
                // If standard error is closed, there is nowhere to report that.
                _ => ExitCode::from(USAGE),
            }
        }
    }
}

/// Flags without a command are those of `serve --dev`, as no argument is. Errors: they name a
/// configuration, which is of a service that must not get dev mode's public keys by mistake.
fn with_command(mut arguments: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let first = arguments.get(1).map_or("", |first| first.to_str().unwrap_or("-"));
    let is_own = ["-h", "--help", "-V", "--version"].contains(&first);
    if first.is_empty() || (first.starts_with('-') && !is_own) {
        let is_dev = arguments.iter().any(|argument| argument == "--dev");
        let has_config = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"--config");
        let is_named = std::env::var_os("MUTE_CONFIG").is_some_and(|name| !name.is_empty());
        if !is_dev && (is_named || arguments.iter().any(has_config)) {
            return Err(Cli::command().error(
                ErrorKind::MissingSubcommand,
                "a configuration needs a command: write `mute-service serve --config FILE`, with \
                 --dev to add the public keys of dev mode",
            ));
        }
        let default = ["serve", "--dev"].into_iter().take(if is_dev { 1 } else { 2 });
        arguments.splice(1..1, default.map(OsString::from));
    }
    Ok(arguments)
}

fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let command = environment::without_empty_variables(Cli::command());
    let parsed = command.try_get_matches_from(arguments.clone());
    parsed
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| environment::with_short_usage(error, Cli::command(), &arguments))
        .map_err(|error| environment::with_variable(error, &Cli::command(), &arguments))
}

fn run(command: Command) -> ExitCode {
    let warnings = environment::unknown(&Cli::command());
    // `serve` logs them.
    if !matches!(command, Command::Serve(_)) {
        warnings.iter().for_each(|warning| complain(warning));
    }
    let outcome = match command {
        Command::Serve(serve::Serve { source, settings }) => {
            serve::serve(&source, settings, &warnings)
        }
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
        Command::Completions { shell } => completions::print(shell, &mut Cli::command()),
    };
    let code = ended(outcome);
    telemetry::finish_logs();
    code
}

/// Reports a failure. Returns the exit code.
fn ended(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if telemetry::logs_are_json() {
                tracing::error!(error = %failure, "the service failed");
            } else {
                complain(&failure.to_string());
            }
            ExitCode::from(if matches!(failure, Failure::Config(_)) { USAGE } else { FAILURE })
        }
    }
}
