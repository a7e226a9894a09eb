//! From what is wanted and what the kernel holds to the commands between them.

use std::collections::{BTreeMap, BTreeSet};

use bascule_ipvs::{Command, Destination, DestinationId, Service, ServiceId, Timeouts};

/// A service as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The service.
    pub service: Service,
    /// Its real servers by id, in order of their ids, without duplicates.
    pub destinations: Vec<Destination>,
}

/// A service as the kernel holds it, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The service.
    pub service: Service,
    /// Its real servers; read only of services that are wanted.
    pub destinations: BTreeMap<DestinationId, Destination>,
    /// Whether the ledger says that this agent made it.
    pub ours: bool,
}

/// What was looked at: ids without an entry are not in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The services.
    pub services: BTreeMap<ServiceId, Held>,
    /// The kernel's timeouts, if they were looked at.
    pub timeouts: Option<Timeouts>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub commands: Vec<Command>,
    /// In the kernel, identical to what is wanted, and not in the ledger: ours from now on.
    pub claims: BTreeSet<ServiceId>,
    /// Wanted, but somebody else's service stands there: left alone.
    pub conflicts: BTreeSet<ServiceId>,
}

/// Plans for the services in `scope`: those wanted there should be as wanted, those not wanted should be gone if they are ours.
///
/// Order: timeouts; what is added (a service right before its real servers, so that it never stands there empty for long); what
/// changes (real servers that gain weight before those that lose it, so that none is the last one at weight 0 meanwhile); what is
/// removed. Everything that the kernel can change in place is changed in place, so that connections stay: all of a service but
/// its id, all of a real server but its address and port (`ip_vs_edit_service`, `__ip_vs_update_dest` in
/// net/netfilter/ipvs/ip_vs_ctl.c).
pub fn plan(
    scope: impl IntoIterator<Item = (ServiceId, Option<impl AsRef<Wanted>>)>,
    timeouts: Option<Timeouts>,
    observed: &Observed,
    adopt: bool,
) -> Plan {
    let mut plan = Plan::default();
    if let Some(command) = timeouts.and_then(|wanted| plan_timeouts(wanted, observed.timeouts)) {
        plan.commands.push(command);
    }
    let mut changes = Changes::default();
    for (id, wanted) in scope {
        let held = observed.services.get(&id);
        match (wanted.as_ref().map(AsRef::as_ref), held) {
            (None, None) => {}
            (None, Some(held)) => {
                if held.ours {
                    changes.removed_services.push(Command::DelService(id));
                }
            }
            (Some(wanted), None) => {
                changes.added.push(Command::NewService(wanted.service.clone()));
                changes.added.extend(wanted.destinations.iter().map(|new| Command::NewDestination(id, *new)));
            }
            (Some(wanted), Some(held)) => {
                let before = changes.len();
                changes.between(id, wanted, held);
                if !held.ours {
                    if changes.len() == before || adopt {
                        plan.claims.insert(id);
                    } else {
                        changes.truncate_to(before);
                        plan.conflicts.insert(id);
                    }
                }
            }
        }
    }
    plan.commands.extend(changes.into_commands());
    plan
}

/// 0 leaves a timeout as it is, also when the kernel has no such protocol.
fn plan_timeouts(wanted: Timeouts, held: Option<Timeouts>) -> Option<Command> {
    let held = held?;
    let changed = |wanted: u32, held: u32| if wanted == held { 0 } else { wanted };
    let command = Timeouts {
        tcp: changed(wanted.tcp, held.tcp),
        tcp_fin: changed(wanted.tcp_fin, held.tcp_fin),
        udp: changed(wanted.udp, held.udp),
    };
    (command != Timeouts::default()).then_some(Command::SetConfig(command))
}

#[derive(Default)]
struct Changes {
    added: Vec<Command>,
    services: Vec<Command>,
    raised: Vec<Command>,
    lowered: Vec<Command>,
    removed: Vec<Command>,
    removed_services: Vec<Command>,
}

impl Changes {
    fn between(&mut self, id: ServiceId, wanted: &Wanted, held: &Held) {
        if wanted.service != held.service {
            self.services.push(Command::SetService(wanted.service.clone()));
        }
        for destination in &wanted.destinations {
            match held.destinations.get(&destination.id) {
                None => self.added.push(Command::NewDestination(id, *destination)),
                Some(old) if old == destination => {}
                Some(old) if destination.weight >= old.weight => {
                    self.raised.push(Command::SetDestination(id, *destination));
                }
                Some(_) => self.lowered.push(Command::SetDestination(id, *destination)),
            }
        }
        for old in held.destinations.keys() {
            if wanted.destinations.binary_search_by_key(old, |destination| destination.id).is_err() {
                self.removed.push(Command::DelDestination(id, *old));
            }
        }
    }

    fn len(&self) -> [usize; 6] {
        [
            self.added.len(),
            self.services.len(),
            self.raised.len(),
            self.lowered.len(),
            self.removed.len(),
            self.removed_services.len(),
        ]
    }

    fn truncate_to(&mut self, lengths: [usize; 6]) {
        self.added.truncate(lengths[0]);
        self.services.truncate(lengths[1]);
        self.raised.truncate(lengths[2]);
        self.lowered.truncate(lengths[3]);
        self.removed.truncate(lengths[4]);
        self.removed_services.truncate(lengths[5]);
    }

    fn into_commands(self) -> impl Iterator<Item = Command> {
        [self.added, self.services, self.raised, self.lowered, self.removed, self.removed_services]
            .into_iter()
            .flatten()
    }
}

impl AsRef<Wanted> for Wanted {
    fn as_ref(&self) -> &Wanted {
        self
    }
}

/// The kind of a command, for metrics and for what `plan` prints.
pub fn kind(command: &Command) -> &'static str {
    match command {
        Command::NewService(_) => "add-service",
        Command::SetService(_) => "set-service",
        Command::DelService(_) => "remove-service",
        Command::NewDestination(..) => "add-real-server",
        Command::SetDestination(..) => "set-real-server",
        Command::DelDestination(..) => "remove-real-server",
        Command::SetConfig(_) => "set-timeouts",
        Command::NewDaemon(_) => "start-daemon",
        Command::DelDaemon(_) => "stop-daemon",
        Command::Zero(_) => "zero",
        Command::Flush => "flush",
    }
}

/// The service that a command is about.
pub fn subject(command: &Command) -> Option<ServiceId> {
    match command {
        Command::NewService(service) | Command::SetService(service) => Some(service.id),
        Command::DelService(id)
        | Command::NewDestination(id, _)
        | Command::SetDestination(id, _)
        | Command::DelDestination(id, _) => Some(*id),
        Command::NewDaemon(_)
        | Command::DelDaemon(_)
        | Command::SetConfig(_)
        | Command::Zero(_)
        | Command::Flush => None,
    }
}
