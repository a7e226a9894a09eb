//! A process in a node, as the lab holds it.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::error::{Doing, Error, Result};
use super::files::ready;
use super::journal::{self, Entry};
use super::pidfd;
use super::protocol::{self, Exit, Reply};
use super::run::CANCELLED;
use super::watch::now;
use crate::cancel::Cancel;

/// How often a log is looked at for a line.
const LOOK: Duration = Duration::from_millis(5);
/// How long a process may take to end in order once the run was told to end.
const HURRY: Duration = Duration::from_secs(5);
/// How much of a log is read in one look, in bytes.
const MAX_LOOK: u64 = 4 << 20;

/// A running or ended process. Cheap to clone; it is killed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    /// As the lab sees it; it leads a process group of that number.
    pid: i32,
    inside: i32,
    pidfd: OwnedFd,
    /// The connection to the node's first process: it says when this one has ended.
    socket: OwnedFd,
    exit: Mutex<Option<Exit>>,
    log: Option<(PathBuf, u64)>,
    cancel: Cancel,
}

impl Process {
    /// Asks the first process of a node to start one. `patience` bounds how long that may take, and `cancel` ends every wait but that for
    /// its end.
    pub(super) fn start(
        name: &str,
        node_socket: &Path,
        request: &protocol::Request,
        files: [&OwnedFd; 3],
        log: Option<(PathBuf, u64)>,
        patience: Duration,
        cancel: &Cancel,
    ) -> Result<Self> {
        let what = || format!("starting `{}`", request.argv.join(" "));
        let socket = protocol::connect_to(node_socket).doing(what)?;
        protocol::send(socket.as_raw_fd(), request, &files.map(AsRawFd::as_raw_fd)).doing(what)?;
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let slice = left.min(CANCELLED).as_millis();
            if protocol::readable(&socket, i32::try_from(slice).unwrap_or(i32::MAX)).doing(what)? {
                break;
            }
            cancel.check()?;
            if left.is_zero() {
                return Err(Error::wrong(format!("{}: the node does not answer", what())));
            }
        }
        let (pid, pidfd) = match protocol::receive::<Reply>(socket.as_raw_fd()).doing(what)? {
            Some((Reply::Started { pid }, mut files)) if files.len() == 1 => (pid, files.remove(0)),
            Some((Reply::Failed { error }, _)) => return Err(Error::wrong(format!("{}: {error}", what()))),
            other => return Err(Error::wrong(format!("{}: unexpected answer {other:?}", what()))),
        };
        // -1 when it has ended and been collected before this line: then its end is in the socket already.
        let outside = host_pid(&pidfd).unwrap_or(-1);
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            pid: outside,
            inside: pid,
            pidfd,
            socket,
            exit: Mutex::new(None),
            log,
            cancel: cancel.clone(),
        })))
    }

    /// The name that it was started with.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its number as the lab sees it; -1 if it ended before it could be asked for.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Its number inside the node.
    pub fn node_pid(&self) -> i32 {
        self.0.inside
    }

    /// Where its output goes.
    pub fn log(&self) -> Option<&Path> {
        self.0.log.as_ref().map(|(path, _)| path.as_path())
    }

    /// The connection on which its end will be told; readable then.
    pub(super) fn ending(&self) -> &OwnedFd {
        &self.0.socket
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        let mut exit = self.0.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_none() && ready(self.0.socket.as_fd()) {
            *exit = Some(match protocol::receive::<Reply>(self.0.socket.as_raw_fd()) {
                Ok(Some((Reply::Exited(exit), _))) => exit,
                // The node has gone, and everything in it by SIGKILL.
                _ => Exit::Signal(libc::SIGKILL),
            });
        }
        *exit
    }

    /// Whether it has not ended.
    pub fn alive(&self) -> bool {
        self.exit().is_none()
    }

    /// Waits for its end.
    pub fn wait(&self, timeout: Duration) -> Option<Exit> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(exit) = self.exit() {
                return Some(exit);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // An error here is an error there as well.
            let _ = protocol::readable(
                &self.0.socket,
                i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1),
            );
        }
    }

    /// Sends it a signal, and never another process that has got its number.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.note(signal, false)?;
        pidfd::signal(self.0.pidfd.as_fd(), signal).doing(|| format!("sending {signal} to {}", self.0.name))
    }

    /// Sends a signal to its whole process group: what it started itself as well.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        if self.0.pid <= 1 || !self.alive() {
            return Err(Error::wrong(format!("{} has ended already", self.0.name)));
        }
        self.note(signal, true)?;
        killpg(Pid::from_raw(self.0.pid), signal)
            .doing(|| format!("sending {signal} to the group of {}", self.0.name))
    }

    /// Writes down that the lab is about to send a signal by which it would else have failed by itself.
    fn note(&self, signal: Signal, group: bool) -> Result<()> {
        let logs = self.log().and_then(Path::parent).filter(|_| journal::dumps_core(signal as i32));
        let Some(logs) = logs else { return Ok(()) };
        Entry::Sent { at: now(), pid: self.0.inside, signal: signal as i32, group }
            .append(logs)
            .doing(|| format!("writing down that {signal} is sent to {}", self.0.name))
    }

    /// Ends it: SIGTERM, and SIGKILL to its group when it has not ended in time. Once the run was told to end, that is not long.
    pub fn stop(&self, timeout: Duration) -> Result<Exit> {
        if let Some(exit) = self.exit() {
            return Ok(exit);
        }
        // It may end in between; then the wait says so.
        let _ = self.signal(Signal::SIGTERM);
        let mut deadline = Instant::now() + timeout;
        let mut hurried = false;
        while Instant::now() < deadline {
            if let Some(exit) = self.wait(CANCELLED) {
                return Ok(exit);
            }
            if self.0.cancel.is_cancelled() && !hurried {
                hurried = true;
                deadline = deadline.min(Instant::now() + HURRY);
            }
        }
        let _ = self.signal_group(Signal::SIGKILL);
        self.wait(Duration::from_secs(10))
            .ok_or_else(|| Error::wrong(format!("{} does not end, not even by SIGKILL", self.0.name)))
    }

    /// What it has written since it was started.
    pub fn output(&self) -> Result<String> {
        let Some((path, from)) = &self.0.log else { return Ok(String::new()) };
        let what = || format!("reading {}", path.display());
        let mut file = std::fs::File::open(path).doing(what)?;
        file.seek(SeekFrom::Start(*from)).doing(what)?;
        let mut bytes = Vec::new();
        file.take(MAX_LOOK).read_to_end(&mut bytes).doing(what)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until it has written a whole line that contains `needle`, and returns the line. An error if it ends before, or does not in time.
    pub fn wait_for_line(&self, needle: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            // Asked before the log is read: what it wrote before its end is then in the log.
            let exit = self.exit();
            let text = self.output()?;
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(line) = whole.lines().find(|line| line.contains(needle)) {
                return Ok(line.to_owned());
            }
            let last: Vec<_> = text.lines().rev().take(3).collect();
            let last = last.into_iter().rev().collect::<Vec<_>>().join(" / ");
            if let Some(exit) = exit {
                return Err(Error::wrong(format!(
                    "{} ended ({exit}) without saying `{needle}`; it said last: {last}",
                    self.0.name
                )));
            }
            if Instant::now() > deadline {
                return Err(Error::wrong(format!(
                    "{} has not said `{needle}` within {timeout:?}; it said last: {last}",
                    self.0.name
                )));
            }
            self.0.cancel.check()?;
            std::thread::sleep(LOOK);
        }
    }

    /// The numbers of its group's processes, as the lab sees them.
    pub fn group(&self) -> Vec<i32> {
        if self.0.pid <= 1 || !self.alive() {
            return Vec::new();
        }
        super::inventory::processes()
            .into_iter()
            .filter(|process| process.group == self.0.pid)
            .map(|process| process.pid)
            .collect()
    }
}

/// The number of a pidfd's process, as this process sees it.
fn host_pid(pidfd: &OwnedFd) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
}
