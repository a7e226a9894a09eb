//! A model of the kernel's IPVS table.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use bascule_ipvs::{
    Command, CommandError, Destination, DestinationEntry, DestinationId, Errno, Error, Page, Service,
    ServiceEntry, ServiceId, Stats64, Timeouts,
};

use super::{look::after, observe::Io, pause::Pause};

/// Services in a page of a list.
const PAGE: usize = 50;

pub(super) type Table = BTreeMap<ServiceId, (Service, BTreeMap<DestinationId, Destination>)>;

/// The table, what was done to it, and how it misbehaves.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) table: Table,
    pub(super) timeouts: Timeouts,
    pub(super) log: Vec<Command>,
    /// Questions asked so far.
    pub(super) reads: usize,
    /// Removed real servers, the newest last, and how many of them were walked over by those that were added.
    pub(super) trash: Vec<(ServiceId, DestinationId)>,
    pub(super) walked: usize,
    /// Where the list that is read page by page stands.
    pub(super) listed: Option<ServiceId>,
    /// Schedulers that this kernel does not have.
    pub(super) unknown_scheduler: Option<String>,
    /// The kernel takes no real server of this address.
    pub(super) refused_address: Option<std::net::IpAddr>,
    /// The next calls of `execute_all` fail as a whole.
    pub(super) lost: usize,
    /// The call of `execute_all` of this number, from 1, fails as a whole.
    pub(super) lost_at: Option<usize>,
    /// Calls of `execute_all` so far.
    pub(super) batches: usize,
    /// Services whose new connections are held back.
    pub(super) held: BTreeSet<ServiceId>,
    /// What was held, done and released, in words.
    pub(super) story: Vec<String>,
    /// Services that were without a scheduler while their new connections were not held back.
    pub(super) refusing: BTreeSet<ServiceId>,
    /// Somebody else's commands, some carried out right before each of our next batches.
    pub(super) meanwhile: VecDeque<Vec<Command>>,
}

fn refuse(errno: Errno) -> Result<(), CommandError> {
    Err(CommandError::Kernel { errno, meaning: "" })
}

impl Model {
    /// What `ip_vs_ctl.c` does with a command.
    pub(super) fn execute(&mut self, command: &Command) -> Result<(), CommandError> {
        let unknown = |service: &Service| self.unknown_scheduler.as_ref() == Some(&service.scheduler);
        match command {
            Command::NewService(service) => {
                if self.table.contains_key(&service.id) {
                    return refuse(Errno::EEXIST);
                }
                if unknown(service) {
                    return refuse(Errno::ENOENT);
                }
                self.table.insert(service.id, (service.clone(), BTreeMap::new()));
            }
            Command::SetService(service) => {
                if unknown(service) {
                    return refuse(Errno::ENOENT);
                }
                let Some((held, _)) = self.table.get_mut(&service.id) else { return refuse(Errno::ESRCH) };
                held.clone_from(service);
            }
            Command::DelService(id) => {
                let Some((_, held)) = self.table.remove(id) else { return refuse(Errno::ESRCH) };
                self.trash.extend(held.into_keys().map(|gone| (*id, gone)));
            }
            Command::NewDestination(id, new) => {
                let Some((_, held)) = self.table.get_mut(id) else { return refuse(Errno::ESRCH) };
                if held.contains_key(&new.id) {
                    return refuse(Errno::EEXIST);
                }
                if self.refused_address == Some(new.id.address) {
                    return refuse(Errno::EINVAL);
                }
                held.insert(new.id, *new);
                let walk = self.trash.iter().rev().position(|gone| *gone == (*id, new.id));
                self.walked += walk.map_or(self.trash.len(), |steps| steps + 1);
                if let Some(steps) = walk {
                    self.trash.remove(self.trash.len() - 1 - steps);
                }
            }
            Command::SetDestination(id, new) => {
                let Some((_, held)) = self.table.get_mut(id) else { return refuse(Errno::ESRCH) };
                let Some(old) = held.get_mut(&new.id) else { return refuse(Errno::ENOENT) };
                *old = *new;
            }
            Command::DelDestination(id, gone) => {
                let Some((_, held)) = self.table.get_mut(id) else { return refuse(Errno::ESRCH) };
                if held.remove(gone).is_none() {
                    return refuse(Errno::ENOENT);
                }
                self.trash.push((*id, *gone));
            }
            Command::SetConfig(new) => {
                let set = |old: &mut u32, new: u32| *old = if new == 0 { *old } else { new };
                set(&mut self.timeouts.tcp, new.tcp);
                set(&mut self.timeouts.tcp_fin, new.tcp_fin);
                set(&mut self.timeouts.udp, new.udp);
            }
            Command::Flush => {
                for (id, (_, held)) in std::mem::take(&mut self.table) {
                    self.trash.extend(held.into_keys().map(|gone| (id, gone)));
                }
            }
            Command::NewDaemon(_) | Command::DelDaemon(_) | Command::Zero(_) => {
                return refuse(Errno::EOPNOTSUPP);
            }
        }
        Ok(())
    }

    fn entry(&self, id: &ServiceId) -> Option<ServiceEntry> {
        let (service, _) = self.table.get(id)?;
        Some(ServiceEntry { service: service.clone(), stats: Stats64::default() })
    }
}

/// The model, shared with the test that looks into it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(pub(super) Rc<RefCell<Model>>);

impl Io for Shared {
    fn services(&mut self, _expected: &[ServiceId]) -> Result<Vec<ServiceEntry>, Error> {
        let mut model = self.0.borrow_mut();
        // It comes in as many pieces.
        model.reads += model.table.len() / PAGE + 1;
        Ok(model.table.keys().filter_map(|id| model.entry(id)).collect())
    }

    fn services_page(&mut self) -> Result<Page, Error> {
        let mut model = self.0.borrow_mut();
        model.reads += 1;
        let ids: Vec<_> = model.table.range(after(model.listed)).map(|(id, _)| *id).take(PAGE).collect();
        let last = ids.len() < PAGE;
        model.listed = ids.last().copied().filter(|_| !last);
        Ok(Page { services: ids.iter().filter_map(|id| model.entry(id)).collect(), last })
    }

    fn service(&mut self, id: &ServiceId) -> Result<Option<ServiceEntry>, Error> {
        let mut model = self.0.borrow_mut();
        model.reads += 1;
        Ok(model.entry(id))
    }

    fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>, Error> {
        let mut model = self.0.borrow_mut();
        model.reads += 1;
        let held = model.table.get(id).map(|(_, held)| held);
        let entry = |destination: &Destination| DestinationEntry {
            destination: *destination,
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats64::default(),
        };
        Ok(held.map(|held| held.values().map(entry).collect()).unwrap_or_default())
    }

    fn timeouts(&mut self) -> Result<Timeouts, Error> {
        let mut model = self.0.borrow_mut();
        model.reads += 1;
        Ok(model.timeouts)
    }

    fn load_scheduler(&mut self, name: &str) -> Result<(), Error> {
        self.0.borrow_mut().story.push(format!("load {name}"));
        Ok(())
    }

    fn execute_all(&mut self, commands: &[Command]) -> Result<Vec<Result<(), CommandError>>, Error> {
        let mut model = self.0.borrow_mut();
        model.batches += 1;
        for foreign in model.meanwhile.pop_front().into_iter().flatten() {
            let _ = model.execute(&foreign);
        }
        if model.lost > 0 || model.lost_at == Some(model.batches) {
            model.lost = model.lost.saturating_sub(1);
            return Err(Error::Timeout { seconds: 10.0 });
        }
        for command in commands {
            model.story.push(command.to_string());
            if let Command::SetService(new) = command {
                let held = model.table.get(&new.id).is_some_and(|(old, _)| old.scheduler == new.scheduler)
                    || model.held.contains(&new.id);
                if !held {
                    model.refusing.insert(new.id);
                }
            }
        }
        model.log.extend_from_slice(commands);
        Ok(commands.iter().map(|command| model.execute(command)).collect())
    }
}

impl Pause for Shared {
    fn hold(&mut self, services: &[ServiceId]) {
        let mut model = self.0.borrow_mut();
        let names: Vec<_> = services.iter().map(ToString::to_string).collect();
        model.story.push(format!("hold {}", names.join(", ")));
        model.held = services.iter().copied().collect();
    }

    fn release(&mut self) {
        let mut model = self.0.borrow_mut();
        if !std::mem::take(&mut model.held).is_empty() {
            model.story.push("release".into());
        }
    }
}
