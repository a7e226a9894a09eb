//! Lengths of time against bounds, honest about what the measure can tell.

use std::time::Duration;

use super::{Finding, Verdict};
use crate::scenario::expectation::Bound;

/// How a length of time was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// What was seen. The truth is at most this much,
    pub seen: Duration,
    /// and at least this much less: the distance of two probes, or of two looks.
    pub resolution: Duration,
    /// The lateness of the canary in that window: a delay of the machine, not of what is tested.
    pub lateness: Duration,
}

/// Judges a measured length against a bound.
///
/// The limit is the bound plus the lateness. Beyond the limit by no more than the resolution nobody can tell; neither when the
/// machine was later than the whole bound.
pub fn judge(what: &str, measured: Measured, bound: &Bound) -> Finding {
    let Measured { seen, resolution, lateness } = measured;
    let (bound, from) = (bound.at_most.get(), bound.from.as_deref());
    let limit = bound + lateness;
    let verdict = if seen <= bound {
        Verdict::Passed
    } else if lateness > bound {
        Verdict::Undecided
    } else if seen <= limit {
        Verdict::Passed
    } else if seen.saturating_sub(resolution) <= limit {
        Verdict::Undecided
    } else {
        Verdict::Failed
    };
    let mut wanted = format!("{what} at most {} ({}", show(limit), show(bound));
    if let Some(from) = from {
        wanted = format!("{wanted} = {from}");
    }
    if lateness.is_zero() {
        wanted.push(')');
    } else {
        wanted = format!("{wanted} + {} lateness of the machine)", show(lateness));
    }
    let mut seen = show(seen);
    if !resolution.is_zero() {
        seen = format!("{seen}, to within {}", show(resolution));
    }
    Finding { verdict, wanted, seen, at: None, at_seconds: None, gap: None }
}

/// A length of time as people read it: `12.3 ms`, `1.25 s`.
pub fn show(length: Duration) -> String {
    let milliseconds = length.as_secs_f64() * 1000.0;
    if milliseconds < 1000.0 {
        let text = format!("{milliseconds:.1}");
        format!("{} ms", text.strip_suffix(".0").unwrap_or(&text))
    } else {
        format!("{:.2} s", milliseconds / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_allowed_for_and_coarseness_is_said() {
        let ms = Duration::from_millis;
        let cases = [
            // seen, resolution, lateness, bound, verdict
            (90, 10, 0, 100, Verdict::Passed),
            (100, 0, 0, 100, Verdict::Passed),
            (101, 0, 0, 100, Verdict::Failed),
            (101, 10, 0, 100, Verdict::Undecided),
            (110, 10, 0, 100, Verdict::Undecided),
            (111, 10, 0, 100, Verdict::Failed),
            (111, 0, 20, 100, Verdict::Passed),
            (121, 0, 20, 100, Verdict::Failed),
            // The machine stood still for longer than the bound: whatever was seen beyond it says nothing.
            (150, 0, 101, 100, Verdict::Undecided),
            (5000, 0, 101, 100, Verdict::Undecided),
            (99, 0, 101, 100, Verdict::Passed),
        ];
        for (seen, resolution, lateness, bound, verdict) in cases {
            let measured = Measured { seen: ms(seen), resolution: ms(resolution), lateness: ms(lateness) };
            let finding = judge(
                "a gap",
                measured,
                &Bound { at_most: crate::scenario::Span::from_millis(bound), from: None },
            );
            assert_eq!(finding.verdict, verdict, "{measured:?} against {bound}: {finding:?}");
        }
    }

    #[test]
    fn bounds_are_printed_with_what_they_are_made_of() {
        let measured = Measured {
            seen: Duration::from_millis(1250),
            resolution: Duration::from_millis(10),
            lateness: Duration::from_micros(12_340),
        };
        let bound = |from: Option<&str>| Bound {
            at_most: crate::scenario::Span::from_secs(1),
            from: from.map(str::to_owned),
        };
        let finding = judge("the longest gap", measured, &bound(None));
        assert_eq!(
            finding.wanted,
            "the longest gap at most 1.01 s (1.00 s + 12.3 ms lateness of the machine)"
        );
        assert_eq!(finding.seen, "1.25 s, to within 10 ms");
        let finding =
            judge("it", Measured { lateness: Duration::ZERO, ..measured }, &bound(Some("3 intervals")));
        assert_eq!(finding.wanted, "it at most 1.00 s (1.00 s = 3 intervals)");
    }
}
