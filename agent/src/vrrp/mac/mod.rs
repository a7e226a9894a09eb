//! Virtual MAC addresses (RFC 9568 section 7.3): an interface of its own for each virtual router, with the address
//! 00-00-5E-00-01-VRID or 00-00-5E-00-02-VRID, over the interface on which it speaks. The virtual router's addresses are on it.
//!
//! It is made when the group begins and removed when the group goes. It is up only while the addresses are here: down, it is not
//! among the receivers of its MAC address (`macvlan_stop` in drivers/net/macvlan.c), so that what a switch floods is nobody's but
//! the active director's.
//!
//! Its mode is VEPA. A private one, which keepalived takes, hears what comes *from* its MAC address alone and keeps that from the
//! interface below (`macvlan_handle_frame`): advertisements of another active director, which are what must be heard then. The
//! two differ in nothing else that matters here.
//!
//! Advertisements are sent through the interface below, as frames with the virtual MAC address ([`frame`]): that switches learn
//! from them where the address is does not hang on the state of anything else. What a router says that does not have the addresses
//! (before it takes them, after it gave them up) goes with the MAC address of the interface below, for the same reason. So does
//! what goes to peers by unicast (keepalived: vmac_xmit_base): it is the kernel's to find their MAC addresses and a way, and only
//! one switch port would learn from it. Announcements at an interval take its place.
//!
//! It is known by its form, which is complete when it is there at all: a macvlan of link group [`GROUP`] with such an address.

mod drive;
pub(super) mod frame;
mod link;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use bascule_vrrp::packet::Family;

pub(super) use drive::VirtualLinks;

/// IFLA_GROUP of our interfaces: VRRP's number among the protocols of IP.
pub(crate) const GROUP: u32 = 112;

/// IFNAMSIZ without the NUL.
const LONGEST: usize = 15;

/// An interface of a virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VirtualLink {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its MAC address.
    pub(crate) mac: [u8; 6],
    /// The interface below.
    pub(crate) parent: Arc<str>,
    /// IPv4 or IPv6.
    pub(crate) family: Family,
}

impl VirtualLink {
    /// That of a virtual router on an interface.
    pub(crate) fn new(parent: &Arc<str>, family: Family, vrid: u8) -> Self {
        Self {
            name: name(parent, family, vrid).into(),
            mac: mac(family, vrid),
            parent: parent.clone(),
            family,
        }
    }
}

/// RFC 9568 section 7.3.
fn mac(family: Family, vrid: u8) -> [u8; 6] {
    let family = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    };
    [0, 0, 0x5e, 0, family, vrid]
}

/// `bsc.30.eth0`, `bsc6.30.eth0`; of a longer name of the interface as much as fits, and a sum of it that tells it from others.
fn name(parent: &str, family: Family, vrid: u8) -> String {
    let mut name = match family {
        Family::Ipv4 => format!("bsc.{vrid}."),
        Family::Ipv6 => format!("bsc6.{vrid}."),
    };
    if name.len() + parent.len() <= LONGEST && parent.is_ascii() {
        name.push_str(parent);
    } else {
        // FNV-1a, cut to 24 bits; among the at most 32 interfaces of one VRID.
        let sum = parent
            .bytes()
            .fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let _ = write!(name, "{:06x}", (sum ^ (sum >> 24)) & 0x00ff_ffff);
    }
    name
}

/// An interface of ours as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldLink {
    pub(crate) index: u32,
    /// Index of the interface below.
    pub(crate) parent: u32,
    pub(crate) mac: [u8; 6],
    /// Switched on.
    pub(crate) up: bool,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Make { link: VirtualLink, parent: u32 },
    Remove { name: String, index: u32 },
}

/// What makes our interfaces those that are wanted: by name, the wanted ones, and those that there are. Without `sweep` those that
/// nobody wants stay.
pub(crate) fn plan(
    wanted: &BTreeMap<Arc<str>, VirtualLink>,
    held: &BTreeMap<String, HeldLink>,
    sweep: bool,
    index: impl Fn(&str) -> Option<u32>,
) -> Vec<Op> {
    let mut ops = Vec::new();
    for (name, held) in held {
        let right = wanted
            .get(name.as_str())
            .map(|link| index(&link.parent) == Some(held.parent) && link.mac == held.mac);
        if right == Some(false) || (sweep && right.is_none()) {
            ops.push(Op::Remove { name: name.clone(), index: held.index });
        }
    }
    for link in wanted.values() {
        // Without the interface below there is nothing to do; the group knows that it is not there.
        let Some(parent) = index(&link.parent) else { continue };
        let right = |held: &HeldLink| held.parent == parent && held.mac == link.mac;
        if !held.get(&*link.name).is_some_and(right) {
            ops.push(Op::Make { link: link.clone(), parent });
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_tell_interfaces_apart() {
        assert_eq!(name("eth0", Family::Ipv4, 30), "bsc.30.eth0");
        assert_eq!(name("enp0s31", Family::Ipv4, 255), "bsc.255.enp0s31");
        let long = [name("enp0s31f6", Family::Ipv6, 255), name("enp0s31f7", Family::Ipv6, 255)];
        assert!(long.iter().all(|name| name.len() <= LONGEST && name.starts_with("bsc6.255.")), "{long:?}");
        assert_ne!(long[0], long[1]);
        assert_eq!(mac(Family::Ipv4, 30), [0, 0, 0x5e, 0, 1, 30]);
        assert_eq!(mac(Family::Ipv6, 255), [0, 0, 0x5e, 0, 2, 255]);
    }

    #[test]
    fn made_where_wanted_and_made_anew_over_another_interface() {
        let link = VirtualLink::new(&"eth0".into(), Family::Ipv4, 30);
        let wanted = BTreeMap::from([(link.name.clone(), link.clone())]);
        let index = |name: &str| (name == "eth0").then_some(2);
        let held = |parent: u32| {
            let held = HeldLink { index: 9, parent, mac: link.mac, up: false };
            BTreeMap::from([(link.name.to_string(), held)])
        };
        let make = Op::Make { link: link.clone(), parent: 2 };
        let remove = Op::Remove { name: link.name.to_string(), index: 9 };
        assert_eq!(plan(&wanted, &BTreeMap::new(), true, index), vec![make.clone()]);
        assert_eq!(plan(&wanted, &held(2), true, index), []);
        assert_eq!(plan(&wanted, &held(3), false, index), [remove.clone(), make]);
        assert_eq!(plan(&wanted, &BTreeMap::new(), true, |_| None), []);
        assert_eq!(plan(&BTreeMap::new(), &held(2), false, index), []);
        assert_eq!(plan(&BTreeMap::new(), &held(2), true, index), [remove]);
    }
}
