//! Waits for a program: reads what it writes, and ends it with its children when its time is over.

use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::child::Started;
use super::places::{Place, until};
use super::strays::{self, Strays};
use super::{Call, Cancel, ExecError, Exit, Leftovers, MAX_OUTPUT, Outcome};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// From SIGKILL until the process is left to a thread that waits on: it hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// Read at once when the program has ended and somebody else goes on writing, in bytes.
const MAX_DRAIN: u64 = 1024 * 1024;

/// Looks for children that others had while they were being killed.
const ROUNDS: usize = 4;

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has its time.
    Running,
    /// SIGTERM was sent.
    Asked,
    /// SIGKILL was sent.
    Killed,
}

/// Waits until it has ended, for the call's time at most, with [`GRACE`] and [`PATIENCE`] on top.
pub(super) fn supervise(
    started: Started,
    path: &Path,
    call: &Call<'_>,
    cancel: Option<&Cancel>,
    begun: Instant,
    place: Place,
) -> Result<Outcome, ExecError> {
    let Started { mut child, output } = started;
    let pid = i32::try_from(child.id()).expect("a process number is a pid_t");
    let Some(ended) = strays::open(pid) else {
        // Before Linux 5.3, or no descriptors: without it nothing bounds the program, so that it must not run.
        let why = io::Error::last_os_error();
        signal_group(pid, libc::SIGKILL);
        let _ = child.wait();
        return Err(ExecError::start(path, &why, format!("no pidfd: {why}")));
    };
    let mut running =
        Running { pid, output: Some(output), kept: Vec::new(), dropped: 0, strays: Strays::default() };
    let mut phase = Phase::Running;
    let mut deadline = begun + call.timeout;
    let mut called_off = false;
    loop {
        let wake = running.wait(&ended, cancel.filter(|_| phase == Phase::Running), deadline);
        let wake = wake.map_err(|error| {
            running.kill();
            let _ = child.wait();
            ExecError::System { program: call.program.into(), what: "waiting for it", why: error.to_string() }
        })?;
        if wake.ended {
            break;
        }
        if !wake.cancelled && Instant::now() < deadline {
            continue;
        }
        match phase {
            Phase::Running => {
                called_off = wake.cancelled;
                running.ask();
                (phase, deadline) = (Phase::Asked, Instant::now() + GRACE);
            }
            Phase::Asked => {
                running.kill();
                (phase, deadline) = (Phase::Killed, Instant::now() + PATIENCE);
            }
            Phase::Killed => {
                leave(child, place, call.program);
                return Err(running.failure(call, called_off));
            }
        }
    }
    // Its number is its own until it is waited for, so that its group can be killed safely now.
    running.drain();
    if phase != Phase::Running {
        running.kill();
    } else if call.leftovers == Leftovers::Kill {
        signal_group(pid, libc::SIGKILL);
    }
    let status = child.wait();
    drop(place);
    if phase != Phase::Running {
        return Err(running.failure(call, called_off));
    }
    let status = status.map_err(|error| ExecError::System {
        program: call.program.into(),
        what: "asking how it ended",
        why: error.to_string(),
    })?;
    Ok(Outcome { exit: exit(status), output: running.kept, dropped: running.dropped, took: begun.elapsed() })
}

/// A process that does not end even by SIGKILL keeps its place, so that there are never more such threads than places.
fn leave(mut child: Child, place: Place, program: &str) {
    tracing::error!(
        program,
        pid = child.id(),
        "does not end by SIGKILL: it hangs in the kernel, and keeps its place"
    );
    let waits = move || {
        let _ = child.wait();
        drop(place);
    };
    // Without a thread it stays a zombie until the agent ends.
    let _ = std::thread::Builder::new().name("exec-leftover".into()).spawn(waits);
}

fn exit(status: ExitStatus) -> Exit {
    status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or_default()), Exit::Code)
}

/// Sends a signal to a process group. Only while its leader has not been waited for.
fn signal_group(leader: i32, signal: libc::c_int) {
    // SAFETY: takes integers.
    unsafe {
        libc::kill(-leader, signal);
    }
}

struct Running {
    pid: i32,
    /// Until everybody who could write has closed it.
    output: Option<PipeReader>,
    kept: Vec<u8>,
    dropped: u64,
    strays: Strays,
}

struct Wake {
    ended: bool,
    cancelled: bool,
}

impl Running {
    /// Waits for something to happen, and reads what was written.
    fn wait(&mut self, ended: &OwnedFd, cancel: Option<&Cancel>, deadline: Instant) -> io::Result<Wake> {
        let mut waited = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        waited.extend(cancel.map(|cancel| PollFd::new(cancel.fd(), PollFlags::POLLIN)));
        waited.extend(self.output.as_ref().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waited, until(Some(deadline))) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Wake { ended: false, cancelled: false }),
            Err(error) => return Err(error.into()),
        }
        let mut ready = waited.iter().map(|fd| fd.any().unwrap_or(false));
        let ended = ready.next().unwrap_or(false);
        let cancelled = cancel.is_some() && ready.next().unwrap_or(false);
        let readable = ready.next().unwrap_or(false);
        drop(ready);
        if readable {
            self.read();
        }
        Ok(Wake { ended, cancelled })
    }

    /// Reads once. Returns how many bytes.
    fn read(&mut self) -> u64 {
        let Some(output) = &mut self.output else { return 0 };
        let mut buffer = [0; 16 * 1024];
        match output.read(&mut buffer) {
            Ok(0) => {
                self.output = None;
                0
            }
            Ok(count) => {
                let kept = count.min(MAX_OUTPUT - self.kept.len());
                self.kept.extend_from_slice(&buffer[..kept]);
                self.dropped += (count - kept) as u64;
                count as u64
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.output = None;
                0
            }
        }
    }

    /// What stands in the pipe when it has ended. A child that stays and writes on is not waited for.
    fn drain(&mut self) {
        let mut drained = 0;
        while drained < MAX_DRAIN {
            match self.read() {
                0 => return,
                count => drained += count,
            }
        }
    }

    fn ask(&mut self) {
        self.strays.find(self.pid);
        signal_group(self.pid, libc::SIGTERM);
        self.strays.signal(libc::SIGTERM);
    }

    fn kill(&mut self) {
        // One that is being killed may have had children meanwhile.
        for _ in 0..ROUNDS {
            let before = self.strays.len();
            self.strays.find(self.pid);
            signal_group(self.pid, libc::SIGKILL);
            self.strays.signal(libc::SIGKILL);
            if self.strays.len() == before {
                return;
            }
        }
    }

    fn failure(&self, call: &Call<'_>, called_off: bool) -> ExecError {
        let program = call.program.to_owned();
        if called_off {
            return ExecError::Cancelled { program };
        }
        let text = String::from_utf8_lossy(&self.kept);
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let last = last.chars().filter(|c| !c.is_control()).take(80).collect();
        ExecError::TimedOut { program, after: call.timeout, last }
    }
}
