//! The metrics page: counters of the process, and gauges that are read from the service for each
//! scrape.

use std::{fs, path::Path, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

mod format;

pub(super) use format::Format;

use crate::{
    limits::holder::Resource,
    service::Service,
    sweep,
    telemetry::{lost_log_lines, metrics::METRICS},
};

/// All metrics, in this format.
pub(super) fn text(service: &Service, data_dir: Option<&Path>, format: Format) -> String {
    let mut text = String::new();
    let encoded = encode_registry(&mut text, METRICS.registry())
        .and_then(|()| encode_registry(&mut text, &current(service, data_dir)))
        .and_then(|()| encode_eof(&mut text));
    if let Err(error) = encoded {
        tracing::error!(%error, "the metrics page is incomplete");
    }
    match format {
        Format::OpenMetrics => text,
        Format::Plain => format::plain(&text),
    }
}

/// Metrics that are read from their source for each scrape.
fn current(service: &Service, data_dir: Option<&Path>) -> Registry {
    let mut registry = Registry::with_prefix("mute");
    let gauge = |value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    registry.register(
        "view_revision",
        "Revision of the latest commit in the view",
        gauge(service.view.revision()),
    );
    let records = Family::<Vec<(&str, &str)>, Gauge>::default();
    for (kind, count) in service.view.records_by_kind() {
        records.get_or_create(&vec![("kind", kind)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "records",
        "Records in the view, including expired ones that are not swept yet",
        records,
    );
    let in_use = Family::<Vec<(&str, &str)>, Gauge>::default();
    for (resource, name) in [
        (Resource::Call, "call"),
        (Resource::Message, "message"),
        (Resource::Byte, "byte"),
        (Resource::Stream, "stream"),
    ] {
        in_use
            .get_or_create(&vec![("what", name)])
            .set(i64::try_from(service.load.in_use(resource)).unwrap_or(i64::MAX));
    }
    let help = "Resources held by callers: running calls, calls whose message is still being \
        received, streams of health and reflection, and bytes of messages and responses";
    registry.register("held", help, in_use);
    let shares = Family::<Vec<(&str, &str)>, Gauge<f64, AtomicU64>>::default();
    for (kind, share) in service.quota_shares() {
        shares.get_or_create(&vec![("kind", kind)]).set(share);
    }
    registry.register(
        "quota_share",
        "Share of its quota used by the app that uses most; 1 is the whole quota",
        shares,
    );
    if let Some(directory) = data_dir {
        registry.register(
            "disk_bytes",
            "Size of the files of the embedded store",
            gauge(total_bytes(directory)),
        );
    }
    let age = Gauge::<f64, AtomicU64>::default();
    age.set(service.view.age().as_secs_f64());
    registry.register(
        "view_age_seconds",
        "Age of the view: every commit of the cluster older than this is in it",
        age,
    );
    registry.register(
        "watchers",
        "Open watches that have caught up and follow live",
        gauge(service.hub.watchers() as u64),
    );
    let cut = Counter::<u64>::default();
    cut.inc_by(service.hub.slow_watchers());
    registry.register("watchers_cut", "Watches ended because their client did not read", cut);
    let lost = Counter::<u64>::default();
    lost.inc_by(lost_log_lines());
    let help = "Log lines lost because standard error could not be written, or not fast enough";
    registry.register("log_lines_dropped", help, lost);
    let jumps = Counter::<u64>::default();
    jumps.inc_by(service.clock.jumps());
    registry.register("clock_jumps", "Jumps of the wall clock by more than two seconds", jumps);
    let skew = Gauge::<f64, AtomicU64>::default();
    skew.set(sweep::skew_ms(&*service.store, &service.clock).unwrap_or(0) as f64 / 1_000.0);
    let help = "How far the wall clock is ahead of the median of the other replicas' clocks; \
        0 without other replicas";
    registry.register("clock_skew_seconds", help, skew);
    let build = Family::<Vec<(&str, &str)>, Gauge>::default();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", env!("MUTE_BUILD_REVISION")),
        ("built", env!("MUTE_BUILD_DATE")),
    ];
    build.get_or_create(&labels.to_vec()).set(1);
    registry.register("build_info", "Version of the running program", build);
    registry
}

/// The size of all files below a directory. A file that is deleted meanwhile counts as 0.
fn total_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let of_entry = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => total_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(of_entry).sum()
}
