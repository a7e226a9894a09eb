//! The part of rtnetlink that the planes need: links, addresses, routes to a host.
//!
//! Read by hand: a few attributes of three messages. A strict decoder of everything a link can have fails on links that it does
//! not know, and one strange interface must not cost a director its addresses.

use std::{collections::BTreeMap, io, net::IpAddr};

use super::{
    attribute::{Attributes, Writer, address, find, number, octets, text},
    netlink::{CREATE, Connection, EXCLUSIVE, Message, REPLACE},
};

/// NETLINK_ROUTE.
pub(crate) const PROTOCOL: isize = 0;
/// RTNLGRP_LINK.
pub(crate) const GROUP_LINK: u32 = 1;
/// RTNLGRP_IPV4_IFADDR.
pub(crate) const GROUP_IPV4_ADDRESS: u32 = 5;
/// RTNLGRP_IPV4_ROUTE.
pub(crate) const GROUP_IPV4_ROUTE: u32 = 7;
/// RTNLGRP_IPV6_IFADDR.
pub(crate) const GROUP_IPV6_ADDRESS: u32 = 9;
/// RTNLGRP_IPV6_ROUTE.
pub(crate) const GROUP_IPV6_ROUTE: u32 = 11;
/// RTNLGRP_IPV4_NETCONF.
pub(crate) const GROUP_IPV4_NETCONF: u32 = 24;
/// RTNLGRP_IPV6_NETCONF.
pub(crate) const GROUP_IPV6_NETCONF: u32 = 25;

pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
/// RTEXT_FILTER_SKIP_STATS: a dump without counters.
const SKIP_STATS: u32 = 1 << 3;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// IFF_UP | IFF_RUNNING | IFF_LOWER_UP: switched on, operational, with carrier (include/uapi/linux/if.h).
const WORKING: u32 = 0x1 | 0x40 | 0x1_0000;

/// IFA_F_SECONDARY; of IPv6 addresses IFA_F_TEMPORARY.
pub(crate) const SECONDARY: u32 = 0x01;
/// IFA_F_NODAD.
pub(crate) const NODAD: u32 = 0x02;
/// IFA_F_DADFAILED.
pub(crate) const DAD_FAILED: u32 = 0x08;
/// IFA_F_TENTATIVE.
pub(crate) const TENTATIVE: u32 = 0x40;
/// INFINITY_LIFE_TIME.
pub(crate) const FOREVER: u32 = u32::MAX;

fn family(of: IpAddr) -> u8 {
    u8::try_from(if of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or_default()
}

/// An address on an interface as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldAddress {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    /// IFA_F_*.
    pub(crate) flags: u32,
    /// IFA_PROTO; 0 when it has none.
    pub(crate) mark: u8,
    /// Seconds; [`FOREVER`] is without end.
    pub(crate) preferred: u32,
    /// Seconds; [`FOREVER`] is without end.
    pub(crate) valid: u32,
}

/// An address to be added or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewAddress {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) flags: u32,
    pub(crate) mark: u8,
    pub(crate) preferred: u32,
    pub(crate) valid: u32,
}

/// A link as VRRP has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Switched on, operational, with carrier.
    pub(crate) working: bool,
    /// Its hardware address; zeros when it has none of six bytes.
    pub(crate) mac: [u8; 6],
}

/// An RTM_NEWLINK or RTM_DELLINK in full; see [`read_link`].
pub(crate) fn read_link_state(message: &Message) -> Option<LinkState> {
    let (index, name) = read_link(message)?;
    let flags = number(message.payload.get(8..12)?)?;
    let mac = find(message.payload.get(16..)?, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok());
    Some(LinkState { index, name, working: flags & WORKING == WORKING, mac: mac.unwrap_or_default() })
}

/// Index and name of an RTM_NEWLINK or RTM_DELLINK. Those with a family are not about the link: with AF_BRIDGE, RTM_DELLINK says that
/// it is no longer a port of a bridge (`br_ifinfo_notify` in net/bridge/br_netlink.c).
pub(crate) fn read_link(message: &Message) -> Option<(u32, String)> {
    if i32::from(*message.payload.first()?) != libc::AF_UNSPEC {
        return None;
    }
    let index = number(message.payload.get(4..8)?)?;
    Some((index, text(find(message.payload.get(16..)?, IFLA_IFNAME)?)))
}

/// An RTM_NEWADDR or RTM_DELADDR.
pub(crate) fn read_address(message: &Message) -> Option<HeldAddress> {
    let header = message.payload.get(..8)?;
    let mut held = HeldAddress {
        index: number(&header[4..8])?,
        address: IpAddr::from([0, 0, 0, 0]),
        prefix: header[1],
        flags: u32::from(header[2]),
        mark: 0,
        preferred: FOREVER,
        valid: FOREVER,
    };
    let (mut local, mut peer) = (None, None);
    for (kind, value) in Attributes(&message.payload[8..]) {
        match kind {
            IFA_ADDRESS => peer = address(value),
            IFA_LOCAL => local = address(value),
            IFA_FLAGS => held.flags = number(value)?,
            IFA_PROTO => held.mark = *value.first()?,
            IFA_CACHEINFO => {
                held.preferred = number(value.get(..4)?)?;
                held.valid = number(value.get(4..8)?)?;
            }
            _ => {}
        }
    }
    // IPv6 has no IFA_LOCAL unless there is a peer.
    held.address = local.or(peer)?;
    Some(held)
}

/// Index to name of all links.
pub(crate) fn links(connection: &mut Connection) -> io::Result<BTreeMap<u32, String>> {
    let request = Writer::after(&[0; 16]).host(IFLA_EXT_MASK, SKIP_STATS).finish();
    Ok(connection.dump(GET_LINK, &request)?.iter().filter_map(read_link).collect())
}

/// All links in full.
pub(crate) fn link_states(connection: &mut Connection) -> io::Result<Vec<LinkState>> {
    let request = Writer::after(&[0; 16]).host(IFLA_EXT_MASK, SKIP_STATS).finish();
    Ok(connection.dump(GET_LINK, &request)?.iter().filter_map(read_link_state).collect())
}

/// All links, as the kernel describes them.
pub(crate) fn link_messages(connection: &mut Connection) -> io::Result<Vec<Message>> {
    connection.dump(GET_LINK, &Writer::after(&[0; 16]).host(IFLA_EXT_MASK, SKIP_STATS).finish())
}

/// All addresses of both families.
pub(crate) fn addresses(connection: &mut Connection) -> io::Result<Vec<HeldAddress>> {
    let dump = connection.dump(GET_ADDRESS, &[0; 8])?;
    Ok(dump.iter().filter(|message| message.kind == NEW_ADDRESS).filter_map(read_address).collect())
}

fn address_message(new: &NewAddress) -> Writer {
    let index = new.index.to_ne_bytes();
    let low_flags = u8::try_from(new.flags & 0xff).unwrap_or_default();
    let header = [family(new.address), new.prefix, low_flags, 0, index[0], index[1], index[2], index[3]];
    let bytes = octets(new.address);
    Writer::after(&header).bytes(IFA_LOCAL, &bytes).bytes(IFA_ADDRESS, &bytes)
}

/// Adds an address; EEXIST when it is there.
pub(crate) fn add(connection: &mut Connection, new: &NewAddress, replace: bool) -> io::Result<()> {
    let flags = if replace { REPLACE } else { CREATE | EXCLUSIVE };
    connection.change(NEW_ADDRESS, flags, &new_address_message(new, None))
}

/// RTM_NEWADDR for an address, with the label that `ip` and `ifconfig` show (IPv4 only, at most 15 characters).
pub(crate) fn new_address_message(new: &NewAddress, label: Option<&str>) -> Vec<u8> {
    let mut lifetimes = Vec::with_capacity(16);
    lifetimes.extend_from_slice(&new.preferred.to_ne_bytes());
    lifetimes.extend_from_slice(&new.valid.to_ne_bytes());
    lifetimes.extend_from_slice(&[0; 8]);
    let mut message = address_message(new).host(IFA_FLAGS, new.flags);
    if new.preferred != FOREVER || new.valid != FOREVER {
        message = message.bytes(IFA_CACHEINFO, &lifetimes);
    }
    if let Some(label) = label {
        message = message.string(IFA_LABEL, label);
    }
    message.bytes(IFA_PROTO, &[new.mark]).finish()
}

/// Removes an address; EADDRNOTAVAIL when it is not there.
pub(crate) fn remove(connection: &mut Connection, index: u32, of: IpAddr, prefix: u8) -> io::Result<()> {
    connection.change(DELETE_ADDRESS, 0, &gone_address_message(index, of, prefix))
}

/// RTM_DELADDR for an address.
pub(crate) fn gone_address_message(index: u32, of: IpAddr, prefix: u8) -> Vec<u8> {
    let gone =
        NewAddress { index, address: of, prefix, flags: 0, mark: 0, preferred: FOREVER, valid: FOREVER };
    address_message(&gone).finish()
}

/// The way to a host: interface index and gateway.
pub(crate) fn route_to(
    connection: &mut Connection,
    host: IpAddr,
) -> io::Result<Option<(u32, Option<IpAddr>)>> {
    let bits = if host.is_ipv4() { 32 } else { 128 };
    let header = [family(host), bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = connection.ask(GET_ROUTE, &Writer::after(&header).bytes(RTA_DST, &octets(host)).finish())?;
    let attributes = answer.payload.get(12..).unwrap_or_default();
    let interface = find(attributes, RTA_OIF).and_then(number);
    Ok(interface.map(|index| (index, find(attributes, RTA_GATEWAY).and_then(address))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: Vec<u8>) -> Message {
        Message { kind: NEW_ADDRESS, port: 0, payload }
    }

    #[test]
    fn an_address_reads_back_as_written() {
        for (address, prefix) in [("192.16.193.30", 32), ("2001:db8::30", 128)] {
            let new = NewAddress {
                index: 7,
                address: address.parse().unwrap(),
                prefix,
                flags: NODAD | 0x200,
                mark: 98,
                preferred: 0,
                valid: FOREVER,
            };
            let payload =
                address_message(&new).host(IFA_FLAGS, new.flags).bytes(IFA_PROTO, &[new.mark]).finish();
            let held = read_address(&message(payload)).unwrap();
            assert_eq!(
                (held.index, held.address, held.prefix, held.flags, held.mark),
                (7, new.address, prefix, NODAD | 0x200, 98)
            );
            assert_eq!(held.valid, FOREVER, "an address without IFA_CACHEINFO stays for ever");
        }
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let link = |family: i32| {
            let mut header = [0; 16];
            header[0] = u8::try_from(family).unwrap();
            header[4..8].copy_from_slice(&7_u32.to_ne_bytes());
            message(Writer::after(&header).bytes(IFLA_IFNAME, b"eth0\0").finish())
        };
        assert_eq!(read_link(&link(libc::AF_UNSPEC)), Some((7, "eth0".to_owned())));
        assert_eq!(read_link(&link(libc::AF_BRIDGE)), None);
    }

    #[test]
    fn a_short_message_is_skipped() {
        assert_eq!(read_address(&message(vec![2, 24, 0])), None);
        assert_eq!(read_link(&message(vec![0; 10])), None);
    }
}
