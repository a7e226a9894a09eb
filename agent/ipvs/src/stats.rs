//! Counters of services and destinations.

/// Counters since the entry was made or zeroed, and rates over the last seconds as the kernel's estimator sees them
/// (IPVS_STATS_ATTR_*).
///
/// The kernel's estimator adds everything up every 2 s, so that all of it, not only the rates, is up to 2 s old; with the sysctl
/// `net.ipv4.vs.run_estimation = 0` (Linux 6.2) it stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stats64 {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients; only masquerading sees them.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients; only masquerading sees them.
    pub bytes_out: u64,
    /// Connections per second.
    pub connections_per_second: u64,
    /// Packets per second from clients.
    pub packets_in_per_second: u64,
    /// Packets per second to clients.
    pub packets_out_per_second: u64,
    /// Bytes per second from clients.
    pub bytes_in_per_second: u64,
    /// Bytes per second to clients.
    pub bytes_out_per_second: u64,
    /// The kernel (before 4.1) sent 32-bit counters only: `connections` and the packets wrap at 2^32.
    pub narrow: bool,
}
