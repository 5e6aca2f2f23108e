//! Where the configuration of a command comes from.

use std::path::PathBuf;

use clap::Args;

use crate::{
    app::Failure,
    config::{Config, Settings},
};

#[derive(Args)]
pub(super) struct Source {
    /// The configuration: settings, [[apps]] and [[services]], in TOML
    #[arg(long, value_name = "FILE", env = "MUTE_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Add apps, keys and a directory that make the documents' examples work; loopback only
    #[arg(long, env = "MUTE_DEV", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) dev: bool,
}

impl Source {
    pub(super) fn load(&self, settings: Settings) -> Result<Config, Failure> {
        Config::load(settings, self.config.as_deref(), self.dev).map_err(Failure::Config)
    }
}
