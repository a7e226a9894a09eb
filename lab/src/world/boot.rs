//! The life of a node's processes: from its start over being frozen to its end.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{Doing, Error, Result};
use super::init::{Config, SUBCOMMAND, Status};
use super::netlink::namespace_of;
use super::node::{Booted, Node};
use super::run::CANCELLED;
use super::watch::{Sink, Watch};
use super::{cgroup, inventory, journal, pidfd, spawner};

/// How long a node may take from its start to taking requests. Generous: an emulated machine that is busy.
const BOOT: Duration = Duration::from_mins(1);
/// How long a node may take to end after SIGKILL.
const END: Duration = Duration::from_secs(20);
/// A node that has been started and is not ready yet.
pub(crate) struct Starting {
    outer: Child,
    lines: Receiver<Status>,
    log: PathBuf,
}

impl Node {
    /// Starts its first process. The namespaces are there when [`Node::ready`] returns.
    pub(crate) fn start(&self) -> Result<Starting> {
        let what = || format!("starting the node {}", self.name());
        if self.is_up() {
            return Err(Error::wrong(format!("{} is on already", self.name())));
        }
        let folder = self.folder();
        std::fs::create_dir_all(folder.join("disk")).doing(what)?;
        std::fs::create_dir_all(self.logs()).doing(what)?;
        let socket = self.socket();
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).doing(what),
            _ => {}
        }
        let config = Config {
            parent: std::process::id().cast_signed(),
            hostname: self.hostname().to_owned(),
            socket,
            journal: self.logs().join(journal::FILE),
            cgroup: cgroup::make(&self.0.shared.registration.id, self.name()),
            machine: self.0.mounts.clone(),
        };
        let path = folder.join("init.json");
        let bytes = serde_json::to_vec(&config).map_err(|error| Error::wrong(error.to_string()))?;
        std::fs::write(&path, bytes).doing(what)?;
        let log = self.logs().join("init.log");
        let errors = std::fs::OpenOptions::new().append(true).create(true).open(&log).doing(what)?;
        let mut command = Command::new(&self.0.shared.dir.program);
        command.arg(SUBCOMMAND).arg(&path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut outer = spawner::spawn(command)
            .doing(|| format!("{} ({})", what(), self.0.shared.dir.program.display()))?;
        let output = outer.stdout.take().ok_or_else(|| Error::wrong("a pipe was asked for"))?;
        let (sender, lines) = channel();
        std::thread::Builder::new()
            .name(format!("boot {}", self.name()))
            .spawn(move || {
                for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                    let Ok(status) = serde_json::from_str(&line) else { continue };
                    if sender.send(status).is_err() {
                        return;
                    }
                }
            })
            .doing(what)?;
        Ok(Starting { outer, lines, log })
    }

    /// Waits until it takes requests, and begins to watch it.
    pub(crate) fn ready(&self, mut starting: Starting, sink: Option<Sink>) -> Result<()> {
        let booted = self.booted(&mut starting).and_then(|(pid, first, processes)| {
            let network =
                namespace_of(pid, "net").doing(|| format!("opening the network of {}", self.name()))?;
            let watch = sink.map(|sink| Watch::start(self.name(), network.as_fd(), sink)).transpose()?;
            Ok((pid, first, processes, network, watch))
        });
        match booted {
            Ok((pid, first, processes, network, watch)) => {
                let mut state = self.state();
                state.boots += 1;
                state.frozen = false;
                let (outer, network) = (starting.outer, Arc::new(network));
                state.booted = Some(Booted { outer, pid, first, network, processes, watch });
                Ok(())
            }
            Err(error) => {
                let _ = starting.outer.kill();
                let _ = starting.outer.wait();
                Err(error)
            }
        }
    }

    fn booted(&self, starting: &mut Starting) -> Result<(i32, OwnedFd, u64)> {
        let deadline = Instant::now() + BOOT;
        let mut pid = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match starting.lines.recv_timeout(left.min(CANCELLED)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => self.0.shared.dir.cancel.check()?,
                Ok(Status::Forked { pid: forked }) => {
                    pid = Some(forked);
                    self.0
                        .shared
                        .registration
                        .note(self.name(), &[starting.outer.id().cast_signed(), forked])?;
                }
                Ok(Status::Ready) => break,
                Ok(Status::Failed { error }) => {
                    return Err(Error::wrong(format!("the node {} cannot start: {error}", self.name())));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::wrong(format!(
                        "the node {} is not ready after {BOOT:?}",
                        self.name()
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let log = std::fs::read_to_string(&starting.log).unwrap_or_default();
                    let last: Vec<_> = log.lines().rev().take(3).collect();
                    return Err(Error::wrong(format!(
                        "the first process of {} ended at once (is {} the lab's own program?): {}",
                        self.name(),
                        self.0.shared.dir.program.display(),
                        last.join(" / ")
                    )));
                }
            }
        }
        // The two lines come from two processes and may overtake each other.
        let pid = match pid {
            Some(pid) => pid,
            None => match starting.lines.recv_timeout(END) {
                Ok(Status::Forked { pid }) => {
                    self.0
                        .shared
                        .registration
                        .note(self.name(), &[starting.outer.id().cast_signed(), pid])?;
                    pid
                }
                other => return Err(Error::wrong(format!("the node {} said {other:?}", self.name()))),
            },
        };
        let what = || format!("looking at the processes of {}", self.name());
        let outer = Pid::from_raw(starting.outer.id().cast_signed());
        let first = pidfd::open_child(Pid::from_raw(pid), outer).doing(what)?;
        let processes = std::fs::metadata(format!("/proc/{pid}/ns/pid")).doing(what)?.ino();
        Ok((pid, first, processes))
    }

    /// Ends everything in it at once, without a word to anybody: SIGKILL to its first process, and with it to all. Its network goes
    /// with the last that holds it. What was watched is said to have gone at `at`. Fine if it is off.
    pub(crate) fn end(&self, at: u64) -> Result<()> {
        let Some(mut booted) = self.state().booted.take() else { return Ok(()) };
        self.state().frozen = false;
        // It may have ended by itself.
        let _ = pidfd::signal(booted.first.as_fd(), Signal::SIGKILL);
        let deadline = Instant::now() + END;
        loop {
            match booted.outer.try_wait().doing(|| format!("waiting for the end of {}", self.name()))? {
                Some(_) => break,
                None if Instant::now() > deadline => {
                    return Err(Error::wrong(format!("{} does not end", self.name())));
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        if let Some(watch) = booted.watch.take() {
            watch.end(at);
        }
        self.registry().clear();
        if let Some(group) = self.cgroup() {
            cgroup::remove(&group).doing(|| format!("removing the group {}", group.display()))?;
        }
        Ok(())
    }

    /// Its group of processes, where there is one.
    fn cgroup(&self) -> Option<PathBuf> {
        let path = cgroup::mount_point()?
            .join(cgroup::FOLDER)
            .join(&self.0.shared.registration.id)
            .join(self.name());
        path.is_dir().then_some(path)
    }

    /// Stops or continues all its processes. Returns what shows it.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<String> {
        let mut state = self.state();
        let booted = state.booted.as_ref().ok_or_else(|| self.off())?;
        let what = || format!("{} {}", if frozen { "freezing" } else { "thawing" }, self.name());
        let proof = if let Some(group) = self.cgroup() {
            cgroup::freeze(&group, frozen).doing(what)?;
            format!("cgroup.events: frozen {}", u8::from(frozen))
        } else {
            signal_all(booted.processes, frozen).doing(what)?
        };
        state.frozen = frozen;
        Ok(proof)
    }
}

/// SIGSTOP or SIGCONT to every process of a PID namespace, until all are stopped (or none).
fn signal_all(namespace: u64, stop: bool) -> std::io::Result<String> {
    let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
    let deadline = Instant::now() + Duration::from_secs(10);
    if !stop {
        // Also those that have yet to heed that they are to stop.
        for process in inventory::processes_in(namespace) {
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
    }
    loop {
        let processes = inventory::processes_in(namespace);
        let others: Vec<_> = processes
            .iter()
            .filter(|process| process.state != 'Z' && process.stands_still(&processes) != stop)
            .collect();
        if others.is_empty() {
            return Ok(format!(
                "{} processes are {}",
                processes.len(),
                if stop { "stopped" } else { "running again" }
            ));
        }
        for process in &others {
            // One that has just ended needs nothing.
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
        if Instant::now() > deadline {
            return Err(std::io::Error::other(format!("{signal} has no effect on {others:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
