//! `mute-service ctl`: calls a running service from a terminal. It is an ordinary gRPC client: it
//! knows the API's messages and nothing of the service's internals. `args` parses the arguments,
//! `commands` runs a command in a `session`, `follow` runs `watch`; `records` selects the fields to
//! show of each message, and `output` prints them.

use std::{io, process::ExitCode};

use clap::Args;

use crate::clock::Clock;

mod args;
mod commands;
mod connection;
mod failure;
mod follow;
mod output;
mod records;
mod session;

use failure::Failure;
use output::Output;
use session::Session;

const USAGE: u8 = 64;

/// The arguments of `ctl`: how to reach the service, and the command.
#[derive(Args)]
pub struct Ctl {
    #[command(flatten)]
    options: args::Options,
    #[command(subcommand)]
    command: args::Command,
}

/// Runs the command and prints its error to standard error. The exit code is 0 for success, 64 for
/// an error in usage, 1 for any other failure; `check` has 1 for a user who may not speak, and 2
/// for a failure. It is a success if the reader closes the output.
#[must_use]
pub fn run(ctl: Ctl) -> ExitCode {
    let failure_code = ctl.command.failure_code();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(execute(ctl)) {
            Ok(code) => code,
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(failure) => {
                output::notice(&failure.to_string());
                ExitCode::from(if failure.is_usage() { USAGE } else { failure_code })
            }
        },
        Err(error) => {
            output::notice(&error.to_string());
            ExitCode::from(failure_code)
        }
    }
}

async fn execute(Ctl { options, command }: Ctl) -> Result<ExitCode, Failure> {
    let out = Output::stdout(options.json, Clock::system());
    let app = options.app()?;
    let outcome = match connection::connect(&options).await {
        Ok(clients) => Session { clients, app, out }.run(command).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Err(failure) if failure.is_foreign() => Err(connection::explain(&options, failure).await),
        outcome => outcome,
    }
}
