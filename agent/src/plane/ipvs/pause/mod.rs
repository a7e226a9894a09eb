//! A pause around a change of scheduler, in which new connections wait instead of being refused.
//!
//! The kernel changes a service's scheduler in three steps (`ip_vs_edit_service`, net/netfilter/ipvs/ip_vs_ctl.c): it takes the
//! old one away, waits until no processor uses it any more (`synchronize_rcu`, tens of milliseconds), and puts the new one in its
//! place. What has to be scheduled in between finds no scheduler, and the kernel answers with ICMP port unreachable: the client
//! sees "connection refused". Connections that exist are not concerned.
//!
//! So such packets are held back right before they get to IPVS, in a queue of the kernel (nfnetlink_queue), and go on once the
//! new scheduler is there. Where that cannot be done the change is made all the same.

mod kernel;
mod queue;
mod rules;

use std::{
    collections::BTreeSet,
    ops::Range,
    slice,
    time::{Duration, Instant},
};

use bascule_ipvs::{Command, CommandError, Error, Protocol, ServiceId};

use super::{observe::Io, plan::Observed};

pub(crate) use kernel::Kernel;

/// Services whose packets are held at the same time. Each change takes a grace period of the kernel, and the packets of the first
/// wait for the last.
const TOGETHER: usize = 8;
/// After this time the packets of what is changed already go on. A client sends its first packet again after a second; what is
/// held must be answered well before.
const LONGEST: Duration = Duration::from_millis(200);

/// Holds back what would be scheduled.
pub(crate) trait Pause {
    /// From now on packets that open connections to these services, at most [`TOGETHER`], wait; those of other services no longer
    /// do. Does nothing where that is impossible.
    fn hold(&mut self, services: &[ServiceId]);

    /// All go on, in the order in which they came. Does nothing when none is held.
    fn release(&mut self);
}

/// Some of a plan's commands, by position.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// They interrupt nothing.
    AsIs(Range<usize>),
    /// Each leaves one of these services without a scheduler for a moment.
    Held(Range<usize>),
}

/// The service that takes no new connections while this command is carried out.
fn interrupted(command: &Command, observed: &Observed) -> Option<ServiceId> {
    let Command::SetService(service) = command else { return None };
    let held = observed.services.get(&service.id)?;
    let balances = !matches!(service.id, ServiceId::Address { protocol: Protocol::Other(_), .. });
    (balances && held.service.scheduler != service.scheduler).then_some(service.id)
}

/// Divides commands into those that need a pause and those that do not; their order stays.
fn steps(commands: &[Command], observed: &Observed) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (position, command) in commands.iter().enumerate() {
        let held = interrupted(command, observed).is_some();
        match steps.last_mut() {
            Some(Step::AsIs(range)) if !held => range.end += 1,
            Some(Step::Held(range)) if held && range.len() < TOGETHER => range.end += 1,
            _ if held => steps.push(Step::Held(position..position + 1)),
            _ => steps.push(Step::AsIs(position..position + 1)),
        }
    }
    steps
}

/// The schedulers that services change to.
fn schedulers<'a>(commands: &'a [Command], observed: &Observed) -> BTreeSet<&'a str> {
    let changed = commands.iter().filter(|command| interrupted(command, observed).is_some());
    changed
        .filter_map(|command| match command {
            Command::SetService(service) => Some(service.scheduler.as_str()),
            _ => None,
        })
        .collect()
}

/// Carries out commands in their order, and makes a pause where new connections would be refused otherwise.
pub(super) fn carry_out(
    io: &mut impl Io,
    pause: &mut dyn Pause,
    commands: &[Command],
    observed: &Observed,
) -> Result<Vec<Result<(), CommandError>>, Error> {
    // Else the kernel loads the module while packets wait.
    for name in schedulers(commands, observed) {
        io.load_scheduler(name)?;
    }
    let mut results = Vec::with_capacity(commands.len());
    let outcome = steps(commands, observed).into_iter().try_for_each(|step| {
        match step {
            Step::AsIs(range) => {
                pause.release();
                results.extend(io.execute_all(&commands[range])?);
            }
            Step::Held(range) => held(io, pause, &commands[range], observed, &mut results)?,
        }
        Ok(())
    });
    // Also when the connection to the kernel was lost.
    pause.release();
    outcome.map(|()| results)
}

/// Carries out commands that each interrupt a service. One by one, so that the time can be watched: it is the kernel's to take,
/// and where it took long the packets of the changed services do not wait for the rest.
fn held(
    io: &mut impl Io,
    pause: &mut dyn Pause,
    mut commands: &[Command],
    observed: &Observed,
    results: &mut Vec<Result<(), CommandError>>,
) -> Result<(), Error> {
    while !commands.is_empty() {
        let services: Vec<_> = commands.iter().filter_map(|command| interrupted(command, observed)).collect();
        pause.hold(&services);
        let started = Instant::now();
        while let Some((command, rest)) = commands.split_first() {
            results.extend(io.execute_all(slice::from_ref(command))?);
            commands = rest;
            if started.elapsed() >= LONGEST {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bascule_ipvs::{Family, Service, ServiceFlags};

    use super::*;
    use crate::plane::ipvs::Held;

    fn mark(mark: u32) -> ServiceId {
        ServiceId::Fwmark { mark, family: Family::Ipv4 }
    }

    /// The services with these marks, all scheduled by `rr`.
    fn observed(marks: Range<u32>) -> Observed {
        let held = |id| Held { service: Service::new(id, "rr"), destinations: BTreeMap::new(), ours: true };
        Observed {
            services: marks.map(|number| (mark(number), held(mark(number)))).collect(),
            timeouts: None,
        }
    }

    fn set(number: u32, scheduler: &str) -> Command {
        Command::SetService(Service::new(mark(number), scheduler))
    }

    #[test]
    fn only_another_scheduler_interrupts() {
        let observed = observed(1..2);
        assert_eq!(interrupted(&set(1, "wlc"), &observed), Some(mark(1)));
        assert_eq!(interrupted(&set(1, "rr"), &observed), None, "flags or persistence only");
        assert_eq!(interrupted(&set(2, "wlc"), &observed), None, "not there, so nothing to refuse");
        assert_eq!(interrupted(&Command::NewService(Service::new(mark(1), "wlc")), &observed), None);
        assert_eq!(interrupted(&Command::DelService(mark(1)), &observed), None);
        let mut flags = Service::new(mark(1), "rr");
        flags.flags = ServiceFlags::SH_PORT;
        assert_eq!(interrupted(&Command::SetService(flags), &observed), None);
    }

    #[test]
    fn steps_keep_the_order_leave_nothing_out_and_hold_few_together() {
        let few = u32::try_from(TOGETHER).unwrap();
        let observed = observed(0..100);
        let mut commands = vec![Command::Zero(None), Command::NewService(Service::new(mark(200), "rr"))];
        commands.extend((0..few + 2).map(|number| set(number, "wlc")));
        commands.push(set(few + 2, "rr"));
        commands.push(set(few + 3, "wlc"));
        commands.push(Command::DelService(mark(99)));
        let steps = steps(&commands, &observed);
        let first = 2 + TOGETHER;
        assert_eq!(
            steps,
            [
                Step::AsIs(0..2),
                Step::Held(2..first),
                Step::Held(first..first + 2),
                Step::AsIs(first + 2..first + 3),
                Step::Held(first + 3..first + 4),
                Step::AsIs(first + 4..first + 5),
            ]
        );
        assert_eq!(super::steps(&[], &observed), []);
    }
}
