//! What became of held connections.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::programs::hold::{Event, Kind};
use crate::scenario::expectation::ConnectionsExpectation;

/// Held connections in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ever opened, and by whom they were answered.
    pub opened: BTreeMap<u32, String>,
    /// Lost, those that never opened among them.
    pub lost: BTreeSet<u32>,
    /// Open, with an exchange since a given time.
    pub alive: BTreeSet<u32>,
    /// The first loss: when and why.
    pub first_loss: Option<(u64, String)>,
}

impl Tally {
    /// Counts. A connection is alive if it is open and something was exchanged on it after `since`, or it was opened after it.
    pub fn of(events: &[Event], since: u64) -> Self {
        let mut tally = Self::default();
        for event in events {
            match event.event {
                Kind::Open => {
                    tally
                        .opened
                        .insert(event.connection, event.answerer.clone().unwrap_or_else(|| "?".into()));
                }
                Kind::Alive => {}
                Kind::Lost => {
                    tally.lost.insert(event.connection);
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
        if let Some((_, reason)) = &self.first_loss {
            write!(f, "; first loss: {reason}")?;
        }
        Ok(())
    }
}

/// Judges held connections.
pub fn judge(expected: &ConnectionsExpectation, events: &[Event], since: u64) -> Vec<Finding> {
    let tally = Tally::of(events, since);
    let at = tally.first_loss.as_ref().map(|(at, _)| *at);
    let mut findings = Vec::new();
    for (count, seen, what) in [
        (expected.opened, tally.opened.len(), "opened"),
        (expected.alive, tally.alive.len(), "alive"),
        (expected.lost, tally.lost.len(), "lost"),
    ] {
        if let Some(count) = count {
            let good = count.admits(seen as u64);
            findings.push(Finding::of(good, format!("{count} {what}"), tally.to_string()).at(at));
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

#[cfg(test)]
mod tests {
    use super::super::{Verdict, worst};
    use super::*;
    use crate::scenario::expectation::Count;

    fn event(connection: u32, event: Kind, t: u64) -> Event {
        Event { connection, event, answerer: Some(format!("SRV{}", connection % 2 + 1)), t, error: None }
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
            answerers: None,
        };
        // 2 is open, but nothing was heard on it since 5.
        assert_eq!(worst(&judge(&expected(3, 1, 1), &events, 5)), Verdict::Passed);
        assert_eq!(worst(&judge(&expected(3, 2, 1), &events, 0)), Verdict::Passed);
        assert_eq!(worst(&judge(&expected(3, 3, 0), &events, 0)), Verdict::Failed);
        let by = |one, two| ConnectionsExpectation {
            load: "held".into(),
            opened: None,
            alive: None,
            lost: None,
            answerers: Some(BTreeMap::from([
                ("SRV1".into(), Count::Exactly(one)),
                ("SRV2".into(), Count::Exactly(two)),
            ])),
        };
        assert_eq!(worst(&judge(&by(2, 1), &events, 0)), Verdict::Passed);
        assert_eq!(worst(&judge(&by(1, 2), &events, 0)), Verdict::Failed);
        let one = ConnectionsExpectation {
            answerers: Some(BTreeMap::from([("SRV1".into(), Count::Exactly(2))])),
            ..by(0, 0)
        };
        assert_eq!(worst(&judge(&one, &events, 0)), Verdict::Failed, "SRV2 is not named");
    }
}
