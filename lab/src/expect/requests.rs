//! What became of a load's requests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bound::{self, Measured};
use super::{Finding, Lateness, Span, Verdict};
use crate::programs::record::Request;
use crate::scenario::expectation::{Count, RequestsExpectation};

/// What a load was asked to do, as far as it matters for judging.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Time between two requests.
    pub interval: Duration,
    /// From when on a request counts as failed.
    pub timeout: Duration,
}

/// Judges the requests whose scheduled time is in `window`. `lateness` tells how late the machine was between two times.
pub fn judge(
    expected: &RequestsExpectation,
    load: Load,
    requests: &[Request],
    window: Span,
    lateness: &dyn Fn(Span) -> Lateness,
) -> Vec<Finding> {
    let mut requests: Vec<&Request> =
        requests.iter().filter(|request| window.contains(request.scheduled)).collect();
    requests.sort_by_key(|request| (request.scheduled, request.seq));
    let tally = Tally::of(&requests, load, lateness);
    let mut findings = Vec::new();
    if let Some(count) = expected.sent {
        findings.push(Finding::of(count.admits(tally.sent), format!("{count} sent"), tally.to_string()));
    }
    if let Some(count) = expected.ok {
        findings.push(tally.number(count, "ok", tally.ok, tally.ok, tally.ok + tally.unclear));
    }
    if let Some(count) = expected.failed {
        findings.push(tally.number(
            count,
            "failed",
            tally.failed(),
            tally.failed() - tally.unclear,
            tally.failed(),
        ));
    }
    if let Some(answerers) = &expected.answerers {
        for (name, count) in answerers {
            let seen = tally.by(name);
            let what = format!("answered by {name}");
            findings.push(tally.number(*count, &what, seen, seen, seen + tally.unclear));
        }
        for (name, seen) in &tally.answerers {
            if !answerers.contains_key(name) {
                findings.push(Finding::of(
                    false,
                    format!("none answered by {name}"),
                    format!("{seen}; {tally}"),
                ));
            }
        }
    }
    if let Some(weights) = &expected.proportion {
        findings.extend(proportion(weights, expected.tolerance.unwrap_or(1), &tally));
    }
    if expected.alternate {
        findings.push(alternate(&requests, &tally, load, lateness));
    }
    if expected.one_answerer {
        let good = tally.answerers.len() == 1;
        findings.push(Finding::of(good, "all answered by one server", tally.to_string()));
    }
    if let Some(longest) = expected.longest_gap {
        findings.push(gap(&requests, load, longest.at_most.get(), window, lateness));
    }
    findings
}

/// Requests in numbers.
struct Tally {
    sent: u64,
    ok: u64,
    /// Failed, but the machine itself was so late that this may be why.
    unclear: u64,
    answerers: BTreeMap<String, u64>,
    first_failed: Option<u64>,
    first_error: Option<String>,
}

impl Tally {
    fn of(requests: &[&Request], load: Load, lateness: &dyn Fn(Span) -> Lateness) -> Self {
        let mut tally = Self {
            sent: 0,
            ok: 0,
            unclear: 0,
            answerers: BTreeMap::new(),
            first_failed: None,
            first_error: None,
        };
        for request in requests {
            tally.sent += 1;
            if request.ok {
                tally.ok += 1;
                let name = request.answerer.clone().unwrap_or_else(|| "?".into());
                *tally.answerers.entry(name).or_default() += 1;
                continue;
            }
            tally.first_failed.get_or_insert(request.scheduled);
            if tally.first_error.is_none() {
                tally.first_error.clone_from(&request.error);
            }
            let span = Span { since: request.scheduled, until: request.ended.max(request.scheduled + 1) };
            let own = Duration::from_nanos(request.started.saturating_sub(request.scheduled));
            // An error that came before the time was up was not caused by slowness.
            let timed_out = span.until - span.since
                >= u64::try_from(load.timeout.as_nanos()).unwrap_or(u64::MAX) * 9 / 10;
            if timed_out && lateness(span).sum.max(own) > load.timeout / 4 {
                tally.unclear += 1;
            }
        }
        tally
    }

    fn failed(&self) -> u64 {
        self.sent - self.ok
    }

    fn by(&self, name: &str) -> u64 {
        self.answerers.get(name).copied().unwrap_or(0)
    }

    /// A number that may in truth be anything from `low` to `high`.
    fn number(&self, count: Count, what: &str, seen: u64, low: u64, high: u64) -> Finding {
        let mut finding = Finding::of(count.admits(seen), format!("{count} {what}"), self.to_string());
        if finding.verdict == Verdict::Failed {
            finding.at = self.first_failed;
            if self.unclear > 0 && count.admits_any(low, high) {
                finding.verdict = Verdict::Undecided;
            }
        }
        finding
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sent, {} ok, {} failed", self.sent, self.ok, self.failed())?;
        for (name, count) in &self.answerers {
            write!(f, ", {name} {count}")?;
        }
        if self.unclear > 0 {
            write!(f, "; {} of the failed while the machine itself was late", self.unclear)?;
        }
        if let Some(error) = &self.first_error {
            write!(f, "; first failure: {error}")?;
        }
        Ok(())
    }
}

fn proportion(weights: &BTreeMap<String, u32>, tolerance: u64, tally: &Tally) -> Vec<Finding> {
    let sum: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
    let shares: Vec<String> = weights.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let wanted = format!("answers in the proportion {}, each within {tolerance}", shares.join(" : "));
    let mut good = tally.ok > 0;
    for (name, weight) in weights {
        // |seen - ok * weight / sum| <= tolerance, without fractions.
        let (seen, share) = (tally.by(name) * sum, tally.ok * u64::from(*weight));
        good &= seen.abs_diff(share) <= tolerance * sum;
    }
    let mut findings = vec![Finding::of(good, wanted, tally.to_string())];
    for name in tally.answerers.keys().filter(|name| !weights.contains_key(*name)) {
        findings.push(Finding::of(false, format!("none answered by {name}"), tally.to_string()));
    }
    findings
}

/// Each answer by another server than the ones before it, until all had their turn.
fn alternate(
    requests: &[&Request],
    tally: &Tally,
    load: Load,
    lateness: &dyn Fn(Span) -> Lateness,
) -> Finding {
    let answers: Vec<&Request> = requests.iter().copied().filter(|request| request.ok).collect();
    let turns = tally.answerers.len();
    let wanted = "answers go round the servers".to_owned();
    if turns < 2 {
        return Finding::of(false, wanted, tally.to_string());
    }
    let broken = answers.windows(turns).position(|round| {
        let mut names: Vec<_> = round.iter().map(|request| request.answerer.as_deref()).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    });
    let Some(place) = broken else {
        return Finding::of(true, wanted, format!("{} answers, in turn by {turns} servers", answers.len()));
    };
    let round = &answers[place..place + turns];
    let names: Vec<&str> = round.iter().map(|request| request.answerer.as_deref().unwrap_or("?")).collect();
    let first = round[0];
    let seen = format!("from request {} on: {}; {tally}", first.seq, names.join(", "));
    let mut finding = Finding::of(false, wanted, seen).at(Some(first.scheduled));
    // Two requests that began closer to each other than they should may have overtaken each other.
    let around = Span { since: first.scheduled, until: round[turns - 1].ended.max(first.scheduled + 1) };
    if lateness(around).worst >= load.interval {
        finding.verdict = Verdict::Undecided;
    }
    finding
}

/// The longest time without a good answer: between two of them, or from the first request, or to the last.
fn gap(
    requests: &[&Request],
    load: Load,
    bound: Duration,
    window: Span,
    lateness: &dyn Fn(Span) -> Lateness,
) -> Finding {
    let mut times: Vec<u64> =
        requests.iter().filter(|request| request.ok).map(|request| request.ended).collect();
    times.sort_unstable();
    let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
        return Finding::of(false, "the longest gap between answers", "no request in that window");
    };
    let mut edges = vec![first.scheduled];
    edges.extend(times);
    edges.push(last.scheduled.min(window.until).max(edges[edges.len() - 1]));
    let (since, until) =
        edges.windows(2).map(|pair| (pair[0], pair[1])).max_by_key(|(a, b)| b - a).unwrap_or((0, 0));
    let seen = Duration::from_nanos(until - since);
    let measured = Measured {
        seen,
        resolution: load.interval,
        lateness: lateness(Span { since, until: until + 1 }).worst,
    };
    bound::judge("the longest time without a good answer", measured, bound).at(Some(since))
}

#[cfg(test)]
mod tests {
    use super::super::worst;
    use super::*;
    use crate::scenario::expectation::{Bound, Limits};

    const MS: u64 = 1_000_000;
    const LOAD: Load = Load { interval: Duration::from_millis(10), timeout: Duration::from_millis(500) };
    const ALL: Span = Span { since: 0, until: u64::MAX };

    fn expectation() -> RequestsExpectation {
        RequestsExpectation {
            load: "pages".into(),
            also: Vec::new(),
            window: crate::scenario::expectation::Window::default(),
            sent: None,
            ok: None,
            failed: None,
            answerers: None,
            proportion: None,
            tolerance: None,
            alternate: false,
            one_answerer: false,
            longest_gap: None,
        }
    }

    /// One request every 10 ms; `1` and `2` are answers of SRV1 and SRV2 after 2 ms, `x` a refusal, `t` a time-out.
    fn load(pattern: &str) -> Vec<Request> {
        let request = |(seq, c): (usize, char)| {
            let seq = seq as u64;
            let scheduled = seq * 10 * MS;
            let ended = scheduled + if c == 't' { 500 } else { 2 } * MS;
            let ok = c.is_ascii_digit();
            Request {
                seq,
                scheduled,
                started: scheduled,
                ended,
                ok,
                answerer: ok.then(|| format!("SRV{c}")),
                status: ok.then_some(200),
                error: (!ok).then(|| "refused".into()),
            }
        };
        pattern.chars().enumerate().map(request).collect()
    }

    fn verdict(expected: &RequestsExpectation, pattern: &str, late: Duration) -> Verdict {
        worst(&judge(expected, LOAD, &load(pattern), ALL, &|_| Lateness { worst: late, sum: late }))
    }

    const NONE: Duration = Duration::ZERO;

    #[test]
    fn counts() {
        let exact = |ok, failed| RequestsExpectation {
            ok: Some(Count::Exactly(ok)),
            failed: Some(Count::Exactly(failed)),
            ..expectation()
        };
        assert_eq!(verdict(&exact(3, 1), "121x", NONE), Verdict::Passed);
        assert_eq!(verdict(&exact(4, 0), "121x", NONE), Verdict::Failed);
        // A refusal is a failure however late the machine is; a time-out may be the machine's own.
        assert_eq!(verdict(&exact(4, 0), "121x", Duration::from_millis(400)), Verdict::Failed);
        assert_eq!(verdict(&exact(4, 0), "121t", Duration::from_millis(400)), Verdict::Undecided);
        assert_eq!(verdict(&exact(4, 0), "121t", NONE), Verdict::Failed);
        assert_eq!(verdict(&exact(5, 0), "121t", Duration::from_millis(400)), Verdict::Failed);
        let least = RequestsExpectation {
            ok: Some(Count::Limits(Limits { at_least: Some(3), at_most: None })),
            ..expectation()
        };
        assert_eq!(verdict(&least, "1112", NONE), Verdict::Passed);
        assert_eq!(verdict(&least, "1x2", NONE), Verdict::Failed);
    }

    #[test]
    fn answerers_and_proportions() {
        let answerers = |pairs: &[(&str, u64)]| RequestsExpectation {
            answerers: Some(pairs.iter().map(|(name, n)| ((*name).to_owned(), Count::Exactly(*n))).collect()),
            ..expectation()
        };
        assert_eq!(verdict(&answerers(&[("SRV1", 2), ("SRV2", 1)]), "121", NONE), Verdict::Passed);
        assert_eq!(verdict(&answerers(&[("SRV1", 2)]), "121", NONE), Verdict::Failed, "SRV2 is not named");
        let proportion = |one, two| RequestsExpectation {
            proportion: Some([("SRV1".to_owned(), one), ("SRV2".to_owned(), two)].into()),
            ..expectation()
        };
        assert_eq!(verdict(&proportion(1, 2), "122122122", NONE), Verdict::Passed);
        assert_eq!(verdict(&proportion(1, 2), "1221221221", NONE), Verdict::Passed, "one off, at the end");
        assert_eq!(verdict(&proportion(1, 2), "121212121212", NONE), Verdict::Failed);
        assert_eq!(verdict(&proportion(1, 2), "xxx", NONE), Verdict::Failed, "no answer is no proportion");
        assert_eq!(verdict(&proportion(1, 2), "1223", NONE), Verdict::Failed, "SRV3 is not named");
    }

    #[test]
    fn turns() {
        let expected = RequestsExpectation { alternate: true, ..expectation() };
        assert_eq!(verdict(&expected, "12121212", NONE), Verdict::Passed);
        assert_eq!(verdict(&expected, "123123", NONE), Verdict::Passed);
        assert_eq!(verdict(&expected, "12112", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected, "12112", Duration::from_millis(20)), Verdict::Undecided);
        assert_eq!(verdict(&expected, "1111", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected, "", NONE), Verdict::Failed);
        let one = RequestsExpectation { one_answerer: true, ..expectation() };
        assert_eq!(verdict(&one, "222", NONE), Verdict::Passed);
        assert_eq!(verdict(&one, "221", NONE), Verdict::Failed);
        assert_eq!(verdict(&one, "xx", NONE), Verdict::Failed);
    }

    #[test]
    fn gaps() {
        let expected = |milliseconds| RequestsExpectation {
            longest_gap: Some(Bound { at_most: crate::scenario::Span::from_millis(milliseconds) }),
            ..expectation()
        };
        // Answers at 2, 12, 52: 40 ms apart.
        assert_eq!(verdict(&expected(40), "11xxx1", NONE), Verdict::Passed);
        assert_eq!(verdict(&expected(35), "11xxx1", NONE), Verdict::Undecided);
        assert_eq!(verdict(&expected(25), "11xxx1", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected(25), "11xxx1", Duration::from_millis(20)), Verdict::Passed);
        assert_eq!(verdict(&expected(25), "xxxxxx", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected(25), "", NONE), Verdict::Failed);
    }

    #[test]
    fn windows_go_by_the_scheduled_time() {
        let expected = RequestsExpectation {
            sent: Some(Count::Exactly(2)),
            failed: Some(Count::Exactly(0)),
            ..expectation()
        };
        let window = Span { since: 10 * MS, until: 30 * MS };
        assert_eq!(
            worst(&judge(&expected, LOAD, &load("x12x"), window, &|_| Lateness::default())),
            Verdict::Passed
        );
    }
}
