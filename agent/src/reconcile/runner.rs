//! The thread of a plane: waits for changes, notifications and its own deadlines, and gives the plane its turns.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{debug, error};

use super::{
    Lag, PlaneName, PlaneReport, Report,
    inbox::{Counted, Inbox, Merged},
};
use crate::plane::netlink::wait;

/// A thread looks around at least this often, whatever its plane says.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// After a thread could not even wait, before it tries again.
const BREATH: Duration = Duration::from_millis(100);
/// Updates whose way into the kernel is timed at once; beyond that the oldest are not timed.
const MAX_TIMED: usize = 4_096;

/// What a plane knows in its turn.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    /// Whether all other planes have carried out everything up to this plane's serial.
    pub(crate) others_done: bool,
    /// Whether something new waits for the end of this turn: what can be done later is put off.
    pub(crate) waited_for: &'a dyn Fn() -> bool,
}

/// How a plane left its turn.
pub(crate) struct Turn {
    /// When it wants the next one, if nothing happens before.
    pub(crate) next: Option<Instant>,
    /// Whether everything that was configured has been carried out as far as that is possible now.
    pub(crate) done: bool,
}

/// A data plane as its thread sees it.
pub(crate) trait Plane {
    /// Which one.
    const NAME: PlaneName;

    /// Whether clients wait for it: its thread goes before the others on a busy machine.
    const URGENT: bool = false;

    /// What becomes readable when the kernel notifies.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Takes a change of the configuration.
    fn configure(&mut self, change: &Merged);

    /// Does what is due: hears notifications, looks, plans, applies.
    fn turn(&mut self, context: &Context<'_>) -> Turn;

    /// What it says about itself.
    fn report(&mut self) -> &mut PlaneReport;

    /// What the kernel counted, where it counts: as read, for somebody else to put names to.
    fn figures(&mut self, _now: Instant) -> Counted {
        Counted::None
    }
}

/// What the planes share: how far each is, and the report.
pub(crate) struct Shared {
    progress: Mutex<Progress>,
    sender: watch::Sender<Arc<Report>>,
    inboxes: BTreeMap<PlaneName, Arc<Inbox>>,
}

#[derive(Default)]
struct Progress {
    report: Report,
    timed: VecDeque<(u64, Instant)>,
}

impl Shared {
    pub(crate) fn new(inboxes: BTreeMap<PlaneName, Arc<Inbox>>) -> Self {
        Self { progress: Mutex::default(), sender: watch::Sender::default(), inboxes }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Report>> {
        self.sender.subscribe()
    }

    pub(crate) fn inbox(&self, name: PlaneName) -> &Arc<Inbox> {
        &self.inboxes[&name]
    }

    pub(crate) fn inboxes(&self) -> impl Iterator<Item = &Arc<Inbox>> {
        self.inboxes.values()
    }

    /// An update is on its way to all planes.
    pub(crate) fn accept(&self, serial: u64, seen: Instant) {
        let mut progress = self.progress();
        if progress.timed.len() == MAX_TIMED {
            progress.timed.pop_front();
        }
        progress.timed.push_back((serial, seen));
    }

    /// Whether all planes but `name` have carried out `serial`.
    fn others_done(&self, name: PlaneName, serial: u64) -> bool {
        let progress = self.progress();
        PlaneName::ALL
            .iter()
            .filter(|other| **other != name)
            .all(|other| progress.report.planes.get(other).is_some_and(|plane| plane.serial >= serial))
    }

    /// A plane's thread is lost.
    pub(crate) fn broken(&self, name: PlaneName, text: &str) {
        let message = format!("internal error, the plane has stopped: {text}");
        let report = PlaneReport {
            missing: Some(message.clone()),
            last_error: Some(message),
            ..PlaneReport::default()
        };
        self.publish(name, report);
    }

    fn publish(&self, name: PlaneName, plane: PlaneReport) {
        let mut progress = self.progress();
        let further = progress.report.planes.get(&name).is_none_or(|old| old.serial < plane.serial);
        progress.report.planes.insert(name, Arc::new(plane));
        let serial = PlaneName::ALL
            .iter()
            .map(|name| progress.report.planes.get(name).map_or(0, |plane| plane.serial))
            .min()
            .unwrap_or(0);
        if serial > progress.report.serial {
            progress.report.serial = serial;
            let now = Instant::now();
            let mut lag = (*progress.report.lag).clone();
            while let Some((update, seen)) =
                progress.timed.front().copied().filter(|(update, _)| *update <= serial)
            {
                lag.record(Lag { serial: update, duration: now.saturating_duration_since(seen) });
                progress.timed.pop_front();
            }
            progress.report.lag = Arc::new(lag);
        }
        let report = Arc::new(progress.report.clone());
        drop(progress);
        self.sender.send_replace(report);
        if further && name != PlaneName::Address {
            // The addresses come last: they wait for the others.
            self.inboxes[&PlaneName::Address].wake();
        }
    }
}

/// Runs a plane until its inbox says stop.
pub(crate) fn run<P: Plane>(mut plane: P, shared: &Shared) {
    let mut raised = false;
    let inbox = Arc::clone(shared.inbox(P::NAME));
    let mut serial = 0;
    let mut next: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let time = next.map_or(LONGEST_SLEEP, |at| at.saturating_duration_since(now)).min(LONGEST_SLEEP);
        let mut descriptors = vec![inbox.descriptor()];
        descriptors.extend(plane.descriptors());
        if let Err(failure) = wait(&descriptors, time) {
            error!(plane = %P::NAME, "cannot wait for notifications: {failure}");
            std::thread::sleep(BREATH);
        }
        drop(descriptors);
        let taken = inbox.take();
        if taken.stop {
            // What follows a group goes with it.
            if let Some(change) = taken.merged.filter(|change| !change.roles.is_empty()) {
                plane.configure(&change);
                let context = Context { now: Instant::now(), others_done: false, waited_for: &|| false };
                plane.turn(&context);
            }
            debug!(plane = %P::NAME, "ends");
            return;
        }
        if let Some(change) = taken.merged {
            serial = serial.max(change.serial);
            plane.configure(&change);
        }
        let context = Context {
            now: Instant::now(),
            others_done: shared.others_done(P::NAME, serial),
            waited_for: &|| inbox.waits(),
        };
        let turn = plane.turn(&context);
        next = turn.next;
        let report = plane.report();
        if turn.done {
            report.serial = serial;
            // Not before: what a starting agent goes through is in the kernel already, and forwards while it does.
            if P::URGENT && !raised && serial > 0 {
                crate::priority::raise();
                raised = true;
            }
        }
        shared.publish(P::NAME, report.clone());
        for reader in taken.readers {
            // An error means that whoever asked no longer waits.
            let _ = reader.send(plane.figures(Instant::now()));
        }
    }
}
