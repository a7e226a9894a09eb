//! A packet socket: every frame of one link, with the kernel's time stamps and count of losses.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "sizes of kernel structures, and figures whose range packet(7) fixes"
)]

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use super::{clock::realtime_ns, pcapng::Direction};

/// Asked of the kernel for frames that arrive while the file is written.
const RECEIVE_BUFFER_BYTES: libc::c_int = 16 << 20;

/// A socket that receives all frames of `interface`, both ways, from now on.
pub(super) fn open(interface: &str) -> io::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    // Protocol 0: nothing is received before the socket is bound to its link.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES as usize))?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    socket.set_nonblocking(true)?;
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the pointer and length name the local variable above, which outlives the call.
    let bound = unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

fn set_option(fd: i32, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and length name `value`, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            std::mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What came with a frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) length: usize,
    pub(super) original_length: u32,
    pub(super) time_ns: u64,
    pub(super) direction: Direction,
}

/// The next frame that is there, `None` when there is none.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> anyhow::Result<Option<Frame>> {
    // SAFETY: all-zero bytes are valid for both.
    let (mut address, mut message): (libc::sockaddr_ll, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // Aligned as control messages must be.
    let mut control = [0u64; 16];
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(&control);
    // SAFETY: every pointer in `message` names a local variable of at least the length given beside it.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    if received == -1 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // ENETDOWN: the link was taken down; it may come up again, and the capture goes on.
            Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(None),
            _ => Err(error).context("cannot receive frames"),
        };
    }
    let original = received as usize;
    let mut time_ns = 0;
    // SAFETY: the kernel filled `message`; the macros walk within msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                time_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Some(Frame {
        length: original.min(buffer.len()),
        original_length: original as u32,
        time_ns: if time_ns == 0 { realtime_ns() } else { time_ns },
        direction: if address.sll_pkttype == libc::PACKET_OUTGOING {
            Direction::Outbound
        } else {
            Direction::Inbound
        },
    }))
}

/// Frames that the kernel dropped because the buffer was full.
pub(super) fn dropped(socket: &OwnedFd) -> io::Result<u64> {
    // SAFETY: all-zero bytes are a valid tpacket_stats.
    let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut length = std::mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: both pointers name local variables, and `length` is the size of the first.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if got == -1 { Err(io::Error::last_os_error()) } else { Ok(u64::from(statistics.tp_drops)) }
}
