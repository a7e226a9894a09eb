//! A small blocking netlink client. A socket belongs for life to the network namespace in which it was made, so one thread can
//! hold sockets into many nodes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLA_F_NESTED, NLA_TYPE_MASK, NlasIterator};
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};

/// How long the kernel may take to answer. It answers within the call, so this only guards against being wrong about that.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much one read takes, in bytes; the kernel fills at most 32 KiB of a dump at once.
const READ: usize = 64 * 1024;

/// Calls `f` on a thread of its own inside a network namespace.
pub(crate) fn in_netns<T: Send>(namespace: BorrowedFd<'_>, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            io::Result::Ok(f())
        })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A netlink socket.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A message that the kernel sent: its type, and what follows the header.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// The payload.
    pub(crate) body: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of a netlink family in a network namespace and listens to the multicast groups.
    pub(crate) fn open(namespace: BorrowedFd<'_>, protocol: i32, groups: &[u32]) -> io::Result<Self> {
        let mut socket =
            in_netns(namespace, || Socket::new(isize::try_from(protocol).map_err(io::Error::other)?))??;
        socket.bind_auto()?;
        // Without it an error comes back with the whole request; with it, with the kernel's words.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        // SO_RCVBUFFORCE: a burst of events must not be lost. Bounded, and refused only without root.
        nix::sys::socket::setsockopt(&borrow(&socket), nix::sys::socket::sockopt::RcvBufForce, &(8 << 20))?;
        nix::sys::socket::setsockopt(
            &borrow(&socket),
            nix::sys::socket::sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX), 0),
        )?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and returns what the kernel answered, after its acknowledgement or the end of the dump.
    pub(crate) fn request(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<Message>> {
        self.sequence += 1;
        let dump = flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        let acknowledge = if dump { 0 } else { libc::NLM_F_ACK };
        let bytes = frame(kind, flags | libc::NLM_F_REQUEST | acknowledge, self.sequence, body);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        self.answers(self.sequence)
    }

    /// Sends messages between a begin and an end of a netfilter batch, as one transaction, and waits for the acknowledgement of each.
    pub(crate) fn batch(&mut self, subsystem: u16, messages: &[(u16, i32, Vec<u8>)]) -> io::Result<()> {
        /// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` of `linux/netfilter/nfnetlink.h`.
        const BEGIN: u16 = 16;
        const END: u16 = 17;
        // `struct nfgenmsg`: no family, version 0, the subsystem.
        let about = [0, 0, subsystem.to_be_bytes()[0], subsystem.to_be_bytes()[1]];
        self.sequence += 1;
        let mut bytes = frame(BEGIN, libc::NLM_F_REQUEST, self.sequence, &about);
        let first = self.sequence + 1;
        for (kind, flags, body) in messages {
            self.sequence += 1;
            let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
            bytes.extend(frame(subsystem << 8 | kind, flags, self.sequence, body));
        }
        let last = self.sequence;
        self.sequence += 1;
        bytes.extend(frame(END, libc::NLM_F_REQUEST, self.sequence, &about));
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let mut result = Ok(());
        for sequence in first..=last {
            // The first refusal is what matters: the transaction as a whole did not happen.
            if let Err(error) = self.answers(sequence)
                && result.is_ok()
            {
                result = Err(error);
            }
        }
        result
    }

    fn answers(&mut self, sequence: u32) -> io::Result<Vec<Message>> {
        let mut answers = Vec::new();
        loop {
            let bytes = self.receive()?;
            for (header, body) in messages(&bytes)? {
                if header.sequence != sequence {
                    continue;
                }
                match i32::from(header.kind) {
                    libc::NLMSG_ERROR => {
                        let code = word(body, 0)?.cast_signed();
                        return if code == 0 { Ok(answers) } else { Err(refusal(code, body)) };
                    }
                    libc::NLMSG_DONE => return Ok(answers),
                    _ => answers.push(Message { kind: header.kind, body: body.to_vec() }),
                }
            }
        }
    }

    /// Receives events, whatever they belong to. Blocks.
    pub(crate) fn events(&mut self) -> io::Result<Vec<Message>> {
        let bytes = self.receive()?;
        let found = messages(&bytes)?;
        Ok(found
            .into_iter()
            .map(|(header, body)| Message { kind: header.kind, body: body.to_vec() })
            .collect())
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(READ);
        loop {
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => return Ok(buffer),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}

fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the socket is borrowed.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// One message on the wire, padded to four bytes.
fn frame(kind: u16, flags: i32, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).expect("a request is small");
    let mut bytes = Vec::with_capacity(16 + body.len() + 3);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(u16::try_from(flags).expect("flags of requests have 16 bits").to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn messages(mut bytes: &[u8]) -> io::Result<Vec<(Header, &[u8])>> {
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let length = word(bytes, 0)? as usize;
        if length < 16 || length > bytes.len() {
            return Err(io::Error::other("the kernel sent a netlink message that is cut short"));
        }
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        found.push((Header { kind, sequence: word(bytes, 8)? }, &bytes[16..length]));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(found)
}

/// The 32-bit number at an offset, in the machine's order.
pub(crate) fn word(bytes: &[u8], offset: usize) -> io::Result<u32> {
    bytes
        .get(offset..offset + 4)
        .and_then(|four| four.try_into().ok())
        .map(u32::from_ne_bytes)
        .ok_or_else(|| io::Error::other("the kernel sent a netlink message that is too short"))
}

/// The error of an acknowledgement, with the kernel's own words where it has some (`NLMSGERR_ATTR_MSG`).
fn refusal(code: i32, body: &[u8]) -> io::Error {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let error = io::Error::from_raw_os_error(-code);
    let words = body
        .get(20..)
        .and_then(|rest| attributes(rest).into_iter().find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, value)| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
    match words {
        Some(words) => io::Error::new(error.kind(), Refused { code: -code, words }),
        None => error,
    }
}

/// A refusal with the kernel's words.
#[derive(Debug)]
struct Refused {
    code: i32,
    words: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", io::Error::from_raw_os_error(self.code), self.words)
    }
}

impl std::error::Error for Refused {}

/// The error number of a refusal, with or without words.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>()).map(|refused| refused.code)
    })
}

/// The attributes in a piece of a message: type without flags, value. What cannot be read ends the list.
pub(crate) fn attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    for attribute in NlasIterator::new(bytes) {
        let Ok(attribute) = attribute else { break };
        let (kind, length) = (attribute.kind() & NLA_TYPE_MASK, attribute.value_length());
        let buffer: &[u8] = attribute.into_inner();
        found.push((kind, buffer.get(4..4 + length).unwrap_or_default()));
    }
    found
}

/// Attributes of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    /// Begins with a fixed header.
    pub(crate) fn new(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    /// Adds an attribute.
    #[must_use]
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("an attribute is small");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number in the machine's order.
    #[must_use]
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Adds a string with its zero.
    #[must_use]
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// Adds attributes inside an attribute.
    #[must_use]
    pub(crate) fn nest(self, kind: u16, inner: Body) -> Self {
        self.with(kind | NLA_F_NESTED, &inner.0)
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Opens the namespace of a process: `net`, `mnt`, …
pub(crate) fn namespace_of(pid: i32, kind: &str) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(format!("/proc/{pid}/ns/{kind}"))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_framed_and_read_back() {
        let body = Body::new(&[1, 2, 3, 4]).text(3, "veth0").nest(18, Body::default().number(1, 7));
        let bytes = frame(16, 5, 9, body.bytes());
        assert_eq!(bytes.len() % 4, 0);
        let found = messages(&bytes).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.kind, found[0].0.sequence), (16, 9));
        let read = attributes(&found[0].1[4..]);
        assert_eq!(read[0], (3, &b"veth0\0"[..]));
        assert_eq!(attributes(read[1].1), vec![(1, &7_u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn what_is_cut_short_is_an_error_and_not_a_panic() {
        let bytes = frame(16, 5, 9, &[0; 8]);
        assert!(messages(&bytes[..20]).is_err());
        assert!(messages(&bytes[..3]).unwrap().is_empty());
        assert!(word(&[1, 2], 0).is_err());
        assert!(attributes(&[9, 0, 1, 0, 1]).is_empty());
    }

    #[test]
    fn a_refusal_keeps_its_number_and_the_kernels_words() {
        let mut body = (-libc::EEXIST).to_ne_bytes().to_vec();
        body.extend([0; 16]);
        assert_eq!(errno(&refusal(-libc::EEXIST, &body)), Some(libc::EEXIST));
        body.extend(Body::default().text(1, "Address already assigned").bytes());
        let error = refusal(-libc::EEXIST, &body);
        assert_eq!(errno(&error), Some(libc::EEXIST));
        assert!(error.to_string().contains("Address already assigned"));
    }
}
