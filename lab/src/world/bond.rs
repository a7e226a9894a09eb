//! Bonded cables (`linux/if_bonding.h`), at the node's end and, where the cables are used together, at the switch's.

use std::os::fd::AsFd;

use super::error::Result;
use super::links::Links;
use super::netlink::Body;
use super::node::Node;
use crate::scenario::bond::{Bond, BondHash, BondMode};

/// Attributes of `linux/if_link.h`: `IFLA_BOND_MODE`, `_MIIMON`, `_XMIT_HASH_POLICY`, `_AD_LACP_RATE`.
const MODE: u16 = 1;
const MONITOR: u16 = 3;
const HASH: u16 = 14;
const LACP_RATE: u16 = 21;

/// A bond that a cable belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Bonded {
    /// The node's interface.
    pub(crate) interface: String,
    /// Its hardware address: that of its first cable.
    pub(crate) mac: [u8; 6],
    /// The port of the switch that all its cables are; `None`: each is a port of its own.
    pub(crate) aggregate: Option<String>,
    /// How it is bonded.
    pub(crate) bond: Bond,
}

/// What is said of a bond when it is made.
fn settings(bond: &Bond) -> Body {
    let mode = match bond.mode {
        BondMode::ActiveBackup => 1,
        BondMode::BalanceXor => 2,
        BondMode::Lacp => 4,
    };
    let hash = match bond.hash {
        BondHash::Layer2 => 0,
        BondHash::Layer34 => 1,
    };
    let monitor = u32::try_from(bond.monitor.get().as_millis()).unwrap_or(u32::MAX);
    let settings = Body::default().with(MODE, &[mode]).number(MONITOR, monitor);
    match bond.mode {
        BondMode::ActiveBackup => settings,
        BondMode::BalanceXor => settings.with(HASH, &[hash]),
        // Every second: what is lost is noticed by that, too.
        BondMode::Lacp => settings.with(HASH, &[hash]).with(LACP_RATE, &[1]),
    }
}

impl Links {
    /// Makes a bond, down and without cables. Its number.
    pub(super) fn add_bond(&mut self, name: &str, mac: [u8; 6], mtu: u32, bond: &Bond) -> Result<u32> {
        self.add_link(name, "bond", mac, mtu, settings(bond))
    }
}

/// Bonds the cables of a node at its end; they are there, and down.
pub(super) fn bond(node: &Node) -> Result<()> {
    let network = node.network()?;
    let mut links = Links::open(network.as_fd())?;
    for cable in node.cables() {
        let Some(bonded) = &cable.bonded else { continue };
        let index = match links.try_interface(&bonded.interface)? {
            Some(interface) => interface.index,
            None => links.add_bond(&bonded.interface, bonded.mac, cable.mtu, &bonded.bond)?,
        };
        links.enslave(&cable.interface, index)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::netlink::attributes;
    use super::*;

    #[test]
    fn a_bond_is_told_what_its_mode_knows() {
        let kinds = |mode| {
            let bond = Bond {
                legs: Vec::new(),
                mode,
                hash: BondHash::Layer34,
                monitor: crate::scenario::Span::from_millis(50),
            };
            let body = settings(&bond);
            attributes(body.bytes())
                .into_iter()
                .map(|(kind, value)| (kind, value.to_vec()))
                .collect::<Vec<_>>()
        };
        let monitor = (MONITOR, 50_u32.to_ne_bytes().to_vec());
        assert_eq!(kinds(BondMode::ActiveBackup), [(MODE, vec![1]), monitor.clone()]);
        assert_eq!(kinds(BondMode::BalanceXor), [(MODE, vec![2]), monitor.clone(), (HASH, vec![1])]);
        assert_eq!(kinds(BondMode::Lacp), [(MODE, vec![4]), monitor, (HASH, vec![1]), (LACP_RATE, vec![1])]);
    }
}
