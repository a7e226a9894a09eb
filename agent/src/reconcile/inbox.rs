//! What a plane has yet to do: changes of one binding merge, so that the queue is never longer than the configuration.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bascule_compile::BindingKey;
use bascule_crds::{DirectorConfigSpec, NatRuleBindingSpec, VirtualServiceBindingSpec};
use tokio::sync::oneshot;

use super::{ConfigChange, ConfigUpdate, Lives};
use crate::plane::{
    ipvs::Sampled,
    nat_rules::{Count, Roles},
};

/// Requests for counters that wait; whoever asks when there are more gets none.
const MAX_READERS: usize = 16;

/// What a plane's kernel table counted.
#[derive(Debug, Default)]
pub(crate) enum Counted {
    /// Nothing.
    #[default]
    None,
    /// Of services and real servers, as read.
    Services(Vec<Sampled>),
    /// Of NatRules.
    NatRules(BTreeMap<BindingKey, Count>),
}

/// Several updates as one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Merged {
    /// The newest serial.
    pub(crate) serial: u64,
    /// Whether `bindings` is all there is.
    pub(crate) all: bool,
    /// The director's settings, when they changed.
    pub(crate) director: Option<DirectorConfigSpec>,
    /// The changed bindings; none where one is gone.
    pub(crate) bindings: BTreeMap<BindingKey, Option<Arc<VirtualServiceBindingSpec>>>,
    /// The changed bindings of NatRules; none where one is gone.
    pub(crate) nat_rules: BTreeMap<BindingKey, Option<Arc<NatRuleBindingSpec>>>,
    /// What became known of groups.
    pub(crate) roles: Roles,
    /// What the checks of bindings come to, of those in `bindings` and of others.
    pub(crate) live: Lives,
}

impl Merged {
    /// Whether the configuration speaks, and not somebody else alone.
    pub(crate) fn is_configuration(&self) -> bool {
        self.serial > 0
    }

    fn merge(&mut self, update: &ConfigUpdate) {
        self.serial = self.serial.max(update.serial);
        match &update.change {
            ConfigChange::All(config) => {
                self.all = true;
                self.live.clear();
                self.director = Some(config.director.clone());
                self.bindings =
                    config.bindings.iter().map(|(key, spec)| (key.clone(), Some(Arc::clone(spec)))).collect();
                self.nat_rules = config
                    .nat_rules
                    .iter()
                    .map(|(key, spec)| (key.clone(), Some(Arc::clone(spec))))
                    .collect();
            }
            ConfigChange::Some { director, bindings, nat_rules } => {
                if let Some(director) = director {
                    self.director = Some(director.clone());
                }
                for (key, spec) in bindings {
                    // What was said of its real servers is said anew, of those that it has now.
                    self.live.remove(key);
                    if spec.is_none() && self.all {
                        self.bindings.remove(key);
                    } else {
                        self.bindings.insert(key.clone(), spec.clone());
                    }
                }
                for (key, spec) in nat_rules {
                    if spec.is_none() && self.all {
                        self.nat_rules.remove(key);
                    } else {
                        self.nat_rules.insert(key.clone(), spec.clone());
                    }
                }
            }
        }
        self.live.extend(update.live.iter().map(|(key, live)| (key.clone(), Arc::clone(live))));
    }
}

#[derive(Default)]
struct State {
    merged: Option<Merged>,
    readers: Vec<oneshot::Sender<Counted>>,
    stop: bool,
}

/// What was taken out of an [`Inbox`].
#[derive(Default)]
pub(crate) struct Taken {
    /// The changes since the last time.
    pub(crate) merged: Option<Merged>,
    /// Who wants counters.
    pub(crate) readers: Vec<oneshot::Sender<Counted>>,
    /// The thread shall end.
    pub(crate) stop: bool,
}

/// The queue of one plane's thread.
pub(crate) struct Inbox {
    state: Mutex<State>,
    sleeper: UnixStream,
    waker: UnixStream,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        let (sleeper, waker) = UnixStream::pair()?;
        sleeper.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        Ok(Self { state: Mutex::default(), sleeper, waker })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever held the lock only moved values: there is no half-done state to fear.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, update: &ConfigUpdate) {
        self.state().merged.get_or_insert_default().merge(update);
        self.wake();
    }

    /// Other verdicts on real servers; nothing else about their bindings changed.
    pub(crate) fn live(&self, live: Lives) {
        self.state().merged.get_or_insert_default().live.extend(live);
        self.wake();
    }

    /// A group is active here now, or not any more.
    pub(crate) fn role(&self, group: Arc<str>, active: bool) {
        self.state().merged.get_or_insert_default().roles.insert(group, active);
        self.wake();
    }

    pub(crate) fn read(&self, reader: oneshot::Sender<Counted>) {
        let mut state = self.state();
        if state.readers.len() < MAX_READERS {
            state.readers.push(reader);
            drop(state);
            self.wake();
        }
    }

    pub(crate) fn stop(&self) {
        self.state().stop = true;
        self.wake();
    }

    /// Makes [`Inbox::descriptor`] readable.
    pub(crate) fn wake(&self) {
        // EAGAIN: the buffer is full, that is, the thread is woken already.
        let _ = (&self.waker).write(&[1]);
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.sleeper.as_fd()
    }

    /// Whether a change or the end waits to be taken.
    pub(crate) fn waits(&self) -> bool {
        let state = self.state();
        state.merged.is_some() || state.stop
    }

    /// Takes everything; the descriptor is no longer readable.
    pub(crate) fn take(&self) -> Taken {
        // Emptied before the state is taken: what comes after is a new wake. EAGAIN: nothing was there.
        let _ = (&self.sleeper).read(&mut [0; 512]);
        let mut state = self.state();
        Taken { merged: state.merged.take(), readers: std::mem::take(&mut state.readers), stop: state.stop }
    }
}
