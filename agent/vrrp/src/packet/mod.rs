//! Advertisements as bytes: VRRPv2 over IPv4 (RFC 3768 section 5), VRRPv3 over IPv4 and IPv6 (RFC 9568 section 5). Bytes in,
//! bytes out: no socket, no state.

mod checksum;
mod decode;
mod encode;
mod error;
mod ip;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub use checksum::{ChecksumForm, internet_checksum};
pub use decode::{Decoded, decode, peek};
pub use encode::{Path, encode};
pub(crate) use encode::{body, seal_checksum};
pub use error::{DecodeError, EncodeError};
pub use ip::{Datagram, ipv4_datagram};

use crate::timers::Interval;

/// VRRP's number as an IP protocol.
pub const IP_PROTOCOL: u8 = 112;
/// Where advertisements go over IPv4 (RFC 9568 section 5.1.1.2).
pub const MULTICAST_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where advertisements go over IPv6 (RFC 9568 section 5.1.2.2).
pub const MULTICAST_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// TTL or hop limit with which advertisements are sent and, by multicast, accepted: nothing that crossed a router has it.
pub const TTL: u8 = 255;
/// What the active router says when it goes (RFC 9568 section 5.2.4).
pub const PRIORITY_RELEASE: u8 = 0;
/// What only the owner of the addresses says (RFC 9568 section 5.2.4).
pub const PRIORITY_OWNER: u8 = 255;

/// Length of what comes before the addresses, both versions.
const HEADER: usize = 8;
/// Length of version 2's Authentication Data (RFC 3768 section 5.3.10).
pub const SIMPLE: usize = 8;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Version {
    /// RFC 3768: IPv4, whole seconds.
    V2,
    /// RFC 9568: IPv4 and IPv6, hundredths of a second.
    V3,
}

impl Version {
    /// 2 or 3.
    pub const fn number(self) -> u8 {
        match self {
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }
}

/// Address family. Addresses of both are two virtual routers, which may share a VRID (RFC 9568 section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// That of `address`.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }

    /// Where its advertisements go.
    pub const fn multicast(self) -> IpAddr {
        match self {
            Family::Ipv4 => IpAddr::V4(MULTICAST_V4),
            Family::Ipv6 => IpAddr::V6(MULTICAST_V6),
        }
    }

    /// Bytes of an address.
    const fn length(self) -> usize {
        match self {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        }
    }

    /// Most addresses that an advertisement of 1,500 bytes holds beside every header and the trailer; for IPv4 it is the count's
    /// eight bits that end it.
    pub const fn most_addresses(self) -> usize {
        match self {
            Family::Ipv4 => 255,
            Family::Ipv6 => 80,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

/// Authentication of version 2: version 3 has none in the message.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Authentication {
    /// Auth Type 0.
    #[default]
    None,
    /// Auth Type 1 (RFC 2338 section 5.3.6; RFC 3768 took it away, the field spoke on): eight bytes in the clear, shorter
    /// passwords end in zeros.
    Simple([u8; SIMPLE]),
}

impl Authentication {
    /// A simple password; its first eight bytes count, as with every other implementation.
    pub fn simple(password: &[u8]) -> Self {
        let mut data = [0; SIMPLE];
        let length = password.len().min(SIMPLE);
        data[..length].copy_from_slice(&password[..length]);
        Authentication::Simple(data)
    }
}

impl fmt::Debug for Authentication {
    /// Does not show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Authentication::None => "None",
            Authentication::Simple(_) => "Simple(…)",
        })
    }
}

/// An ADVERTISEMENT, the only type of message there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Version.
    pub version: Version,
    /// Virtual router id, 1 to 255.
    pub vrid: u8,
    /// Priority of the sender, 0 (it goes) to 255 (it owns the addresses).
    pub priority: u8,
    /// Adver Int (version 2), Max_Advertise_Interval (version 3).
    pub interval: Interval,
    /// Addresses of the virtual router, 1 to 255, all of one family.
    pub addresses: Vec<IpAddr>,
    /// Version 2's; `None` in version 3.
    pub authentication: Authentication,
}

/// MAC address of a virtual router (RFC 9568 section 7.3).
pub const fn virtual_mac(family: Family, vrid: u8) -> [u8; 6] {
    let family = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    };
    [0x00, 0x00, 0x5e, 0x00, family, vrid]
}

/// The link-local address of an IPv6 virtual router for which none is given (one must be the first that is advertised, RFC 9568
/// section 5.2.9): the same on all members, made of the virtual router's MAC address. It belongs to the virtual router; the
/// members' own addresses must not be made this way (section 7.4).
pub const fn derived_link_local(vrid: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0200, 0x5eff, 0xfe00, 0x0200 | vrid as u16)
}
