//! What became of held connections.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::programs::hold::{Event, Kind};
use crate::scenario::expectation::{ConnectionsExpectation, Established};

/// Which connections count, by when they were established: CLOCK_MONOTONIC, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// All.
    #[default]
    All,
    /// Open at `at`, and established before `until` and not before `since`.
    OpenAt {
        /// When they have to be open.
        at: u64,
        /// The earliest establishment.
        since: u64,
        /// The latest, itself included.
        until: u64,
    },
    /// Begun to be opened at this time or later.
    BegunSince(u64),
}

impl Which {
    /// The connections that are meant, of those that the record has.
    fn of(self, events: &[Event]) -> BTreeSet<u32> {
        let of = |kept: &dyn Fn(&Event) -> bool| -> BTreeSet<u32> {
            events.iter().filter(|event| kept(event)).map(|event| event.connection).collect()
        };
        match self {
            Self::All => of(&|_| true),
            Self::BegunSince(at) => of(&|event| event.began >= at),
            Self::OpenAt { at, since, until } => {
                let gone = of(&|event| event.event == Kind::Lost && event.t < at);
                let there = of(&|event| event.event == Kind::Open && (since..=until).contains(&event.t));
                there.difference(&gone).copied().collect()
            }
        }
    }
}

/// Held connections in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ever opened, and by whom they were answered.
    pub opened: BTreeMap<u32, String>,
    /// Lost, those that never opened among them.
    pub lost: BTreeSet<u32>,
    /// Lost by a reset.
    pub reset: BTreeSet<u32>,
    /// Open, with an exchange since a given time.
    pub alive: BTreeSet<u32>,
    /// The first loss: when and why.
    pub first_loss: Option<(u64, String)>,
}

impl Tally {
    /// Counts those that are meant. A connection is alive if it is open and something was exchanged on it after `since`, or it was opened
    /// after it.
    pub fn of(events: &[Event], which: Which, since: u64) -> Self {
        let mut tally = Self::default();
        let meant = which.of(events);
        for event in events.iter().filter(|event| meant.contains(&event.connection)) {
            match event.event {
                Kind::Open => {
                    tally
                        .opened
                        .insert(event.connection, event.answerer.clone().unwrap_or_else(|| "?".into()));
                }
                Kind::Alive => {}
                Kind::Lost => {
                    tally.lost.insert(event.connection);
                    if event.reset {
                        tally.reset.insert(event.connection);
                    }
                    let reason = event.error.clone().unwrap_or_default();
                    tally.first_loss.get_or_insert((event.t, reason));
                }
            }
            if event.event != Kind::Lost && event.t >= since {
                tally.alive.insert(event.connection);
            }
        }
        tally.alive = tally.alive.difference(&tally.lost).copied().collect();
        tally
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} opened, {} alive, {} lost", self.opened.len(), self.alive.len(), self.lost.len())?;
        if !self.reset.is_empty() {
            write!(f, ", {} of them reset", self.reset.len())?;
        }
        if let Some((_, reason)) = &self.first_loss {
            write!(f, "; first loss: {reason}")?;
        }
        Ok(())
    }
}

/// Judges held connections.
pub fn judge(expected: &ConnectionsExpectation, events: &[Event], which: Which, since: u64) -> Vec<Finding> {
    let tally = Tally::of(events, which, since);
    let at = tally.first_loss.as_ref().map(|(at, _)| *at);
    let of = expected.established.as_ref().map_or_else(String::new, |which| format!(" of {}", words(which)));
    let mut findings = Vec::new();
    for (count, seen, what) in [
        (expected.opened, tally.opened.len(), "opened"),
        (expected.alive, tally.alive.len(), "alive"),
        (expected.lost, tally.lost.len(), "lost"),
        (expected.reset, tally.reset.len(), "reset"),
    ] {
        if let Some(count) = count {
            let good = count.admits(seen as u64);
            findings.push(Finding::of(good, format!("{count} {what}{of}"), tally.to_string()).at(at));
        }
    }
    if let Some(answerers) = &expected.answerers {
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for name in tally.opened.values() {
            *seen.entry(name).or_default() += 1;
        }
        let shown = seen.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ");
        for (name, count) in answerers {
            let n = seen.get(name.as_str()).copied().unwrap_or(0);
            findings.push(Finding::of(count.admits(n), format!("{count} with {name}"), shown.clone()));
        }
        for name in seen.keys().filter(|name| !answerers.contains_key(**name)) {
            findings.push(Finding::of(false, format!("none with {name}"), shown.clone()));
        }
    }
    findings
}

/// Which connections, in words.
fn words(which: &Established) -> String {
    if let Some(step) = &which.after {
        return format!("those begun after `{step}`");
    }
    let mut words = format!("those open at `{}`", which.before.as_deref().unwrap_or_default());
    if let Some(least) = which.at_least {
        words = format!("{words} for at least {least}");
    }
    if let Some(less) = which.less_than {
        words = format!("{words} for less than {less}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, worst};
    use super::*;
    use crate::scenario::expectation::Count;

    fn event(connection: u32, event: Kind, t: u64) -> Event {
        Event {
            connection,
            event,
            answerer: Some(format!("SRV{}", connection % 2 + 1)),
            t,
            began: 0,
            error: None,
            reset: false,
        }
    }

    #[test]
    fn opened_alive_lost_and_by_whom() {
        let events = [
            event(0, Kind::Open, 1),
            event(1, Kind::Open, 2),
            event(2, Kind::Open, 3),
            event(0, Kind::Alive, 10),
            event(1, Kind::Lost, 11),
        ];
        let expected = |opened, alive, lost| ConnectionsExpectation {
            load: "held".into(),
            opened: Some(Count::Exactly(opened)),
            alive: Some(Count::Exactly(alive)),
            lost: Some(Count::Exactly(lost)),
            ..ConnectionsExpectation::default()
        };
        // 2 is open, but nothing was heard on it since 5.
        assert_eq!(worst(&judge(&expected(3, 1, 1), &events, Which::All, 5)), Verdict::Passed);
        assert_eq!(worst(&judge(&expected(3, 2, 1), &events, Which::All, 0)), Verdict::Passed);
        assert_eq!(worst(&judge(&expected(3, 3, 0), &events, Which::All, 0)), Verdict::Failed);
        let by = |one, two| ConnectionsExpectation {
            load: "held".into(),
            answerers: Some(BTreeMap::from([
                ("SRV1".into(), Count::Exactly(one)),
                ("SRV2".into(), Count::Exactly(two)),
            ])),
            ..ConnectionsExpectation::default()
        };
        assert_eq!(worst(&judge(&by(2, 1), &events, Which::All, 0)), Verdict::Passed);
        assert_eq!(worst(&judge(&by(1, 2), &events, Which::All, 0)), Verdict::Failed);
        let one = ConnectionsExpectation {
            answerers: Some(BTreeMap::from([("SRV1".into(), Count::Exactly(2))])),
            ..by(0, 0)
        };
        assert_eq!(worst(&judge(&one, &events, Which::All, 0)), Verdict::Failed, "SRV2 is not named");
    }

    #[test]
    fn connections_are_told_apart_by_their_age() {
        let lost = |connection, t, reset| Event { reset, ..event(connection, Kind::Lost, t) };
        let began = |connection, began| Event { began, ..event(connection, Kind::Open, began + 1) };
        let events = [
            began(0, 10), // old
            began(1, 20), // old, but lost before
            lost(1, 90, false),
            began(2, 70), // young, reset
            lost(2, 120, true),
            lost(3, 130, false), // never opened, begun at 0
            began(4, 150),       // begun after
            Event { began: 160, ..lost(5, 170, true) },
        ];
        let cases = [
            (Which::All, (4, 4, 2)),
            (Which::OpenAt { at: 100, since: 0, until: 60 }, (1, 0, 0)),
            (Which::OpenAt { at: 100, since: 61, until: 100 }, (1, 1, 1)),
            (Which::OpenAt { at: 100, since: 0, until: 100 }, (2, 1, 1)),
            (Which::BegunSince(140), (1, 1, 1)),
        ];
        for (which, (opened, lost, reset)) in cases {
            let expected = ConnectionsExpectation {
                load: "held".into(),
                opened: Some(Count::Exactly(opened)),
                lost: Some(Count::Exactly(lost)),
                reset: Some(Count::Exactly(reset)),
                ..ConnectionsExpectation::default()
            };
            let findings = judge(&expected, &events, which, 0);
            assert_eq!(worst(&findings), Verdict::Passed, "{which:?}: {findings:?}");
        }
    }
}
