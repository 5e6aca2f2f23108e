//! `serve` runs the service; `check-config` checks what it would run with.

use std::{borrow::Cow, env, io, path::PathBuf, pin::pin};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{output::say, reload::Reloader, resources, source::Source};
use crate::{
    app::{Addresses, App, Failure},
    auth::{
        apps::{AppConfig, Apps},
        token::TokenKeys,
    },
    clock::Clock,
    config::Settings,
    counted::counted,
    dev,
    files::FileWatcher,
    server::tls::Tls,
    telemetry::{self, traces::Traces},
    visible::shown,
};

/// What a shell reports of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// Serves until a signal. The warnings are logged first.
pub(super) fn serve(
    source: &Source,
    settings: Settings,
    warnings: &[String],
) -> Result<(), Failure> {
    // Created before the file is read, so that a change in between is not missed.
    let files = FileWatcher::new(source.config.iter().cloned().collect());
    let config = source.load(settings.clone())?;
    resources::check()?;
    telemetry::init_logs(config.log_format).map_err(|error| Failure::Config(vec![error]))?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    // Each connection is an open file. If the limit cannot be raised, the present one stays.
    let open_files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    tracing::debug!(open_files, "limit of open files");
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::Serve(error.into()))?;
    let outcome = runtime.block_on(async {
        let mut stop = pin!(stop_signal().map_err(|error| Failure::Serve(error.into()))?);
        let hangups = signal(SignalKind::hangup()).map_err(|error| Failure::Serve(error.into()))?;
        let traces = config
            .otlp_endpoint
            .as_ref()
            .map(|endpoint| Traces::start(endpoint, config.trace_share))
            .transpose();
        let traces = traces.map_err(|error| Failure::Config(vec![error]))?;
        let app = tokio::select! {
            app = App::start(&config, Clock::system()) => app?,
            () = &mut stop => return Ok(()),
        };
        if config.dev {
            let (app_token, user_token) =
                app.dev_tokens().map_err(|error| Failure::Serve(error.into()))?;
            let Addresses { grpc, rest, admin } = app.addresses;
            let addresses = [grpc, rest, admin];
            let backup = dev::backup_service().name;
            let has_backup = config.services.iter().any(|service| service.name == backup);
            let welcome =
                dev::welcome(&own_command(), addresses, has_backup, &app_token, &user_token);
            // The service is of use without these words.
            let _ = say(&welcome);
        }
        let access = app.service.access.clone();
        let reloader = Reloader::new(source.config.clone(), settings, &config, &access);
        let outcome = tokio::select! {
            outcome = app.run(stop) => outcome,
            () = reloader.run(files, hangups) => Ok(()),
        };
        if let Some(traces) = traces {
            traces.end().await;
        }
        outcome
    });
    // A thread may still wait for the writer of a pipe.
    runtime.shutdown_background();
    outcome
}

/// How a shell calls this program: by its name if that is how it was found, or else by its path.
fn own_command() -> String {
    let given = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = given.to_string_lossy();
    if !name.is_empty() && !name.contains('/') {
        return name.into_owned();
    }
    let path = env::current_exe().unwrap_or_else(|_| given.clone());
    let path = path.to_string_lossy();
    shlex::try_quote(&path).map_or_else(|_| path.to_string(), Cow::into_owned)
}

/// Completes on SIGTERM or SIGINT. A later SIGINT ends the process at once: what was acknowledged
/// is on the disk.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            interrupt.recv().await;
            tracing::warn!("SIGINT while stopping: ending at once, without the running calls");
            telemetry::finish_logs();
            std::process::exit(INTERRUPTED);
        });
    })
}

pub(super) fn check_config(source: &Source, settings: Settings) -> Result<(), Failure> {
    let config = source.load(settings)?;
    telemetry::log_levels().map_err(|error| Failure::Config(vec![error]))?;
    config.tls.map(Tls::new).transpose().map_err(|error| Failure::Config(vec![error]))?;
    let apps = counted(config.apps.len() as u64, "app");
    let services = counted(config.services.len() as u64, "service");
    let issuers = counted(config.issuers.len() as u64, "issuer");
    say(&format!("The configuration is valid: {apps}, {services}, {issuers}.\n"))?;
    let parsed = Apps::new(&config.apps).map_err(Failure::Config)?;
    config.apps.iter().try_for_each(|app| {
        say(&rotation(app, parsed.get(&app.key).ok().and_then(|app| app.tokens.as_ref())))
    })?;
    let rotating = config.services.iter().filter(|service| service.token_hash.len() > 1);
    rotating.into_iter().try_for_each(|service| {
        say(&format!("service {}: two values of token_hash are valid\n", shown(&service.name)))
    })
}

/// The keys of an app that are being rotated, and the tokens that it refuses; a line each.
fn rotation(app: &AppConfig, tokens: Option<&TokenKeys>) -> String {
    let mut lines = Vec::new();
    lines.extend(
        app.hashes()
            .iter()
            .filter(|(_, hashes)| hashes.len() > 1)
            .map(|(field, _)| format!("two values of {field} are valid")),
    );
    if let Some([new, old]) = tokens.map(|tokens| tokens.signers().collect::<Vec<_>>()).as_deref() {
        lines.push(format!("token_secret {new} signs; tokens signed by {old} are valid too"));
    }
    lines.extend(
        app.tokens_not_before.iter().map(|time| format!("tokens issued before {time} are refused")),
    );
    lines.extend(
        (!app.revoked_tokens.is_empty())
            .then(|| format!("revoked: {}", counted(app.revoked_tokens.len() as u64, "token"))),
    );
    lines.iter().map(|line| format!("app {}: {line}\n", app.key)).collect()
}
