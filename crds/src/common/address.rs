//! Addresses, ranges of them, and networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::string_serde;

string_serde!(AddressOrRange);
string_serde!(AddressPrefix);

/// An address, or all addresses from one to another: `192.16.193.30`, `10.0.0.1-10.0.0.8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressOrRange {
    /// The (first) address.
    pub first: IpAddr,
    /// The last address, equal to `first` for a single one; of the same family and not below it.
    pub last: IpAddr,
}

impl AddressOrRange {
    /// A single address.
    pub const fn single(address: IpAddr) -> AddressOrRange {
        AddressOrRange { first: address, last: address }
    }

    /// The family of all its addresses.
    pub const fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Every address, from the first to the last. What the schema accepts has at most 256.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, last) = (number(self.first), number(self.last));
        let family = self.family();
        (first..=last).map(move |number| match family {
            // The number came from an Ipv4Addr: it fits.
            Family::IPv4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            Family::IPv6 => IpAddr::V6(Ipv6Addr::from(number)),
        })
    }

    /// True when the address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family()
            && (number(self.first)..=number(self.last)).contains(&number(address))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl From<IpAddr> for AddressOrRange {
    fn from(address: IpAddr) -> Self {
        AddressOrRange::single(address)
    }
}

impl fmt::Display for AddressOrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last == self.first { Ok(()) } else { write!(f, "-{}", self.last) }
    }
}

impl FromStr for AddressOrRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is neither an address nor a range A-B of addresses");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = AddressOrRange {
            first: first.parse().map_err(|_| bad())?,
            last: last.parse().map_err(|_| bad())?,
        };
        let ordered = Family::of(range.last) == range.family() && number(range.first) <= number(range.last);
        if ordered { Ok(range) } else { Err(bad()) }
    }
}

/// An address with the length of its prefix: `192.16.193.30/32`. Without a length it is the address alone (/32, /128).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressPrefix {
    /// The address, host bits and all.
    pub address: IpAddr,
    /// Bits of the prefix: at most 32 for IPv4 and 128 for IPv6.
    pub length: u8,
}

impl AddressPrefix {
    /// The family of the address.
    pub const fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// The network: the address without host bits.
    #[must_use]
    pub fn network(&self) -> AddressPrefix {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
            }
        };
        AddressPrefix { address, length: self.length }
    }

    /// True when the address lies in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let width = self.family().width();
        Family::of(address) == self.family()
            && (self.length == 0
                || number(address) >> (width - self.length) == number(self.address) >> (width - self.length))
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for AddressPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an address with a prefix length such as 192.0.2.1/24");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let width = Family::of(address).width();
        let length = length.map_or(Ok(width), str::parse).map_err(|_| bad())?;
        if length <= width { Ok(AddressPrefix { address, length }) } else { Err(bad()) }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Family {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::IPv4,
            IpAddr::V6(_) => Family::IPv6,
        }
    }

    /// Bits of an address.
    pub const fn width(self) -> u8 {
        match self {
            Family::IPv4 => 32,
            Family::IPv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::IPv4 => "IPv4",
            Family::IPv6 => "IPv6",
        })
    }
}
