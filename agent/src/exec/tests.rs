//! The runner with real programs. Where the tests run as root, the programs run as `nobody`; else as the tests' own user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;

use super::*;

/// Longer than any machine takes.
const LONG: Duration = Duration::from_secs(120);

struct World {
    directory: TempDir,
    user: User,
    runner: Runner,
}

impl World {
    fn new() -> Self {
        Self::with_places(8)
    }

    fn with_places(at_once: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = if geteuid().is_root() {
            User::from_name(DEFAULT_USER).unwrap().unwrap()
        } else {
            User::from_uid(geteuid()).unwrap().unwrap()
        };
        let runner = Runner::new(&Options {
            directory: Some(directory.path().to_owned()),
            user: user.name.clone(),
            at_once,
        });
        Self { directory, user, runner: runner.unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn script(&self, name: &str, body: &str) {
        self.file(name, &format!("#!/bin/sh\n{body}\n"));
    }

    /// An executable file, written by a process of its own: a descriptor open for writing that another test's child has
    /// inherited for a moment makes exec say "text file busy".
    fn file(&self, name: &str, contents: &str) {
        let command = "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"";
        let path = self.path().join(name);
        let mut shell = std::process::Command::new("sh");
        assert!(shell.args(["-c", command, "sh"]).arg(path).arg(contents).status().unwrap().success());
    }

    /// A place where programs of any user may write.
    fn scratch(&self) -> PathBuf {
        let path = self.path().join("scratch");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).unwrap();
        path
    }

    fn run(&self, body: &str) -> Result<Outcome, ExecError> {
        self.script("program", body);
        self.runner.run(&Call::of("program", LONG), None)
    }
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8(outcome.output.clone()).unwrap()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_program_runs_as_nobody_in_particular() {
    let world = World::new();
    // Inherited unless it is closed.
    let (open, _other) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    world.script(
        "who",
        "id -u; id -g; id -G; pwd; umask; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort | tr '\\n' ' '; echo
         grep -e ^Cap -e ^NoNewPrivs -e ^SigIgn -e ^SigBlk /proc/self/status | tr -d '\\t' | tr '\\n' ' '; echo
         readlink /proc/self/fd/0; for fd in $(seq 0 99); do [ ! -e /proc/$$/fd/$fd ] || printf '%s ' $fd; done; echo
         set -- $(cat /proc/$$/stat); [ \"$6\" = $$ ] && echo leader; echo \"nice ${19}\"",
    );
    let call = Call { environment: vec![("BASCULE_GROUP", "front".into())], ..Call::of("who", LONG) };
    // As from a thread that goes before others.
    let runner = world.runner.clone();
    let outcome = std::thread::spawn(move || {
        crate::priority::raise();
        runner.run(&call, None)
    });
    let outcome = outcome.join().unwrap().unwrap();
    let said = text(&outcome);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], world.user.uid.to_string(), "{said}");
    assert_eq!(lines[1], world.user.gid.to_string(), "{said}");
    if geteuid().is_root() {
        assert_eq!(lines[2], lines[1], "supplementary groups: {said}");
    }
    assert_eq!(lines[3..5], ["/", "0022"], "{said}");
    assert_eq!(lines[5].trim(), format!("BASCULE_GROUP=front LANG=C PATH={PATH}"));
    let zero = "0".repeat(16);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "SigIgn", "SigBlk"] {
        assert!(lines[6].contains(&format!("{set}:{zero}")), "{set}: {said}");
    }
    if geteuid().is_root() {
        assert!(lines[6].contains(&format!("CapBnd:{zero}")), "{said}");
    }
    assert!(lines[6].contains("NoNewPrivs:1"), "{said}");
    assert_eq!(lines[7], "/dev/null", "{said}");
    // The shell keeps its script open as 10 or 255. It looks without a pipe, which it would have open itself.
    let open: Vec<&str> = lines[8].split(' ').filter(|fd| !matches!(*fd, "" | "10" | "255")).collect();
    assert_eq!(open, ["0", "1", "2"], "{said}");
    assert_eq!(lines[9..], ["leader", "nice 0"], "{said}");
}

#[test]
fn the_end_and_the_words_of_a_program_are_told() {
    let world = World::new();
    for (body, exit, summary) in [
        ("exit 0", Exit::Code(0), "exit status 0"),
        ("echo one; echo two >&2; exit 3", Exit::Code(3), "exit status 3: two"),
        ("printf 'a\\033[1mb\\n\\n'; kill -9 $$", Exit::Signal(9), "SIGKILL: a [1mb"),
        ("yes long | head -c 3000 | tr -d '\\n'; exit 1", Exit::Code(1), "exit status 1: longylongl"),
    ] {
        let outcome = world.run(body).unwrap();
        assert_eq!(outcome.exit, exit, "{body}");
        assert!(
            outcome.summary(40).starts_with(&summary.replace("longylongl", "longlong")),
            "{}",
            outcome.summary(40)
        );
        assert!(outcome.summary(40).chars().count() <= 40);
    }
    world.script("echo", "printf '<%s>' \"$@\"");
    let call = Call::of("echo", LONG).arg("a b").arg("$(id)").arg("");
    assert_eq!(text(&world.runner.run(&call, None).unwrap()), "<a b><$(id)><>");
}

#[test]
fn output_is_bounded_and_the_rest_read() {
    let world = World::new();
    let outcome = world.run("echo first; head -c 3000000 /dev/zero; echo done >&2").unwrap();
    assert!(outcome.succeeded());
    assert!(outcome.output.starts_with(b"first\n"));
    assert_eq!(outcome.output.len(), MAX_OUTPUT);
    assert_eq!(outcome.dropped, 3_000_000 + 6 + 5 - MAX_OUTPUT as u64);
}

/// Runs a program, calls it off when the files are there, and says how it ended.
fn called_off(world: &World, program: &str, files: &[PathBuf]) -> ExecError {
    let cancel = Cancel::new().unwrap();
    let call = Call::of(program, LONG);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| world.runner.run(&call, Some(&cancel)));
        wait_for("the program's start", || {
            files.iter().all(|file| fs::metadata(file).is_ok_and(|f| f.len() > 0))
        });
        cancel.cancel();
        run.join().unwrap().unwrap_err()
    })
}

#[test]
fn what_takes_too_long_is_killed() {
    let world = World::new();
    world.script("slow", "exec sleep 1000");
    let error = world.runner.run(&Call::of("slow", Duration::from_millis(300)), None).unwrap_err();
    assert_eq!(error.to_string(), "slow was killed with its children: it had not ended after 300ms");
    assert!(!error.is_permanent());
}

#[test]
fn children_are_killed_with_it_wherever_they_went() {
    let world = World::new();
    let scratch = world.scratch();
    let dir = scratch.display();
    // One in its group and one in a session of its own; all deaf to SIGTERM.
    world.script(
        "slow",
        &format!(
            "trap '' TERM
             sh -c 'echo $$ > {dir}/one; exec sleep 1000' &
             setsid sh -c 'echo $$ > {dir}/two; exec sleep 1000' &
             while :; do sleep 1; done"
        ),
    );
    let files = ["one", "two"].map(|name| scratch.join(name));
    let error = called_off(&world, "slow", &files);
    assert_eq!(error.to_string(), "slow was cancelled");
    for file in files {
        let pid = fs::read_to_string(file).unwrap();
        wait_for("the child's end", || !lives(&pid));
    }
}

#[test]
fn sigterm_comes_first() {
    let world = World::new();
    let scratch = world.scratch();
    let (ready, bye) = (scratch.join("ready"), scratch.join("bye"));
    world.script(
        "polite",
        &format!(
            "trap 'echo bye > {}; exit 0' TERM\necho > {}\nwhile :; do sleep 0.05; done",
            bye.display(),
            ready.display()
        ),
    );
    assert!(matches!(called_off(&world, "polite", &[ready]), ExecError::Cancelled { .. }));
    assert_eq!(fs::read_to_string(bye).unwrap(), "bye\n");
}

#[test]
fn children_that_stay_are_killed_unless_they_may() {
    let world = World::new();
    let scratch = world.scratch();
    let pid = scratch.join("pid");
    world.script("leaves", &format!("sleep 1000 & echo $! > {}", pid.display()));
    for (leftovers, stays) in [(Leftovers::Leave, true), (Leftovers::Kill, false)] {
        let call = Call { leftovers, ..Call::of("leaves", LONG) };
        // Returns although the child holds the output open.
        assert!(world.runner.run(&call, None).unwrap().succeeded());
        let number = fs::read_to_string(&pid).unwrap();
        if stays {
            assert!(lives(&number));
            let number = nix::unistd::Pid::from_raw(number.trim().parse().unwrap());
            nix::sys::signal::kill(number, nix::sys::signal::Signal::SIGKILL).unwrap();
        } else {
            wait_for("the child's end", || !lives(&number));
        }
    }
}

#[test]
fn it_can_be_cancelled_while_it_runs_and_while_it_waits() {
    let world = World::with_places(1);
    let scratch = world.scratch();
    world.script("endless", &format!("touch {}/runs; exec sleep 1000", scratch.display()));
    let (runs, waits) = (Cancel::new().unwrap(), Cancel::new().unwrap());
    let call = Call::of("endless", LONG);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.runner.run(&call, Some(&runs)));
        wait_for("the program's start", || scratch.join("runs").exists());
        let second = scope.spawn(|| world.runner.run(&call, Some(&waits)));
        waits.cancel();
        assert!(matches!(second.join().unwrap(), Err(ExecError::Cancelled { .. })));
        let busy = world.runner.run(&Call::of("endless", Duration::from_millis(20)), None).unwrap_err();
        assert_eq!(
            busy.to_string(),
            "endless: no place for it within 20ms: 1 programs run, and more may not at once"
        );
        runs.cancel();
        assert!(matches!(first.join().unwrap(), Err(ExecError::Cancelled { .. })));
    });
    // Cancelled for ever, and the place is free again.
    assert!(matches!(world.runner.run(&call, Some(&runs)), Err(ExecError::Cancelled { .. })));
    assert!(world.run("exit 0").unwrap().succeeded());
}

#[test]
fn many_at_once_are_as_many_as_may() {
    let world = World::with_places(3);
    let scratch = world.scratch();
    let dir = scratch.display();
    world.script(
        "counts",
        &format!("mkdir {dir}/$$; ls {dir} | grep -c '^[0-9]'; sleep 0.05; rmdir {dir}/$$"),
    );
    let call = Call::of("counts", LONG);
    let most = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..24).map(|_| scope.spawn(|| world.runner.run(&call, None).unwrap())).collect();
        runs.into_iter().map(|run| text(&run.join().unwrap()).trim().parse::<usize>().unwrap()).max().unwrap()
    });
    assert!(most <= 3, "{most} at once");
}

#[test]
fn what_cannot_be_run_says_why_and_what_to_do() {
    let world = World::new();
    let none = Runner::new(&Options::default()).unwrap();
    let call = Call::of("p", LONG);
    let said = none.run(&call, None).unwrap_err().to_string();
    assert!(said.starts_with("p: no program may be run") && said.contains("--allow-exec"), "{said}");
    for (user, expected) in [("no-such-user", "there is no such user"), ("root", "systemd unit")] {
        let options =
            Options { directory: Some(world.path().to_owned()), user: user.into(), ..Options::default() };
        let said = Runner::new(&options).unwrap().run(&call, None).unwrap_err().to_string();
        assert!(said.starts_with(&format!("--exec-user {user}: ")) && said.contains(expected), "{said}");
    }
    for (name, contents, expected) in [
        ("interpreter", "#!/no/such/shell\n", "interpreter"),
        ("format", "\u{1}\u{2}\u{3}", "neither a binary"),
    ] {
        world.file(name, contents);
        let error = world.runner.run(&Call::of(name, LONG), None).unwrap_err();
        assert!(error.is_permanent());
        assert!(error.to_string().contains(expected) && error.to_string().contains(name), "{error}");
    }
    if geteuid().is_root() {
        fs::set_permissions(world.path(), fs::Permissions::from_mode(0o700)).unwrap();
        world.script("p", "exit 0");
        let said = world.runner.run(&call, None).unwrap_err().to_string();
        assert!(said.contains("must be able to read and execute it"), "{said}");
    }
}

#[test]
fn programs_of_the_system_run_as_the_agent() {
    let world = World::new();
    let outcome = world.runner.run_system(&Call::of("id", LONG).arg("-u"), None).unwrap();
    assert_eq!(text(&outcome).trim(), geteuid().to_string());
    let said = world.runner.run_system(&Call::of("no-such-program", LONG), None).unwrap_err().to_string();
    assert!(said.starts_with("no-such-program is not installed"), "{said}");
}
