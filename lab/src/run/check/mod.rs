//! Judges what is up as a person has configured it: the loads and expectations of its scenario, by the judges of a run. Nothing is
//! configured, and nothing is broken unless asked for.

mod hints;
mod plan;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use super::captures::Capture;
use super::collect::collect;
use super::dumps::Dumps;
use super::error::{Error, Result};
use super::events::{self, Streams};
use super::logs::Logs;
use super::play::Player;
use super::programs::Programs;
use super::reals::{self, Tables};
use super::result::{Judged, ScenarioResult};
use super::session::{Up, note};
use super::timeline::Timeline;
use super::wallclock::WallClock;
use super::{RunOptions, Verdict};
use crate::canary::Canary;
use crate::expect;
use crate::scenario::step::Action;
use crate::scenario::{Expectation, Fault, Scenario, Step, recorded};
use crate::world::{Process, now};
use plan::Planned;

/// How often the kernels' notifications and the logs are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The table.
    pub text: String,
    /// The exit code of a run with that: 0 all right, 1 something is wrong, 3 nothing could be judged.
    pub code: u8,
}

/// One step, as far as it was judged.
struct Line {
    name: String,
    not: Vec<String>,
    judged: Vec<Judged>,
    hints: Vec<Option<String>>,
}

impl Up {
    /// Judges it. With `faults` those of the scenario are played, too, and healed in the end.
    ///
    /// # Errors
    /// When the lab itself fails, or the check is cancelled.
    pub fn check(&self, faults: bool, options: &RunOptions) -> Result<Checked> {
        let planned = plan::plan(&self.scenario, &|node| self.decides(node), faults);
        let steps = planned.iter().filter_map(|one| one.step.clone()).collect();
        let scenario = Scenario { steps, ..self.scenario.clone() };
        let canary =
            Canary::start().map_err(|error| Error::harness(format!("measuring the machine: {error}")))?;
        let timeline: Arc<OnceLock<Timeline>> = Arc::default();
        let line = timeline.get_or_init(|| Timeline::new(now()));
        let logs = Logs::new(self.folder.join("logs"));
        let mut dumps = Dumps::begin(&scenario, &self.folder);
        // What dumped core before is not of this check.
        dumps.news(line).map_err(|error| Error::harness(format!("looking for what dumped core: {error}")))?;
        // Nor are the addresses that came and went until it was right.
        self.take_in(line);
        {
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            *history = history.present();
        }
        let tables: Arc<Tables> = Arc::default();
        let _looking =
            reals::Watch::start(&scenario.steps, &self.world, &tables, &Arc::downgrade(&timeline))?;
        let streams: Arc<Streams> = Arc::default();
        let _listening = events::Watch::start(
            &scenario.steps,
            &scenario.topology,
            &self.world,
            &streams,
            &Arc::downgrade(&timeline),
        )?;
        let mut player = Player {
            scenario: &scenario,
            options,
            world: &self.world,
            programs: Programs::new(&scenario.topology, &self.world),
            timeline: line,
            canary: &canary,
            logs: &logs,
            history: Arc::clone(&self.history),
            tables,
            streams,
            marks: Vec::new(),
            loads: BTreeMap::new(),
            captures: Vec::new(),
            clock: WallClock::now(),
            random: crate::random::Random::new(now()),
            dumps: &mut dumps,
        };
        let mut result = ScenarioResult::new(&scenario, 0);
        let mut lines = Vec::new();
        let end = AtomicBool::new(false);
        let played = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    self.take_in(line);
                    logs.look();
                    std::thread::sleep(LOOK);
                }
            });
            let played = play(&mut player, &planned, &mut lines);
            // Also of a check that was cut short: the loads end, and what they did is read.
            let collected = collect(&mut player, &self.folder, &mut result);
            end.store(true, Ordering::Relaxed);
            played.and(collected)
        });
        played?;
        Ok(table(&self.scenario.name, &lines))
    }

    /// Whether the agent or a peer of a node runs.
    fn decides(&self, node: &str) -> bool {
        let Ok(node) = self.world.node(node) else { return false };
        let name = node.peer().unwrap_or(crate::fault::AGENT);
        node.process(name).as_ref().is_some_and(Process::alive)
    }

    /// Takes in what the kernels have notified since the last time. At most so much has been waiting as fits their queue.
    fn take_in(&self, timeline: &Timeline) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(watched) = events.try_recv() {
            self.history.lock().unwrap_or_else(PoisonError::into_inner).put(&watched);
            note(timeline, &watched);
        }
    }
}

/// Plays what is planned; what was broken is mended in the end.
fn play(player: &mut Player<'_>, planned: &[Planned], lines: &mut Vec<Line>) -> Result<()> {
    for (node, interface) in recorded(player.scenario) {
        player.options.cancel.check()?;
        player.captures.push(Capture::start(player.world, &node, &interface)?);
    }
    let mut broken: Vec<Fault> = Vec::new();
    let played = planned.iter().try_for_each(|one| {
        let mut line =
            Line { name: one.name.clone(), not: one.not.clone(), judged: Vec::new(), hints: Vec::new() };
        if let Some(step) = &one.step {
            player.options.cancel.check()?;
            (player.options.progress)(&format!("{}: {}", player.scenario.name, step.name));
            match &step.action {
                Action::Fault(fault) => broken.push(fault.clone()),
                Action::Heal(fault) => broken.retain(|other| other != fault),
                _ => {}
            }
            line.judged = player.step(step)?.judged;
            line.hints = hints_of(player.scenario, step, &line.judged);
        }
        lines.push(line);
        Ok(())
    });
    for fault in broken.iter().rev() {
        // What cannot be mended, as a reboot that is over, is as the scenario leaves it.
        let _ = crate::fault::heal(player.world, fault);
    }
    played
}

/// A hint for each finding of a step, in their order.
fn hints_of(scenario: &Scenario, step: &Step, judged: &[Judged]) -> Vec<Option<String>> {
    let expectations: &[Expectation] = match &step.action {
        Action::Expect(expectations) => expectations,
        Action::Wait(wait) => &wait.until,
        _ => &[],
    };
    let mut hints = Vec::new();
    for (index, one) in judged.iter().enumerate() {
        // What the runner itself found comes after what was expected.
        let kind = expectations.get(index).map(|expectation| &expectation.kind);
        hints.extend(
            one.findings
                .iter()
                .map(|finding| kind.and_then(|kind| hints::hint(scenario, &scenario.steps, kind, finding))),
        );
    }
    hints
}

/// What a person reads.
fn table(name: &str, lines: &[Line]) -> Checked {
    let mut text = String::new();
    let (mut right, mut wrong, mut left) = (0, 0, 0);
    let mut said: Vec<&str> = Vec::new();
    for line in lines {
        let findings: Vec<_> = line.judged.iter().flat_map(|one| &one.findings).zip(&line.hints).collect();
        let bad = findings.iter().filter(|(finding, _)| finding.verdict != expect::Verdict::Passed);
        if findings.is_empty() {
            // A load says nothing by itself.
        } else if bad.clone().next().is_none() {
            right += 1;
            text.push_str(&format!("  right       {}\n", line.name));
        } else {
            wrong += 1;
            text.push_str(&format!("  WRONG       {}\n", line.name));
            for (finding, hint) in bad {
                text.push_str(&format!("                wanted: {}\n", below(&finding.wanted)));
                text.push_str(&format!("                seen:   {}\n", below(&finding.seen)));
                // The same again would teach nothing.
                if let Some(hint) = hint.as_deref().filter(|hint| !said.contains(hint)) {
                    text.push_str(&format!("                hint:   {}\n", below(hint)));
                    said.push(hint);
                }
            }
        }
        if findings.is_empty() && !line.not.is_empty() {
            left += 1;
        }
        for why in &line.not {
            text.push_str(&format!("  not judged  {}: {why}\n", line.name));
        }
    }
    let verdict = match (right, wrong) {
        (_, 1..) => Verdict::Failed,
        (0, 0) => Verdict::Unsupported,
        _ => Verdict::Passed,
    };
    let (words, code) = match verdict {
        Verdict::Failed => ("something is wrong", 1),
        Verdict::Unsupported => ("nothing could be judged", 3),
        _ => ("all right", 0),
    };
    let head = format!("\n{name}, as it is up: {words} ({right} right, {wrong} wrong, {left} not judged)\n");
    Checked { text: format!("{head}{text}"), code }
}

/// Further lines stand below the first.
fn below(text: &str) -> String {
    text.trim_end().replace('\n', "\n                        ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect::Finding;

    fn line(name: &str, findings: Vec<Finding>, hint: Option<&str>, not: &[&str]) -> Line {
        let hints = findings.iter().map(|_| hint.map(str::to_owned)).collect();
        let judged = if findings.is_empty() {
            Vec::new()
        } else {
            vec![Judged { kind: "kernel".into(), findings, after_seconds: None }]
        };
        Line { name: name.into(), not: not.iter().map(|&why| why.to_owned()).collect(), judged, hints }
    }

    #[test]
    fn it_says_what_is_right_what_is_wrong_and_what_was_not_judged() {
        let good = || Finding::of(true, "a page", "of SRV1");
        let bad = || Finding::of(false, "a table\nof two lines", "nothing");
        let lines = [
            line("a load", Vec::new(), None, &[]),
            line("pages", vec![good()], None, &["`plan` needs the agent"]),
            line("rules", vec![good(), bad()], Some("on LB: ipvsadm -A"), &[]),
            line("rules again", vec![bad()], Some("on LB: ipvsadm -A"), &[]),
            line("later", Vec::new(), None, &["comes after `rules`"]),
        ];
        let checked = table("tp-ipvs", &lines);
        assert_eq!(checked.code, 1);
        insta::assert_snapshot!(checked.text);
        assert_eq!(table("a", &lines[..2]).code, 0);
        assert_eq!(table("a", &lines[4..]).code, 3);
        assert!(table("a", &lines[..2]).text.contains("all right (1 right, 0 wrong, 0 not judged)"));
    }
}
