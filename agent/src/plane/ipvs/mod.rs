//! Virtual services and real servers in the kernel's IPVS.

mod desired;
mod drain;
mod drained;
mod expand;
mod figures;
mod leave;
mod look;
#[cfg(test)]
mod model;
mod observe;
mod order;
mod pause;
mod plan;
mod simulated;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use desired::desired_after;
pub use desired::{Desired, Entry, desired};
pub(crate) use drain::Drains;
pub(crate) use drained::{Clock, Drained};
pub use expand::{MAX_PAIRS, MAX_SERVICES, expand};
#[cfg(test)]
pub(crate) use figures::sampled;
pub(crate) use figures::{Sampled, named};
pub use observe::{Io, Scope, observe};
pub(crate) use pause::Kernel as KernelPause;
pub use plan::{Held, Observed, Plan, Wanted, kind, plan, subject};
pub(crate) use simulated::{NoPause, Simulated};
pub(crate) use worker::{IpvsPlane, conflict};

use std::net::IpAddr;

use bascule_ipvs::{Family, Protocol, ServiceId};

use crate::reconcile::ledger::Entry as LedgerEntry;

/// A service in the ledger: `tcp 192.16.193.30 80` or `fwmark 7 4`.
impl LedgerEntry for ServiceId {
    fn line(&self) -> String {
        match self {
            Self::Address { protocol, address, port } => format!("{} {address} {port}", protocol.number()),
            Self::Fwmark { mark, family } => {
                format!("fwmark {mark} {}", if *family == Family::Ipv4 { 4 } else { 6 })
            }
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (first, second, third) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        if first == "fwmark" {
            let family = match third {
                "4" => Family::Ipv4,
                "6" => Family::Ipv6,
                _ => return None,
            };
            return Some(Self::Fwmark { mark: second.parse().ok()?, family });
        }
        let protocol = Protocol::from_number(first.parse().ok()?);
        let address: IpAddr = second.parse().ok()?;
        Some(Self::Address { protocol, address, port: third.parse().ok()? })
    }
}
