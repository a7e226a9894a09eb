//! Health checks: runs the probes that services ask for, and tells the planes what they come to.
//!
//! Each distinct subject (what is asked, and of whom) is probed once in each distinct rhythm, however many services share it. The
//! rhythm, the verdicts and what follows from them are `bascule-checks-core`'s; the probes that send something are
//! `bascule-checks`'s. Here they are put together: a change of the configuration passes through [`Checks::configure`] on its way to
//! the planes, on its own thread, so that a plane hears of a binding and of its real servers' health at once; a result that changes a
//! verdict goes to the plane of IPVS alone, and only the services that it concerns.
//!
//! Every director checks, active or not, so that a takeover meets fresh verdicts. They survive a restart of the agent, in /run.

mod before;
mod bounds;
mod exec;
mod file;
mod hooks;
mod keep;
mod log;
mod service;
mod shortage;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod told;
mod track;
mod unmade;
mod view;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bascule_checks::{Prober, Settings};
use bascule_checks_core::{Figures, Outcome, Start, Time};
use bascule_compile::{BindingKey, CheckKey, NodeConfig};
use bascule_crds::HealthCheckSpec;
use futures::FutureExt as _;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use self::bounds::Bounds;
use self::exec::Programs;
use self::hooks::Hooks;
use self::keep::Kept;
use self::state::{Effects, ProbeId, Runnable, State};
use crate::exec::Runner;
use crate::notify::Change;
use crate::reconcile::{ConfigChange, ConfigUpdate, Lives};

pub use track::Tracked;
pub use view::{CheckView, ServerView, ServiceView};

/// Probes that are started in one go; then others have a turn.
const BATCH: usize = 64;
/// How much longer than twice its timeout, which it may take where it waits for others, a probe may take before it is given up from
/// outside.
const GRACE: Duration = Duration::from_secs(1);
/// How much longer a program may take: it is asked to end, killed, and waited for.
const PROGRAM_GRACE: Duration = Duration::from_secs(10);
/// Changed verdicts are written down at once: an agent that is killed the next moment must not send anybody to a server that it found
/// dead. After that there is a pause of so many times as long as that took, which bounds what it may cost where thousands change.
const PAUSE: u32 = 20;
/// The shortest and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(10));
/// Checks that cannot be run are tried again so often: what this machine lacks may have come.
const AGAIN: Duration = Duration::from_secs(60);

/// How to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// The director's name.
    pub director: String,
    /// Where verdicts are kept: a directory that a reboot empties.
    pub run_dir: PathBuf,
    /// The directory of `--allow-file`; without it no file is watched.
    pub allow_file: Option<PathBuf>,
    /// Descriptors that the process may have: they bound how many probes run at once.
    pub descriptors: u64,
}

/// Hears of what groups track: that it fails (true), or not any more.
type TellGroups = Box<dyn Fn(&Tracked, bool) + Send + Sync>;

/// Is told of changes and must not wait.
type Observer = Box<dyn Fn(&Change) + Send + Sync>;

/// What the tasks share.
struct Shared {
    state: Mutex<State>,
    /// Until when the driver sleeps.
    sleeps_until: Mutex<Option<Time>>,
    wake: Notify,
    /// Probes that may run at once.
    at_once: usize,
    places: Semaphore,
    programs: Programs,
    hooks: Hooks,
    tell: Box<dyn Fn(Lives) + Send + Sync>,
    /// Who listens to changes.
    observer: OnceLock<Observer>,
    /// Told of what groups track: that it fails, or not any more.
    tell_groups: TellGroups,
    run_dir: PathBuf,
    /// One writes at a time: the last one what is the case last.
    writing: Mutex<()>,
    /// There is something to write.
    keep: Notify,
}

/// The checks of a director. Dropping it gives up the probes that run.
pub struct Checks {
    shared: Arc<Shared>,
    driver: AbortHandle,
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checks").finish_non_exhaustive()
    }
}

/// CLOCK_BOOTTIME: the same in all processes of a machine.
pub(crate) fn now() -> Time {
    // It is there since Linux 2.6.39, and reading a clock that is there does not fail.
    Time::from_duration(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
}

/// What the checks of a configuration's real servers come to before any probe has run, by the verdicts that an agent with the same
/// run directory has left there: what one that starts now would tell the planes first. Also, why they cannot be read: then nothing is
/// known. Reads, and writes nothing.
pub fn kept(
    director: &str,
    run_dir: &Path,
    config: &Arc<NodeConfig>,
    checks: &BTreeMap<CheckKey, Arc<HealthCheckSpec>>,
) -> (Lives, Option<String>) {
    let (kept, problem) = Kept::read(run_dir, &keep::boot_id());
    // Files are watched or not as that agent was told: where they are not, nothing was kept of them.
    let mut state = State::new(prober(director), 0, true, kept);
    let mut update = ConfigUpdate {
        serial: 0,
        seen: Instant::now(),
        change: ConfigChange::All(Arc::clone(config)),
        checks: checks.iter().map(|(key, spec)| (key.clone(), Some(Arc::clone(spec)))).collect(),
        live: Lives::new(),
    };
    state.configure(now(), &mut update);
    (update.live, problem)
}

fn prober(director: &str) -> Prober {
    Prober::new(Settings { helo: director.to_owned() })
}

impl Checks {
    /// Starts without any check, with the verdicts that a former process left. `tell` is told what verdicts come to, of the
    /// services concerned; `tell_groups`, of what groups track, that it fails now or not any more: what nobody was told of does not
    /// fail.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn spawn(
        options: &Options,
        runner: &Runner,
        tell: impl Fn(Lives) + Send + Sync + 'static,
        tell_groups: impl Fn(&Tracked, bool) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let mut seed = DefaultHasher::new();
        options.director.hash(&mut seed);
        let (kept, problem) = Kept::read(&options.run_dir, &keep::boot_id());
        if let Some(problem) = problem {
            tracing::warn!("{problem}");
        }
        let state = State::new(prober(&options.director), seed.finish(), options.allow_file.is_some(), kept);
        let bounds = Bounds::of(options.descriptors);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            sleeps_until: Mutex::new(None),
            wake: Notify::new(),
            at_once: bounds.probes,
            places: Semaphore::new(bounds.probes),
            programs: Programs::new(runner, bounds.programs)?,
            hooks: Hooks::spawn(runner)?,
            tell: Box::new(tell),
            observer: OnceLock::new(),
            tell_groups: Box::new(tell_groups),
            run_dir: options.run_dir.clone(),
            writing: Mutex::new(()),
            keep: Notify::new(),
        });
        if let Some(directory) = options.allow_file.clone() {
            let shared = Arc::downgrade(&shared);
            std::thread::Builder::new()
                .name("checks-files".into())
                .spawn(move || file::watch(&directory, &shared))?;
        }
        let (drives, keeps) = (Arc::clone(&shared), Arc::clone(&shared));
        let driver = on_its_own_thread(async {
            tokio::join!(drive(drives), keep_verdicts(keeps));
        })?;
        Ok(Self { shared, driver })
    }

    /// Tells `observer` from now on what changes about real servers and quorums of services of a group. It must not wait. Only the
    /// first one is told.
    pub fn observe(&self, observer: impl Fn(&Change) + Send + Sync + 'static) {
        let _ = self.shared.observer.set(Box::new(observer));
    }

    /// Takes a change of the configuration, puts in what the checks of its bindings come to, and hands it to `send`, so that nothing
    /// newer about them is told before.
    pub fn configure(&self, mut update: ConfigUpdate, send: impl FnOnce(&ConfigUpdate)) {
        let mut state = self.shared.lock();
        let effects = state.configure(now(), &mut update);
        self.shared.say(&state, &effects);
        send(&update);
        self.shared.keep(&state);
        drop(state);
        self.shared.wake.notify_one();
    }

    /// What is known of the real servers of services.
    pub fn services(&self) -> BTreeMap<BindingKey, ServiceView> {
        view::services(&self.shared.lock())
    }

    /// Figures of all probes together, and how many there are and run.
    pub fn figures(&self) -> (Figures, usize, usize) {
        let state = self.shared.lock();
        (state.scheduler.figures().clone(), state.scheduler.len(), state.scheduler.running())
    }

    /// Probes that may run at once, programs not counted.
    pub fn at_once(&self) -> usize {
        self.shared.at_once
    }

    /// Ends, and keeps the verdicts for the next one.
    pub fn stop(&self) {
        self.driver.abort();
        self.shared.save();
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self, start: &Start<ProbeId>, outcome: &Outcome) {
        let mut state = self.lock();
        let effects = state.finished(now(), start.key, start.run, outcome);
        self.carry_out(&state, effects);
        let next = state.scheduler.next_deadline();
        drop(state);
        let sleeps = *self.sleeps_until.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_some_and(|next| sleeps.is_none_or(|sleeps| next < sleeps)) {
            self.wake.notify_one();
        }
    }

    fn report(&self, id: ProbeId, outcome: &Outcome) {
        let mut state = self.lock();
        let effects = state.report(now(), id, outcome);
        self.carry_out(&state, effects);
    }

    /// Under the state's lock, so that what is told is told in its order.
    fn carry_out(&self, state: &State, effects: Effects) {
        self.say(state, &effects);
        if !effects.live.is_empty() {
            (self.tell)(effects.live);
        }
        self.keep(state);
    }

    /// Has written down what changed.
    fn keep(&self, state: &State) {
        if state.unsaved {
            self.keep.notify_one();
        }
    }

    /// Tells those who want to know. Under the state's lock, too.
    fn say(&self, state: &State, effects: &Effects) {
        self.hooks.tell(state, &effects.quorums);
        if let Some(observer) = self.observer.get() {
            effects.servers.iter().for_each(observer);
            told::quorums(&state.services, &effects.quorums).for_each(|change| observer(&change));
        }
        self.tell_groups(effects);
    }

    /// Tries the checks again that cannot be run.
    fn retry(&self) {
        let mut state = self.lock();
        let effects = state.retry(now());
        self.carry_out(&state, effects);
    }

    /// Under the state's lock, too.
    fn tell_groups(&self, effects: &Effects) {
        for (tracked, failing) in &effects.tracked {
            let Tracked { group, name } = tracked;
            if *failing {
                tracing::warn!(group, "{name} fails");
            } else {
                tracing::info!(group, "{name} does not fail any more");
            }
            (self.tell_groups)(tracked, *failing);
        }
    }

    /// Writes the verdicts down, if they changed.
    fn save(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.unsaved) {
                return;
            }
            state.keep()
        };
        if let Err(error) = kept.write(&self.run_dir) {
            tracing::warn!(
                "{}: {error}; a restarted agent will know nothing of the real servers",
                self.run_dir.join(keep::FILE).display()
            );
        }
    }
}

/// Of times that were missed, none is made up for.
fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// Runs the driver and its probes on one thread: they wait for nobody who works for anything else, and no probe wakes another core.
/// What takes long (programs, heavy patterns, files) has threads of its own, and ordinary ones: this one goes before them, as a
/// probe that begins late, or measures its own waiting, tells nothing of its target.
fn on_its_own_thread(driver: impl Future<Output = ()> + Send + 'static) -> std::io::Result<AbortHandle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(crate::priority::ordinary)
        .build()?;
    // A task like any other: waking the future that a runtime is blocked on costs a system call.
    let driver = runtime.spawn(driver);
    let handle = driver.abort_handle();
    std::thread::Builder::new().name("checks".into()).spawn(move || {
        crate::priority::raise();
        let _ = runtime.block_on(driver);
        // Not waiting for programs that hang: they are killed with the process.
        runtime.shutdown_background();
    })?;
    Ok(handle)
}

/// Starts the probes that are due, for ever.
async fn drive(shared: Arc<Shared>) {
    let mut probes = JoinSet::new();
    let mut retrying = interval(AGAIN);
    loop {
        while probes.try_join_next().is_some() {}
        let (starts, next) = {
            let mut state = shared.lock();
            let starts = state.scheduler.poll(now(), BATCH);
            let starts: Vec<_> = starts
                .into_iter()
                .map(|start| (state.runnable(start.key), start))
                .filter_map(|(runnable, start)| Some((start, runnable?)))
                .collect();
            let next = state.scheduler.next_deadline();
            *shared.sleeps_until.lock().unwrap_or_else(PoisonError::into_inner) = next;
            (starts, next)
        };
        let tasks: Vec<_> = starts
            .into_iter()
            .map(|(start, runnable)| {
                let id = start.key;
                (id, probes.spawn(probe(Arc::clone(&shared), start, runnable)))
            })
            .collect();
        if !tasks.is_empty() {
            shared.lock().carried_out_by(tasks.into_iter());
        }
        let left = next.map(|next| next.since(now()));
        // Also where something is due all the time, what else there is to do has its turn.
        let rests = async {
            if left == Some(Duration::ZERO) {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(left.unwrap_or(Duration::MAX)).await;
            }
        };
        tokio::select! {
            biased;
            _ = retrying.tick() => shared.retry(),
            () = shared.wake.notified() => {}
            () = rests => {}
        }
    }
}

/// Writes verdicts down as they change, for ever.
async fn keep_verdicts(shared: Arc<Shared>) {
    loop {
        shared.keep.notified().await;
        let began = Instant::now();
        let writes = Arc::clone(&shared);
        // That it panics is said by its thread; the next change is written down again.
        let _ = tokio::task::spawn_blocking(move || writes.save()).await;
        let (shortest, longest) = PAUSES;
        tokio::time::sleep((began.elapsed() * PAUSE).clamp(shortest, longest)).await;
    }
}

/// One probe, from its start to its result.
async fn probe(shared: Arc<Shared>, start: Start<ProbeId>, runnable: Runnable) {
    shared.lock().scheduler.begun(now(), &start.key, start.run);
    let timeout = start.timeout;
    let outcome = match runnable {
        Runnable::Net(prepared) => match shared.places.try_acquire() {
            Ok(_place) => bounded(timeout * 2 + GRACE, Box::pin(prepared.run(timeout))).await,
            // It does not wait: those that run may take long, and the next time comes.
            Err(_) => Outcome::undecided(format!("{} probes run already (LimitNOFILE)", shared.at_once)),
        },
        Runnable::Exec(key) => bounded(timeout + PROGRAM_GRACE, shared.programs.run(key, timeout)).await,
        Runnable::Watched => return,
    };
    shared.finished(&start, &outcome);
}

/// A probe ends, whatever it does: else it would never run again.
async fn bounded(time: Duration, run: impl Future<Output = Outcome>) -> Outcome {
    match tokio::time::timeout(time, AssertUnwindSafe(run).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::failed("internal error: the probe panicked"),
        Err(_) => Outcome::failed(format!("no result within {time:?}")),
    }
}
