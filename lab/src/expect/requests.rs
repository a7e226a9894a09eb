//! What became of a load's requests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bound::{self, Measured};
use super::tally::{Tally, Times};
use super::{Finding, GapKind, Lateness, Span, Verdict};
use crate::programs::record::Request;
use crate::scenario::expectation::{Bound, RequestsExpectation};

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
        findings.push(alternate(&tally, load, lateness));
    }
    if expected.one_answerer {
        let good = tally.answerers.len() == 1;
        let mut finding = Finding::of(good, "all answered by one server", tally.to_string());
        // After one that was given up the next may come from another port, which is another client.
        if !good && tally.unclear > 0 {
            finding.verdict = Verdict::Undecided;
        }
        findings.push(finding);
    }
    if let Some(longest) = &expected.longest_gap {
        findings.push(gap(expected, &requests, &tally, load, longest, window, lateness));
    }
    findings
}

fn proportion(weights: &BTreeMap<String, u32>, tolerance: u64, tally: &Tally) -> Vec<Finding> {
    let sum: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
    let shares: Vec<String> = weights.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let wanted = format!("answers in the proportion {}, each within {tolerance}", shares.join(" : "));
    let good = tally.ok > 0 && fits(weights, sum, tolerance, tally, 0);
    let mut finding = Finding::of(good, wanted, tally.to_string());
    if !good && (1..=tally.unclear).any(|unclear| fits(weights, sum, tolerance, tally, unclear)) {
        finding.verdict = Verdict::Undecided;
    }
    let mut findings = vec![finding];
    for name in tally.answerers.keys().filter(|name| !weights.contains_key(*name)) {
        findings.push(Finding::of(false, format!("none answered by {name}"), tally.to_string()));
    }
    findings
}

/// Whether the answers would have the proportion, had `unclear` more been answered by whoever fits best.
fn fits(weights: &BTreeMap<String, u32>, sum: u64, tolerance: u64, tally: &Tally, unclear: u64) -> bool {
    // What each needs at least and may get at most so that |seen + more - all * weight / sum| <= tolerance, without fractions.
    let (mut least, mut most) = (0, 0);
    for (name, weight) in weights {
        let share = (tally.ok + unclear) * u64::from(*weight);
        let seen = tally.by(name) * sum;
        let Some(room) = (share + tolerance * sum).checked_sub(seen) else { return false };
        let (low, high) = (share.saturating_sub(tolerance * sum + seen).div_ceil(sum), room / sum);
        if low > high {
            return false;
        }
        least += low;
        most += high;
    }
    (least..=most).contains(&unclear)
}

/// Where a server comes a second time before the others among as many turns as there are servers had theirs.
fn out_of_turn(turns: &[&(Option<String>, Times)], servers: usize) -> Option<usize> {
    turns.windows(servers).position(|round| {
        let mut names: Vec<_> = round.iter().filter_map(|(name, _)| name.as_deref()).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    })
}

/// Each answer by another server than the ones before it, until all had their turn. One whose failure may be the machine's own may
/// have been any server's turn.
fn alternate(tally: &Tally, load: Load, lateness: &dyn Fn(Span) -> Lateness) -> Finding {
    let servers = tally.answerers.len();
    let wanted = "answers go round the servers".to_owned();
    if servers < 2 {
        let mut finding = Finding::of(false, wanted, tally.to_string());
        if tally.unclear > 0 {
            finding.verdict = Verdict::Undecided;
        }
        return finding;
    }
    let all: Vec<_> = tally.turns.iter().collect();
    let known: Vec<_> = tally.turns.iter().filter(|(name, _)| name.is_some()).collect();
    let Some(place) = out_of_turn(&known, servers) else {
        return Finding::of(true, wanted, format!("{} answers, in turn by {servers} servers", known.len()));
    };
    let certain = out_of_turn(&all, servers);
    let round = match certain {
        Some(place) => &all[place..place + servers],
        None => &known[place..place + servers],
    };
    let names: Vec<&str> = round.iter().map(|(name, _)| name.as_deref().unwrap_or("(unclear)")).collect();
    let (first, last) = (round[0].1, round[servers - 1].1);
    let seen = format!("from request {} on: {}; {tally}", first.seq, names.join(", "));
    let mut finding = Finding::of(false, wanted, seen).at(Some(first.scheduled));
    // Two requests that began closer to each other than they should may have overtaken each other.
    let around = Span { since: first.scheduled, until: last.ended.max(first.scheduled + 1) };
    let own = round.iter().map(|(_, times)| times.own()).max().unwrap_or_default();
    if certain.is_none() || lateness(around).worst.max(own) >= load.interval {
        finding.verdict = Verdict::Undecided;
    }
    finding
}

/// The longest time without a good answer: between two of them, from when the first request was to begin, or until the last was given
/// up. Without any good answer there is no length to measure, and no bound that it keeps.
fn gap(
    expected: &RequestsExpectation,
    requests: &[&Request],
    tally: &Tally,
    load: Load,
    bound: &Bound,
    window: Span,
    lateness: &dyn Fn(Span) -> Lateness,
) -> Finding {
    let mut times: Vec<u64> =
        requests.iter().filter(|request| request.ok).map(|request| request.ended).collect();
    times.sort_unstable();
    let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
        return Finding::of(false, "the longest gap between answers", "no request in that window");
    };
    let Some(last_good) = times.last().copied() else {
        let wanted =
            format!("the longest time without a good answer at most {}", bound::show(bound.at_most.get()));
        let seen = format!("none of {} requests was answered", requests.len());
        let mut finding = Finding::of(false, wanted, seen).at(Some(first.scheduled));
        if tally.unclear == tally.sent {
            finding.verdict = Verdict::Undecided;
        }
        return finding;
    };
    let mut edges = vec![first.scheduled];
    edges.extend(times);
    // What failed after the last good answer had still not been answered when it ended.
    let given_up = requests.iter().filter(|request| !request.ok && request.ended > last_good);
    let end = given_up.map(|request| request.ended).fold(last.scheduled, u64::max);
    edges.push(end.min(window.until).max(last_good));
    let (since, until) =
        edges.windows(2).map(|pair| (pair[0], pair[1])).max_by_key(|(a, b)| b - a).unwrap_or((0, 0));
    let seen = Duration::from_nanos(until - since);
    let measured = Measured {
        seen,
        resolution: load.interval,
        lateness: lateness(Span { since, until: until + 1 }).of_a_chain(),
    };
    let finding = bound::judge("the longest time without a good answer", measured, bound).at(Some(since));
    finding.gap(GapKind::Served, &expected.load, seen)
}

#[cfg(test)]
mod tests {
    use super::super::worst;
    use super::*;
    use crate::scenario::expectation::{Count, Limits};

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
                again: false,
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
        // Connected by its second SYN, after a second: an error of its own, unless the machine stood still.
        let again = |late| {
            let mut requests = load("121x");
            requests[3].again = true;
            worst(&judge(&exact(4, 0), LOAD, &requests, ALL, &|_| Lateness { worst: late, sum: late }))
        };
        assert_eq!(again(NONE), Verdict::Failed);
        assert_eq!(again(Duration::from_millis(400)), Verdict::Undecided);
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
        let late = Duration::from_millis(400);
        assert_eq!(verdict(&proportion(1, 1), "11111ttt22", late), Verdict::Undecided, "5 : 5 as well");
        assert_eq!(verdict(&proportion(1, 1), "11111ttt22", NONE), Verdict::Failed);
        assert_eq!(verdict(&proportion(1, 1), "1111111tt2", late), Verdict::Failed, "7 : 3 at best");
        assert_eq!(verdict(&proportion(1, 1), "ttt", late), Verdict::Undecided);
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
        // `t` was given up while the machine was late: it may have been anybody's turn.
        let late = Duration::from_millis(400);
        // Often, but never by as much as two requests are apart.
        let often = |pattern: &str| {
            let lateness = Lateness { worst: Duration::from_millis(5), sum: late };
            worst(&judge(&expected, LOAD, &load(pattern), ALL, &|_| lateness))
        };
        assert_eq!(often("12t21212"), Verdict::Undecided);
        assert_eq!(often("123t231"), Verdict::Undecided);
        assert_eq!(often("12t12"), Verdict::Passed);
        assert_eq!(often("12t1221"), Verdict::Failed, "broken whatever became of `t`");
        assert_eq!(often("1t1"), Verdict::Undecided);
        assert_eq!(verdict(&expected, "12t21212", NONE), Verdict::Failed, "the machine was not late");
        assert_eq!(verdict(&expected, "1t1", NONE), Verdict::Failed);
        // The load itself was later than its interval, which a thread that only sleeps need not have seen.
        let mut requests = load("12112");
        requests[2].started += 15 * MS;
        let judged = judge(&expected, LOAD, &requests, ALL, &|_| Lateness::default());
        assert_eq!(worst(&judged), Verdict::Undecided);
        let one = RequestsExpectation { one_answerer: true, ..expectation() };
        assert_eq!(verdict(&one, "222", NONE), Verdict::Passed);
        assert_eq!(verdict(&one, "221", NONE), Verdict::Failed);
        assert_eq!(verdict(&one, "xx", NONE), Verdict::Failed);
        assert_eq!(verdict(&one, "22t1", late), Verdict::Undecided, "the next request has another port");
        assert_eq!(verdict(&one, "22t1", NONE), Verdict::Failed);
    }

    #[test]
    fn gaps() {
        let expected = |milliseconds| RequestsExpectation {
            longest_gap: Some(Bound {
                at_most: crate::scenario::Span::from_millis(milliseconds),
                from: None,
            }),
            ..expectation()
        };
        // Answers at 2, 12, 52: 40 ms apart.
        assert_eq!(verdict(&expected(40), "11xxx1", NONE), Verdict::Passed);
        assert_eq!(verdict(&expected(35), "11xxx1", NONE), Verdict::Undecided);
        assert_eq!(verdict(&expected(25), "11xxx1", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected(25), "11xxx1", Duration::from_millis(20)), Verdict::Passed);
        assert_eq!(verdict(&expected(25), "xxxxxx", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected(25), "", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected(5000), "xxxxxx", NONE), Verdict::Failed, "nothing was ever answered");
        assert_eq!(verdict(&expected(5000), "tttttt", NONE), Verdict::Failed);
        // The last good answer at 2 ms; the last request was given up at 520.
        assert_eq!(verdict(&expected(400), "1tt", NONE), Verdict::Failed);
        assert_eq!(verdict(&expected(520), "1tt", NONE), Verdict::Passed);
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
