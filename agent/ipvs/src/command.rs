//! What the kernel can be told to do.

use std::fmt;

use crate::{Daemon, DaemonRole, Destination, DestinationId, Service, ServiceId, Timeouts};

/// One change of the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Adds a service (EEXIST when there).
    NewService(Service),
    /// Changes everything of a service but its id, its destinations and connections stay (ESRCH when not there).
    SetService(Service),
    /// Removes a service with its destinations (ESRCH when not there).
    DelService(ServiceId),
    /// Adds a destination (ESRCH: no such service, EEXIST: already there).
    NewDestination(ServiceId, Destination),
    /// Changes everything of a destination but its id, its connections stay (ESRCH: no such service, ENOENT: no such destination).
    SetDestination(ServiceId, Destination),
    /// Removes a destination (ESRCH: no such service, ENOENT: no such destination).
    DelDestination(ServiceId, DestinationId),
    /// Starts a sync daemon (EEXIST: one of this role runs, ENODEV: no such interface).
    NewDaemon(Daemon),
    /// Stops a sync daemon (ESRCH: none runs).
    DelDaemon(DaemonRole),
    /// Sets the timeouts that are not 0.
    SetConfig(Timeouts),
    /// Zeroes the counters of one service and its destinations, or of all.
    Zero(Option<ServiceId>),
    /// Removes every service and every destination of the network namespace.
    Flush,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewService(service) => write!(f, "add service {}", service.id),
            Self::SetService(service) => write!(f, "change service {}", service.id),
            Self::DelService(id) => write!(f, "remove service {id}"),
            Self::NewDestination(id, destination) => {
                write!(f, "add real server {} to {id}", destination.id)
            }
            Self::SetDestination(id, destination) => {
                write!(f, "change real server {} of {id}", destination.id)
            }
            Self::DelDestination(id, destination) => write!(f, "remove real server {destination} of {id}"),
            Self::NewDaemon(daemon) => write!(f, "start sync daemon ({}, {})", daemon.role, daemon.interface),
            Self::DelDaemon(role) => write!(f, "stop sync daemon ({role})"),
            Self::SetConfig(_) => f.write_str("set timeouts"),
            Self::Zero(None) => f.write_str("zero all counters"),
            Self::Zero(Some(id)) => write!(f, "zero the counters of {id}"),
            Self::Flush => f.write_str("remove all services"),
        }
    }
}
