//! What is counted, for `/metrics`. Names and labels are an interface: dashboards and alerts use them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::index::Source;

/// Labels of a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// Kind of the object.
    pub kind: &'static str,
    /// apply, strip, delete or status.
    pub action: &'static str,
    /// done, conflict, refused, failed or timeout.
    pub result: &'static str,
}

/// Labels of what is watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabels {
    /// Kind of the objects.
    pub kind: &'static str,
}

/// Everything that is counted; clones share it.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Requests that write.
    pub writes: Family<WriteLabels, Counter>,
    /// Watches that failed.
    pub watch_failures: Family<SourceLabels, Counter>,
    /// Objects that are watched.
    pub objects: Family<SourceLabels, Gauge>,
    /// Objects that this version cannot read.
    pub unreadable: Gauge,
    /// 1 while this one leads.
    pub leading: Gauge,
    /// Writes that wait for their time.
    pub waiting: Gauge,
    /// Writes under way.
    pub running: Gauge,
    /// Writes that failed and are tried again.
    pub failing: Gauge,
    /// Events that were not sent because there were too many.
    pub events_dropped: Counter,
    /// How long compiling took what changed together.
    pub compile: Histogram,
    /// When the worker was last seen working: nanoseconds after the start.
    pub alive: Arc<AtomicU64>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            writes: Family::default(),
            watch_failures: Family::default(),
            objects: Family::default(),
            unreadable: Gauge::default(),
            leading: Gauge::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            failing: Gauge::default(),
            events_dropped: Counter::default(),
            compile: Histogram::new(exponential_buckets(0.0001, 4.0, 10)),
            alive: Arc::default(),
        }
    }
}

impl Tally {
    /// Notes a watch that failed.
    pub fn watch_failed(&self, source: Source) {
        self.watch_failures.get_or_create(&SourceLabels { kind: source.as_str() }).inc();
    }

    /// All of it, to be written.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("bascule_operator");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The operator's version", version);
        registry.register("leading", "1 while this operator leads, else 0", self.leading.clone());
        registry.register("writes", "Requests that write, by what became of them", self.writes.clone());
        registry.register("writes_waiting", "Writes that wait for their time", self.waiting.clone());
        registry.register("writes_running", "Writes under way", self.running.clone());
        registry.register("writes_failing", "Writes that failed and are tried again", self.failing.clone());
        registry.register(
            "watch_failures",
            "Watches that failed and were begun anew",
            self.watch_failures.clone(),
        );
        registry.register(
            "objects",
            "Objects that are watched, 0 where this operator does not lead",
            self.objects.clone(),
        );
        registry.register(
            "unreadable_objects",
            "Objects that this version cannot read",
            self.unreadable.clone(),
        );
        registry.register(
            "events_dropped",
            "Events that were not sent because there were too many",
            self.events_dropped.clone(),
        );
        registry.register_with_unit(
            "compile",
            "Compiling what changed together",
            Unit::Seconds,
            self.compile.clone(),
        );
        registry
    }
}
