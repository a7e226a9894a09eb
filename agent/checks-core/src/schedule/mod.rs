//! When each check runs, and what it has found so far.

mod grid;
mod probe;
#[cfg(test)]
mod tests;
mod timings;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{
    grid::Place,
    probe::{Probe, Running},
};
use crate::{
    Histogram, Outcome, Time, Transition, Verdict,
    verdict::{Health, Thresholds},
};

pub use timings::{MAX_COUNT, MAX_INTERVAL, MIN_INTERVAL, MIN_TIMEOUT, Timings, TimingsError};

/// A watched target is not asked in intervals: each of its words counts.
const WATCHED: Thresholds = Thresholds { rise: 1, fall: 1 };

/// A probe to start now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<K> {
    /// Whose probe.
    pub key: K,
    /// Handed back with the result, so that the result of a check that was removed meanwhile is known for that.
    pub run: u64,
    /// How long it may take. The scheduler does not end it: whoever runs it does, and then reports a failure.
    pub timeout: Duration,
    /// How much later than due it starts.
    pub lateness: Duration,
}

/// What became of a check that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// It is new.
    Added,
    /// It has other timings; its verdict and its place within the interval stay.
    Changed,
    /// It is as it was.
    Unchanged,
}

/// Figures of all checks together, since the scheduler was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How much later than due the probes began.
    pub lateness: Histogram,
    /// How long those took that said something about their target.
    pub duration: Histogram,
    /// Results that passed, those of watched targets included.
    pub passed: u64,
    /// Results that failed, those of watched targets included.
    pub failed: u64,
    /// Probes that could not be carried out: they say nothing about their target.
    pub undecided: u64,
}

/// What there is to know of one check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View<'a> {
    /// What it has found.
    pub verdict: &'a Verdict,
    /// When its next probe is due; none while one runs and for a watched target.
    pub due: Option<Time>,
    /// Whether a probe runs.
    pub running: bool,
    /// How much later than due the last probe began.
    pub lateness: Option<Duration>,
    /// How long the last probe took.
    pub duration: Option<Duration>,
}

/// All checks of a director: says which probes to start, takes their results, keeps the verdicts.
///
/// Every operation on one check costs O(log n), whatever the number of checks.
#[derive(Clone, Debug)]
pub struct Scheduler<K> {
    probes: BTreeMap<K, Probe>,
    due: BTreeSet<(Time, K)>,
    seed: u64,
    ordinal: u64,
    runs: u64,
    figures: Figures,
}

impl<K: Ord + Clone> Scheduler<K> {
    /// No checks yet. Directors that check the same targets should have different seeds.
    pub fn new(seed: u64) -> Self {
        Self {
            probes: BTreeMap::new(),
            due: BTreeSet::new(),
            seed,
            ordinal: 0,
            runs: 0,
            figures: Figures::default(),
        }
    }

    /// Adds a check, or gives it other timings: nothing else about it changes then.
    pub fn set(&mut self, now: Time, key: K, timings: Timings) -> Result<Set, TimingsError> {
        timings.check()?;
        Ok(self.put(now, key, Some(timings)))
    }

    /// Adds a check of which somebody else [reports](Self::report) each change.
    pub fn set_watched(&mut self, now: Time, key: K) -> Set {
        self.put(now, key, None)
    }

    fn put(&mut self, now: Time, key: K, timings: Option<Timings>) -> Set {
        let Some(probe) = self.probes.get_mut(&key) else {
            let probe = Probe::new(now, Place::new(self.seed, self.ordinal), timings);
            self.ordinal = self.ordinal.wrapping_add(1);
            self.due.extend(probe.due.map(|due| (due, key.clone())));
            self.probes.insert(key, probe);
            return Set::Added;
        };
        if probe.timings() == timings.as_ref() {
            return Set::Unchanged;
        }
        let before = probe.due;
        probe.retime(now, timings);
        let after = probe.due;
        self.move_due(&key, before, after);
        Set::Changed
    }

    fn move_due(&mut self, key: &K, before: Option<Time>, after: Option<Time>) {
        if let Some(due) = before {
            self.due.remove(&(due, key.clone()));
        }
        self.due.extend(after.map(|due| (due, key.clone())));
    }

    /// Removes a check; the result of a probe that runs will be ignored. False if there was none.
    pub fn remove(&mut self, key: &K) -> bool {
        let Some(probe) = self.probes.remove(key) else { return false };
        self.move_due(key, probe.due, None);
        true
    }

    /// Gives a check of which nothing is known the verdict of a former process. True if it took it.
    pub fn restore(&mut self, key: &K, verdict: Verdict) -> bool {
        let Some(probe) = self.probes.get_mut(key) else { return false };
        if probe.verdict.health != Health::Unknown {
            return false;
        }
        probe.verdict = verdict;
        true
    }

    /// Lets a check of which nothing is known go on where another one of the same target stands: with its verdict, its place within
    /// the interval and its last start. So, a check that gets other timings again and again is probed all the same. True if it did.
    pub fn succeed(&mut self, now: Time, key: &K, former: &K) -> bool {
        let Some(former) = self.probes.get(former).cloned() else { return false };
        let Some(probe) = self.probes.get_mut(key) else { return false };
        if probe.verdict.health != Health::Unknown || probe.last_start.is_some() {
            return false;
        }
        let before = probe.due;
        probe.go_on(now, former);
        let after = probe.due;
        self.move_due(key, before, after);
        true
    }

    /// When to call [`Scheduler::poll`] next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The probes to start now, those first that have waited longest, at most `limit`. After a stall, in which all became due, a
    /// limit keeps them from starting all at once; those left over are still due.
    pub fn poll(&mut self, now: Time, limit: usize) -> Vec<Start<K>> {
        let mut starts = Vec::new();
        while starts.len() < limit && self.next_deadline().is_some_and(|due| due <= now) {
            let Some((due, key)) = self.due.pop_first() else { break };
            let Some(probe) = self.probes.get_mut(&key) else { continue };
            let Some(timeout) = probe.timings().map(|timings| timings.timeout) else { continue };
            let run = self.runs;
            self.runs = self.runs.wrapping_add(1);
            let lateness = now.since(due);
            probe.due = None;
            probe.running = Some(Running { run, since: now });
            probe.last_start = Some(now);
            probe.lateness = Some(lateness);
            starts.push(Start { key, run, timeout, lateness });
        }
        starts
    }

    /// A probe that [`Scheduler::poll`] started begins indeed: it may have waited for the processor since. Until then counts as
    /// lateness, and what it takes from then on as its duration.
    pub fn begun(&mut self, now: Time, key: &K, run: u64) {
        let Some(probe) = self.probes.get_mut(key) else { return };
        let Some(running) = probe.running.as_mut().filter(|running| running.run == run) else { return };
        let lateness = probe.lateness.unwrap_or_default() + now.since(running.since);
        running.since = now;
        probe.lateness = Some(lateness);
        self.figures.lateness.observe(lateness);
    }

    /// Takes the result of a probe that [`Scheduler::poll`] started; says what changed. The result of a check that was removed
    /// meanwhile counts nowhere. One that is undecided leaves the verdict, and the next probe runs when it would have anyway.
    pub fn finished(&mut self, now: Time, key: &K, run: u64, outcome: &Outcome) -> Option<Transition> {
        let probe = self.probes.get_mut(key)?;
        let running = probe.running.filter(|running| running.run == run)?;
        let duration = now.since(running.since);
        probe.running = None;
        if outcome.is_decided() {
            probe.duration = Some(duration);
            self.figures.duration.observe(duration);
        }
        let thresholds = probe.timings().map_or(WATCHED, |timings| timings.thresholds);
        let transition = probe.verdict.apply(now, outcome, thresholds);
        probe.due = probe.next();
        let due = probe.due;
        self.move_due(key, None, due);
        self.count(outcome);
        transition
    }

    /// Takes what was seen of a watched target; says what changed.
    pub fn report(&mut self, now: Time, key: &K, outcome: &Outcome) -> Option<Transition> {
        let probe = self.probes.get_mut(key).filter(|probe| probe.timings().is_none())?;
        let transition = probe.verdict.apply(now, outcome, WATCHED);
        self.count(outcome);
        transition
    }

    fn count(&mut self, outcome: &Outcome) {
        let figures = &mut self.figures;
        let counter = match outcome {
            _ if !outcome.is_decided() => &mut figures.undecided,
            _ if outcome.is_passed() => &mut figures.passed,
            _ => &mut figures.failed,
        };
        *counter = counter.saturating_add(1);
    }

    /// What a check has found.
    pub fn verdict(&self, key: &K) -> Option<&Verdict> {
        self.probes.get(key).map(|probe| &probe.verdict)
    }

    /// What there is to know of a check.
    pub fn view(&self, key: &K) -> Option<View<'_>> {
        self.probes.get(key).map(|probe| View {
            verdict: &probe.verdict,
            due: probe.due,
            running: probe.running.is_some(),
            lateness: probe.lateness,
            duration: probe.duration,
        })
    }

    /// All checks and what they have found, in order of their keys: what another process needs to go on.
    pub fn verdicts(&self) -> impl Iterator<Item = (&K, &Verdict)> {
        self.probes.iter().map(|(key, probe)| (key, &probe.verdict))
    }

    /// Figures of all checks together.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// How many checks there are.
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// How many probes run. This looks at all checks.
    pub fn running(&self) -> usize {
        self.probes.values().filter(|probe| probe.running.is_some()).count()
    }
}
