//! Logs, traces, and the metrics that are counted. `server/metrics.rs` adds the gauges that are
//! read for each scrape.

use std::sync::OnceLock;

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::visible::EscapedLines;

mod log_writer;
pub mod metrics;
pub mod traces;

use log_writer::QueuedLines;
pub use log_writer::{finish_logs, lost_log_lines, queue_line};

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Whether [`init_logs`] chose JSON, so that standard error must contain only JSON objects.
#[must_use]
pub fn logs_are_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Starts logging to standard error; [`finish_logs`] waits for the last lines. `MUTE_LOG` sets the
/// level (such as `debug`, or `mute_service=debug,h2=warn`); the default is `info` for the service
/// and `warn` for its libraries. Errors: `MUTE_LOG` cannot be parsed, or there is no thread for the
/// log.
pub fn init_logs(format: LogFormat) -> Result<(), String> {
    let are_json = format == LogFormat::Json;
    let are_colored = !are_json && AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    let levels = log_levels()?;
    let queue = QueuedLines::start(std::io::stderr())
        .map_err(|error| format!("no thread can be started for the log: {error}"))?;
    let lines = move || EscapedLines { writer: queue.writer(), are_json, are_colored };
    // It would report a failed write by `eprintln!`, which panics where standard error fails.
    let logs = tracing_subscriber::fmt::layer().with_writer(lines).log_internal_errors(false);
    let subscriber = tracing_subscriber::registry().with(levels);
    // A second call, in tests, has no effect.
    let _ = FORMAT.set(format);
    let _ = match format {
        LogFormat::Text => subscriber.with(logs.with_ansi(are_colored)).try_init(),
        LogFormat::Json => subscriber.with(logs.json().flatten_event(true)).try_init(),
    };
    Ok(())
}

/// The levels by target, from `MUTE_LOG`. They are those of `EnvFilter`, without its filters of
/// spans, for which it needs two regex engines. Errors: it cannot be parsed.
pub fn log_levels() -> Result<Targets, String> {
    let levels = std::env::var_os("MUTE_LOG").filter(|levels| !levels.is_empty());
    let Some(levels) = levels else {
        return Ok(Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target("mute_service", LevelFilter::INFO));
    };
    let levels = levels.to_string_lossy();
    let parts: Vec<_> = levels.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    // `Targets` would take a misspelt level for the name of a target, and nothing for a level.
    let is_level = |part: &str| part.parse::<LevelFilter>().is_ok();
    let are_parts =
        !parts.is_empty() && parts.iter().all(|part| part.contains('=') || is_level(part));
    let parsed = parts.join(",").parse().ok().filter(|_| are_parts);
    parsed.ok_or_else(|| {
        format!(
            "MUTE_LOG \"{levels}\" is no level of the log; write error, warn, info, debug, trace \
             or off, or one for each target, such as mute_service=debug,h2=warn"
        )
    })
}
