//! When what is begun: a bounded number at a time, one of each task, and what failed later and later. Pure: `now` is a parameter,
//! and so is the dice.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// First wait after a failure.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait after failures.
const LONGEST: Duration = Duration::from_secs(60);
/// First wait after a refusal: the same would be refused again, until somebody changes something.
const FIRST_REFUSED: Duration = Duration::from_secs(10);
/// Longest wait after refusals, and longest that a server's own wish is heard.
const LONGEST_REFUSED: Duration = Duration::from_secs(300);
/// So often one task may succeed within [`QUIET`] without a wait: more is a quarrel with somebody who undoes it.
const FREE: u32 = 6;
/// After this time without a write, a task's past is forgotten.
const QUIET: Duration = Duration::from_secs(60);

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is done.
    Done,
    /// There was nothing to do.
    Nothing,
    /// Somebody else was faster: it is looked at again.
    Conflict,
    /// The same would be refused again.
    Refused,
    /// It may succeed later: in so long, if the server says so.
    Failed(Option<Duration>),
}

#[derive(Debug)]
struct Entry {
    /// Not before; `None`: nothing to do, kept for its past.
    at: Option<Instant>,
    running: bool,
    /// What it should be has changed while it ran, and how soon that is to be looked at.
    again: Option<Instant>,
    failures: u32,
    /// Successes since it was last quiet.
    done: u32,
    last: Instant,
}

/// Tasks that wait or run. Bounded by the number of objects: each task is in it once.
#[derive(Debug)]
pub struct Outbox<T> {
    entries: BTreeMap<T, Entry>,
    /// Those that wait, by when.
    waiting: BTreeSet<(Instant, T)>,
    running: usize,
    limit: usize,
}

impl<T: Ord + Clone> Outbox<T> {
    /// Empty; at most `limit` tasks run at a time.
    pub fn new(limit: usize) -> Outbox<T> {
        Outbox { entries: BTreeMap::new(), waiting: BTreeSet::new(), running: 0, limit }
    }

    /// A task may have something to do, from `at` on; `None`: it has nothing to do. Where it failed before, `at` does not shorten
    /// the wait unless it is `fresh`.
    pub fn offer(&mut self, task: T, at: Option<Instant>, fresh: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(&task) else {
            if let Some(at) = at {
                let entry =
                    Entry { at: Some(at), running: false, again: None, failures: 0, done: 0, last: now };
                self.entries.insert(task.clone(), entry);
                self.waiting.insert((at, task));
            }
            return;
        };
        if fresh {
            entry.failures = 0;
        }
        if entry.running {
            entry.again = at;
            return;
        }
        let wait = if fresh { None } else { entry.at.filter(|_| entry.failures > 0 || entry.done > FREE) };
        let at = at.map(|at| wait.map_or(at, |wait| wait.max(at)));
        if let Some(old) = std::mem::replace(&mut entry.at, at) {
            self.waiting.remove(&(old, task.clone()));
        }
        if let Some(at) = at {
            self.waiting.insert((at, task));
        }
    }

    /// A task whose time has come and that may begin; it runs from now on.
    pub fn begin(&mut self, now: Instant) -> Option<T> {
        if self.running >= self.limit || self.waiting.first()?.0 > now {
            return None;
        }
        let (_, task) = self.waiting.pop_first()?;
        let entry = self.entries.get_mut(&task)?;
        entry.at = None;
        entry.running = true;
        self.running += 1;
        Some(task)
    }

    /// A task that ran has ended. `dice` is from 0 to 1: who failed together does not come back together.
    pub fn end(&mut self, task: &T, how: End, now: Instant, dice: f64) {
        let Some(entry) = self.entries.get_mut(task).filter(|entry| entry.running) else { return };
        entry.running = false;
        self.running -= 1;
        let again = entry.again.take();
        if now.saturating_duration_since(entry.last) > QUIET {
            entry.done = 0;
        }
        let wait = match how {
            End::Nothing => {
                entry.failures = 0;
                None
            }
            End::Done => {
                entry.failures = 0;
                entry.done = entry.done.saturating_add(1);
                entry.last = now;
                let over = entry.done.saturating_sub(FREE);
                (over > 0).then(|| backoff(FIRST, LONGEST, over))
            }
            End::Conflict => {
                entry.failures = entry.failures.saturating_add(1);
                // The first is a matter of being told.
                Some(backoff(FIRST / 10, LONGEST, entry.failures))
            }
            End::Refused => {
                entry.failures = entry.failures.saturating_add(1);
                Some(backoff(FIRST_REFUSED, LONGEST_REFUSED, entry.failures))
            }
            End::Failed(wish) => {
                entry.failures = entry.failures.saturating_add(1);
                let own = backoff(FIRST, LONGEST, entry.failures);
                Some(wish.map_or(own, |wish| wish.min(LONGEST_REFUSED).max(own)))
            }
        };
        let failed = !matches!(how, End::Done | End::Nothing);
        let wait = wait.map(|wait| now + wait.mul_f64(0.75 + 0.5 * dice.clamp(0.0, 1.0)));
        entry.at = match (wait, again) {
            (Some(wait), Some(again)) => Some(wait.max(again)),
            (Some(wait), None) => failed.then_some(wait),
            (None, again) => again,
        };
        if let Some(at) = entry.at {
            self.waiting.insert((at, task.clone()));
        } else if entry.done == 0 {
            self.entries.remove(task);
        }
    }

    /// Forgets the past of tasks that have been quiet.
    pub fn forget(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            entry.running || entry.at.is_some() || now.saturating_duration_since(entry.last) <= QUIET
        });
    }

    /// When the next task may begin, if one may.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.running >= self.limit { None } else { self.waiting.first().map(|(at, _)| *at) }
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many tasks wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many tasks wait because they failed.
    pub fn failing(&self) -> usize {
        self.entries.values().filter(|entry| entry.failures > 0).count()
    }
}

/// `first`, doubled with every failure.
fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    let times = 1u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
    first.checked_mul(times).unwrap_or(longest).min(longest)
}
