//! Who claimed an address on a link, as others hear it (`claimed`).

use std::time::Duration;

use super::bound::{self, Measured};
use super::{Finding, GapKind, Span};
use crate::scenario::expectation::ClaimsExpectation;

/// A frame that said where an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When: CLOCK_MONOTONIC, nanoseconds.
    pub at: u64,
    /// The node that the hardware address belongs to, or that address.
    pub by: String,
}

/// Judges the claims of the expected address, which are in the order of time. `window` begins when the fault took effect, at the earliest:
/// it may have been later by `uncertain`.
pub fn judge(
    expected: &ClaimsExpectation,
    claims: &[Claim],
    window: Span,
    uncertain: Duration,
    lateness: &dyn Fn(Span) -> Duration,
) -> Vec<Finding> {
    let address = expected.address;
    let before = claims.iter().rev().find(|claim| claim.at < window.since).map(|claim| claim.by.as_str());
    let within: Vec<&Claim> = claims.iter().filter(|claim| window.contains(claim.at)).collect();
    let mut changes: Vec<&Claim> = Vec::new();
    let mut holder = before;
    for claim in &within {
        if holder.is_some_and(|holder| holder != claim.by) {
            changes.push(claim);
        }
        holder = Some(&claim.by);
    }
    let seen = {
        let names: Vec<&str> =
            before.into_iter().chain(changes.iter().map(|claim| claim.by.as_str())).take(MAX_SHOWN).collect();
        let names = if names.is_empty() { holder.unwrap_or("nobody") } else { &names.join(", then ") };
        format!("{} claims, by {names}", within.len())
    };
    let last_change = changes.last().map(|claim| claim.at);
    let mut findings = Vec::new();
    if let Some(by) = &expected.by {
        let good = holder == Some(by);
        findings.push(Finding::of(good, format!("{address} claimed by {by}"), seen.clone()).at(last_change));
    }
    if let Some(count) = expected.changes {
        let good = count.admits(changes.len() as u64);
        findings.push(
            Finding::of(good, format!("{count} changes of who claims {address}"), seen.clone())
                .at(last_change),
        );
    }
    if let Some(gap) = &expected.gap {
        let what = format!("the time until another node claims {address}");
        findings.push(match changes.first() {
            Some(change) => {
                let took = Span { since: window.since, until: change.at };
                let measured = Measured {
                    seen: Duration::from_nanos(took.until - took.since),
                    // The kernel stamps each frame.
                    resolution: uncertain,
                    lateness: lateness(took),
                };
                let finding = bound::judge(&what, measured, gap).at(Some(change.at));
                finding.gap(GapKind::Claimed, &address.to_string(), measured.seen)
            }
            None => Finding::of(false, what, seen),
        });
    }
    findings
}

/// As many claimants are named.
const MAX_SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use super::super::{Verdict, worst};
    use super::*;
    use crate::scenario::expectation::{Bound, Count, Window};

    const MS: u64 = 1_000_000;

    fn expectation() -> ClaimsExpectation {
        ClaimsExpectation {
            address: "192.16.193.30".parse().unwrap(),
            node: "ClientA".into(),
            interface: "enp0s3".into(),
            window: Window::default(),
            by: None,
            changes: None,
            gap: None,
        }
    }

    #[test]
    fn takeovers_are_seen_and_timed() {
        let claim = |at: u64, by: &str| Claim { at: at * MS, by: by.into() };
        let gap = |ms| Some(Bound { at_most: crate::scenario::Span::from_millis(ms), from: None });
        let takeover = [claim(10, "dir1"), claim(100, "dir2"), claim(101, "dir2")];
        let quarrel = [claim(10, "dir1"), claim(100, "dir2"), claim(120, "dir1"), claim(130, "dir2")];
        let none = [claim(10, "dir1"), claim(60, "dir1")];
        let cases: [(&str, &[Claim], ClaimsExpectation, Verdict); 9] = [
            ("in time", &takeover, ClaimsExpectation { gap: gap(50), ..expectation() }, Verdict::Passed),
            ("too late", &takeover, ClaimsExpectation { gap: gap(49), ..expectation() }, Verdict::Failed),
            ("never", &none, ClaimsExpectation { gap: gap(500), ..expectation() }, Verdict::Failed),
            (
                "by",
                &takeover,
                ClaimsExpectation { by: Some("dir2".into()), ..expectation() },
                Verdict::Passed,
            ),
            (
                "not by",
                &takeover,
                ClaimsExpectation { by: Some("dir1".into()), ..expectation() },
                Verdict::Failed,
            ),
            (
                "once",
                &takeover,
                ClaimsExpectation { changes: Some(Count::Exactly(1)), ..expectation() },
                Verdict::Passed,
            ),
            (
                "often",
                &quarrel,
                ClaimsExpectation { changes: Some(Count::Exactly(1)), ..expectation() },
                Verdict::Failed,
            ),
            (
                "thrice",
                &quarrel,
                ClaimsExpectation { changes: Some(Count::Exactly(3)), ..expectation() },
                Verdict::Passed,
            ),
            ("nobody", &[], ClaimsExpectation { by: Some("dir1".into()), ..expectation() }, Verdict::Failed),
        ];
        for (name, claims, expected, verdict) in cases {
            let findings =
                judge(&expected, claims, Span { since: 50 * MS, until: 900 * MS }, Duration::ZERO, &|_| {
                    Duration::ZERO
                });
            assert_eq!(worst(&findings), verdict, "{name}: {findings:?}");
        }
    }
}
