//! What is known of this machine's links and addresses: read once, then kept up to date by the kernel's notifications. Pure.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bascule_vrrp::Link;
use bascule_vrrp::packet::Family;

use super::config::{Placement, RouterPlan, is_link_local};
use crate::plane::rtnl::{DAD_FAILED, HeldAddress, LinkState, SECONDARY, TENTATIVE};

/// IFA_PROTO of addresses that belong to a group. Those of virtual services without a group have another mark, and another
/// owner ([`crate::plane::address::MARK`]).
pub(crate) const MARK: u8 = 99;

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    name: Arc<str>,
    working: bool,
    mac: [u8; 6],
    /// In the order in which the kernel has them: the first of a network is its primary one.
    addresses: Vec<HeldAddress>,
}

/// All links with their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    links: BTreeMap<u32, Known>,
}

/// A notification of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A link is new or changed.
    Link(LinkState),
    /// A link has gone.
    LinkGone(u32),
    /// An address is new or changed.
    Address(HeldAddress),
    /// An address has gone.
    AddressGone(HeldAddress),
}

impl Event {
    /// Whether the kernel may have taken routes away with it.
    pub(crate) fn takes_routes(&self) -> bool {
        !matches!(self, Event::Address(_))
    }
}

impl Network {
    /// Takes a notification.
    pub(crate) fn update(&mut self, event: Event) {
        match event {
            Event::Link(LinkState { index, name, working, mac }) => {
                let name: Arc<str> = name.into();
                match self.links.get_mut(&index) {
                    Some(known) => (known.name, known.working, known.mac) = (name, working, mac),
                    None => {
                        self.links.insert(index, Known { name, working, mac, addresses: Vec::new() });
                    }
                }
            }
            Event::LinkGone(index) => {
                self.links.remove(&index);
            }
            Event::Address(address) => {
                // One of a link that went meanwhile is gone, too.
                let Some(known) = self.links.get_mut(&address.index) else { return };
                match known.addresses.iter_mut().find(|other| same(other, &address)) {
                    Some(held) => *held = address,
                    None => known.addresses.push(address),
                }
            }
            Event::AddressGone(address) => {
                if let Some(known) = self.links.get_mut(&address.index) {
                    known.addresses.retain(|other| !same(other, &address));
                }
            }
        }
    }

    /// The index of an interface.
    pub(crate) fn index(&self, interface: &str) -> Option<u32> {
        self.links.iter().find(|(_, known)| *known.name == *interface).map(|(index, _)| *index)
    }

    /// The name of an interface.
    pub(crate) fn name(&self, index: u32) -> Option<&Arc<str>> {
        self.links.get(&index).map(|known| &known.name)
    }

    /// The hardware address of an interface.
    pub(crate) fn mac(&self, index: u32) -> [u8; 6] {
        self.links.get(&index).map_or([0; 6], |known| known.mac)
    }

    /// Whether an interface is there, switched on, operational and has carrier.
    pub(crate) fn works(&self, interface: &str) -> bool {
        self.index(interface).is_some_and(|index| self.links[&index].working)
    }

    /// What holds a place, with whichever prefix.
    pub(crate) fn held(&self, index: u32, address: IpAddr) -> impl Iterator<Item = &HeldAddress> {
        let known = self.links.get(&index);
        known.into_iter().flat_map(|known| &known.addresses).filter(move |held| held.address == address)
    }

    /// All addresses that carry a group's mark.
    pub(crate) fn marked(&self) -> impl Iterator<Item = &HeldAddress> {
        self.links.values().flat_map(|known| &known.addresses).filter(|held| held.mark == MARK)
    }

    /// How the interface of a virtual router is. `floating` says which addresses are a group's and so nobody's own.
    pub(crate) fn link_of(
        &self,
        plan: &RouterPlan,
        family: Family,
        floating: impl Fn(IpAddr) -> bool,
    ) -> Link {
        let Some(index) = self.index(&plan.interface) else { return Link::Missing };
        let known = &self.links[&index];
        if !known.working {
            return Link::Down;
        }
        let usable = |held: &&HeldAddress| {
            Family::of(held.address) == family
                && held.mark != MARK
                && held.flags & (TENTATIVE | DAD_FAILED) == 0
                && !floating(held.address)
        };
        let mut usable = known.addresses.iter().filter(usable);
        let source = match (plan.own, family) {
            (Some(own), _) => usable.find(|held| held.address == own),
            (None, Family::Ipv4) => {
                let first = usable.clone().next();
                usable.find(|held| held.flags & SECONDARY == 0).or(first)
            }
            // RFC 9568 section 5.1.2.1: the link-local address of the interface.
            (None, Family::Ipv6) => usable.find(|held| is_link_local(held.address)),
        };
        source.map_or(Link::NoAddress, |held| Link::Up { source: held.address })
    }

    /// Whether the kernel holds all of these addresses, and they are a group's.
    pub(crate) fn holds_all<'a>(
        &self,
        places: impl IntoIterator<Item = (&'a str, &'a Placement)>,
        owns: impl Fn(&HeldAddress) -> bool,
    ) -> bool {
        places.into_iter().all(|(interface, place)| {
            self.index(interface).is_some_and(|index| {
                self.held(index, place.address).any(|held| held.prefix == place.prefix && owns(held))
            })
        })
    }
}

fn same(one: &HeldAddress, other: &HeldAddress) -> bool {
    (one.address, one.prefix) == (other.address, other.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::rtnl::FOREVER;

    fn address(address: &str, prefix: u8, flags: u32, mark: u8) -> Event {
        Event::Address(HeldAddress {
            index: 2,
            address: address.parse().unwrap(),
            prefix,
            flags,
            mark,
            preferred: FOREVER,
            valid: FOREVER,
        })
    }

    fn link(working: bool) -> Event {
        Event::Link(LinkState { index: 2, name: "eth0".into(), working, mac: [2, 0, 0, 0, 0, 1] })
    }

    fn plan(own: Option<&str>) -> RouterPlan {
        RouterPlan {
            interface: "eth0".into(),
            own: own.map(|own| own.parse().unwrap()),
            vrid: 30,
            multicast: true,
            places: Vec::new(),
            own_link: None,
        }
    }

    #[test]
    fn the_own_address_is_the_first_that_is_nobody_elses() {
        let floating = |address: IpAddr| address == "192.16.193.30".parse::<IpAddr>().unwrap();
        let up = |source: &str| Link::Up { source: source.parse().unwrap() };
        let mut network = Network::default();
        let link_of = |network: &Network, own, family| network.link_of(&plan(own), family, floating);
        assert_eq!(link_of(&network, None, Family::Ipv4), Link::Missing);
        network.update(link(false));
        assert_eq!(link_of(&network, None, Family::Ipv4), Link::Down);
        network.update(link(true));
        assert_eq!(link_of(&network, None, Family::Ipv4), Link::NoAddress);
        // Somebody's fixed form of the group's address, and one that a group added.
        network.update(address("192.16.193.30", 24, 0, 0));
        network.update(address("192.16.193.31", 32, 0, MARK));
        assert_eq!(link_of(&network, None, Family::Ipv4), Link::NoAddress);
        network.update(address("192.16.193.2", 24, SECONDARY, 0));
        assert_eq!(link_of(&network, None, Family::Ipv4), up("192.16.193.2"));
        network.update(address("10.0.0.1", 8, 0, 0));
        assert_eq!(link_of(&network, None, Family::Ipv4), up("10.0.0.1"));
        assert_eq!(link_of(&network, Some("192.16.193.2"), Family::Ipv4), up("192.16.193.2"));
        assert_eq!(link_of(&network, Some("192.16.193.9"), Family::Ipv4), Link::NoAddress);

        network.update(address("2001:db8::1", 64, 0, 0));
        network.update(address("fe80::1", 64, TENTATIVE, 0));
        assert_eq!(link_of(&network, None, Family::Ipv6), Link::NoAddress, "tentative");
        network.update(address("fe80::1", 64, 0, 0));
        assert_eq!(link_of(&network, None, Family::Ipv6), up("fe80::1"));
        network.update(Event::LinkGone(2));
        assert_eq!(link_of(&network, None, Family::Ipv6), Link::Missing);
        assert_eq!(network, Network::default());
    }

    #[test]
    fn holding_means_all_of_them_with_their_prefix_and_mark() {
        let place =
            |address: &str, prefix| Placement { address: address.parse().unwrap(), prefix, label: None };
        let places = [place("192.16.193.30", 32), place("192.16.193.31", 24)];
        let mut network = Network::default();
        let all = |network: &Network| {
            network.holds_all(places.iter().map(|place| ("eth0", place)), |held| held.mark == MARK)
        };
        network.update(link(true));
        network.update(address("192.16.193.30", 32, 0, MARK));
        assert!(!all(&network));
        network.update(address("192.16.193.31", 32, 0, MARK));
        assert!(!all(&network), "another prefix");
        network.update(address("192.16.193.31", 24, 0, 0));
        assert!(!all(&network), "somebody else's");
        network.update(address("192.16.193.31", 24, 0, MARK));
        assert!(all(&network));
        assert_eq!(network.marked().count(), 3);
    }
}
