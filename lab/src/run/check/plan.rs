//! What of a scenario can be played against a network that a person has configured, and why the rest is not. Pure.

use std::time::Duration;

use super::super::programs::is_manager;
use crate::expect::ipvsadm;
use crate::expect::text::squeeze;
use crate::scenario::expectation::{
    DestinationExpectation, Expectation, KernelExpectation, Kind, ServiceExpectation, TextExpectation, When,
};
use crate::scenario::step::Action;
use crate::scenario::{Fault, Scenario, Span, Step};

/// Nothing comes by itself where a person configures: what is not so after this time is not so.
const PATIENCE: Duration = Duration::from_secs(10);
/// As the peer of a scenario that types the lines of the TP is called: its steps ask for no agent.
const TYPED: &str = "ipvsadm";

const AGENT_NEEDED: &str = "needs the agent";
const NFT: &str = "how rules of nftables are written is the agent's own; what they do, requests show";

/// A step: what is played of it, and what is not.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    /// Its name.
    pub(super) name: String,
    /// What is played; none: nothing.
    pub(super) step: Option<Step>,
    /// Why the rest is not.
    pub(super) not: Vec<String>,
}

/// Plans a check. `runs`: whether an agent or a peer of the lab decides on a node now, so that it can be asked.
pub(super) fn plan(scenario: &Scenario, runs: &dyn Fn(&str) -> bool, faults: bool) -> Vec<Planned> {
    let mut managers =
        scenario.topology.nodes.iter().filter(|node| node.agent.is_some() || node.peer.is_some());
    let by_hand = !managers.any(|node| runs(&node.name));
    let typed = if by_hand { scenario.with_peer(TYPED).ok() } else { None };
    let steps = typed.map_or_else(|| scenario.steps.clone(), |typed| typed.steps);
    let mut planner = Planner { runs, faults, by_hand, ended: None };
    steps.iter().map(|step| planner.step(step)).collect()
}

struct Planner<'a> {
    runs: &'a dyn Fn(&str) -> bool,
    faults: bool,
    by_hand: bool,
    /// The first step that was left out and changes what all later ones expect.
    ended: Option<String>,
}

impl Planner<'_> {
    fn step(&mut self, step: &Step) -> Planned {
        let whole =
            |step: &Step| Planned { name: step.name.clone(), step: Some(step.clone()), not: Vec::new() };
        if let Some(name) = &self.ended {
            let not = vec![format!("comes after `{name}`")];
            return Planned { name: step.name.clone(), step: None, not };
        }
        match &step.action {
            Action::Requests(_) | Action::Hold(_) | Action::Stop(_) | Action::Capture(_) => whole(step),
            Action::Wait(wait) if wait.until.is_empty() => whole(step),
            Action::Wait(wait) => {
                let (until, not) = self.expectations(&wait.until);
                let within = if self.by_hand {
                    Some(Span(wait.within.map_or(PATIENCE, |within| within.get().min(PATIENCE))))
                } else {
                    wait.within
                };
                let played = crate::scenario::step::Wait { until, within, ..wait.clone() };
                let action = (!played.until.is_empty()).then_some(Action::Wait(played));
                Self::planned(step, action, not)
            }
            Action::Expect(expectations) => {
                let (kept, not) = self.expectations(expectations);
                Self::planned(step, (!kept.is_empty()).then_some(Action::Expect(kept)), not)
            }
            Action::Exec(exec) if only_pings(&exec.command) => whole(step),
            Action::Exec(_) if self.faults => whole(step),
            Action::Exec(_) => self.end(step, "a command that may change something (--faults plays it)"),
            Action::Server(_) if self.faults => whole(step),
            Action::Server(_) => self.end(step, "a server that is told how to behave (--faults plays it)"),
            Action::Fault(fault) | Action::Heal(fault) if self.faults && self.without_agent(fault) => {
                self.end(step, "a fault of the agent, which does not run")
            }
            Action::Fault(_) | Action::Heal(_) if self.faults => whole(step),
            Action::Fault(_) | Action::Heal(_) => self.end(step, "a fault (--faults plays it)"),
            Action::Apply(_) => self.end(step, "a change of the agent's manifests"),
            Action::RestartAgent(_) => self.end(step, "a restart of the agent"),
        }
    }

    fn planned(step: &Step, action: Option<Action>, not: Vec<String>) -> Planned {
        let kept = action.map(|action| Step { action, ..step.clone() });
        Planned { name: step.name.clone(), step: kept, not }
    }

    /// Leaves out a step, and with it all that come later. `why`: it is …
    fn end(&mut self, step: &Step, why: &str) -> Planned {
        self.ended = Some(step.name.clone());
        Planned { name: step.name.clone(), step: None, not: vec![format!("it is {why}")] }
    }

    fn without_agent(&self, fault: &Fault) -> bool {
        let words = fault.to_string();
        words.split(' ').next().unwrap_or_default().ends_with("Agent")
            && fault.node().is_some_and(|node| !(self.runs)(node))
    }

    fn expectations(&self, all: &[Expectation]) -> (Vec<Expectation>, Vec<String>) {
        let (mut kept, mut not) = (Vec::new(), Vec::new());
        for expectation in all {
            let (kind, why) = self.kind(&expectation.kind);
            if let Some(why) = why {
                not.push(format!("`{}` {why}", expectation.kind.name()));
            }
            let when = match expectation.when {
                When::Within(span) if self.by_hand => When::Within(Span(span.get().min(PATIENCE))),
                when => when,
            };
            kept.extend(kind.map(|kind| Expectation { kind, when }));
        }
        (kept, not)
    }

    /// What of a kind can be judged, and why not the rest of it.
    fn kind(&self, kind: &Kind) -> (Option<Kind>, Option<String>) {
        let needed = || (None, Some(AGENT_NEEDED.to_owned()));
        let runs = |node: &str| (self.runs)(node);
        match kind {
            Kind::AgentStatus(expected) if !runs(&expected.node) => needed(),
            Kind::Plan(expected) if !runs(&expected.node) => needed(),
            Kind::Metric(expected) if !runs(&expected.node) => needed(),
            Kind::Event(expected) if !runs(&expected.node) => needed(),
            Kind::Log(expected) if !runs(&expected.node) && is_manager(&expected.program) => needed(),
            Kind::Command(expected)
                if !runs(&expected.node) && expected.command.contains("bascule-agent") =>
            {
                needed()
            }
            Kind::Kernel(expected) if !runs(&expected.node) => kernel(expected),
            other => (Some(other.clone()), None),
        }
    }
}

/// Whether a command looks and changes nothing: pings, one after another.
fn only_pings(command: &str) -> bool {
    !command.contains(['|', '>', '<', '$', '`', '\n'])
        && command.replace("&&", ";").split(';').all(|part| part.trim().starts_with("ping "))
}

/// A kernel's tables as a person makes them.
fn kernel(expected: &KernelExpectation) -> (Option<Kind>, Option<String>) {
    let mut kernel = expected.clone();
    let why = (!kernel.nft.is_empty()).then(|| NFT.to_owned());
    kernel.nft = TextExpectation::default();
    if let Some(lines) = &mut kernel.ipvsadm {
        // Service by service as well, so that what is wrong is said of each.
        if kernel.services.is_none() {
            kernel.services = services(lines);
        }
        for line in lines {
            *line = without_counters(line);
        }
    }
    let left = kernel.ipvsadm.is_some()
        || kernel.services.is_some()
        || !(kernel.no_services.is_empty()
            && kernel.addresses.is_empty()
            && kernel.no_addresses.is_empty()
            && kernel.sysctls.is_empty());
    (left.then_some(Kind::Kernel(kernel)), why)
}

/// A line of `ipvsadm -Ln` without how many connections there were: who tries what he has typed makes some.
fn without_counters(line: &str) -> String {
    let squeezed = squeeze(line);
    match squeezed.split(' ').collect::<Vec<_>>()[..] {
        ["->", server, forward, weight, _, _] => format!("-> {server} {forward} {weight} * *"),
        _ => squeezed,
    }
}

/// What a listing says of each service; none where it has a `*`.
fn services(lines: &[String]) -> Option<Vec<ServiceExpectation>> {
    if lines.iter().any(|line| line.contains('*')) {
        return None;
    }
    let parsed = ipvsadm::parse(&lines.join("\n")).ok().filter(|services| !services.is_empty())?;
    let of = |service: ipvsadm::Service| ServiceExpectation {
        service: service.service,
        scheduler: Some(service.scheduler),
        flags: Some(service.flags),
        destinations: Some(
            service
                .destinations
                .into_iter()
                .map(|seen| DestinationExpectation {
                    server: seen.server,
                    forward: Some(seen.forward),
                    weight: Some(seen.weight),
                    active: None,
                    inactive: None,
                })
                .collect(),
        ),
    };
    Some(parsed.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::resolve;

    fn planned(name: &str, runs: bool, faults: bool) -> Vec<Planned> {
        plan(&resolve(name).unwrap(), &|_| runs, faults)
    }

    fn of<'a>(planned: &'a [Planned], name: &str) -> &'a Planned {
        planned.iter().find(|one| one.name == name).unwrap()
    }

    #[test]
    fn the_tp_is_judged_whole_by_its_typed_lines() {
        let plan = planned("tp-ipvs", false, false);
        assert!(plan.iter().all(|one| one.step.is_some() && one.not.is_empty()), "{plan:?}");
        let first = of(&plan, "the rules are loaded at the start").step.clone().unwrap();
        let Action::Wait(wait) = &first.action else { panic!("{first:?}") };
        assert_eq!(wait.within, Some(Span(PATIENCE)), "60 s would be to wait for an agent");
        let Kind::Kernel(kernel) = &wait.until[0].kind else { panic!("{first:?}") };
        assert_eq!(kernel.ipvsadm.as_ref().unwrap()[1], "-> 172.16.193.10:80 Masq 1 * *");
        let services = kernel.services.as_ref().unwrap();
        assert_eq!(services[0].destinations.as_ref().unwrap().len(), 2);
        assert_eq!(kernel.sysctls["net.ipv4.ip_forward"], "1");
    }

    #[test]
    fn what_only_an_agent_can_say_is_not_judged_without_one() {
        let plan = planned("tp-router-nat", false, false);
        let first = of(&plan, "the router forwards");
        assert_eq!(
            first.not,
            [
                format!("`kernel` {NFT}"),
                "`agentStatus` needs the agent".into(),
                "`plan` needs the agent".into()
            ]
        );
        let Some(Action::Wait(wait)) = first.step.as_ref().map(|step| &step.action) else {
            panic!("{first:?}")
        };
        let Kind::Kernel(kernel) = &wait.until[0].kind else { panic!("{first:?}") };
        assert!(wait.until.len() == 1 && kernel.nft.is_empty() && kernel.sysctls.len() == 1);
        // With an agent there is nothing that it could not be asked.
        let plan = planned("tp-router-nat", true, false);
        let first = of(&plan, "the router forwards");
        let Some(Action::Wait(wait)) = first.step.as_ref().map(|step| &step.action) else {
            panic!("{first:?}")
        };
        assert!(first.not.is_empty() && wait.until.len() == 3);
    }

    #[test]
    fn nothing_is_judged_after_a_change_that_is_not_played() {
        let plan = planned("tp-router-nat", false, false);
        let place = plan.iter().position(|one| one.name == "ifdown enp0s3 on SRV1").unwrap();
        assert!(plan[place - 1].step.is_some());
        assert!(plan[place].not[0] == "it is a fault (--faults plays it)");
        for later in &plan[place + 1..] {
            assert!(later.step.is_none() && later.not[0].contains("ifdown enp0s3 on SRV1"), "{later:?}");
        }
        // With faults it goes on to where the manifests change.
        let plan = planned("tp-router-nat", false, true);
        assert!(of(&plan, "its page comes again").step.is_some());
        assert!(of(&plan, "SRV2 takes over").step.is_some());
        assert!(of(&plan, "the rule goes").step.is_none());
        assert!(of(&plan, "and the connection").not[0].contains("`the rule goes`"));
    }

    #[test]
    fn every_scenario_that_ships_can_be_planned_and_stays_one() {
        for shipped in crate::scenario::shipped::SHIPPED {
            for (runs, faults) in [(false, false), (false, true), (true, true)] {
                let plan = planned(shipped.name, runs, faults);
                assert!(
                    plan.iter().all(|one| one.step.is_some() || !one.not.is_empty()),
                    "{}: what is not played says why",
                    shipped.name
                );
            }
        }
    }

    #[test]
    fn pings_are_looks_and_nothing_else_is() {
        assert!(only_pings("ping -c 1 -W 5 SRV1 && ping -c 1 -W 5 SRV2"));
        for command in ["ping -c 1 a && reboot", "ping a > /etc/passwd", "ping $(reboot)", "true", ""] {
            assert!(!only_pings(command), "{command}");
        }
    }
}
