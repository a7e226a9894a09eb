//! Ctrl-C while something is waited for: once, everything is taken down and nothing has passed; twice, it ends at once. Needs root and
//! namespaces.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Far longer than any test may take, so that whoever waits for it to end by itself is found out.
const SCENARIO: &str = "\
summary: A node that is busy for half an hour.
topology:
  networks: [{name: lan}]
  nodes:
    - name: SRV1
      links: [{network: lan, interface: enp0s3, addresses: [172.16.193.10/16]}]
steps:
  - name: busy
    exec: {node: SRV1, command: 'exec sleep 1700.25', timeout: 30m}
";
/// How long taking down may take on a slow machine; half an hour is not within it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Plays it until its step has begun.
fn begin(folder: &Path) -> Child {
    let file = folder.join("busy.yaml");
    std::fs::write(&file, SCENARIO).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
        .args(["run", "--kernel", "host", "--out"])
        .arg(folder.join("results"))
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.by_ref().map_while(Result::ok).any(|line| line.contains("[1/1] busy"));
    assert!(begun, "the step begins");
    // Read on, so that it never writes into a closed pipe.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn end(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it does not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

#[test]
fn one_signal_gives_up_what_is_waited_for_and_takes_down() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = begin(folder.path());
    signal(&child, Signal::SIGINT);
    assert_eq!(end(&mut child).code(), Some(1), "what was interrupted has not passed");
    let results = folder.path().join("results");
    let result: Value =
        serde_json::from_slice(&std::fs::read(results.join("busy/result.json")).unwrap()).unwrap();
    assert_eq!(result["verdict"], "error");
    assert_eq!(result["reason"], "interrupted");
    assert!(std::fs::read_to_string(results.join("junit.xml")).unwrap().contains("errors=\"1\""));
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = begin(folder.path());
    // Two kinds: of one kind the second could be lost in the first.
    signal(&child, Signal::SIGINT);
    signal(&child, Signal::SIGTERM);
    assert_eq!(end(&mut child).code(), Some(130));
    // The folder is that of a run, though it was not ended: the next may have it.
    let result: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("results/busy/result.json")).unwrap())
            .unwrap();
    assert_eq!(result["verdict"], "error");
}
