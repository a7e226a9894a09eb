//! What is known of a machine besides its Director manifest, and whether it is in service.

use std::fmt;

/// Why a machine is out of service: its groups move away, and it is active for them only while no other member can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutOfService {
    /// `spec.maintenance` of its Director says so.
    Maintenance,
    /// Its Kubernetes Node is cordoned (`spec.unschedulable`).
    Cordoned,
    /// Its Kubernetes Node has the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    Excluded,
}

impl OutOfService {
    /// One word.
    pub const fn as_str(self) -> &'static str {
        match self {
            OutOfService::Maintenance => "Maintenance",
            OutOfService::Cordoned => "Cordoned",
            OutOfService::Excluded => "Excluded",
        }
    }
}

impl fmt::Display for OutOfService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A machine, as far as others have to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Why it is out of service, if it is.
    pub out: Option<OutOfService>,
    /// What fails together with it.
    pub failure_domain: Option<String>,
}
