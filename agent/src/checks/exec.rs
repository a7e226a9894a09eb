//! Probes that are programs (keepalived: MISC_CHECK).

use std::sync::Arc;
use std::time::Duration;

use bascule_checks_core::Outcome;
use tokio::sync::Semaphore;

use super::spec::{Key, What};
use crate::exec::{Call, Cancel, ExecError, Exit, Runner};

/// Programs that run at once; more wait for a place within their timeout. Each has a thread.
const AT_ONCE: usize = 256;

/// Longest that a program's last line is quoted, in characters.
const QUOTED: usize = 100;

/// Runs the programs of checks.
#[derive(Debug)]
pub(super) struct Programs {
    runner: Runner,
    places: Arc<Semaphore>,
}

/// Calls the program off when nobody waits for it any more.
struct CallOff(Cancel);

impl Drop for CallOff {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Programs {
    pub(super) fn new(runner: &Runner) -> std::io::Result<Self> {
        Ok(Self { runner: runner.apart(AT_ONCE)?, places: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// Runs one. A program that outlives its time has a while to end on top, see [`crate::exec`].
    pub(super) async fn run(&self, key: Arc<Key>, timeout: Duration) -> Outcome {
        let started = tokio::time::Instant::now();
        let place = tokio::time::timeout(timeout, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Outcome::failed(format!("{AT_ONCE} programs of checks run already"));
        };
        let Ok(cancel) = Cancel::new() else {
            return Outcome::failed("the agent has no descriptors left");
        };
        let call_off = CallOff(cancel.clone());
        let runner = self.runner.clone();
        let left = timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let ran = tokio::task::spawn_blocking(move || {
            let _place = place;
            call(&runner, &key, left, &cancel)
        });
        let outcome = ran.await.unwrap_or_else(|error| Outcome::failed(format!("internal error: {error}")));
        drop(call_off);
        outcome
    }
}

fn call(runner: &Runner, key: &Key, timeout: Duration, cancel: &Cancel) -> Outcome {
    let What::Exec { program, args, dynamic } = &key.subject.what else {
        return Outcome::failed("internal error: not a program");
    };
    let target = &key.subject.target;
    // What a group tracks need not be about anybody.
    let environment = if target.address.is_unspecified() {
        Vec::new()
    } else {
        vec![("BASCULE_ADDRESS", target.address.to_string()), ("BASCULE_PORT", target.port.to_string())]
    };
    let call = Call { args: args.clone(), environment, ..Call::of(program, timeout) };
    match runner.run(&call, Some(cancel)) {
        Ok(outcome) => verdict(program, *dynamic, outcome.exit, &outcome.summary(QUOTED)),
        Err(error @ ExecError::NoDirectory { .. }) => Outcome::failed(error.to_string()),
        Err(error) => Outcome::failed(error.to_string()),
    }
}

/// Exit status 0 is up, 1 is down; others are a weight plus 2, if weights are wanted, and down if not.
fn verdict(program: &str, dynamic: bool, exit: Exit, summary: &str) -> Outcome {
    match exit {
        Exit::Code(0) => Outcome::passed(format!("{program}: {summary}")),
        Exit::Code(code @ 2..=255) if dynamic => {
            let weight = u16::try_from(code - 2).unwrap_or(0);
            Outcome::passed(format!("{program}: {summary}, weight {weight}")).with_weight(weight)
        }
        _ => Outcome::failed(format!("{program}: {summary}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses() {
        for (dynamic, exit, passed, weight) in [
            (false, Exit::Code(0), true, None),
            (false, Exit::Code(1), false, None),
            (false, Exit::Code(2), false, None),
            (true, Exit::Code(0), true, None),
            (true, Exit::Code(1), false, None),
            (true, Exit::Code(2), true, Some(0)),
            (true, Exit::Code(255), true, Some(253)),
            (true, Exit::Signal(9), false, None),
        ] {
            let outcome = verdict("check", dynamic, exit, &exit.to_string());
            assert_eq!((outcome.is_passed(), outcome.weight()), (passed, weight), "{dynamic} {exit}");
        }
    }
}
