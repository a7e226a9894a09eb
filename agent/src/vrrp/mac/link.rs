//! rtnetlink for interfaces of virtual routers.

use std::{collections::BTreeMap, fs, io};

use bascule_vrrp::packet::Family;

use super::{GROUP, HeldLink, VirtualLink};
use crate::plane::{
    attribute::{Writer, find, number, text},
    netlink::{CREATE, Connection, EXCLUSIVE, Message},
    rtnl::{self, DELETE_LINK, LinkState, NEW_LINK},
    sysctl,
};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// MACVLAN_MODE_VEPA.
const VEPA: u32 = 2;
/// IN6_ADDR_GEN_MODE_NONE.
const NO_ADDRESS: u8 = 1;
/// IFF_UP.
const UP: u32 = 1;

/// IPV4_DEVCONF_* (include/uapi/linux/ip.h).
const FORWARDING: u16 = 1;
const RP_FILTER: u16 = 8;
const ARP_IGNORE: u16 = 19;
const PROMOTE_SECONDARIES: u16 = 20;

/// struct ifinfomsg.
fn header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Makes the interface, down, and sets what it must not do:
///
/// - answer ARP for addresses that are not on it (arp_ignore 1);
/// - drop packets of clients that are answered through the interface below (rp_filter 0, or 2 where `all` is 1: the greater counts);
/// - have an IPv6 address of its own, or take routes from routers.
///
/// Whether it forwards is what the interface below does.
pub(super) fn make(connection: &mut Connection, link: &VirtualLink, parent: u32) -> io::Result<HeldLink> {
    let new = Writer::after(&header(0, 0, 0))
        .string(IFLA_IFNAME, &link.name)
        .host(IFLA_LINK, parent)
        .bytes(IFLA_ADDRESS, &link.mac)
        .host(IFLA_GROUP, GROUP)
        .nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "macvlan")
                .nest(IFLA_INFO_DATA, |data| data.host(IFLA_MACVLAN_MODE, VEPA))
        })
        .finish();
    connection.change(NEW_LINK, CREATE | EXCLUSIVE, &new)?;
    let made = held(connection)?.remove(&*link.name).map(|(held, _)| held);
    let made = made.ok_or_else(|| io::Error::other("it is not there after it was made"))?;
    let set = |connection: &mut Connection| settle(connection, link, made.index);
    if let Err(error) = set(connection) {
        // Half of it would answer for addresses of others.
        let _ = remove(connection, made.index);
        return Err(error);
    }
    Ok(made)
}

fn settle(connection: &mut Connection, link: &VirtualLink, index: u32) -> io::Result<()> {
    let ipv4 = |name: &str, setting: &str| read(&format!("net/ipv4/conf/{name}/{setting}"));
    let forwards = u32::from(ipv4(&link.parent, "forwarding") == Some(1));
    let loose = if ipv4("all", "rp_filter") == Some(1) { 2 } else { 0 };
    let settings = Writer::after(&header(index, 0, 0))
        .nest(IFLA_AF_SPEC, |families| {
            let families = families.nest(AF_INET, |inet| {
                inet.nest(IFLA_INET_CONF, |conf| {
                    conf.host(FORWARDING, forwards)
                        .host(RP_FILTER, loose)
                        .host(ARP_IGNORE, 1)
                        .host(PROMOTE_SECONDARIES, 1)
                })
            });
            match link.family {
                Family::Ipv4 => families,
                Family::Ipv6 => families.nest(AF_INET6, no_address),
            }
        })
        .finish();
    connection.change(NEW_LINK, 0, &settings)?;
    let ipv6 = |setting: &str| format!("net/ipv6/conf/{}/{setting}", link.name);
    match link.family {
        // Without any IPv6 there is nothing to switch off. Where /proc/sys cannot be written, no address of its own is as good.
        Family::Ipv4 => write_if_there(&ipv6("disable_ipv6"), "1").or_else(|_| {
            let none = Writer::after(&header(index, 0, 0));
            let none = none.nest(IFLA_AF_SPEC, |families| families.nest(AF_INET6, no_address));
            connection.change(NEW_LINK, 0, &none.finish())
        }),
        Family::Ipv6 => {
            if read(&format!("net/ipv6/conf/{}/forwarding", link.parent)) == Some(1) {
                write_if_there(&ipv6("forwarding"), "1")?;
            }
            write_if_there(&ipv6("accept_ra"), "0")
        }
    }
}

fn no_address(inet6: Writer) -> Writer {
    inet6.bytes(IFLA_INET6_ADDR_GEN_MODE, &[NO_ADDRESS])
}

fn read(path: &str) -> Option<u32> {
    fs::read_to_string(sysctl::path(path)).ok()?.trim().parse().ok()
}

fn write_if_there(path: &str, value: &str) -> io::Result<()> {
    match fs::write(sysctl::path(path), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Removes an interface.
pub(super) fn remove(connection: &mut Connection, index: u32) -> io::Result<()> {
    match connection.change(DELETE_LINK, 0, &header(index, 0, 0)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Switches an interface on or off.
pub(super) fn switch(connection: &mut Connection, index: u32, up: bool) -> io::Result<()> {
    connection.change(NEW_LINK, 0, &header(index, if up { UP } else { 0 }, UP))
}

/// All interfaces that are ours, by name.
pub(super) fn held(connection: &mut Connection) -> io::Result<BTreeMap<String, (HeldLink, LinkState)>> {
    let all = rtnl::link_messages(connection)?;
    Ok(all.iter().filter_map(read_held).collect())
}

fn read_held(message: &Message) -> Option<(String, (HeldLink, LinkState))> {
    let state = rtnl::read_link_state(message)?;
    let flags = number(message.payload.get(8..12)?)?;
    let attributes = message.payload.get(16..)?;
    let kind = find(find(attributes, IFLA_LINKINFO)?, IFLA_INFO_KIND).map(text)?;
    let group = find(attributes, IFLA_GROUP).and_then(number)?;
    let parent = find(attributes, IFLA_LINK).and_then(number)?;
    let virtual_mac = matches!(state.mac, [0, 0, 0x5e, 0, 1 | 2, _]);
    let ours = kind == "macvlan" && group == GROUP && virtual_mac;
    let held = HeldLink { index: state.index, parent, mac: state.mac, up: flags & UP != 0 };
    ours.then(|| (state.name.clone(), (held, state)))
}
