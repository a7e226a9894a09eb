//! Services of the machine run on one member at a time: what is planned stops them before it hands over.

use std::{
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bascule_agent::exec::{Options, Runner};
use bascule_agent::groups::Groups;
use bascule_crds::DirectorConfigSpec;

use crate::net::{Machine, Net, block, can_run, eventually, group, in_namespace};
use crate::pair::OUTSIDE;

/// A service that runs while its file is there. It takes its time to stop.
const SCRIPT: &str = r#"#!/bin/sh
echo "$2" >>"$1.diary"
case $2 in
start) touch "$1";;
stop) sleep 2; rm -f "$1";;
status) [ -e "$1" ];;
esac
"#;

/// The director's configuration; at an interval at which nobody is late on a busy machine, and still a release is told within a
/// fraction of the time that a stop takes.
fn configuration(host: u8, priority: u8, marker: &Path) -> DirectorConfigSpec {
    let services = serde_json::json!({"advertisementInterval": "1s", "services": [{"exec": {"program": "marker", "args": [marker.to_str().unwrap()]}}]});
    serde_json::from_value(serde_json::json!({
        "director": format!("dir{host}"),
        "vrrp": [group(priority, &services.to_string())],
    }))
    .unwrap()
}

/// A whole agent's groups on a machine.
struct Server {
    machine: Machine,
    groups: Arc<Groups>,
    runner: Runner,
    marker: PathBuf,
    configuration: DirectorConfigSpec,
}

impl Server {
    fn spawn(machine: &Machine, runner: &Runner, heritage: Option<UnixStream>) -> Arc<Groups> {
        let (run, state) = (machine.run_dir(), machine.run_dir().with_file_name("state"));
        std::fs::create_dir_all(&run).unwrap();
        in_namespace(&machine.namespace, || {
            Groups::spawn(runner, &run, &state, heritage, Arc::default()).unwrap()
        })
    }

    fn start(net: &Net, host: u8, priority: u8, programs: &Path) -> Self {
        let machine = net.machine(host);
        let options = Options { directory: Some(programs.to_owned()), ..Options::default() };
        let runner = Runner::new(&options).unwrap();
        let groups = Self::spawn(&machine, &runner, None);
        let marker = programs.join("state").join(format!("srv{host}"));
        let configuration = configuration(host, priority, &marker);
        groups.configure(&configuration);
        groups.open();
        Self { machine, groups, runner, marker, configuration }
    }

    fn runs(&self) -> bool {
        self.marker.exists()
    }

    fn diary(&self) -> String {
        let diary = std::fs::read_to_string(self.marker.with_extension("diary")).unwrap_or_default();
        diary.lines().filter(|line| *line != "status").collect::<Vec<_>>().join(", ")
    }

    fn wait(&self, what: &str, runs: bool) {
        eventually(what, || (self.runs() == runs && self.machine.has(OUTSIDE) == runs).then_some(()));
    }
}

/// Two servers, the first with the service; while `work` is at it nobody sees it on both, and the address is never nowhere.
fn never_on_both(work: impl FnOnce(&Server, &Server)) {
    if !can_run() {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    std::fs::set_permissions(programs.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Written by a process of its own: no child of another test may hold it open for writing.
    let write = "printf %s \"$2\" >\"$1/marker\" && chmod 755 \"$1/marker\" && mkdir -m 1777 \"$1/state\"";
    let mut shell = Command::new("sh");
    let written = shell.args(["-c", write, "sh"]).arg(programs.path()).arg(SCRIPT).status().unwrap();
    assert!(written.success());
    let net = Net::new();
    let one = Server::start(&net, 1, 200, programs.path());
    one.wait("the first runs it", true);
    let two = Server::start(&net, 2, 100, programs.path());
    eventually("the second listens", || {
        let status = block(two.groups.status())?;
        (format!("{:?}", status.groups.first()?.state) == "Backup").then_some(())
    });
    let (over, both) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if one.runs() && two.runs() {
                    both.store(true, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let _over = Over(&over);
        work(&one, &two);
    });
    assert!(!both.load(Ordering::Relaxed), "both ran it; one: {}; two: {}", one.diary(), two.diary());
}

/// Ends the looker, also when the test panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_switch_over_stops_services_first_and_starts_them_again_if_nobody_takes_over() {
    never_on_both(|one, two| {
        block(one.groups.switchover("front")).unwrap();
        two.wait("the second runs it", true);
        one.wait("the first does not", false);
        assert_eq!(one.diary(), "start, stop");
        assert_eq!(two.diary(), "start");
        block(Arc::clone(&one.groups).stop());
        let error = block(two.groups.switchover("front")).unwrap_err();
        assert!(error.contains("nobody took over"), "{error}");
        two.wait("it goes on", true);
        assert_eq!(two.diary(), "start, stop, start");
    });
}

#[test]
fn an_agent_that_ends_stops_services_before_it_hands_over() {
    never_on_both(|one, two| {
        block(Arc::clone(&one.groups).stop());
        two.wait("the second runs it", true);
        one.wait("the first does not", false);
        assert_eq!(one.diary(), "start, stop");
    });
}

#[test]
fn a_group_that_is_removed_stops_services_before_it_hands_over() {
    never_on_both(|one, two| {
        one.groups.configure(&DirectorConfigSpec { vrrp: Vec::new(), ..one.configuration.clone() });
        two.wait("the second runs it", true);
        one.wait("the first does not", false);
        assert_eq!(one.diary(), "start, stop");
    });
}

/// By the manifest: the preferred member waits for the active one, which hears of it as well.
#[test]
fn another_member_that_is_preferred_gets_the_services_when_they_are_stopped() {
    never_on_both(|one, two| {
        let with = |server: &Server, priority: u8, other_preferred: bool| {
            let mut configuration = server.configuration.clone();
            (configuration.vrrp[0].priority, configuration.vrrp[0].other_preferred) =
                (priority, other_preferred);
            server.groups.configure(&configuration);
        };
        with(two, 254, false);
        with(one, 200, true);
        two.wait("the second runs it", true);
        one.wait("the first does not", false);
        assert_eq!((one.diary(), two.diary()), ("start, stop".to_owned(), "start".to_owned()));
        // And back.
        with(one, 254, false);
        with(two, 100, true);
        one.wait("the first runs it", true);
        two.wait("the second does not", false);
    });
}

/// A machine that goes out of service: what it runs is stopped before the addresses go, and begins where they are.
#[test]
fn a_machine_out_of_service_stops_services_before_it_hands_over() {
    never_on_both(|one, two| {
        let with = |server: &Server, stands_by: bool, relieves: bool| {
            let mut configuration = server.configuration.clone();
            (configuration.vrrp[0].stands_by, configuration.vrrp[0].relieves) = (stands_by, relieves);
            server.groups.configure(&configuration);
        };
        with(two, false, true);
        with(one, true, false);
        two.wait("the second runs it", true);
        one.wait("the first does not", false);
        assert_eq!((one.diary(), two.diary()), ("start, stop".to_owned(), "start".to_owned()));
        let group = block(one.groups.status()).unwrap().groups.remove(0);
        assert!(group.stands_by && group.priority == 1 && !group.hold, "{group:?}");
    });
}

#[test]
fn an_upgrade_stops_nothing() {
    never_on_both(|one, two| {
        let (old, new) = UnixStream::pair().unwrap();
        let successor = Server::spawn(&one.machine, &one.runner, Some(new));
        thread::scope(|scope| {
            let giver = scope.spawn(|| block(one.groups.give(old)));
            successor.configure(&one.configuration);
            successor.open();
            giver.join().unwrap().unwrap();
        });
        eventually("the successor has the service", || {
            let services = successor.services();
            let running = |state| state == bascule_agent::services::service::State::Running;
            services.first()?.services.first().filter(|one| running(one.state)).map(|_| ())
        });
        assert_eq!((one.diary(), two.diary()), ("start".to_owned(), String::new()));
        assert!(one.machine.has(OUTSIDE) && !two.machine.has(OUTSIDE));
        block(successor.stop());
        two.wait("the second runs it", true);
    });
}
