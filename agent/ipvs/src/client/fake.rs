//! A kernel of our own, to be as nasty as the real one seldom is.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use super::{Options, connection::Connection, link::Link};
use crate::{
    Command, Destination, DestinationId, Errno, Error, Service, ServiceId,
    codec::{CONTROLLER, NLM_F_ACK, NLM_F_DUMP, decode_command, encode_command},
};

/// What the socket gives next.
pub(super) enum Incoming {
    Datagram(Vec<u8>),
    Fails(Errno),
}

/// Holds services and destinations, and answers as Linux does.
#[derive(Default)]
pub(super) struct FakeKernel {
    pub(super) family: u16,
    pub(super) services: BTreeMap<ServiceId, (Service, BTreeMap<DestinationId, Destination>)>,
    /// Answers that the receive buffer holds; those after are lost.
    pub(super) capacity: Option<usize>,
    /// Bytes that it takes at once.
    pub(super) largest: Option<usize>,
    /// What it does instead of answering, one for each `send`.
    pub(super) instead: VecDeque<Vec<Incoming>>,
    /// Dumps still to be marked as interrupted.
    pub(super) interruptions: u32,
    /// Answers with this errno to everything.
    pub(super) refuses: Option<Errno>,
    pub(super) queue: VecDeque<Incoming>,
    pub(super) reopened: u32,
    pub(super) sends: Vec<usize>,
}

/// A netlink message.
pub(super) fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn answer(sequence: u32, errno: i32) -> Vec<u8> {
    message(2, 0, sequence, &(-errno).to_ne_bytes())
}

pub(super) fn done(sequence: u32) -> Vec<u8> {
    message(3, 2, sequence, &0_i32.to_ne_bytes())
}

/// The message that tells of what a command would make: the command itself, and `more` in its nest (its last attribute).
pub(super) fn told(
    family: u16,
    flags: u16,
    sequence: u32,
    command: &Command,
    more: &[(u16, &[u8])],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_command(&mut bytes, family, sequence, 0, command).unwrap();
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    let mut nest = 20;
    loop {
        let length = usize::from(u16::from_ne_bytes([bytes[nest], bytes[nest + 1]]));
        if nest + length == bytes.len() {
            break;
        }
        nest += length;
    }
    for (kind, value) in more {
        bytes.extend_from_slice(&u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
    }
    let length = u16::try_from(bytes.len() - nest).unwrap();
    bytes[nest..nest + 2].copy_from_slice(&length.to_ne_bytes());
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

pub(super) fn told_service(family: u16, flags: u16, sequence: u32, service: &Service) -> Vec<u8> {
    told(family, flags, sequence, &Command::NewService(service.clone()), &[(12, &[])])
}

fn told_destination(
    family: u16,
    flags: u16,
    sequence: u32,
    of: ServiceId,
    destination: Destination,
) -> Vec<u8> {
    let zero = &[0; 4][..];
    let more = [(7, zero), (8, zero), (9, zero), (12, &[][..])];
    told(family, flags, sequence, &Command::NewDestination(of, destination), &more)
}

impl FakeKernel {
    fn message(&mut self, header: &[u8], payload: &[u8]) -> Vec<Vec<u8>> {
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        if kind == CONTROLLER {
            let mut family = vec![1, 2, 0, 0, 6, 0, 1, 0];
            family.extend_from_slice(&self.family.to_ne_bytes());
            return if self.family == 0 {
                vec![answer(sequence, Errno::ENOENT as i32)]
            } else {
                vec![message(CONTROLLER, 0, sequence, &family)]
            };
        }
        if let Some(errno) = self.refuses {
            return vec![answer(sequence, errno as i32)];
        }
        if kind != self.family {
            return vec![answer(sequence, Errno::ENOENT as i32)];
        }
        match payload[0] {
            4 | 8 => self.query(flags, sequence, payload),
            _ => match self.command(decode_command(payload).unwrap()) {
                Err(errno) => vec![answer(sequence, errno as i32)],
                Ok(()) if flags & NLM_F_ACK != 0 => vec![answer(sequence, 0)],
                Ok(()) => vec![],
            },
        }
    }

    fn query(&mut self, flags: u16, sequence: u32, payload: &[u8]) -> Vec<Vec<u8>> {
        let mut as_delete = payload.to_vec();
        as_delete[0] = 3;
        let id = match decode_command(&as_delete) {
            Ok(Command::DelService(id)) => Some(id),
            _ => None,
        };
        if flags & NLM_F_DUMP == 0 {
            return vec![match self.services.get(&id.unwrap()) {
                Some((service, _)) => told_service(self.family, 0, sequence, service),
                None => answer(sequence, Errno::ESRCH as i32),
            }];
        }
        let mark = if self.interruptions > 0 { 0x12 } else { 2 };
        self.interruptions = self.interruptions.saturating_sub(1);
        let mut all: Vec<_> = match id {
            None => self
                .services
                .values()
                .map(|(service, _)| told_service(self.family, mark, sequence, service))
                .collect(),
            Some(id) => self
                .services
                .get(&id)
                .into_iter()
                .flat_map(|(_, destinations)| destinations.values())
                .map(|destination| told_destination(self.family, mark, sequence, id, *destination))
                .collect(),
        };
        all.push(done(sequence));
        all
    }

    fn command(&mut self, command: Command) -> Result<(), Errno> {
        match command {
            Command::NewService(service) => {
                if self.services.contains_key(&service.id) {
                    return Err(Errno::EEXIST);
                }
                if service.scheduler == "missing" {
                    return Err(Errno::ENOENT);
                }
                self.services.insert(service.id, (service, BTreeMap::new()));
            }
            Command::SetService(service) => {
                let id = service.id;
                self.services.get_mut(&id).ok_or(Errno::ESRCH)?.0 = service;
            }
            Command::DelService(id) => {
                self.services.remove(&id).ok_or(Errno::ESRCH)?;
            }
            Command::NewDestination(id, destination) => {
                let (_, destinations) = self.services.get_mut(&id).ok_or(Errno::ESRCH)?;
                if destinations.insert(destination.id, destination).is_some() {
                    return Err(Errno::EEXIST);
                }
            }
            Command::SetDestination(id, destination) => {
                let (_, destinations) = self.services.get_mut(&id).ok_or(Errno::ESRCH)?;
                *destinations.get_mut(&destination.id).ok_or(Errno::ENOENT)? = destination;
            }
            Command::DelDestination(id, destination) => {
                let (_, destinations) = self.services.get_mut(&id).ok_or(Errno::ESRCH)?;
                destinations.remove(&destination).ok_or(Errno::ENOENT)?;
            }
            Command::Flush => self.services.clear(),
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }
}

impl Link for FakeKernel {
    fn reopen(&mut self) -> Result<(), Error> {
        self.reopened += 1;
        self.queue.clear();
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.largest.is_some_and(|largest| bytes.len() > largest) {
            return Err(Errno::EMSGSIZE.into());
        }
        self.sends.push(bytes.len());
        if let Some(instead) = self.instead.pop_front() {
            self.queue.extend(instead);
            return Ok(());
        }
        let mut answers = Vec::new();
        let mut rest = bytes;
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            answers.extend(self.message(&rest[..16], &rest[16..length]));
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "messages are whole");
        // The error of a socket comes before what is queued.
        // A dump cannot overflow the buffer: the kernel fills in as much as there is room for.
        let is_dump = answers.len() > 1 && answers[0][4..6] != 2_u16.to_ne_bytes();
        if self.capacity.is_some_and(|capacity| answers.len() > capacity && !is_dump) {
            self.queue.push_back(Incoming::Fails(Errno::ENOBUFS));
            answers.truncate(self.capacity.unwrap());
        }
        self.queue.extend(answers.into_iter().map(Incoming::Datagram));
        Ok(())
    }

    fn receive(&mut self, buffer: &mut Vec<u8>, _wait: bool) -> io::Result<()> {
        match self.queue.pop_front() {
            Some(Incoming::Datagram(bytes)) => {
                *buffer = bytes;
                Ok(())
            }
            Some(Incoming::Fails(errno)) => Err(errno.into()),
            None => Err(Errno::EAGAIN.into()),
        }
    }

    fn receive_buffer(&self) -> usize {
        1 << 20
    }
}

/// A connection to a kernel with an empty IPVS.
pub(super) fn connected(options: Options) -> Connection<FakeKernel> {
    let mut connection = Connection::new(FakeKernel { family: 0x21, ..FakeKernel::default() }, options);
    connection.resolve().unwrap();
    connection
}
