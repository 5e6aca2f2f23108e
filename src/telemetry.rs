//! Logs, and every metric by name.

use std::{io::IsTerminal as _, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tracing_subscriber::EnvFilter;

use crate::service::Service;

/// Logs to standard error, at the level of `MUTE_LOG` (such as `debug`, or `mute_service=debug,h2=warn`), by default the service's own at `info`
/// and its libraries' at `warn`.
pub fn init_logs() {
    let filter = EnvFilter::try_from_env("MUTE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,mute_service=info"));
    let ansi = std::io::stderr().is_terminal();
    // A second call, in a test, changes nothing.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).try_init();
}

/// The metrics of this moment, in the OpenMetrics text format.
#[must_use]
pub fn metrics(service: &Service) -> String {
    let mut registry = Registry::with_prefix("mute");
    let gauge = |value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    registry.register("view_revision", "Newest commit in the view", gauge(service.view.revision()));
    registry.register(
        "view_records",
        "Records in the view, ended ones that are not swept yet among them",
        gauge(service.view.records()),
    );
    let age = Gauge::<f64, AtomicU64>::default();
    age.set(service.view.age().as_secs_f64());
    registry.register("view_age_seconds", "Whatever was committed anywhere this long ago is in the view", age);
    registry.register("watchers", "Open watches that follow live", gauge(service.hub.watchers() as u64));
    let cut = Counter::<u64>::default();
    cut.inc_by(service.hub.cut());
    registry.register("watchers_cut", "Watches that were cut because they did not read", cut);
    let build = Family::<Vec<(String, String)>, Gauge>::default();
    build.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("build_info", "The running program", build);
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            String::new()
        }
    }
}
