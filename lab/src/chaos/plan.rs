//! What is broken when: drawn from a seed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::menu::{Effect, Part};
use crate::random::Random;
use crate::scenario::{Fault, Span};

/// The most faults of a plan: a scenario has at most 256 steps, and each fault takes up to ten.
pub(super) const MAX_FAULTS: usize = 20;
/// As many are there at once at most.
const MAX_AT_ONCE: usize = 2;
/// Between a fault that may come and its coming.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(4)];
/// How long a fault stays after it is noticed.
const STAY: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(7)];

/// A fault and its heal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) fault: Fault,
    /// When it comes, since chaos began.
    pub(super) at: Duration,
    /// When it is healed.
    pub(super) until: Duration,
    pub(super) effect: Effect,
    /// After how long it, or its heal, may be felt no more.
    pub(super) notice: Duration,
    /// How long after its heal everything is as before.
    pub(super) settle: Duration,
}

/// Draws faults for a time, in the order of their coming. At the end all are healed and settled.
pub(super) fn draw(parts: &[Part], seed: u64, duration: Duration) -> Vec<Pair> {
    let mut random = Random::new(seed);
    let mut pairs: Vec<Pair> = Vec::new();
    // When each part may be broken again.
    let mut free = vec![Duration::ZERO; parts.len()];
    let mut now = Duration::ZERO;
    while pairs.len() < MAX_FAULTS {
        now += random.between(PAUSE[0], PAUSE[1]);
        let there = |at: Duration| pairs.iter().filter(|pair| pair.until > at).count();
        if there(now) >= MAX_AT_ONCE {
            now = pairs.iter().map(|pair| pair.until).filter(|until| *until > now).min().unwrap_or(now);
        }
        let open: Vec<usize> = (0..parts.len()).filter(|part| free[*part] <= now).collect();
        let Some(part) = open.get(usize::try_from(random.below(open.len() as u64)).unwrap_or(0)).copied()
        else {
            match free.iter().min() {
                Some(soonest) => now = *soonest,
                None => return pairs,
            }
            continue;
        };
        let Part { entries, notice, settle } = &parts[part];
        let Some(entry) = random.choose(&parts[part].weights()).and_then(|index| entries.get(index)) else {
            return pairs;
        };
        let until = now + *notice + random.between(STAY[0], STAY[1]);
        if until + *settle > duration {
            return pairs;
        }
        free[part] = until + *settle;
        pairs.push(Pair {
            fault: entry.fault.clone(),
            at: now,
            until,
            effect: entry.effect,
            notice: *notice,
            settle: *settle,
        });
    }
    pairs
}

/// The same without the times in which nothing happens: where all is settled, the next fault comes at once.
pub(super) fn close_up(pairs: &[Pair]) -> Vec<Pair> {
    let mut closed: Vec<Pair> = Vec::new();
    let mut shift = Duration::ZERO;
    // When all of the earlier ones are settled, as they were drawn.
    let mut settled = Duration::ZERO;
    for pair in pairs {
        shift += pair.at.saturating_sub(settled);
        settled = settled.max(pair.until + pair.settle);
        closed.push(Pair {
            at: pair.at.saturating_sub(shift),
            until: pair.until.saturating_sub(shift),
            ..pair.clone()
        });
    }
    closed
}

/// The kinds that are in it, each once.
pub(super) fn kinds(pairs: &[Pair]) -> BTreeSet<&'static str> {
    pairs.iter().map(|pair| pair.fault.kind()).collect()
}

/// A line for each fault: from when, until when, what.
pub(super) fn print(pairs: &[Pair]) -> String {
    let seconds = |time: Duration| format!("{:7.3}", time.as_secs_f64());
    let line = |pair: &Pair| format!("  {} – {} s  {}\n", seconds(pair.at), seconds(pair.until), pair.fault);
    pairs.iter().map(line).collect()
}

/// A length in whole milliseconds, rounded up.
pub(super) fn span(length: Duration) -> Span {
    Span::from_millis(u64::try_from(length.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 2))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::menu::menu;
    use super::super::site::Site;
    use super::*;
    use crate::scenario::resolve;

    /// What is drawn for a scenario that ships.
    pub(in crate::chaos) fn drawn(name: &str, seed: u64, duration: Duration) -> (Vec<Part>, Vec<Pair>) {
        let topology = resolve(name).expect("it ships").topology;
        let parts = menu(&Site::of(&topology).expect("chaos knows it"), &topology, &BTreeSet::new());
        let pairs = draw(&parts, seed, duration);
        (parts, pairs)
    }

    #[test]
    fn the_same_seed_is_the_same_plan() {
        let print_of = |seed| print(&drawn("tp-complete", seed, Duration::from_secs(120)).1);
        assert_eq!(print_of(1), print_of(1));
        assert_ne!(print_of(1), print_of(2));
        insta::assert_snapshot!(print_of(1));
    }

    #[test]
    fn every_kind_comes_up() {
        let all: BTreeSet<&str> = (0..200)
            .flat_map(|seed| kinds(&drawn("tp-complete", seed, Duration::from_secs(120)).1))
            .collect();
        for kind in
            ["adminDown", "blackhole", "carrierLost", "crash", "diskFull", "freezeAgent", "freezeNode"]
        {
            assert!(all.contains(kind), "{kind}");
        }
        for kind in ["killAgent", "partition", "reboot", "stopService"] {
            assert!(all.contains(kind), "{kind}");
        }
    }

    #[test]
    fn nothing_to_break_is_an_empty_plan() {
        assert_eq!(draw(&[], 1, Duration::from_secs(60)), []);
        assert_eq!(drawn("tp-complete", 1, Duration::from_secs(1)).1, []);
    }

    #[test]
    fn times_in_which_nothing_happens_go() {
        let (_, pairs) = drawn("tp-complete", 3, Duration::from_secs(300));
        let last = pairs.last().expect("some are drawn").clone();
        let alone = close_up(std::slice::from_ref(&last));
        assert_eq!((alone[0].at, alone[0].until), (Duration::ZERO, last.until.saturating_sub(last.at)));
    }

    proptest! {
        #[test]
        fn one_of_a_part_at_a_time_two_in_all_and_all_healed(seed in any::<u64>(), seconds in 0_u64..600) {
            let duration = Duration::from_secs(seconds);
            let (parts, pairs) = drawn("tp-complete", seed, duration);
            prop_assert!(pairs.len() <= MAX_FAULTS);
            prop_assert!(pairs.is_sorted_by_key(|pair| pair.at));
            let part_of = |pair: &Pair| {
                parts.iter().position(|part| part.entries.iter().any(|entry| entry.fault == pair.fault))
            };
            for (index, pair) in pairs.iter().enumerate() {
                prop_assert!(pair.at + pair.notice + STAY[0] <= pair.until);
                prop_assert!(pair.until + pair.settle <= duration);
                let there = pairs.iter().filter(|other| other.at <= pair.at && pair.at < other.until).count();
                prop_assert!(there <= MAX_AT_ONCE);
                for later in &pairs[index + 1..] {
                    if part_of(later) == part_of(pair) {
                        prop_assert!(later.at >= pair.until + pair.settle);
                    }
                }
            }
        }

        #[test]
        fn closing_up_keeps_order_lengths_and_overlaps(seed in any::<u64>(), mask in any::<u32>()) {
            let (_, pairs) = drawn("tp-complete", seed, Duration::from_secs(300));
            let kept: Vec<Pair> =
                pairs.into_iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1).map(|(_, pair)| pair).collect();
            let closed = close_up(&kept);
            let again = close_up(&closed);
            prop_assert_eq!(again.as_slice(), closed.as_slice(), "once is enough");
            for (before, after) in kept.iter().zip(&closed) {
                prop_assert!(after.at <= before.at);
                prop_assert_eq!(after.until.abs_diff(after.at), before.until.abs_diff(before.at));
            }
            for ((one, next), (one_after, next_after)) in
                kept.iter().zip(kept.iter().skip(1)).zip(closed.iter().zip(closed.iter().skip(1)))
            {
                prop_assert!(next_after.at >= one_after.at);
                prop_assert_eq!(next.at < one.until, next_after.at < one_after.until);
                if next.at < one.until + one.settle {
                    prop_assert_eq!(next.at.abs_diff(one.at), next_after.at.abs_diff(one_after.at));
                }
            }
        }
    }
}
