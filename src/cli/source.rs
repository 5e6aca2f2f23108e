//! The options that name a command's configuration.

use std::path::PathBuf;

use clap::Args;

use super::environment;
use crate::{
    app::Failure,
    config::{Config, Settings},
};

#[derive(Args)]
pub(super) struct Source {
    /// Configuration file in TOML: settings, [[apps]], [[services]] and [[issuers]]
    #[arg(long, value_name = "FILE", env = "MUTE_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Dev mode: add the apps, keys, users and rooms of the vendors' examples; the keys are public,
    /// so only loopback addresses are served, unless --dev-public-addresses is set
    #[arg(long, env = "MUTE_DEV", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) dev: bool,
}

impl Source {
    /// Errors: all that is wrong with the configuration.
    pub(super) fn load(&self, settings: Settings) -> Result<Config, Failure> {
        Config::load(settings, self.config.as_deref(), self.dev)
            .map_err(|errors| Failure::Config(environment::with_variables(errors)))
    }
}
