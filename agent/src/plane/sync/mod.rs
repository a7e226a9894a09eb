//! Connection synchronisation: the kernel's two daemons, the guard against resets after a takeover, and what can be known of
//! both.
//!
//! Every director that synchronises runs a master and a backup daemon, always, whatever VRRP says: stopping a master throws away
//! what it has yet to send (`stop_sync_thread`, net/netfilter/ipvs/ip_vs_sync.c), and that is what a successor needs. So a daemon is
//! replaced only where it really differs, and put back when somebody stopped it.

pub(crate) mod guard;
mod header;
mod kernel;
mod monitor;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use bascule_crds::{DirectorConfigSpec, director::ConnectionSync};
use bascule_ipvs::{Daemon, DaemonRole};

use crate::reconcile::ledger::Entry as LedgerEntry;

pub use guard::{ARMED, Guard};
pub(crate) use kernel::{Io, Kernel};
pub use monitor::{PeerState, SyncState};
pub(crate) use worker::SyncPlane;

/// Both, the receiver first: what a peer sends meanwhile is not lost.
pub(crate) const ROLES: [DaemonRole; 2] = [DaemonRole::Backup, DaemonRole::Master];

/// IP_VS_SYNC_GROUP.
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81));
/// IP_VS_SYNC_PORT.
const PORT: u16 = 8848;
/// The MTU that the kernel reckons with where no length is given: a master always, a backup at least (`start_sync_thread`).
const MTU: u16 = 1500;
/// The shortest that the kernel allows a backup.
const SHORTEST_BACKUP: u16 = 1024;

/// What is wanted of the daemons, with the kernel's defaults filled in as it reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The interface of the multicast.
    pub interface: String,
    /// 1 to 255.
    pub sync_id: u8,
    /// Multicast group.
    pub group: IpAddr,
    /// UDP port.
    pub port: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Longest message in bytes; none is the kernel's choice.
    pub max_length: Option<u16>,
}

/// What a director wants; none without `connectionSync`.
pub fn desired(director: &DirectorConfigSpec) -> Option<Wanted> {
    director.connection_sync.as_ref().map(Wanted::of)
}

impl Wanted {
    fn of(sync: &ConnectionSync) -> Self {
        Self {
            interface: sync.interface.clone(),
            sync_id: sync.sync_id,
            group: sync.group.unwrap_or(GROUP),
            port: sync.port.unwrap_or(PORT),
            ttl: sync.ttl.unwrap_or(1),
            max_length: sync.max_length,
        }
    }

    /// IP and UDP header.
    fn headers(&self) -> u16 {
        if self.group.is_ipv4() { 20 + 8 } else { 40 + 8 }
    }

    /// What the kernel takes when no length is given and the link's MTU is the usual one.
    fn usual_length(&self) -> u16 {
        MTU - self.headers()
    }

    /// The length that a daemon is started with.
    ///
    /// The receiver is never made shorter than usual: a peer that was not told of a small `maxLength` yet still sends long
    /// messages, and what does not fit is cut off and lost.
    fn length(&self, role: DaemonRole) -> Option<u16> {
        let longest = u16::MAX - self.headers();
        let length = self.max_length.map(|length| length.min(longest));
        match role {
            DaemonRole::Master => length,
            DaemonRole::Backup => length.filter(|length| *length > self.usual_length()),
        }
    }

    /// The daemon of a role, to be started.
    pub fn daemon(&self, role: DaemonRole) -> Daemon {
        Daemon {
            role,
            interface: self.interface.clone(),
            sync_id: self.sync_id,
            max_length: self.length(role),
            group: Some(self.group),
            port: Some(self.port),
            ttl: Some(self.ttl),
        }
    }

    /// Whether a running daemon is what is wanted. The kernel reports what it took for what was left out; before Linux 4.3 it
    /// reports nothing of it.
    pub fn is(&self, held: &Daemon) -> bool {
        let length = self.length(held.role);
        let fits = held.max_length.is_none_or(|held_length| match held.role {
            DaemonRole::Master => held_length == length.unwrap_or(self.usual_length()),
            // By default it has what the MTU was when it was started. Longer than needed does no harm, and a restart would.
            DaemonRole::Backup => held_length >= length.unwrap_or(self.usual_length()).max(SHORTEST_BACKUP),
        });
        held.interface == self.interface
            && held.sync_id == self.sync_id
            && held.group.unwrap_or(GROUP) == self.group
            && held.port.unwrap_or(PORT) == self.port
            && (held.role == DaemonRole::Backup || held.ttl.unwrap_or(1) == self.ttl)
            && fits
    }
}

/// What this agent started or made, as noted in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Note {
    /// A daemon, with the index that its interface had. A daemon keeps to that index: when the interface goes and one of the same
    /// name comes, it runs on and neither sends nor hears anything.
    Daemon {
        /// The number of the role.
        role: u32,
        /// The interface's index.
        index: u32,
    },
    /// What the guard's table looked like after its last commit.
    Guard(String),
}

impl LedgerEntry for Note {
    fn line(&self) -> String {
        match self {
            Self::Daemon { role, index } => format!("daemon {role} {index}"),
            Self::Guard(fingerprint) => format!("guard {fingerprint}"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["daemon", role, index] => {
                Some(Self::Daemon { role: role.parse().ok()?, index: index.parse().ok()? })
            }
            ["guard", fingerprint] if !fingerprint.is_empty() => Some(Self::Guard(fingerprint.to_owned())),
            _ => None,
        }
    }
}

/// The index under which this agent started the daemon of a role.
pub(crate) fn started<'a>(notes: impl IntoIterator<Item = &'a Note>, of: DaemonRole) -> Option<u32> {
    notes.into_iter().find_map(|note| match note {
        Note::Daemon { role, index } if *role == of.number() => Some(*index),
        _ => None,
    })
}

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The daemons that run.
    pub daemons: Vec<Daemon>,
    /// Index of the wanted interface; none while it is not there.
    pub link: Option<u32>,
}

impl Observed {
    /// The daemon of a role.
    pub fn daemon(&self, role: DaemonRole) -> Option<&Daemon> {
        self.daemons.iter().find(|daemon| daemon.role == role)
    }
}

/// Starts or stops a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Starts it; its interface has this index.
    Start(Daemon, u32),
    /// Stops it, and why.
    Stop(DaemonRole, &'static str),
}

impl Op {
    /// The kind, as in reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start(..) => "start-sync-daemon",
            Self::Stop(..) => "stop-sync-daemon",
        }
    }

    /// Which daemon.
    pub fn role(&self) -> DaemonRole {
        match self {
            Self::Start(daemon, _) => daemon.role,
            Self::Stop(role, _) => *role,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(daemon, _) => {
                write!(
                    f,
                    "start the {} daemon on {}, syncId {}",
                    daemon.role, daemon.interface, daemon.sync_id
                )?;
                if let (Some(group), Some(port)) = (daemon.group, daemon.port) {
                    write!(f, ", group {group} port {port}")?;
                }
                daemon.max_length.map_or(Ok(()), |length| write!(f, ", messages of at most {length} bytes"))
            }
            Self::Stop(role, why) => write!(f, "stop the {role} daemon ({why})"),
        }
    }
}

/// What to do, and what stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Op>,
    /// Daemons that would be started if their interface were there.
    pub homeless: Vec<DaemonRole>,
}

/// Plans both daemons. `started` tells of a role with what index this agent started it; none when somebody else did.
pub fn plan(
    desired: Option<&Wanted>,
    observed: &Observed,
    started: impl Fn(DaemonRole) -> Option<u32>,
) -> Plan {
    let mut plan = Plan::default();
    for role in ROLES {
        let held = observed.daemon(role);
        let Some(wanted) = desired else {
            // What somebody else started stays.
            if held.is_some() && started(role).is_some() {
                plan.ops.push(Op::Stop(role, "connectionSync is no longer wanted"));
            }
            continue;
        };
        let stop = match held {
            None => None,
            // Stopping a master throws away what it has yet to send: only for a real difference.
            Some(held) if !wanted.is(held) => Some("it has other parameters"),
            Some(_) => match (started(role), observed.link) {
                (Some(then), Some(now)) if then != now => Some("its interface was made anew"),
                _ => continue,
            },
        };
        match observed.link {
            // Until there is something better, the old one runs on.
            None => plan.homeless.push(role),
            Some(index) => {
                plan.ops.extend(stop.map(|why| Op::Stop(role, why)));
                plan.ops.push(Op::Start(wanted.daemon(role), index));
            }
        }
    }
    plan
}

/// What is said of a daemon whose interface is not there.
pub(crate) fn homeless(wanted: &Wanted) -> String {
    format!(
        "there is no interface {}; create it or correct connectionSync.interface; the agent waits for it",
        wanted.interface
    )
}
