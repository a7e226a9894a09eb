//! When nftables' rules changed: the kernel tells each transaction's end.

use std::time::Instant;

use anyhow::{Context as _, Result};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;
/// NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN: the last message of a transaction (linux/netfilter/nf_tables.h).
const NEW_GENERATION: u16 = (10 << 8) | 15;
/// Size of struct nlmsghdr.
const HEADER: usize = 16;
/// Size asked for the receive buffer in bytes: a table of many elements is told element by element.
const BUFFER: usize = 8 << 20;

/// The transactions of one network namespace since this was opened.
pub(super) struct Generations {
    socket: Socket,
    times: Vec<Instant>,
}

impl Generations {
    /// Listens, in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self> {
        let listen = || -> std::io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.set_rx_buf_sz(i32::try_from(BUFFER).unwrap_or(i32::MAX))?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = listen().context("listening to nftables")?;
        Ok(Self { socket, times: Vec::new() })
    }

    /// Takes in what the kernel has said.
    pub(super) fn hear(&mut self) -> Result<()> {
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    let now = Instant::now();
                    let ends = types(&buffer).filter(|kind| *kind == NEW_GENERATION).count();
                    self.times.extend(std::iter::repeat_n(now, ends));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("hearing of changes of nftables"),
            }
        }
    }

    /// When each transaction was heard of.
    pub(super) fn times(&self) -> &[Instant] {
        &self.times
    }
}

/// The types of the netlink messages in a datagram.
fn types(mut bytes: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        // At least the header, so that this ends.
        let next = length.max(HEADER).next_multiple_of(4).min(bytes.len());
        bytes = &bytes[next..];
        Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, length: u32, padded: usize) -> Vec<u8> {
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(padded, 0);
        message
    }

    #[test]
    fn messages_are_counted_by_their_lengths() {
        let mut bytes = message(2570, 18, 20);
        bytes.extend(message(NEW_GENERATION, 16, 16));
        assert_eq!(types(&bytes).collect::<Vec<_>>(), [2570, NEW_GENERATION]);
        assert_eq!(types(&[]).count(), 0);
        // A length of zero, and one beyond the end.
        assert_eq!(types(&message(7, 0, 32)).collect::<Vec<_>>(), [7, 0]);
        assert_eq!(types(&message(7, 4000, 32)).collect::<Vec<_>>(), [7]);
    }
}
