//! `mute-service ctl`: calls a running service from a terminal. It is an ordinary gRPC client: it
//! knows the API's messages and nothing of the service's internals. `args` parses the arguments,
//! `commands` runs a command, `follow` runs `watch`; `records` selects the fields to show of each
//! message, and `output` prints them.

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

use commands::Commands;
use failure::Failure;
use output::Output;

/// The arguments of `ctl`: how to reach the service, and the command.
#[derive(Args)]
pub struct Ctl {
    #[command(flatten)]
    options: args::Options,
    #[command(subcommand)]
    command: args::Command,
}

/// Runs the command and prints its error to standard error. The exit code is 0 for success, 64 for
/// an error in usage, 1 for any other failure. It is a success if the reader closes the output.
#[must_use]
pub fn run(ctl: Ctl) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(execute(ctl)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(failure) => {
                output::notice(&failure.to_string());
                failure.exit_code()
            }
        },
        Err(error) => {
            output::notice(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn execute(Ctl { options, command }: Ctl) -> Result<(), Failure> {
    let out = Output::stdout(options.json, Clock::system());
    let app = options.app()?;
    let mutes = connection::connect(&options).await?;
    Commands { mutes, app, out }.run(command).await
}
