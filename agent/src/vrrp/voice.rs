//! What the thread that speaks VRRP has to say to anybody else: log lines, transitions, what the disk has to remember. It must never
//! wait for a full pipe or a slow disk, so another thread does that for it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use bascule_vrrp::GroupState;
use tracing::{error, info, warn};

use super::record;

/// Remarks that wait to be said; of log lines more are counted and dropped, which is said too.
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
    /// Its addresses are on this machine: it is active, or has ended and left them (`onAgentLoss: Keep`).
    pub holds: bool,
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
    /// A group is to be handed over: its services are to be stopped. Or it was not, and they are to go on.
    Yield {
        /// The group.
        group: Arc<str>,
        /// Whether they are to stop.
        stop: bool,
    },
    /// Nothing: look whether something was held up.
    Look,
}

/// Who wants to know of transitions.
pub type Observer = Box<dyn Fn(&Transition) + Send>;

/// Who stops the services of a group that is to be handed over, and then says so ([`super::Handle::services_stopped`]); or, with
/// `false`, has them go on: nobody took over.
pub type Yield = Box<dyn Fn(&str, bool) + Send>;

/// Those who are told.
pub(crate) struct Listeners {
    pub(crate) observer: Observer,
    pub(crate) yielding: Option<Yield>,
}

/// The speaking end.
#[derive(Clone)]
pub(crate) struct Voice {
    sender: SyncSender<Remark>,
    dropped: Arc<AtomicU64>,
    held_up: Arc<HeldUp>,
}

/// What must not be lost and finds the queue full: of each group and each file the newest, so that it cannot grow.
#[derive(Debug, Default)]
struct HeldUp(Mutex<Vec<Remark>>);

impl HeldUp {
    /// Both threads only move values under this lock.
    fn lock(&self) -> MutexGuard<'_, Vec<Remark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a remark to those that are held up. Of several transitions of a group one is left, from the first state to the last.
fn hold_up(held_up: &mut Vec<Remark>, remark: Remark) {
    // What was to be done before a hand-over is over with the newest word, or when the group is not active any more.
    let about = match &remark {
        Remark::Yield { group, .. } => Some(group),
        Remark::Transition(new) if new.to != GroupState::Active => Some(&new.group),
        _ => None,
    };
    held_up.retain(|other| !matches!(other, Remark::Yield { group, .. } if Some(group) == about));
    for other in held_up.iter_mut() {
        match (other, &remark) {
            (Remark::Transition(old), Remark::Transition(new)) if old.group == new.group => {
                *old = Transition { from: old.from, ..new.clone() };
                return;
            }
            (Remark::Hold { path, hold }, Remark::Hold { path: same, hold: new }) if path == same => {
                *hold = *new;
                return;
            }
            _ => {}
        }
    }
    held_up.push(remark);
}

impl Voice {
    /// Starts the thread. It ends when the last speaking end has gone.
    pub(crate) fn spawn(listeners: Listeners) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = sync_channel(QUEUE);
        let (dropped, held_up) = (Arc::new(AtomicU64::new(0)), Arc::new(HeldUp::default()));
        let voice = Self { sender, dropped: Arc::clone(&dropped), held_up: Arc::clone(&held_up) };
        let thread = Builder::new()
            .name("vrrp-voice".into())
            .spawn(move || listen(&receiver, &dropped, &held_up, &listeners))?;
        Ok((voice, thread))
    }

    /// Says something, without waiting. Log lines may be lost when the log takes no more; what others act upon is not.
    pub(crate) fn say(&self, remark: Remark) {
        if !matches!(remark, Remark::Transition(_) | Remark::Hold { .. } | Remark::Yield { .. }) {
            if self.sender.try_send(remark).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let mut held_up = self.held_up.lock();
        let refused = if held_up.is_empty() {
            self.sender.try_send(remark).err()
        } else {
            Some(TrySendError::Full(remark))
        };
        // Without a listener nobody is left to be told.
        if let Some(TrySendError::Full(remark)) = refused {
            hold_up(&mut held_up, remark);
            drop(held_up);
            // Should the listener have emptied the queue just now.
            let _ = self.sender.try_send(Remark::Look);
        }
    }

    /// Says that something is wrong.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.say(Remark::Warning(text.into()));
    }
}

fn listen(remarks: &Receiver<Remark>, dropped: &AtomicU64, held_up: &HeldUp, listeners: &Listeners) {
    loop {
        let remark = match remarks.try_recv() {
            Ok(remark) => remark,
            // The queue is empty: what was held up is the newest.
            Err(_) => {
                for remark in std::mem::take(&mut *held_up.lock()) {
                    speak(remark, listeners);
                }
                match remarks.recv() {
                    Ok(remark) => remark,
                    Err(_) => return,
                }
            }
        };
        speak(remark, listeners);
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => warn!("vrrp: {count} remarks were lost, because the log could not take them"),
        }
    }
}

fn speak(remark: Remark, listeners: &Listeners) {
    match remark {
        Remark::Transition(transition) => {
            let Transition { group, from, to, reason, priority, .. } = &transition;
            if from == to {
                info!(%group, state = ?to, priority, "vrrp: {group}: goes on as {to:?}: {reason}");
            } else {
                info!(%group, ?from, ?to, priority, "vrrp: {group}: {from:?} -> {to:?}: {reason}");
            }
            (listeners.observer)(&transition);
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
        Remark::Yield { group, stop } => {
            if stop {
                info!(%group, "vrrp: {group}: its services are stopped before it hands over");
            }
            if let Some(yielding) = &listeners.yielding {
                yielding(&group, stop);
            }
        }
        Remark::Look => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log takes nothing while more is said than the queue holds; then it does.
    #[test]
    fn no_transition_is_lost_to_a_full_queue() {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&seen);
        let observer: Observer = Box::new(move |transition| {
            let _ = gate.recv();
            theirs.lock().unwrap().push((transition.group.to_string(), transition.from, transition.to));
        });
        let (voice, thread) = Voice::spawn(Listeners { observer, yielding: None }).unwrap();
        let transition = |group: &str, from, to| {
            let (group, reason) = (group.into(), String::new());
            Remark::Transition(Transition {
                group,
                from,
                to,
                reason,
                priority: 1,
                holds: to == GroupState::Active,
            })
        };
        voice.say(transition("first", GroupState::Backup, GroupState::Active));
        for _ in 0..2 * QUEUE {
            voice.say(Remark::Info(String::new()));
        }
        for (from, to) in [
            (GroupState::Initialize, GroupState::Backup),
            (GroupState::Backup, GroupState::Active),
            (GroupState::Active, GroupState::Fault),
        ] {
            voice.say(transition("front", from, to));
            voice.say(transition("back", from, to));
        }
        drop(open);
        drop(voice);
        thread.join().unwrap();
        let seen = seen.lock().unwrap();
        let last = |group: &str| seen.iter().rfind(|(name, ..)| name == group).map(|(.., to)| *to);
        assert_eq!(seen[0].0, "first");
        assert_eq!((last("front"), last("back")), (Some(GroupState::Fault), Some(GroupState::Fault)));
        for pair in seen[1..].windows(3) {
            assert_eq!(pair[0].0, pair[2].0, "in turn: {seen:?}");
        }
    }

    #[test]
    fn held_up_transitions_of_a_group_are_one_from_the_first_to_the_last() {
        let mut held_up = Vec::new();
        let transition = |from, to| {
            let (group, reason) = ("front".into(), format!("{to:?}"));
            Remark::Transition(Transition {
                group,
                from,
                to,
                reason,
                priority: 1,
                holds: to == GroupState::Active,
            })
        };
        hold_up(&mut held_up, transition(GroupState::Backup, GroupState::Active));
        hold_up(&mut held_up, Remark::Yield { group: "front".into(), stop: true });
        hold_up(&mut held_up, Remark::Hold { path: "a".into(), hold: true });
        hold_up(&mut held_up, transition(GroupState::Active, GroupState::Fault));
        hold_up(&mut held_up, Remark::Hold { path: "a".into(), hold: false });
        assert_eq!(held_up.len(), 2);
        let Remark::Transition(one) = &held_up[0] else { panic!("{held_up:?}") };
        assert_eq!((one.from, one.to, &*one.reason), (GroupState::Backup, GroupState::Fault, "Fault"));
        assert!(matches!(held_up[1], Remark::Hold { hold: false, .. }));
    }
}
