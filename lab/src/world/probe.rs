//! Frames of the lab's own that show whether frames pass: broadcast, of an EtherType that IEEE keeps for local experiments,
//! with a number that is used once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::netlink::in_netns;

/// "Local Experimental Ethertype 1" (IEEE 802). Programs that look at frames may leave it out.
pub const ETHERTYPE: u16 = 0x88b5;
/// The shortest Ethernet frame, without its checksum.
const LENGTH: usize = 60;
/// `AF_PACKET` as an address has it.
const PACKET: u16 = 17;
#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// A socket that sends and receives probes on one interface of one namespace.
pub(crate) struct Probe {
    socket: OwnedFd,
    index: i32,
    mac: [u8; 6],
}

impl Probe {
    /// Opens it.
    pub(crate) fn open(namespace: BorrowedFd<'_>, index: u32, mac: &[u8]) -> io::Result<Self> {
        let protocol = i32::from(ETHERTYPE.to_be());
        let fd = in_netns(namespace, || {
            // SAFETY: plain numbers; the result is checked.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
        })??;
        // SAFETY: just made.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let index = index.cast_signed();
        let address = address(index);
        // SAFETY: the address outlives the call and its size is the one given.
        let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS_LENGTH) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let mac = <[u8; 6]>::try_from(mac).map_err(io::Error::other)?;
        Ok(Self { socket, index, mac })
    }

    /// Sends a probe to everybody and returns its number.
    pub(crate) fn send(&self) -> io::Result<u64> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut frame = [0; LENGTH];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&self.mac);
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[14..18].copy_from_slice(&std::process::id().to_be_bytes());
        frame[18..26].copy_from_slice(&number.to_be_bytes());
        let address = address(self.index);
        // SAFETY: frame and address outlive the call; the sizes are theirs.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                ADDRESS_LENGTH,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
    }

    /// Whether the probe of that number arrives within a time.
    pub(crate) fn arrives(&self, number: u64, within: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + within;
        let mut frame = [0; 128];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !super::protocol::readable(&self.socket, i32::try_from(left.as_millis()).unwrap_or(i32::MAX))?
            {
                return Ok(false);
            }
            // SAFETY: the buffer outlives the call and its size is the one given.
            let length = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            if length < 0 {
                let error = io::Error::last_os_error();
                // An interface that goes down says so once.
                match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => continue,
                    _ => return Err(error),
                }
            }
            if length >= 26
                && frame[14..18] == std::process::id().to_be_bytes()
                && frame[18..26] == number.to_be_bytes()
            {
                return Ok(true);
            }
        }
    }
}

fn address(index: i32) -> libc::sockaddr_ll {
    // SAFETY: plain data; all zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = PACKET;
    address.sll_protocol = ETHERTYPE.to_be();
    address.sll_ifindex = index;
    address
}
