//! The pause by nftables and nfnetlink_queue.

use std::{io, time::Instant};

use bascule_ipvs::ServiceId;
use tracing::{debug, warn};

use super::{
    Pause,
    queue::{Queue, settle},
    rules::Rules,
};

/// The network namespace of the thread that uses it. Nothing is open, and no table is there, while nothing is held, unless
/// somebody else has a queue.
#[derive(Default)]
pub(crate) struct Kernel {
    open: Option<Open>,
    /// Empty chains that were left standing.
    standing: Option<Rules>,
    /// That it cannot be done was said.
    said: bool,
}

struct Open {
    // In this order: without the rules nothing gets into the queue any more.
    rules: Rules,
    queue: Queue,
    since: Instant,
    /// Packets that were held.
    held: usize,
}

impl Open {
    fn start(services: &[ServiceId], standing: Option<Rules>) -> io::Result<Self> {
        let queue = Queue::open()?;
        let since = Instant::now();
        let rules = match standing {
            Some(mut rules) => rules.replace(services, queue.number()).map(|()| rules)?,
            None => Rules::open(services, queue.number())?,
        };
        Ok(Self { rules, queue, since, held: 0 })
    }

    fn change(&mut self, services: &[ServiceId]) -> io::Result<()> {
        self.rules.replace(services, self.queue.number())?;
        self.held += self.queue.release()?;
        Ok(())
    }

    /// Returns the chains if they have to stay.
    fn end(mut self) -> io::Result<Option<Rules>> {
        // At once what waits, then what came before the rules were gone, then what was on its way into the queue.
        self.held += self.queue.release()?;
        let paused = self.since.elapsed();
        self.change(&[])?;
        settle();
        self.held += self.queue.release()?;
        debug!(
            plane = "ipvs",
            "held {} packets back for up to {paused:?} while schedulers changed", self.held
        );
        if self.queue.is_alone() {
            return self.rules.remove().map(|()| None);
        }
        // With our chains the packets would go that wait in the other queue; see [`Rules::replace`].
        Ok(Some(self.rules))
    }
}

impl Pause for Kernel {
    fn hold(&mut self, services: &[ServiceId]) {
        let result = match &mut self.open {
            Some(open) => open.change(services),
            None => Open::start(services, self.standing.take()).map(|open| self.open = Some(open)),
        };
        match result {
            Ok(()) => self.said = false,
            Err(error) => {
                self.release();
                if !std::mem::replace(&mut self.said, true) {
                    debug!(
                        plane = "ipvs",
                        "new connections cannot be held back while a scheduler changes, some may be refused: {error} (it \
                         takes Linux 5.12, nf_tables, nft_queue and nfnetlink_queue)"
                    );
                }
            }
        }
    }

    fn release(&mut self) {
        let Some(open) = self.open.take() else { return };
        match open.end() {
            Ok(standing) => self.standing = standing,
            // Closing the sockets ends it anyway; what is still in the queue is lost, and sent again by its senders.
            Err(error) => {
                warn!(plane = "ipvs", "the pause for a change of scheduler ended badly: {error}");
            }
        }
    }
}
