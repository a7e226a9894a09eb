//! One command: its processes, its terminal, its end.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Client, MACHINE, PROGRAMS, Shared};
use crate::vm::frame::{Frame, Kind};
use crate::vm::message::{Command, Done, Terminal};

/// Parent of the control groups of commands.
const GROUPS: &str = "/sys/fs/cgroup/bascule-executor";
/// After the end of a command, how long its output may be silent until it is taken for complete although somebody holds it open.
const SILENCE: Duration = Duration::from_millis(500);
/// Bytes read at once of a command's output.
const CHUNK: usize = 32 * 1024;

/// Runs a command to its end, or to that of its client.
pub(super) async fn run(
    command: Command,
    client: &Client,
    inbox: &mut mpsc::Receiver<Frame>,
    shared: &Shared,
) -> Done {
    let group = match make_group() {
        Ok(group) => group,
        Err(error) => return Done::Failed(format!("{error:#}")),
    };
    let running = match start(&command, &group) {
        Ok(running) => running,
        Err(error) => {
            remove_group(&group);
            return Done::NotStarted(format!("{error:#}"));
        }
    };
    let (done, cancelled) = attend(&command, running, client, inbox, &group).await;
    if command.keep && !cancelled && is_populated(&group) {
        shared.kept.lock().expect("no holder panics").push(group);
    } else {
        end_group(&group).await;
    }
    done
}

/// The control group of a new command.
fn make_group() -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let group = Path::new(GROUPS).join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir_all(&group).with_context(|| format!("making the control group {}", group.display()))?;
    Ok(group)
}

fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Removes a control group and those below it that have no process any more.
pub(super) fn remove_group(group: &Path) {
    if let Ok(below) = fs::read_dir(group) {
        for entry in below.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_group(&entry.path());
            }
        }
    }
    let _ = fs::remove_dir(group);
}

/// Kills everything in a control group and removes it.
async fn end_group(group: &Path) {
    let _ = fs::write(group.join("cgroup.kill"), "1");
    for _ in 0..200 {
        if !is_populated(group) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    remove_group(group);
}

/// A started command.
struct Running {
    child: Child,
    process_group: Pid,
    terminal: Option<std::sync::Arc<Pty>>,
}

fn start(command: &Command, group: &Path) -> Result<Running> {
    let (program, arguments) = command.arguments.split_first().context("there is no program to run")?;
    let mut start = tokio::process::Command::new(program);
    start.args(arguments).env_clear().envs(base_environment()).envs(&command.environment);
    start.current_dir(command.directory.as_deref().filter(|path| Path::new(path).is_dir()).unwrap_or("/"));
    let mut joins = fs::OpenOptions::new()
        .write(true)
        .open(group.join("cgroup.procs"))
        .with_context(|| format!("opening {}", group.display()))?;
    let (terminal, controls) = if let Some(terminal) = &command.terminal {
        let pty = Pty::open(terminal)?;
        start.env("TERM", &terminal.kind);
        let slave = pty.1;
        start.stdin(Stdio::from(slave.try_clone()?));
        start.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave));
        (Some(std::sync::Arc::new(pty.0)), true)
    } else {
        start.stdin(if command.input { Stdio::piped() } else { Stdio::null() });
        start.stdout(Stdio::piped()).stderr(Stdio::piped());
        (None, false)
    };
    // SAFETY: between fork and exec only system calls are made: write, setsid, ioctl.
    unsafe {
        start.pre_exec(move || {
            joins.write_all(b"0")?;
            if libc::setsid() < 0 || (controls && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0) {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = start.spawn().with_context(|| format!("starting {program} inside the virtual machine"))?;
    let process = child.id().context("the command has no process")?;
    Ok(Running { child, process_group: Pid::from_raw(process.cast_signed()), terminal })
}

fn base_environment() -> [(&'static str, String); 5] {
    [
        ("PATH", format!("{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
        ("HOME", "/root".to_owned()),
        ("USER", "root".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        (MACHINE, "vm".to_owned()),
    ]
}

/// Carries data both ways until the command has ended. Says also whether the client went before.
async fn attend(
    command: &Command,
    mut running: Running,
    client: &Client,
    inbox: &mut mpsc::Receiver<Frame>,
    group: &Path,
) -> (Done, bool) {
    let (ended, end) = watch::channel(false);
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    let (input, queued) = mpsc::unbounded_channel();
    let mut input = Some(input);
    if let Some(pty) = &running.terminal {
        pumps.push(tokio::spawn(pump_terminal(pty.clone(), client.clone(), end.clone())));
        tokio::spawn(feed_terminal(pty.clone(), queued, client.clone()));
    } else {
        if let Some(stdout) = running.child.stdout.take() {
            pumps.push(tokio::spawn(pump(stdout, Kind::Output, client.clone(), end.clone())));
        }
        if let Some(stderr) = running.child.stderr.take() {
            pumps.push(tokio::spawn(pump(stderr, Kind::ErrorOutput, client.clone(), end.clone())));
        }
        tokio::spawn(feed(running.child.stdin.take(), queued, client.clone()));
    }
    let status = loop {
        tokio::select! {
            status = running.child.wait() => break Some(status),
            frame = inbox.recv() => match frame {
                None => break None,
                Some(frame) => match frame.kind {
                    Kind::Input => {
                        if let Some(input) = &input {
                            let _ = input.send(frame);
                        } else {
                            client.credit(&frame).await;
                        }
                    }
                    Kind::InputEnd => input = None,
                    Kind::Signal => {
                        let number = frame.payload.first().map_or(0, |&byte| i32::from(byte));
                        if let Ok(signal) = Signal::try_from(number) {
                            let _ = killpg(running.process_group, signal);
                        }
                    }
                    Kind::Resize => {
                        if let (Some(pty), Some((rows, columns))) = (&running.terminal, size(&frame)) {
                            pty.resize(rows, columns);
                        }
                    }
                    _ => {}
                },
            },
        }
    };
    let (status, cancelled) = match status {
        Some(status) => (status, false),
        None => (cancel(command, &mut running, group).await, true),
    };
    if !command.keep || cancelled {
        let _ = fs::write(group.join("cgroup.kill"), "1");
    }
    let _ = ended.send(true);
    if !cancelled {
        for pump in pumps {
            let _ = pump.await;
        }
    }
    let done = match status {
        Err(error) => Done::Failed(format!("waiting for the command: {error}")),
        Ok(status) => outcome(status),
    };
    (done, cancelled)
}

fn outcome(status: ExitStatus) -> Done {
    match (status.code(), status.signal()) {
        (Some(code), _) => Done::Exited(code),
        (None, Some(signal)) => Done::Signaled(signal),
        (None, None) => Done::Failed(format!("ended as {status}")),
    }
}

/// The client has gone: the command may clean up, within its grace, and is then killed with all that it started.
async fn cancel(command: &Command, running: &mut Running, group: &Path) -> std::io::Result<ExitStatus> {
    let _ = killpg(running.process_group, Signal::SIGTERM);
    if running.terminal.is_some() {
        let _ = killpg(running.process_group, Signal::SIGHUP);
    }
    let grace = Duration::from_millis(command.grace_millis);
    if let Ok(status) = timeout(grace, running.child.wait()).await {
        return status;
    }
    let _ = fs::write(group.join("cgroup.kill"), "1");
    let _ = killpg(running.process_group, Signal::SIGKILL);
    running.child.wait().await
}

fn size(frame: &Frame) -> Option<(u16, u16)> {
    let [a, b, c, d] = *frame.payload.as_ref() else { return None };
    Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

/// Output of the command to the client, until its end, or until silence after the command's.
async fn pump(mut from: impl AsyncRead + Unpin, kind: Kind, client: Client, mut end: watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let ended = *end.borrow_and_update();
        let read = if ended {
            timeout(SILENCE, from.read(&mut buffer)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = end.changed() => continue,
            }
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if !client.send(kind, buffer[..length].to_vec()).await {
                    return;
                }
            }
        }
    }
}

/// Input of the client to the command, until one of them closes.
async fn feed(
    to: Option<tokio::process::ChildStdin>,
    mut queued: mpsc::UnboundedReceiver<Frame>,
    client: Client,
) {
    let mut to = to;
    while let Some(frame) = queued.recv().await {
        if let Some(open) = &mut to
            && open.write_all(&frame.payload).await.is_err()
        {
            to = None;
        }
        client.credit(&frame).await;
    }
}

/// The master's side of a terminal.
struct Pty {
    master: AsyncFd<OwnedFd>,
}

impl Pty {
    /// A terminal, and its other side for the command.
    fn open(terminal: &Terminal) -> Result<(Self, OwnedFd)> {
        let size = window(terminal.rows, terminal.columns);
        let pair = nix::pty::openpty(Some(&size), None).context("opening a terminal")?;
        nix::fcntl::fcntl(&pair.master, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        nix::fcntl::fcntl(&pair.master, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        nix::fcntl::fcntl(&pair.slave, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        // SAFETY: an OwnedFd keeps its descriptor open as long as it lives.
        let master = unsafe { AsyncFd::register(pair.master) }?;
        Ok((Self { master }, pair.slave))
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = window(rows, columns);
        // SAFETY: TIOCSWINSZ reads a winsize, which lives until the call returns.
        unsafe {
            libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size);
        }
    }

    async fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            match ready.try_io(|fd| nix::unistd::read(fd.get_ref(), buffer).map_err(Into::into)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(Into::into)) {
                Ok(result) => bytes = &bytes[result?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

fn window(rows: u16, columns: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

async fn pump_terminal(pty: std::sync::Arc<Pty>, client: Client, mut end: watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let ended = *end.borrow_and_update();
        let read = if ended {
            timeout(SILENCE, pty.read(&mut buffer)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                read = pty.read(&mut buffer) => read,
                _ = end.changed() => continue,
            }
        };
        match read {
            // EIO: nobody has the other side open any more.
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if !client.send(Kind::Output, buffer[..length].to_vec()).await {
                    return;
                }
            }
        }
    }
}

async fn feed_terminal(pty: std::sync::Arc<Pty>, mut queued: mpsc::UnboundedReceiver<Frame>, client: Client) {
    let mut open = true;
    while let Some(frame) = queued.recv().await {
        open = open && pty.write_all(&frame.payload).await.is_ok();
        client.credit(&frame).await;
    }
}
