//! When what is expected has to hold: now, within a time, at every look, at none.

use std::time::Duration;

use super::error::Result;
use super::play::{Player, nanoseconds};
use super::result::Judged;
use crate::expect::bound::show;
use crate::expect::{Finding, Span, Verdict, worst};
use crate::scenario::expectation::{Expectation, Kind, When};
use crate::scenario::step::Wait;
use crate::world::now;

/// Pause between two looks at something that is waited for, at least and at most.
const LOOK: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// Patience of `wait` where the scenario says nothing.
const WAIT: Duration = Duration::from_secs(30);

/// Who looks at what is expected, at the times of his clock: a run now, or a recording then.
pub(super) trait Looks {
    /// The time (CLOCK_MONOTONIC, nanoseconds).
    fn now(&self) -> u64;
    /// Judges one kind of expectation as things are. `began` is when the step began.
    fn findings(&self, kind: &Kind, began: u64) -> Result<Vec<Finding>>;
    /// Lets time pass.
    fn pause(&self, length: Duration) -> Result<()>;
    /// The worst lateness of the machine in a part of the run.
    fn worst(&self, span: Span) -> Duration;
    /// A time in seconds since the scenario began.
    fn seconds(&self, at: u64) -> f64;
}

impl Looks for Player<'_> {
    fn now(&self) -> u64 {
        now()
    }

    fn findings(&self, kind: &Kind, began: u64) -> Result<Vec<Finding>> {
        self.look(kind, began)
    }

    fn pause(&self, length: Duration) -> Result<()> {
        self.options.cancel.check()?;
        std::thread::sleep(length);
        Ok(())
    }

    fn worst(&self, span: Span) -> Duration {
        self.canary.worst(span)
    }

    fn seconds(&self, at: u64) -> f64 {
        self.timeline.seconds(at)
    }
}

/// Waits for a time, or until all holds at once.
pub(super) fn wait(looks: &impl Looks, wait: &Wait, began: u64) -> Result<Vec<Judged>> {
    if let Some(duration) = wait.duration {
        let until = began + nanoseconds(duration.get());
        while looks.now() < until {
            let left = Duration::from_nanos(until.saturating_sub(looks.now()));
            looks.pause(left.min(Duration::from_millis(50)))?;
        }
        return Ok(Vec::new());
    }
    let patience = wait.within.map_or(WAIT, crate::scenario::Span::get);
    let deadline = began + nanoseconds(patience);
    // What did not hold when it was looked at last: as long as it does not, nothing else need be looked at.
    let mut open: Option<&Expectation> = None;
    loop {
        let looked = looks.now();
        if let Some(expectation) = open
            && looked <= deadline
            && worst(&looks.findings(&expectation.kind, began)?) != Verdict::Passed
        {
            pause_after(looks, looked)?;
            continue;
        }
        let mut judged = Vec::new();
        for expectation in &wait.until {
            let findings = looks.findings(&expectation.kind, began)?;
            judged.push(Judged { kind: expectation.kind.name().into(), findings, after_seconds: None });
        }
        let ended = looks.now();
        if judged.iter().all(|one| worst(&one.findings) == Verdict::Passed) {
            for one in &mut judged {
                one.after_seconds = Some(looks.seconds(ended) - looks.seconds(began));
            }
            return Ok(judged);
        }
        if looked > deadline {
            for finding in judged.iter_mut().flat_map(|one| &mut one.findings) {
                if finding.verdict != Verdict::Passed {
                    finding.wanted = format!("within {}: {}", show(patience), finding.wanted);
                }
            }
            return Ok(judged);
        }
        let holds_not = judged.iter().position(|one| worst(&one.findings) != Verdict::Passed);
        open = holds_not.and_then(|index| wait.until.get(index));
        pause_after(looks, looked)?;
    }
}

/// Waits a moment after looks that began at `looked`.
fn pause_after(looks: &impl Looks, looked: u64) -> Result<()> {
    looks.pause(pause(Duration::from_nanos(looks.now().saturating_sub(looked))))
}

/// Judges all; those with a time are looked at again until they are decided.
pub(super) fn expect(looks: &impl Looks, expectations: &[Expectation], began: u64) -> Result<Vec<Judged>> {
    let mut judged: Vec<Option<Judged>> = expectations.iter().map(|_| None).collect();
    // When the last look at which it did not hold began.
    let mut held_not: Vec<Option<u64>> = vec![None; expectations.len()];
    loop {
        let round = looks.now();
        for (index, expectation) in expectations.iter().enumerate() {
            if judged[index].is_some() {
                continue;
            }
            let looked = looks.now();
            let findings = looks.findings(&expectation.kind, began)?;
            let seen = looks.now();
            let kind = expectation.kind.name().to_owned();
            let now = |findings| Judged { kind, findings, after_seconds: None };
            judged[index] = match expectation.when {
                When::Now => Some(now(findings)),
                When::Within(within) => {
                    let times = Times { began, looked, seen, held_not: held_not[index] };
                    in_time(looks, &expectation.kind, within.get(), times, findings)
                }
                When::Always(span) => {
                    always(span.get(), Times { began, looked, seen, held_not: None }, findings).map(now)
                }
                When::Never(span) => {
                    never(span.get(), Times { began, looked, seen, held_not: None }, findings).map(now)
                }
            };
            held_not[index] = Some(looked);
        }
        if judged.iter().all(Option::is_some) {
            return Ok(judged.into_iter().flatten().collect());
        }
        pause_after(looks, round)?;
    }
}

/// Whether it is decided that something came true in time, and how.
fn in_time(
    looks: &impl Looks,
    kind: &Kind,
    within: Duration,
    times: Times,
    mut findings: Vec<Finding>,
) -> Option<Judged> {
    let lateness = looks.worst(Span { since: times.began, until: times.seen });
    let deadline = times.began + nanoseconds(within + lateness);
    let limit = format!(
        "within {} ({} + {} lateness of the machine)",
        show(within + lateness),
        show(within),
        show(lateness)
    );
    let holds = worst(&findings) == Verdict::Passed;
    if !holds && times.looked <= deadline {
        return None;
    }
    let after = looks.seconds(times.seen) - looks.seconds(times.began);
    let verdict = match (holds, times.held_not) {
        (true, _) if times.seen <= deadline => Verdict::Passed,
        // It came true between two looks, of which one was in time and the other was not.
        (true, None) => Verdict::Undecided,
        (true, Some(held_not)) if held_not <= deadline => Verdict::Undecided,
        _ => Verdict::Failed,
    };
    for finding in &mut findings {
        if holds || finding.verdict != Verdict::Passed {
            finding.verdict = verdict;
            finding.wanted = format!("{limit}: {}", finding.wanted);
        }
        if holds {
            finding.seen =
                format!("after at most {}: {}", show(Duration::from_secs_f64(after.max(0.0))), finding.seen);
        }
    }
    Some(Judged { kind: kind.name().into(), findings, after_seconds: holds.then_some(after) })
}

/// How long to wait after looks that took so long. Looking is work for the machine, often that of starting a program, and must leave most
/// of it to what is looked at.
fn pause(took: Duration) -> Duration {
    (took * 2).clamp(LOOK[0], LOOK[1])
}

/// When a look at something with a time was made.
struct Times {
    began: u64,
    looked: u64,
    seen: u64,
    held_not: Option<u64>,
}

/// What has to hold at every look: decided at the first at which it does not, and else when its time is over.
fn always(span: Duration, times: Times, mut findings: Vec<Finding>) -> Option<Vec<Finding>> {
    let verdict = worst(&findings);
    if verdict == Verdict::Passed && times.seen < times.began + nanoseconds(span) {
        return None;
    }
    for finding in &mut findings {
        finding.wanted = format!("always, for {}: {}", show(span), finding.wanted);
        if finding.verdict != Verdict::Passed {
            finding.at = finding.at.or(Some(times.looked));
        }
    }
    Some(findings)
}

/// What must hold at no look: decided at the first at which it does, and else when its time is over.
fn never(span: Duration, times: Times, findings: Vec<Finding>) -> Option<Vec<Finding>> {
    let verdict = worst(&findings);
    if verdict == Verdict::Failed && times.seen < times.began + nanoseconds(span) {
        return None;
    }
    let all = |part: fn(&Finding) -> &String| {
        findings.iter().map(|finding| part(finding).as_str()).collect::<Vec<_>>().join("; and ")
    };
    let wanted = format!("never, for {}: {}", show(span), all(|finding| &finding.wanted));
    let seen = match verdict {
        Verdict::Passed => format!("it is so: {}", all(|finding| &finding.seen)),
        Verdict::Undecided => format!("it may be so: {}", all(|finding| &finding.seen)),
        Verdict::Failed => format!("at no look, at the last {}", all(|finding| &finding.seen)),
    };
    let mut finding = Finding::of(verdict == Verdict::Failed, wanted, seen);
    if verdict == Verdict::Undecided {
        finding.verdict = verdict;
    }
    let at = (finding.verdict != Verdict::Passed).then_some(times.looked);
    Some(vec![finding.at(at)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at_ms: u64) -> Times {
        Times { began: 0, looked: at_ms * 1_000_000, seen: at_ms * 1_000_000 + 1000, held_not: None }
    }

    fn found(verdict: Verdict) -> Vec<Finding> {
        let finding = |verdict| Finding { verdict, ..Finding::of(true, "a page", "of SRV1") };
        vec![finding(Verdict::Passed), finding(verdict)]
    }

    #[test]
    fn always_ends_with_the_first_look_at_which_it_does_not_hold() {
        let span = Duration::from_secs(1);
        assert!(always(span, look(0), found(Verdict::Passed)).is_none(), "not yet decided");
        let passed = always(span, look(1000), found(Verdict::Passed)).unwrap();
        assert_eq!(worst(&passed), Verdict::Passed);
        for verdict in [Verdict::Failed, Verdict::Undecided] {
            let findings = always(span, look(300), found(verdict)).unwrap();
            assert_eq!(worst(&findings), verdict);
            assert_eq!(findings[1].at, Some(300_000_000));
            assert!(findings[1].wanted.starts_with("always, for 1"), "{}", findings[1].wanted);
        }
    }

    #[test]
    fn never_ends_with_the_first_look_at_which_it_holds() {
        let span = Duration::from_secs(1);
        assert!(never(span, look(0), found(Verdict::Failed)).is_none(), "not yet decided");
        let passed = never(span, look(1000), found(Verdict::Failed)).unwrap();
        assert_eq!((worst(&passed), passed.len(), passed[0].at), (Verdict::Passed, 1, None));
        let failed = never(span, look(300), found(Verdict::Passed)).unwrap();
        assert_eq!((worst(&failed), failed[0].at), (Verdict::Failed, Some(300_000_000)));
        assert!(failed[0].wanted.contains("a page; and a page"), "{}", failed[0].wanted);
        assert_eq!(worst(&never(span, look(300), found(Verdict::Undecided)).unwrap()), Verdict::Undecided);
    }

    #[test]
    fn looking_takes_a_third_of_the_time_at_most() {
        let milliseconds = |took| pause(Duration::from_millis(took)).as_millis();
        assert_eq!(milliseconds(0), 10);
        assert_eq!(milliseconds(4), 10);
        assert_eq!(milliseconds(200), 400);
        assert_eq!(milliseconds(3000), 1000, "what comes true is still seen soon");
    }
}
