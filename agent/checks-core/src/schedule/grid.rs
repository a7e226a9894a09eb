//! The points at which a check is due: a first one, and one every interval after it. A late probe moves none of them.

use std::time::Duration;

use super::Timings;
use crate::{Time, time::nanos};

/// 2^64 / golden ratio: the multiples of the golden ratio, taken by their fractions, are the most even of all sequences that can be
/// broken off anywhere (the three-distance theorem): any number of them in a row cuts the interval into parts of at most three
/// lengths.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Checks whose places are nearer to each other than this begin together, so that a process which has many wakes up once for several
/// of them, and again once for their answers: waking up costs nearly as much as a check. No more than a fiftieth of an interval. The
/// points of a check stay an interval apart.
const TOGETHER: Duration = Duration::from_millis(20);

/// A place within the interval, as a fraction of 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    /// The place of the check that is added as the `ordinal`-th. The seed turns all places, so that two directors that check the
    /// same servers do not do it at the same moments.
    pub(super) fn new(seed: u64, ordinal: u64) -> Self {
        Self(seed.wrapping_add(ordinal.wrapping_mul(GOLDEN)))
    }

    fn within(self, interval: Duration) -> Duration {
        let nanos = (u128::from(self.0) * u128::from(nanos(interval))) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The moment at which checks of that interval begin together: the last one that is not after the place within it. Where that was
/// before the check was added, an interval later.
fn together(added: Time, place: Duration, interval: Duration) -> Time {
    let step = nanos(TOGETHER.min(interval / 50)).max(1);
    let moment = (added + place).as_nanos() / step * step;
    Time::from_nanos(if moment < added.as_nanos() { moment.saturating_add(nanos(interval)) } else { moment })
}

/// When a check is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    first: Time,
    interval: u64,
}

impl Grid {
    /// The grid of a check that was added at a time.
    pub(super) fn new(added: Time, place: Place, timings: &Timings) -> Self {
        let first = match timings.initial_delay {
            Some(delay) => added + delay,
            None => together(added, place.within(timings.interval), timings.interval),
        };
        Self { first, interval: nanos(timings.interval).max(1) }
    }

    /// The first point that is not before a time.
    pub(super) fn not_before(&self, time: Time) -> Time {
        let passed = time.as_nanos().saturating_sub(self.first.as_nanos());
        let steps = passed.div_ceil(self.interval);
        Time::from_nanos(self.first.as_nanos().saturating_add(steps.saturating_mul(self.interval)))
    }

    /// The first point after a time.
    pub(super) fn after(&self, time: Time) -> Time {
        self.not_before(Time::from_nanos(time.as_nanos().saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_an_interval_apart() {
        let added = Time::from_nanos(1_000);
        let mut timings = Timings::every(Duration::from_nanos(100));
        timings.initial_delay = Some(Duration::from_nanos(7));
        let grid = Grid::new(added, Place::new(0, 0), &timings);
        for (time, not_before, after) in
            [(0, 1_007, 1_007), (1_006, 1_007, 1_007), (1_007, 1_007, 1_107), (1_008, 1_107, 1_107)]
        {
            assert_eq!(grid.not_before(Time::from_nanos(time)).as_nanos(), not_before, "{time}");
            assert_eq!(grid.after(Time::from_nanos(time)).as_nanos(), after, "{time}");
        }
        assert_eq!(grid.after(Time::from_nanos(u64::MAX)).as_nanos(), u64::MAX);
    }

    #[test]
    fn checks_that_are_near_each_other_begin_together() {
        let interval = Duration::from_secs(1);
        let timings = Timings::every(interval);
        let added = Time::from_nanos(123_456_789);
        let firsts: Vec<u64> = (0..1_000)
            .map(|ordinal| Grid::new(added, Place::new(7, ordinal), &timings).first.as_nanos())
            .collect();
        let mut moments: std::collections::BTreeMap<u64, usize> = std::collections::BTreeMap::new();
        for first in firsts {
            assert!(first >= added.as_nanos() && first < (added + interval).as_nanos());
            *moments.entry(first).or_default() += 1;
        }
        // Twenty at each of fifty moments, a few more or less.
        assert!(moments.len() <= 51, "{}", moments.len());
        assert!(moments.values().all(|count| *count <= 23), "{moments:?}");
        // Of a short interval, within a fiftieth of it.
        let short = Duration::from_millis(100);
        let moment =
            |added, place| together(Time::from_nanos(added), Duration::from_nanos(place), short).as_nanos();
        assert_eq!(moment(4_000_000, 0), 4_000_000);
        assert_eq!(moment(4_000_000, 3_999_999), 6_000_000);
        assert_eq!(moment(4_000_001, 0), 104_000_000, "not before it was added");
        assert_eq!(together(Time::from_nanos(7), Duration::ZERO, Duration::from_nanos(10)).as_nanos(), 7);
    }

    #[test]
    fn places_are_within_the_interval_and_even() {
        let interval = Duration::from_secs(10);
        for count in [1_usize, 2, 10, 1_000, 10_000] {
            let mut places: Vec<_> =
                (0..count as u64).map(|ordinal| Place::new(0xdead_beef, ordinal).within(interval)).collect();
            places.sort();
            assert!(places[count - 1] < interval);
            places.push(places[0] + interval);
            let gap = places.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max();
            let even = interval / u32::try_from(count).unwrap();
            assert!(gap.unwrap() < even * 2 + even / 8, "{count}: {gap:?}, even would be {even:?}");
        }
    }
}
