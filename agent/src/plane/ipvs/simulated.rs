//! A table in memory in the place of the kernel's, for benchmarks on machines whose kernel has no IPVS (`--simulated-ipvs`). It takes
//! and answers what the kernel would of the agent alone; no packet goes through it, and it is empty when the agent starts.
//!
//! Each command is a line in a journal, `NANOSECONDS COMMAND[ weight WEIGHT]`, with the time of CLOCK_MONOTONIC at which it came, so that
//! whoever measures need not ask the agent.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use bascule_ipvs::{
    Command, CommandError, Destination, DestinationEntry, DestinationId, Errno, Error, Page, Service,
    ServiceEntry, ServiceId, Stats64, Timeouts,
};
use nix::time::{ClockId, clock_gettime};

use super::{look::after, observe::Io, pause::Pause};

/// Services in a page of a list, about as many as the kernel puts into one.
const PAGE: usize = 50;
/// The kernel's timeouts, in seconds (`tcp_timeouts`, `udp_timeouts` in net/netfilter/ipvs).
const TIMEOUTS: Timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };

/// The table and its journal.
#[derive(Debug)]
pub(crate) struct Simulated {
    table: BTreeMap<ServiceId, (Service, BTreeMap<DestinationId, Destination>)>,
    timeouts: Timeouts,
    /// Where the list that is read page by page stands.
    listed: Option<ServiceId>,
    journal: File,
}

/// Nobody's packets wait.
#[derive(Debug)]
pub(crate) struct NoPause;

impl Pause for NoPause {
    fn hold(&mut self, _services: &[ServiceId]) {}

    fn release(&mut self) {}
}

impl Simulated {
    /// An empty table; the journal is gone on with.
    pub(crate) fn open(journal: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().create(true).append(true).open(journal);
        let journal =
            file.map_err(|source| Error::Socket { action: "open the simulated kernel's journal", source })?;
        Ok(Self { table: BTreeMap::new(), timeouts: TIMEOUTS, listed: None, journal })
    }

    /// What `ip_vs_ctl.c` does with a command.
    fn execute(&mut self, command: &Command) -> Result<(), Errno> {
        match command {
            Command::NewService(new) => {
                if self.table.contains_key(&new.id) {
                    return Err(Errno::EEXIST);
                }
                self.table.insert(new.id, (new.clone(), BTreeMap::new()));
            }
            Command::SetService(new) => {
                self.table.get_mut(&new.id).ok_or(Errno::ESRCH)?.0.clone_from(new);
            }
            Command::DelService(id) => {
                self.table.remove(id).ok_or(Errno::ESRCH)?;
            }
            Command::NewDestination(id, new) => {
                let (_, held) = self.table.get_mut(id).ok_or(Errno::ESRCH)?;
                if held.contains_key(&new.id) {
                    return Err(Errno::EEXIST);
                }
                held.insert(new.id, *new);
            }
            Command::SetDestination(id, new) => {
                let (_, held) = self.table.get_mut(id).ok_or(Errno::ESRCH)?;
                *held.get_mut(&new.id).ok_or(Errno::ENOENT)? = *new;
            }
            Command::DelDestination(id, gone) => {
                let (_, held) = self.table.get_mut(id).ok_or(Errno::ESRCH)?;
                held.remove(gone).ok_or(Errno::ENOENT)?;
            }
            Command::SetConfig(new) => {
                let set = |old: &mut u32, new: u32| *old = if new == 0 { *old } else { new };
                set(&mut self.timeouts.tcp, new.tcp);
                set(&mut self.timeouts.tcp_fin, new.tcp_fin);
                set(&mut self.timeouts.udp, new.udp);
            }
            Command::Flush => self.table.clear(),
            Command::Zero(_) => {}
            Command::NewDaemon(_) | Command::DelDaemon(_) => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    fn entry(&self, id: &ServiceId) -> Option<ServiceEntry> {
        let (service, _) = self.table.get(id)?;
        Some(ServiceEntry { service: service.clone(), stats: Stats64::default() })
    }
}

/// A command's line.
fn note(lines: &mut String, now: Duration, command: &Command) {
    let _ = write!(lines, "{} {command}", now.as_nanos());
    if let Command::NewDestination(_, new) | Command::SetDestination(_, new) = command {
        let _ = write!(lines, " weight {}", new.weight);
    }
    lines.push('\n');
}

fn monotonic() -> Result<Duration, Error> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(io::Error::from);
    time.map(Duration::from).map_err(|source| Error::Socket { action: "read the clock", source })
}

impl Io for Simulated {
    fn services(&mut self, _expected: &[ServiceId]) -> Result<Vec<ServiceEntry>, Error> {
        Ok(self.table.keys().filter_map(|id| self.entry(id)).collect())
    }

    fn services_page(&mut self) -> Result<Page, Error> {
        let ids: Vec<_> = self.table.range(after(self.listed)).map(|(id, _)| *id).take(PAGE).collect();
        let last = ids.len() < PAGE;
        self.listed = ids.last().copied().filter(|_| !last);
        Ok(Page { services: ids.iter().filter_map(|id| self.entry(id)).collect(), last })
    }

    fn service(&mut self, id: &ServiceId) -> Result<Option<ServiceEntry>, Error> {
        Ok(self.entry(id))
    }

    fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>, Error> {
        let entry = |destination: &Destination| DestinationEntry {
            destination: *destination,
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats64::default(),
        };
        let held = self.table.get(id).map(|(_, held)| held);
        Ok(held.map(|held| held.values().map(entry).collect()).unwrap_or_default())
    }

    fn timeouts(&mut self) -> Result<Timeouts, Error> {
        Ok(self.timeouts)
    }

    fn load_scheduler(&mut self, _name: &str) -> Result<(), Error> {
        Ok(())
    }

    fn execute_all(&mut self, commands: &[Command]) -> Result<Vec<Result<(), CommandError>>, Error> {
        let mut lines = String::new();
        let mut results = Vec::with_capacity(commands.len());
        for command in commands {
            note(&mut lines, monotonic()?, command);
            let result = self.execute(command);
            results.push(result.map_err(|errno| CommandError::Kernel { errno, meaning: errno.desc() }));
        }
        let written = self.journal.write_all(lines.as_bytes());
        written.map_err(|source| Error::Socket { action: "write the simulated kernel's journal", source })?;
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use bascule_ipvs::{Forwarding, Protocol};

    use super::*;

    #[test]
    fn it_answers_as_the_kernel_and_notes_every_command() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        let mut table = Simulated::open(&journal).unwrap();
        let address = "192.16.193.30".parse().unwrap();
        let id = ServiceId::Address { protocol: Protocol::Tcp, address, port: 80 };
        let mut server = Destination::new("172.16.193.10".parse().unwrap(), 80, Forwarding::Masquerade);
        server.weight = 7;
        let before = monotonic().unwrap();
        let commands = [
            Command::NewDestination(id, server),
            Command::NewService(Service::new(id, "rr")),
            Command::NewDestination(id, server),
            Command::NewDestination(id, server),
            Command::DelService(id),
        ];
        let results = table.execute_all(&commands[..4]).unwrap();
        let errnos: Vec<_> = results.iter().map(|one| one.as_ref().err().and_then(|e| e.errno())).collect();
        assert_eq!(errnos, [Some(Errno::ESRCH), None, None, Some(Errno::EEXIST)]);
        assert_eq!(table.destinations(&id).unwrap()[0].destination, server);
        assert_eq!(table.services_page().unwrap().services.len(), 1);
        table.execute_all(&commands[4..]).unwrap();
        assert!(table.service(&id).unwrap().is_none());

        let text = std::fs::read_to_string(&journal).unwrap();
        let lines: Vec<_> = text.lines().filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(lines[2].1, "add real server 172.16.193.10:80 to TCP 192.16.193.30:80 weight 7");
        assert_eq!((lines.len(), lines[4].1), (5, "remove service TCP 192.16.193.30:80"));
        let now = monotonic().unwrap().as_nanos();
        let times: Vec<u128> = lines.iter().map(|line| line.0.parse().unwrap()).collect();
        assert!(times.is_sorted() && times[0] >= before.as_nanos() && times[4] <= now);
    }

    #[test]
    fn a_journal_that_cannot_be_written_is_said() {
        let error = Simulated::open(Path::new("/nowhere/journal")).unwrap_err();
        assert!(error.to_string().contains("cannot open the simulated kernel's journal"), "{error}");
    }
}
