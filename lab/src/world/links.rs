//! Interfaces, addresses and routes, over rtnetlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::{Doing, Error, Result};
use super::netlink::{Body, Message, Netlink, attributes, errno, word};
use crate::scenario::topology::{LinkAddress, Route};
use crate::scenario::value::Destination;

/// Attributes of `linux/if_link.h` and `linux/veth.h` that `libc` does not name.
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const VETH_INFO_PEER: u16 = 1;
/// `AF_INET` and `AF_INET6` as headers of messages have them.
const INET: u8 = 2;
const INET6: u8 = 10;
/// `RTPROT_STATIC` of `linux/rtnetlink.h`: `ip route` prints `proto static`.
const RTPROT_STATIC: u8 = 4;

/// What the kernel says of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its number.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Whether the administrator took it up (`IFF_UP`).
    pub(crate) up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub(crate) carrier: bool,
    /// Its hardware address.
    pub(crate) mac: Vec<u8>,
}

/// What the kernel says of an address.
#[expect(clippy::struct_field_names, reason = "as `ip` calls it")]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    /// The number of its interface.
    pub(crate) index: u32,
    /// The address.
    pub(crate) address: IpAddr,
    /// The length of its prefix.
    pub(crate) prefix: u8,
    /// Its label, for IPv4.
    pub(crate) label: Option<String>,
}

/// Reads an `RTM_NEWLINK` or `RTM_DELLINK` (`struct ifinfomsg` and attributes).
pub(crate) fn read_interface(message: &Message) -> Option<Interface> {
    let body = &message.body;
    let flags = word(body, 8).ok()?;
    let mut interface = Interface {
        index: word(body, 4).ok()?,
        name: String::new(),
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: flags & libc::IFF_LOWER_UP as u32 != 0,
        mac: Vec::new(),
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                interface.name = text(value);
            }
            libc::IFLA_ADDRESS => interface.mac = value.to_vec(),
            _ => {}
        }
    }
    (!interface.name.is_empty()).then_some(interface)
}

/// Reads an `RTM_NEWADDR` or `RTM_DELADDR` (`struct ifaddrmsg` and attributes).
pub(crate) fn read_address(message: &Message) -> Option<Address> {
    let body = &message.body;
    let (mut address, mut local, mut label) = (None, None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            libc::IFA_ADDRESS => address = ip(value),
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_LABEL => label = Some(text(value)),
            _ => {}
        }
    }
    // On a point-to-point link `IFA_ADDRESS` is the other end; `IFA_LOCAL` is always ours.
    Some(Address { index: word(body, 4).ok()?, address: local.or(address)?, prefix: body[1], label })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(change.to_ne_bytes());
    header
}

/// rtnetlink in one namespace.
pub(crate) struct Links(Netlink);

impl Links {
    /// Opens it.
    pub(crate) fn open(namespace: BorrowedFd<'_>) -> Result<Self> {
        Netlink::open(namespace, libc::NETLINK_ROUTE, &[]).map(Self).doing(|| "opening rtnetlink".into())
    }

    /// All interfaces.
    pub(crate) fn interfaces(&mut self) -> Result<Vec<Interface>> {
        let answers = self
            .0
            .request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &link_header(0, 0, 0))
            .doing(|| "listing interfaces".into())?;
        Ok(answers.iter().filter_map(read_interface).collect())
    }

    /// One interface.
    pub(crate) fn interface(&mut self, name: &str) -> Result<Interface> {
        self.try_interface(name)?.ok_or_else(|| Error::wrong(format!("there is no interface {name}")))
    }

    /// One interface, if it is there.
    pub(crate) fn try_interface(&mut self, name: &str) -> Result<Option<Interface>> {
        let body = Body::new(&link_header(0, 0, 0)).text(libc::IFLA_IFNAME, name);
        match self.0.request(libc::RTM_GETLINK, 0, body.bytes()) {
            Ok(answers) => Ok(answers.iter().find_map(read_interface)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error).doing(|| format!("looking for the interface {name}")),
        }
    }

    /// Makes a bridge without spanning tree that forwards at once and floods multicast, and takes it up.
    pub(crate) fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<u32> {
        let settings = Body::default()
            .number(IFLA_BR_STP_STATE, 0)
            .number(IFLA_BR_FORWARD_DELAY, 0)
            .with(IFLA_BR_MCAST_SNOOPING, &[0]);
        let body = Body::new(&link_header(0, libc::IFF_UP as u32, libc::IFF_UP as u32))
            .text(libc::IFLA_IFNAME, name)
            .with(libc::IFLA_ADDRESS, &mac)
            .number(libc::IFLA_MTU, mtu)
            .nest(
                libc::IFLA_LINKINFO,
                Body::default().text(libc::IFLA_INFO_KIND, "bridge").nest(libc::IFLA_INFO_DATA, settings),
            );
        self.0
            .request(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body.bytes())
            .doing(|| format!("making the bridge {name}"))?;
        Ok(self.interface(name)?.index)
    }

    /// Makes an interface of a kind, down. Its number.
    pub(super) fn add_link(
        &mut self,
        name: &str,
        kind: &str,
        mac: [u8; 6],
        mtu: u32,
        settings: Body,
    ) -> Result<u32> {
        let body = Body::new(&link_header(0, 0, 0))
            .text(libc::IFLA_IFNAME, name)
            .with(libc::IFLA_ADDRESS, &mac)
            .number(libc::IFLA_MTU, mtu)
            .nest(
                libc::IFLA_LINKINFO,
                Body::default().text(libc::IFLA_INFO_KIND, kind).nest(libc::IFLA_INFO_DATA, settings),
            );
        self.0
            .request(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body.bytes())
            .doing(|| format!("making the {kind} {name}"))?;
        Ok(self.interface(name)?.index)
    }

    /// Puts an interface, which has to be down for a bond, into a bridge or bond.
    pub(super) fn enslave(&mut self, name: &str, master: u32) -> Result<()> {
        let index = self.interface(name)?.index;
        let body = Body::new(&link_header(index, 0, 0)).number(libc::IFLA_MASTER, master);
        self.0
            .request(libc::RTM_SETLINK, 0, body.bytes())
            .map(drop)
            .doing(|| format!("plugging {name} into what it belongs to"))
    }

    /// Makes a cable: one end here, plugged into the bridge or bond numbered `bridge`, the other in another namespace. Both ends are down.
    pub(crate) fn add_cable(
        &mut self,
        here: &End<'_>,
        there: &End<'_>,
        other: BorrowedFd<'_>,
        bridge: u32,
    ) -> Result<()> {
        let peer = Body::new(&link_header(0, 0, 0))
            .text(libc::IFLA_IFNAME, there.name)
            .with(libc::IFLA_ADDRESS, &there.mac)
            .number(libc::IFLA_MTU, there.mtu)
            .number(libc::IFLA_NET_NS_FD, other.as_raw_fd().cast_unsigned());
        let body = Body::new(&link_header(0, 0, 0))
            .text(libc::IFLA_IFNAME, here.name)
            .with(libc::IFLA_ADDRESS, &here.mac)
            .number(libc::IFLA_MTU, here.mtu)
            .nest(
                libc::IFLA_LINKINFO,
                Body::default()
                    .text(libc::IFLA_INFO_KIND, "veth")
                    .nest(libc::IFLA_INFO_DATA, Body::default().nest(VETH_INFO_PEER, peer)),
            );
        let what = || format!("making the cable {} - {}", here.name, there.name);
        self.0.request(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body.bytes()).doing(what)?;
        self.enslave(here.name, bridge)
    }

    /// Takes an interface up or down.
    pub(crate) fn set_up(&mut self, name: &str, up: bool) -> Result<()> {
        let index = self.interface(name)?.index;
        let bit = libc::IFF_UP as u32;
        self.0
            .request(libc::RTM_SETLINK, 0, &link_header(index, if up { bit } else { 0 }, bit))
            .doing(|| format!("taking {name} {}", if up { "up" } else { "down" }))?;
        Ok(())
    }

    /// Removes an interface; `false` if there was none.
    pub(crate) fn remove(&mut self, name: &str) -> Result<bool> {
        let Some(interface) = self.try_interface(name)? else { return Ok(false) };
        match self.0.request(libc::RTM_DELLINK, 0, &link_header(interface.index, 0, 0)) {
            Ok(_) => Ok(true),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error).doing(|| format!("removing {name}")),
        }
    }

    /// Adds an address as ifupdown does: with a broadcast address, its label or the interface's name as label, and for IPv6 without
    /// duplicate address detection unless `detect`. One that is there is left alone.
    pub(crate) fn add_address(&mut self, interface: &str, address: &LinkAddress, detect: bool) -> Result<()> {
        let index = self.interface(interface)?.index;
        let prefix = address.prefix();
        let mut header = vec![family(prefix.address), prefix.length, 0, 0];
        header.extend(index.to_ne_bytes());
        let bytes = octets(prefix.address);
        let mut body = Body::new(&header).with(libc::IFA_LOCAL, &bytes).with(libc::IFA_ADDRESS, &bytes);
        match prefix.address {
            IpAddr::V4(address_v4) => {
                if prefix.length < 31 {
                    let broadcast = address_v4.to_bits() | u32::MAX >> prefix.length;
                    body = body.with(libc::IFA_BROADCAST, &broadcast.to_be_bytes());
                }
                body = body.text(libc::IFA_LABEL, address.label().unwrap_or(interface));
            }
            IpAddr::V6(_) if !detect => body = body.number(libc::IFA_FLAGS, libc::IFA_F_NODAD),
            IpAddr::V6(_) => {}
        }
        match self.0.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body.bytes()) {
            Ok(_) => Ok(()),
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            Err(error) => Err(error).doing(|| format!("adding {prefix} to {interface}")),
        }
    }

    /// The IPv6 addresses by which neighbours can be asked for already: link-local ones that no detection holds back, by the number of
    /// their interface.
    pub(crate) fn link_locals(&mut self) -> Result<Vec<u32>> {
        // `struct ifaddrmsg`.
        let request = [INET6, 0, 0, 0, 0, 0, 0, 0];
        let what = || "listing addresses".to_owned();
        let messages = self.0.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &request).doing(what)?;
        let usable = |message: &Message| {
            // More flags than fit into the header's byte are in an attribute of their own.
            let flags = attributes(message.body.get(8..)?)
                .into_iter()
                .find(|(kind, _)| *kind == libc::IFA_FLAGS)
                .map_or_else(
                    || message.body.get(2).map(|byte| u32::from(*byte)),
                    |(_, value)| word(value, 0).ok(),
                )?;
            let Address { index, address: IpAddr::V6(address), .. } = read_address(message)? else {
                return None;
            };
            let held_back = flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) != 0;
            (address.is_unicast_link_local() && !held_back).then_some(index)
        };
        Ok(messages.iter().filter_map(usable).collect())
    }

    /// Adds a route; one that is there is left alone.
    pub(crate) fn add_route(&mut self, route: &Route) -> Result<()> {
        let what = || {
            let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
            format!("adding the route to {}{via}", route.to)
        };
        let version = match (route.to, route.via.or(route.source)) {
            (Destination::Network(prefix), _) => family(prefix.address),
            (Destination::Default, Some(address)) => family(address),
            (Destination::Default, None) => INET,
        };
        let length = match route.to {
            Destination::Network(prefix) => prefix.length,
            Destination::Default => 0,
        };
        let scope = if route.via.is_some() || version == INET6 {
            libc::RT_SCOPE_UNIVERSE
        } else {
            libc::RT_SCOPE_LINK
        };
        // `struct rtmsg`: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
        let mut header =
            vec![version, length, 0, 0, libc::RT_TABLE_MAIN, RTPROT_STATIC, scope, libc::RTN_UNICAST];
        header.extend(0_u32.to_ne_bytes());
        let mut body = Body::new(&header);
        if let Destination::Network(prefix) = route.to {
            body = body.with(libc::RTA_DST, &octets(prefix.address));
        }
        if let Some(via) = route.via {
            body = body.with(libc::RTA_GATEWAY, &octets(via));
        }
        if let Some(interface) = &route.interface {
            body = body.number(libc::RTA_OIF, self.interface(interface)?.index);
        }
        if let Some(source) = route.source {
            body = body.with(libc::RTA_PREFSRC, &octets(source));
        }
        match self.0.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body.bytes()) {
            Ok(_) => Ok(()),
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            Err(error) => Err(error).doing(what),
        }
    }
}

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its hardware address.
    pub(crate) mac: [u8; 6],
    /// Bytes above the Ethernet header.
    pub(crate) mtu: u32,
}

/// Makes an interface of the calling thread's namespace compute its checksums and cut its segments itself, so that what is captured is
/// what a wire would carry. Checked by reading back.
pub(crate) fn plain_frames(name: &str) -> io::Result<()> {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    /// `SIOCETHTOOL` and commands of `linux/ethtool.h`: set, get.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const FEATURES: [(u32, u32, &str); 4] = [
        (0x1f, 0x1e, "TSO"),
        (0x24, 0x23, "GSO"),
        (0x2c, 0x2b, "GRO"),
        // Last: TSO needs it.
        (0x17, 0x16, "transmit checksums"),
    ];
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let call = |command: u32, data: u32| -> io::Result<u32> {
        let mut value = Value { command, data };
        // SAFETY: `ifreq` is plain data; all zeroes is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value that it points to outlive the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(value.data)
    };
    for (set, get, what) in FEATURES {
        call(set, 0)?;
        if call(get, 0)? != 0 {
            return Err(io::Error::other(format!("{name}: {what} cannot be switched off")));
        }
    }
    Ok(())
}
