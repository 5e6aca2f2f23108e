//! `serve` and `check-config`.

use std::{io, pin::pin};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{output::say, source::Source};
use crate::{
    app::{App, Failure},
    auth::{
        apps::{AppConfig, Apps},
        credentials::Access,
        token::TokenKeys,
    },
    clock::Clock,
    config::{Config, Settings},
    dev,
    files::FileWatcher,
    server::tls::Tls,
    telemetry::{self, traces::Traces},
    visible::shown,
};

#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) settings: Settings,
}

pub(super) fn serve(source: &Source, settings: Settings) -> Result<(), Failure> {
    // From before it is read, so that what changes meanwhile is read again.
    let files = FileWatcher::new(source.config.iter().cloned().collect());
    let config = source.load(settings.clone())?;
    telemetry::init_logs(config.log_format);
    // Each connection is an open file. Where the system gives no more, there is what there was.
    let open_files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    tracing::debug!(open_files, "as many files may be open");
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::Serve(error.into()))?;
    runtime.block_on(async {
        let mut stop = pin!(stop_signal().map_err(|error| Failure::Serve(error.into()))?);
        let hangups = signal(SignalKind::hangup()).map_err(|error| Failure::Serve(error.into()))?;
        let traces = config
            .otlp_endpoint
            .as_ref()
            .map(|endpoint| Traces::start(endpoint, config.trace_share))
            .transpose();
        let traces = traces.map_err(|wrong| Failure::Config(vec![wrong]))?;
        let app = tokio::select! {
            app = App::start(&config, Clock::system()) => app?,
            () = &mut stop => return Ok(()),
        };
        if config.dev {
            let (app_token, user_token) =
                app.dev_tokens().map_err(|error| Failure::Serve(error.into()))?;
            say(&dev::welcome(app.addresses.rest, app.addresses.grpc, &app_token, &user_token));
        }
        let access = app.service.access.clone();
        let ended = tokio::select! {
            ended = app.run(stop) => ended,
            () = watch_files(source, files, &settings, &access, hangups) => Ok(()),
        };
        if let Some(traces) = traces {
            traces.end().await;
        }
        ended
    })
}

/// Reads again who may call, when the file has changed and on SIGHUP: all of it, or nothing where
/// something is wrong. Never ends by itself.
async fn watch_files(
    source: &Source,
    mut files: FileWatcher,
    settings: &Settings,
    access: &Access,
    mut hangups: Signal,
) {
    loop {
        tokio::select! {
            () = files.changed() => {}
            Some(()) = hangups.recv() => {}
        }
        let read = Config::load(settings.clone(), source.config.as_deref(), source.dev);
        match read.and_then(|config| Ok((config.credentials(&Clock::system())?, config))) {
            Ok((credentials, config)) => {
                access.replace(credentials).await;
                let apps = config.apps.len();
                let services = config.services.len();
                let issuers = config.issuers.len();
                tracing::info!(
                    apps,
                    services,
                    issuers,
                    "who may call was read again; other settings are those of the start"
                );
            }
            Err(wrong) => tracing::error!(
                wrong = wrong.join("; "),
                "who may call was not read again; what was known goes on"
            ),
        }
    }
}

/// Done when the process is told to stop.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

pub(super) fn check_config(source: &Source, settings: Settings) -> Result<(), Failure> {
    let config = source.load(settings)?;
    config.tls.map(Tls::new).transpose().map_err(|wrong| Failure::Config(vec![wrong]))?;
    let apps = config.apps.len();
    let services = config.services.len();
    let issuers = config.issuers.len();
    say(&format!(
        "The configuration is good: {apps} apps, {services} services, {issuers} issuers.\n"
    ));
    let known = Apps::new(&config.apps).map_err(Failure::Config)?;
    config.apps.iter().for_each(|app| {
        say(&changing(app, known.get(&app.key).ok().and_then(|app| app.tokens.as_ref())))
    });
    let two = config.services.iter().filter(|service| service.token_hash.len() > 1);
    two.for_each(|service| {
        say(&format!("service {}: two of token_hash are good\n", shown(&service.name)))
    });
    Ok(())
}

/// Which keys of an app are about to take the place of others, and which tokens are refused.
fn changing(app: &AppConfig, tokens: Option<&TokenKeys>) -> String {
    let mut said = Vec::new();
    said.extend(
        app.hashes()
            .iter()
            .filter(|(_, hashes)| hashes.len() > 1)
            .map(|(field, _)| format!("two of {field} are good")),
    );
    if let Some([new, old]) = tokens.map(|tokens| tokens.signers().collect::<Vec<_>>()).as_deref() {
        said.push(format!("token_secret {new} signs, and what {old} has signed is good"));
    }
    said.extend(
        app.tokens_not_before.iter().map(|time| format!("tokens of before {time} are refused")),
    );
    said.extend(
        (!app.revoked_tokens.is_empty())
            .then(|| format!("{} tokens are revoked", app.revoked_tokens.len())),
    );
    said.iter().map(|what| format!("app {}: {what}\n", app.key)).collect()
}
