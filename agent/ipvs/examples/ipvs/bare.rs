//! The least that programming the kernel can cost: messages made beforehand, sent in batches, nothing looked at but the answer that
//! ends a batch. What a program adds to this is its own.

use std::{
    error::Error,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bascule_ipvs::{
    Client, Command, Destination, Forwarding, Protocol, Service, ServiceId,
    codec::{NLM_F_ACK, NLM_F_REQUEST, Payload, encode_command, messages},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// Messages in a batch.
const BATCH: usize = 1000;

/// The commands for `services` services of `destinations` destinations each, a service before its destinations.
pub(crate) fn commands(services: u32, destinations: u32) -> impl Iterator<Item = Command> {
    (0..services).flat_map(move |service| {
        let id = ServiceId::Address {
            protocol: Protocol::Tcp,
            address: Ipv4Addr::from(0x0a00_0000 + service / 50_000).into(),
            port: u16::try_from(1 + service % 50_000).unwrap_or(1),
        };
        let destinations = (0..destinations).map(move |destination| {
            let address = Ipv4Addr::from(0xac10_0000 + (service * destinations + destination) % 0x000f_ffff);
            Command::NewDestination(id, Destination::new(address.into(), 80, Forwarding::Masquerade))
        });
        std::iter::once(Command::NewService(Service::new(id, "rr"))).chain(destinations)
    })
}

/// Sends the messages and returns how long that took and how many there were.
pub(crate) fn send(services: u32, destinations: u32) -> Result<(Duration, usize), Box<dyn Error>> {
    let family = Client::connect()?.family_id();
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let all: Vec<Command> = commands(services, destinations).collect();
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
        batch[last + 6..last + 8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        batches.push(batch);
    }

    let begun = Instant::now();
    let mut answer = Vec::with_capacity(4096);
    for batch in &batches {
        socket.send(batch, 0)?;
        answer.clear();
        socket.recv(&mut answer, 0)?;
        for message in messages(&answer) {
            if let Payload::Answer { errno: errno @ 1.. } = message?.payload {
                return Err(format!("the kernel refused a message: errno {errno}").into());
            }
        }
    }
    Ok((begun.elapsed(), all.len()))
}
