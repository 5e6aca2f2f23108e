//! The page of metrics: what was counted, and what is read where it is.

use std::{fs, path::Path, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{limits::holder::Resource, service::Service, sweep, telemetry::metrics::METRICS};

/// The metrics of this moment, in the OpenMetrics text format.
pub(super) fn text(service: &Service, data_dir: Option<&Path>) -> String {
    let mut text = String::new();
    let written = encode_registry(&mut text, METRICS.registry())
        .and_then(|()| encode_registry(&mut text, &of_now(service, data_dir)))
        .and_then(|()| encode_eof(&mut text));
    if let Err(error) = written {
        tracing::error!(%error, "metrics could not be written");
    }
    text
}

/// What is read where it is, rather than counted.
fn of_now(service: &Service, data_dir: Option<&Path>) -> Registry {
    let mut registry = Registry::with_prefix("mute");
    let gauge = |value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    registry.register("view_revision", "Newest commit in the view", gauge(service.view.revision()));
    let records = Family::<Vec<(&str, &str)>, Gauge>::default();
    for (kind, count) in service.view.records_by_kind() {
        records.get_or_create(&vec![("kind", kind)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "records",
        "Records in the view, ended ones that are not swept yet among them",
        records,
    );
    let held = Family::<Vec<(&str, &str)>, Gauge>::default();
    for (what, name) in [
        (Resource::Call, "call"),
        (Resource::Message, "message"),
        (Resource::Byte, "byte"),
        (Resource::Stream, "stream"),
    ] {
        held.get_or_create(&vec![("what", name)])
            .set(i64::try_from(service.load.holds(what)).unwrap_or(i64::MAX));
    }
    let help = "What callers hold: places of calls, of calls whose message is still to come, and of streams of health and reflection; bytes of messages and answers";
    registry.register("held", help, held);
    let shares = Family::<Vec<(&str, &str)>, Gauge<f64, AtomicU64>>::default();
    for (kind, share) in service.quota_shares() {
        shares.get_or_create(&vec![("kind", kind)]).set(share);
    }
    registry.register(
        "quota_share",
        "What the app that has most uses of its quota, 1 is all of it",
        shares,
    );
    if let Some(directory) = data_dir {
        registry.register(
            "disk_bytes",
            "Size of the files of the embedded store",
            gauge(size(directory)),
        );
    }
    let age = Gauge::<f64, AtomicU64>::default();
    age.set(service.view.age().as_secs_f64());
    registry.register(
        "view_age_seconds",
        "Whatever was committed anywhere this long ago is in the view",
        age,
    );
    registry.register(
        "watchers",
        "Open watches that follow live",
        gauge(service.hub.watchers() as u64),
    );
    let cut = Counter::<u64>::default();
    cut.inc_by(service.hub.slow_watchers());
    registry.register("watchers_cut", "Watches that were cut because they did not read", cut);
    let jumps = Counter::<u64>::default();
    jumps.inc_by(service.clock.jumps());
    registry.register(
        "clock_jumps",
        "Times that the wall clock was set by more than two seconds",
        jumps,
    );
    let skew = Gauge::<f64, AtomicU64>::default();
    skew.set(sweep::skew_ms(&*service.store, &service.clock).unwrap_or(0) as f64 / 1_000.0);
    let by = "By how much the wall clock is ahead of the median of the other replicas'; 0 where there are none";
    registry.register("clock_skew_seconds", by, skew);
    let build = Family::<Vec<(&str, &str)>, Gauge>::default();
    let (revision, built) = (env!("MUTE_BUILD_REVISION"), env!("MUTE_BUILD_DATE"));
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", revision), ("built", built)];
    build.get_or_create(&labels.to_vec()).set(1);
    registry.register("build_info", "The running program", build);
    registry
}

/// Of all files below the directory; one that goes meanwhile is none.
fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let of_entry = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(of_entry).sum()
}
