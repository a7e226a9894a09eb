//! What happened, in the order of time: `timeline.jsonl`. `t` is in seconds since the scenario began.

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::world::now;

/// The events of a run.
pub(super) struct Timeline {
    start: u64,
    events: Mutex<Vec<(u64, Map<String, Value>)>>,
}

impl Timeline {
    /// An empty one that begins at `start` (CLOCK_MONOTONIC, nanoseconds).
    pub(super) fn new(start: u64) -> Self {
        Self { start, events: Mutex::default() }
    }

    /// When the scenario began.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// A time in seconds since the scenario began.
    pub(super) fn seconds(&self, at: u64) -> f64 {
        let since = i128::from(at) - i128::from(self.start);
        #[expect(clippy::cast_precision_loss, reason = "a run of 2^53 ns is a hundred days")]
        let seconds = since as f64 / 1e9;
        (seconds * 1e6).round() / 1e6
    }

    /// Notes an event of a kind with its fields (a JSON object).
    pub(super) fn put(&self, at: u64, kind: &str, fields: Value) {
        let mut event = Map::new();
        event.insert("t".into(), self.seconds(at).into());
        event.insert("kind".into(), kind.into());
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push((at, event));
    }

    /// Notes an event of now.
    pub(super) fn now(&self, kind: &str, fields: Value) {
        self.put(now(), kind, fields);
    }

    /// The events of a kind, in the order of time.
    pub(super) fn of(&self, kind: &str) -> Vec<Map<String, Value>> {
        let mut events: Vec<(u64, Map<String, Value>)> = self
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, event)| event.get("kind").is_some_and(|other| other == kind))
            .cloned()
            .collect();
        events.sort_by_key(|(at, _)| *at);
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// Writes all of them, one JSON object a line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.sort_by_key(|(at, _)| *at);
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for (_, event) in events.iter() {
            serde_json::to_writer(&mut file, event)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_come_in_the_order_of_time() {
        let timeline = Timeline::new(1_000_000_000);
        timeline.put(3_500_000_000, "fault", json!({"fault": "crash dir1"}));
        timeline.put(1_250_000_000, "step", json!({"name": "first"}));
        let file = tempfile::NamedTempFile::new().unwrap();
        timeline.write(file.path()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({"t": 0.25, "kind": "step", "name": "first"}),
                json!({"t": 2.5, "kind": "fault", "fault": "crash dir1"})
            ]
        );
        assert_eq!(timeline.of("fault").len(), 1);
    }
}
