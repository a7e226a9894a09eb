//! When real servers left a virtual service and came back, from looks at the kernel's table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bound::{self, Measured};
use super::{Finding, Span, Verdict};
use crate::scenario::reals::{Presence, RealServersExpectation};

/// As many changes of a table are kept; what happens later is not judged but undecided.
const MAX_CHANGES: usize = 1_000_000;

/// A real server that came, went, or got another weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the last look began that found it as before: CLOCK_MONOTONIC, nanoseconds.
    pub before: u64,
    /// When the first look ended that found the change.
    pub at: u64,
    /// `172.16.193.10:80`.
    pub server: String,
    /// Its weight; none: it is not there.
    pub weight: Option<u32>,
}

/// The real servers of one virtual service over time.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// When the last look began.
    looked: Option<u64>,
    now: BTreeMap<String, u32>,
    changes: Vec<Change>,
    /// From when on changes were no longer kept.
    full: Option<u64>,
}

impl History {
    /// Takes in what a look from `began` to `ended` found; what has changed since the one before. The first look finds what was there.
    pub fn put(&mut self, began: u64, ended: u64, found: BTreeMap<String, u32>) -> Vec<Change> {
        let names: BTreeSet<&String> = self.now.keys().chain(found.keys()).collect();
        let changed: Vec<Change> = names
            .into_iter()
            .filter(|name| self.now.get(*name) != found.get(*name))
            .map(|name| Change {
                before: self.looked.unwrap_or(began),
                at: ended,
                server: name.clone(),
                weight: found.get(name).copied(),
            })
            .collect();
        if self.changes.len() + changed.len() > MAX_CHANGES {
            self.full.get_or_insert(ended);
        } else {
            self.changes.extend(changed.iter().cloned());
        }
        self.looked = Some(began);
        self.now = found;
        changed
    }

    /// The changes of a server up to the end of a window, in the order of time.
    fn of<'a>(&'a self, server: &'a str, window: Span) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().filter(move |change| change.server == server && change.at < window.until)
    }
}

/// What a weight means.
fn presence(weight: Option<u32>) -> Presence {
    match weight {
        None => Presence::Out,
        Some(0) => Presence::Quiesced,
        Some(_) => Presence::In,
    }
}

fn said(weight: Option<u32>) -> String {
    match weight {
        None => "out".into(),
        Some(weight) => format!("in with weight {weight}"),
    }
}

/// When a server became as it is to be.
enum Became {
    /// It is not so at the window's end, but so.
    Not(Option<u32>),
    /// It was so all the time.
    Before,
    /// It became so by this change, and stayed so.
    By(Change),
}

/// Judges real servers. `window` begins when the fault took effect, at the earliest: it may have been later by `uncertain`.
pub fn judge(
    expected: &RealServersExpectation,
    history: Option<&History>,
    window: Span,
    uncertain: Duration,
    lateness: &dyn Fn(Span) -> Duration,
) -> Vec<Finding> {
    let service = &expected.service;
    let Some(history) = history.filter(|history| history.looked.is_some()) else {
        let wanted = format!("{service}: its real servers");
        return vec![Finding::of(false, wanted, "the kernel's table could not be read")];
    };
    let mut findings = Vec::new();
    if let Some(are) = expected.are {
        findings.extend(state(expected, are, history, window, uncertain, lateness));
    }
    if let Some(count) = expected.changes {
        let seen =
            |server: &String| history.of(server, window).filter(|change| change.at >= window.since).count();
        let wanted = format!("{service}: {count} changes of each of {} servers", expected.servers.len());
        let counts = expected.servers.iter().map(|server| (server, seen(server)));
        let wrong: Vec<_> = counts.clone().filter(|(_, seen)| !count.admits(*seen as u64)).collect();
        let shown = match wrong.first() {
            Some((server, seen)) => format!("{} are otherwise, the first: {server} with {seen}", wrong.len()),
            None => format!("at most {}", counts.map(|(_, seen)| seen).max().unwrap_or(0)),
        };
        findings.push(Finding::of(wrong.is_empty(), wanted, shown));
    }
    if history.full.is_some_and(|full| full < window.until) {
        for finding in &mut findings {
            finding.verdict = finding.verdict.max(Verdict::Undecided);
            finding.seen = format!("{}; there were more changes than are kept", finding.seen);
        }
    }
    findings
}

fn state(
    expected: &RealServersExpectation,
    are: Presence,
    history: &History,
    window: Span,
    uncertain: Duration,
    lateness: &dyn Fn(Span) -> Duration,
) -> Vec<Finding> {
    let good = |weight: Option<u32>| {
        presence(weight) == are && expected.weight.is_none_or(|wanted| weight == Some(wanted))
    };
    let mut name = are.name().to_owned();
    if let Some(weight) = expected.weight {
        name = format!("{name} with weight {weight}");
    }
    let (service, total) = (&expected.service, expected.servers.len());
    let wanted = match &expected.servers[..] {
        [server] => format!("{service}: {server} {name}"),
        _ => format!("{service}: {total} servers {name}"),
    };
    let each: Vec<(&String, Became)> =
        expected.servers.iter().map(|server| (server, became(server, history, window, good))).collect();
    let not = each.iter().filter_map(|(server, became)| match became {
        Became::Not(weight) => Some((server, *weight)),
        _ => None,
    });
    if let Some((server, weight)) = not.clone().next() {
        let last = history.of(server, window).last().map(|change| change.at);
        let seen = format!("{} are not, the first: {server} is {}", not.count(), said(weight));
        return vec![Finding::of(false, wanted, seen).at(last)];
    }
    let Some(bound) = &expected.took else {
        return vec![Finding::of(true, wanted, format!("all {total} are"))];
    };
    if let Some((server, _)) = each.iter().find(|(_, became)| matches!(became, Became::Before)) {
        let seen = format!("{server} was so before");
        return vec![Finding::of(false, format!("{wanted}, having become so"), seen)];
    }
    let last = each.iter().filter_map(|(_, became)| match became {
        Became::By(change) => Some(change),
        _ => None,
    });
    let Some(last) = last.max_by_key(|change| change.at) else { return Vec::new() };
    let took = Span { since: window.since, until: last.at };
    let measured = Measured {
        seen: Duration::from_nanos(took.until - took.since),
        resolution: uncertain + Duration::from_nanos(last.at - last.before),
        lateness: lateness(took),
    };
    let mut finding =
        bound::judge(&format!("{wanted}: the time until then"), measured, bound).at(Some(last.at));
    if total > 1 {
        finding.seen = format!("{} (the last: {})", finding.seen, last.server);
    }
    vec![finding]
}

fn became(server: &str, history: &History, window: Span, good: impl Fn(Option<u32>) -> bool) -> Became {
    let mut weight = None;
    let mut became = if good(None) { Became::Before } else { Became::Not(None) };
    for change in history.of(server, window) {
        let was = good(weight);
        weight = change.weight;
        became = match (was, good(weight)) {
            (_, false) => Became::Not(weight),
            (true, true) => became,
            (false, true) if change.at < window.since => Became::Before,
            (false, true) => Became::By(change.clone()),
        };
    }
    became
}

#[cfg(test)]
mod tests {
    use super::super::worst;
    use super::*;
    use crate::scenario::expectation::{Bound, Count, Window};

    const MS: u64 = 1_000_000;
    const ONE: &str = "172.16.193.10:80";
    const OTHER: &str = "172.16.193.40:80";

    fn table(servers: &[(&str, u32)]) -> BTreeMap<String, u32> {
        servers.iter().map(|(server, weight)| ((*server).to_owned(), *weight)).collect()
    }

    /// Looks at 0, 500, 1000 … ms, each taking 1 ms: both, then one is out, then both, then one is quiesced.
    fn history() -> History {
        let mut history = History::default();
        let tables = [
            table(&[(ONE, 1), (OTHER, 2)]),
            table(&[(OTHER, 2)]),
            table(&[(ONE, 1), (OTHER, 2)]),
            table(&[(ONE, 0), (OTHER, 2)]),
        ];
        for (at, table) in (0u64..).map(|number| number * 500 * MS).zip(tables) {
            history.put(at, at + MS, table);
        }
        history
    }

    fn expectation(servers: &[&str]) -> RealServersExpectation {
        RealServersExpectation {
            node: "Load-Balancer".into(),
            service: "TCP 192.16.193.30:80".into(),
            servers: servers.iter().map(|server| (*server).to_owned()).collect(),
            window: Window::default(),
            are: None,
            weight: None,
            took: None,
            changes: None,
        }
    }

    fn verdict(expected: &RealServersExpectation, since: u64, until: u64, late: u64) -> Verdict {
        let window = Span { since: since * MS, until: until * MS };
        let findings =
            judge(expected, Some(&history()), window, Duration::ZERO, &|_| Duration::from_millis(late));
        assert!(!findings.is_empty());
        worst(&findings)
    }

    fn took(are: Presence, ms: u64, servers: &[&str]) -> RealServersExpectation {
        RealServersExpectation {
            are: Some(are),
            took: Some(Bound { at_most: crate::scenario::Span::from_millis(ms), from: None }),
            ..expectation(servers)
        }
    }

    #[test]
    fn what_they_are_at_the_end() {
        let are = |are, servers: &[&str]| RealServersExpectation { are: Some(are), ..expectation(servers) };
        let cases = [
            (are(Presence::Out, &[ONE]), 900, Verdict::Passed),
            (are(Presence::In, &[ONE]), 900, Verdict::Failed),
            (are(Presence::In, &[ONE, OTHER]), 1400, Verdict::Passed),
            (are(Presence::Quiesced, &[ONE]), 2000, Verdict::Passed),
            (are(Presence::Out, &[ONE]), 2000, Verdict::Failed),
            (are(Presence::In, &[ONE, OTHER]), 2000, Verdict::Failed),
            (are(Presence::Out, &["172.16.193.50:80"]), 2000, Verdict::Passed),
        ];
        for (expected, until, wanted) in cases {
            assert_eq!(verdict(&expected, 0, until, 0), wanted, "{expected:?} until {until}");
        }
        let weight = |weight| RealServersExpectation {
            are: Some(Presence::In),
            weight: Some(weight),
            ..expectation(&[OTHER])
        };
        assert_eq!(verdict(&weight(2), 0, 2000, 0), Verdict::Passed);
        assert_eq!(verdict(&weight(1), 0, 2000, 0), Verdict::Failed);
    }

    #[test]
    fn the_time_is_from_the_fault_to_the_first_look_that_finds_it() {
        // Seen out at 501 ms, in at 0 ms for the last time.
        assert_eq!(verdict(&took(Presence::Out, 401, &[ONE]), 100, 900, 0), Verdict::Passed);
        assert_eq!(
            verdict(&took(Presence::Out, 399, &[ONE]), 100, 900, 0),
            Verdict::Undecided,
            "between two looks"
        );
        assert_eq!(verdict(&took(Presence::In, 399, &[ONE]), 100, 1400, 0), Verdict::Failed);
        assert_eq!(
            verdict(&took(Presence::In, 500, &[ONE]), 100, 1400, 401),
            Verdict::Passed,
            "the machine was late"
        );
        assert_eq!(
            verdict(&took(Presence::Out, 900, &[ONE]), 600, 900, 0),
            Verdict::Failed,
            "it was out before"
        );
        assert_eq!(verdict(&took(Presence::Out, 900, &[ONE]), 100, 400, 0), Verdict::Failed, "never");
        assert_eq!(
            verdict(&took(Presence::In, 900, &[ONE, OTHER]), 100, 1400, 0),
            Verdict::Failed,
            "one never left"
        );
    }

    #[test]
    fn changes_are_counted_for_each() {
        let changes = |count, servers: &[&str]| RealServersExpectation {
            changes: Some(Count::Exactly(count)),
            ..expectation(servers)
        };
        assert_eq!(verdict(&changes(3, &[ONE]), 100, 2000, 0), Verdict::Passed);
        assert_eq!(verdict(&changes(2, &[ONE]), 100, 1400, 0), Verdict::Passed);
        assert_eq!(verdict(&changes(0, &[OTHER]), 100, 2000, 0), Verdict::Passed);
        assert_eq!(verdict(&changes(0, &[ONE, OTHER]), 100, 2000, 0), Verdict::Failed);
    }

    #[test]
    fn a_table_that_was_never_read_shows_nothing() {
        let expected = RealServersExpectation { are: Some(Presence::Out), ..expectation(&[ONE]) };
        let window = Span { since: 0, until: 1 };
        for history in [None, Some(&History::default())] {
            let findings = judge(&expected, history, window, Duration::ZERO, &|_| Duration::ZERO);
            assert_eq!(worst(&findings), Verdict::Failed);
        }
    }
}
