//! The virtual machine, for real: booted once, used by all checks, and nothing of it is left. And its supervisor with a virtme-ng that
//! is none, for what a boot would only make slow.

mod controls;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bascule_lab::vm::dir::{ProcessId, State};
use bascule_lab::vm::find;

/// The command line with a state directory of its own.
struct Lab {
    dir: tempfile::TempDir,
    path: Option<PathBuf>,
    vng: Option<PathBuf>,
    kernel: Option<PathBuf>,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bascule-vm-").tempdir().expect("a temporary directory");
        Self { dir, path: None, vng: None, kernel: None }
    }

    /// With programs that stand in for QEMU and virtme-ng; the latter is this script.
    fn with_vng(script: &str) -> Self {
        let mut lab = Self::new();
        let bin = lab.dir.path().join("bin");
        fs::create_dir(&bin).expect("new");
        let program = |name: &str, text: &str| {
            let path = bin.join(name);
            fs::write(&path, text).expect("writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
            path
        };
        program(&format!("qemu-system-{}", std::env::consts::ARCH), "#!/bin/sh\nexit 1\n");
        lab.vng = Some(program("vng", script));
        lab.kernel = Some(program("vmlinuz-0.0.0-test", ""));
        lab.path = Some(bin);
        lab
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("vm")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bascule-lab"));
        command.args(arguments).env("BASCULE_VM_DIR", self.state()).stdin(Stdio::null());
        if let Some(path) = &self.path {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            let paths = std::iter::once(path.clone()).chain(std::env::split_paths(&paths));
            command.env("PATH", std::env::join_paths(paths).expect("paths without colons"));
        }
        if let Some(vng) = &self.vng {
            command.env("BASCULE_VNG", vng);
        }
        if let Some(kernel) = &self.kernel {
            command.env("BASCULE_VM_KERNEL", kernel);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    /// A shell command in the machine.
    fn shell(&self, text: &str) -> Output {
        self.run(&["vm", "exec", "--", "sh", "-c", text])
    }

    fn supervisor(&self) -> Option<ProcessId> {
        let state: State = serde_json::from_slice(&fs::read(self.state().join("state.json")).ok()?).ok()?;
        Some(state.process)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(process) = self.supervisor() {
            process.kill(Duration::from_secs(10));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stdout(output: &Output) -> String {
    text(&output.stdout)
}

/// Waits until `done`, for a minute at most.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes of which an argument contains this.
fn processes_with(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = text(&line).replace('\0', " ");
        if line.contains(mark) && entry.file_name() != std::process::id().to_string().as_str() {
            found.push(line);
        }
    }
    found
}

#[test]
fn a_boot_that_fails_says_why_with_the_last_words_of_the_console() {
    let lab = Lab::with_vng("#!/bin/sh\necho 'the kernel said this'\necho 'and then that' >&2\nexit 3\n");
    let output = lab.run(&["vm", "start", "--accelerator", "tcg"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for part in ["virtme-ng ended during the boot", "exit status: 3", "the kernel said this", "and then that"]
    {
        assert!(said.contains(part), "{said}");
    }
    wait_until("the supervisor has ended", || lab.supervisor().is_none());
    assert!(!lab.state().join("control.sock").exists());
    assert_eq!(lab.run(&["vm", "status"]).status.code(), Some(3));
}

#[test]
fn whatever_the_machine_consists_of_dies_with_its_supervisor() {
    let lab = Lab::with_vng("#!/bin/sh\necho booting\nsetsid sleep 86401.5 &\nsleep 86402.5\n");
    let mark = lab.state().display().to_string();
    let mut start: Child = lab
        .command(&["vm", "start", "--accelerator", "tcg"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    wait_until("both processes run", || {
        processes_with("sleep 86401.5").len() + processes_with("sleep 86402.5").len() == 2
    });
    lab.supervisor().expect("it noted itself").kill(Duration::from_secs(10));
    assert_eq!(start.wait().expect("it ends").code(), Some(1), "the caller is told");
    wait_until("nothing is left", || {
        processes_with("sleep 8640").is_empty() && processes_with(&mark).is_empty()
    });
    // What it left on disk does not hinder the next one, which is another.
    let again = lab.run(&["vm", "status"]);
    assert_eq!(stdout(&again), "no virtual machine runs\n");
}

#[test]
fn what_is_missing_is_named() {
    let mut lab = Lab::new();
    lab.vng = Some("/nonexistent/vng".into());
    let output = lab.run(&["vm", "start"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("bascule-lab doctor"), "{said}");
}

/// Why no machine can be booted here; a test run that must boot one fails instead.
fn impossible() -> bool {
    let missing: Vec<String> =
        [find::kernel().err(), find::qemu().err(), find::vng().err()].into_iter().flatten().collect();
    if missing.is_empty() {
        return false;
    }
    assert!(std::env::var_os("BASCULE_VM_TESTS").is_none_or(|value| value != "require"), "{missing:?}");
    eprintln!("skipped: {}", missing.join("; "));
    true
}

#[test]
fn a_machine_serves_and_leaves_nothing() {
    if impossible() {
        return;
    }
    let lab = Lab::new();
    let started = lab.run(&["vm", "start"]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let first = lab.supervisor().expect("it runs");

    commands(&lab);
    files(&lab);
    clients_that_die(&lab);
    junk(&lab);
    topology_by_hand(&lab);
    scenario(&lab);
    controls::of_ipvs(&lab);
    controls::of_real_servers(&lab);
    controls::of_faults(&lab);

    // All of that was one machine.
    assert_eq!(lab.supervisor(), Some(first));
    let mark = lab.state().display().to_string();
    assert!(
        processes_with(&mark).iter().any(|line| line.contains("qemu-system")),
        "it is seen while it runs"
    );
    first.kill(Duration::from_secs(10));
    wait_until("QEMU is gone", || processes_with(&mark).is_empty());
}

fn commands(lab: &Lab) {
    assert_eq!(lab.shell("exit 7").status.code(), Some(7));
    assert_eq!(lab.shell("kill -9 $$").status.code(), Some(137));
    assert_eq!(lab.run(&["vm", "exec", "--", "no-such-program"]).status.code(), Some(127));
    let both = lab.shell("echo one; echo two >&2");
    assert_eq!((stdout(&both).as_str(), text(&both.stderr).as_str()), ("one\n", "two\n"));
    let given = lab.run(&["vm", "exec", "--env", "WORD=a b", "--", "sh", "-c", "echo \"$WORD\""]);
    assert_eq!(stdout(&given), "a b\n");

    // Much more than any window, both ways at once, unchanged.
    let sent: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let mut child = lab
        .command(&["vm", "exec", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("piped");
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy));
    let mut received = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut received).expect("readable");
    writer.join().expect("no panic").expect("written");
    assert!(child.wait().expect("it ends").success());
    assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());

    // Several at once.
    let children: Vec<Child> = (0..4)
        .map(|n| {
            let text = format!("sleep 0.3; echo {n}");
            let mut command = lab.command(&["vm", "exec", "--", "sh", "-c", &text]);
            command.stdout(Stdio::piped()).spawn().expect("the program starts")
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        assert_eq!(stdout(&child.wait_with_output().expect("it ends")), format!("{n}\n"));
    }
}

fn files(lab: &Lab) {
    // The host's temporary files are shown where a caller stands, as they are now.
    let host = tempfile::tempdir().expect("a temporary directory");
    for content in ["old\n", "new\n"] {
        let fresh = host.path().join("fresh");
        fs::write(&fresh, content).expect("writable");
        fs::rename(&fresh, host.path().join("file")).expect("renamed");
        let mut cat = lab.command(&["vm", "exec", "--", "cat", "file"]);
        assert_eq!(stdout(&cat.current_dir(host.path()).output().expect("it starts")), content);
    }
    let write = lab
        .command(&["vm", "exec", "--", "touch", "made"])
        .current_dir(host.path())
        .output()
        .expect("it starts");
    assert!(!write.status.success() && !host.path().join("made").exists(), "the host's files are read-only");
    // A program that is built anew is run anew.
    let program = host.path().join("tool");
    for said in ["first", "second"] {
        let fresh = host.path().join("tool.new");
        fs::write(&fresh, format!("#!/bin/sh\necho {said}\n")).expect("writable");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("ours");
        fs::rename(&fresh, &program).expect("renamed");
        let path = program.to_str().expect("UTF-8");
        assert_eq!(stdout(&lab.run(&["vm", "exec", "--", path])), format!("{said}\n"));
    }
}

/// The number of processes in the machine whose command line is this.
fn inside(lab: &Lab, line: &str) -> usize {
    stdout(&lab.shell(&format!("pgrep -fxc '{line}'"))).trim().parse().expect("a number")
}

fn clients_that_die(lab: &Lab) {
    // Ctrl-C reaches the command, which may end in its own way.
    let mut child = lab
        .command(&[
            "vm",
            "exec",
            "--",
            "sh",
            "-c",
            "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut output = child.stdout.take().expect("piped");
    let mut ready = [0; 6];
    output.read_exact(&mut ready).expect("it says ready");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "caught\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(5));

    // A client that is killed takes all that it started with it, also what left its session.
    let mut child = lab
        .command(&["vm", "exec", "--", "sh", "-c", "setsid sleep 86403 & sleep 86404"])
        .spawn()
        .expect("the program starts");
    wait_until("both run inside", || inside(lab, "sleep 8640[34]") == 2);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    wait_until("both are gone inside", || inside(lab, "sleep 8640[34]") == 0);
}

fn junk(lab: &Lab) {
    for junk in
        [vec![0xff; 4096], b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![5, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4, 5]]
    {
        let mut stream = UnixStream::connect(lab.state().join("control.sock")).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a bound");
        stream.write_all(&junk).expect("it reads");
        let mut answer = Vec::new();
        // Cut off, or told that the request is none.
        let _ = stream.read_to_end(&mut answer);
    }
    assert_eq!(stdout(&lab.shell("echo alive")), "alive\n");
}

fn topology_by_hand(lab: &Lab) {
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/plain.yaml");
    let plain = plain.to_str().expect("UTF-8");
    let nothing = lab.run(&["exec", "--kernel", "vm", "ClientA", "--", "true"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("nothing is up"), "{}", text(&nothing.stderr));

    let up = lab.run(&["up", plain, "--kernel", "vm"]);
    assert!(up.status.success(), "{}", text(&up.stderr));
    assert!(stdout(&up).contains("plain is up"), "{}", stdout(&up));
    let twice = lab.run(&["up", plain, "--kernel", "vm"]);
    assert_eq!(twice.status.code(), Some(2), "{}", text(&twice.stderr));
    let name = lab.run(&["exec", "--kernel", "vm", "SRV1", "--", "hostname"]);
    assert_eq!(stdout(&name), "SRV1\n", "{}", text(&name.stderr));
    let code = lab.run(&["exec", "--kernel", "vm", "SRV1", "--", "sh", "-c", "exit 9"]);
    assert_eq!(code.status.code(), Some(9));
    let unknown = lab.run(&["exec", "--kernel", "vm", "SRV9", "--", "true"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("SRV1"), "{}", text(&unknown.stderr));

    let state = || {
        stdout(&lab.run(&["exec", "--kernel", "vm", "SRV1", "--", "cat", "/sys/class/net/enp0s3/operstate"]))
    };
    let before = state();
    let fault = ["adminDown", "node=SRV1", "interface=enp0s3", "--kernel", "vm"];
    let injected = lab.run(&[&["inject"], &fault[..]].concat());
    assert!(injected.status.success(), "{}", text(&injected.stderr));
    assert_eq!(state(), "down\n");
    let again = lab.run(&[&["inject"], &fault[..]].concat());
    assert_eq!(again.status.code(), Some(1), "a fault without effect is an error");
    let healed = lab.run(&[&["heal"], &fault[..]].concat());
    assert!(healed.status.success(), "{}", text(&healed.stderr));
    assert_eq!(state(), before);

    // The keeper waits for signals itself; programs in nodes still end by theirs.
    let stop = ["node=SRV1", "service=apache2", "--kernel", "vm"];
    for verb in ["inject", "heal"] {
        let output = lab.run(&[&[verb, "stopService"], &stop[..]].concat());
        assert!(output.status.success(), "{verb}: {}", text(&output.stderr));
    }

    // `down` would end a machine that nobody else uses: here somebody does.
    let mut user = lab
        .command(&["vm", "exec", "--", "sh", "-c", "echo here; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut here = [0; 5];
    user.stdout.as_mut().expect("piped").read_exact(&mut here).expect("it says so");
    let down = lab.run(&["down", "--kernel", "vm"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert_eq!(stdout(&down), "plain is down\n");
    drop(user.stdin.take());
    user.wait().expect("it ends");
    assert_eq!(stdout(&lab.shell("ls /run/bascule-lab 2>/dev/null; ip -o link | grep -c veth")).trim(), "0");
}

/// A scenario without timers, which passes on a busy machine, too.
const QUIET: &str = r"
summary: One machine and its kernel.
topology:
  networks: [{name: inside}]
  nodes:
    - name: SRV1
      links: [{network: inside, interface: enp0s3, addresses: [172.16.193.10/16]}]
steps:
  - name: the address is there
    expect: [{kernel: {node: SRV1, addresses: [{address: 172.16.193.10/16, interface: enp0s3}]}}]
";

fn scenario(lab: &Lab) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (file, results) = (folder.path().join("quiet.yaml"), folder.path().join("results"));
    fs::write(&file, QUIET).expect("writable");
    let (file, out) = (file.to_str().expect("UTF-8"), results.to_str().expect("UTF-8"));
    let output = lab.run(&["run", file, "--kernel", "vm", "--out", out]);
    assert!(output.status.success(), "{}{}", stdout(&output), text(&output.stderr));
    let result = fs::read(results.join("quiet/result.json")).expect("it was fetched");
    let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
    assert_eq!(result["verdict"], "passed");
    assert!(results.join("junit.xml").is_file());
    // A failure passes through, and its results come, too.
    let wrong = folder.path().join("wrong.yaml");
    fs::write(
        &wrong,
        QUIET.replace(
            "expect: [{kernel: {node: SRV1, addresses: [{address: 172.16.193.10",
            "expect: [{kernel: {node: SRV1, addresses: [{address: 172.16.193.11",
        ),
    )
    .expect("writable");
    let output = lab.run(&["run", wrong.to_str().expect("UTF-8"), "--kernel", "vm", "--out", out]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), text(&output.stderr));
    assert!(results.join("wrong/result.json").is_file());
    let left = stdout(&lab.shell("ls /tmp | grep -c bascule-run"));
    assert_eq!(left.trim(), "0", "results are not left in the machine's memory");
}
