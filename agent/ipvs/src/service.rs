//! Virtual services: what a director balances.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::{BitAnd, BitOr, BitOrAssign},
    str::FromStr,
};

use crate::Stats64;

/// An address family, as IPVS knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// AF_INET.
    Ipv4,
    /// AF_INET6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The length of an address in bits: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }

    /// AF_INET or AF_INET6.
    pub(crate) fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    pub(crate) fn from_number(number: u16) -> Option<Self> {
        match number {
            2 => Some(Self::Ipv4),
            10 => Some(Self::Ipv6),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A transport protocol, by its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 132.
    Sctp,
    /// Any other number. The kernel's netlink interface lets anybody make such a service (it balances nothing), so a dump may
    /// hold one. Never a number that has a variant of its own.
    Other(u16),
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Other(number) => number,
        }
    }

    /// The protocol with an IANA number.
    pub fn from_number(number: u16) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Udp => f.write_str("UDP"),
            Self::Sctp => f.write_str("SCTP"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// What the kernel tells services apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceId {
    /// An address, a protocol and a port.
    Address {
        /// The transport protocol.
        protocol: Protocol,
        /// The virtual address.
        address: IpAddr,
        /// The port; 0 is every port that has no service of its own (the kernel wants persistence then).
        port: u16,
    },
    /// A firewall mark (`ipvsadm -f`).
    Fwmark {
        /// The mark, never 0.
        mark: u32,
        /// A mark is one service for each family.
        family: Family,
    },
}

impl ServiceId {
    /// The family of the packets that the service takes.
    pub fn family(&self) -> Family {
        match self {
            Self::Address { address, .. } => Family::of(*address),
            Self::Fwmark { family, .. } => *family,
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { protocol, address, port } => {
                write!(f, "{protocol} {}", SocketAddr::new(*address, *port))
            }
            Self::Fwmark { mark, family } => write!(f, "FWM {mark} {family}"),
        }
    }
}

/// IP_VS_SVC_F_*: the flags of a service that users set. IP_VS_SVC_F_HASHED is the kernel's own and never in here.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceFlags(u32);

impl ServiceFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Connections of one client go to one real server (`ipvsadm -p`).
    pub const PERSISTENT: Self = Self(0x1);
    /// Every datagram is scheduled by itself (`ipvsadm -o`, UDP).
    pub const ONE_PACKET: Self = Self(0x4);
    /// The scheduler's first flag (`-b flag-1`).
    pub const SCHED1: Self = Self(0x8);
    /// The scheduler's second flag (`-b flag-2`).
    pub const SCHED2: Self = Self(0x10);
    /// The scheduler's third flag (`-b flag-3`).
    pub const SCHED3: Self = Self(0x20);
    /// `sh`: another real server when the chosen one has weight 0 (`-b sh-fallback`).
    pub const SH_FALLBACK: Self = Self::SCHED1;
    /// `sh`: the source port takes part in the hash (`-b sh-port`).
    pub const SH_PORT: Self = Self::SCHED2;
    /// `mh`: another real server when the chosen one has weight 0 (`-b mh-fallback`).
    pub const MH_FALLBACK: Self = Self::SCHED1;
    /// `mh`: the source port takes part in the hash (`-b mh-port`).
    pub const MH_PORT: Self = Self::SCHED2;

    /// IP_VS_SVC_F_HASHED: the entry is in the kernel's table.
    const HASHED: u32 = 0x2;

    /// The flags with these bits; the kernel's own bit is dropped.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & !Self::HASHED)
    }

    /// IP_VS_SVC_F_* as one number.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// These flags and `other` if `set`.
    #[must_use]
    pub fn with_if(self, other: Self, set: bool) -> Self {
        if set { self | other } else { self }
    }
}

impl BitOr for ServiceFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ServiceFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for ServiceFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for ServiceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(ServiceFlags, &str); 5] = [
            (ServiceFlags::PERSISTENT, "persistent"),
            (ServiceFlags::ONE_PACKET, "ops"),
            (ServiceFlags::SCHED1, "flag-1"),
            (ServiceFlags::SCHED2, "flag-2"),
            (ServiceFlags::SCHED3, "flag-3"),
        ];
        let mut rest = *self;
        let mut separator = "";
        for (flag, name) in NAMES {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = ",";
                rest = rest.without(flag);
            }
        }
        if rest.0 != 0 {
            write!(f, "{separator}{:#x}", rest.0)?;
        } else if separator.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServiceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceFlags({self})")
    }
}

/// What part of a client's address persistence looks at (`ipvsadm -M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Netmask {
    /// A mask, such as 255.255.255.0. The kernel takes any, also one with holes.
    V4(Ipv4Addr),
    /// The length of a prefix, 1 to 128.
    V6(u8),
}

impl Netmask {
    /// The whole address: what a service without persistence has.
    pub fn host(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::V4(Ipv4Addr::BROADCAST),
            Family::Ipv6 => Self::V6(128),
        }
    }

    /// A prefix length; above the family's length it is the whole address.
    pub fn from_prefix(family: Family, length: u8) -> Self {
        match family {
            Family::Ipv4 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
                Self::V4(Ipv4Addr::from(mask))
            }
            Family::Ipv6 => Self::V6(length.min(128)),
        }
    }

    /// The prefix length; none for an IPv4 mask with holes.
    pub fn prefix(self) -> Option<u8> {
        match self {
            Self::V4(mask) => {
                let bits = u32::from(mask);
                let ones = bits.leading_ones();
                (ones == bits.count_ones()).then(|| u8::try_from(ones).unwrap_or(32))
            }
            Self::V6(length) => Some(length),
        }
    }

    /// The family it is for.
    pub fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::Ipv4,
            Self::V6(_) => Family::Ipv6,
        }
    }
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(mask) => mask.fmt(f),
            Self::V6(length) => length.fmt(f),
        }
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// What it is told apart by.
    pub id: ServiceId,
    /// The scheduler's name, 1 to 15 bytes; [`crate::Scheduler`] lists those known, naming one loads its module.
    pub scheduler: String,
    /// Persistence, one-packet scheduling, the scheduler's flags.
    pub flags: ServiceFlags,
    /// Persistence timeout in seconds; 0 without persistence.
    pub timeout: u32,
    /// Granularity of persistence; [`Netmask::host`] without persistence. Of the family of `id`.
    pub netmask: Netmask,
    /// Persistence engine (`ipvsadm --pe sip`), 1 to 15 bytes.
    pub pe_name: Option<String>,
}

impl Service {
    /// A service without persistence and without flags.
    pub fn new(id: ServiceId, scheduler: impl Into<String>) -> Self {
        Self {
            id,
            scheduler: scheduler.into(),
            flags: ServiceFlags::NONE,
            timeout: 0,
            netmask: Netmask::host(id.family()),
            pe_name: None,
        }
    }

    /// The same with persistence: timeout in seconds, prefix length of the clients that are one.
    #[must_use]
    pub fn persistent(mut self, timeout: u32, prefix: u8) -> Self {
        self.flags |= ServiceFlags::PERSISTENT;
        self.timeout = timeout;
        self.netmask = Netmask::from_prefix(self.id.family(), prefix);
        self
    }
}

/// A service as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The service.
    pub service: Service,
    /// Its counters since it was made or zeroed.
    pub stats: Stats64,
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;
    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|protocol| text.eq_ignore_ascii_case(&protocol.to_string()))
            .ok_or(UnknownProtocol)
    }
}

/// The name is neither TCP, UDP nor SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol (TCP, UDP or SCTP)")]
pub struct UnknownProtocol;
