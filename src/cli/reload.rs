//! Reloads the callers' credentials while the service runs. If the file has an error, none of it
//! takes effect. A file that is only the beginning of the one in force, or lists no app, no service
//! or no issuer any more, was probably caught while it was written: it takes effect when it is the
//! same the second time.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{signal::unix::Signal, task::spawn_blocking};

use crate::{
    auth::credentials::Access,
    clock::Clock,
    config::{Config, ConfigText, Settings},
    files::FileWatcher,
    telemetry::metrics::{METRICS, Outcome, Reloaded},
};

/// How long a doubted file must stay the same.
const DOUBT: Duration = Duration::from_secs(5);

/// What a reload needs, and what the previous one left.
pub(super) struct Reloader<'a> {
    path: Option<PathBuf>,
    settings: Settings,
    dev: bool,
    access: &'a Access,
    in_force: Listed,
    /// `None` without a file, and for a pipe until it is read again.
    text_in_force: Option<ConfigText>,
    /// The text that was not believed.
    doubted: Option<ConfigText>,
}

/// How many apps, services and issuers a configuration lists.
#[derive(Clone, Copy)]
struct Listed {
    apps: usize,
    services: usize,
    issuers: usize,
}

impl Listed {
    fn of(config: &Config) -> Self {
        Self {
            apps: config.apps.len(),
            services: config.services.len(),
            issuers: config.issuers.len(),
        }
    }

    fn has_lost_all(self, before: Self) -> bool {
        (before.apps > 0 && self.apps == 0)
            || (before.services > 0 && self.services == 0)
            || (before.issuers > 0 && self.issuers == 0)
    }
}

/// Why the file is read.
#[derive(PartialEq, Eq)]
enum Trigger {
    Changed,
    Hangup,
    Doubt,
}

impl<'a> Reloader<'a> {
    /// For a service that has started with this configuration.
    pub(super) fn new(
        path: Option<PathBuf>,
        settings: Settings,
        config: &Config,
        access: &'a Access,
    ) -> Self {
        METRICS.reloads.loaded(Reloaded::Config);
        let in_force = Listed::of(config);
        let file = path.as_deref().filter(|path| !is_pipe(path));
        let text_in_force = file.and_then(|path| ConfigText::read(path).ok());
        Self { path, settings, dev: config.dev, access, in_force, text_in_force, doubted: None }
    }

    /// Reloads when the file changes and on SIGHUP. Never returns.
    pub(super) async fn run(mut self, mut files: FileWatcher, mut hangups: Signal) {
        loop {
            let trigger = tokio::select! {
                // In this order, because the last two come at the same time after a SIGHUP.
                biased;
                Some(()) = hangups.recv() => Trigger::Hangup,
                () = tokio::time::sleep(DOUBT), if self.doubted.is_some() => Trigger::Doubt,
                () = files.changed() => Trigger::Changed,
            };
            // Only the operator knows when a pipe has a configuration; to read it earlier would
            // wait for a writer.
            if trigger == Trigger::Hangup || !self.path.as_deref().is_some_and(is_pipe) {
                self.reload(&trigger).await;
            }
        }
    }

    async fn reload(&mut self, trigger: &Trigger) {
        let (path, settings, dev) = (self.path.clone(), self.settings.clone(), self.dev);
        // A pipe without a writer must not keep the process from stopping.
        let read = spawn_blocking(move || {
            let text = path.as_deref().map(ConfigText::read).transpose()?;
            let config = Config::parse(settings, text.as_ref(), dev)?;
            Ok((config.credentials(&Clock::system())?, config, text))
        });
        let read = read.await.unwrap_or_else(|error| Err(vec![error.to_string()]));
        let (credentials, config, text) = match read {
            Ok(read) => read,
            Err(errors) => {
                self.doubted = None;
                METRICS.reloads.reloaded(Reloaded::Config, Outcome::Failed);
                let wrong = errors.join("; ");
                return tracing::error!(
                    wrong,
                    "the credentials were not reloaded; the previous ones stay in force"
                );
            }
        };
        let listed = Listed::of(&config);
        let is_cut = text.as_ref().zip(self.text_in_force.as_ref());
        let is_cut = is_cut.is_some_and(|(text, before)| text.is_beginning_of(before));
        let is_doubtful = is_cut || listed.has_lost_all(self.in_force);
        if is_doubtful && !self.is_believed(trigger, text.as_ref()) {
            return self.doubt(listed, text);
        }
        self.access.replace(credentials).await;
        self.in_force = listed;
        self.text_in_force = text;
        self.doubted = None;
        METRICS.reloads.reloaded(Reloaded::Config, Outcome::Ok);
        tracing::info!(
            apps = listed.apps,
            services = listed.services,
            issuers = listed.issuers,
            "the credentials were reloaded; other settings take effect at the next start"
        );
    }

    /// Whether this text was read before, and some time ago or by another SIGHUP. A pipe that has
    /// nothing says nothing.
    fn is_believed(&self, trigger: &Trigger, text: Option<&ConfigText>) -> bool {
        let is_nothing =
            self.path.as_deref().is_some_and(is_pipe) && text.is_some_and(ConfigText::is_empty);
        *trigger != Trigger::Changed && !is_nothing && self.doubted.as_ref() == text
    }

    fn doubt(&mut self, listed: Listed, text: Option<ConfigText>) {
        if self.doubted == text {
            return;
        }
        self.doubted = text;
        METRICS.reloads.reloaded(Reloaded::Config, Outcome::Doubted);
        let Listed { apps, services, issuers } = listed;
        tracing::error!(
            apps,
            services,
            issuers,
            apps_before = self.in_force.apps,
            services_before = self.in_force.services,
            issuers_before = self.in_force.issuers,
            "the credentials were not reloaded, because the file looks as if it was cut; the \
             previous ones stay in force. If that is meant, leave the file as it is for {} s, or \
             send SIGHUP again",
            DOUBT.as_secs()
        );
    }
}

/// Whether there is something else than a file, which cannot be read a second time.
fn is_pipe(path: &Path) -> bool {
    path.exists() && !path.is_file()
}
