//! Which addresses of a group are to be added, renewed and removed. Pure.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::config::RouterPlan;
use super::kernel::Op;
use super::network::{MARK, Network};
use crate::plane::rtnl::HeldAddress;
use crate::reconcile::ledger::Entry;

/// An address that a group may have added: what the ledger knows where the kernel keeps no mark.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    /// The interface.
    pub(crate) interface: Arc<str>,
    /// The address.
    pub(crate) address: IpAddr,
    /// Its prefix.
    pub(crate) prefix: u8,
}

/// A line `enp0s3 192.16.193.30/32`.
impl Entry for Spot {
    fn line(&self) -> String {
        format!("{} {}/{}", self.interface, self.address, self.prefix)
    }

    fn parse(line: &str) -> Option<Self> {
        let (interface, rest) = line.split_once(' ')?;
        let (address, prefix) = rest.split_once('/')?;
        Some(Self {
            interface: interface.into(),
            address: address.parse().ok()?,
            prefix: prefix.parse().ok()?,
        })
    }
}

/// Tells which addresses are a group's own: by their mark, or by the ledger on a kernel that keeps none (before Linux 5.18).
pub(crate) struct Owner<'a> {
    /// Whether the kernel keeps marks.
    pub(crate) marks: bool,
    /// What the ledger says.
    pub(crate) noted: &'a BTreeSet<Spot>,
}

impl Owner<'_> {
    /// Whether an address is a group's.
    pub(crate) fn owns(&self, network: &Network, held: &HeldAddress) -> bool {
        let noted = || {
            let interface = network.name(held.index)?.clone();
            let spot = Spot { interface, address: held.address, prefix: held.prefix };
            self.noted.contains(&spot).then_some(())
        };
        held.mark == MARK || (!self.marks && held.mark == 0 && noted().is_some())
    }
}

/// What adds or renews the addresses of a virtual router, and which of them somebody else put there: those are used as they are,
/// not renewed and not removed.
pub(crate) fn hold(
    router: &RouterPlan,
    network: &Network,
    owner: &Owner<'_>,
    lifetime: Option<Duration>,
) -> (Vec<Op>, Vec<IpAddr>) {
    let Some(index) = network.index(router.home()) else { return (Vec::new(), Vec::new()) };
    let (mut ops, mut foreign) = (Vec::new(), Vec::new());
    for place in &router.places {
        // With another prefix too: of IPv6 addresses there is only one anyway, and two of IPv4 would confuse people.
        let somebody = |held: &HeldAddress| !owner.owns(network, held);
        if network.held(index, place.address).any(somebody) {
            foreign.push(place.address);
        } else {
            ops.push(Op::Hold { index, place: place.clone(), lifetime });
        }
    }
    (ops, foreign)
}

/// What removes the addresses of a virtual router. With `certain` also those that the kernel has not reported yet.
pub(crate) fn release(router: &RouterPlan, network: &Network, owner: &Owner<'_>, certain: bool) -> Vec<Op> {
    let Some(index) = network.index(router.home()) else { return Vec::new() };
    let mut ops = Vec::new();
    for place in &router.places {
        let mut seen = false;
        for held in network.held(index, place.address) {
            seen |= held.prefix == place.prefix;
            if owner.owns(network, held) {
                ops.push(Op::Drop { index, address: held.address, prefix: held.prefix });
            }
        }
        if certain && !seen {
            ops.push(Op::Drop { index, address: place.address, prefix: place.prefix });
        }
    }
    ops
}

/// What puts back the addresses of a virtual router that holds them: those that are not there.
pub(crate) fn missing(
    router: &RouterPlan,
    network: &Network,
    owner: &Owner<'_>,
    lifetime: Option<Duration>,
) -> Vec<Op> {
    let Some(index) = network.index(router.home()) else { return Vec::new() };
    let there = |address, prefix| {
        network.held(index, address).any(|held| held.prefix == prefix || !owner.owns(network, held))
    };
    let places = router.places.iter().filter(|place| !there(place.address, place.prefix));
    places.map(|place| Op::Hold { index, place: place.clone(), lifetime }).collect()
}

/// What removes marked addresses that no virtual router has a use for, such as those of a group that went while no agent ran.
pub(crate) fn leftover(network: &Network, known: &BTreeSet<Spot>, owner: &Owner<'_>) -> Vec<Op> {
    let spot = |held: &HeldAddress| {
        let interface = network.name(held.index)?.clone();
        Some(Spot { interface, address: held.address, prefix: held.prefix })
    };
    let marked = network.marked().filter(|held| spot(held).is_some_and(|spot| !known.contains(&spot)));
    let marked = marked.map(|held| (held.index, held.address, held.prefix));
    let noted = owner.noted.iter().filter(|spot| !owner.marks && !known.contains(spot));
    let noted = noted.filter_map(|spot| {
        let index = network.index(&spot.interface)?;
        let held = network.held(index, spot.address).find(|held| held.prefix == spot.prefix)?;
        owner.owns(network, held).then_some((index, spot.address, spot.prefix))
    });
    let all: BTreeSet<_> = marked.chain(noted).collect();
    all.into_iter().map(|(index, address, prefix)| Op::Drop { index, address, prefix }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::config::Placement;
    use super::super::network::Event;
    use super::*;
    use crate::plane::rtnl::{FOREVER, LinkState};

    fn router() -> RouterPlan {
        let place =
            |address: &str, prefix| Placement { address: address.parse().unwrap(), prefix, label: None };
        RouterPlan {
            interface: "eth0".into(),
            own: None,
            vrid: 30,
            multicast: true,
            places: vec![place("192.16.193.30", 32), place("192.16.193.31", 24)],
            own_link: None,
        }
    }

    fn network(addresses: &[(&str, u8, u8)]) -> Network {
        let mut network = Network::default();
        network.update(Event::Link(LinkState { index: 2, name: "eth0".into(), working: true, mac: [0; 6] }));
        for (address, prefix, mark) in addresses {
            network.update(Event::Address(HeldAddress {
                index: 2,
                address: address.parse().unwrap(),
                prefix: *prefix,
                flags: 0,
                mark: *mark,
                preferred: FOREVER,
                valid: FOREVER,
            }));
        }
        network
    }

    fn shown(ops: &[Op]) -> Vec<String> {
        ops.iter()
            .map(|op| match op {
                Op::Hold { place, .. } => format!("+{}/{}", place.address, place.prefix),
                Op::Drop { address, prefix, .. } => format!("-{address}/{prefix}"),
            })
            .collect()
    }

    #[test]
    fn ours_are_held_and_dropped_and_others_stay() {
        let (router, none) = (router(), BTreeSet::new());
        let owner = Owner { marks: true, noted: &none };
        let lifetime = Some(Duration::from_secs(2));

        let empty = network(&[]);
        let (ops, foreign) = hold(&router, &empty, &owner, lifetime);
        assert_eq!(
            (shown(&ops), foreign.len()),
            (vec!["+192.16.193.30/32".into(), "+192.16.193.31/24".into()], 0)
        );
        assert_eq!(shown(&release(&router, &empty, &owner, false)), [""; 0]);
        // Added a moment ago: the kernel's notification is still on its way.
        assert_eq!(
            shown(&release(&router, &empty, &owner, true)),
            ["-192.16.193.30/32", "-192.16.193.31/24"]
        );

        let somebody = network(&[("192.16.193.30", 32, 0), ("192.16.193.31", 24, MARK)]);
        let (ops, foreign) = hold(&router, &somebody, &owner, lifetime);
        assert_eq!(
            (shown(&ops), foreign),
            (vec!["+192.16.193.31/24".into()], vec![router.places[0].address])
        );
        assert_eq!(shown(&release(&router, &somebody, &owner, true)), ["-192.16.193.31/24"]);
        assert_eq!(shown(&missing(&router, &somebody, &owner, lifetime)), [""; 0]);
        let other_prefix = network(&[("192.16.193.31", 32, MARK)]);
        assert_eq!(missing(&router, &other_prefix, &owner, lifetime).len(), 2);
    }

    #[test]
    fn without_marks_the_ledger_knows() {
        let spot = |text: &str| Spot::parse(text).unwrap();
        assert_eq!(spot("eth0 192.16.193.30/32").line(), "eth0 192.16.193.30/32");
        let noted = BTreeSet::from([spot("eth0 192.16.193.30/32"), spot("eth0 192.16.193.9/32")]);
        let there = network(&[("192.16.193.30", 32, 0), ("192.16.193.9", 32, 0), ("192.16.193.31", 24, 0)]);
        let known = BTreeSet::from([spot("eth0 192.16.193.30/32")]);
        for (marks, released, left) in [(false, 1, 1), (true, 0, 0)] {
            let owner = Owner { marks, noted: &noted };
            assert_eq!(release(&router(), &there, &owner, false).len(), released, "{marks}");
            assert_eq!(leftover(&there, &known, &owner).len(), left, "{marks}");
        }
        let marked = network(&[("192.16.193.30", 32, MARK), ("192.16.193.8", 32, MARK)]);
        let owner = Owner { marks: true, noted: &noted };
        assert_eq!(shown(&leftover(&marked, &known, &owner)), ["-192.16.193.8/32"]);
    }
}
