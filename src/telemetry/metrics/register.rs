//! Creates and registers metrics.

use prometheus_client::{
    metrics::histogram::Histogram,
    registry::{Metric, Registry},
};

/// From a quarter of a millisecond; each is four times the one before.
const LATENCY_BUCKETS_S: [f64; 9] =
    [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384];

pub(super) fn latency_histogram() -> Histogram {
    Histogram::new(LATENCY_BUCKETS_S)
}

pub(super) fn register<M: Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}
