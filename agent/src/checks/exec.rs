//! Probes that are programs (keepalived: MISC_CHECK).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bascule_checks_core::Outcome;
use tokio::sync::Semaphore;

use super::spec::{Key, What};
use crate::exec::{Call, Cancel, ExecError, Exit, Runner};

/// Longest that a program's last line is quoted, in characters.
const QUOTED: usize = 100;

/// How long after its time a program's end, or why it was never begun, is still heard.
const MARGIN: Duration = Duration::from_millis(50);

/// Runs the programs of checks.
#[derive(Debug)]
pub(super) struct Programs {
    runner: Runner,
    at_once: usize,
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
    /// So many run at once; more wait for a place within their timeout.
    pub(super) fn new(runner: &Runner, at_once: usize) -> std::io::Result<Self> {
        Ok(Self { runner: runner.apart(at_once)?, at_once, places: Arc::new(Semaphore::new(at_once)) })
    }

    /// Runs one. When its time is over the answer is there: while the program is asked to end and killed, see [`crate::exec`], it
    /// keeps its place, but nobody waits.
    pub(super) async fn run(&self, key: Arc<Key>, timeout: Duration) -> Outcome {
        let started = tokio::time::Instant::now();
        let place = tokio::time::timeout(timeout, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Outcome::undecided(format!("{} programs of checks run already", self.at_once));
        };
        let Ok(cancel) = Cancel::new() else {
            return Outcome::undecided("the agent has no descriptors left");
        };
        let call_off = CallOff(cancel.clone());
        let (runner, late) = (self.runner.clone(), late(&key, timeout));
        let left = timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let ran = tokio::task::spawn_blocking(move || {
            let _place = place;
            begins.store(true, Ordering::Relaxed);
            call(&runner, &key, left, &cancel)
        });
        let outcome = match tokio::time::timeout(left + MARGIN, ran).await {
            Ok(ran) => ran.unwrap_or_else(|error| Outcome::failed(format!("internal error: {error}"))),
            Err(_) if begun.load(Ordering::Relaxed) => late,
            Err(_) => Outcome::undecided("the agent has no thread left for the program"),
        };
        drop(call_off);
        outcome
    }
}

/// What is said of a program that is not done in time.
fn late(key: &Key, timeout: Duration) -> Outcome {
    let What::Exec { program, .. } = &key.subject.what else {
        return Outcome::failed("internal error: not a program");
    };
    let error = ExecError::TimedOut { program: program.clone(), after: timeout, last: String::new() };
    Outcome::failed(error.to_string())
}

fn call(runner: &Runner, key: &Key, timeout: Duration, cancel: &Cancel) -> Outcome {
    let What::Exec { program, args, dynamic } = &key.subject.what else {
        return Outcome::failed("internal error: not a program");
    };
    let target = &key.subject.target;
    let call = Call {
        args: args.clone(),
        environment: vec![
            ("BASCULE_ADDRESS", target.address.to_string()),
            ("BASCULE_PORT", target.port.to_string()),
        ],
        ..Call::of(program, timeout)
    };
    match runner.run(&call, Some(cancel)) {
        Ok(outcome) => verdict(program, *dynamic, outcome.exit, &outcome.summary(QUOTED)),
        Err(error) => unfinished(&error),
    }
}

/// What a program that did not come to an end of its own says: nothing, where it was never begun for want of something.
fn unfinished(error: &ExecError) -> Outcome {
    if error.is_shortage() {
        Outcome::undecided(error.to_string())
    } else {
        Outcome::failed(error.to_string())
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
    fn what_the_machine_lacks_is_no_word_about_the_target() {
        let path = std::path::Path::new("/checks/check");
        let start = |errno| {
            let error = std::io::Error::from_raw_os_error(errno);
            ExecError::start(path, &error, error.to_string())
        };
        for errno in [libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            let error = start(errno);
            assert!(!unfinished(&error).is_decided() && !error.is_permanent(), "{error}");
        }
        let busy = ExecError::Busy { program: "check".into(), after: Duration::from_secs(1), at_once: 1 };
        assert!(!unfinished(&busy).is_decided());
        let late = ExecError::TimedOut {
            program: "check".into(),
            after: Duration::from_secs(1),
            last: String::new(),
        };
        for error in
            [start(libc::ENOENT), start(libc::EACCES), late, ExecError::NoDirectory { program: None }]
        {
            let outcome = unfinished(&error);
            assert!(outcome.is_decided() && !outcome.is_passed(), "{error}");
        }
    }

    /// It is deaf to SIGTERM: it takes two seconds more to end it, which is no time that a verdict waits.
    #[tokio::test]
    async fn the_answer_is_there_when_the_time_is_over() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let allow = |path: &std::path::Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        allow(directory.path());
        let program = directory.path().join("deaf");
        // By a process of its own: see the tests of what runs programs.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\ntrap \"\" TERM\\nwhile :; do sleep 1; done\\n' >\"$1\"", "sh"])
            .arg(&program)
            .status();
        assert!(written.unwrap().success());
        allow(&program);
        let root = nix::unistd::geteuid().is_root();
        let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let user = if root { crate::exec::DEFAULT_USER.to_owned() } else { own };
        let directory = Some(directory.path().to_owned());
        let runner = Runner::new(&crate::exec::Options { directory, user, at_once: 16 }).unwrap();
        let programs = Programs::new(&runner, 16).unwrap();
        let spec = serde_json::from_value(serde_json::json!({"exec": {"program": "deaf"}})).unwrap();
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let whom = crate::checks::spec::Whom { address, port: Some(80), check_host: None };
        let key = Arc::new(crate::checks::spec::key(&spec, &whom).unwrap());
        // On a machine that stands still for these two seconds it has ended: then once more.
        let told_before_its_end = async {
            for _ in 0..10 {
                let outcome = programs.run(Arc::clone(&key), Duration::from_millis(200)).await;
                assert!(outcome.is_decided() && !outcome.is_passed(), "{outcome:?}");
                assert!(outcome.message().starts_with("deaf was killed"), "{outcome:?}");
                if programs.places.available_permits() < 16 {
                    return true;
                }
            }
            false
        };
        assert!(told_before_its_end.await);
        // And it ends.
        let _all = programs.places.acquire_many(16).await.unwrap();
    }

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
