//! Blocking netlink, bounded in time: requests, dumps, batches and notifications.
//!
//! The planes work on threads of their own with a handful of messages at a time; what they need of netlink is less than an
//! asynchronous stack brings.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};

/// NLM_F_REQUEST.
pub(crate) const REQUEST: u16 = 0x1;
/// NLM_F_ACK.
pub(crate) const ACK: u16 = 0x4;
/// NLM_F_DUMP (ROOT | MATCH).
pub(crate) const DUMP: u16 = 0x300;
/// NLM_F_REPLACE.
pub(crate) const REPLACE: u16 = 0x100;
/// NLM_F_EXCL.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// NLM_F_CREATE.
pub(crate) const CREATE: u16 = 0x400;
/// NLM_F_APPEND.
pub(crate) const APPEND: u16 = 0x800;

const DUMP_INTERRUPTED: u16 = 0x10;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const TYPE_OVERRUN: u16 = 4;
const HEADER: usize = 16;

/// The kernel answers at once; what takes longer than this is broken.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a dump that was interrupted by changes is tried again.
const ATTEMPTS: u32 = 8;
/// Receive buffer for notifications: some ten thousand of them.
const NOTIFICATION_BUFFER: usize = 4 << 20;
/// Changes whose acknowledgements are awaited at once; the default receive buffer holds about 277.
const PIPELINED: usize = 128;
/// Datagrams that are thrown away at a time.
const DISCARDED: usize = 32_768;

/// A message from the kernel without its netlink header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// nlmsg_type.
    pub(crate) kind: u16,
    /// nlmsg_pid: the port of who caused a notification, 0 when the kernel did.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) payload: Vec<u8>,
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// Splits a datagram into messages.
fn split(mut datagram: &[u8]) -> Vec<(Header, &[u8])> {
    let mut messages = Vec::new();
    while datagram.len() >= HEADER {
        let word = |at: usize| {
            u32::from_ne_bytes([datagram[at], datagram[at + 1], datagram[at + 2], datagram[at + 3]])
        };
        let half = |at: usize| u16::from_ne_bytes([datagram[at], datagram[at + 1]]);
        let length = word(0) as usize;
        if length < HEADER || length > datagram.len() {
            break;
        }
        let header = Header { kind: half(4), flags: half(6), sequence: word(8), port: word(12) };
        messages.push((header, &datagram[HEADER..length]));
        let aligned = (length + 3) & !3;
        datagram = &datagram[aligned.min(datagram.len())..];
    }
    messages
}

/// Appends a message with its header to a buffer.
pub(crate) fn append(buffer: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let length = HEADER + payload.len();
    buffer.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&0u32.to_ne_bytes());
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// The errno of an NLMSG_ERROR; 0 is an acknowledgement.
fn errno_of(payload: &[u8]) -> i32 {
    payload
        .get(..4)
        .map_or(libc::EPROTO, |bytes| -i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// A socket for requests.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    port: u32,
}

impl Connection {
    /// Opens a socket of a netlink protocol in the network namespace of the calling thread.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.set_non_blocking(true)?;
        // The error message without a copy of the request, which may be megabytes.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 1, port })
    }

    /// The port by which notifications of one's own changes are told from those of others.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// From now on the kernel leaves out of a dump what the request's header rules out, where it can (Linux 4.20).
    pub(crate) fn filter_dumps(&self) {
        // Before that, whoever asks has to leave it out anyway.
        let _ = self.socket.set_netlink_get_strict_chk(true);
    }

    /// Room for so many bytes that the kernel sends without being asked. What does not fit is lost without a word.
    pub(crate) fn make_room(&self, bytes: usize) -> io::Result<()> {
        setsockopt(&Borrowed(&self.socket), sockopt::RcvBufForce, &bytes)?;
        self.socket.set_no_enobufs(true)
    }

    /// Throws away what came without being asked for, and says how many messages that were.
    pub(crate) fn discard(&mut self) -> io::Result<usize> {
        let mut messages = 0;
        // Bounded by the room that there is: what comes meanwhile is for the next time.
        for _ in 0..DISCARDED {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => messages += split(&datagram).len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(messages)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&self, buffer: &[u8]) -> io::Result<()> {
        if buffer.len() > 100_000 {
            // A datagram must fit into the send buffer as a whole. Without the right to force it the limit of the machine
            // applies, and the send fails with EMSGSIZE below.
            let _ = setsockopt(&Borrowed(&self.socket), sockopt::SndBufForce, &(buffer.len() * 2));
        }
        let sent = self.socket.send_to(buffer, &SocketAddr::new(0, 0), 0)?;
        if sent == buffer.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }

    /// One datagram, or an error when none comes in time.
    fn receive(&self, deadline: Instant) -> io::Result<Vec<u8>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, sender)) if sender.port_number() == 0 => return Ok(datagram),
                // Only the kernel is heard.
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            wait(&[Borrowed(&self.socket).as_fd()], left)?;
        }
    }

    /// Sends a request and waits for its acknowledgement.
    pub(crate) fn change(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        let sequence = self.next_sequence();
        let mut buffer = Vec::with_capacity(HEADER + payload.len());
        append(&mut buffer, kind, REQUEST | ACK | flags, sequence, payload);
        self.send(&buffer)?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            for (header, payload) in split(&self.receive(deadline)?) {
                if header.sequence == sequence && header.kind == TYPE_ERROR {
                    return match errno_of(payload) {
                        0 => Ok(()),
                        errno => Err(io::Error::from_raw_os_error(errno)),
                    };
                }
            }
        }
    }

    /// Carries out many changes, each for itself: they are sent [`PIPELINED`] at a time and their acknowledgements are read
    /// then, which costs a fraction of doing one after the other. The answers are in the order of the changes; those to which
    /// the kernel gave none in time have [`io::ErrorKind::TimedOut`].
    pub(crate) fn pipeline(&mut self, changes: &[(u16, u16, Vec<u8>)]) -> io::Result<Vec<io::Result<()>>> {
        let mut results = Vec::with_capacity(changes.len());
        for chunk in changes.chunks(PIPELINED) {
            let mut buffer = Vec::new();
            let first = self.sequence.wrapping_add(1);
            for (kind, flags, payload) in chunk {
                self.sequence = self.sequence.wrapping_add(1);
                append(&mut buffer, *kind, REQUEST | ACK | flags, self.sequence, payload);
            }
            self.send(&buffer)?;
            let mut answers: Vec<Option<io::Result<()>>> = chunk.iter().map(|_| None).collect();
            let mut open = chunk.len();
            let deadline = Instant::now() + TIMEOUT;
            while open > 0 {
                let datagram = match self.receive(deadline) {
                    Ok(datagram) => datagram,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                    Err(error) => return Err(error),
                };
                for (header, payload) in split(&datagram) {
                    let at = header.sequence.wrapping_sub(first) as usize;
                    if header.kind == TYPE_ERROR
                        && let Some(answer @ None) = answers.get_mut(at)
                    {
                        *answer = Some(match errno_of(payload) {
                            0 => Ok(()),
                            errno => Err(io::Error::from_raw_os_error(errno)),
                        });
                        open -= 1;
                    }
                }
            }
            let missing = || Err(io::Error::from(io::ErrorKind::TimedOut));
            results.extend(answers.into_iter().map(|answer| answer.unwrap_or_else(missing)));
        }
        Ok(results)
    }

    /// Sends a request that has one answer.
    pub(crate) fn ask(&mut self, kind: u16, payload: &[u8]) -> io::Result<Message> {
        let sequence = self.next_sequence();
        let mut buffer = Vec::with_capacity(HEADER + payload.len());
        append(&mut buffer, kind, REQUEST, sequence, payload);
        self.send(&buffer)?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            for (header, payload) in split(&self.receive(deadline)?) {
                if header.sequence != sequence {
                    continue;
                }
                if header.kind == TYPE_ERROR {
                    return Err(io::Error::from_raw_os_error(errno_of(payload)));
                }
                return Ok(Message { kind: header.kind, port: header.port, payload: payload.to_vec() });
            }
        }
    }

    /// Reads a whole table; again from the start when it changed meanwhile.
    pub(crate) fn dump(&mut self, kind: u16, payload: &[u8]) -> io::Result<Vec<Message>> {
        for _ in 0..ATTEMPTS {
            if let Some(messages) = self.dump_once(kind, payload)? {
                return Ok(messages);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the table kept changing while it was read"))
    }

    /// Reads a whole table once, entry by entry, without keeping it. What changed meanwhile may be in it or not.
    pub(crate) fn each(&mut self, kind: u16, payload: &[u8], mut entry: impl FnMut(&[u8])) -> io::Result<()> {
        let sequence = self.next_sequence();
        let mut buffer = Vec::with_capacity(HEADER + payload.len());
        append(&mut buffer, kind, REQUEST | DUMP, sequence, payload);
        self.send(&buffer)?;
        loop {
            // Large tables take their time; each datagram of them comes at once.
            let datagram = self.receive(Instant::now() + TIMEOUT)?;
            for (header, payload) in split(&datagram) {
                match header.kind {
                    _ if header.sequence != sequence => {}
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => return Err(io::Error::from_raw_os_error(errno_of(payload))),
                    TYPE_OVERRUN => {}
                    _ => entry(payload),
                }
            }
        }
    }

    fn dump_once(&mut self, kind: u16, payload: &[u8]) -> io::Result<Option<Vec<Message>>> {
        let sequence = self.next_sequence();
        let mut buffer = Vec::with_capacity(HEADER + payload.len());
        append(&mut buffer, kind, REQUEST | DUMP, sequence, payload);
        self.send(&buffer)?;
        let mut messages = Vec::new();
        let mut interrupted = false;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            for (header, payload) in split(&self.receive(deadline)?) {
                if header.sequence != sequence {
                    continue;
                }
                interrupted |= header.flags & DUMP_INTERRUPTED != 0;
                match header.kind {
                    TYPE_DONE => {
                        let errno = errno_of(payload);
                        if errno != 0 && errno != libc::EPROTO {
                            return Err(io::Error::from_raw_os_error(errno));
                        }
                        return Ok((!interrupted).then_some(messages));
                    }
                    TYPE_ERROR => match errno_of(payload) {
                        libc::EINTR | libc::EAGAIN => return Ok(None),
                        errno => return Err(io::Error::from_raw_os_error(errno)),
                    },
                    TYPE_OVERRUN => interrupted = true,
                    kind => messages.push(Message { kind, port: header.port, payload: payload.to_vec() }),
                }
            }
        }
    }

    /// Sends messages in one datagram (an nfnetlink batch is carried out as a whole or not at all). `write` gets the sequence
    /// number to use for all and returns the bytes; the last message that counts must ask for an acknowledgement with that
    /// number plus 1.
    pub(crate) fn transact(&mut self, write: impl FnOnce(u32) -> Vec<u8>) -> io::Result<()> {
        let sequence = self.next_sequence();
        let acknowledged = self.next_sequence();
        self.send(&write(sequence))?;
        let deadline = Instant::now() + TIMEOUT;
        let mut failed = None;
        loop {
            for (header, payload) in split(&self.receive(deadline)?) {
                if header.kind != TYPE_ERROR
                    || (header.sequence != sequence && header.sequence != acknowledged)
                {
                    continue;
                }
                let errno = errno_of(payload);
                if errno != 0 && failed.is_none() {
                    failed = Some(io::Error::from_raw_os_error(errno));
                }
                // An error of the batch as a whole carries the number of its first message, and nothing follows it; errors of
                // single messages are followed by the answer to the last.
                if header.sequence == acknowledged || self.nothing_follows()? {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn nothing_follows(&self) -> io::Result<bool> {
        Ok(wait(&[Borrowed(&self.socket).as_fd()], Duration::ZERO)?.is_empty())
    }
}

/// A socket that hears notifications of multicast groups.
pub(crate) struct Listener {
    socket: Socket,
}

impl Listener {
    /// Joins groups (RTNLGRP_*, NFNLGRP_*).
    pub(crate) fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        let _ = setsockopt(&Borrowed(&socket), sockopt::RcvBufForce, &NOTIFICATION_BUFFER);
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket })
    }

    /// What becomes readable with a notification.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        descriptor(&self.socket)
    }

    /// Hands out what has come; true when notifications were lost and anything may have changed.
    pub(crate) fn drain(&self, mut each: impl FnMut(&Message)) -> io::Result<bool> {
        let mut lost = false;
        // Bounded: with a flood of notifications the pass that they ask for must get its turn, too.
        for _ in 0..4096 {
            match self.socket.recv_from_full() {
                Ok((datagram, sender)) if sender.port_number() == 0 => {
                    for (header, payload) in split(&datagram) {
                        each(&Message { kind: header.kind, port: header.port, payload: payload.to_vec() });
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lost),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Gives `AsFd` to a socket that has only `AsRawFd`.
struct Borrowed<'a>(&'a Socket);

impl AsFd for Borrowed<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(self.0)
    }
}

fn descriptor(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor belongs to the socket, which lives as long as the borrow.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// Waits until one of the descriptors is readable or the time is up; returns the indices of the readable ones. May return
/// early with none (a signal).
pub(crate) fn wait(descriptors: &[BorrowedFd<'_>], time: Duration) -> io::Result<Vec<usize>> {
    let mut polled: Vec<_> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Rounded up: rounding down would spin through the last millisecond.
    let milliseconds = time.as_nanos().div_ceil(1_000_000).min(60_000);
    let timeout =
        PollTimeout::try_from(u16::try_from(milliseconds).unwrap_or(60_000)).unwrap_or(PollTimeout::ZERO);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(polled
        .iter()
        .enumerate()
        .filter(|(_, fd)| fd.revents().is_some_and(|events| !events.is_empty()))
        .map(|(index, _)| index)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_what_it_appends_and_stops_at_nonsense() {
        let mut buffer = Vec::new();
        append(&mut buffer, 20, REQUEST, 7, &[1, 2, 3]);
        append(&mut buffer, 21, ACK, 8, &[]);
        buffer.extend_from_slice(&[255; 20]);
        let messages = split(&buffer);
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].0.kind, messages[0].0.sequence, messages[0].1), (20, 7, &[1, 2, 3][..]));
        assert_eq!((messages[1].0.kind, messages[1].0.flags, messages[1].1), (21, ACK, &[][..]));
    }

    #[test]
    fn an_error_without_a_number_is_an_error() {
        assert_eq!(errno_of(&(-libc::EEXIST).to_ne_bytes()), libc::EEXIST);
        assert_eq!(errno_of(&[0, 0]), libc::EPROTO);
    }

    #[test]
    fn waiting_is_bounded() {
        let started = Instant::now();
        let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(wait(&[reader.as_fd()], Duration::from_millis(20)).unwrap().is_empty());
        assert!(started.elapsed() >= Duration::from_millis(20));
    }
}
