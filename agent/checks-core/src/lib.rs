//! Health checking without I/O: when each probe runs, what its results mean, and what the kernel's load balancer shall hold in
//! consequence. No sockets, no clock, no threads: what was found and what time it is are handed in, what is to be done comes out.
//!
//! # What there is
//!
//! * [`Scheduler`]: all checks of a director. It says which probes to start, takes their results, keeps the verdicts.
//! * [`Verdict`]: what the results of one check mean: rise and fall, and the weight that a program asks for.
//! * [`pool::Pool`]: one virtual service: verdicts, quorum with hysteresis and sorry servers come to what the kernel shall hold.
//! * [`Outcome`]: what one run of a probe found, in words for a person. The probes themselves are elsewhere.
//!
//! # How it is driven
//!
//! ```
//! use std::time::Duration;
//! use bascule_checks_core::{Health, Outcome, Scheduler, Time, Timings, pool};
//!
//! let at = |seconds| Time::from_duration(Duration::from_secs_f64(seconds)); // CLOCK_BOOTTIME
//! let mut scheduler = Scheduler::new(1);
//! let mut timings = Timings::every(Duration::from_secs(1));
//! timings.initial_delay = Some(Duration::ZERO);
//! scheduler.set(at(100.0), "srv1", timings)?;
//!
//! assert_eq!(scheduler.next_deadline(), Some(at(100.0)));
//! for start in scheduler.poll(at(100.0), 64) {
//!     // Here the probe runs, for start.timeout at most, and meanwhile others do.
//!     let outcome = Outcome::failed("GET /index.html: 503, wanted 200");
//!     let transition = scheduler.finished(at(100.1), &start.key, start.run, &outcome).unwrap();
//!     assert_eq!(transition.to, Health::Down);
//! }
//! assert_eq!(scheduler.next_deadline(), Some(at(101.0)));
//!
//! let server = pool::Server {
//!     weight: 1,
//!     families: pool::Families::IPV4,
//!     checks: vec![scheduler.verdict(&"srv1").unwrap().into()],
//!     ..pool::Server::default()
//! };
//! let pool = pool::Pool { servers: vec![server], sorry: pool::Families::IPV4, ..pool::Pool::default() };
//! let judgement = pool.judge(pool::Standing::Met);
//! assert_eq!(judgement.standing, pool::Standing::Lost);
//! assert_eq!(judgement.ipv4, pool::Serving::SorryServer);
//! assert_eq!(judgement.servers[0].ipv4, pool::Held::Absent);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When a probe runs
//!
//! Each check has a grid of points that are an interval apart. The grids of many checks lie evenly between each other, however
//! many there are and in whatever order they come and go, so that ten thousand checks every ten seconds are a probe a millisecond.
//! A probe that starts late moves no later one. A check is never probed twice at once: where a probe still runs at the next point,
//! the next one starts when it ends; points that were missed altogether are not made up for. While a check fails, its probes are a
//! retry interval apart, from start to start; then it returns to its grid. Other timings leave a check its verdict and its place
//! within the interval.
//!
//! So a dead target is noticed within `interval × fall + timeout` of its death, with a retry interval within `interval +
//! (fall - 1) × retry interval + timeout`, plus the lateness, which is measured.
//!
//! A probe that could not be carried out, because this machine lacked something, says nothing about its target
//! ([`Outcome::undecided`]): the verdict stays, no row of passes or failures is ended or made longer, and the next probe runs
//! when it would have run anyway.
//!
//! What drives it must keep to:
//!
//! 1. `now` never runs backwards, and is the same clock in all processes that hand verdicts to each other (`CLOCK_BOOTTIME`).
//! 2. Each [`Start`] is answered by one [`Scheduler::finished`], soon after its timeout at the latest: a check whose probe never
//!    ends is never probed again.
//! 3. A limit of [`Scheduler::poll`] bounds what starts at one moment, not what runs: a bound on what runs would let slow targets
//!    delay others.
#![forbid(unsafe_code)]

mod histogram;
mod outcome;
pub mod pool;
pub mod schedule;
mod time;
mod verdict;

pub use histogram::Histogram;
pub use outcome::{MESSAGE_MAX, Outcome};
pub use schedule::{Figures, Scheduler, Set, Start, Timings, TimingsError};
pub use time::Time;
pub use verdict::{Health, Thresholds, Transition, Verdict};
