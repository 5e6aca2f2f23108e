//! Logs, traces, and every metric that is counted, by name. What is read where it is,
//! `server/metrics.rs` adds.

use std::{io::IsTerminal as _, sync::OnceLock};

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::visible::Lines;

pub mod metrics;
pub mod traces;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Whether whoever reads standard error expects objects, after [`init_logs`].
#[must_use]
pub fn logs_are_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Logs to standard error, at the level of `MUTE_LOG` (such as `debug`, or
/// `mute_service=debug,h2=warn`), by default the service's own at `info` and its libraries' at
/// `warn`.
pub fn init_logs(format: LogFormat) {
    let (are_json, is_terminal) = (format == LogFormat::Json, std::io::stderr().is_terminal());
    let lines =
        move || Lines { to: std::io::stderr(), are_json, are_colored: is_terminal && !are_json };
    let filter = EnvFilter::try_from_env("MUTE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,mute_service=info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
    // A second call, in a test, changes nothing.
    let _ = FORMAT.set(format);
    let _ = match format {
        LogFormat::Text => logs.with_ansi(is_terminal).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
}
