//! What the kernel's IPVS tables hold, and how they are changed.

use std::collections::{BTreeMap, BTreeSet};

use bascule_ipvs::{
    Client, Command, CommandError, DestinationEntry, Errno, Error, Page, ServiceEntry, ServiceId, Timeouts,
};

use super::plan::{Held, Observed};

/// The kernel, or a model of it.
pub trait Io {
    /// All services of the network namespace; of those `expected` none that is there is left out.
    fn services(&mut self, expected: &[ServiceId]) -> Result<Vec<ServiceEntry>, Error>;
    /// Some services and then, call by call, the others. Over so much time some that are there may be left out, or come twice.
    fn services_page(&mut self) -> Result<Page, Error>;
    /// One service.
    fn service(&mut self, id: &ServiceId) -> Result<Option<ServiceEntry>, Error>;
    /// The real servers of a service; none when the service is not there.
    fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>, Error>;
    /// The timeouts.
    fn timeouts(&mut self) -> Result<Timeouts, Error>;
    /// Has the module of a scheduler loaded, where that is one; changes nothing.
    fn load_scheduler(&mut self, name: &str) -> Result<(), Error>;
    /// Carries out commands in their order, each on its own.
    fn execute_all(&mut self, commands: &[Command]) -> Result<Vec<Result<(), CommandError>>, Error>;
}

impl Io for Client {
    fn services(&mut self, expected: &[ServiceId]) -> Result<Vec<ServiceEntry>, Error> {
        Client::services_with(self, expected.iter().copied())
    }

    fn services_page(&mut self) -> Result<Page, Error> {
        Client::services_page(self)
    }

    fn service(&mut self, id: &ServiceId) -> Result<Option<ServiceEntry>, Error> {
        Client::service(self, id)
    }

    fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>, Error> {
        match Client::destinations(self, id) {
            Err(Error::Query { errno: Errno::ESRCH | Errno::ENOENT, .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    fn timeouts(&mut self) -> Result<Timeouts, Error> {
        Client::timeouts(self)
    }

    fn load_scheduler(&mut self, name: &str) -> Result<(), Error> {
        Client::load_scheduler(self, name)
    }

    fn execute_all(&mut self, commands: &[Command]) -> Result<Vec<Result<(), CommandError>>, Error> {
        Client::execute_all(self, commands)
    }
}

/// What to look at.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All services; real servers only of those given, of which none is overlooked.
    All(&'a BTreeSet<ServiceId>),
    /// These services with their real servers.
    Some(&'a BTreeSet<ServiceId>),
}

/// Reads the kernel's tables, and `timeouts` if told so. `ours` is the ledger's answer; `seen` gets everything read, with its
/// counters.
pub fn observe(
    io: &mut impl Io,
    scope: Scope<'_>,
    timeouts: bool,
    ours: impl Fn(&ServiceId) -> bool,
    mut seen: impl FnMut(ServiceEntry, Vec<DestinationEntry>),
) -> Result<Observed, Error> {
    let mut observed =
        Observed { services: BTreeMap::new(), timeouts: if timeouts { Some(io.timeouts()?) } else { None } };
    let mut take = |entry: ServiceEntry, destinations: Vec<DestinationEntry>| {
        let id = entry.service.id;
        let held = Held {
            service: entry.service.clone(),
            destinations: destinations
                .iter()
                .map(|entry| (entry.destination.id, entry.destination))
                .collect(),
            ours: ours(&id),
        };
        observed.services.insert(id, held);
        seen(entry, destinations);
    };
    match scope {
        Scope::All(expected) => {
            let ids: Vec<_> = expected.iter().copied().collect();
            for entry in io.services(&ids)? {
                let id = entry.service.id;
                let destinations = if expected.contains(&id) { io.destinations(&id)? } else { Vec::new() };
                take(entry, destinations);
            }
        }
        Scope::Some(ids) => {
            for id in ids {
                if let Some(entry) = io.service(id)? {
                    let destinations = io.destinations(id)?;
                    take(entry, destinations);
                }
            }
        }
    }
    Ok(observed)
}
