//! How many files the agent may have open, and what it starts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const AGENT: &str = env!("CARGO_BIN_EXE_bascule-agent");

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(120);

const MANIFESTS: &str = "apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: tp}
spec:
  director: {name: dir1}
  addresses: [192.16.193.30]
  ports: [{port: 80, protocol: TCP}]
  healthChecks: [files]
  realServers: [{name: srv1, address: 172.16.193.10}]
---
apiVersion: bascule.dev/v1alpha1
kind: HealthCheck
metadata: {name: files, namespace: tp}
spec: {interval: 100ms, exec: {program: files}}
";

/// Ended when the test ends, however it does.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Soft and hard limit of open files of a process.
fn limit(pid: u32) -> Option<(String, String)> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let words: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max open files"))?.split_whitespace().collect();
    Some((words[3].to_owned(), words[4].to_owned()))
}

fn status(directory: &Path) -> String {
    let mut command = Command::new(AGENT);
    let output = command.args(["status", "--run-dir", "run", "-o", "json"]).current_dir(directory).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn the_agent_takes_what_it_may_and_programs_get_what_it_had() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: needs root, for a network namespace of its own");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("m")).unwrap();
    fs::write(at("m/web.yaml"), MANIFESTS).unwrap();
    fs::create_dir(at("bin")).unwrap();
    fs::write(at("bin/files"), "#!/bin/sh\necho \"soft $(ulimit -Sn) hard $(ulimit -Hn)\"\n").unwrap();
    for path in [directory.path().to_owned(), at("bin"), at("bin/files")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let start = "ulimit -Sn 300 && ulimit -Hn 3000 && exec unshare --net \"$@\"";
    let child = Command::new("sh")
        .args(["-c", start, "sh", AGENT, "--manifests", "m", "--director", "dir1", "--listen", "none"])
        .args(["--run-dir", "run", "--state-dir", "state", "--allow-exec"])
        .arg(at("bin"))
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let agent = Agent(child);
    let until = Instant::now() + PATIENCE;
    while !status(directory.path()).contains("soft 300 hard 3000") {
        assert!(Instant::now() < until, "{}", status(directory.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(limit(agent.0.id()), Some(("3000".into(), "3000".into())));
}
