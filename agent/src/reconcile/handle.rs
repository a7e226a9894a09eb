//! Starts the threads of the planes and talks to them.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use bascule_ipvs::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use super::{
    ConfigUpdate, Counters, Options, PlaneName, Report,
    inbox::Inbox,
    ledger::{Identity, Ledger},
    runner::{Plane, Shared, run},
};
use crate::plane::{
    address::{self, AddressPlane},
    ipvs::IpvsPlane,
    nat::{self, NatPlane},
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
}

/// Starts a thread for each plane, in the network namespace of the calling thread. It ends when the sender of `config` is gone.
pub fn spawn(options: Options, config: mpsc::Receiver<ConfigUpdate>) -> Result<Handle, SpawnError> {
    let identity = Identity::here()?;
    let mut inboxes = BTreeMap::new();
    for name in PlaneName::ALL {
        inboxes.insert(name, Arc::new(Inbox::new()?));
    }
    let shared = Arc::new(Shared::new(inboxes));
    let mut handle = Handle { shared: Arc::clone(&shared), threads: Vec::new() };

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
    let (path, of) = (options.ledger(PlaneName::Ipvs), identity.clone());
    let adopt = options.adopt;
    handle.start(move || IpvsPlane::new(Client::connect, Ledger::open(&path, &of), adopt))?;
    let path = options.ledger(PlaneName::Address);
    handle.start(move || AddressPlane::new(address::Kernel::open, Ledger::open(&path, &identity)))?;

    // Ends by itself when the sender is gone; nobody waits for it.
    Builder::new().name("configure".into()).spawn(move || distribute(&shared, config))?;
    Ok(handle)
}

/// Hands updates to all planes.
fn distribute(shared: &Shared, mut config: mpsc::Receiver<ConfigUpdate>) {
    while let Some(update) = config.blocking_recv() {
        shared.accept(update.serial, update.seen);
        for name in PlaneName::ALL {
            shared.inbox(name).update(&update);
        }
    }
    for inbox in shared.inboxes() {
        inbox.stop();
    }
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

    /// What the reconciler says about itself, and when that changes.
    pub fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.shared.subscribe()
    }

    /// The counters of services and real servers. Empty when the kernel does not answer in time.
    pub async fn counters(&self) -> Counters {
        let (sender, receiver) = oneshot::channel();
        self.shared.inbox(PlaneName::Ipvs).read(sender);
        match tokio::time::timeout(COUNTERS, receiver).await {
            Ok(Ok(counters)) => counters,
            Ok(Err(_)) | Err(_) => Counters::default(),
        }
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
