//! What the thread that speaks VRRP has to say to anybody else: log lines, transitions, what the disk has to remember. It must never
//! wait for a full pipe or a slow disk, so another thread does that for it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use bascule_vrrp::GroupState;
use tracing::{error, info, warn};

use super::record;

/// Remarks that wait to be said; more are counted and dropped, which is said too.
const QUEUE: usize = 1024;

/// A change of a group's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The group.
    pub group: Arc<str>,
    /// From here.
    pub from: GroupState,
    /// To here.
    pub to: GroupState,
    /// Why, in at most 128 characters.
    pub reason: String,
    /// The priority that it has now.
    pub priority: u8,
}

/// Something to be said.
#[derive(Debug)]
pub(crate) enum Remark {
    /// A transition.
    Transition(Transition),
    /// All is well.
    Info(String),
    /// Something is wrong.
    Warning(String),
    /// A commanded switch-over that holds, or holds no more, is to be remembered over reboots.
    Hold {
        /// In this file.
        path: PathBuf,
        /// Whether it holds.
        hold: bool,
    },
}

/// Who wants to know of transitions.
pub type Observer = Box<dyn Fn(&Transition) + Send>;

/// The speaking end.
#[derive(Clone)]
pub(crate) struct Voice {
    sender: SyncSender<Remark>,
    dropped: Arc<AtomicU64>,
}

impl Voice {
    /// Starts the thread. It ends when the last speaking end has gone.
    pub(crate) fn spawn(observer: Observer) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let thread =
            Builder::new().name("vrrp-voice".into()).spawn(move || listen(&receiver, &counted, &observer))?;
        Ok((Self { sender, dropped }, thread))
    }

    /// Says something, without waiting.
    pub(crate) fn say(&self, remark: Remark) {
        if self.sender.try_send(remark).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says that something is wrong.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.say(Remark::Warning(text.into()));
    }
}

fn listen(remarks: &Receiver<Remark>, dropped: &AtomicU64, observer: &Observer) {
    for remark in remarks {
        match remark {
            Remark::Transition(transition) => {
                let Transition { group, from, to, reason, priority } = &transition;
                if from == to {
                    info!(%group, state = ?to, priority, "vrrp: {group}: goes on as {to:?}: {reason}");
                } else {
                    info!(%group, ?from, ?to, priority, "vrrp: {group}: {from:?} -> {to:?}: {reason}");
                }
                observer(&transition);
            }
            Remark::Info(text) => info!("vrrp: {text}"),
            Remark::Warning(text) => warn!("vrrp: {text}"),
            Remark::Hold { path, hold } => {
                if let Err(failure) = record::remember(&path, hold) {
                    error!(
                        "vrrp: {} cannot be written: {failure}; after a reboot the switch-over is forgotten",
                        path.display()
                    );
                }
            }
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => warn!("vrrp: {count} remarks were lost, because the log could not take them"),
        }
    }
}
