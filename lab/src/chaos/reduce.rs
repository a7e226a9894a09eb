//! Delta debugging (Zeller, Hildebrandt: Simplifying and isolating failure-inducing input, 2002): of a list that fails, a part that
//! fails and of which nothing can be left out.

use std::collections::BTreeMap;

/// What is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reduced {
    /// Indices into the list, in their order.
    pub(super) kept: Vec<usize>,
    /// Whether leaving out any one was tried; else the trials were ended before.
    pub(super) minimal: bool,
}

/// There are no more trials.
struct Ended;

/// Looks for the trials that fail.
struct Search<'a> {
    fails: &'a mut dyn FnMut(&[usize]) -> Option<bool>,
    known: BTreeMap<Vec<usize>, bool>,
}

impl Search<'_> {
    fn fails(&mut self, part: &[usize]) -> Option<bool> {
        if let Some(known) = self.known.get(part) {
            return Some(*known);
        }
        let fails = (self.fails)(part)?;
        self.known.insert(part.to_vec(), fails);
        Some(fails)
    }

    /// The first of these that fails, if one does.
    fn first(&mut self, parts: impl Iterator<Item = Vec<usize>>) -> Result<Option<Vec<usize>>, Ended> {
        for part in parts {
            if self.fails(&part).ok_or(Ended)? {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }
}

/// Reduces the list of `0..length`, which fails. `fails` tries a part of it, or says by `None` that there are no more trials; no part is
/// tried twice. What failed last comes last in a run, so that later parts are tried first.
pub(super) fn reduce(length: usize, fails: &mut dyn FnMut(&[usize]) -> Option<bool>) -> Reduced {
    let mut search = Search { fails, known: BTreeMap::new() };
    let mut kept: Vec<usize> = (0..length).collect();
    let mut pieces = 2;
    while kept.len() > 1 {
        let chunks: Vec<Vec<usize>> =
            kept.chunks(kept.len().div_ceil(pieces)).rev().map(<[usize]>::to_vec).collect();
        let without = |chunk: &Vec<usize>| {
            kept.iter().copied().filter(|index| !chunk.contains(index)).collect::<Vec<_>>()
        };
        let rests: Vec<Vec<usize>> = chunks.iter().rev().map(without).collect();
        let Ok(one) = search.first(chunks.into_iter()) else { return Reduced { kept, minimal: false } };
        if let Some(part) = one {
            kept = part;
            pieces = 2;
            continue;
        }
        let Ok(rest) = search.first(rests.into_iter()) else { return Reduced { kept, minimal: false } };
        if let Some(part) = rest {
            kept = part;
            pieces = (pieces - 1).max(2);
        } else if pieces >= kept.len() {
            return Reduced { kept, minimal: true };
        } else {
            pieces = (pieces * 2).min(kept.len());
        }
    }
    // Perhaps it fails by itself.
    match kept.len() {
        0 => Reduced { kept, minimal: true },
        _ => match search.fails(&[]) {
            None => Reduced { kept, minimal: false },
            Some(true) => Reduced { kept: Vec::new(), minimal: true },
            Some(false) => Reduced { kept, minimal: true },
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fails where all of `guilty` are there. Ends after `most` trials.
    fn trial(guilty: Vec<usize>, most: usize) -> impl FnMut(&[usize]) -> Option<bool> {
        let mut trials = 0;
        move |part| {
            trials += 1;
            (trials <= most).then(|| guilty.iter().all(|index| part.contains(index)))
        }
    }

    #[test]
    fn the_guilty_are_found() {
        for (length, guilty) in [
            (1, vec![0]),
            (2, vec![1]),
            (8, vec![3]),
            (8, vec![0, 7]),
            (9, vec![1, 2, 8]),
            (5, vec![0, 1, 2, 3, 4]),
            (6, vec![]),
            (0, vec![]),
        ] {
            let reduced = reduce(length, &mut trial(guilty.clone(), 1000));
            assert_eq!(reduced, Reduced { kept: guilty, minimal: true }, "of {length}");
        }
    }

    #[test]
    fn without_more_trials_it_is_what_is_known_to_fail() {
        let reduced = reduce(8, &mut trial(vec![2], 0));
        assert_eq!(reduced, Reduced { kept: (0..8).collect(), minimal: false });
        // Of eight: the later half does not fail, the earlier one does.
        let reduced = reduce(8, &mut trial(vec![2], 2));
        assert_eq!(reduced, Reduced { kept: vec![0, 1, 2, 3], minimal: false });
    }

    proptest! {
        #[test]
        fn nothing_can_be_left_out_and_nothing_is_tried_twice(
            length in 1_usize..12,
            mask in any::<u16>(),
            other in any::<u16>(),
        ) {
            // It fails for either of two reasons.
            let of = |mask: u16| (0..length).filter(|index| mask >> index & 1 == 1).collect::<Vec<_>>();
            let reasons = [of(mask), of(other)];
            let fails = |part: &[usize]| {
                reasons.iter().any(|reason| reason.iter().all(|index| part.contains(index)))
            };
            let mut tried = std::collections::BTreeSet::new();
            let reduced = reduce(length, &mut |part| {
                assert!(tried.insert(part.to_vec()), "{part:?} is tried twice");
                Some(fails(part))
            });
            prop_assert!(reduced.minimal);
            prop_assert!(fails(&reduced.kept));
            for left_out in &reduced.kept {
                let part: Vec<usize> = reduced.kept.iter().copied().filter(|index| index != left_out).collect();
                prop_assert!(!fails(&part), "{left_out} can be left out of {:?}", reduced.kept);
            }
            // Quadratic at worst.
            prop_assert!(tried.len() <= length * length + 3 * length + 1);
        }
    }
}
