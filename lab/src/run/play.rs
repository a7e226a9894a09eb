//! Plays the steps of a scenario in a world.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::RunOptions;
use super::captures::Capture;
use super::dumps::Dumps;
use super::error::{Error, Result};
use super::events::Streams;
use super::judge;
use super::loads::Load;
use super::logs::Logs;
use super::look::command_findings;
use super::programs::{MANIFESTS, Programs, is_manager};
use super::reals::Tables;
use super::result::{Judged, StepResult};
use super::timeline::Timeline;
use super::wallclock::WallClock;
use crate::canary::Canary;
use crate::expect::holders::History;
use crate::expect::{Finding, Span, Verdict, worst};
use crate::fault::{self, AGENT, Played, Restart};
use crate::random::Random;
use crate::scenario::step::{Action, Apply, Exec as ExecStep, RestartAgent, RestartHow};
use crate::scenario::{Fault, Scenario, Step};
use crate::world::{Exec, World, now};

/// How long an agent may take to end after SIGTERM.
const ORDERLY: Duration = Duration::from_secs(30);
/// The same of a peer, which first gives up what it has, by scripts.
const PEER_ORDERLY: Duration = Duration::from_secs(180);

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
    pub(super) streams: Arc<Streams>,
    pub(super) marks: Vec<Mark>,
    pub(super) loads: BTreeMap<String, Load>,
    pub(super) captures: Vec<Capture>,
    pub(super) clock: WallClock,
    pub(super) random: Random,
    pub(super) dumps: &'a mut Dumps,
}

impl Player<'_> {
    /// A time of a recorded frame as CLOCK_MONOTONIC.
    pub(super) fn monotonic(&self, realtime: u64) -> u64 {
        self.clock.monotonic(realtime, now())
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
            Action::Wait(wait) => judge::wait(self, wait, began),
            Action::Expect(expectations) => judge::expect(self, expectations, began),
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
            Fault::KillAgent(fault) => {
                let manager = self.programs.manager(&fault.node);
                self.programs.not_wanted(&fault.node, manager);
            }
            Fault::StopService(fault) => self.programs.not_wanted(&fault.node, &fault.service),
            Fault::Crash(fault) | Fault::Reboot(fault) => self.programs.off(&fault.node),
            _ => {}
        }
        let played = fault::inject(self.world, fault)?;
        self.played("fault", fault, &played)
    }

    fn heal(&mut self, fault: &Fault) -> Result<()> {
        let played = fault::heal(self.world, fault)?;
        self.played("heal", fault, &played)
    }

    fn played(&mut self, what: &str, fault: &Fault, played: &Played) -> Result<()> {
        if matches!(fault, Fault::ClockStep(_)) {
            self.clock.moved(played.done);
        }
        self.took_effect(played.at, played.done);
        self.timeline.put(
            played.at,
            what,
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
            Restart::Agent { node } => self.programs.start_manager(node),
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
        std::thread::sleep(self.random.time_below(Duration::from_millis(100)));
    }

    fn restart_agent(&mut self, restart: &RestartAgent) -> Result<()> {
        let node = self.world.node(&restart.node)?;
        let manager = self.programs.manager(&restart.node);
        let process = node
            .process(manager)
            .filter(crate::world::Process::alive)
            .ok_or_else(|| Error::harness(format!("no {manager} runs on {}", restart.node)))?;
        if matches!(restart.how, RestartHow::Upgrade | RestartHow::TakeOver) {
            self.programs.upgrade_agent(&restart.node)?;
        }
        if restart.how == RestartHow::TakeOver {
            return self.take_over(&node, &process);
        }
        self.programs.not_wanted(&restart.node, manager);
        let at = now();
        if restart.how == RestartHow::Kill {
            let kill = nix::sys::signal::Signal::SIGKILL;
            // A peer may be several processes; what an agent started outlives it.
            if manager == AGENT {
                process.signal(kill)?
            } else {
                process.signal_group(kill)?
            }
            process.wait(ORDERLY);
        } else {
            process.signal(nix::sys::signal::Signal::SIGTERM)?;
        }
        let patience = if manager == AGENT { ORDERLY } else { PEER_ORDERLY };
        let exit = process
            .wait(patience)
            .ok_or_else(|| Error::harness(format!("the {manager} of {} does not end", restart.node)))?;
        self.timeline.put(at, "agentEnded", json!({"node": restart.node, "exit": exit.to_string()}));
        self.programs.start_manager(&restart.node)?;
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

    /// Whether everything that should run still does.
    fn supervise(&mut self) -> Result<Vec<Judged>> {
        let findings = self
            .dumps
            .news(self.timeline)
            .map_err(|error| Error::harness(format!("looking for what dumped core: {error}")))?;
        let mut judged = Vec::new();
        if !findings.is_empty() {
            judged.push(Judged { kind: "coreDump".into(), findings, after_seconds: None });
        }
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
        for (node, program, exit) in self.programs.ended() {
            if !is_manager(&program) {
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
}

/// A length as times are counted.
pub(super) fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX / 4)
}
