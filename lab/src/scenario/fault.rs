//! What can be broken in a lab, named for what really happens. Each has a heal; each proves that it took effect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::topology::Name;
use super::value::{BitRate, Percent, Span};

/// One fault. Exactly one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Fault {
    /// The interface is taken down by the administrator (`ip link set down`, as `ifdown enp0s3` does): its routes go, the peer
    /// loses the carrier. Healed by taking it up again, with the addresses and routes of the topology.
    AdminDown(InterfaceFault),
    /// The cable is pulled: the interface stays up without carrier (its bridge port goes down). Healed by plugging it in.
    CarrierLost(CarrierFault),
    /// Frames vanish and the carrier stays, as with a broken switch. Healed by letting them pass again.
    Blackhole(Blackhole),
    /// Every thread of the agent (or of the peer program in its place) is stopped (SIGSTOP, cgroup freezer); the node's kernel forwards
    /// on. Healed by letting it run.
    FreezeAgent(NodeFault),
    /// All processes of the node are stopped and its frames are cut, both ways, as when a hypervisor pauses a machine. Healed by resuming both.
    FreezeNode(NodeFault),
    /// The agent (or the peer program in its place) is killed with SIGKILL. Healed by starting it again.
    KillAgent(NodeFault),
    /// The machine loses power: frames are cut first (no FIN, no RST leaves it), then processes and kernel state are gone. Its
    /// disk is kept. Healed by booting it: links, addresses, routes, sysctls, start commands, servers, agent.
    Crash(NodeFault),
    /// A crash and a boot at once. Kernel state and `/run` are gone, the disk is kept. Needs no heal.
    Reboot(NodeFault),
    /// Frames between the groups of nodes vanish on a network; inside a group they pass. Healed by joining them again.
    Partition(Partition),
    /// A server (or the peer program) of a node is stopped with SIGTERM. Healed by starting it again.
    StopService(ServiceFault),
    /// A bad cable or a narrow one: frames are lost, late, doubled, out of order, or come only so fast. Needs `netem` in the kernel, which
    /// need not be said in `requires`. The queue holds 1000 frames. Stays over a reboot; healed by a good cable.
    Impair(Impair),
    /// Somebody's packet filter drops what is for a port: a table of nftables of the lab's own in the node, before address translation and
    /// IPVS. A reboot takes it away; healed by deleting the table.
    PacketFilter(PacketFilter),
    /// `/run` of the node is full, where the agent keeps its ledgers: writing there fails with ENOSPC. Healed by room.
    DiskFull(NodeFault),
    /// The wall clock of the machine jumps (CLOCK_REALTIME, which has no namespace: that of all nodes); timers go on. Only in the virtual
    /// machine: elsewhere the scenario is `unsupported`. Healed by jumping back; the end of the run heals it, too.
    ClockStep(ClockStep),
}

/// The interface of a node that a fault hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InterfaceFault {
    /// The node.
    pub node: Name,
    /// Its interface, such as `enp0s3`.
    pub interface: Name,
}

/// The cable that is pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CarrierFault {
    /// The node.
    pub node: Name,
    /// Its interface; all of them at once unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Name>,
}

/// Frames that vanish on one end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blackhole {
    /// The node.
    pub node: Name,
    /// Its interface.
    pub interface: Name,
    /// Which frames vanish. Both directions unless told.
    #[serde(default)]
    pub direction: Direction,
}

/// A direction, seen from the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// Frames to and from the node.
    #[default]
    Both,
    /// Frames to the node.
    In,
    /// Frames from the node.
    Out,
}

/// The node that a fault hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeFault {
    /// The node.
    pub node: Name,
}

/// Nodes that no longer hear one another on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Partition {
    /// The network.
    pub network: Name,
    /// At least two groups of nodes. A node in no group hears all.
    #[schemars(length(min = 2, max = 16))]
    pub groups: Vec<Vec<Name>>,
}

/// The service of a node that a fault hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceFault {
    /// The node.
    pub node: Name,
    /// The name of one of its `servers`, or of its peer program (`keepalived`).
    pub service: Name,
}

/// What is wrong with one end of a link. At least one of the fields after `direction`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Impair {
    /// The node.
    pub node: Name,
    /// Its interface.
    pub interface: Name,
    /// Which frames it hits. Both directions unless told, each for itself: a delay of 50 ms makes a round trip 100 ms longer.
    #[serde(default)]
    pub direction: Direction,
    /// How many frames are lost, each by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Percent>,
    /// How much later frames come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// With `delay`: by how much that varies, both ways. At most the delay. Frames overtake each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
    /// How many frames come twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Percent>,
    /// With `delay`: how many frames come without it, before those that were sent earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reorder: Option<Percent>,
    /// How fast frames come at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<BitRate>,
}

/// What a packet filter drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PacketFilter {
    /// The node.
    pub node: Name,
    /// The protocol.
    pub protocol: Transport,
    /// The destination port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Packets that come to the node, or those that leave it; what it forwards does both. Both unless told.
    #[serde(default)]
    pub direction: Direction,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its name, as nftables writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// By how much the wall clock jumps. Exactly one of the two; an hour to a year, so that the times of recorded frames cannot be taken for
/// those of other moments of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-exactly-one" = ["forward", "back"]))]
pub struct ClockStep {
    /// Into the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Span>,
    /// Into the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Span>,
}

impl ClockStep {
    /// Nanoseconds, below zero into the past.
    pub fn nanoseconds(&self) -> i128 {
        let length = |span: Option<Span>| {
            span.map_or(0, |span| i128::try_from(span.get().as_nanos()).unwrap_or(i128::MAX / 4))
        };
        length(self.forward) - length(self.back)
    }
}

impl Impair {
    /// What is wrong, in words: `30% lost, 100ms late`.
    pub fn words(&self) -> String {
        let late = match (self.delay, self.jitter) {
            (Some(delay), Some(jitter)) => Some(format!("{delay} ± {jitter} late")),
            (Some(delay), None) => Some(format!("{delay} late")),
            (None, _) => None,
        };
        let parts = [
            self.loss.map(|loss| format!("{loss} lost")),
            late,
            self.duplicate.map(|duplicate| format!("{duplicate} twice")),
            self.reorder.map(|reorder| format!("{reorder} out of order")),
            self.rate.map(|rate| format!("at most {rate}")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl Direction {
    /// What is put behind the name of an interface; nothing for both.
    fn suffix(self) -> &'static str {
        match self {
            Self::Both => "",
            Self::In => " in",
            Self::Out => " out",
        }
    }
}

impl Fault {
    /// The name of the kind, as it is written in a scenario.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AdminDown(_) => "adminDown",
            Self::CarrierLost(_) => "carrierLost",
            Self::Blackhole(_) => "blackhole",
            Self::FreezeAgent(_) => "freezeAgent",
            Self::FreezeNode(_) => "freezeNode",
            Self::KillAgent(_) => "killAgent",
            Self::Crash(_) => "crash",
            Self::Reboot(_) => "reboot",
            Self::Partition(_) => "partition",
            Self::StopService(_) => "stopService",
            Self::Impair(_) => "impair",
            Self::PacketFilter(_) => "packetFilter",
            Self::DiskFull(_) => "diskFull",
            Self::ClockStep(_) => "clockStep",
        }
    }

    /// The node that it hits; none for a partition and for the clock, which is everybody's.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::AdminDown(fault) => Some(&fault.node),
            Self::CarrierLost(fault) => Some(&fault.node),
            Self::Blackhole(fault) => Some(&fault.node),
            Self::FreezeAgent(fault)
            | Self::FreezeNode(fault)
            | Self::KillAgent(fault)
            | Self::Crash(fault)
            | Self::Reboot(fault)
            | Self::DiskFull(fault) => Some(&fault.node),
            Self::StopService(fault) => Some(&fault.node),
            Self::Impair(fault) => Some(&fault.node),
            Self::PacketFilter(fault) => Some(&fault.node),
            Self::Partition(_) | Self::ClockStep(_) => None,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::AdminDown(fault) => write!(f, " {} {}", fault.node, fault.interface),
            Self::CarrierLost(CarrierFault { node, interface: Some(interface) }) => {
                write!(f, " {node} {interface}")
            }
            Self::CarrierLost(fault) => write!(f, " {} all", fault.node),
            Self::Blackhole(fault) => {
                write!(f, " {} {}{}", fault.node, fault.interface, fault.direction.suffix())
            }
            Self::FreezeAgent(fault)
            | Self::FreezeNode(fault)
            | Self::KillAgent(fault)
            | Self::Crash(fault)
            | Self::Reboot(fault)
            | Self::DiskFull(fault) => write!(f, " {}", fault.node),
            Self::StopService(fault) => write!(f, " {} {}", fault.node, fault.service),
            Self::Impair(fault) => {
                let suffix = fault.direction.suffix();
                write!(f, " {} {}{suffix}: {}", fault.node, fault.interface, fault.words())
            }
            Self::PacketFilter(fault) => {
                let (protocol, suffix) = (fault.protocol.name(), fault.direction.suffix());
                write!(f, " {} {protocol} {}{suffix}", fault.node, fault.port)
            }
            Self::ClockStep(ClockStep { forward, back }) => {
                for (way, span) in [("forward", forward), ("back", back)] {
                    if let Some(span) = span {
                        write!(f, " {span} {way}")?;
                    }
                }
                Ok(())
            }
            Self::Partition(fault) => {
                write!(f, " {} ", fault.network)?;
                for (index, group) in fault.groups.iter().enumerate() {
                    if index > 0 {
                        f.write_str(" | ")?;
                    }
                    f.write_str(&group.iter().map(|name| &**name).collect::<Vec<_>>().join(","))?;
                }
                Ok(())
            }
        }
    }
}
