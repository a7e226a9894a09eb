//! Commands in a node: short ones whose output is wanted, and processes that go on.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::error::{Doing, Error, Result};
use super::files::in_memory;
use super::journal::Entry;
use super::mounts::INSIDE;
use super::node::ANSWER;
use super::process::Process;
use super::protocol::{Exit, Request};
use super::watch::now;
use crate::cancel::Cancel;

/// How long output is still read after a command has ended while something that it left behind holds it open.
const GRACE: Duration = Duration::from_millis(250);

/// How often a wait asks whether the run was told to end.
pub(super) const CANCELLED: Duration = Duration::from_millis(100);

/// The environment of every process in a node.
pub(super) fn environment(node: &str) -> Vec<(String, String)> {
    let path = format!("{INSIDE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    [
        ("PATH", path.as_str()),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
        ("BASCULE_LAB_NODE", node),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

fn request(node: &str, argv: &[String], env: &[(String, String)]) -> Request {
    let mut all = environment(node);
    all.extend(env.iter().cloned());
    Request { argv: argv.to_vec(), env: all, directory: "/".into(), terminal: false }
}

/// A command that is waited for.
#[derive(Clone, Debug)]
pub struct Exec {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Vec<u8>,
    timeout: Duration,
    limit: usize,
}

impl Exec {
    /// A program and its arguments. At most 30 s and 1 MiB of output each for standard output and error.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(30),
            limit: 1 << 20,
        }
    }

    /// A line for `/bin/sh -c`.
    pub fn shell(line: &str) -> Self {
        Self::new(["/bin/sh", "-c", line])
    }

    /// What it reads; nothing unless told.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take; then its process group is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many bytes of standard output, and of standard error, are kept; the rest is read and thrown away.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn run(&self, node: &str, socket: &Path, cancel: &Cancel) -> Result<Output> {
        let what = || format!("running `{}` on {node}", self.argv.join(" "));
        let deadline = Instant::now() + self.timeout;
        let stdin = in_memory(&self.stdin).doing(what)?;
        let (stdout, stdout_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC).doing(what)?;
        let (stderr, stderr_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC).doing(what)?;
        let process = Process::start(
            &self.argv.first().cloned().unwrap_or_default(),
            socket,
            &request(node, &self.argv, &self.env),
            [&stdin, &stdout_in, &stderr_in],
            None,
            ANSWER.min(self.timeout + Duration::from_secs(1)),
            cancel,
        )
        .map_err(|error| error.of(node))?;
        drop((stdin, stdout_in, stderr_in));
        let mut streams = [Stream::new(stdout, self.limit), Stream::new(stderr, self.limit)];
        let mut ended: Option<Instant> = None;
        let mut timed_out = false;
        while ended.is_none() || streams.iter().any(|stream| stream.open) {
            let until = ended.map_or(deadline, |at| at + GRACE);
            let left = until.saturating_duration_since(Instant::now());
            if ended.is_some() && left.is_zero() {
                break;
            }
            if ended.is_none() && (left.is_zero() || cancel.is_cancelled()) {
                // If it ends in this very moment, that is fine.
                let _ = process.signal_group(Signal::SIGKILL);
                process.wait(Duration::from_secs(10)).ok_or_else(|| {
                    Error::wrong(format!("{}: it does not end, not even by SIGKILL", what()))
                })?;
                cancel.check()?;
                timed_out = true;
                ended = Some(Instant::now());
                continue;
            }
            let mut fds = Vec::with_capacity(3);
            let mut sources = Vec::with_capacity(3);
            for (index, stream) in streams.iter().enumerate().filter(|(_, stream)| stream.open) {
                fds.push(PollFd::new(stream.fd.as_fd(), PollFlags::POLLIN));
                sources.push(Some(index));
            }
            if ended.is_none() {
                fds.push(PollFd::new(process.ending().as_fd(), PollFlags::POLLIN));
                sources.push(None);
            }
            // Rounded up: a wait of less than a millisecond must not spin.
            let timeout = PollTimeout::try_from(left.min(CANCELLED) + Duration::from_micros(999))
                .unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno).doing(what),
            }
            let ready: Vec<_> = fds
                .iter()
                .zip(&sources)
                .filter(|(fd, _)| fd.revents().is_some_and(|events| !events.is_empty()))
                .map(|(_, source)| *source)
                .collect();
            for source in ready {
                match source {
                    Some(index) => streams[index].read().doing(what)?,
                    None if process.exit().is_some() => ended = Some(Instant::now()),
                    None => {}
                }
            }
        }
        let status = process.exit().unwrap_or(Exit::Signal(libc::SIGKILL));
        let [stdout, stderr] = streams;
        Ok(Output {
            command: self.argv.join(" "),
            status,
            truncated: stdout.truncated || stderr.truncated,
            stdout: stdout.bytes,
            stderr: stderr.bytes,
            timed_out,
        })
    }
}

/// One of a command's outputs while it is read.
struct Stream {
    fd: std::fs::File,
    bytes: Vec<u8>,
    limit: usize,
    open: bool,
    truncated: bool,
}

impl Stream {
    fn new(fd: OwnedFd, limit: usize) -> Self {
        Self { fd: fd.into(), bytes: Vec::new(), limit, open: true, truncated: false }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let length = match self.fd.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        };
        self.open = length > 0;
        let kept = length.min(self.limit.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(&buffer[..kept]);
        self.truncated |= kept < length;
        Ok(())
    }
}

/// What a command wrote and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// How it ended.
    pub status: Exit,
    /// Standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// Whether it wrote more than the limit.
    pub truncated: bool,
    /// Whether it was killed because it took too long.
    pub timed_out: bool,
}

impl Output {
    /// Whether it ended by itself, in time, with code 0.
    pub fn success(&self) -> bool {
        !self.timed_out && self.status.success()
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself if it succeeded, else an error with the command and what it said last.
    pub fn checked(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        let how = if self.timed_out { "took too long".to_owned() } else { self.status.to_string() };
        let said = format!("{}\n{}", self.text(), self.error_text());
        let last: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = last[last.len().saturating_sub(4)..].join(" / ");
        Err(Error::wrong(format!("`{}`: {how}: {last}", self.command)))
    }
}

/// A process that goes on.
#[derive(Clone, Debug)]
pub struct Spawn {
    pub(super) name: String,
    argv: Vec<String>,
    env: Vec<(String, String)>,
}

impl Spawn {
    /// A program and its arguments, under a name by which faults and the log find it.
    pub fn new<S: Into<String>>(name: &str, argv: impl IntoIterator<Item = S>) -> Self {
        Self { name: name.to_owned(), argv: argv.into_iter().map(Into::into).collect(), env: Vec::new() }
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn start(&self, node: &str, socket: &Path, logs: &Path, cancel: &Cancel) -> Result<Process> {
        let log = logs.join(format!("{}.log", self.name.replace('/', "_")));
        let what = || format!("opening {}", log.display());
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&log).doing(what)?;
        let from = file.metadata().doing(what)?.len();
        let errors = file.try_clone().doing(what)?.into();
        let at = now();
        let null = std::fs::File::open("/dev/null").doing(|| "opening /dev/null".into())?.into();
        let process = Process::start(
            &self.name,
            socket,
            &request(node, &self.argv, &self.env),
            [&null, &file.into(), &errors],
            Some((log, from)),
            ANSWER,
            cancel,
        )
        .map_err(|error| error.of(node))?;
        let (pid, name) = (process.node_pid(), self.name.clone());
        Entry::Started { at, pid, name }
            .append(logs)
            .doing(|| format!("writing down what was started on {node}"))?;
        Ok(process)
    }
}
