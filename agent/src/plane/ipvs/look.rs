//! How much of the kernel's IPVS table is looked at when: the kernel does not notify, and looking costs.
//!
//! A look has a budget of [`SHARE`] of a core, counted in CPU time of the thread (which is where the kernel's side of netlink is
//! counted, too). Every [`TICK`] a few services are asked for, so that a flush is noticed at once; with what is left of the
//! budget a round over all services goes on: first their own settings, page by page of a list, then the real servers, a dump a
//! service. A small table is looked at as a whole every tick.

use std::{
    ops::Bound,
    time::{Duration, Instant},
};

use bascule_ipvs::ServiceId;
use nix::time::{ClockId, clock_gettime};

/// Part of a core that looking may take.
pub(crate) const SHARE: f64 = 0.01;
/// How often something is looked at: a flush is to be back within a second.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// Services asked for every tick, others each time: a flush takes them all, so that few are enough to notice it.
pub(crate) const SAMPLES: usize = 4;
/// From how many missing ones among them on the table is taken for flushed and gone through as a whole. One alone is somebody's
/// deed that concerns it alone.
pub(crate) const FLUSHED: usize = 2;
/// Services passed over to find those: of one that is in conflict or refused, being there or not says nothing.
pub(crate) const PASSED_OVER: usize = 64;
/// Budget that a quiet time can save up, in seconds of CPU.
const SAVED: f64 = 0.02;
/// Debt that one costly pass can make, in seconds of CPU: for ten seconds there are samples only.
const DEBT: f64 = 0.1;

/// What to read next of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The services without their real servers, a page of their list.
    Services,
    /// The real servers of the services after this one.
    Destinations(Option<ServiceId>),
}

/// Where the round stands and what it may cost.
#[derive(Debug)]
pub(crate) struct Look {
    next_tick: Instant,
    filled: Instant,
    budget: f64,
    step: Step,
    round_started: Instant,
    /// Seconds that the last complete round took.
    period: Option<Duration>,
    /// CPU seconds that reading one service with its real servers takes, smoothed.
    cost: f64,
}

impl Look {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next_tick: now + TICK,
            filled: now,
            budget: 0.0,
            step: Step::Services,
            round_started: now,
            period: None,
            // Until measured: what it takes in an emulated machine.
            cost: 0.0001,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.next_tick
    }

    /// Whether it is time, and if so fills the budget and plans the next tick.
    pub(crate) fn due(&mut self, now: Instant) -> bool {
        if now < self.next_tick {
            return false;
        }
        self.budget =
            (self.budget + now.saturating_duration_since(self.filled).as_secs_f64() * SHARE).min(SAVED);
        self.filled = now;
        // Not `next_tick + TICK`: after a long pause one look is enough.
        self.next_tick = now + TICK;
        true
    }

    /// Whether there is budget left for another step.
    pub(crate) fn affords(&self) -> bool {
        self.budget > 0.0
    }

    /// What to read next.
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// The next step after all services or after some real servers; `last` is the last service of those read, none when the
    /// end is reached. True when a round is complete.
    pub(crate) fn advance(&mut self, now: Instant, last: Option<ServiceId>) -> bool {
        match (self.step, last) {
            (Step::Services, _) => self.step = Step::Destinations(None),
            (Step::Destinations(_), Some(last)) => self.step = Step::Destinations(Some(last)),
            (Step::Destinations(_), None) => {
                self.period = Some(now.saturating_duration_since(self.round_started).max(TICK));
                self.round_started = now;
                self.step = Step::Services;
                return true;
            }
        }
        false
    }

    /// Books what a step cost, over `services` services.
    pub(crate) fn spend(&mut self, seconds: f64, services: usize) {
        // The first list comes right after everything was gone through, and costs little beside that.
        if self.period.is_none() && self.step == Step::Services {
            return;
        }
        self.budget = (self.budget - seconds).max(-DEBT);
        if let (Step::Destinations(_), Ok(services @ 1..)) = (self.step, u32::try_from(services)) {
            self.cost += (seconds / f64::from(services) - self.cost) * 0.1;
        }
    }

    /// No budget any more.
    #[cfg(test)]
    pub(crate) fn exhaust(&mut self) {
        self.budget = f64::NEG_INFINITY;
    }

    /// How long a round takes; none before the first is complete.
    pub(crate) fn period(&self) -> Option<Duration> {
        self.period
    }

    /// What reading `services` services as a whole will cost, in CPU seconds.
    pub(crate) fn estimate(&self, services: usize) -> f64 {
        self.cost * f64::from(u32::try_from(services).unwrap_or(u32::MAX))
    }
}

/// The range of keys after one.
pub(crate) fn after(key: Option<ServiceId>) -> (Bound<ServiceId>, Bound<ServiceId>) {
    (key.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// CPU time of the calling thread in seconds.
pub(crate) fn cpu_time() -> f64 {
    // The clock of one's own thread is always there.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0.0, |time| Duration::from(time).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays seconds with a table whose service costs `cost` and whose dump of services costs a tenth of that each.
    fn play(seconds: u64, services: u32, cost: f64) -> (f64, Look) {
        let start = Instant::now();
        let mut look = Look::new(start);
        let (mut spent, mut position) = (0.0, 0);
        let ticks = u32::try_from(u128::from(seconds) * 1000 / TICK.as_millis()).unwrap();
        for tick in 1..=ticks {
            let now = start + TICK * tick;
            assert!(look.due(now));
            assert!(!look.due(now));
            while look.affords() {
                let price = match look.step() {
                    Step::Services => cost * f64::from(services) / 10.0,
                    Step::Destinations(_) => cost,
                };
                spent += price;
                look.spend(price, 1);
                let id = ServiceId::Fwmark { mark: position, family: bascule_ipvs::Family::Ipv4 };
                let last = match look.step() {
                    Step::Services => None,
                    Step::Destinations(_) => {
                        position += 1;
                        (position <= services).then_some(id)
                    }
                };
                if look.advance(now, last) {
                    position = 0;
                    break;
                }
            }
        }
        (spent, look)
    }

    #[test]
    fn a_small_table_is_looked_at_every_tick() {
        let (_, look) = play(30, 50, 0.0001);
        assert_eq!(look.period(), Some(TICK));
    }

    #[test]
    fn a_big_table_keeps_the_budget() {
        let (spent, look) = play(600, 10_000, 0.000_05);
        assert!(spent <= 600.0 * SHARE * 1.05, "spent {spent}");
        let period = look.period().unwrap().as_secs();
        assert!((50..=70).contains(&period), "10,000 services roll over about a minute, not {period} s");
    }
}
