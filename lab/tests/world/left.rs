//! Gone afterwards, however it ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bascule_lab::fault;
use bascule_lab::world::inventory::Inventory;
use bascule_lab::world::{Spawn, janitor};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use crate::common::{a_fault, build, not_root, until};

const ROLE: &str = "BASCULE_LAB_TEST_ROLE";
const THIS: &str = "left::nothing_is_left_however_it_ends";

/// Plays three parts, as three processes of this same test: the test; an inspector in namespaces of its own, where nobody else makes
/// namespaces, mounts or processes while it compares; and the holder of a world, which is ended.
#[test]
fn nothing_is_left_however_it_ends() {
    if not_root() {
        return;
    }
    match std::env::var(ROLE).as_deref() {
        Ok("inspector") => inspect(),
        Ok("holder") => hold(),
        _ => {
            // A group of its own too, where that is possible, and an empty /run.
            let script = r#"
                G=$(awk '/ - cgroup2 / {print $5; exit}' /proc/self/mountinfo)
                own="$G/bascule-test-$$"
                inside='mount -t tmpfs tmpfs /run && if [ -n "$0" ]; then mount --bind "$1" "$0"; fi && shift && exec "$@"'
                if [ -z "$G" ] || ! mkdir "$own" 2>/dev/null; then G= own=none; fi
                unshare --mount --net --pid --fork --mount-proc sh -c "$inside" "$G" "$own" "$@"
                status=$?
                [ -z "$G" ] || rmdir "$own"
                exit $status"#;
            let status = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", THIS, "--nocapture", "--test-threads=1"])
                .env(ROLE, "inspector")
                .status()
                .unwrap();
            assert!(status.success(), "the inspector found something");
        }
    }
}

struct Holder {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--nocapture", "--test-threads=1"])
            .env(ROLE, "holder")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Self { child, output };
        holder.line("built");
        holder
    }

    fn line(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "the holder ended without saying {wanted}"
            );
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

fn inspect() {
    let before = Inventory::take();
    assert!(before.runs.is_empty());
    let nothing_left = |how: &str| {
        // Processes that were killed are gone when their parent has collected them.
        until(how, || {
            reap();
            Inventory::take().beyond(&before).is_empty()
        });
        assert_eq!(Inventory::take(), before, "{how}");
    };
    let there = || {
        let more = Inventory::take().beyond(&before);
        for kind in
            ["namespace net:", "namespace mnt:", "namespace pid:", "namespace uts:", "process ", "run "]
        {
            assert!(more.iter().any(|line| line.starts_with(kind)), "{kind} among {more:?}");
        }
        assert!(!more.iter().any(|line| line.starts_with("link ") || line.starts_with("mount ")), "{more:?}");
    };

    for (how, signal) in [("Ctrl-C", Signal::SIGINT), ("SIGTERM", Signal::SIGTERM)] {
        let mut holder = Holder::start();
        there();
        // While it lives, a sweep leaves it alone.
        assert!(janitor::sweep().unwrap().is_empty());
        assert_eq!(janitor::runs().len(), 1);
        holder.signal(signal);
        holder.line("torn down");
        assert!(holder.child.wait().unwrap().success());
        nothing_left(how);
    }

    // Killed, in the middle of a frozen node and a process that will not listen.
    let mut holder = Holder::start();
    there();
    let run = janitor::runs().remove(0);
    holder.signal(Signal::SIGKILL);
    holder.child.wait().unwrap();
    // All processes die with it, without any sweep.
    until("the processes of a killed lab end", || {
        reap();
        !Inventory::take()
            .beyond(&before)
            .iter()
            .any(|line| line.starts_with("process ") || line.starts_with("namespace "))
    });
    assert!(!janitor::runs().remove(0).alive);
    assert_eq!(janitor::sweep().unwrap(), [run.id]);
    nothing_left("SIGKILL and a sweep");
    assert!(janitor::sweep().unwrap().is_empty(), "again is fine");

    // Killed while it builds.
    for milliseconds in [1, 20, 60, 150, 400] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--test-threads=1"])
            .env(ROLE, "holder")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        janitor::sweep().unwrap();
        nothing_left("SIGKILL while it builds");
    }
    // What is not a registered run is not touched, except what is left of a registration.
    std::fs::create_dir_all("/run/bascule-lab").unwrap();
    std::fs::write("/run/bascule-lab/somebody-elses-file", "x").unwrap();
    janitor::sweep().unwrap();
    assert!(std::fs::remove_file("/run/bascule-lab/somebody-elses-file").is_ok());
    std::fs::remove_dir("/run/bascule-lab").unwrap();
    println!("inspected");
}

/// Process 1 of these namespaces inherits every orphan; this process is it, or its child is collected by the shell that is.
fn reap() {
    while let Ok(status) = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
        if status == nix::sys::wait::WaitStatus::StillAlive {
            return;
        }
    }
}

static ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: i32) {
    ENDED.store(true, Ordering::SeqCst);
}

fn hold() {
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores into an atomic.
        unsafe { sigaction(signal, &action) }.unwrap();
    }
    let (world, _folder) = build();
    let srv1 = world.node("srv1").unwrap();
    srv1.spawn(&Spawn::new("deaf", ["sh", "-c", "trap '' TERM INT; sleep 1000 & while :; do sleep 1; done"]))
        .unwrap();
    fault::inject(&world, &a_fault(r#"{"freezeNode": {"node": "srv1"}}"#)).unwrap();
    fault::inject(&world, &a_fault(r#"{"crash": {"node": "dir2"}}"#)).unwrap();
    println!("built");
    while !ENDED.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    world.tear_down().unwrap();
    println!("torn down");
}
