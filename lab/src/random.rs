//! Numbers drawn from a seed: the same seed, the same numbers, on every machine.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A length from `least` to `most`, both included, in whole milliseconds.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let milliseconds = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX / 2);
        let room = milliseconds(most).saturating_sub(milliseconds(least));
        Duration::from_millis(milliseconds(least) + self.below(room + 1))
    }

    /// A time below a limit.
    pub(crate) fn time_below(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The index of one of several, each as likely as its weight says; none where all weights are 0.
    pub(crate) fn choose(&mut self, weights: &[u32]) -> Option<usize> {
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut left = (sum > 0).then(|| self.below(sum))?;
        for (index, weight) in weights.iter().enumerate() {
            match left.checked_sub(u64::from(*weight)) {
                None => return Some(index),
                Some(rest) => left = rest,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_within_its_bounds_and_follows_from_the_seed() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.between(Duration::from_millis(5), Duration::from_millis(9))).collect()
        };
        let drawn: Vec<Duration> = draw(7);
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
        for milliseconds in 5..=9 {
            assert!(drawn.contains(&Duration::from_millis(milliseconds)), "{milliseconds}");
        }
        assert!(drawn.iter().all(|length| (5..=9).contains(&length.as_millis())));
    }

    #[test]
    fn phases_are_spread_over_the_interval() {
        let mut random = Random::new(7);
        let limit = Duration::from_secs(1);
        let phases: Vec<Duration> = (0..1000).map(|_| random.time_below(limit)).collect();
        assert!(phases.iter().all(|phase| *phase < limit));
        for tenth in 0..10 {
            let range = limit * tenth / 10..limit * (tenth + 1) / 10;
            let count = phases.iter().filter(|phase| range.contains(phase)).count();
            assert!((50..200).contains(&count), "{count} of 1000 in tenth {tenth}");
        }
    }

    #[test]
    fn weights_count() {
        let mut random = Random::new(1);
        let mut counts = [0; 3];
        for _ in 0..1000 {
            counts[random.choose(&[1, 0, 3]).expect("there are weights")] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!(counts[0] > 150 && counts[0] < 350, "{counts:?}");
        assert_eq!(random.choose(&[0, 0]), None);
        assert_eq!(random.choose(&[]), None);
    }
}
