//! Counters of services and real servers, for metrics and status.

use std::collections::BTreeMap;
use std::time::Duration;

use bascule_compile::BindingKey;
use bascule_ipvs::{DestinationId, ServiceId, Stats64};

use crate::plane::nat_rules::Count;

/// What the kernel counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Our services, in order of their ids.
    pub services: Vec<ServiceCounters>,
    /// The age of the oldest figure in it. Large tables are read piece by piece.
    pub age: Duration,
    /// Of the NatRules that are in the kernel.
    pub nat_rules: BTreeMap<BindingKey, Count>,
}

/// The counters of one virtual service in the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceCounters {
    /// The binding that wants it.
    pub binding: BindingKey,
    /// Its protocol, address and port, or mark.
    pub id: ServiceId,
    /// The scheduler in the kernel.
    pub scheduler: String,
    /// Since it was made.
    pub stats: Stats64,
    /// Its real servers, in order of their ids.
    pub destinations: Vec<DestinationCounters>,
}

/// The counters of one real server of one service in the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationCounters {
    /// The real server's name in the binding; its address and port when the binding does not know it.
    pub name: String,
    /// Address and port.
    pub id: DestinationId,
    /// The weight that the kernel holds.
    pub weight: u32,
    /// Established connections.
    pub active_connections: u32,
    /// Connections in any other state.
    pub inactive_connections: u32,
    /// Persistence templates.
    pub persistent_connections: u32,
    /// Since it was added.
    pub stats: Stats64,
}
