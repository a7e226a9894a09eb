//! Makes a scenario of faults: the network's beginning, each fault and heal in its time, and between them what has to be true.
//!
//! The invariants are ordinary expectations, so that a run of them is judged, printed and reported as any other, and what is reduced is
//! a scenario that anybody can play:
//!
//! - no request fails while there is a healthy path, from when what happened last has been noticed until the next thing happens;
//! - nobody shares an address for longer than two may have it, since everybody has heard everybody;
//! - held connections outlive directors;
//! - where nothing is broken any more, `bascule-agent plan` has nothing to do;
//! - at the end all agents are ready, addresses rest, and exactly one has each.

use std::time::Duration;

use super::base::Base;
use super::plan::{Pair, span};
use crate::scenario::expectation::{
    AgentStatusExpectation, Bound, ConnectionsExpectation, Count, HoldersExpectation, Limits,
    PlanExpectation, RequestsExpectation, RestExpectation, When, Window,
};
use crate::scenario::step::{Action, Wait};
use crate::scenario::topology::Name;
use crate::scenario::{Expectation, Fault, Kind, Scenario, Span, Step};

/// The step with which chaos begins.
const BEGIN: &str = "chaos begins";
/// The step that waits for the end of all that came of it.
const REST_STEP: &str = "everything comes to rest";
/// The quiet time at the end.
const QUIET: Duration = Duration::from_secs(5);
/// The shortest time that is judged.
const SHORTEST: Duration = Duration::from_millis(500);
/// How long an agent may take to be ready, and addresses to rest. It is patience, not a bound.
const PATIENCE: Span = Span::from_secs(120);
/// How long no address may move until they rest.
const REST: Span = Span::from_secs(3);
/// How soon a kernel is as desired once everything is well.
const DESIRED: Span = Span::from_secs(10);
/// As many addresses are judged, twice at the end.
const ADDRESSES: usize = 16;
/// The most expectations of a step.
const EXPECTATIONS: usize = 64;
/// As long nobody, or two, may have an address by the order of notifications.
const NOTIFIED: Span = Span::from_millis(20);

/// A fault comes, or is healed.
#[derive(Clone, Copy)]
struct Happening<'a> {
    at: Duration,
    number: usize,
    heals: bool,
    pair: &'a Pair,
}

impl Happening<'_> {
    fn name(&self) -> String {
        let what = if self.heals { "healed" } else { "fault" };
        format!("{what} {}: {}", self.number, self.pair.fault)
    }

    fn after(&self, what: &str) -> String {
        let when = if self.heals { "after heal" } else { "after fault" };
        format!("{when} {}: {what}", self.number)
    }
}

/// The scenario of these faults.
pub(super) fn compile(base: &Base, pairs: &[Pair], name: &str, words: &str) -> Scenario {
    let mut writer =
        Writer { base, steps: base.scenario.steps.clone(), heard_since: BEGIN.into(), held: true };
    writer.wait(BEGIN, Duration::from_secs(1));
    let happenings = in_order(pairs);
    // When what happened so far may be felt no more.
    let mut felt = Duration::ZERO;
    for (index, happening) in happenings.iter().enumerate() {
        writer.happen(happening);
        felt = felt.max(happening.at + happening.pair.notice);
        let next = happenings.get(index + 1).map_or(felt + SHORTEST + base.moment, |next| next.at);
        let there: Vec<&Pair> =
            pairs.iter().filter(|pair| pair.at <= happening.at && happening.at < pair.until).collect();
        writer.between(happening, &there, felt, next);
    }
    writer.end();
    Scenario {
        name: name.to_owned(),
        title: None,
        summary: words.to_owned(),
        steps: writer.steps,
        ..base.scenario.clone()
    }
}

/// By time; what is healed at a moment comes before what breaks then.
fn in_order(pairs: &[Pair]) -> Vec<Happening<'_>> {
    let mut happenings: Vec<Happening<'_>> = pairs
        .iter()
        .zip(1..)
        .flat_map(|(pair, number)| {
            [(pair.at, false), (pair.until, true)].map(|(at, heals)| Happening { at, number, heals, pair })
        })
        .collect();
    happenings.sort_by_key(|happening| (happening.at, !happening.heals, happening.number));
    happenings
}

struct Writer<'a> {
    base: &'a Base,
    steps: Vec<Step>,
    /// The step since which all directors hear each other.
    heard_since: String,
    /// Whether connections of the beginning have to be there still.
    held: bool,
}

impl Writer<'_> {
    fn push(&mut self, name: impl Into<String>, action: Action) {
        self.steps.push(Step { name: name.into(), action });
    }

    fn wait(&mut self, name: impl Into<String>, length: Duration) {
        if !length.is_zero() {
            self.push(name, Action::Wait(Wait { duration: Some(span(length)), ..Wait::default() }));
        }
    }

    /// The step of a fault or a heal, and the wait for what comes back with it.
    fn happen(&mut self, happening: &Happening<'_>) {
        let (fault, effect) = (happening.pair.fault.clone(), happening.pair.effect);
        self.held &= !effect.ends_connections;
        if !happening.heals {
            self.push(happening.name(), Action::Fault(fault));
            return;
        }
        let node = fault.node().map(Name::from);
        if !matches!(fault, Fault::Reboot(_)) {
            self.push(happening.name(), Action::Heal(fault));
        }
        if let Some(node) = node.filter(|_| effect.restarts) {
            let name = happening.after("its agent is ready");
            if effect.doubles {
                self.heard_since.clone_from(&name);
            }
            let until = vec![now(ready(node))];
            self.push(name, Action::Wait(Wait { until, within: Some(PATIENCE), ..Wait::default() }));
        } else if effect.doubles {
            self.heard_since = happening.name();
        }
    }

    /// The time from a happening to the next one, and what is judged of it.
    fn between(&mut self, happening: &Happening<'_>, there: &[&Pair], felt: Duration, next: Duration) {
        let moment = self.base.moment;
        if next < felt + SHORTEST + moment {
            self.wait(happening.after("the next thing happens soon"), next.saturating_sub(happening.at));
            return;
        }
        let (since, until) =
            (happening.after("what is now"), happening.after("all that was asked is answered"));
        self.wait(happening.after("noticed"), felt.saturating_sub(happening.at));
        self.wait(&*since, next.saturating_sub(felt + moment));
        self.wait(&*until, moment);
        let window = Window { since: Some(since), until: Some(until) };
        let mut expectations = self.requests(there, &window);
        if !there.iter().any(|pair| pair.effect.doubles) {
            expectations.extend(self.holders(window.until));
        }
        expectations.extend(self.connections(false));
        if there.is_empty() {
            expectations.extend(self.desired());
        }
        expectations.truncate(EXPECTATIONS);
        if !expectations.is_empty() {
            self.push(happening.after("judged"), Action::Expect(expectations));
        }
    }

    /// No request of a load that has a path fails.
    fn requests(&self, there: &[&Pair], window: &Window) -> Vec<Expectation> {
        if there.iter().any(|pair| pair.effect.parts) {
            return Vec::new();
        }
        let cut: Vec<&str> =
            there.iter().filter(|pair| pair.effect.cuts).filter_map(|pair| pair.fault.node()).collect();
        let judged = self.base.loads.iter().filter(|load| !cut.iter().any(|node| load.needs.contains(*node)));
        let of = |load: &str| RequestsExpectation {
            load: load.to_owned(),
            also: Vec::new(),
            window: window.clone(),
            sent: None,
            ok: Some(Count::Limits(Limits { at_least: Some(1), at_most: None })),
            failed: Some(Count::Exactly(0)),
            answerers: None,
            proportion: None,
            tolerance: None,
            alternate: false,
            one_answerer: false,
            longest_gap: None,
        };
        judged.map(|load| now(Kind::Requests(of(&load.name)))).collect()
    }

    /// Nobody shares an address for long since everybody hears everybody.
    fn holders(&self, until: Option<String>) -> Vec<Expectation> {
        let Some(group) = &self.base.site.group else { return Vec::new() };
        let bound = Bound {
            at_most: span(group.overlap),
            from: Some("lifetime max(2 s, Active_Down_Interval) in whole seconds + 1 s, as the kernel looks no more often".into()),
        };
        let of = |address| HoldersExpectation {
            address,
            nodes: None,
            among: group.nodes.clone(),
            window: Window { since: Some(self.heard_since.clone()), until: until.clone() },
            longest_gap: None,
            longest_overlap: Some(bound.clone()),
        };
        group.addresses.iter().take(ADDRESSES).map(|address| now(Kind::Holders(of(*address)))).collect()
    }

    /// No held connection is lost; at the end each is alive.
    fn connections(&self, alive: bool) -> Vec<Expectation> {
        if !self.held {
            return Vec::new();
        }
        let of = |held: &super::base::Held| {
            let kind = Kind::Connections(ConnectionsExpectation {
                load: held.name.clone(),
                alive: alive.then_some(Count::Exactly(held.connections)),
                lost: Some(Count::Exactly(0)),
                ..ConnectionsExpectation::default()
            });
            if alive { Expectation { kind, when: When::Within(held.alive_within) } } else { now(kind) }
        };
        self.base.held.iter().map(of).collect()
    }

    fn agents(&self) -> impl Iterator<Item = Name> {
        let nodes = self.base.scenario.topology.nodes.iter();
        nodes.filter(|node| node.agent.is_some()).map(|node| node.name.clone())
    }

    /// The kernels are as desired.
    fn desired(&self) -> impl Iterator<Item = Expectation> {
        let of =
            |node| Expectation { kind: Kind::Plan(PlanExpectation { node }), when: When::Within(DESIRED) };
        self.agents().map(of)
    }

    /// Everything comes to rest, and is as it should be.
    fn end(&mut self) {
        let mut until: Vec<Expectation> = self.agents().map(|node| now(ready(node))).collect();
        // As many expectations as one step may wait for, less the one that addresses rest.
        until.truncate(15);
        until.push(now(Kind::Rest(RestExpectation { quiet_for: REST, nodes: Vec::new() })));
        self.push(REST_STEP, Action::Wait(Wait { until, within: Some(PATIENCE), ..Wait::default() }));
        self.wait("quiet", QUIET);
        self.wait("the end", self.base.moment);
        let window = Window { since: Some("quiet".into()), until: Some("the end".into()) };
        let mut expectations = self.requests(&[], &window);
        let limit = || Some(Bound { at_most: NOTIFIED, from: None });
        let group = self.base.site.group.as_ref();
        let among = group.map(|group| group.nodes.clone()).unwrap_or_default();
        let addresses = group.into_iter().flat_map(|group| &group.addresses);
        for address in addresses.take(ADDRESSES) {
            expectations.push(now(Kind::Holders(HoldersExpectation {
                address: *address,
                nodes: None,
                among: among.clone(),
                window: window.clone(),
                longest_gap: limit(),
                longest_overlap: limit(),
            })));
        }
        expectations.extend(self.holders(None));
        expectations.extend(self.connections(true));
        expectations.extend(self.desired());
        expectations.truncate(EXPECTATIONS);
        self.push("judged at the end", Action::Expect(expectations));
    }
}

fn now(kind: Kind) -> Expectation {
    Expectation { kind, when: When::Now }
}

fn ready(node: Name) -> Kind {
    let values = [("/ready".to_owned(), serde_json::Value::Bool(true))].into();
    Kind::AgentStatus(AgentStatusExpectation { node, values, contains: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::menu::menu;
    use super::super::plan::draw;
    use super::*;
    use crate::scenario::resolve;

    fn base(name: &str) -> Base {
        Base::of(&resolve(name).expect("it ships")).expect("chaos knows it")
    }

    /// Faults as they are printed, with their seconds.
    fn pairs(base: &Base, faults: &[(&str, u64, u64)]) -> Vec<Pair> {
        let parts = menu(&base.site, &base.scenario.topology, &BTreeSet::new());
        let pair = |(text, at, until): &(&str, u64, u64)| {
            let entry = parts
                .iter()
                .flat_map(|part| part.entries.iter().map(move |entry| (part, entry)))
                .find(|(_, entry)| entry.fault.to_string() == *text);
            let (part, entry) = entry.expect("it can be broken");
            Pair {
                fault: entry.fault.clone(),
                at: Duration::from_secs(*at),
                until: Duration::from_secs(*until),
                effect: entry.effect,
                notice: part.notice,
                settle: part.settle,
            }
        };
        faults.iter().map(pair).collect()
    }

    /// The steps from the beginning of chaos on, and what each judges.
    fn lines(base: &Base, pairs: &[Pair]) -> Vec<String> {
        let scenario = compile(base, pairs, "a", "Words.");
        let judged = |kind: &Kind| match kind {
            Kind::Requests(one) => format!("requests of {}", one.load),
            Kind::Holders(one) => {
                format!("holders since {}", one.window.since.as_deref().unwrap_or("ever"))
            }
            Kind::Connections(one) => format!("connections of {}", one.load),
            Kind::Plan(one) => format!("plan of {}", one.node),
            kind => kind.name().to_owned(),
        };
        let line = |step: &Step| match &step.action {
            Action::Expect(all) => {
                let mut kinds: Vec<String> = all.iter().map(|one| judged(&one.kind)).collect();
                kinds.dedup();
                format!("{}: {}", step.name, kinds.join(", "))
            }
            Action::Wait(Wait { duration: Some(length), .. }) => format!("{} ({length})", step.name),
            _ => step.name.clone(),
        };
        scenario.steps.iter().skip_while(|step| step.name != BEGIN).map(line).collect()
    }

    fn judges(lines: &[String], step: &str) -> String {
        let line = lines.iter().find_map(|line| line.strip_prefix(step));
        line.unwrap_or_else(|| panic!("no step {step} in {lines:#?}")).to_owned()
    }

    #[test]
    fn what_happens_and_what_is_judged_in_between() {
        let base = base("tp-two-directors");
        insta::assert_snapshot!(lines(&base, &pairs(&base, &[("crash dir1", 1, 6)])).join("\n"));
    }

    #[test]
    fn who_has_no_path_is_not_judged() {
        let base = base("tp-complete");
        let lines =
            lines(&base, &pairs(&base, &[("crash Router", 0, 6), ("stopService SRV1 apache2", 20, 30)]));
        let off = judges(&lines, "after fault 1: judged: ");
        assert!(off.contains("requests of B") && !off.contains("requests of A"), "{off}");
        assert!(off.contains("holders") && !off.contains("plan"), "something is broken: {off}");
        let on = judges(&lines, "after heal 1: judged: ");
        assert!(
            on.contains("requests of A") && on.contains("requests of B") && on.contains("plan of Router"),
            "{on}"
        );
        assert!(
            judges(&lines, "after fault 2: judged: ").contains("requests of A"),
            "the other server is there"
        );
    }

    #[test]
    fn directors_that_do_not_hear_each_other() {
        let base = base("tp-complete");
        let parted = pairs(&base, &[("partition lan dir1 | dir2", 0, 6), ("crash dir1", 20, 26)]);
        let lines = lines(&base, &parted);
        assert!(!lines.iter().any(|line| line.starts_with("after fault 1: judged")), "{lines:#?}");
        let healed = "healed 1: partition lan dir1 | dir2";
        for step in ["after heal 1: judged: ", "after fault 2: judged: ", "judged at the end: "] {
            let judged = judges(&lines, step);
            assert!(judged.contains(&format!("holders since {healed}")), "{step}: {judged}");
        }
        // One network of two: nobody takes over, and all is judged.
        let base = super::tests::base("tp-two-directors");
        let lines = super::tests::lines(&base, &pairs(&base, &[("partition inside dir1 | dir2", 0, 6)]));
        let judged = judges(&lines, "after fault 1: judged: ");
        assert!(
            judged.contains("requests of pages") && judged.contains("holders since chaos begins"),
            "{judged}"
        );
    }

    #[test]
    fn connections_are_judged_until_something_ends_them() {
        let base = base("tp-two-directors");
        let mut faults = pairs(&base, &[("crash dir1", 0, 6), ("crash dir2", 25, 31)]);
        faults[1].effect.ends_connections = true;
        let lines = lines(&base, &faults);
        assert!(judges(&lines, "after heal 1: judged: ").contains("connections of held"));
        for step in ["after fault 2: judged: ", "after heal 2: judged: ", "judged at the end: "] {
            assert!(!judges(&lines, step).contains("connections"), "{step}");
        }
    }

    #[test]
    fn all_that_is_broken_is_healed_and_ready() {
        for seed in 0..50 {
            let base = base("tp-complete");
            let parts = menu(&base.site, &base.scenario.topology, &BTreeSet::new());
            let scenario = compile(&base, &draw(&parts, seed, Duration::from_secs(120)), "a", "Words.");
            let mut broken: Vec<&Fault> = Vec::new();
            let mut restarted = BTreeSet::new();
            // At the end all are waited for.
            for step in scenario.steps.iter().take_while(|step| step.name != REST_STEP) {
                match &step.action {
                    Action::Fault(fault @ (Fault::Crash(_) | Fault::KillAgent(_) | Fault::Reboot(_))) => {
                        restarted.extend(fault.node());
                        broken.extend((!matches!(fault, Fault::Reboot(_))).then_some(fault));
                    }
                    Action::Fault(fault) => broken.push(fault),
                    Action::Heal(fault) => broken.retain(|other| *other != fault),
                    Action::Wait(Wait { until, .. }) => {
                        for expectation in until {
                            if let Kind::AgentStatus(status) = &expectation.kind {
                                restarted.remove(&*status.node);
                            }
                        }
                    }
                    _ => {}
                }
            }
            assert!(broken.is_empty(), "seed {seed}: {broken:?}");
            assert!(restarted.iter().all(|node| node.starts_with("SRV")), "seed {seed}: {restarted:?}");
        }
    }
}
