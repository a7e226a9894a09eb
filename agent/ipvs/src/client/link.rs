//! The socket.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use nix::{
    libc::MSG_DONTWAIT,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::Options;
use crate::Error;

/// Datagrams to and from the kernel.
pub(super) trait Link {
    /// Throws away whatever was under way.
    fn reopen(&mut self) -> Result<(), Error>;
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Replaces the buffer's contents by the next datagram. Waits as long as the options say, or not at all.
    fn receive(&mut self, buffer: &mut Vec<u8>, wait: bool) -> io::Result<()>;
    /// The receive buffer that the kernel gave, in bytes of its own accounting.
    fn receive_buffer(&self) -> usize;
}

#[derive(Debug)]
pub(super) struct NetlinkLink {
    socket: Socket,
    options: Options,
    receive_buffer: usize,
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Socket { action, source }
}

impl NetlinkLink {
    pub(super) fn open(options: &Options) -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(failed("open it"))?;
        socket.bind_auto().map_err(failed("bind it"))?;
        // Connected, only the kernel's messages come in.
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect it to the kernel"))?;
        // An error then carries the header of the message that failed, not all of it.
        socket.set_cap_ack(true).map_err(failed("set NETLINK_CAP_ACK"))?;
        if setsockopt(&socket, sockopt::RcvBufForce, &options.receive_buffer).is_err() {
            // Without CAP_NET_ADMIN: as much as net.core.rmem_max allows. Batches are then as much smaller.
            setsockopt(&socket, sockopt::RcvBuf, &options.receive_buffer)
                .map_err(|errno| failed("set its receive buffer")(errno.into()))?;
        }
        let timeout = options.timeout.max(Duration::from_millis(1));
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::new(seconds, i64::from(timeout.subsec_micros())),
        )
        .map_err(|errno| failed("set its timeout")(errno.into()))?;
        let receive_buffer = socket.get_rx_buf_sz().map_err(failed("read its receive buffer's size"))?;
        Ok(Self { socket, options: *options, receive_buffer })
    }
}

impl Link for NetlinkLink {
    fn reopen(&mut self) -> Result<(), Error> {
        *self = Self::open(&self.options)?;
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>, wait: bool) -> io::Result<()> {
        buffer.clear();
        // The kernel fills dumps up to the size of the buffers it has seen, at most 32 KiB.
        buffer.reserve(RECEIVE);
        let flags = if wait { 0 } else { MSG_DONTWAIT };
        let length = self.socket.recv(buffer, flags | nix::libc::MSG_TRUNC)?;
        if length > buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram larger than 64 KiB"));
        }
        Ok(())
    }

    fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }
}

/// Room for one datagram.
const RECEIVE: usize = 64 << 10;
