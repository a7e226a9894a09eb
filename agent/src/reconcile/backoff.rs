//! When to try again.

use std::time::{Duration, Instant};

/// Waits that double from attempt to attempt, up to a bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Option<(Instant, Duration)>,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: None }
    }

    /// When the next attempt is due; none when nothing failed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// Whether an attempt may be made now.
    pub(crate) fn due(&self, now: Instant) -> bool {
        self.next.is_none_or(|(at, _)| at <= now)
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, now: Instant) {
        let wait = self.next.map_or(self.first, |(_, wait)| (wait * 2).min(self.longest));
        self.next = Some((now + wait, wait));
    }

    /// All is well, or something changed so that trying at once makes sense.
    pub(crate) fn reset(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound_and_starts_again() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert!(backoff.due(now));
        let mut waits = Vec::new();
        for _ in 0..5 {
            backoff.failed(now);
            waits.push((backoff.deadline().unwrap() - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert!(!backoff.due(now + Duration::from_secs(4)));
        assert!(backoff.due(now + Duration::from_secs(5)));
        backoff.reset();
        assert!(backoff.due(now) && backoff.deadline().is_none());
    }
}
