//! Destinations: the real servers of a service.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::BitOr,
};

use crate::{Family, Stats64};

/// What the kernel tells the destinations of one service apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationId {
    /// The real server's address; with tunnels it may be of another family than the service.
    pub address: IpAddr,
    /// Its port. The service's for anything but masquerading; 0 is the port the client asked for.
    pub port: u16,
}

impl DestinationId {
    /// The family of the address.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// How packets reach a real server (IP_VS_CONN_F_FWD_MASK).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// NAT: replies come back through the director (`ipvsadm -m`).
    Masquerade,
    /// The director itself. The kernel finds that out by itself; `ipvsadm` prints `Local`.
    Local,
    /// Encapsulated (`ipvsadm -i`).
    Tunnel(Tunnel),
    /// By MAC address on a shared network (`ipvsadm -g`).
    DirectRouting,
    /// Past the cache: the kernel uses it for connections of its own; `ipvsadm` has no name for it.
    Bypass,
    /// 5 to 7: no meaning yet, yet the kernel stores them.
    Other(u8),
}

impl Forwarding {
    /// IP_VS_CONN_F_MASQ and so on, 0 to 7.
    pub fn number(self) -> u8 {
        match self {
            Self::Masquerade => 0,
            Self::Local => 1,
            Self::Tunnel(_) => 2,
            Self::DirectRouting => 3,
            Self::Bypass => 4,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masquerade => f.write_str("Masquerade"),
            Self::Local => f.write_str("Local"),
            Self::Tunnel(tunnel) => write!(f, "Tunnel {tunnel}"),
            Self::DirectRouting => f.write_str("DirectRouting"),
            Self::Bypass => f.write_str("Bypass"),
            Self::Other(number) => write!(f, "forwarding {number}"),
        }
    }
}

/// How packets to a real server are encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The encapsulation.
    pub kind: TunnelKind,
    /// Checksums of GUE and GRE.
    pub flags: TunnelFlags,
}

impl Tunnel {
    /// IP in IP, the only one before Linux 5.3.
    pub const IPIP: Self = Self { kind: TunnelKind::Ipip, flags: TunnelFlags::NONE };

    /// GUE to a UDP port, without checksum.
    pub const fn gue(port: u16) -> Self {
        Self { kind: TunnelKind::Gue { port }, flags: TunnelFlags::NONE }
    }

    /// GRE without checksum.
    pub const GRE: Self = Self { kind: TunnelKind::Gre, flags: TunnelFlags::NONE };

    /// The same with these checksum flags.
    #[must_use]
    pub const fn with_flags(self, flags: TunnelFlags) -> Self {
        Self { kind: self.kind, flags }
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TunnelKind::Ipip => f.write_str("IPIP")?,
            TunnelKind::Gue { port } => write!(f, "GUE port {port}")?,
            TunnelKind::Gre => f.write_str("GRE")?,
            TunnelKind::Other { number, port } => write!(f, "type {number} port {port}")?,
        }
        if self.flags != TunnelFlags::NONE {
            write!(f, " {}", self.flags)?;
        }
        Ok(())
    }
}

/// IP_VS_CONN_F_TUNNEL_TYPE_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation.
    Gue {
        /// UDP port of the real server, never 0.
        port: u16,
    },
    /// Generic routing encapsulation.
    Gre,
    /// A type of a newer kernel, never 0 to 2.
    Other {
        /// Its number.
        number: u8,
        /// IPVS_DEST_ATTR_TUN_PORT.
        port: u16,
    },
}

/// IP_VS_TUNNEL_ENCAP_FLAG_*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TunnelFlags(u16);

impl TunnelFlags {
    /// No checksum (`--tun-nocsum`, the default).
    pub const NONE: Self = Self(0);
    /// A checksum in the tunnel's header (`--tun-csum`).
    pub const CHECKSUM: Self = Self(1);
    /// Remote checksum offload, GUE only (`--tun-remcsum`).
    pub const REMOTE_CHECKSUM: Self = Self(2);

    /// The flags with these bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// IP_VS_TUNNEL_ENCAP_FLAG_* as one number.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl BitOr for TunnelFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for TunnelFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("nocsum"),
            Self::CHECKSUM => f.write_str("csum"),
            Self::REMOTE_CHECKSUM => f.write_str("remcsum"),
            Self(bits) => write!(f, "flags {bits:#x}"),
        }
    }
}

/// A real server of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// What it is told apart by.
    pub id: DestinationId,
    /// How packets reach it. Another family than the service's needs a tunnel and no sync daemon.
    pub forwarding: Forwarding,
    /// Its share, 0 to 2^31 - 1; 0 takes no new connection.
    pub weight: u32,
    /// Connections above which it takes no new one; 0 is no limit.
    pub upper_threshold: u32,
    /// Connections below which it takes new ones again, at most `upper_threshold`; 0 is three quarters of that.
    pub lower_threshold: u32,
}

impl Destination {
    /// A real server of weight 1 without limits.
    pub fn new(address: IpAddr, port: u16, forwarding: Forwarding) -> Self {
        Self {
            id: DestinationId { address, port },
            forwarding,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }

    /// The same with another weight.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}

/// A destination as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationEntry {
    /// The destination.
    pub destination: Destination,
    /// Established connections.
    pub active_connections: u32,
    /// Connections in any other state.
    pub inactive_connections: u32,
    /// Persistence templates that point here.
    pub persistent_connections: u32,
    /// Its counters since it was made or zeroed.
    pub stats: Stats64,
}
