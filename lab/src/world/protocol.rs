//! What the lab and the first process of a node say to each other: one JSON object a datagram over a `SOCK_SEQPACKET` socket,
//! with open files beside it. One connection starts one process and lives as long as that process.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, listen, recvmsg, sendmsg, socket,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest message, in bytes: arguments and environment of one command.
pub(crate) const MAX_MESSAGE: usize = 160 * 1024;
/// Standard input, output and error.
pub(crate) const MAX_FILES: usize = 3;

/// A process to start. Its standard input, output and error come with the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// Its environment, whole.
    pub(crate) env: Vec<(String, String)>,
    /// Its working directory.
    pub(crate) directory: String,
    /// Whether standard input is a terminal that it is to control.
    pub(crate) terminal: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Reply {
    /// It runs; a pidfd comes with the message.
    Started {
        /// Its number inside the node.
        pid: i32,
    },
    /// It could not be started.
    Failed {
        /// Why.
        error: String,
    },
    /// It ended.
    Exited(Exit),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether it ended by itself with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code a shell would report: 128 and more for a signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {signal}"),
            },
        }
    }
}

/// Opens the socket on which a node's first process takes requests.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(128)?)?;
    Ok(fd)
}

/// Connects to the first process of a node.
pub(crate) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Sends one message with open files.
pub(crate) fn send(socket: RawFd, message: &impl Serialize, files: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("arguments and environment take {} bytes; {MAX_MESSAGE} is the most", bytes.len()),
        ));
    }
    let slices = [IoSlice::new(&bytes)];
    let control = [ControlMessage::ScmRights(files)];
    let control = if files.is_empty() { &control[..0] } else { &control[..] };
    loop {
        match sendmsg::<UnixAddr>(socket, &slices, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one message; `None` when the other side has closed.
pub(crate) fn receive<T: DeserializeOwned>(socket: RawFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = cmsg_space!([RawFd; MAX_FILES]);
    let mut files = Vec::new();
    let length = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match recvmsg::<UnixAddr>(socket, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => {
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(received) = control {
                        // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                        files.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break message.bytes;
            }
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, files)))
}

/// Waits until `fd` can be read or has been closed by the other side; `false` when the time ran out.
pub(crate) fn readable(fd: &OwnedFd, milliseconds: i32) -> io::Result<bool> {
    use std::os::fd::AsFd;
    let deadline = std::time::Instant::now()
        + std::time::Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn messages_carry_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let server = listen_at(&path).unwrap();
        let client = connect_to(&path).unwrap();
        let accepted = nix::sys::socket::accept(server.as_raw_fd()).unwrap();
        // SAFETY: `accept` has just made it.
        let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
        let request = Request {
            argv: vec!["echo".into(), "x".repeat(100_000)],
            env: vec![("A".into(), "b".into())],
            directory: "/".into(),
            terminal: false,
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        file.rewind().unwrap();
        assert!(!readable(&accepted, 0).unwrap());
        send(client.as_raw_fd(), &request, &[file.as_raw_fd()]).unwrap();
        assert!(readable(&accepted, 1000).unwrap());
        let (received, mut files): (Request, _) = receive(accepted.as_raw_fd()).unwrap().unwrap();
        assert_eq!(received, request);
        let mut text = String::new();
        std::fs::File::from(files.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        drop(client);
        assert!(receive::<Reply>(accepted.as_raw_fd()).unwrap().is_none());
    }

    #[test]
    fn a_message_too_large_is_refused() {
        let request = Request { argv: vec!["x".repeat(MAX_MESSAGE)], ..Request::default() };
        assert!(send(-1, &request, &[]).unwrap_err().to_string().contains("the most"));
    }

    #[test]
    fn ends_read_as_people_say_them() {
        assert_eq!(Exit::Signal(9).to_string(), "SIGKILL");
        assert_eq!(Exit::Code(3).to_string(), "exit code 3");
        assert_eq!(Exit::Signal(15).shell_code(), 143);
        assert!(Exit::Code(0).success() && !Exit::Signal(0).success());
    }
}
