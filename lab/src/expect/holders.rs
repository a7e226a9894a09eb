//! Who had an address, from what the kernels notified (`held`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::bound::{self, Measured};
use super::{Finding, GapKind, Span, Verdict};
use crate::scenario::expectation::{Bound, HoldersExpectation, RestExpectation};
use crate::scenario::topology::Name;
use crate::world::{Event, Watched};

/// One change of who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    at: u64,
    node: String,
    interface: String,
    added: bool,
}

/// All changes of all addresses, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: BTreeMap<IpAddr, Vec<Change>>,
    /// When notifications were lost, in which node.
    lost: Vec<(u64, String)>,
}

impl History {
    /// Takes a notification in.
    pub fn put(&mut self, watched: &Watched) {
        let (address, interface, added) = match &watched.event {
            Event::AddressAdded { address, interface, .. } => (address, interface, true),
            Event::AddressRemoved { address, interface, .. } => (address, interface, false),
            Event::Lost { .. } => {
                self.lost.push((watched.at, watched.node.clone()));
                return;
            }
            Event::Link { .. } | Event::LinkGone { .. } => return,
        };
        self.changes.entry(*address).or_default().push(Change {
            at: watched.at,
            node: watched.node.clone(),
            interface: interface.clone(),
            added,
        });
    }

    /// What concerns an address on some nodes, none named: on all.
    fn only(&self, address: IpAddr, among: &[Name]) -> Self {
        let counts = |node: &str| among.is_empty() || among.iter().any(|name| &**name == node);
        let changes = self.changes.get(&address).into_iter().flatten().filter(|change| counts(&change.node));
        let changes: Vec<Change> = changes.cloned().collect();
        let lost = self.lost.iter().filter(|(_, node)| counts(node)).cloned().collect();
        let changes = if changes.is_empty() { BTreeMap::new() } else { [(address, changes)].into() };
        Self { changes, lost }
    }

    /// Only who has which address at the end of what was taken in, since when; and what was lost, after which that is not certain.
    #[must_use]
    pub fn present(&self) -> Self {
        let mut present = Self { changes: BTreeMap::new(), lost: self.lost.clone() };
        for (address, changes) in &self.changes {
            let mut held: BTreeMap<(&str, &str), &Change> = BTreeMap::new();
            for change in changes {
                let place = (change.node.as_str(), change.interface.as_str());
                if change.added {
                    held.insert(place, change);
                } else {
                    held.remove(&place);
                }
            }
            let mut changes: Vec<Change> = held.into_values().cloned().collect();
            changes.sort_by_key(|change| change.at);
            if !changes.is_empty() {
                present.changes.insert(*address, changes);
            }
        }
        present
    }

    /// The nodes that have it at the end of what was taken in.
    pub fn holders(&self, address: IpAddr) -> BTreeSet<&str> {
        let mut held = BTreeSet::new();
        for change in self.changes.get(&address).into_iter().flatten() {
            let place = (change.node.as_str(), change.interface.as_str());
            if change.added {
                held.insert(place);
            } else {
                held.remove(&place);
            }
        }
        held.into_iter().map(|(node, _)| node).collect()
    }

    /// The periods with the number of nodes that had it, in order; the last one ends at `until`.
    fn periods(&self, address: IpAddr, until: u64) -> Vec<(Span, usize)> {
        let mut changes: Vec<&Change> = self.changes.get(&address).into_iter().flatten().collect();
        // Nodes are watched side by side: their notifications may come a little out of order.
        changes.sort_by_key(|change| change.at);
        let mut held = BTreeSet::new();
        let mut periods: Vec<(Span, usize)> = Vec::new();
        for change in changes {
            let place = (change.node.as_str(), change.interface.as_str());
            if change.added {
                held.insert(place);
            } else {
                held.remove(&place);
            }
            let nodes: BTreeSet<&str> = held.iter().map(|(node, _)| *node).collect();
            if let Some((span, _)) = periods.last_mut() {
                span.until = change.at;
            }
            periods.push((Span { since: change.at, until }, nodes.len()));
        }
        periods
    }

    /// The longest time within `window` in which the number of holders was as `wanted` says, and when it began. Before the first time that
    /// somebody had it there is no gap.
    fn longest(
        &self,
        address: IpAddr,
        window: Span,
        wanted: impl Fn(usize) -> bool,
    ) -> (Duration, Option<u64>) {
        let mut longest = (Duration::ZERO, None);
        let mut run: Option<Span> = None;
        for (span, nodes) in self.periods(address, window.until) {
            let part = Span { since: span.since.max(window.since), until: span.until.min(window.until) };
            if !wanted(nodes) || part.since >= part.until {
                if !wanted(nodes) {
                    run = None;
                }
                continue;
            }
            let whole = run.map_or(part, |before| Span { since: before.since, until: part.until });
            run = Some(whole);
            let length = Duration::from_nanos(whole.until - whole.since);
            if length > longest.0 {
                longest = (length, Some(whole.since));
            }
        }
        longest
    }
}

/// Judges whether no address came or went for a while before `now`.
pub fn at_rest(expected: &RestExpectation, history: &History, now: u64) -> Finding {
    let counts = |node: &str| expected.nodes.is_empty() || expected.nodes.iter().any(|name| &**name == node);
    let changes = history.changes.iter().flat_map(|(address, changes)| {
        changes.iter().filter(|change| counts(&change.node)).map(move |change| (*address, change))
    });
    let quiet = expected.quiet_for;
    let nodes: Vec<&str> = expected.nodes.iter().map(|name| &**name).collect();
    let place = if nodes.is_empty() { "any node".to_owned() } else { nodes.join(", ") };
    let wanted = format!("no address comes or goes on {place} for {quiet}");
    if let Some((at, node)) = history.lost.iter().rfind(|(_, node)| counts(node)) {
        // Among those that were lost there may have been one of any time since.
        if now.saturating_sub(*at) < nanoseconds(quiet.get()) {
            let mut finding = Finding::of(false, wanted, format!("notifications of {node} were lost"));
            finding.verdict = Verdict::Undecided;
            return finding.at(Some(*at));
        }
    }
    match changes.max_by_key(|(_, change)| change.at) {
        None => Finding::of(true, wanted, "none ever did"),
        Some((address, change)) => {
            let since = Duration::from_nanos(now.saturating_sub(change.at));
            let what = if change.added { "came to" } else { "went from" };
            let (node, interface) = (&change.node, &change.interface);
            let seen =
                format!("the last one {} ago: {address} {what} {interface} of {node}", bound::show(since));
            Finding::of(since >= quiet.get(), wanted, seen).at(Some(change.at))
        }
    }
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// Judges who has an address now, and for how long nobody or several had it.
pub fn judge(
    expected: &HoldersExpectation,
    history: &History,
    window: Span,
    lateness: &dyn Fn(Span) -> Duration,
) -> Vec<Finding> {
    let address = expected.address;
    let history = &history.only(address, &expected.among);
    let mut findings = Vec::new();
    if let Some(nodes) = &expected.nodes {
        let wanted: BTreeSet<&str> = nodes.iter().map(|name| &**name).collect();
        let seen = history.holders(address);
        let finding = Finding::of(
            seen == wanted,
            format!("{address} on {}", names(&wanted)),
            format!("on {}", names(&seen)),
        );
        findings.push(finding);
    }
    let judge = |what: &str, bound: &Bound, (seen, at): (Duration, Option<u64>)| {
        let span = at.map(|since| Span {
            since,
            until: since + u64::try_from(seen.as_nanos()).unwrap_or(u64::MAX / 2) + 1,
        });
        let lateness = span.map_or(Duration::ZERO, lateness);
        // The kernels notify at once; what is uncertain is when the lab came to read it, and that is the lateness.
        bound::judge(what, Measured { seen, resolution: Duration::ZERO, lateness }, bound).at(at)
    };
    if let Some(gap) = &expected.longest_gap {
        let what = format!("the longest time without a holder of {address}");
        if history.changes.contains_key(&address) {
            let longest = history.longest(address, window, |nodes| nodes == 0);
            findings.push(judge(&what, gap, longest).gap(GapKind::Held, &address.to_string(), longest.0));
        } else {
            findings.push(Finding::of(false, what, "nobody ever had it"));
        }
    }
    if let Some(overlap) = &expected.longest_overlap {
        let what = format!("the longest time with two holders of {address}");
        findings.push(judge(&what, overlap, history.longest(address, window, |nodes| nodes > 1)));
    }
    if let Some((_, node)) = history.lost.iter().find(|(at, _)| window.contains(*at)) {
        for finding in findings.iter_mut().filter(|finding| finding.verdict == Verdict::Passed) {
            finding.verdict = Verdict::Undecided;
            finding.seen = format!("{}; but notifications of {node} were lost", finding.seen);
        }
    }
    findings
}

fn names(nodes: &BTreeSet<&str>) -> String {
    if nodes.is_empty() { "no node".into() } else { nodes.iter().copied().collect::<Vec<_>>().join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::super::worst;
    use super::*;
    use crate::scenario::expectation::Window;

    const MS: u64 = 1_000_000;

    fn event(at: u64, node: &str, added: bool) -> Watched {
        let (interface, address) = ("enp0s3".to_owned(), "192.16.193.30".parse().unwrap());
        let event = if added {
            Event::AddressAdded { interface, address, prefix: 32, label: None, initial: false }
        } else {
            Event::AddressRemoved { interface, address, prefix: 32, gone: false }
        };
        Watched { at: at * MS, node: node.into(), event }
    }

    fn expectation() -> HoldersExpectation {
        HoldersExpectation {
            address: "192.16.193.30".parse().unwrap(),
            nodes: None,
            among: Vec::new(),
            window: Window::default(),
            longest_gap: None,
            longest_overlap: None,
        }
    }

    fn verdict(expected: &HoldersExpectation, events: &[Watched], window: (u64, u64)) -> Verdict {
        let mut history = History::default();
        for event in events {
            history.put(event);
        }
        let window = Span { since: window.0 * MS, until: window.1 * MS };
        worst(&judge(expected, &history, window, &|_| Duration::ZERO))
    }

    #[test]
    fn now() {
        let on = |nodes: &[&str]| HoldersExpectation {
            nodes: Some(nodes.iter().map(|name| (*name).into()).collect()),
            ..expectation()
        };
        let events = [event(1, "dir1", true), event(2, "dir2", true), event(3, "dir1", false)];
        assert_eq!(verdict(&on(&["dir2"]), &events, (0, 9)), Verdict::Passed);
        assert_eq!(verdict(&on(&["dir1"]), &events, (0, 9)), Verdict::Failed);
        assert_eq!(verdict(&on(&[]), &[], (0, 9)), Verdict::Passed);
        assert_eq!(verdict(&on(&[]), &events, (0, 9)), Verdict::Failed);
    }

    #[test]
    fn only_some_nodes_count() {
        let overlap = |among: &[&str]| HoldersExpectation {
            among: among.iter().map(|name| (*name).into()).collect(),
            longest_overlap: Some(Bound { at_most: crate::scenario::Span::from_millis(10), from: None }),
            ..expectation()
        };
        // A real server of direct routing has it from the start.
        let events = [
            event(0, "SRV1", true),
            event(100, "dir1", true),
            event(200, "dir1", false),
            event(205, "dir2", true),
        ];
        assert_eq!(verdict(&overlap(&[]), &events, (0, 300)), Verdict::Failed);
        assert_eq!(verdict(&overlap(&["dir1", "dir2"]), &events, (0, 300)), Verdict::Passed);
        assert_eq!(verdict(&overlap(&["SRV1", "dir2"]), &events, (0, 300)), Verdict::Failed);
        let on = |among: &[&str], nodes: &[&str]| HoldersExpectation {
            nodes: Some(nodes.iter().map(|name| (*name).into()).collect()),
            longest_overlap: None,
            ..overlap(among)
        };
        assert_eq!(verdict(&on(&["dir1", "dir2"], &["dir2"]), &events, (0, 300)), Verdict::Passed);
        assert_eq!(verdict(&on(&[], &["dir2"]), &events, (0, 300)), Verdict::Failed);
        let lost = Watched { at: 20 * MS, node: "SRV1".into(), event: Event::Lost { count: 1 } };
        let with_loss = [&events[..], &[lost]].concat();
        assert_eq!(verdict(&on(&["dir1", "dir2"], &["dir2"]), &with_loss, (0, 300)), Verdict::Passed);
    }

    #[test]
    fn at_rest_when_nothing_moved_for_a_while() {
        let mut history = History::default();
        let rest = |milliseconds, nodes: &[&str]| RestExpectation {
            quiet_for: crate::scenario::Span::from_millis(milliseconds),
            nodes: nodes.iter().map(|name| (*name).into()).collect(),
        };
        assert_eq!(
            at_rest(&rest(100, &[]), &history, 50 * MS).verdict,
            Verdict::Passed,
            "nothing ever moved"
        );
        for event in [event(100, "dir1", true), event(300, "dir2", true)] {
            history.put(&event);
        }
        let early = at_rest(&rest(100, &[]), &history, 350 * MS);
        assert_eq!((early.verdict, early.at), (Verdict::Failed, Some(300 * MS)));
        assert!(early.seen.contains("192.16.193.30 came to enp0s3 of dir2"), "{}", early.seen);
        assert_eq!(at_rest(&rest(100, &[]), &history, 400 * MS).verdict, Verdict::Passed);
        assert_eq!(at_rest(&rest(100, &["dir1"]), &history, 350 * MS).verdict, Verdict::Passed);
        history.put(&Watched { at: 400 * MS, node: "dir1".into(), event: Event::Lost { count: 1 } });
        assert_eq!(at_rest(&rest(100, &[]), &history, 450 * MS).verdict, Verdict::Undecided);
        assert_eq!(at_rest(&rest(100, &["dir2"]), &history, 450 * MS).verdict, Verdict::Passed);
    }

    #[test]
    fn gaps_and_overlaps() {
        let bound = |ms| Some(Bound { at_most: crate::scenario::Span::from_millis(ms), from: None });
        let gap = |ms| HoldersExpectation { longest_gap: bound(ms), ..expectation() };
        let overlap = |ms| HoldersExpectation { longest_overlap: bound(ms), ..expectation() };
        let events = [
            event(100, "dir1", true),
            event(200, "dir1", false),
            event(250, "dir2", true),
            event(300, "dir1", true),
        ];
        assert_eq!(verdict(&gap(50), &events, (0, 400)), Verdict::Passed);
        assert_eq!(verdict(&gap(49), &events, (0, 400)), Verdict::Failed);
        assert_eq!(verdict(&gap(10), &events, (240, 400)), Verdict::Passed, "the window cuts it");
        assert_eq!(verdict(&overlap(100), &events, (0, 400)), Verdict::Passed);
        assert_eq!(verdict(&overlap(99), &events, (0, 400)), Verdict::Failed);
        assert_eq!(verdict(&gap(1000), &[], (0, 400)), Verdict::Failed, "nobody ever had it");
        // It ends without a holder.
        assert_eq!(verdict(&gap(99), &events[..2], (0, 300)), Verdict::Failed);
    }

    #[test]
    fn what_came_before_the_present_does_not_count_in_it() {
        let bound = Some(Bound { at_most: crate::scenario::Span::from_millis(10), from: None });
        let expected = HoldersExpectation {
            nodes: Some(vec!["dir2".into()]),
            longest_gap: bound.clone(),
            longest_overlap: bound,
            ..expectation()
        };
        let mut history = History::default();
        for event in [
            event(100, "dir1", true),
            event(200, "dir1", false),
            event(300, "dir1", true),
            event(310, "dir2", true),
            event(400, "dir1", false),
        ] {
            history.put(&event);
        }
        let judged = |history: &History| {
            worst(&judge(&expected, history, Span { since: 0, until: 900 * MS }, &|_| Duration::ZERO))
        };
        assert_eq!(judged(&history), Verdict::Failed, "gaps and overlaps of the past");
        let mut present = history.present();
        assert_eq!(judged(&present), Verdict::Passed);
        present.put(&event(500, "dir2", false));
        assert_eq!(judged(&present), Verdict::Failed, "those that come count");
        assert!(present.present().changes.is_empty());
    }

    #[test]
    fn lost_notifications_decide_nothing() {
        let lost = Watched { at: 2 * MS, node: "dir1".into(), event: Event::Lost { count: 3 } };
        let expected = HoldersExpectation { nodes: Some(vec!["dir1".into()]), ..expectation() };
        assert_eq!(verdict(&expected, &[event(1, "dir1", true), lost], (0, 9)), Verdict::Undecided);
    }
}
