//! Programs that are run when a quorum is gained or lost (keepalived: quorum_up, quorum_down).

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bascule_checks_core::pool::Standing;
use bascule_compile::BindingKey;
use bascule_crds::common::ProgramCall;

use super::state::State;
use crate::exec::{Call, Runner};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Programs that wait for their turn; more are said and left out.
const WAITING: usize = 1_024;
/// Longest that a program is quoted in the log, in characters.
const QUOTED: usize = 200;

struct Job {
    service: BindingKey,
    call: ProgramCall,
    state: &'static str,
}

/// Runs them, one after the other, on a thread of its own.
#[derive(Debug)]
pub(super) struct Hooks {
    jobs: SyncSender<Job>,
}

impl Hooks {
    pub(super) fn spawn(runner: &Runner) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(WAITING);
        let runner = runner.apart(1)?;
        std::thread::Builder::new().name("quorum-hooks".into()).spawn(move || run(&runner, &waiting))?;
        Ok(Self { jobs })
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
            let Some(call) = call else { continue };
            let job = Job { service: service.clone(), call: call.clone(), state };
            if self.jobs.try_send(job).is_err() {
                tracing::warn!(%service, program = call.program, "too many programs wait: it is not told of its quorum");
            }
        }
    }
}

fn run(runner: &Runner, jobs: &Receiver<Job>) {
    for Job { service, call, state } in jobs {
        let program = &call.program;
        let mut ready = Call::new(&call, PATIENCE);
        ready.environment =
            vec![("BASCULE_SERVICE", service.to_string()), ("BASCULE_QUORUM", state.to_owned())];
        match runner.run(&ready, None) {
            Ok(outcome) if outcome.succeeded() => {
                tracing::debug!(%service, program, state, "told of the quorum")
            }
            Ok(outcome) => {
                tracing::warn!(%service, program, state, "failed: {}", outcome.summary(QUOTED));
            }
            Err(error) => tracing::warn!(%service, program, state, "{error}"),
        }
    }
}
