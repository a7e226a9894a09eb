//! Programs that are run when a quorum is gained or lost (keepalived: quorum_up, quorum_down).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bascule_checks_core::pool::Standing;
use bascule_compile::BindingKey;
use bascule_crds::common::ProgramCall;

use super::state::State;
use crate::exec::{Call, Runner};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Programs that run at once, of different services: one that hangs keeps no other service waiting.
const AT_ONCE: usize = 4;
/// Longest that a program is quoted in the log, in characters.
const QUOTED: usize = 200;

#[derive(Debug)]
struct Job {
    call: ProgramCall,
    state: &'static str,
}

/// What is to be run. Of each service it is the last word alone, so that there are never more than there are services, and none is
/// left out: one whose quorum comes and goes faster than its programs is told what is the case in the end.
#[derive(Debug, Default)]
struct Waiting {
    jobs: BTreeMap<BindingKey, Job>,
    /// Whose turn it is.
    order: VecDeque<BindingKey>,
    /// Of whom a program runs: the next one waits for its end.
    running: BTreeSet<BindingKey>,
    ended: bool,
}

impl Waiting {
    fn put(&mut self, service: &BindingKey, job: Option<Job>) {
        let Some(job) = job else {
            // What was to be told is not the case any more.
            if self.jobs.remove(service).is_some() {
                self.order.retain(|other| other != service);
            }
            return;
        };
        if self.jobs.insert(service.clone(), job).is_none() {
            self.order.push_back(service.clone());
        }
    }

    fn take(&mut self) -> Option<(BindingKey, Job)> {
        let next = self.order.iter().position(|service| !self.running.contains(service))?;
        let service = self.order.remove(next)?;
        let job = self.jobs.remove(&service)?;
        self.running.insert(service.clone());
        Some((service, job))
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one, when there is one; none at the end.
    fn next(&self) -> Option<(BindingKey, Job)> {
        let mut waiting = self.lock();
        loop {
            if waiting.ended {
                return None;
            }
            if let Some(next) = waiting.take() {
                return Some(next);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, service: &BindingKey) {
        self.lock().running.remove(service);
        self.changed.notify_one();
    }
}

/// Runs them, on threads of its own. Dropped, it begins no more.
#[derive(Debug)]
pub(super) struct Hooks {
    queue: Arc<Queue>,
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.queue.lock().ended = true;
        self.queue.changed.notify_all();
    }
}

impl Hooks {
    pub(super) fn spawn(runner: &Runner) -> io::Result<Self> {
        let hooks = Self { queue: Arc::default() };
        let runner = runner.apart(AT_ONCE)?;
        for _ in 0..AT_ONCE {
            let (queue, runner) = (Arc::clone(&hooks.queue), runner.clone());
            let works = move || {
                while let Some((service, job)) = queue.next() {
                    run(&runner, &service, &job);
                    queue.done(&service);
                }
            };
            std::thread::Builder::new().name("quorum-hooks".into()).spawn(works)?;
        }
        Ok(hooks)
    }

    /// Never waits.
    pub(super) fn tell(&self, state: &State, quorums: &[(BindingKey, Standing)]) {
        for (service, standing) in quorums {
            let quorum = state.services.get(service).and_then(|service| service.spec.quorum.as_ref());
            let Some(hooks) = quorum.and_then(|quorum| quorum.hooks.as_ref()) else { continue };
            let (call, state) = match standing {
                Standing::Met => (&hooks.up, "up"),
                Standing::Lost => (&hooks.down, "down"),
            };
            let job = call.as_ref().map(|call| Job { call: call.clone(), state });
            self.queue.lock().put(service, job);
            self.queue.changed.notify_one();
        }
    }
}

fn run(runner: &Runner, service: &BindingKey, job: &Job) {
    let Job { call, state } = job;
    let program = &call.program;
    let mut ready = Call::new(call, PATIENCE);
    ready.environment =
        vec![("BASCULE_SERVICE", service.to_string()), ("BASCULE_QUORUM", (*state).to_owned())];
    match runner.run(&ready, None) {
        Ok(outcome) if outcome.succeeded() => {
            tracing::debug!(%service, program, state, "told of the quorum");
        }
        Ok(outcome) => {
            tracing::warn!(%service, program, state, "failed: {}", outcome.summary(QUOTED));
        }
        Err(error) => tracing::warn!(%service, program, state, "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::fixture::key;

    fn job(state: &'static str) -> Job {
        let call = serde_json::from_value(serde_json::json!({"program": "note"})).unwrap();
        Job { call, state }
    }

    fn take(waiting: &mut Waiting) -> Option<(String, &'static str)> {
        waiting.take().map(|(service, job)| (service.name.to_string(), job.state))
    }

    #[test]
    fn the_last_word_counts_and_nobody_waits_for_another() {
        let mut waiting = Waiting::default();
        waiting.put(&key("hangs"), Some(job("up")));
        assert_eq!(take(&mut waiting), Some(("hangs".into(), "up")));
        for _ in 0..10_000 {
            waiting.put(&key("hangs"), Some(job("down")));
            waiting.put(&key("hangs"), Some(job("up")));
        }
        waiting.put(&key("hangs"), Some(job("down")));
        waiting.put(&key("other"), Some(job("up")));
        assert_eq!(take(&mut waiting), Some(("other".into(), "up")));
        assert_eq!(take(&mut waiting), None, "one after the other for each service");
        waiting.running.clear();
        assert_eq!(take(&mut waiting), Some(("hangs".into(), "down")));
        assert_eq!(take(&mut waiting), None);
        // What has no program takes back what is not so any more.
        waiting.running.clear();
        waiting.put(&key("other"), Some(job("up")));
        waiting.put(&key("other"), None);
        assert_eq!(take(&mut waiting), None);
        assert!(waiting.jobs.is_empty() && waiting.order.is_empty());
    }
}
