//! When gratuitous ARP and unsolicited neighbour advertisements are due.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{BootTime, earliest};

/// How often an active router announces its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// Announcements of each address in a row.
    pub count: u32,
    /// Pause between two of them; zero sends all at once.
    pub interval: Duration,
    /// They are sent once more after this time; zero does not repeat.
    pub repeat_after: Duration,
    /// While active, one is sent every so often.
    pub refresh: Option<Duration>,
}

impl Default for Announce {
    /// Five at once, five more after 5 s.
    fn default() -> Self {
        Announce { count: 5, interval: Duration::ZERO, repeat_after: Duration::from_secs(5), refresh: None }
    }
}

/// Someone else claimed the addresses: they are announced again, but not more often than this.
const ASSERTIONS_APART: Duration = Duration::from_secs(1);

/// What is still to be announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcer {
    /// Left of a row, and when the next of it is due.
    row: Option<(u32, BootTime)>,
    /// When the row is sent once more.
    repeat_at: Option<BootTime>,
    /// When the next refresh is due.
    refresh_at: Option<BootTime>,
    /// When the addresses may be asserted again.
    assert_from: BootTime,
}

impl Announcer {
    /// Begins. Returns what is to be announced with how many times to send now.
    pub fn start(now: BootTime, plan: &Announce) -> (Self, u32) {
        let mut announcer = Announcer {
            row: None,
            repeat_at: (!plan.repeat_after.is_zero()).then(|| now + plan.repeat_after),
            refresh_at: plan.refresh.map(|refresh| now + refresh),
            assert_from: now + ASSERTIONS_APART,
        };
        let times = announcer.begin_row(now, plan);
        (announcer, times)
    }

    /// How many times to send now.
    pub fn poll(&mut self, now: BootTime, plan: &Announce) -> u32 {
        let mut times = 0;
        if let Some((left, at)) = self.row
            && now >= at
        {
            times += 1;
            self.row = (left > 1).then(|| (left - 1, now + plan.interval));
        }
        if self.repeat_at.is_some_and(|at| now >= at) {
            self.repeat_at = None;
            times += self.begin_row(now, plan);
        }
        if self.refresh_at.is_some_and(|at| now >= at) {
            self.refresh_at = plan.refresh.map(|refresh| now + refresh);
            times += 1;
        }
        times
    }

    /// Somebody else spoke as active: neighbours may have learned the wrong one. How many times to send now.
    pub fn assert(&mut self, now: BootTime, plan: &Announce) -> u32 {
        if now < self.assert_from || plan.count == 0 {
            return 0;
        }
        self.assert_from = now + ASSERTIONS_APART;
        if self.repeat_at.is_none() && !plan.repeat_after.is_zero() {
            self.repeat_at = Some(now + plan.repeat_after);
        }
        1
    }

    /// Whether the neighbours cannot but know.
    pub fn has_just_announced(&self, now: BootTime) -> bool {
        now < self.assert_from
    }

    /// When to ask next.
    pub fn next_deadline(&self) -> Option<BootTime> {
        earliest(self.row.map(|(_, at)| at), earliest(self.repeat_at, self.refresh_at))
    }

    fn begin_row(&mut self, now: BootTime, plan: &Announce) -> u32 {
        if plan.interval.is_zero() || plan.count <= 1 {
            self.row = None;
            return plan.count;
        }
        self.row = Some((plan.count - 1, now + plan.interval));
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_duration(Duration::from_millis(millis))
    }

    /// Times and counts until `end`, called exactly when asked.
    fn run(plan: &Announce, end: u64) -> Vec<(u64, u32)> {
        let (mut announcer, first) = Announcer::start(at(0), plan);
        let mut sent = vec![(0, first)];
        while let Some(next) = announcer.next_deadline().filter(|next| *next <= at(end)) {
            sent.push((next.as_nanos() / 1_000_000, announcer.poll(next, plan)));
        }
        sent
    }

    #[test]
    fn rows_repetition_and_refresh() {
        let plan = Announce::default();
        assert_eq!(run(&plan, 100_000), [(0, 5), (5000, 5)]);
        let slow = Announce { count: 3, interval: Duration::from_millis(10), ..plan };
        assert_eq!(run(&slow, 100_000), [(0, 1), (10, 1), (20, 1), (5000, 1), (5010, 1), (5020, 1)]);
        let refreshed =
            Announce { repeat_after: Duration::ZERO, refresh: Some(Duration::from_secs(60)), ..plan };
        assert_eq!(run(&refreshed, 125_000), [(0, 5), (60_000, 1), (120_000, 1)]);
        let none = Announce { count: 0, repeat_after: Duration::ZERO, ..plan };
        assert_eq!(run(&none, 100_000), [(0, 0)]);
    }

    #[test]
    fn a_flood_of_claims_is_answered_once_a_second() {
        let plan = Announce::default();
        let (mut announcer, _) = Announcer::start(at(0), &plan);
        let answers: u32 = (0..10_000).map(|millis| announcer.assert(at(millis), &plan)).sum();
        assert_eq!(answers, 9);
    }
}
