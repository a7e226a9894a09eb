//! Carries out an operation: `systemctl`, or a resource script.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::group::{Done, Operation, Verb};
use super::service::Service;
use crate::exec::{Call, Cancel, ExecError, Leftovers, Outcome, Runner};

/// How long a service may take to start: systemd's own patience is 90 s (DefaultTimeoutStartSec).
pub const START: Duration = Duration::from_secs(100);

/// How long a service may take to stop: systemd's own patience is 90 s (DefaultTimeoutStopSec).
pub const STOP: Duration = Duration::from_secs(100);

/// How long the question whether it runs may take.
pub const STATUS: Duration = Duration::from_secs(10);

/// There where systemd is the machine's init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Longest that a program is quoted, in characters.
const QUOTED: usize = 100;

/// Does it, and waits for the end.
pub(super) fn operate(runner: &Runner, group: &str, operation: &Operation, cancel: &Cancel) -> Done {
    match &operation.service {
        Service::Unit(unit) => systemd(runner, unit, operation.verb, cancel),
        Service::Program(call) => {
            let call = Call {
                environment: vec![("BASCULE_GROUP", group.to_owned())],
                leftovers: if operation.verb == Verb::Start { Leftovers::Leave } else { Leftovers::Kill },
                ..Call::new(call, patience(operation.verb)).arg(operation.verb.word())
            };
            judge(runner.run(&call, Some(cancel)), |outcome| {
                if outcome.succeeded() { Done::Yes } else { Done::No(outcome.summary(QUOTED)) }
            })
        }
    }
}

const fn patience(verb: Verb) -> Duration {
    match verb {
        Verb::Start => START,
        Verb::Stop => STOP,
        Verb::Status => STATUS,
    }
}

fn judge(result: Result<Outcome, ExecError>, judge: impl FnOnce(&Outcome) -> Done) -> Done {
    match result {
        Ok(outcome) => judge(&outcome),
        Err(error) if error.is_permanent() => Done::Impossible(error.to_string()),
        Err(error) => Done::No(error.to_string()),
    }
}

fn systemd(runner: &Runner, unit: &str, verb: Verb, cancel: &Cancel) -> Done {
    if !Path::new(BOOTED).is_dir() {
        return Done::Impossible(format!(
            "systemd does not run this machine ({BOOTED} is missing); name a program by `exec` instead"
        ));
    }
    let call = Call::of("systemctl", patience(verb)).arg("--no-ask-password").arg("--no-pager");
    let call = match verb {
        Verb::Start | Verb::Stop => call.arg("--quiet").arg(verb.word()),
        // Beside what is-active says this tells a unit that nobody has, so that a member finds it out before it is needed.
        Verb::Status => call.arg("--property=LoadState,ActiveState,SubState").arg("show"),
    };
    let result = runner.run_system(&call.arg("--").arg(unit), Some(cancel));
    judge(result, |outcome| match (outcome.succeeded(), verb) {
        (true, Verb::Status) => state(&String::from_utf8_lossy(&outcome.output)),
        (true, Verb::Start | Verb::Stop) => Done::Yes,
        (false, _) => Done::No(outcome.summary(QUOTED)),
    })
}

/// What `systemctl show` says of a unit (org.freedesktop.systemd1(5): LoadState, ActiveState).
fn state(text: &str) -> Done {
    let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.trim().split_once('=')).collect();
    let value = |name| values.get(name).copied().unwrap_or("unknown");
    match value("LoadState") {
        "loaded" => {}
        "not-found" => {
            return Done::Impossible("there is no such unit; install it, or mend its name".into());
        }
        "masked" => return Done::Impossible("the unit is masked; systemctl unmask it".into()),
        other => return Done::Impossible(format!("the unit is not loaded ({other}); see systemctl status")),
    }
    let words = format!("{} ({})", value("ActiveState"), value("SubState"));
    match value("ActiveState") {
        "active" | "reloading" | "refreshing" => Done::Yes,
        "inactive" | "failed" => Done::No(words),
        _ => Done::Between(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_units() {
        let say = |load: &str, active: &str, sub: &str| {
            state(&format!("SubState={sub}\nLoadState={load}\nActiveState={active}\n"))
        };
        assert_eq!(say("loaded", "active", "running"), Done::Yes);
        assert_eq!(say("loaded", "active", "exited"), Done::Yes);
        assert_eq!(say("loaded", "failed", "failed"), Done::No("failed (failed)".into()));
        assert_eq!(say("loaded", "inactive", "dead"), Done::No("inactive (dead)".into()));
        assert_eq!(
            say("loaded", "activating", "auto-restart"),
            Done::Between("activating (auto-restart)".into())
        );
        for (load, word) in
            [("not-found", "no such unit"), ("masked", "unmask"), ("bad-setting", "bad-setting")]
        {
            assert!(
                matches!(say(load, "inactive", "dead"), Done::Impossible(why) if why.contains(word)),
                "{load}"
            );
        }
        assert!(matches!(state(""), Done::Impossible(_)));
    }

    #[test]
    fn without_systemd_it_says_so() {
        if Path::new(BOOTED).is_dir() {
            eprintln!("not run here: systemd runs this machine");
            return;
        }
        let runner = Runner::new(&crate::exec::Options::default()).unwrap();
        let operation = Operation { verb: Verb::Start, service: Service::Unit("nginx.service".into()) };
        let done = operate(&runner, "front", &operation, &Cancel::new().unwrap());
        assert!(matches!(done, Done::Impossible(why) if why.contains("/run/systemd/system")));
    }
}
