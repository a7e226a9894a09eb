//! What became of commands whose answers were lost.
//!
//! A command that no later one of its batch covers is checked by looking: does the kernel hold what it asked for? If not, it is tried
//! again by itself, and that answer counts.

use std::collections::HashSet;

use super::{batch::Outcome, connection::Connection, link::Link};
use crate::{
    Command, CommandError, Daemon, DaemonRole, Destination, DestinationEntry, DestinationId, Error, ServiceId,
};

impl<L: Link> Connection<L> {
    /// Fills in the outcomes that are not known.
    pub(super) fn settle(&mut self, commands: &[Command], outcomes: &mut [Outcome]) -> Result<(), Error> {
        let covered = covered(commands, outcomes);
        let mut cache = None;
        for ((command, outcome), covered) in commands.iter().zip(outcomes).zip(covered) {
            if outcome.is_some() {
                continue;
            }
            *outcome = Some(if covered {
                Err(CommandError::Unknown)
            } else if self.holds(command, &mut cache)? {
                Ok(())
            } else {
                cache = None;
                self.execute_single(command)?
            });
        }
        Ok(())
    }

    /// Whether the kernel holds what a command asked for. `cache` keeps the destinations of the service last looked at.
    fn holds(
        &mut self,
        command: &Command,
        cache: &mut Option<(ServiceId, Vec<DestinationEntry>)>,
    ) -> Result<bool, Error> {
        Ok(match command {
            Command::NewService(wanted) | Command::SetService(wanted) => {
                self.service(&wanted.id)?.is_some_and(|entry| entry.service == *wanted)
            }
            Command::DelService(id) => self.service(id)?.is_none(),
            Command::NewDestination(id, wanted) | Command::SetDestination(id, wanted) => {
                self.destination(id, &wanted.id, cache)? == Some(*wanted)
            }
            // Not there is only what was wanted if the service is: else the answer was "no such service".
            Command::DelDestination(id, destination) => {
                self.destination(id, destination, cache)?.is_none() && self.service(id)?.is_some()
            }
            Command::NewDaemon(wanted) => self.daemons()?.iter().any(|daemon| is_as_wanted(daemon, wanted)),
            Command::DelDaemon(role) => !self.daemons()?.iter().any(|daemon| daemon.role == *role),
            // What they did cannot be seen, and doing them twice is as good as once.
            Command::SetConfig(_) | Command::Zero(_) | Command::Flush => false,
        })
    }

    fn destination(
        &mut self,
        service: &ServiceId,
        destination: &DestinationId,
        cache: &mut Option<(ServiceId, Vec<DestinationEntry>)>,
    ) -> Result<Option<Destination>, Error> {
        let (_, entries) = match cache.take() {
            Some((id, entries)) if id == *service => cache.insert((id, entries)),
            _ => cache.insert((*service, self.destinations(service)?)),
        };
        Ok(entries.iter().map(|entry| entry.destination).find(|held| held.id == *destination))
    }
}

/// Whether a daemon is what was asked for; what was left to the kernel may be anything.
fn is_as_wanted(daemon: &Daemon, wanted: &Daemon) -> bool {
    fn free<T: PartialEq>(held: Option<T>, wanted: Option<T>) -> bool {
        wanted.is_none() || held == wanted
    }
    daemon.role == wanted.role
        && daemon.interface == wanted.interface
        && daemon.sync_id == wanted.sync_id
        && free(daemon.max_length, wanted.max_length)
        && free(daemon.group, wanted.group)
        && free(daemon.port, wanted.port)
        && free(daemon.ttl, wanted.ttl)
}

/// For each command, whether a later one of the batch that may have worked is about the same entry, so that looking tells nothing
/// about the earlier one, and trying it again could undo the later one.
fn covered(commands: &[Command], outcomes: &[Outcome]) -> Vec<bool> {
    let mut later = Later::default();
    let mut covered: Vec<bool> = commands
        .iter()
        .zip(outcomes)
        .rev()
        .map(|(command, outcome)| {
            let covered = later.covers(command);
            if !matches!(outcome, Some(Err(_))) {
                later.add(command);
            }
            covered
        })
        .collect();
    covered.reverse();
    covered
}

/// What commands are about.
#[derive(Default)]
struct Later {
    services: HashSet<ServiceId>,
    /// Removed, and with them their destinations and counters.
    removed: HashSet<ServiceId>,
    destinations: HashSet<(ServiceId, DestinationId)>,
    daemons: HashSet<DaemonRole>,
    timeouts: bool,
    flush: bool,
    /// Anything about a service or a destination.
    any: bool,
}

impl Later {
    fn add(&mut self, command: &Command) {
        match command {
            Command::NewService(service) | Command::SetService(service) => {
                self.services.insert(service.id);
            }
            Command::DelService(id) => {
                self.services.insert(*id);
                self.removed.insert(*id);
            }
            Command::NewDestination(id, Destination { id: destination, .. })
            | Command::SetDestination(id, Destination { id: destination, .. })
            | Command::DelDestination(id, destination) => {
                self.destinations.insert((*id, *destination));
            }
            Command::NewDaemon(Daemon { role, .. }) | Command::DelDaemon(role) => {
                self.daemons.insert(*role);
                return;
            }
            Command::SetConfig(_) => {
                self.timeouts = true;
                return;
            }
            Command::Zero(_) => return,
            Command::Flush => self.flush = true,
        }
        self.any = true;
    }

    fn covers(&self, command: &Command) -> bool {
        match command {
            Command::NewService(service) | Command::SetService(service) => {
                self.flush || self.services.contains(&service.id)
            }
            Command::DelService(id) => self.flush || self.services.contains(id),
            Command::NewDestination(id, Destination { id: destination, .. })
            | Command::SetDestination(id, Destination { id: destination, .. })
            | Command::DelDestination(id, destination) => {
                self.flush || self.removed.contains(id) || self.destinations.contains(&(*id, *destination))
            }
            Command::NewDaemon(Daemon { role, .. }) | Command::DelDaemon(role) => self.daemons.contains(role),
            Command::SetConfig(_) => self.timeouts,
            Command::Zero(Some(id)) => self.flush || self.removed.contains(id),
            Command::Zero(None) => false,
            Command::Flush => self.any,
        }
    }
}
