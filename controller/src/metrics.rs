//! What `/metrics` shows. Every label has a fixed, small set of values.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::facts::ServiceKey;

/// Seconds: a reconcile that only compares takes tens of microseconds.
const RECONCILE_BUCKETS: [f64; 8] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1,
];

/// Seconds: a write waits for the API server's etcd.
const WRITE_BUCKETS: [f64; 9] = [0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// Seconds: on a quiet cluster the API server and the scheduler need a tenth of one.
const FIRST_ADDRESS_BUCKETS: [f64; 10] = [0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// The kinds of objects that are written.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// A DaemonSet of ours.
    DaemonSet,
    /// The status, the conditions and the finalizer of a Service: one subresource.
    ServiceStatus,
    /// An event on a Service.
    Event,
    /// The svclb pods' ServiceAccount.
    ServiceAccount,
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            Self::DaemonSet => "daemonset",
            Self::ServiceStatus => "service_status",
            Self::Event => "event",
            Self::ServiceAccount => "service_account",
        })
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// The API server took it.
    Ok,
    /// The object was changed or removed by somebody else meanwhile: decided anew.
    Conflict,
    /// Refused, or not answered in time: tried again later.
    Error,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            Self::Ok => "ok",
            Self::Conflict => "conflict",
            Self::Error => "error",
        })
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WriteLabels {
    kind: Kind,
    outcome: Outcome,
}

/// What is served, Service by Service.
#[derive(Debug, Default)]
pub struct Tally {
    services: HashMap<ServiceKey, (usize, bool)>,
    addresses: usize,
    conflicts: usize,
}

impl Tally {
    /// The Service's number of addresses, and whether it lacks a port somewhere; nothing if it is not served.
    pub fn set(&mut self, service: &ServiceKey, served: Option<(usize, bool)>) {
        let before = match served {
            Some(numbers) => self.services.insert(service.clone(), numbers),
            None => self.services.remove(service),
        };
        let (addresses, conflict) = before.unwrap_or_default();
        self.addresses -= addresses;
        self.conflicts -= usize::from(conflict);
        let (addresses, conflict) = served.unwrap_or_default();
        self.addresses += addresses;
        self.conflicts += usize::from(conflict);
    }
}

/// The numbers, and the registry that prints them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    services: Gauge,
    addresses: Gauge,
    conflicts: Gauge,
    leading: Gauge,
    reconciles: Histogram,
    writes: Family<WriteLabels, Counter>,
    write_seconds: Histogram,
    watch_errors: Counter,
    first_address: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("svclb"),
            services: Gauge::default(),
            addresses: Gauge::default(),
            conflicts: Gauge::default(),
            leading: Gauge::default(),
            reconciles: Histogram::new(RECONCILE_BUCKETS),
            writes: Family::default(),
            write_seconds: Histogram::new(WRITE_BUCKETS),
            watch_errors: Counter::default(),
            first_address: Histogram::new(FIRST_ADDRESS_BUCKETS),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "build",
            "The running version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "services",
            "Services that are served",
            self.services.clone(),
        );
        registry.register(
            "addresses",
            "Addresses published, over all Services",
            self.addresses.clone(),
        );
        registry.register(
            "conflicts",
            "Services that lack a port on a node because somebody else holds it",
            self.conflicts.clone(),
        );
        registry.register(
            "leader",
            "1 while this replica holds the Lease, else 0",
            self.leading.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "Time to decide on one Service, writes left aside",
            Unit::Seconds,
            self.reconciles.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the API server",
            self.writes.clone(),
        );
        registry.register_with_unit(
            "api_write_duration",
            "Time until the API server answered a write",
            Unit::Seconds,
            self.write_seconds.clone(),
        );
        registry.register(
            "watch_errors",
            "Watches that broke and were started again",
            self.watch_errors.clone(),
        );
        registry.register_with_unit(
            "first_address",
            "Time from a Service's creation, as this replica saw it, to its first address",
            Unit::Seconds,
            self.first_address.clone(),
        );
    }

    /// The OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// What is served now.
    pub fn served(&self, tally: &Tally) {
        self.services.set(count(tally.services.len()));
        self.addresses.set(count(tally.addresses));
        self.conflicts.set(count(tally.conflicts));
    }

    /// Whether this replica holds the Lease.
    pub fn leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }

    /// One decision on one Service was made.
    pub fn reconciled(&self, took: Duration) {
        self.reconciles.observe(took.as_secs_f64());
    }

    /// One write was answered, or given up.
    pub fn written(&self, kind: Kind, outcome: Outcome, took: Duration) {
        self.writes
            .get_or_create(&WriteLabels { kind, outcome })
            .inc();
        self.write_seconds.observe(took.as_secs_f64());
    }

    /// A watch broke.
    pub fn watch_broke(&self) {
        self.watch_errors.inc();
    }

    /// A new Service got its first address.
    pub fn first_address(&self, after: Duration) {
        self.first_address.observe(after.as_secs_f64());
    }
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_each_number_once_and_ends_as_openmetrics_does() {
        let metrics = Metrics::default();
        let mut tally = Tally::default();
        let key = |name| ServiceKey::new("default", name);
        tally.set(&key("gone"), Some((4, true)));
        tally.set(&key("a"), Some((1, true)));
        tally.set(&key("b"), Some((2, false)));
        tally.set(&key("c"), Some((9, true)));
        tally.set(&key("c"), Some((2, false)));
        tally.set(&key("gone"), None);
        metrics.served(&tally);
        metrics.leading(true);
        metrics.reconciled(Duration::from_micros(70));
        metrics.written(Kind::DaemonSet, Outcome::Ok, Duration::from_millis(4));
        metrics.written(Kind::DaemonSet, Outcome::Ok, Duration::from_millis(6));
        metrics.written(
            Kind::ServiceStatus,
            Outcome::Conflict,
            Duration::from_millis(6),
        );
        metrics.watch_broke();
        metrics.first_address(Duration::from_millis(120));

        let text = metrics.encode().unwrap();
        for line in [
            "svclb_services 3",
            "svclb_addresses 5",
            "svclb_conflicts 1",
            "svclb_leader 1",
            "svclb_watch_errors_total 1",
            "svclb_reconcile_seconds_count 1",
            "svclb_reconcile_seconds_bucket{le=\"0.0001\"} 1",
            "svclb_api_write_duration_seconds_count 3",
            "svclb_api_writes_total{kind=\"daemonset\",outcome=\"ok\"} 2",
            "svclb_api_writes_total{kind=\"service_status\",outcome=\"conflict\"} 1",
            "svclb_first_address_seconds_bucket{le=\"0.1\"} 0",
            "svclb_first_address_seconds_bucket{le=\"0.15\"} 1",
        ] {
            let times = text.lines().filter(|found| *found == line).count();
            assert_eq!(times, 1, "{line} in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
