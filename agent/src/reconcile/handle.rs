//! Starts the threads of the planes and talks to them.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use bascule_compile::BindingKey;
use bascule_ipvs::Client;
use tokio::sync::{oneshot, watch};
use tracing::error;

use super::{
    ConfigUpdate, Counters, Lives, Options, PlaneName, Report,
    inbox::{Counted, Inbox},
    ledger::{Identity, Ledger},
    runner::{Plane, Shared, run},
};
use crate::plane::{
    address::{self, AddressPlane},
    ipvs::{IpvsPlane, KernelPause, NoPause, Sampled, Simulated, named},
    nat::{self, NatPlane},
    nat_rules::{self, Count, NatRulesPlane},
    sync::{self, SyncPlane},
    sysctl::{self, SysctlPlane},
};

/// Whoever asks for counters waits at most so long.
const COUNTERS: Duration = Duration::from_secs(2);
/// A thread that is in the middle of a batch may take so long to end.
const ENDING: Duration = Duration::from_secs(15);

/// The reconciler cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the reconciler: {0}")]
pub struct SpawnError(#[from] io::Error);

/// The running reconciler. Dropping it ends its threads; the kernel's tables stay as they are.
pub struct Handle {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// What was read last of the kernel's counters.
    figures: Mutex<Arc<Vec<Sampled>>>,
    counts: Mutex<BTreeMap<BindingKey, Count>>,
}

/// Where changes of the configuration go in. What waits for one binding is merged: the queue is never longer than the
/// configuration, and nobody who sends waits.
#[derive(Clone)]
pub struct Updates {
    shared: Arc<Shared>,
}

impl Updates {
    /// Hands an update to all planes. The caller's thread does it, so that it costs no other one a turn.
    pub fn send(&self, update: &ConfigUpdate) {
        self.shared.accept(update.serial, update.seen);
        // First the one that clients wait for: on a small machine the others would have the processor before it.
        self.shared.inbox(PlaneName::Ipvs).update(update);
        for name in PlaneName::ALL.into_iter().filter(|name| *name != PlaneName::Ipvs) {
            self.shared.inbox(name).update(update);
        }
    }

    /// Tells the plane whose rules follow groups that one is active here now, or not any more.
    pub fn role(&self, group: &Arc<str>, active: bool) {
        self.shared.inbox(PlaneName::NatRules).role(Arc::clone(group), active);
    }

    /// Hands other verdicts on real servers to the plane that forwards to them.
    pub fn live(&self, live: Lives) {
        self.shared.inbox(PlaneName::Ipvs).live(live);
    }
}

impl std::fmt::Debug for Updates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Updates").finish_non_exhaustive()
    }
}

/// Starts a thread for each plane, in the network namespace of the calling thread.
pub fn spawn(options: Options) -> Result<Handle, SpawnError> {
    let identity = Identity::here()?;
    let mut inboxes = BTreeMap::new();
    for name in PlaneName::ALL {
        inboxes.insert(name, Arc::new(Inbox::new()?));
    }
    let shared = Arc::new(Shared::new(inboxes));
    let mut handle =
        Handle { shared, threads: Vec::new(), figures: Mutex::default(), counts: Mutex::default() };

    let proc_sys = options.proc_sys.clone();
    handle.start(move || {
        SysctlPlane::new(move || {
            // Asking for IPVS loads its module, and with it the settings. Whether it is there is the IPVS plane's to say.
            let _ = Client::connect();
            sysctl::Kernel::open(&proc_sys)
        })
    })?;
    let (seal, of) = (options.seal(), identity.clone());
    handle.start(move || NatPlane::new(move || nat::Kernel::open(&seal, &of, true)))?;
    let (notes, of) = (options.nat_rules(), identity.clone());
    handle.start(move || NatRulesPlane::new(move || nat_rules::Kernel::open(&notes, &of, true)))?;
    let (path, of) = (options.ledger(PlaneName::ConnectionSync), identity.clone());
    handle.start(move || SyncPlane::new(sync::Kernel::open, Ledger::open(&path, &of)).listening())?;
    let (path, drains, of) = (options.ledger(PlaneName::Ipvs), options.drains(), identity.clone());
    let adopt = options.adopt;
    let ledgers = move || (Ledger::open(&path, &of), Ledger::open(&drains, &of));
    match options.simulated_ipvs.clone() {
        None => handle.start(move || {
            let (ledger, drained) = ledgers();
            IpvsPlane::new(Client::connect, Box::new(KernelPause::default()), ledger, drained, adopt)
        }),
        Some(journal) => handle.start(move || {
            let (ledger, drained) = ledgers();
            IpvsPlane::new(move || Simulated::open(&journal), Box::new(NoPause), ledger, drained, adopt)
        }),
    }?;
    let path = options.ledger(PlaneName::Address);
    handle.start(move || AddressPlane::new(address::Kernel::open, Ledger::open(&path, &identity)))?;
    Ok(handle)
}

impl Handle {
    /// The plane is made in its thread: its sockets belong there.
    fn start<P: Plane>(&mut self, make: impl FnOnce() -> P + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = Builder::new().name(format!("plane-{}", P::NAME)).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| run(make(), &shared)));
            if let Err(panic) = ended {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(ToString::to_string)
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                error!(plane = %P::NAME, "internal error: {text}");
                shared.broken(P::NAME, &text);
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Where changes of the configuration go in; the first one says everything.
    pub fn updates(&self) -> Updates {
        Updates { shared: Arc::clone(&self.shared) }
    }

    /// What the reconciler says about itself, and when that changes.
    pub fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.shared.subscribe()
    }

    /// The counters of services and real servers. Where the kernel's table takes the plane's thread too long, they are those of the
    /// last time, with their age; empty before the first.
    pub async fn counters(&self) -> Counters {
        let (services, rules) = tokio::join!(self.read(PlaneName::Ipvs), self.read(PlaneName::NatRules));
        let figures = {
            let mut known = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
            if let Counted::Services(newest) = services {
                *known = Arc::new(newest);
            }
            Arc::clone(&known)
        };
        let nat_rules = {
            let mut known = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            if let Counted::NatRules(newest) = rules {
                *known = newest;
            }
            known.clone()
        };
        let counters = tokio::task::spawn_blocking(move || named(&figures, Instant::now())).await;
        Counters { nat_rules, ..counters.unwrap_or_default() }
    }

    async fn read(&self, plane: PlaneName) -> Counted {
        let (sender, receiver) = oneshot::channel();
        self.shared.inbox(plane).read(sender);
        tokio::time::timeout(COUNTERS, receiver).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Ends the threads and waits for them, within a bound. Rules, addresses and settings stay in the kernel.
    pub async fn shutdown(mut self) {
        for inbox in self.shared.inboxes() {
            inbox.stop();
        }
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic has been reported where it happened.
                let _ = thread.join();
            }
        });
        if tokio::time::timeout(ENDING, ended).await.is_err() {
            error!("a plane does not end within {} s and is left behind", ENDING.as_secs());
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for inbox in self.shared.inboxes() {
            inbox.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::ipvs::sampled;

    /// A handle without planes: whoever reads the inbox answers.
    fn handle() -> Handle {
        let inboxes = PlaneName::ALL.map(|name| (name, Arc::new(Inbox::new().unwrap())));
        let shared = Arc::new(Shared::new(inboxes.into()));
        Handle { shared, threads: Vec::new(), figures: Mutex::default(), counts: Mutex::default() }
    }

    #[test]
    fn a_busy_plane_leaves_the_counters_of_the_last_time() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let handle = handle();
        assert_eq!(runtime.block_on(handle.counters()), Counters::default(), "nobody has answered yet");
        let inbox = Arc::clone(handle.shared.inbox(PlaneName::Ipvs));
        let read = Instant::now();
        let answers = std::thread::spawn(move || {
            loop {
                // Including the one that is no longer waited for.
                let readers = inbox.take().readers;
                let sent = readers.into_iter().filter(|reader| !reader.is_closed());
                if sent.map(|reader| reader.send(Counted::Services(sampled(read))).unwrap()).count() > 0 {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let first = runtime.block_on(handle.counters());
        answers.join().unwrap();
        assert_eq!(first.services.len(), 1);
        let second = runtime.block_on(handle.counters());
        assert_eq!(second.services, first.services, "the plane did not answer");
        assert!(second.age >= COUNTERS, "{:?}", second.age);
    }
}
