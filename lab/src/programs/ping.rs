//! Echo requests (ICMP, ICMPv6) on one raw socket, answers told apart by their sequence number.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::unix::AsyncFd, sync::oneshot};

/// Bytes after the header, as many as ping(8) sends.
const PAYLOAD: usize = 56;
/// Echo request and reply of ICMP (RFC 792).
const ICMP: (u8, u8) = (8, 0);
/// Echo request and reply of ICMPv6 (RFC 4443).
const ICMP6: (u8, u8) = (128, 129);

/// Sends echo requests to one address and knows which of them were answered.
#[derive(Debug)]
pub(super) struct Pinger {
    socket: AsyncFd<Socket>,
    target: SocketAddr,
    identifier: u16,
    /// Requests that are not answered yet: as many as are sent within the time after which one is given up.
    waiting: Mutex<HashMap<u16, oneshot::Sender<()>>>,
}

impl Pinger {
    /// Opens the socket, and reads answers on a task of its own.
    pub(super) fn start(target: IpAddr, source: Option<IpAddr>) -> anyhow::Result<Arc<Self>> {
        let target = SocketAddr::new(target, 0);
        let protocol = if target.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(protocol))
            .context("opening a socket for ICMP; pings need CAP_NET_RAW")?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source {
            socket
                .bind(&SocketAddr::new(source, 0).into())
                .with_context(|| format!("binding to {source}"))?;
        }
        // SAFETY: the socket is owned, stays open as long as the registration, and its descriptor does not change.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let pinger = Arc::new(Self {
            socket,
            target,
            identifier: (std::process::id() & 0xffff) as u16,
            waiting: Mutex::default(),
        });
        let reader = Arc::downgrade(&pinger);
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Some(pinger) = reader.upgrade() {
                let Ok(mut ready) = pinger.socket.readable().await else { return };
                let got = ready.try_io(|socket| socket.get_ref().read(&mut buffer));
                if let Ok(Ok(length)) = got {
                    pinger.answered(&buffer[..length]);
                }
            }
        });
        Ok(pinger)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u16, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, bytes: &[u8]) {
        let (kinds, message) =
            if self.target.is_ipv4() { (ICMP, after_header(bytes)) } else { (ICMP6, bytes) };
        if let Some((identifier, sequence)) = echo(message, kinds.1)
            && identifier == self.identifier
            && let Some(waiting) = self.waiting().remove(&sequence)
        {
            // Nobody waits any more when it was given up.
            let _ = waiting.send(());
        }
    }

    /// Sends a request and waits for its answer, for as long as the caller does.
    pub(super) async fn exchange(&self, number: u64) -> anyhow::Result<()> {
        let sequence = (number & 0xffff) as u16;
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(sequence, sender);
        let _forget = Forget { pinger: self, sequence };
        let kinds = if self.target.is_ipv4() { ICMP } else { ICMP6 };
        let message = request(kinds.0, self.identifier, sequence);
        loop {
            let mut ready = self.socket.writable().await.context("send")?;
            match ready.try_io(|socket| socket.get_ref().send_to(&message, &self.target.into())) {
                Ok(sent) => break sent.map(drop).or_else(unreachable).context("send")?,
                Err(_would_block) => {}
            }
        }
        answer.await.context("the socket is closed")
    }
}

/// While a neighbour is being looked for the kernel tells of an earlier packet's failure: this one was sent all the same, or is lost like
/// it, and its time-out tells.
fn unreachable(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EHOSTUNREACH | libc::ENOBUFS) => Ok(()),
        _ => Err(error),
    }
}

/// Takes a request that is given up out of what is waited for.
struct Forget<'a> {
    pinger: &'a Pinger,
    sequence: u16,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.pinger.waiting().remove(&self.sequence);
    }
}

/// What follows the IPv4 header, which raw sockets deliver.
fn after_header(packet: &[u8]) -> &[u8] {
    let length = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    packet.get(length..).unwrap_or_default()
}

/// Identifier and sequence number of an echo message of this kind.
fn echo(message: &[u8], kind: u8) -> Option<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    if *message.first()? != kind || *message.get(1)? != 0 {
        return None;
    }
    Some((word(4)?, word(6)?))
}

/// An echo request with its checksum; that of ICMPv6 is the kernel's affair and is overwritten there.
fn request(kind: u8, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend((0..=u8::MAX).cycle().take(PAYLOAD));
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !((sum & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_adds_up_and_its_answer_is_known() {
        let mut message = request(ICMP.0, 0x1234, 7);
        assert_eq!(message.len(), 64);
        assert_eq!(checksum(&message), 0, "with its own checksum in it, it adds up to nothing");
        assert_eq!(echo(&message, ICMP.1), None, "a request is no answer");
        message[0] = ICMP.1;
        assert_eq!(echo(&message, ICMP.1), Some((0x1234, 7)));
        let packet = [&[0x46; 24][..], &message].concat();
        assert_eq!(echo(after_header(&packet), ICMP.1), Some((0x1234, 7)), "a header with an option");
        for end in 0..8 {
            assert_eq!(echo(&message[..end], ICMP.1), None);
        }
    }
}
