//! The metrics of files that are read again while the service runs, and of certificates.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::register;

/// What is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Apps, services and issuers of the configuration file.
    Config,
    /// The certificate of the listeners.
    Certificate,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was read is in force.
    Ok,
    /// It has an error.
    Failed,
    /// It would lock out every caller, and waits until it is read again.
    Doubted,
}

/// Reloads and certificates. All counters exist from the start.
pub struct Reloads {
    reloads: Family<ReloadLabels, Counter>,
    last_reload_timestamp_seconds: Family<ReloadLabels, Gauge>,
    certificate_end_timestamp_seconds: Family<CertificateLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    what: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: &'static str,
}

impl Reloads {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reloads = register(
            registry,
            "reloads",
            "Files that were read again, by outcome",
            Family::<ReloadLabels, Counter>::default(),
        );
        for outcome in [Outcome::Ok, Outcome::Failed, Outcome::Doubted] {
            drop(reloads.get_or_create_owned(&labels(Reloaded::Config, outcome)));
        }
        for outcome in [Outcome::Ok, Outcome::Failed] {
            drop(reloads.get_or_create_owned(&labels(Reloaded::Certificate, outcome)));
        }
        Self {
            reloads,
            last_reload_timestamp_seconds: register(
                registry,
                "last_reload_timestamp_seconds",
                "When a reload last had this outcome; the start counts as a good one",
                Family::default(),
            ),
            certificate_end_timestamp_seconds: register(
                registry,
                "certificate_end_timestamp_seconds",
                "End of validity: of a chain the first, of a list of authorities the last",
                Family::default(),
            ),
        }
    }

    /// Records that this was read at the start.
    pub fn loaded(&self, what: Reloaded) {
        self.set_last(&labels(what, Outcome::Ok));
    }

    /// Counts a reload.
    pub fn reloaded(&self, what: Reloaded, outcome: Outcome) {
        let labels = labels(what, outcome);
        self.reloads.get_or_create(&labels).inc();
        self.set_last(&labels);
    }

    /// Records when the certificates of this setting end, in seconds since 1970. The setting's name
    /// is a label.
    pub fn certificate_end(&self, setting: &'static str, end_s: Option<i64>) {
        let labels = CertificateLabels { certificate: setting };
        end_s.iter().for_each(|end_s| {
            self.certificate_end_timestamp_seconds.get_or_create(&labels).set(*end_s);
        });
    }

    fn set_last(&self, labels: &ReloadLabels) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.last_reload_timestamp_seconds.get_or_create(labels).set(now_s);
    }
}

fn labels(what: Reloaded, outcome: Outcome) -> ReloadLabels {
    ReloadLabels {
        what: match what {
            Reloaded::Config => "config",
            Reloaded::Certificate => "certificate",
        },
        outcome: match outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Doubted => "doubted",
        },
    }
}
