//! What can be broken in a lab, named for what really happens. Each has a heal; each proves that it took effect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::topology::Name;

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
    /// Every thread of the agent is stopped (SIGSTOP, cgroup freezer); the node's kernel forwards on. Healed by letting it run.
    FreezeAgent(NodeFault),
    /// All processes of the node are stopped and its frames are cut, both ways, as when a hypervisor pauses a machine. Healed by resuming both.
    FreezeNode(NodeFault),
    /// The agent is killed with SIGKILL. Healed by starting it again.
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
        }
    }

    /// The node that it hits; none for a partition.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::AdminDown(fault) => Some(&fault.node),
            Self::CarrierLost(fault) => Some(&fault.node),
            Self::Blackhole(fault) => Some(&fault.node),
            Self::FreezeAgent(fault)
            | Self::FreezeNode(fault)
            | Self::KillAgent(fault)
            | Self::Crash(fault)
            | Self::Reboot(fault) => Some(&fault.node),
            Self::StopService(fault) => Some(&fault.node),
            Self::Partition(_) => None,
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
                write!(f, " {} {}", fault.node, fault.interface)?;
                match fault.direction {
                    Direction::Both => Ok(()),
                    Direction::In => f.write_str(" in"),
                    Direction::Out => f.write_str(" out"),
                }
            }
            Self::FreezeAgent(fault)
            | Self::FreezeNode(fault)
            | Self::KillAgent(fault)
            | Self::Crash(fault)
            | Self::Reboot(fault) => write!(f, " {}", fault.node),
            Self::StopService(fault) => write!(f, " {} {}", fault.node, fault.service),
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
