//! What Nodes say of the machines of directors. Out of service a machine is at once; back in service only when that has lasted: who is
//! cordoned twice in a row, or whose label is written anew, does not hand its groups to and fro.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bascule_compile::Machine;

use super::{Core, Moment};
use crate::index::{NodeFacts, Source};

/// So long a Node has to say that its machine is in service again.
pub const BACK: Duration = Duration::from_secs(10);

/// What the compiler knows of Nodes, and what it is to know soon. One entry a Node of which there is something to know.
#[derive(Debug, Default)]
pub(super) struct Machines {
    told: BTreeMap<String, Machine>,
    /// Since when a machine should be in service again.
    back: BTreeMap<String, Instant>,
}

impl Machines {
    /// Takes in what a Node says now, none when it is gone; returns what is to be told of it at once, if anything is.
    fn hear(&mut self, name: &str, facts: Option<&NodeFacts>, now: Instant) -> Option<Machine> {
        let mut machine = facts.map(|facts| facts.machine.clone()).unwrap_or_default();
        let told = self.told.get(name).cloned().unwrap_or_default();
        if machine.out.is_none() && told.out.is_some() {
            self.back.entry(name.to_owned()).or_insert(now);
            machine.out = told.out;
        } else {
            self.back.remove(name);
        }
        self.tell(name, machine)
    }

    fn tell(&mut self, name: &str, machine: Machine) -> Option<Machine> {
        let before = if machine == Machine::default() {
            self.told.remove(name)
        } else {
            self.told.insert(name.to_owned(), machine.clone())
        };
        (before.unwrap_or_default() != machine).then_some(machine)
    }

    /// The machines that have been in service again for long enough.
    fn back(&mut self, now: Instant) -> Vec<(String, Machine)> {
        let back: Vec<String> = self
            .back
            .iter()
            .filter(|(_, since)| **since + BACK <= now)
            .map(|(name, _)| name.clone())
            .collect();
        let mut machines = Vec::new();
        for name in back {
            self.back.remove(&name);
            let machine = Machine { out: None, ..self.told.get(&name).cloned().unwrap_or_default() };
            machines.extend(self.tell(&name, machine).map(|machine| (name, machine)));
        }
        machines
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.back.values().map(|since| *since + BACK).min()
    }
}

impl Core {
    /// A Node of that name came, went or changed.
    pub(super) fn hear_node(&mut self, name: &str, now: &Moment) {
        if let Some(machine) = self.machines.hear(name, self.index.node(name), now.instant) {
            self.compiler.set_machine(name, machine);
        }
    }

    /// Tells the compiler who is back; true when it has to compile, also for what it was told since.
    pub(super) fn tell_machines(&mut self, now: &Moment) -> bool {
        for (name, machine) in self.machines.back(now.instant) {
            self.compiler.set_machine(&name, machine);
        }
        self.compiler.is_behind()
    }

    /// All Nodes are known.
    pub(super) fn begin_machines(&mut self, now: &Moment) {
        for place in self.index.places(Source::Node) {
            self.hear_node(&place.name, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use bascule_compile::OutOfService;

    use super::*;

    fn facts(out: Option<OutOfService>) -> NodeFacts {
        NodeFacts { director: true, machine: Machine { out, failure_domain: Some("a".into()) } }
    }

    #[test]
    fn a_machine_is_out_at_once_and_back_when_that_lasts() {
        let (mut machines, begin) = (Machines::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let out = |machine: Option<Machine>| machine.map(|machine| machine.out);
        let (cordoned, free) = (facts(Some(OutOfService::Cordoned)), facts(None));
        assert_eq!(out(machines.hear("dir1", Some(&free), at(0))), Some(None));
        assert_eq!(out(machines.hear("dir1", Some(&cordoned), at(1))), Some(Some(OutOfService::Cordoned)));
        assert_eq!(out(machines.hear("dir1", Some(&cordoned), at(2))), None);
        // Back for a moment only.
        assert_eq!(out(machines.hear("dir1", Some(&free), at(3))), None);
        assert_eq!(machines.next_deadline(), Some(at(13)));
        assert_eq!(out(machines.hear("dir1", Some(&cordoned), at(12))), None);
        assert_eq!((machines.next_deadline(), machines.back(at(60)).len()), (None, 0));
        // And for good: from when it was said first.
        assert_eq!(out(machines.hear("dir1", Some(&free), at(70))), None);
        assert_eq!(out(machines.hear("dir1", Some(&free), at(75))), None);
        assert_eq!(machines.back(at(79)), []);
        let back = machines.back(at(80));
        assert_eq!(back, [("dir1".to_owned(), Machine { out: None, failure_domain: Some("a".into()) })]);
        assert_eq!(machines.next_deadline(), None);
        // A Node that is gone says nothing of a machine any more, as slowly.
        machines.hear("dir1", Some(&cordoned), at(90));
        let gone = machines.hear("dir1", None, at(91));
        assert_eq!(gone, Some(Machine { out: Some(OutOfService::Cordoned), failure_domain: None }));
        assert_eq!(machines.back(at(101)), [("dir1".to_owned(), Machine::default())]);
        assert!(machines.told.is_empty());
    }
}
