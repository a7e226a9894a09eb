//! Sync daemons, timeouts and version.

use std::{fmt, net::IpAddr};

/// Which of the two sync daemons of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DaemonRole {
    /// Sends connections (IP_VS_STATE_MASTER).
    Master,
    /// Receives them (IP_VS_STATE_BACKUP).
    Backup,
}

impl DaemonRole {
    /// IP_VS_STATE_*.
    pub fn number(self) -> u32 {
        match self {
            Self::Master => 1,
            Self::Backup => 2,
        }
    }
}

impl fmt::Display for DaemonRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Backup => "backup",
        })
    }
}

/// A sync daemon: at most one of each role in a network namespace.
///
/// What is `None` when written is the kernel's default; read back from Linux 4.3 or later it holds the default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Daemon {
    /// Sends or receives.
    pub role: DaemonRole,
    /// The interface of the multicast, 1 to 15 bytes; it must be there and, to be of use, up.
    pub interface: String,
    /// 0 to 255. A backup with 0 takes what any master sends.
    pub sync_id: u8,
    /// Largest payload in bytes; default: what the interface's MTU leaves.
    pub max_length: Option<u16>,
    /// Multicast group; default 224.0.0.81.
    pub group: Option<IpAddr>,
    /// First UDP port; default 8848.
    pub port: Option<u16>,
    /// Time to live of the datagrams; default 1.
    pub ttl: Option<u8>,
}

impl Daemon {
    /// A daemon with the kernel's defaults.
    pub fn new(role: DaemonRole, interface: impl Into<String>, sync_id: u8) -> Self {
        Self {
            role,
            interface: interface.into(),
            sync_id,
            max_length: None,
            group: None,
            port: None,
            ttl: None,
        }
    }
}

/// How long connections without traffic are kept, in seconds (`ipvsadm --set`).
///
/// When written, 0 leaves a timeout as it is. When read, 0 means that this kernel does not have the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// Established TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

/// What the kernel says about its IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Info {
    /// Major, minor, patch level; 1.2.1 since Linux 2.6.10.
    pub version: (u8, u8, u8),
    /// Slots of the connection hash table.
    pub connection_table_size: u32,
}
