//! `mute-service ctl`: a person's hands. It is a caller like any other, over gRPC: it knows the
//! messages of the API and nothing of what is behind them. `args` is what may be asked for, `hands`
//! does it, `follow` does the one thing that has no end; `records` says what is shown of each
//! message, and `output` how.

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

/// What `ctl` is given: how to reach the service, and what to do.
#[derive(Args)]
pub struct Ctl {
    #[command(flatten)]
    options: args::Options,
    #[command(subcommand)]
    command: args::Command,
}

/// Does what is asked for, and tells standard error where it went wrong. 0; 64 for usage; 1 for a
/// failure. A reader that has closed our output has seen enough, which is no failure.
#[must_use]
pub fn run(ctl: Ctl) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(work(ctl)) {
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

async fn work(Ctl { options, command }: Ctl) -> Result<(), Failure> {
    let out = Output::stdout(options.json, Clock::system());
    let app = options.app()?;
    let mutes = connection::connect(&options).await?;
    Commands { mutes, app, out }.run(command).await
}
