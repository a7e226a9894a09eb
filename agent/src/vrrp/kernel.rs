//! rtnetlink for the groups' addresses: what changes is heard, what a group holds is added, renewed and removed.

use std::{io, net::IpAddr, os::fd::BorrowedFd, time::Duration};

use super::config::Placement;
use super::network::{Event, MARK, Network};
use crate::plane::{
    netlink::{CREATE, Connection, Listener, REPLACE},
    rtnl::{
        self, DELETE_ADDRESS, DELETE_LINK, FOREVER, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS, GROUP_LINK,
        HeldAddress, NEW_ADDRESS, NEW_LINK, NODAD, NewAddress,
    },
};

/// Links and addresses of the network namespace of the thread that opened it.
pub(crate) struct Kernel {
    connection: Connection,
    listener: Listener,
}

/// A change of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Adds it, or gives it its lifetime, flags and mark anew.
    Hold {
        /// Index of the interface.
        index: u32,
        /// The address.
        place: Placement,
        /// Its lifetime in the kernel; none is forever.
        lifetime: Option<Duration>,
    },
    /// Removes it.
    Drop {
        /// Index of the interface.
        index: u32,
        /// The address.
        address: IpAddr,
        /// Its prefix.
        prefix: u8,
    },
}

impl Op {
    /// What the kernel will say of it.
    pub(crate) fn event(&self) -> Event {
        let held = |index, address: IpAddr, prefix, valid| HeldAddress {
            index,
            address,
            prefix,
            flags: 0,
            mark: MARK,
            preferred: valid,
            valid,
        };
        match self {
            Op::Hold { index, place, lifetime } => {
                Event::Address(held(*index, place.address, place.prefix, seconds(*lifetime)))
            }
            Op::Drop { index, address, prefix } => Event::AddressGone(held(*index, *address, *prefix, 0)),
        }
    }
}

/// A lifetime as the kernel counts it.
fn seconds(lifetime: Option<Duration>) -> u32 {
    lifetime
        .map_or(FOREVER, |lifetime| u32::try_from(lifetime.as_secs()).unwrap_or(FOREVER).clamp(1, FOREVER))
}

impl Kernel {
    /// Opens both sockets. The listener first: what happens between a dump and listening would go unnoticed.
    pub(crate) fn open() -> io::Result<Self> {
        let listener = Listener::open(rtnl::PROTOCOL, &[GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS])?;
        Ok(Self { connection: Connection::open(rtnl::PROTOCOL)?, listener })
    }

    /// What becomes readable with a notification.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.descriptor()
    }

    /// Everything.
    pub(crate) fn observe(&mut self) -> io::Result<Network> {
        let mut network = Network::default();
        for link in rtnl::link_states(&mut self.connection)? {
            network.update(Event::Link(link));
        }
        for address in rtnl::addresses(&mut self.connection)? {
            network.update(Event::Address(address));
        }
        Ok(network)
    }

    /// The notifications since the last time; true when some were lost and everything must be read anew.
    pub(crate) fn events(&mut self) -> io::Result<(Vec<Event>, bool)> {
        let mut events = Vec::new();
        let lost = self.listener.drain(|message| {
            let event = match message.kind {
                NEW_LINK => rtnl::read_link_state(message).map(Event::Link),
                DELETE_LINK => rtnl::read_link(message).map(|(index, _)| Event::LinkGone(index)),
                NEW_ADDRESS => rtnl::read_address(message).map(Event::Address),
                DELETE_ADDRESS => rtnl::read_address(message).map(Event::AddressGone),
                _ => None,
            };
            events.extend(event);
        })?;
        Ok((events, lost))
    }

    /// Carries out changes, each for itself. What is already as wanted is no error.
    pub(crate) fn apply(&mut self, ops: &[Op]) -> io::Result<Vec<(Op, io::Error)>> {
        let changes: Vec<_> = ops.iter().map(change).collect();
        let results = self.connection.pipeline(&changes)?;
        let failed = ops.iter().zip(results).filter_map(|(op, result)| {
            let error = result.err()?;
            let gone = matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV));
            let expected = matches!(op, Op::Drop { .. }) && gone;
            (!expected).then(|| (op.clone(), error))
        });
        Ok(failed.collect())
    }
}

fn change(op: &Op) -> (u16, u16, Vec<u8>) {
    match op {
        Op::Hold { index, place, lifetime } => {
            let valid = seconds(*lifetime);
            let ipv4 = place.address.is_ipv4();
            let new = NewAddress {
                index: *index,
                address: place.address,
                prefix: place.prefix,
                // Duplicate address detection would cost every takeover more than a second.
                flags: if ipv4 { 0 } else { NODAD },
                mark: MARK,
                // A deprecated IPv6 address is nobody's choice as a source, which the virtual address must not be.
                preferred: if ipv4 { valid } else { 0 },
                valid,
            };
            (NEW_ADDRESS, CREATE | REPLACE, rtnl::new_address_message(&new, place.label.as_deref()))
        }
        Op::Drop { index, address, prefix } => {
            (DELETE_ADDRESS, 0, rtnl::gone_address_message(*index, *address, *prefix))
        }
    }
}
