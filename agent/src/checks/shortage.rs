//! Says that this machine lacks what probes need, at a bounded rate: where something is short, it is so for thousands of probes.

use std::time::Duration;

use bascule_checks_core::Time;

/// From a line in the log to the next at least.
const QUIET: Duration = Duration::from_secs(60);

/// What was said of it last, and how often it happened since.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    said: Option<Time>,
    unsaid: u64,
}

impl Shortages {
    /// A probe could not be carried out. When it is time for a line: of how many probes that is true since the last line, this one
    /// included.
    pub(super) fn note(&mut self, now: Time) -> Option<u64> {
        self.unsaid = self.unsaid.saturating_add(1);
        if self.said.is_some_and(|said| now.since(said) < QUIET) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_tells_of_all() {
        let at = |seconds| Time::from_duration(Duration::from_secs(seconds));
        let mut shortages = Shortages::default();
        assert_eq!(shortages.note(at(0)), Some(1));
        for second in 1..60 {
            assert_eq!(shortages.note(at(second)), None);
        }
        assert_eq!(shortages.note(at(60)), Some(60));
        assert_eq!(shortages.note(at(61)), None);
        assert_eq!(shortages.note(at(1_000)), Some(2));
    }
}
