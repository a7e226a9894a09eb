//! Tells others of a group's transitions: programs (keepalived's notify scripts) and a stream on a socket (its FIFO).
//!
//! Whoever has a transition to tell never waits: programs are run by a thread a group, in order, from a queue that keeps
//! the newest ([`queue`]); the stream is written by a thread of its own, and a reader that does not read is dropped
//! ([`stream`]).

mod change;
mod hooks;
mod queue;
mod stream;
#[cfg(test)]
mod tests;
mod time;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bascule_crds::vrrp_group::{Notify, VrrpState};
use serde::{Deserialize, Serialize};

use crate::exec::Runner;
pub use change::{Change, Changed};
use hooks::Teller;
use stream::Stream;
pub use stream::{Event, SOCKET};

/// How long a program may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Most groups with programs: each has a thread.
pub const MAX_GROUPS: usize = 1024;

/// Longest reason that is told, in characters (`VrrpGroup.status.members[].reason`).
pub const MAX_REASON: usize = 128;

/// Programs at once, of all groups; more wait.
const AT_ONCE: usize = 16;

/// A group has changed its state on this director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Name of the group.
    pub group: String,
    /// What it was.
    pub from: VrrpState,
    /// What it is.
    pub to: VrrpState,
    /// Why; cut to 128 characters.
    pub reason: String,
    /// The effective priority.
    pub priority: u8,
    /// When.
    pub at: SystemTime,
}

/// A state as it is written everywhere.
pub(crate) const fn word(state: VrrpState) -> &'static str {
    match state {
        VrrpState::Initialize => "Initialize",
        VrrpState::Backup => "Backup",
        VrrpState::Active => "Active",
        VrrpState::Fault => "Fault",
        VrrpState::Unknown => "Unknown",
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// By group, who runs its programs.
    tellers: BTreeMap<String, Teller>,
    /// By group, what it was last.
    present: BTreeMap<String, Transition>,
    /// Groups whose transitions are streamed.
    streamed: Vec<String>,
    stream: Option<Stream>,
}

impl Inner {
    fn tell_present(&self) {
        let present = self.streamed.iter().filter_map(|group| self.present.get(group)).map(Event::new);
        if let Some(stream) = &self.stream {
            stream.present(present.collect());
        }
    }
}

/// Tells others of transitions. A handle that may be shared; nothing blocks but [`Notifier::shutdown`].
#[derive(Debug)]
pub struct Notifier {
    runner: Runner,
    run_dir: PathBuf,
    inner: Mutex<Inner>,
}

impl Notifier {
    /// The stream's socket is `events.sock` in the run directory, made when a group wants it. Whoever calls this holds the
    /// run directory's lock.
    pub fn spawn(runner: &Runner, run_dir: &Path) -> std::io::Result<Self> {
        Ok(Self { runner: runner.apart(AT_ONCE)?, run_dir: run_dir.to_owned(), inner: Mutex::default() })
    }

    /// All groups of this director that have somebody to tell.
    pub fn configure(&self, groups: &[(String, Notify)]) {
        let mut inner = self.lock();
        let with_programs = |notify: &Notify| {
            [&notify.active, &notify.backup, &notify.fault, &notify.any].into_iter().any(Option::is_some)
        };
        let wanted: BTreeMap<&str, &Notify> = groups
            .iter()
            .filter(|(_, notify)| with_programs(notify))
            .map(|(group, notify)| (group.as_str(), notify))
            .collect();
        inner.tellers.retain(|group, teller| {
            let stays = wanted.contains_key(group.as_str());
            if !stays {
                teller.end();
            }
            stays
        });
        for (group, notify) in wanted {
            if let Some(teller) = inner.tellers.get(group) {
                teller.configure(notify.clone());
                continue;
            }
            if inner.tellers.len() >= MAX_GROUPS {
                tracing::error!(
                    group,
                    "more than {MAX_GROUPS} groups have programs to notify: not those of this one"
                );
                continue;
            }
            match Teller::spawn(group, &self.runner, notify.clone()) {
                Ok(teller) => {
                    inner.tellers.insert(group.to_owned(), teller);
                }
                Err(error) => tracing::error!(group, "no thread for its programs to notify: {error}"),
            }
        }
        inner.streamed =
            groups.iter().filter(|(_, notify)| notify.event_stream).map(|(group, _)| group.clone()).collect();
        inner.streamed.sort();
        if inner.streamed.is_empty() {
            inner.stream = None;
        } else if inner.stream.is_none() {
            match Stream::spawn(&self.run_dir) {
                Ok(stream) => inner.stream = Some(stream),
                Err(error) => tracing::error!(
                    "the event stream {} cannot be offered: {error}",
                    self.run_dir.join(SOCKET).display()
                ),
            }
        }
        inner.tell_present();
    }

    /// A group is in this state since before this process: it is among the present states, and nobody is told.
    pub fn present(&self, transition: Transition) {
        let mut inner = self.lock();
        inner.present.insert(transition.group.clone(), transition);
        inner.tell_present();
    }

    /// Tells of a transition. Returns at once.
    pub fn transition(&self, transition: Transition) {
        let mut inner = self.lock();
        let transition = Transition { reason: shorten(&transition.reason), ..transition };
        if let Some(teller) = inner.tellers.get(&transition.group) {
            teller.tell(transition.clone());
        }
        if let Some(stream) = &inner.stream
            && inner.streamed.binary_search(&transition.group).is_ok()
        {
            stream.tell(Event::new(&transition));
        }
        inner.present.insert(transition.group.clone(), transition);
    }

    /// Tells the stream of a change of a service of a group whose transitions are streamed. Returns at once.
    pub fn change(&self, change: &Change) {
        let inner = self.lock();
        if let Some(stream) = &inner.stream
            && inner.streamed.binary_search(&change.group).is_ok()
        {
            stream.change(change.line(SystemTime::now()));
        }
    }

    /// A group is gone from this director: it is no longer among the present states.
    pub fn forget(&self, group: &str) {
        let mut inner = self.lock();
        inner.present.remove(group);
        if let Some(stream) = &inner.stream {
            stream.forget(group);
        }
    }

    /// Ends after what is queued was told, or the time is up: then programs that run are called off, which takes up to 5 s
    /// more. Returns whether all was told.
    pub fn shutdown(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let (tellers, stream) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.tellers), inner.stream.take())
        };
        tellers.values().for_each(Teller::end);
        // Each is waited for, also after one that was late.
        let late = tellers.into_values().filter(|teller| !teller.wait(deadline)).count();
        drop(stream);
        late == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of at most [`MAX_REASON`] characters.
fn shorten(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

/// Locks what no panic can leave half done.
fn lock<T>(mutex: &Arc<(Mutex<T>, std::sync::Condvar)>) -> MutexGuard<'_, T> {
    mutex.0.lock().unwrap_or_else(PoisonError::into_inner)
}
