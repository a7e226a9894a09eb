//! Addresses by rtnetlink.

use std::{io, os::fd::BorrowedFd};

use super::{Event, Held, MARK, Observed, Op, flags, preferred};
use crate::plane::{
    netlink::{Connection, Listener},
    rtnl::{
        self, DELETE_ADDRESS, DELETE_LINK, FOREVER, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS, GROUP_LINK,
        HeldAddress, NEW_ADDRESS, NEW_LINK, NewAddress,
    },
};

/// The kernel, or a model of it.
pub(crate) trait Io {
    /// What becomes readable with a notification.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
    /// The notifications since the last time; true when some were lost.
    fn events(&mut self) -> io::Result<(Vec<Event>, bool)>;
    /// All links and addresses.
    fn observe(&mut self) -> io::Result<Observed>;
    /// Carries out one change.
    fn apply(&mut self, op: &Op) -> io::Result<()>;
}

/// rtnetlink of the network namespace of the thread that opened it.
pub(crate) struct Kernel {
    connection: Connection,
    listener: Listener,
}

impl Kernel {
    pub(crate) fn open() -> io::Result<Self> {
        // The listener first: what happens between a dump and listening would go unnoticed.
        let listener = Listener::open(rtnl::PROTOCOL, &[GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS])?;
        Ok(Self { connection: Connection::open(rtnl::PROTOCOL)?, listener })
    }
}

fn held(of: &HeldAddress) -> Held {
    Held { prefix: of.prefix, flags: of.flags, mark: of.mark, preferred: of.preferred, valid: of.valid }
}

impl Io for Kernel {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listener.descriptor())
    }

    fn events(&mut self) -> io::Result<(Vec<Event>, bool)> {
        let mut events = Vec::new();
        let lost = self.listener.drain(|message| {
            let event = match message.kind {
                NEW_LINK => rtnl::read_link(message).map(|(index, name)| Event::Link { index, name }),
                DELETE_LINK => rtnl::read_link(message).map(|(index, _)| Event::LinkGone { index }),
                NEW_ADDRESS => rtnl::read_address(message).map(|address| Event::Address {
                    address: address.address,
                    index: address.index,
                    held: held(&address),
                }),
                DELETE_ADDRESS => rtnl::read_address(message).map(|address| Event::AddressGone {
                    address: address.address,
                    index: address.index,
                    prefix: address.prefix,
                }),
                _ => None,
            };
            events.extend(event);
        })?;
        Ok((events, lost))
    }

    fn observe(&mut self) -> io::Result<Observed> {
        let links = rtnl::links(&mut self.connection)?;
        let mut observed = Observed {
            links: links.into_iter().map(|(index, name)| (index, name.into())).collect(),
            ..Observed::default()
        };
        for address in rtnl::addresses(&mut self.connection)? {
            observed.update(&Event::Address {
                address: address.address,
                index: address.index,
                held: held(&address),
            });
        }
        Ok(observed)
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        let (place, index, replace) = match op {
            Op::Add { place, index } => (place, *index, false),
            Op::Change { place, index } => (place, *index, true),
            Op::Remove { place, index, prefix } => {
                return rtnl::remove(&mut self.connection, *index, place.address, *prefix);
            }
        };
        let new = NewAddress {
            index,
            address: place.address,
            prefix: place.prefix(),
            flags: flags(place),
            mark: MARK,
            preferred: preferred(place),
            valid: FOREVER,
        };
        rtnl::add(&mut self.connection, &new, replace)
    }
}

/// Whether the kernel keeps the mark of an address: from Linux 5.18 on. One that does not drops it silently.
pub(crate) fn keeps_marks() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    is_at_least(&release, (5, 18))
}

fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers =
        release.split(|character: char| !character.is_ascii_digit()).map_while(|word| word.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version: (u32, u32)| version >= wanted)
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn reads_releases() {
        for (release, expected) in [
            ("5.17.9", false),
            ("5.18.0-1", true),
            ("6.1.0-56-amd64\n", true),
            ("4.19", false),
            ("10.0", true),
            ("", false),
        ] {
            assert_eq!(is_at_least(release, (5, 18)), expected, "{release}");
        }
    }
}
