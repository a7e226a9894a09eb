//! What is counted, for `/metrics`. Names and labels are an interface: dashboards and alerts use them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// A watch that failed and has not been heard of for so long works: that is more than there is between two tries.
const WORKS: Duration = Duration::from_secs(30);
/// So often in a row a watch fails until that is more than one that has to be begun anew.
const SEVERAL: u32 = 3;

/// What is known of watches that failed: one entry a source.
#[derive(Clone, Debug, Default)]
pub struct Watches(Arc<Mutex<BTreeMap<Source, Failing>>>);

#[derive(Clone, Debug)]
struct Failing {
    times: u32,
    last: Instant,
    why: String,
}

impl Watches {
    fn failed(&self, source: Source, why: &str, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = all.entry(source).or_insert_with(|| Failing { times: 0, last: now, why: String::new() });
        if now.saturating_duration_since(one.last) > WORKS {
            one.times = 0;
        }
        *one = Failing { times: one.times.saturating_add(1), last: now, why: why.to_owned() };
    }

    /// Something was heard: it works.
    pub fn heard(&self, source: Source) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&source);
    }

    /// The sources of which nothing is heard, because watching them fails again and again, and why.
    pub fn failing(&self, now: Instant) -> Vec<(Source, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fails = |one: &Failing| one.times >= SEVERAL && now.saturating_duration_since(one.last) <= WORKS;
        all.iter().filter(|(_, one)| fails(one)).map(|(source, one)| (*source, one.why.clone())).collect()
    }
}

/// Everything that is counted; clones share it.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Requests that write.
    pub writes: Family<WriteLabels, Counter>,
    /// Watches that failed.
    pub watch_failures: Family<SourceLabels, Counter>,
    /// Which watches go on failing.
    pub watches: Watches,
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
            watches: Watches::default(),
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
    /// Notes a watch that failed, and why.
    pub fn watch_failed(&self, source: Source, why: &str) {
        self.watches.failed(source, why, Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_goes_on_failing_is_told_from_one_that_is_begun_anew() {
        let (watches, begin) = (Watches::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for second in 0..2 {
            watches.failed(Source::Node, "expired", at(second));
        }
        assert_eq!(watches.failing(at(2)), []);
        watches.failed(Source::Node, "forbidden", at(2));
        assert_eq!(watches.failing(at(2)), [(Source::Node, "forbidden".to_owned())]);
        // Silence is what there is to hear of one that works.
        assert_eq!(watches.failing(at(33)), []);
        watches.failed(Source::Node, "expired", at(90));
        assert_eq!(watches.failing(at(90)), []);
        for second in 91..95 {
            watches.failed(Source::Node, "forbidden", at(second));
        }
        watches.heard(Source::Node);
        assert_eq!(watches.failing(at(95)), []);
    }
}
