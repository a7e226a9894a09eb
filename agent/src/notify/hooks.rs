//! Runs the programs of one group, one after the other, on a thread of its own.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bascule_crds::common::ProgramCall;
use bascule_crds::vrrp_group::{Notify, VrrpState};

use super::queue::Queue;
use super::{PATIENCE, Transition, lock, word};
use crate::exec::{Call, Cancel, Runner};

/// How long a program that was called off may take to end; see [`crate::exec`].
const CALLED_OFF: Duration = Duration::from_secs(5);

/// Longest that a program is quoted in the log, in characters.
const QUOTED: usize = 200;

#[derive(Debug)]
struct State {
    notify: Notify,
    queue: Queue,
    /// To end when the queue is empty.
    ending: bool,
    over: bool,
}

/// Who runs the programs of one group.
#[derive(Debug)]
pub(super) struct Teller {
    shared: Arc<(Mutex<State>, Condvar)>,
    cancel: Cancel,
}

impl Teller {
    pub(super) fn spawn(group: &str, runner: &Runner, notify: Notify) -> std::io::Result<Self> {
        let state = State { notify, queue: Queue::default(), ending: false, over: false };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let cancel = Cancel::new()?;
        let (theirs, group) = (shared.clone(), group.to_owned());
        let (runner, called_off) = (runner.clone(), cancel.clone());
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            // Also after a panic, so that nobody waits for it.
            let _over = Over(&theirs);
            run(&theirs, &group, &runner, &called_off);
        })?;
        Ok(Self { shared, cancel })
    }

    pub(super) fn configure(&self, notify: Notify) {
        lock(&self.shared).notify = notify;
    }

    pub(super) fn tell(&self, transition: Transition) {
        lock(&self.shared).queue.push(transition);
        self.shared.1.notify_all();
    }

    /// What is queued is still told.
    pub(super) fn end(&self) {
        lock(&self.shared).ending = true;
        self.shared.1.notify_all();
    }

    /// Waits for the end; calls off what runs when it does not come in time. Returns whether all was told.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        if self.is_over_by(deadline) {
            return true;
        }
        self.cancel.cancel();
        let _ = self.is_over_by(Instant::now() + CALLED_OFF);
        false
    }

    fn is_over_by(&self, deadline: Instant) -> bool {
        let mut state = lock(&self.shared);
        while !state.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

struct Over<'a>(&'a Arc<(Mutex<State>, Condvar)>);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        lock(self.0).over = true;
        self.0.1.notify_all();
    }
}

fn run(shared: &Arc<(Mutex<State>, Condvar)>, group: &str, runner: &Runner, cancel: &Cancel) {
    let mut state = lock(shared);
    while !cancel.is_cancelled() {
        let Some((transition, dropped)) = state.queue.take() else {
            if state.ending {
                return;
            }
            state = shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let calls = calls(&state.notify, &transition);
        drop(state);
        if dropped > 0 {
            tracing::warn!(
                group,
                dropped,
                "transitions came faster than the programs that are notified run: some between were not told"
            );
        }
        for call in calls {
            match runner.run(&call.as_call(), Some(cancel)) {
                Ok(outcome) if outcome.succeeded() => {
                    tracing::debug!(
                        group,
                        program = call.program.program,
                        "notified of {}",
                        word(transition.to)
                    );
                }
                Ok(outcome) => tracing::warn!(
                    group,
                    "{}, notified of {}: {}",
                    call.program.program,
                    word(transition.to),
                    outcome.summary(QUOTED)
                ),
                Err(error) => tracing::warn!(group, "notifying of {}: {error}", word(transition.to)),
            }
        }
        state = lock(shared);
    }
}

/// A program with what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) program: ProgramCall,
    pub(super) environment: Vec<(&'static str, String)>,
}

impl Hook {
    fn as_call(&self) -> Call<'_> {
        Call { environment: self.environment.clone(), ..Call::new(&self.program, PATIENCE) }
    }
}

/// The programs to run for a transition: the one of the new state, then the one of all.
pub(super) fn calls(notify: &Notify, transition: &Transition) -> Vec<Hook> {
    let own = match transition.to {
        VrrpState::Active => &notify.active,
        VrrpState::Backup => &notify.backup,
        VrrpState::Fault => &notify.fault,
        VrrpState::Initialize | VrrpState::Unknown => &None,
    };
    let any = notify.any.clone().map(|mut call| {
        call.args.push(word(transition.to).to_owned());
        call
    });
    let environment = vec![
        ("BASCULE_GROUP", transition.group.clone()),
        ("BASCULE_STATE", word(transition.to).to_owned()),
        ("BASCULE_PREVIOUS_STATE", word(transition.from).to_owned()),
        ("BASCULE_REASON", transition.reason.clone()),
        ("BASCULE_PRIORITY", transition.priority.to_string()),
    ];
    own.clone()
        .into_iter()
        .chain(any)
        .map(|program| Hook { program, environment: environment.clone() })
        .collect()
}
