//! A thread that does nothing but wake up on time, and notes when it could not. What delays it delays everything else on the machine
//! as well: its lateness is what bounds are widened by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use crate::expect::{Lateness, Span};
use crate::world::now;

/// Time between two wake-ups, in nanoseconds.
const PERIOD: u64 = 5_000_000;
/// Less is how any machine is, in nanoseconds.
const NOTED: u64 = 1_000_000;
/// As many are kept; a machine that is late more often than that has more than an hour of it behind it.
const MAX_NOTED: usize = 1_000_000;

/// A wake-up that was late.
#[derive(Clone, Copy, Debug)]
struct Late {
    due: u64,
    came: u64,
}

/// The running canary; it ends when dropped.
pub(super) struct Canary {
    late: Arc<Mutex<Vec<Late>>>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Canary {
    /// Starts it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start() -> std::io::Result<Self> {
        let (late, end): (Arc<Mutex<Vec<Late>>>, Arc<AtomicBool>) = Default::default();
        let (mine, ended) = (Arc::clone(&late), Arc::clone(&end));
        let thread = std::thread::Builder::new().name("canary".into()).spawn(move || {
            let mut due = now() + PERIOD;
            while !ended.load(Ordering::Relaxed) {
                sleep_until(due);
                let came = now();
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
    pub(super) fn lateness(&self, span: Span) -> Lateness {
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
    pub(super) fn worst(&self, span: Span) -> Duration {
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
mod tests {
    use super::*;

    #[test]
    fn lateness_belongs_to_its_time() {
        let canary = Canary { late: Arc::default(), end: Arc::default(), thread: None };
        canary.late.lock().unwrap().extend([Late { due: 100, came: 150 }, Late { due: 200, came: 220 }]);
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
