//! How a run is told to end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::world;

/// What a shell reports for a program that Ctrl-C ended.
const AT_ONCE: i32 = 130;

/// Ends a run in order from another thread or a signal handler: whatever is waited for is given up. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the run to end: it takes everything down and says `interrupted`.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// From now on SIGINT, SIGTERM and SIGHUP cancel; the second of them ends this process at once: then the kernel ends what was started
    /// with it, and the next start removes the rest. They are handled, not blocked: programs in nodes would inherit a blocked signal.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub fn on_signals(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        let cancel = self.clone();
        let listen = async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if cancel.is_cancelled() {
                    std::process::exit(AT_ONCE);
                }
                eprintln!(
                    "bascule-lab: a signal to end: taking everything down; a second one ends this at once"
                );
                cancel.cancel();
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(listen))?;
        Ok(())
    }

    /// An error once it was.
    pub(crate) fn check(&self) -> world::Result<()> {
        if self.is_cancelled() { Err(world::Error::Interrupted) } else { Ok(()) }
    }
}
