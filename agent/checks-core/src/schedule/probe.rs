//! One check: when it runs next and what its results mean.

use std::time::Duration;

use super::{
    Timings,
    grid::{Grid, Place},
};
use crate::{Time, Verdict};

/// What makes a check run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The clock.
    Timed { timings: Timings, grid: Grid },
    /// Somebody who watches its target and reports.
    Watched,
}

/// A probe that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) run: u64,
    pub(super) since: Time,
}

/// A check.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) mode: Mode,
    pub(super) added: Time,
    pub(super) place: Place,
    pub(super) verdict: Verdict,
    /// When it runs next; none while it runs and when it is watched.
    pub(super) due: Option<Time>,
    pub(super) running: Option<Running>,
    pub(super) last_start: Option<Time>,
    pub(super) lateness: Option<Duration>,
    pub(super) duration: Option<Duration>,
}

impl Probe {
    pub(super) fn new(now: Time, place: Place, timings: Option<Timings>) -> Self {
        let mut probe = Self {
            mode: Mode::Watched,
            added: now,
            place,
            verdict: Verdict::unknown(now),
            due: None,
            running: None,
            last_start: None,
            lateness: None,
            duration: None,
        };
        probe.retime(now, timings);
        probe
    }

    /// Takes other timings. What it has found stays, and so does its place within the interval.
    pub(super) fn retime(&mut self, now: Time, timings: Option<Timings>) {
        let Some(timings) = timings else {
            (self.mode, self.due) = (Mode::Watched, None);
            return;
        };
        let grid = Grid::new(self.added, self.place, &timings);
        self.mode = Mode::Timed { timings, grid };
        if self.running.is_none() {
            // Not before now: nobody is late for points that were not on the grid until now.
            self.due = self.next().map(|due| if due < now { grid.not_before(now) } else { due });
        }
    }

    /// Goes on where another one stands, at its own timings.
    pub(super) fn go_on(&mut self, now: Time, former: Probe) {
        (self.added, self.place) = (former.added, former.place);
        (self.verdict, self.last_start) = (former.verdict, former.last_start);
        self.retime(now, self.timings().copied());
    }

    /// When the next probe is due, if none runs: while it fails the retry interval after the last start, else at the next point
    /// of the grid after the last start. When that has passed meanwhile, it is due at once and counts as late, but points that
    /// were missed altogether are not made up for.
    pub(super) fn next(&self) -> Option<Time> {
        let Mode::Timed { timings, grid } = &self.mode else { return None };
        Some(match (self.last_start, timings.retry_interval) {
            (Some(last), Some(retry)) if self.verdict.is_failing() => last + retry,
            (Some(last), _) => grid.after(last),
            (None, _) => grid.not_before(self.added),
        })
    }

    pub(super) fn timings(&self) -> Option<&Timings> {
        match &self.mode {
            Mode::Timed { timings, .. } => Some(timings),
            Mode::Watched => None,
        }
    }
}
