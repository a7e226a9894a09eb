//! The least that programming the kernel can cost: messages made beforehand, sent in batches, nothing looked at but the answer that
//! ends a batch. What a program adds to this is its own.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bascule_ipvs::codec::{NLM_F_ACK, NLM_F_REQUEST, Payload, encode_command, messages};
use bascule_ipvs::{Client, Command};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// Messages in a batch.
const BATCH: usize = 1000;
/// Where the flags are in a netlink message (struct nlmsghdr).
const FLAGS: std::ops::Range<usize> = 6..8;
/// Seconds that the kernel may take for one batch.
const PATIENCE: i64 = 60;

/// Sends the commands from this thread's network namespace. How long the kernel took.
pub(super) fn send(commands: impl Iterator<Item = Command>) -> Result<Duration> {
    let family = Client::connect()?.family_id();
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let all: Vec<Command> = commands.collect();
    let mut batches = Vec::new();
    let mut sequence = 0;
    for chunk in all.chunks(BATCH) {
        let mut batch = Vec::new();
        let mut last = 0;
        for command in chunk {
            last = batch.len();
            sequence += 1;
            encode_command(&mut batch, family, sequence, 0, command)?;
        }
        batch[last..][FLAGS].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        batches.push(batch);
    }
    let mut answer = Vec::with_capacity(4096);
    let begun = Instant::now();
    for batch in &batches {
        socket.send(batch, 0)?;
        answer.clear();
        socket.recv(&mut answer, 0)?;
        for message in messages(&answer) {
            if let Payload::Answer { errno: errno @ 1.. } = message?.payload {
                bail!("the kernel refused a message: errno {errno}");
            }
        }
    }
    Ok(begun.elapsed())
}
