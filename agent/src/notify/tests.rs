//! Programs that are told, and readers of the stream.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use bascule_crds::common::ProgramCall;
use nix::unistd::{User, geteuid};
use tempfile::TempDir;

use super::*;
use crate::exec::{DEFAULT_USER, Options};

/// Longer than any machine takes.
const LONG: Duration = Duration::from_secs(120);

struct World {
    directory: TempDir,
    notifier: Notifier,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = if geteuid().is_root() {
            DEFAULT_USER.to_owned()
        } else {
            User::from_uid(geteuid()).unwrap().unwrap().name
        };
        let programs = Some(directory.path().join("programs"));
        let script = "#!/bin/sh
            dir=$1; while [ -e $dir/wait ]; do sleep 0.02; done; shift
            echo \"$*|$BASCULE_GROUP|$BASCULE_STATE|$BASCULE_PREVIOUS_STATE|$BASCULE_REASON|$BASCULE_PRIORITY\" >>$dir/told";
        // Written by a process of its own; see the tests of `exec`.
        let write = "mkdir \"$1/programs\" && mkdir -m 1777 \"$1/state\" && printf '%s\\n' \"$2\" >\"$1/programs/tell\" && \
                     chmod -R 755 \"$1/programs\"";
        let mut shell = Command::new("sh");
        assert!(
            shell.args(["-c", write, "sh"]).arg(directory.path()).arg(script).status().unwrap().success()
        );
        let runner = Runner::new(&Options { directory: programs, user, ..Options::default() }).unwrap();
        let notifier = Notifier::spawn(&runner, directory.path()).unwrap();
        Self { directory, notifier }
    }

    fn call(&self, word: &str) -> ProgramCall {
        let state = self.directory.path().join("state").display().to_string();
        ProgramCall { program: "tell".into(), args: vec![state, word.into()] }
    }

    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("state/told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.directory.path().join(SOCKET)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        BufReader::new(stream)
    }
}

fn transition(group: &str, from: VrrpState, to: VrrpState, priority: u8) -> Transition {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    Transition { group: group.into(), from, to, reason: "why\nnot".into(), priority, at }
}

fn event(reader: &mut BufReader<UnixStream>) -> Event {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn programs_are_told_in_order_with_what_they_need() {
    let world = World::new();
    let notify = Notify {
        active: Some(world.call("active")),
        fault: Some(world.call("fault")),
        any: Some(world.call("any")),
        ..Notify::default()
    };
    world.notifier.configure(&[("front".into(), notify)]);
    world.notifier.transition(transition("front", VrrpState::Backup, VrrpState::Active, 200));
    world.notifier.transition(transition("other", VrrpState::Backup, VrrpState::Active, 200));
    world.notifier.transition(transition("front", VrrpState::Active, VrrpState::Backup, 200));
    world.notifier.transition(transition("front", VrrpState::Backup, VrrpState::Fault, 7));
    assert!(world.notifier.shutdown(LONG));
    assert_eq!(
        world.told(),
        [
            "active|front|Active|Backup|why not|200",
            "any Active|front|Active|Backup|why not|200",
            "any Backup|front|Backup|Active|why not|200",
            "fault|front|Fault|Backup|why not|7",
            "any Fault|front|Fault|Backup|why not|7",
        ]
    );
}

#[test]
fn a_slow_program_misses_some_and_never_the_last() {
    let world = World::new();
    fs::write(world.directory.path().join("state/wait"), "").unwrap();
    let notify = Notify { any: Some(world.call("any")), ..Notify::default() };
    world.notifier.configure(&[("front".into(), notify)]);
    for priority in 0..100 {
        world.notifier.transition(transition("front", VrrpState::Backup, VrrpState::Active, priority));
    }
    fs::remove_file(world.directory.path().join("state/wait")).unwrap();
    assert!(world.notifier.shutdown(LONG));
    let told = world.told();
    assert!((16..=17).contains(&told.len()), "{told:?}");
    assert!(told.last().unwrap().ends_with("|99"), "{told:?}");
}

#[test]
fn readers_get_the_present_states_and_then_every_transition() {
    let world = World::new();
    let notify = Notify { event_stream: true, ..Notify::default() };
    world.notifier.transition(transition("front", VrrpState::Initialize, VrrpState::Backup, 100));
    world.notifier.configure(&[("front".into(), notify.clone()), ("back".into(), notify.clone())]);
    let mut first = world.connect();
    let present = event(&mut first);
    assert_eq!((present.group.as_str(), present.to.as_str(), present.present), ("front", "Backup", true));
    assert_eq!(present.time, "2023-11-14T22:13:20.250000Z");
    world.notifier.transition(transition("back", VrrpState::Backup, VrrpState::Active, 1));
    world.notifier.transition(transition("unstreamed", VrrpState::Backup, VrrpState::Active, 1));
    world.notifier.transition(transition("front", VrrpState::Backup, VrrpState::Fault, 1));
    let events = [event(&mut first), event(&mut first)];
    assert_eq!(events.each_ref().map(|e| (e.group.as_str(), e.present)), [("back", false), ("front", false)]);
    assert_eq!(events[1].reason, "why not");
    let mut second = world.connect();
    let present = [event(&mut second), event(&mut second)];
    assert_eq!(
        present.each_ref().map(|e| (e.group.as_str(), e.to.as_str())),
        [("back", "Active"), ("front", "Fault")]
    );
    world.notifier.forget("back");
    world.notifier.configure(&[("front".into(), notify)]);
    assert_eq!(event(&mut world.connect()).group, "front");
    let mode = fs::metadata(world.directory.path().join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.notifier.configure(&[]);
    assert!(!world.directory.path().join(SOCKET).exists());
    assert_eq!(first.lines().count(), 0);
}

#[test]
fn a_reader_that_does_not_read_is_dropped_and_the_others_are_not() {
    let world = World::new();
    world.notifier.configure(&[("front".into(), Notify { event_stream: true, ..Notify::default() })]);
    world.notifier.transition(transition("front", VrrpState::Initialize, VrrpState::Backup, 1));
    let lazy = world.connect();
    let mut busy = world.connect();
    // Once it has heard the first one, it is among the readers, and so is the one before it.
    assert_eq!(event(&mut busy).to, "Backup");
    // More than the kernel and the agent keep for one, a line at a time, each read by the one who reads.
    let lines = 2 * 1024 * 1024 / 150;
    for number in 0..lines {
        let to = if number % 2 == 0 { VrrpState::Active } else { VrrpState::Backup };
        world.notifier.transition(transition("front", VrrpState::Backup, to, 1));
        assert!(!event(&mut busy).present);
    }
    let unread = lazy.lines().map_while(Result::ok).count();
    assert!(unread < lines, "{unread} of {lines} lines were kept");
}

fn change(group: &str, service: &str) -> Change {
    let what = Changed::Quorum { quorum: "Lost", alive: 0, needed: 1 };
    Change { group: group.into(), service: service.into(), what }
}

fn line(reader: &mut BufReader<UnixStream>) -> serde_json::Value {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn readers_hear_of_the_services_of_groups_whose_transitions_are_streamed() {
    let world = World::new();
    world.notifier.configure(&[("front".into(), Notify { event_stream: true, ..Notify::default() })]);
    world.notifier.transition(transition("front", VrrpState::Initialize, VrrpState::Backup, 1));
    let mut reader = world.connect();
    assert!(event(&mut reader).present);
    world.notifier.change(&change("back", "tp/silent"));
    world.notifier.change(&change("front", "tp/web"));
    let told = line(&mut reader);
    assert_eq!((&told["virtualService"], &told["quorum"]), (&"tp/web".into(), &"Lost".into()), "{told}");
    // In their order among the transitions, and nothing of them is there at connect.
    world.notifier.change(&change("front", "tp/web"));
    world.notifier.transition(transition("front", VrrpState::Backup, VrrpState::Active, 1));
    assert_eq!(line(&mut reader)["virtualService"], "tp/web");
    assert_eq!(event(&mut reader).to, "Active");
    assert_eq!(event(&mut world.connect()).to, "Active");
}

/// Thousands of services that change at once cost nobody a transition: what is left out is said.
#[test]
fn changes_that_a_reader_has_no_room_for_are_left_out_and_counted() {
    let world = World::new();
    world.notifier.configure(&[("front".into(), Notify { event_stream: true, ..Notify::default() })]);
    world.notifier.transition(transition("front", VrrpState::Initialize, VrrpState::Backup, 1));
    let mut reader = world.connect();
    assert!(event(&mut reader).present);
    // Far more than the kernel and the agent keep for one that does not read.
    let changes: u64 = 20_000;
    for number in 0..changes {
        world.notifier.change(&change("front", &format!("tp/web{number}")));
    }
    world.notifier.transition(transition("front", VrrpState::Backup, VrrpState::Active, 1));
    let (mut told, mut missed, mut transitions) = (0, 0, Vec::new());
    while transitions.is_empty() || told + missed < changes {
        let line = line(&mut reader);
        if line["group"] == "front" {
            transitions.push(line["to"].as_str().unwrap().to_owned());
        } else if let Some(count) = line["missed"].as_u64() {
            missed += count;
        } else {
            told += 1;
        }
    }
    assert_eq!((told + missed, transitions), (changes, vec!["Active".to_owned()]));
    assert!(missed > 0, "all {told} were told");
}

/// A planned upgrade: the successor makes the socket anew before the former process removes what it thinks is its own, and knows the
/// states without a transition.
#[test]
fn a_successor_tells_the_present_states_on_a_socket_that_stays() {
    let world = World::new();
    let notify = Notify { event_stream: true, ..Notify::default() };
    world.notifier.configure(&[("front".to_owned(), notify.clone())]);
    let successor = Notifier::spawn(&world.notifier.runner, &world.notifier.run_dir).unwrap();
    successor.configure(&[("front".to_owned(), notify)]);
    world.notifier.shutdown(LONG);
    successor.present(transition("front", VrrpState::Active, VrrpState::Active, 200));
    let mut reader = world.connect();
    let told = event(&mut reader);
    assert_eq!((told.to.as_str(), told.present), ("Active", true));
    assert!(world.told().is_empty());
}
