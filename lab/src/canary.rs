//! Threads that do nothing but wake up on time, one on each processor, and note when they could not. What delays them delays everything
//! else there as well: their lateness is what bounds are widened by. One thread alone would see only the processor on which it sleeps,
//! while a packet, or who it is for, waits on another: the processors of a virtual machine are threads of its host, which do not stand
//! still together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use nix::unistd::Pid;

use crate::programs::clock::monotonic_ns;

/// Time between two wake-ups, in nanoseconds.
const PERIOD: u64 = 5_000_000;
/// After this it is known how late the machine was until now.
pub(crate) const KNOWN_AFTER: Duration = Duration::from_nanos(2 * PERIOD);
/// Less is how any machine is, in nanoseconds.
const NOTED: u64 = 1_000_000;
/// As many are kept of each processor; one that is late more often than that has more than an hour of it behind it.
const MAX_NOTED: usize = 1_000_000;
/// As many processors are watched; of more, the first ones.
const MAX_WATCHED: usize = 8;

/// How late the machine was in a part of the run: by how much threads that only had to wake up did so too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// At worst.
    pub worst: Duration,
    /// In sum, of that part: while one processor was late or more.
    pub sum: Duration,
}

/// How many processes have to run one after another between a failure and the answer that ends it: who notices, who takes over, who
/// asks, and who measures. The reference says the same where it explains bounds.
const HOPS: u32 = 4;

impl Lateness {
    /// How late the end of such a chain may be because the machine was: what it was late in sum, but no hop by more than at worst.
    pub fn of_a_chain(self) -> Duration {
        self.sum.min(self.worst * HOPS).max(self.worst)
    }
}

/// A part of the run, CLOCK_MONOTONIC in nanoseconds: from `since`, up to but without `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub since: u64,
    /// Its end.
    pub until: u64,
}

impl Span {
    /// Whether `time` is in it.
    pub fn contains(self, time: u64) -> bool {
        (self.since..self.until).contains(&time)
    }
}

/// A wake-up that was late.
#[derive(Clone, Copy, Debug)]
struct Late {
    due: u64,
    came: u64,
}

/// What one thread noted: both times grow from entry to entry.
type Noted = Arc<Mutex<Vec<Late>>>;

/// The running canary; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Canary {
    noted: Vec<Noted>,
    end: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Canary {
    /// Starts it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start() -> std::io::Result<Self> {
        let mut canary = Self { noted: Vec::new(), end: Arc::default(), threads: Vec::new() };
        // Dropped, and ended, where one of the threads cannot be started.
        for processor in processors() {
            canary.watch(processor)?;
        }
        Ok(canary)
    }

    fn watch(&mut self, processor: Option<usize>) -> std::io::Result<()> {
        let (noted, end) = (Noted::default(), Arc::clone(&self.end));
        self.noted.push(Arc::clone(&noted));
        let thread = std::thread::Builder::new().name("canary".into()).spawn(move || {
            if let Some(processor) = processor {
                // Taken away since it was asked for: the thread then watches wherever it is.
                let mut set = CpuSet::new();
                let _ = set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
            }
            wake_up(&noted, &end);
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// How late the machine was in `span`.
    pub(crate) fn lateness(&self, span: Span) -> Lateness {
        let (mut worst, mut parts) = (0, Vec::new());
        for noted in &self.noted {
            let noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            let first = noted.partition_point(|late| late.came < span.since);
            for late in noted[first..].iter().take_while(|late| late.due < span.until) {
                worst = worst.max(late.came - late.due);
                parts.push((late.due.max(span.since), late.came.min(span.until)));
            }
        }
        Lateness { worst: Duration::from_nanos(worst), sum: Duration::from_nanos(covered(parts)) }
    }

    /// The worst lateness of a wake-up that was due or came in `span`.
    pub(crate) fn worst(&self, span: Span) -> Duration {
        self.lateness(span).worst
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The processors to watch, of those that this process may use; `None` is whichever.
fn processors() -> Vec<Option<usize>> {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return vec![None] };
    let allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap_or(false));
    let watched: Vec<_> = allowed.take(MAX_WATCHED).map(Some).collect();
    if watched.is_empty() { vec![None] } else { watched }
}

fn wake_up(noted: &Mutex<Vec<Late>>, end: &AtomicBool) {
    let mut due = monotonic_ns() + PERIOD;
    while !end.load(Ordering::Relaxed) {
        sleep_until(due);
        let came = monotonic_ns();
        if came.saturating_sub(due) >= NOTED {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            if noted.len() < MAX_NOTED {
                noted.push(Late { due, came });
            }
        }
        due = (due + PERIOD).max(came);
    }
}

/// The length of what stretches of time cover together, however much they overlap.
fn covered(mut parts: Vec<(u64, u64)>) -> u64 {
    parts.sort_unstable();
    let (mut sum, mut reached) = (0, 0);
    for (since, until) in parts {
        sum += until.saturating_sub(since.max(reached));
        reached = reached.max(until);
    }
    sum
}

fn sleep_until(due: u64) {
    let seconds = i64::try_from(due / 1_000_000_000).unwrap_or(i64::MAX);
    let nanoseconds = i64::try_from(due % 1_000_000_000).unwrap_or(0);
    // Interrupted: it wakes early, and the next period is as before.
    let _ = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &TimeSpec::new(seconds, nanoseconds),
    );
}

#[cfg(test)]
impl Canary {
    /// One of two processors that notes only what it is told.
    pub(crate) fn resting() -> Self {
        Self { noted: vec![Noted::default(), Noted::default()], end: Arc::default(), threads: Vec::new() }
    }

    /// A wake-up on the first processor that was due and came so.
    pub(crate) fn note(&self, due: u64, came: u64) {
        self.note_on(0, due, came);
    }

    fn note_on(&self, processor: usize, due: u64, came: u64) {
        self.noted[processor].lock().unwrap_or_else(PoisonError::into_inner).push(Late { due, came });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_belongs_to_its_time() {
        let canary = Canary::resting();
        canary.note(100, 150);
        canary.note(200, 220);
        let worst = |since, until| canary.worst(Span { since, until }).as_nanos();
        let sum = |since, until| canary.lateness(Span { since, until }).sum.as_nanos();
        assert_eq!(sum(0, 1000), 70);
        assert_eq!(sum(140, 210), 20, "only what is in it");
        assert_eq!(worst(0, 1000), 50);
        assert_eq!(worst(160, 1000), 20);
        assert_eq!(worst(140, 145), 50, "the machine stood still then");
        assert_eq!(worst(221, 1000), 0);
        assert_eq!(worst(0, 100), 0);
    }

    #[test]
    fn one_processor_that_is_late_is_enough() {
        let canary = Canary::resting();
        canary.note_on(0, 100, 150);
        canary.note_on(1, 140, 170);
        canary.note_on(1, 300, 310);
        let lateness = |since, until| {
            let Lateness { worst, sum } = canary.lateness(Span { since, until });
            (worst.as_nanos(), sum.as_nanos())
        };
        assert_eq!(lateness(0, 1000), (50, 80), "what both were late counts once");
        assert_eq!(lateness(160, 305), (30, 15));
        assert_eq!(lateness(170, 300), (30, 0));
    }

    #[test]
    fn every_processor_is_watched() {
        let canary = Canary::start().unwrap();
        let allowed = std::thread::available_parallelism().unwrap().get();
        assert_eq!(canary.threads.len(), canary.noted.len());
        assert!((1..=MAX_WATCHED).contains(&canary.threads.len()));
        // A quota may allow less than the processors there are; never more.
        assert!(canary.threads.len() >= allowed.min(MAX_WATCHED));
    }
}
