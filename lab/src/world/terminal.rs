//! A command in a node with a terminal, from any process of the machine: `bascule-lab exec NODE -- CMD`.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::error::{Doing, Error, Result};
use super::node::{ANSWER, socket_of};
use super::process::Process;
use super::protocol::{Exit, Request};
use super::run::environment;
use crate::cancel::Cancel;

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, nix::pty::Winsize);
    nix::ioctl_read_bad!(get_size, libc::TIOCGWINSZ, nix::pty::Winsize);
}

/// A command that runs in a node with a terminal of its own.
pub struct Session {
    master: OwnedFd,
    process: Process,
}

impl Session {
    /// The other side of its terminal: what is written here it reads, what it writes is read here. At its end reading fails with EIO.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Tells it the size of its terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the structure outlives the call.
        unsafe { ioctl::set_size(self.master.as_raw_fd(), &raw const size) }
            .map(drop)
            .doing(|| "setting the size of a terminal".into())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Starts a command with a terminal in a node of a registered run. It is killed when the session is dropped.
pub fn open(run: &str, node: &str, argv: &[String], columns: u16, rows: u16) -> Result<Session> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).doing(|| "making a terminal".into())?;
    nix::fcntl::fcntl(&pty.master, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .doing(|| "making a terminal".into())?;
    let process = start(run, node, argv, [&pty.slave, &pty.slave, &pty.slave], true)?;
    Ok(Session { master: pty.master, process })
}

fn start(run: &str, node: &str, argv: &[String], files: [&OwnedFd; 3], terminal: bool) -> Result<Process> {
    let socket = socket_of(run, node)?;
    let mut env = environment(node);
    if terminal {
        let kind = std::env::var("TERM").unwrap_or_else(|_| "linux".into());
        env.push(("TERM".into(), kind));
    }
    let request = Request { argv: argv.to_vec(), env, directory: "/".into(), terminal };
    let name = argv.first().map_or("", String::as_str);
    Process::start(name, &socket, &request, files, None, ANSWER, &Cancel::default())
}

/// Runs a command in a node of a registered run with this process's own input and output: with a terminal if they are one, else as
/// they are. Returns the code that a shell would report.
pub fn exec(run: &str, node: &str, argv: &[String]) -> Result<i32> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    if stdin.is_terminal() && stdout.is_terminal() {
        return with_terminal(run, node, argv);
    }
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().doing(|| "passing on standard files".into());
    let files = [copy(stdin.as_fd())?, copy(stdout.as_fd())?, copy(io::stderr().as_fd())?];
    let process = start(run, node, argv, [&files[0], &files[1], &files[2]], false)?;
    loop {
        // No bound of its own: it is the user's command, and Ctrl-C ends it by closing the connection.
        if let Some(exit) = process.wait(Duration::from_hours(1)) {
            return Ok(exit.shell_code());
        }
    }
}

/// Puts the terminal back when it goes.
struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    fn new(terminal: BorrowedFd<'a>) -> nix::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // Nothing can be done if the terminal has gone.
        let _ = tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

fn size_of_terminal(terminal: BorrowedFd<'_>) -> (u16, u16) {
    let mut size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure outlives the call. If it fails, the usual size stands.
    let _ = unsafe { ioctl::get_size(terminal.as_raw_fd(), &raw mut size) };
    (size.ws_col, size.ws_row)
}

fn with_terminal(run: &str, node: &str, argv: &[String]) -> Result<i32> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (columns, rows) = size_of_terminal(stdout.as_fd());
    let session = open(run, node, argv, columns, rows)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGWINCH);
    signals.thread_block().doing(|| "watching the size of the terminal".into())?;
    let resized = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "watching the size of the terminal".into())?;
    let raw = Raw::new(stdin.as_fd()).doing(|| "preparing the terminal".into())?;
    let result = pass(&session, stdin.as_fd(), stdout.as_fd(), &resized);
    drop(raw);
    result?;
    let exit = session.process.wait(Duration::from_secs(10));
    exit.map(Exit::shell_code).ok_or_else(|| Error::wrong("the command closed its terminal and does not end"))
}

/// Copies both ways until the command has closed its terminal.
fn pass(session: &Session, input: BorrowedFd<'_>, output: BorrowedFd<'_>, resized: &SignalFd) -> Result<()> {
    let what = || "passing on the terminal".to_owned();
    let mut open = true;
    let mut buffer = [0; 16 * 1024];
    loop {
        let mut fds = vec![
            PollFd::new(session.master(), PollFlags::POLLIN),
            PollFd::new(resized.as_fd(), PollFlags::POLLIN),
        ];
        if open {
            fds.push(PollFd::new(input, PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(errno) => return Err(errno).doing(what),
        }
        let ready =
            |index: usize| fds.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        if ready(1) {
            while let Ok(Some(_)) = resized.read_signal() {}
            let (columns, rows) = size_of_terminal(output);
            session.resize(columns, rows)?;
        }
        if ready(2) {
            match nix::unistd::read(input, &mut buffer) {
                Ok(0) => open = false,
                Ok(length) => write_all(session.master(), &buffer[..length]).doing(what)?,
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno).doing(what),
            }
        }
        if ready(0) {
            match nix::unistd::read(session.master(), &mut buffer) {
                // EIO: nobody has the terminal open any more.
                Ok(0) | Err(nix::Error::EIO) => return Ok(()),
                Ok(length) => write_all(output, &buffer[..length]).doing(what)?,
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno).doing(what),
            }
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
