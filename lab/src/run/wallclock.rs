//! Which moment of the run a time of the wall clock is, also while a fault has moved that.

use crate::programs::clock::{monotonic_ns, realtime_ns};

/// The wall clock over the run: how far it was ahead of CLOCK_MONOTONIC, and from when.
pub(super) struct WallClock {
    /// When it began, and how far it was ahead, in nanoseconds; in the order of time, the first from the beginning.
    ahead: Vec<(u64, i128)>,
}

impl WallClock {
    /// As it is now.
    pub(super) fn now() -> Self {
        Self { ahead: vec![(0, Self::difference())] }
    }

    fn difference() -> i128 {
        i128::from(realtime_ns()) - i128::from(monotonic_ns())
    }

    /// It has been moved at a time of CLOCK_MONOTONIC.
    pub(super) fn moved(&mut self, at: u64) {
        self.ahead.push((at, Self::difference()));
    }

    /// A time of the wall clock, not after `now` (CLOCK_MONOTONIC), as CLOCK_MONOTONIC. A step is longer than a run, so that the time
    /// belongs to that part of the run in which it falls; the nearest one, for the moments in which the clock was being moved.
    pub(super) fn monotonic(&self, realtime: u64, now: u64) -> u64 {
        let parts = self.ahead.iter().enumerate().map(|(index, (since, ahead))| {
            let until = self.ahead.get(index + 1).map_or(now, |(next, _)| *next);
            // Below zero where another part is meant.
            let at = i128::from(realtime) - ahead;
            let outside = (i128::from(*since) - at).max(at - i128::from(until)).max(0);
            (outside, at)
        });
        let nearest = parts.min_by_key(|(outside, _)| *outside);
        nearest.map_or(0, |(_, at)| u64::try_from(at).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_before_during_and_after_a_step() {
        let second = 1_000_000_000;
        let hour = 3600 * i128::from(second);
        let start = 1_700_000_000 * i128::from(second);
        for by in [hour, -hour] {
            let clock =
                WallClock { ahead: vec![(0, start), (100 * second, start + by), (160 * second, start)] };
            let shown = |at: u64, ahead: i128| u64::try_from(i128::from(at) + ahead).unwrap();
            let find = |realtime| clock.monotonic(realtime, 300 * second);
            assert_eq!(find(shown(50 * second, start)), 50 * second);
            assert_eq!(find(shown(130 * second, start + by)), 130 * second);
            assert_eq!(find(shown(200 * second, start)), 200 * second);
            // A frame that was stamped while the clock was being set.
            let late = shown(160 * second + 5, start + by);
            assert_eq!(find(late), 160 * second + 5);
        }
        let clock = WallClock::now();
        let now = monotonic_ns();
        assert!(clock.monotonic(realtime_ns(), now).abs_diff(now) < second);
    }
}
