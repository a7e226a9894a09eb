//! A thread that does nothing but wake up on time, and notes when it could not. What delays it delays everything else on the machine
//! as well: its lateness is what bounds are widened by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use crate::programs::clock::monotonic_ns;

/// Time between two wake-ups, in nanoseconds.
const PERIOD: u64 = 5_000_000;
/// After this it is known how late the machine was until now.
pub(crate) const KNOWN_AFTER: Duration = Duration::from_nanos(2 * PERIOD);
/// Less is how any machine is, in nanoseconds.
const NOTED: u64 = 1_000_000;
/// As many are kept; a machine that is late more often than that has more than an hour of it behind it.
const MAX_NOTED: usize = 1_000_000;

/// How late the machine was in a part of the run: by how much a thread that only had to wake up did so too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// At worst.
    pub worst: Duration,
    /// In sum, of that part.
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

/// The running canary; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Canary {
    late: Arc<Mutex<Vec<Late>>>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Canary {
    /// Starts it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (late, end): (Arc<Mutex<Vec<Late>>>, Arc<AtomicBool>) = Default::default();
        let (mine, ended) = (Arc::clone(&late), Arc::clone(&end));
        let thread = std::thread::Builder::new().name("canary".into()).spawn(move || {
            let mut due = monotonic_ns() + PERIOD;
            while !ended.load(Ordering::Relaxed) {
                sleep_until(due);
                let came = monotonic_ns();
                if came.saturating_sub(due) >= NOTED {
                    let mut late = mine.lock().unwrap_or_else(PoisonError::into_inner);
                    if late.len() < MAX_NOTED {
                        late.push(Late { due, came });
                    }
                }
                due = (due + PERIOD).max(came);
            }
        })?;
        Ok(Self { late, end, thread: Some(thread) })
    }

    /// How late the machine was in `span`.
    pub(crate) fn lateness(&self, span: Span) -> Lateness {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        // Both times grow from entry to entry.
        let first = late.partition_point(|late| late.came < span.since);
        let mut lateness = Lateness::default();
        for late in late[first..].iter().take_while(|late| late.due < span.until) {
            lateness.worst = lateness.worst.max(Duration::from_nanos(late.came - late.due));
            let within = late.came.min(span.until).saturating_sub(late.due.max(span.since));
            lateness.sum += Duration::from_nanos(within);
        }
        lateness
    }

    /// The worst lateness of a wake-up that was due or came in `span`.
    pub(crate) fn worst(&self, span: Span) -> Duration {
        self.lateness(span).worst
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
    /// One that notes only what it is told.
    pub(crate) fn resting() -> Self {
        Self { late: Arc::default(), end: Arc::default(), thread: None }
    }

    /// A wake-up that was due and came so.
    pub(crate) fn note(&self, due: u64, came: u64) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push(Late { due, came });
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
}
