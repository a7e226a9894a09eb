//! Plays the steps of a scenario in a world.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::RunOptions;
use super::captures::Capture;
use super::error::{Error, Result};
use super::loads::Load;
use super::logs::Logs;
use super::look::command_findings;
use super::programs::{MANIFESTS, Programs};
use super::reals::Tables;
use super::result::{Judged, StepResult};
use super::timeline::Timeline;
use crate::canary::Canary;
use crate::expect::bound::show;
use crate::expect::holders::History;
use crate::expect::{Finding, Span, Verdict, worst};
use crate::fault::{self, AGENT, Restart};
use crate::scenario::expectation::{Expectation, Kind};
use crate::scenario::step::{Action, Apply, Exec as ExecStep, RestartAgent, RestartHow, Wait};
use crate::scenario::{Fault, Scenario, Step};
use crate::world::{Exec, World, now};

/// Pause between two looks at something that is waited for, at least and at most.
const LOOK: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// Patience of `wait` where the scenario says nothing.
const WAIT: Duration = Duration::from_secs(30);
/// How long an agent may take to end after SIGTERM.
const ORDERLY: Duration = Duration::from_secs(30);

/// A step that has begun.
pub(super) struct Mark {
    pub(super) name: String,
    pub(super) began: u64,
    /// When its fault, or its heal, took effect.
    pub(super) effect: Option<u64>,
    /// How much later that may have been.
    pub(super) uncertain: Duration,
}

/// Plays a scenario.
pub(super) struct Player<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) options: &'a RunOptions,
    pub(super) world: &'a World,
    pub(super) programs: Programs<'a>,
    pub(super) timeline: &'a Timeline,
    pub(super) canary: &'a Canary,
    pub(super) logs: &'a Logs,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) tables: Arc<Tables>,
    pub(super) marks: Vec<Mark>,
    pub(super) loads: BTreeMap<String, Load>,
    pub(super) captures: Vec<Capture>,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC, in nanoseconds.
    pub(super) realtime: i128,
    pub(super) random: u64,
}

impl Player<'_> {
    /// A time of a recorded frame as CLOCK_MONOTONIC.
    pub(super) fn monotonic(&self, realtime: u64) -> u64 {
        u64::try_from(i128::from(realtime) - self.realtime).unwrap_or(0)
    }

    pub(super) fn load(&self, name: &str) -> Result<&Load> {
        self.loads.get(name).ok_or_else(|| Error::harness(format!("there is no load {name}")))
    }

    /// Plays one step.
    pub(super) fn step(&mut self, step: &Step) -> Result<StepResult> {
        let began = now();
        self.logs.look();
        self.marks.push(Mark { name: step.name.clone(), began, effect: None, uncertain: Duration::ZERO });
        self.timeline.put(began, "step", json!({"name": step.name, "action": step.action.kind()}));
        let mut judged = self.act(step, began)?;
        judged.extend(self.supervise()?);
        let ended = now();
        for one in &judged {
            for finding in &one.findings {
                self.timeline.put(
                    finding.at.unwrap_or(ended),
                    "finding",
                    json!({"step": step.name, "verdict": finding.verdict, "wanted": finding.wanted, "seen": finding.seen}),
                );
            }
        }
        let verdict = judged.iter().map(|one| worst(&one.findings)).max().unwrap_or(Verdict::Passed);
        let span = Span { since: began, until: ended };
        Ok(StepResult {
            name: step.name.clone(),
            action: step.action.kind().to_owned(),
            verdict,
            at_seconds: self.timeline.seconds(began),
            duration_seconds: self.timeline.seconds(ended) - self.timeline.seconds(began),
            lateness_ms: self.canary.worst(span).as_secs_f64() * 1000.0,
            judged,
        })
    }

    fn act(&mut self, step: &Step, began: u64) -> Result<Vec<Judged>> {
        match &step.action {
            Action::Apply(apply) => self.apply(apply).map(|()| Vec::new()),
            Action::Exec(exec) => self.exec(exec),
            Action::Requests(requests) => {
                let name = crate::scenario::load_name(step).unwrap_or(&step.name);
                let mut load = Load::requests(self.world, name, self.loads.len(), requests)?;
                let waited = if requests.background { Ok(()) } else { load.wait(&self.options.cancel) };
                self.loads.insert(name.to_owned(), load);
                waited.map(|()| Vec::new())
            }
            Action::Hold(hold) => {
                let name = crate::scenario::load_name(step).unwrap_or(&step.name);
                let load = Load::hold(self.world, name, self.loads.len(), hold)?;
                self.loads.insert(name.to_owned(), load);
                Ok(Vec::new())
            }
            Action::Stop(stop) => {
                let world = self.world;
                if let Some(load) = self.loads.get_mut(&stop.load) {
                    load.stop(world)?;
                }
                Ok(Vec::new())
            }
            Action::Server(mode) => {
                let at = now();
                self.programs.tell(mode)?;
                self.took_effect(at, now());
                Ok(Vec::new())
            }
            Action::Fault(fault) => self.fault(fault).map(|()| Vec::new()),
            Action::Heal(fault) => self.heal(fault).map(|()| Vec::new()),
            Action::Wait(wait) => self.wait(wait, began),
            Action::Expect(expectations) => self.expect(expectations, began),
            Action::RestartAgent(restart) => self.restart_agent(restart).map(|()| Vec::new()),
            Action::Capture(capture) => {
                let there =
                    |other: &Capture| other.node == *capture.node && other.interface == *capture.interface;
                if !self.captures.iter().any(there) {
                    self.captures.push(Capture::start(self.world, &capture.node, &capture.interface)?);
                }
                Ok(Vec::new())
            }
        }
    }

    fn apply(&mut self, apply: &Apply) -> Result<()> {
        let node = self.world.node(&apply.node)?;
        let path = |file: &str| format!("{MANIFESTS}/{file}");
        // All new contents are there before the first file changes.
        let mut contents: BTreeMap<&str, String> =
            apply.write.iter().map(|(file, text)| (file.as_str(), text.clone())).collect();
        for edit in &apply.replace {
            let text = match contents.get(edit.file.as_str()) {
                Some(text) => text.clone(),
                None => String::from_utf8(node.read_file(path(&edit.file))?)
                    .map_err(|_| Error::harness(format!("{} is not text", edit.file)))?,
            };
            let found = text.matches(&edit.old).count();
            if found != 1 {
                return Err(Error::harness(format!(
                    "`{}` is {found} times in {} of {}; an edit needs it exactly once",
                    edit.old, edit.file, apply.node
                )));
            }
            contents.insert(&edit.file, text.replacen(&edit.old, &edit.new, 1));
        }
        for (file, text) in &contents {
            node.write_file(path(file), text)?;
            self.timeline.now("apply", json!({"node": apply.node, "file": file, "change": "written"}));
        }
        for file in &apply.delete {
            node.remove_file(path(file))?;
            self.timeline.now("apply", json!({"node": apply.node, "file": file, "change": "deleted"}));
        }
        Ok(())
    }

    fn exec(&mut self, exec: &ExecStep) -> Result<Vec<Judged>> {
        let node = self.world.node(&exec.node)?;
        let output = node.exec(&Exec::shell(&exec.command).timeout(exec.timeout.get()))?;
        self.timeline.now(
            "exec",
            json!({"node": exec.node, "command": exec.command, "exit": output.status.to_string(), "stdout": output.text(), "stderr": output.error_text()}),
        );
        let findings =
            command_findings(&exec.command, exec.exit_code, &exec.stdout, Some(&exec.stderr), &output);
        Ok(vec![Judged { kind: "exec".into(), findings, after_seconds: None }])
    }

    fn fault(&mut self, fault: &Fault) -> Result<()> {
        self.pause();
        match fault {
            Fault::KillAgent(fault) => self.programs.not_wanted(&fault.node, AGENT),
            Fault::StopService(fault) => self.programs.not_wanted(&fault.node, &fault.service),
            Fault::Crash(fault) | Fault::Reboot(fault) => self.programs.off(&fault.node),
            _ => {}
        }
        let played = fault::inject(self.world, fault)?;
        self.took_effect(played.at, played.done);
        self.timeline.put(
            played.at,
            "fault",
            json!({"fault": fault.to_string(), "doneAt": self.timeline.seconds(played.done), "proof": played.proof}),
        );
        self.restart(&played.restart, played.at)
    }

    fn heal(&mut self, fault: &Fault) -> Result<()> {
        let played = fault::heal(self.world, fault)?;
        self.took_effect(played.at, played.done);
        self.timeline.put(
            played.at,
            "heal",
            json!({"fault": fault.to_string(), "doneAt": self.timeline.seconds(played.done), "proof": played.proof}),
        );
        self.restart(&played.restart, played.at)
    }

    fn took_effect(&mut self, at: u64, done: u64) {
        if let Some(mark) = self.marks.last_mut() {
            mark.effect = Some(at);
            mark.uncertain = Duration::from_nanos(done.saturating_sub(at));
        }
    }

    fn restart(&mut self, restart: &Restart, at: u64) -> Result<()> {
        match restart {
            Restart::Nothing => Ok(()),
            Restart::Agent { node } => self.programs.start_agent(node),
            Restart::Service { node, service } => self.programs.start_service(node, service),
            Restart::Everything { node } => {
                for capture in self.captures.iter_mut().filter(|capture| capture.node == *node) {
                    capture.go_on(self.world, at)?;
                }
                self.programs.start_node(node)
            }
        }
    }

    /// A random part of a tenth of a second, so that faults do not always fall on the same phase of everybody's timers.
    fn pause(&mut self) {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        std::thread::sleep(Duration::from_micros((z ^ (z >> 31)) % 100_000));
    }

    fn restart_agent(&mut self, restart: &RestartAgent) -> Result<()> {
        let node = self.world.node(&restart.node)?;
        let process = node
            .process(AGENT)
            .filter(crate::world::Process::alive)
            .ok_or_else(|| Error::harness(format!("no agent runs on {}", restart.node)))?;
        if matches!(restart.how, RestartHow::Upgrade | RestartHow::TakeOver) {
            self.programs.upgrade_agent(&restart.node)?;
        }
        if restart.how == RestartHow::TakeOver {
            return self.take_over(&node, &process);
        }
        self.programs.not_wanted(&restart.node, AGENT);
        let at = now();
        if restart.how == RestartHow::Kill {
            process.signal(nix::sys::signal::Signal::SIGKILL)?;
            process.wait(ORDERLY);
        } else {
            process.signal(nix::sys::signal::Signal::SIGTERM)?;
        }
        let exit = process
            .wait(ORDERLY)
            .ok_or_else(|| Error::harness(format!("the agent of {} does not end", restart.node)))?;
        self.timeline.put(at, "agentEnded", json!({"node": restart.node, "exit": exit.to_string()}));
        self.programs.start_agent(&restart.node)?;
        self.timeline.now("agentStarted", json!({"node": restart.node, "how": restart.how}));
        Ok(())
    }

    /// Starts the successor of an agent beside it, and waits for the end of the one before.
    fn take_over(&mut self, node: &crate::world::Node, before: &crate::world::Process) -> Result<()> {
        node.set_aside(AGENT)?;
        let at = now();
        self.took_effect(at, at);
        self.programs.take_over_agent(node.name())?;
        self.timeline.put(at, "agentStarted", json!({"node": node.name(), "how": RestartHow::TakeOver}));
        let exit = before.wait(ORDERLY).ok_or_else(|| {
            Error::harness(format!("the agent of {} does not end after its successor has come", node.name()))
        })?;
        self.timeline.now("agentEnded", json!({"node": node.name(), "exit": exit.to_string()}));
        if exit.success() {
            Ok(())
        } else {
            Err(Error::harness(format!("the agent of {} ended with {exit} after handing over", node.name())))
        }
    }

    fn wait(&self, wait: &Wait, began: u64) -> Result<Vec<Judged>> {
        if let Some(duration) = wait.duration {
            let until = began + nanoseconds(duration.get());
            while now() < until {
                self.options.cancel.check()?;
                let left = Duration::from_nanos(until.saturating_sub(now()));
                std::thread::sleep(left.min(Duration::from_millis(50)));
            }
            return Ok(Vec::new());
        }
        let patience = wait.within.map_or(WAIT, crate::scenario::Span::get);
        let deadline = began + nanoseconds(patience);
        // What did not hold when it was looked at last: as long as it does not, nothing else need be looked at.
        let mut open: Option<&Expectation> = None;
        loop {
            let looked = now();
            if let Some(expectation) = open
                && looked <= deadline
                && worst(&self.look(&expectation.kind, began)?) != Verdict::Passed
            {
                self.pause_after(looked)?;
                continue;
            }
            let mut judged = Vec::new();
            for expectation in &wait.until {
                let findings = self.look(&expectation.kind, began)?;
                judged.push(Judged { kind: expectation.kind.name().into(), findings, after_seconds: None });
            }
            let ended = now();
            if judged.iter().all(|one| worst(&one.findings) == Verdict::Passed) {
                for one in &mut judged {
                    one.after_seconds = Some(self.timeline.seconds(ended) - self.timeline.seconds(began));
                }
                return Ok(judged);
            }
            if looked > deadline {
                for finding in judged.iter_mut().flat_map(|one| &mut one.findings) {
                    if finding.verdict != Verdict::Passed {
                        finding.wanted = format!("within {}: {}", show(patience), finding.wanted);
                    }
                }
                return Ok(judged);
            }
            let holds_not = judged.iter().position(|one| worst(&one.findings) != Verdict::Passed);
            open = holds_not.and_then(|index| wait.until.get(index));
            self.pause_after(looked)?;
        }
    }

    /// Waits a moment after looks that began at `looked`.
    fn pause_after(&self, looked: u64) -> Result<()> {
        self.options.cancel.check()?;
        std::thread::sleep(pause(Duration::from_nanos(now().saturating_sub(looked))));
        Ok(())
    }

    /// Judges all; those with a time are looked at again until they hold or their time is over.
    fn expect(&self, expectations: &[Expectation], began: u64) -> Result<Vec<Judged>> {
        let mut judged: Vec<Option<Judged>> = expectations.iter().map(|_| None).collect();
        // When the last look at which it did not hold began.
        let mut held_not: Vec<Option<u64>> = vec![None; expectations.len()];
        loop {
            let round = now();
            for (index, expectation) in expectations.iter().enumerate() {
                if judged[index].is_some() {
                    continue;
                }
                let looked = now();
                let findings = self.look(&expectation.kind, began)?;
                let seen = now();
                judged[index] = match expectation.within {
                    None => {
                        let kind = expectation.kind.name().into();
                        Some(Judged { kind, findings, after_seconds: None })
                    }
                    Some(within) => {
                        let times = Times { began, looked, seen, held_not: held_not[index] };
                        self.in_time(&expectation.kind, within.get(), times, findings)
                    }
                };
                held_not[index] = Some(looked);
            }
            if judged.iter().all(Option::is_some) {
                return Ok(judged.into_iter().flatten().collect());
            }
            self.pause_after(round)?;
        }
    }

    /// Whether it is decided that something came true in time, and how.
    fn in_time(
        &self,
        kind: &Kind,
        within: Duration,
        times: Times,
        mut findings: Vec<Finding>,
    ) -> Option<Judged> {
        let lateness = self.canary.worst(Span { since: times.began, until: times.seen });
        let deadline = times.began + nanoseconds(within + lateness);
        let limit = format!(
            "within {} ({} + {} lateness of the machine)",
            show(within + lateness),
            show(within),
            show(lateness)
        );
        let holds = worst(&findings) == Verdict::Passed;
        if !holds && times.looked <= deadline {
            return None;
        }
        let after = self.timeline.seconds(times.seen) - self.timeline.seconds(times.began);
        let verdict = match (holds, times.held_not) {
            (true, _) if times.seen <= deadline => Verdict::Passed,
            // It came true between two looks, of which one was in time and the other was not.
            (true, None) => Verdict::Undecided,
            (true, Some(held_not)) if held_not <= deadline => Verdict::Undecided,
            _ => Verdict::Failed,
        };
        for finding in &mut findings {
            if holds || finding.verdict != Verdict::Passed {
                finding.verdict = verdict;
                finding.wanted = format!("{limit}: {}", finding.wanted);
            }
            if holds {
                finding.seen = format!(
                    "after at most {}: {}",
                    show(Duration::from_secs_f64(after.max(0.0))),
                    finding.seen
                );
            }
        }
        Some(Judged { kind: kind.name().into(), findings, after_seconds: holds.then_some(after) })
    }

    /// Whether everything that should run still does.
    fn supervise(&self) -> Result<Vec<Judged>> {
        for capture in &self.captures {
            let up = self.world.node(&capture.node).is_ok_and(|node| node.is_up());
            if let Some(why) = capture.ended().filter(|_| up) {
                return Err(Error::harness(why));
            }
        }
        for load in self.loads.values() {
            if let Some(why) = load.ended(self.world) {
                return Err(Error::harness(why));
            }
        }
        let mut judged = Vec::new();
        for (node, program, exit) in self.programs.ended() {
            if !Self::is_managed(&program) {
                return Err(Error::harness(format!("{program} of {node} ended by itself ({exit})")));
            }
            let finding = Finding::of(
                false,
                format!("{program} of {node} runs"),
                format!("it ended by itself: {exit}"),
            );
            judged.push(Judged { kind: "program".into(), findings: vec![finding], after_seconds: None });
        }
        Ok(judged)
    }

    /// Whether a program is what is tested, and not the lab's own.
    fn is_managed(program: &str) -> bool {
        program == AGENT || program == "keepalived"
    }
}

/// How long to wait after looks that took so long. Looking is work for the machine, often that of starting a program, and must leave most
/// of it to what is looked at.
fn pause(took: Duration) -> Duration {
    (took * 2).clamp(LOOK[0], LOOK[1])
}

/// When a look at something with a time was made.
struct Times {
    began: u64,
    looked: u64,
    seen: u64,
    held_not: Option<u64>,
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_takes_a_third_of_the_time_at_most() {
        let milliseconds = |took| pause(Duration::from_millis(took)).as_millis();
        assert_eq!(milliseconds(0), 10);
        assert_eq!(milliseconds(4), 10);
        assert_eq!(milliseconds(200), 400);
        assert_eq!(milliseconds(3000), 1000, "what comes true is still seen soon");
    }
}
