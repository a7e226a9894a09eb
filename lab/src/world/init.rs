//! The first process of a node: `bascule-lab node-init CONFIG`, a subcommand that people do not see.
//!
//! The process that the lab starts makes the namespaces and forks; the child is process 1 of the node, sets up its mounts, takes
//! requests and reaps what ends. Both are single-threaded and die with the lab: the kernel kills the outer one when the lab's
//! spawner thread ends, the inner one when the outer one ends, and everything else in the node with the inner one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpgid, getppid, getsid, setsid};
use serde::{Deserialize, Serialize};

use super::error::{Doing, Error, Result};
use super::journal::{self, Entry};
use super::mounts;
use super::pidfd;
use super::protocol::{self, Exit, Reply, Request};

/// The subcommand's name.
pub(crate) const SUBCOMMAND: &str = "node-init";
/// How many connections a node serves at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 512;

/// What a node's first process has to know. Written by the lab, read once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    /// The process whose end ends the node.
    pub(crate) parent: i32,
    /// What `uname -n` prints.
    pub(crate) hostname: String,
    /// Where requests are taken; at most 107 bytes.
    pub(crate) socket: PathBuf,
    /// Where it writes down what dumped core: of the machine's files.
    pub(crate) journal: PathBuf,
    /// The group of processes that it joins, a folder of the cgroup2 file system.
    pub(crate) cgroup: Option<PathBuf>,
    /// Its disk. None: the switch, which has no mounts of its own.
    pub(crate) machine: Option<mounts::Config>,
}

/// What it says on its standard output, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Status {
    /// The number of process 1 of the node, as the lab sees it.
    Forked {
        /// The number.
        pid: i32,
    },
    /// It takes requests now.
    Ready,
    /// It cannot start, and ends.
    Failed {
        /// Why.
        error: String,
    },
}

impl Status {
    fn say(&self) {
        let mut line = serde_json::to_string(self).expect("a status is plain data");
        line.push('\n');
        // The lab notices a missing line by its own time limit.
        let _ = io::stdout().lock().write_all(line.as_bytes());
    }
}

/// Runs the hidden subcommand if that is what the arguments ask for.
pub(crate) fn main() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(SUBCOMMAND)) {
        return None;
    }
    let Some(path) = arguments.next() else {
        eprintln!("{SUBCOMMAND} is started by the lab itself");
        return Some(ExitCode::from(2));
    };
    Some(match outer(Path::new(&path)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            Status::Failed { error: error.to_string() }.say();
            ExitCode::FAILURE
        }
    })
}

fn outer(path: &Path) -> Result<ExitCode> {
    let text = std::fs::read(path).doing(|| format!("reading {}", path.display()))?;
    let config: Config = serde_json::from_slice(&text)
        .map_err(|error| Error::wrong(format!("{}: {error}", path.display())))?;
    prctl::set_pdeathsig(Signal::SIGKILL).doing(|| "asking to die with the lab".into())?;
    if getppid().as_raw() != config.parent {
        return Err(Error::wrong("the lab ended before its node had started"));
    }
    // Ctrl-C is the lab's to handle, in its order.
    setsid().doing(|| "leaving the lab's session".into())?;
    let listener =
        protocol::listen_at(&config.socket).doing(|| format!("listening at {}", config.socket.display()))?;
    let journal = journal::open(&config.journal).doing(|| format!("opening {}", config.journal.display()))?;
    let mut namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if config.machine.is_some() {
        namespaces |= CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    }
    unshare(namespaces).doing(|| "making namespaces (this needs root)".into())?;
    let (alive, held) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)
        .doing(|| "making a pipe".into())?;
    // SAFETY: this process has a single thread, so the child may do anything.
    match unsafe { fork() }.doing(|| "forking".into())? {
        ForkResult::Child => {
            drop(held);
            std::process::exit(match inner(&config, &listener, &alive, journal) {
                Ok(never) => match never {},
                Err(error) => {
                    eprintln!("{error}");
                    Status::Failed { error: error.to_string() }.say();
                    1
                }
            })
        }
        ForkResult::Parent { child } => {
            Status::Forked { pid: child.as_raw() }.say();
            drop((alive, listener, journal));
            silence().doing(|| "closing standard output".into())?;
            loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, code)) => {
                        return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
                    }
                    Ok(WaitStatus::Signaled(..)) => return Ok(ExitCode::FAILURE),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno).doing(|| "waiting for the node".into()),
                }
            }
        }
    }
}

/// Process 1 of the node.
fn inner(
    config: &Config,
    listener: &OwnedFd,
    alive: &OwnedFd,
    journal: File,
) -> Result<std::convert::Infallible> {
    prctl::set_pdeathsig(Signal::SIGKILL).doing(|| "asking to die with the outer process".into())?;
    // Had the outer process ended before the line above, nobody would end this one: the pipe would be at its end.
    if nix::unistd::read(alive, &mut [0]) == Ok(0) {
        return Err(Error::wrong("the outer process ended before the node had started"));
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().doing(|| "blocking SIGCHLD".into())?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "watching SIGCHLD".into())?;
    if let Some(cgroup) = &config.cgroup {
        std::fs::write(cgroup.join("cgroup.procs"), "0")
            .doing(|| format!("joining the group {}", cgroup.display()))?;
        // Kernels without it simply show the whole tree.
        let _ = unshare(CloneFlags::CLONE_NEWCGROUP);
    }
    if let Some(machine) = &config.machine {
        nix::unistd::sethostname(&config.hostname)
            .doing(|| format!("setting the host name {}", config.hostname))?;
        mounts::set_up(machine)?;
    }
    nix::unistd::chdir("/").doing(|| "changing to /".into())?;
    Status::Ready.say();
    silence().doing(|| "closing standard output".into())?;
    // The switch sees the machine's /proc, in which numbers are others.
    let mut dead = Dead { journal, written: 0, names: config.machine.is_some() };
    serve(listener, &signals, &mut dead)
}

/// Replaces standard input and output by `/dev/null`: the lab reads its pipe to the end.
fn silence() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

/// A connection, and the process that it asked for.
struct Connection {
    socket: OwnedFd,
    child: Option<Pid>,
    /// Whether a person types in it.
    terminal: bool,
}

fn serve(listener: &OwnedFd, signals: &SignalFd, dead: &mut Dead) -> Result<std::convert::Infallible> {
    let mut connections: BTreeMap<i32, Connection> = BTreeMap::new();
    loop {
        let (ready, accepting, children) = {
            let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let wanted =
                if connections.len() < MAX_CONNECTIONS { PollFlags::POLLIN } else { PollFlags::empty() };
            fds.push(PollFd::new(listener.as_fd(), wanted));
            fds.extend(connections.values().map(|one| PollFd::new(one.socket.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).doing(|| "waiting for requests".into()),
            }
            let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let ready: Vec<i32> =
                fds[2..].iter().filter(|fd| is_ready(fd)).map(|fd| fd.as_fd().as_raw_fd()).collect();
            (ready, is_ready(&fds[1]), is_ready(&fds[0]))
        };
        for key in ready {
            let Some(connection) = connections.get_mut(&key) else { continue };
            if !handle(connection) {
                if let Some(child) = connection.child {
                    // Whoever asked for it is gone.
                    let _ = killpg(child, Signal::SIGKILL);
                }
                connections.remove(&key);
            }
        }
        if children {
            while let Ok(Some(_)) = signals.read_signal() {}
            reap(&mut connections, dead);
        }
        if accepting
            && let Ok(fd) =
                nix::sys::socket::accept4(listener.as_raw_fd(), nix::sys::socket::SockFlag::SOCK_CLOEXEC)
        {
            // SAFETY: `accept4` has just made it for us.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            connections.insert(fd, Connection { socket, child: None, terminal: false });
        }
    }
}

/// Reads from a connection; `false` when it is over.
fn handle(connection: &mut Connection) -> bool {
    let socket = connection.socket.as_raw_fd();
    match protocol::receive::<Request>(socket) {
        Ok(Some((request, files))) if connection.child.is_none() => match start(&request, files) {
            Ok((child, pidfd)) => {
                connection.child = Some(child);
                connection.terminal = request.terminal;
                protocol::send(socket, &Reply::Started { pid: child.as_raw() }, &[pidfd.as_raw_fd()]).is_ok()
            }
            Err(error) => {
                // If it cannot be told, the connection is closed, which says enough.
                let _ = protocol::send(socket, &Reply::Failed { error: error.to_string() }, &[]);
                false
            }
        },
        Ok(Some(_) | None) | Err(_) => false,
    }
}

fn start(request: &Request, files: Vec<OwnedFd>) -> io::Result<(Pid, OwnedFd)> {
    let [input, output, error] = <[OwnedFd; 3]>::try_from(files)
        .map_err(|files| io::Error::other(format!("{} files came with the request, not 3", files.len())))?;
    let (program, arguments) =
        request.argv.split_first().ok_or_else(|| io::Error::other("a command needs at least its program"))?;
    let terminal = request.terminal;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(request.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&request.directory)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(error));
    // SAFETY: only system calls that are safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            // The lab and this process wait for signals with them blocked; a program must not inherit that.
            SigSet::empty().thread_set_mask()?;
            // Nor what the lab's own caller ignores, as a script's shell has what it puts in the background ignore Ctrl-C: a shell cannot
            // trap what was ignored when it began. KILL, STOP and those of the C library refuse, and have nothing to be reset.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            if terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child =
        command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    match pidfd::open(pid) {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(error) => {
            let _ = kill(pid, Signal::SIGKILL);
            Err(error)
        }
    }
}

/// Collects everything that has ended: children, and orphans of the node.
fn reap(connections: &mut BTreeMap<i32, Connection>, dead: &mut Dead) {
    while let Some((pid, exit)) = ended() {
        if let Exit::Signal(signal) = exit
            && journal::dumps_core(signal)
        {
            // What a person does at a terminal, as Ctrl-\, is that person's.
            let session = getsid(Some(pid)).ok();
            let by_hand = connections.values().any(|one| one.terminal && one.child == session);
            if !by_hand {
                // Before its end is told: who knows of that finds this.
                dead.note(pid, signal);
            }
        }
        // SAFETY: nothing is written; the process has ended and is ours.
        unsafe { libc::waitpid(pid.as_raw(), std::ptr::null_mut(), libc::WNOHANG) };
        let key = connections.iter().find(|(_, one)| one.child == Some(pid)).map(|(key, _)| *key);
        if let Some(connection) = key.and_then(|key| connections.remove(&key)) {
            // The other side may have gone; the process has ended all the same.
            let _ = protocol::send(connection.socket.as_raw_fd(), &Reply::Exited(exit), &[]);
        }
    }
}

/// A process that has ended and is still to be collected, and how it ended.
fn ended() -> Option<(Pid, Exit)> {
    // SAFETY: the structure is plain data, and outlives the call.
    let (result, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        (libc::waitid(libc::P_ALL, 0, &raw mut info, options), info)
    };
    // SAFETY: waitid(2) has filled in these fields; the number stays 0 where nothing has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if result != 0 || pid == 0 {
        return None;
    }
    let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    Some((Pid::from_raw(pid), exit))
}

/// Writes down what dumped core.
struct Dead {
    journal: File,
    written: u32,
    names: bool,
}

impl Dead {
    /// Notes a process that has ended and is still to be collected.
    fn note(&mut self, pid: Pid, signal: i32) {
        if self.written >= journal::MOST {
            return;
        }
        self.written += 1;
        let comm = |pid: Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let entry = Entry::Ended {
            at: super::now(),
            pid: pid.as_raw(),
            group: getpgid(Some(pid)).map_or(pid.as_raw(), Pid::as_raw),
            program: if self.names { comm(pid).trim_end().to_owned() } else { String::new() },
            signal,
        };
        if let Err(error) = entry.write(&self.journal) {
            eprintln!("writing down that process {pid} dumped core: {error}");
        }
    }
}
