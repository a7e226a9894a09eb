//! The whole with real programs: a resource script that keeps a pid file and a diary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bascule_crds::common::ProgramCall;
use bascule_crds::vrrp_group::MachineService;
use nix::unistd::{User, geteuid};
use tempfile::TempDir;

use super::super::*;
use crate::exec::{DEFAULT_USER, Options};

/// Longer than any machine takes.
const LONG: Duration = Duration::from_secs(120);

/// A daemon and its resource script: `NAME start|stop|status`. A file `NAME.broken` keeps it from starting.
const SCRIPT: &str = r#"#!/bin/sh
dir=$1 name=$2 pid=$1/$2.pid
lives() { [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }
case $3 in
start) echo "start $name" >>"$dir/diary"
  [ ! -e "$dir/$name.broken" ] || { echo "$name is broken"; exit 1; }
  sleep 100000 >/dev/null 2>&1 & echo $! >"$pid";;
stop) echo "stop $name" >>"$dir/diary"
  ! lives || kill "$(cat "$pid")"
  rm -f "$pid";;
status) lives || { echo "$name is dead"; exit 3; };;
esac
"#;

/// What was reported of which group.
type Reports = Arc<Mutex<Vec<(String, Option<String>)>>>;

struct World {
    directory: TempDir,
    services: Services,
    reports: Reports,
    /// Groups of which it was said that their services are stopped.
    stopped: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Written by a process of its own; see the tests of `exec`.
        let write =
            "printf %s \"$2\" >\"$1/daemon\" && chmod 755 \"$1/daemon\" && mkdir -m 1777 \"$1/state\"";
        let mut shell = Command::new("sh");
        assert!(
            shell.args(["-c", write, "sh"]).arg(directory.path()).arg(SCRIPT).status().unwrap().success()
        );
        let (services, reports, stopped) = Self::services(directory.path());
        Self { directory, services, reports, stopped }
    }

    fn services(directory: &Path) -> (Services, Reports, Arc<Mutex<Vec<String>>>) {
        let user = if geteuid().is_root() {
            DEFAULT_USER.to_owned()
        } else {
            User::from_uid(geteuid()).unwrap().unwrap().name
        };
        let options = Options { directory: Some(directory.to_owned()), user, ..Options::default() };
        let reports = Arc::new(Mutex::new(Vec::new()));
        let theirs = reports.clone();
        let report = move |group: &str, why| theirs.lock().unwrap().push((group.to_owned(), why));
        let stopped = Arc::new(Mutex::new(Vec::new()));
        let theirs = stopped.clone();
        let tell = move |group: &str| theirs.lock().unwrap().push(group.to_owned());
        let runner = Runner::new(&options).unwrap();
        let services = Services::with_period(&runner, Duration::from_millis(200), report, tell).unwrap();
        (services, reports, stopped)
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn daemon(&self, name: &str) -> MachineService {
        let args = vec![self.state().display().to_string(), name.to_owned()];
        MachineService { systemd: None, exec: Some(ProgramCall { program: "daemon".into(), args }) }
    }

    fn configure(&self, names: &[&str]) {
        let services = names.iter().map(|name| self.daemon(name)).collect();
        self.services.configure(&[("front".to_owned(), services)]);
    }

    fn diary(&self) -> String {
        fs::read_to_string(self.state().join("diary")).unwrap_or_default().trim().replace('\n', ", ")
    }

    fn pid(&self, name: &str) -> Option<String> {
        let pid = fs::read_to_string(self.state().join(format!("{name}.pid"))).ok()?.trim().to_owned();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        (!stat.contains(") Z")).then_some(pid)
    }

    fn wait(&self, what: &str, condition: impl Fn(&GroupServices) -> bool) {
        let deadline = Instant::now() + LONG;
        loop {
            let status = self.services.status();
            if status.first().is_some_and(&condition) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain: {what}; {status:?}; {}", self.diary());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_all(&self, state: State) {
        self.wait(&format!("all {state:?}"), |group| {
            !group.services.is_empty() && group.services.iter().all(|service| service.state == state)
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.services.shutdown(true, LONG);
    }
}

#[test]
fn in_order_up_and_in_order_down_and_restarted_once() {
    let world = World::new();
    world.configure(&["one", "two"]);
    assert_eq!(world.diary(), "");
    world.services.active("front", true);
    world.services.active("unknown", true);
    world.wait_all(State::Running);
    assert_eq!(world.diary(), "start one, start two");

    // It dies: restarted, and the other one left alone.
    let (one, two) = (world.pid("one").unwrap(), world.pid("two").unwrap());
    assert!(Command::new("kill").args(["-9", &one]).status().unwrap().success());
    world.wait("the restart", |_| world.pid("one").is_some_and(|pid| pid != one));
    world.wait_all(State::Running);
    assert_eq!(world.diary(), "start one, start two, stop one, start one");
    assert_eq!(world.pid("two").unwrap(), two);
    assert!(world.reports.lock().unwrap().is_empty());

    // It dies again, so soon: the group fails, and everything is stopped.
    let one = world.pid("one").unwrap();
    assert!(Command::new("kill").args(["-9", &one]).status().unwrap().success());
    world.wait("the fault", |group| group.failing.is_some());
    world.services.active("front", false);
    world.wait("the stop", |_| world.pid("two").is_none() && world.diary().ends_with("stop two, stop one"));
    let reports = world.reports.lock().unwrap().clone();
    assert_eq!(reports[0].0, "front");
    let why = reports[0].1.clone().unwrap();
    assert!(why.starts_with("daemon ") && why.contains("one is dead") || why.chars().count() == 128, "{why}");
}

#[test]
fn a_restarted_agent_finds_what_runs() {
    let world = World::new();
    world.configure(&["one", "two"]);
    world.services.active("front", true);
    world.wait_all(State::Running);
    let pids = (world.pid("one"), world.pid("two"));
    assert!(world.services.shutdown(false, LONG));
    assert!(world.services.status().is_empty());
    assert_eq!((world.pid("one"), world.pid("two")), pids);

    // Active again: left alone.
    world.configure(&["one", "two"]);
    world.services.active("front", true);
    world.wait_all(State::Running);
    assert_eq!((world.pid("one"), world.pid("two")), pids);
    assert_eq!(world.diary(), "start one, start two");
    assert!(world.services.shutdown(false, LONG));

    // A backup: exactly one has them, and that is another one.
    world.configure(&["one", "two"]);
    world.services.active("front", false);
    world.wait_all(State::Stopped);
    assert_eq!(world.diary(), "start one, start two, stop two, stop one");
    assert_eq!((world.pid("one"), world.pid("two")), (None, None));
}

#[test]
fn a_changed_list_and_a_removed_group() {
    let world = World::new();
    world.configure(&["one", "two"]);
    world.services.active("front", true);
    world.wait_all(State::Running);
    world.configure(&["one", "three"]);
    world.wait("the change", |group| group.services.len() == 2 && world.pid("three").is_some());
    world.wait_all(State::Running);
    assert_eq!(world.diary(), "start one, start two, stop two, start three");
    world.services.configure(&[]);
    let deadline = Instant::now() + LONG;
    while !world.services.status().is_empty() {
        assert!(Instant::now() < deadline, "waited in vain: {}", world.diary());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(world.diary().ends_with("stop three, stop one"), "{}", world.diary());
}

#[test]
fn the_end_stops_them_and_calls_off_what_hangs() {
    let world = World::new();
    world.configure(&["one", "two"]);
    world.services.active("front", true);
    world.wait_all(State::Running);
    assert!(world.services.shutdown(true, LONG));
    assert_eq!(world.diary(), "start one, start two, stop two, stop one");

    let hang = "printf '#!/bin/sh\\nexec sleep 100000\\n' >\"$1/hangs\" && chmod 755 \"$1/hangs\"";
    assert!(
        Command::new("sh").args(["-c", hang, "sh"]).arg(world.directory.path()).status().unwrap().success()
    );
    let exec = Some(ProgramCall { program: "hangs".into(), args: Vec::new() });
    world.services.configure(&[("front".to_owned(), vec![MachineService { systemd: None, exec }])]);
    world.services.active("front", true);
    assert!(!world.services.shutdown(true, Duration::from_millis(300)));
}

#[test]
fn what_may_not_be_run_is_said_before_it_is_needed() {
    let world = World::new();
    let exec = Some(ProgramCall { program: "absent".into(), args: Vec::new() });
    world.services.configure(&[("front".to_owned(), vec![MachineService { systemd: None, exec }])]);
    world.services.active("front", false);
    world.wait("the fault", |group| group.failing.as_deref().is_some_and(|why| why.contains("is not there")));
}

#[test]
fn services_that_come_to_a_group_that_is_active_are_started() {
    let world = World::new();
    world.configure(&[]);
    world.services.active("front", true);
    world.configure(&["web"]);
    world.wait_all(State::Running);
    assert_eq!(world.diary(), "start web");
    // And to one that is not, not.
    world.services.active("front", false);
    world.wait_all(State::Stopped);
    world.configure(&[]);
    world.configure(&["web", "mail"]);
    world.wait_all(State::Stopped);
    assert!(!world.diary().contains("start mail"), "{}", world.diary());
}

#[test]
fn what_is_to_be_handed_over_is_stopped_first_and_goes_on_if_nobody_takes_it() {
    let world = World::new();
    world.configure(&["one", "two"]);
    world.services.active("front", true);
    world.wait_all(State::Running);
    world.services.release("front");
    world.wait("the word", |_| *world.stopped.lock().unwrap() == ["front"]);
    assert_eq!(world.diary(), "start one, start two, stop two, stop one");
    assert_eq!((world.pid("one"), world.pid("two")), (None, None));
    // That it is active is no news, and no reason to start them.
    world.services.active("front", true);
    world.configure(&["one", "two", "three"]);
    world.wait("three", |group| group.services.len() == 3);
    world.wait_all(State::Stopped);
    assert!(!world.diary().contains("start three"), "{}", world.diary());
    world.services.resume("front");
    world.wait_all(State::Running);

    // It is handed over, and comes back another day.
    world.services.release("front");
    world.services.active("front", false);
    world.services.active("front", true);
    world.wait_all(State::Running);
    // Without services there is nothing to wait for.
    world.stopped.lock().unwrap().clear();
    world.services.release("back");
    assert_eq!(*world.stopped.lock().unwrap(), ["back"]);
}
