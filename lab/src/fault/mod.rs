//! Failures, played for real. Each is injected into a running [`World`], proves that it took effect, and can be healed; a fault
//! that has no effect (an interface that is down already, a node that is off) is an error and never a success.

mod impair;
mod machine;
mod network;
mod packet_filter;
mod process;

use crate::scenario::Fault;
use crate::world::{Error, Result, World};

/// The name under which the runner spawns the agent of a node.
pub const AGENT: &str = "agent";

/// What the runner starts after a fault or a heal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing.
    Nothing,
    /// The agent of a node, or the peer program in its place.
    Agent {
        /// The node.
        node: String,
    },
    /// A server or the peer program of a node.
    Service {
        /// The node.
        node: String,
        /// Its name.
        service: String,
    },
    /// All programs of a node: it has just booted.
    Everything {
        /// The node.
        node: String,
    },
}

/// A change that took effect between two times of CLOCK_MONOTONIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// Nanoseconds just before it could take effect.
    pub at: u64,
    /// Nanoseconds when it had taken effect. What took long after that (a boot, a proof) is not in it.
    pub done: u64,
    /// What shows it, in words.
    pub proof: String,
    /// What has to be started now.
    pub restart: Restart,
}

impl Played {
    fn new(at: u64, done: u64, proof: impl Into<String>) -> Self {
        Self { at, done, proof: proof.into(), restart: Restart::Nothing }
    }
}

/// Makes a fault happen. Returns when it has, with the proof.
pub fn inject(world: &World, fault: &Fault) -> Result<Played> {
    let result = match fault {
        Fault::AdminDown(fault) => network::admin_down(world, fault),
        Fault::CarrierLost(fault) => network::carrier_lost(world, fault),
        Fault::Blackhole(fault) => network::blackhole(world, fault),
        Fault::Partition(fault) => network::partition(world, fault),
        Fault::FreezeAgent(fault) => process::freeze_agent(world, &fault.node),
        Fault::FreezeNode(fault) => process::freeze_node(world, &fault.node),
        Fault::KillAgent(fault) => process::kill_agent(world, &fault.node),
        Fault::StopService(fault) => process::stop_service(world, &fault.node, &fault.service),
        Fault::Crash(fault) => process::crash(world, &fault.node),
        Fault::Reboot(fault) => process::reboot(world, &fault.node),
        Fault::Impair(fault) => impair::impair(world, fault),
        Fault::PacketFilter(fault) => packet_filter::filter(world, fault),
        Fault::DiskFull(fault) => machine::fill_disk(world, &fault.node),
        Fault::ClockStep(fault) => machine::step_clock(world, fault),
    };
    result.map_err(|error| error.of(&format!("the fault `{fault}` did not take effect")))
}

/// Ends a fault that was injected before. Returns when it is over, with the proof.
pub fn heal(world: &World, fault: &Fault) -> Result<Played> {
    let result = match fault {
        Fault::AdminDown(fault) => network::admin_up(world, fault),
        Fault::CarrierLost(fault) => network::carrier_back(world, fault),
        Fault::Blackhole(fault) => network::blackhole_over(world, fault),
        Fault::Partition(fault) => network::partition_over(world, fault),
        Fault::FreezeAgent(fault) => process::thaw_agent(world, &fault.node),
        Fault::FreezeNode(fault) => process::thaw_node(world, &fault.node),
        Fault::KillAgent(fault) => {
            let restart = Restart::Agent { node: fault.node.to_string() };
            let manager = world.node(&fault.node)?.peer().unwrap_or(AGENT);
            process::may_start(world, &fault.node, manager, restart)
        }
        Fault::StopService(fault) => {
            let restart =
                Restart::Service { node: fault.node.to_string(), service: fault.service.to_string() };
            process::may_start(world, &fault.node, &fault.service, restart)
        }
        Fault::Crash(fault) => process::boot(world, &fault.node),
        Fault::Impair(fault) => impair::repair(world, fault),
        Fault::PacketFilter(fault) => packet_filter::pass(world, fault),
        Fault::DiskFull(fault) => machine::empty_disk(world, &fault.node),
        Fault::ClockStep(_) => machine::clock_back(world),
        Fault::Reboot(_) => Err(Error::wrong("a reboot is over when it has been played; it needs no heal")),
    };
    result.map_err(|error| error.of(&format!("the fault `{fault}` is not healed")))
}
