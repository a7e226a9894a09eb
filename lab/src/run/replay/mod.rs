//! Judges a recording again, by the judges of a run at the times of the recording: its clock goes on where a run would wait.
//!
//! What is in the records is judged from them: requests, who held addresses, frames. What a run asked for at the moment, such as a kernel's
//! table, is not there again: its finding stands as long as nothing else is expected, and else a live run is needed. How late the machine was
//! is recorded as the worst of the run, so that all is judged twice: as if the machine had been on time, and as if it had been late throughout.
//! What these do not agree about stands as found, for the run knew; where something else is expected now, it is undecided.

mod records;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use records::{Records, at};

use super::error::{Error, Result as RunResult};
use super::judge::{self, Looks};
use super::look::{self, Passing, judge_frames};
use super::result::{Judged, ScenarioResult, StepResult, Summary, Verdict};
use super::timeline::Timeline;
use super::{doubt, dumps, session, table};
use crate::expect::{self, Finding, Lateness, Span, holders, requests, worst};
use crate::scenario::expectation::{Expectation, FramesExpectation, HoldersExpectation, Kind, When, Window};
use crate::scenario::step::Action;
use crate::scenario::{Scenario, Step};

/// How long a notification of an address may take to be read, as in a run, and how often it is looked for.
const NOTIFIED: [u64; 2] = [200_000_000, 5_000_000];
/// Where others are waited for in the same step, it is not known when in it this was looked at: at its beginning, or so much later.
const LOOKED: u64 = 1_000_000_000;

/// What came of judging again.
pub(crate) struct Judgement {
    result: ScenarioResult,
    recorded: ScenarioResult,
    timeline: Timeline,
    /// How many expectations were judged from records, stand as recorded, and need a live run.
    counts: [usize; 3],
}

/// Judges the recording in a folder, by its own scenario or by one in which other things are expected.
///
/// # Errors
/// When the folder is no recording, or the other scenario does something else than what was played.
pub(crate) fn judge(folder: &Path, other: Option<Scenario>) -> Result<Judgement, String> {
    let records = Records::read(folder).map_err(|error| error.to_string())?;
    let scenario = other.unwrap_or_else(|| records.scenario.clone());
    fits(&records, &scenario)?;
    let mut judge =
        Judge { records: &records, scenario: &scenario, counts: [0; 3], filtered: Filtered::default() };
    let result = judge.all();
    let counts = judge.counts;
    let recorded = records.result.clone();
    Ok(Judgement { result, recorded, timeline: records.timeline, counts })
}

/// Whether a scenario does what was played.
fn fits(records: &Records, other: &Scenario) -> Result<(), String> {
    let played = &records.scenario;
    if other.topology != played.topology {
        return Err(
            "the scenario has another topology than what was played; only what is expected can be changed"
                .to_owned(),
        );
    }
    let mut after = 0;
    for step in &records.result.steps {
        let place = other.steps.iter().position(|one| one.name == step.name);
        if place.is_some_and(|place| place < after) {
            return Err(format!(
                "the step `{}` stands earlier than it was played; only what is expected can be changed",
                step.name
            ));
        }
        after = place.unwrap_or(after);
        let find = |scenario: &Scenario| scenario.steps.iter().find(|one| one.name == step.name).cloned();
        let Some(now) = find(other) else {
            return Err(format!("the scenario lacks the step `{}`, which was played", step.name));
        };
        let same = find(played).is_some_and(|then| doing(&then) == doing(&now));
        if !same {
            return Err(format!(
                "the step `{}` does something else than what was played; only what is expected can be changed",
                step.name
            ));
        }
    }
    Ok(())
}

/// A step without what it expects.
fn doing(step: &Step) -> Action {
    let mut action = step.action.clone();
    match &mut action {
        Action::Expect(expectations) => expectations.clear(),
        Action::Wait(wait) => {
            wait.until.clear();
            wait.within = None;
        }
        Action::Exec(exec) => {
            exec.exit_code = 0;
            exec.stdout = crate::scenario::texts::TextExpectation::default();
            exec.stderr = crate::scenario::texts::TextExpectation::default();
        }
        _ => {}
    }
    action
}

struct Judge<'a> {
    records: &'a Records,
    scenario: &'a Scenario,
    counts: [usize; 3],
    filtered: Filtered,
}

impl Judge<'_> {
    fn all(&mut self) -> ScenarioResult {
        let recorded = &self.records.result;
        let mut result = ScenarioResult { steps: Vec::new(), ..recorded.clone() };
        if recorded.verdict == Verdict::Unsupported {
            return result;
        }
        // What a harness that broke did not do cannot be made good.
        if recorded.verdict != Verdict::Error {
            (result.verdict, result.reason) = (Verdict::Passed, String::new());
        }
        for (index, played) in recorded.steps.iter().enumerate() {
            let Some(step) = self.scenario.steps.iter().find(|step| step.name == played.name) else {
                continue;
            };
            let next =
                recorded.steps.get(index + 1).map_or(recorded.duration_seconds, |next| next.at_seconds);
            let judged = self.step(step, played, at(next));
            let verdict =
                judged.iter().map(|one| worst(&one.findings)).max().unwrap_or(expect::Verdict::Passed);
            if recorded.verdict != Verdict::Error && Verdict::from(verdict) > result.verdict {
                result.verdict = verdict.into();
                result.reason = session::reason(step, &judged);
            }
            result.steps.push(StepResult { verdict, judged, ..played.clone() });
        }
        let unplayed = self
            .scenario
            .steps
            .iter()
            .find(|step| !recorded.steps.iter().any(|played| played.name == step.name));
        if let Some(step) = unplayed.filter(|_| result.verdict == Verdict::Passed) {
            result.verdict = Verdict::Undecided;
            result.reason = format!("step `{}` was not played; this needs a live run", step.name);
        }
        // What a process did between two steps is of no step.
        dumps::fail(&mut result);
        doubt(self.scenario, &mut result);
        result
    }

    fn step(&mut self, step: &Step, played: &StepResult, next: u64) -> Vec<Judged> {
        let then = self.records.scenario.steps.iter().find(|then| then.name == step.name);
        let before = then.map(|then| expectations(&then.action)).unwrap_or_default();
        // What the runner itself found, such as a program that ended, stands.
        let rest = played.judged.iter().skip(before.len()).cloned();
        let now = expectations(&step.action);
        let recorded = |expectation: &Expectation| {
            let place = before.iter().position(|other| other == expectation)?;
            played.judged.get(place).cloned()
        };
        let mut judged = match &step.action {
            Action::Wait(wait) if !wait.until.is_empty() => {
                let same = then.is_some_and(|then| then.action == step.action);
                self.wait(wait, played, next, same)
            }
            Action::Expect(_) => {
                let timed = now.iter().any(|expectation| expectation.when != When::Now);
                now.iter()
                    .map(|expectation| self.one(expectation, played, next, timed, recorded(expectation)))
                    .collect()
            }
            Action::Exec(_) if then.is_none_or(|then| then.action != step.action) => {
                self.counts[2] += 1;
                return vec![live("exec", format!("what the command of `{}` does", step.name))];
            }
            _ => return played.judged.clone(),
        };
        judged.extend(rest);
        judged
    }

    fn wait(
        &mut self,
        wait: &crate::scenario::step::Wait,
        played: &StepResult,
        next: u64,
        same: bool,
    ) -> Vec<Judged> {
        let count = wait.until.len();
        if wait.until.iter().all(|one| self.is_recorded(&one.kind)) {
            self.counts[0] += count;
            let began = at(played.at_seconds);
            match self.twice(|replay| judge::wait(replay, wait, began), &[began], next, false) {
                Ok(judged) => return judged,
                Err(_) if same => self.counts[0] -= count,
                Err(why) => return wait.until.iter().map(|one| undecided(&one.kind, &why)).collect(),
            }
        }
        if same {
            self.counts[1] += count;
            return played.judged.iter().take(count).cloned().collect();
        }
        self.counts[2] += count;
        wait.until.iter().map(|one| live(one.kind.name(), words(&one.kind))).collect()
    }

    fn one(
        &mut self,
        expectation: &Expectation,
        played: &StepResult,
        next: u64,
        timed: bool,
        recorded: Option<Judged>,
    ) -> Judged {
        let kind = &expectation.kind;
        if !self.is_recorded(kind) {
            if let Some(recorded) = recorded {
                self.counts[1] += 1;
                return recorded;
            }
            self.counts[2] += 1;
            return live(kind.name(), words(kind));
        }
        self.counts[0] += 1;
        let began = at(played.at_seconds);
        let ended = at(played.at_seconds + played.duration_seconds);
        let starts = match expectation.when {
            When::Now if timed => vec![began, ended.min(began + LOOKED)],
            When::Now => vec![began, ended],
            _ => vec![began],
        };
        let one = std::slice::from_ref(expectation);
        let patient = !matches!(expectation.when, When::Within(_));
        let judged = self.twice(|replay| judge::expect(replay, one, began), &starts, next, patient);
        match (judged.map(|mut judged| judged.pop()), recorded) {
            (Ok(Some(judged)), _) => judged,
            (Ok(None), _) => undecided(kind, "nothing was judged"),
            (Err(_), Some(recorded)) => {
                self.counts[0] -= 1;
                self.counts[1] += 1;
                recorded
            }
            (Err(why), None) => undecided(kind, &why),
        }
    }

    /// Whether all that is needed to judge it is recorded.
    fn is_recorded(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Requests(_) | Kind::Holders(_) | Kind::Rest(_) => true,
            // Which clock a frame's time is of is not known once the wall clock was moved.
            Kind::Frames(frames) => {
                !self.records.scenario.moves_the_clock()
                    && self.records.link(&frames.node, &frames.interface).is_some()
            }
            _ => false,
        }
    }

    /// Judges for all that is not known exactly, and agrees or says why not.
    fn twice(
        &self,
        judge: impl Fn(&Replay<'_>) -> RunResult<Vec<Judged>>,
        starts: &[u64],
        next: u64,
        patient: bool,
    ) -> Result<Vec<Judged>, String> {
        let late = Duration::from_secs_f64((self.records.result.lateness_ms / 1000.0).clamp(0.0, 3600.0));
        let mut agreed: Option<Vec<Judged>> = None;
        for start in starts {
            for lateness in [late, Duration::ZERO] {
                let replay = Replay {
                    records: self.records,
                    scenario: self.scenario,
                    clock: Cell::new(*start),
                    end: next.max(*start),
                    lateness,
                    patient,
                    filtered: &self.filtered,
                };
                let judged = judge(&replay).map_err(|error| error.to_string())?;
                let verdicts =
                    |judged: &[Judged]| judged.iter().map(|one| worst(&one.findings)).collect::<Vec<_>>();
                match &agreed {
                    None => agreed = Some(judged),
                    Some(first) if verdicts(first) == verdicts(&judged) => {}
                    Some(_) => {
                        return Err("it depends on when exactly it was looked at, or how late the machine was, of which only the worst of the run is recorded".to_owned());
                    }
                }
            }
        }
        agreed.ok_or_else(|| "nothing was judged".to_owned())
    }
}

fn expectations(action: &Action) -> &[Expectation] {
    match action {
        Action::Expect(expectations) => expectations,
        Action::Wait(wait) => &wait.until,
        _ => &[],
    }
}

fn words(kind: &Kind) -> String {
    format!("the expectation `{}`", kind.name())
}

/// What only a live run can tell.
fn live(kind: &str, wanted: String) -> Judged {
    let seen = "this is not recorded, and something else was expected of it then: it needs a live run";
    let finding = Finding { verdict: expect::Verdict::Undecided, ..Finding::of(false, wanted, seen) };
    Judged { kind: kind.to_owned(), findings: vec![finding], after_seconds: None }
}

fn undecided(kind: &Kind, why: &str) -> Judged {
    let finding =
        Finding { verdict: expect::Verdict::Undecided, ..Finding::of(false, words(kind), why.to_owned()) };
    Judged { kind: kind.name().to_owned(), findings: vec![finding], after_seconds: None }
}

/// The frames that pass each filter: decoding a recording takes long, and it is looked at a hundred times a second of it.
#[derive(Default)]
struct Filtered(RefCell<Vec<(FramesExpectation, Rc<Passing>)>>);

impl Filtered {
    /// Those of an expectation; none if its link was not recorded.
    fn of(&self, records: &Records, expected: &FramesExpectation) -> Option<Rc<Passing>> {
        let same = |other: &FramesExpectation| {
            other.node == expected.node
                && other.interface == expected.interface
                && other.filter == expected.filter
        };
        let mut known = self.0.borrow_mut();
        if let Some((_, passing)) = known.iter().find(|(other, _)| same(other)) {
            return Some(Rc::clone(passing));
        }
        let link = records.link(&expected.node, &expected.interface)?;
        let passing = Rc::new(look::passing(expected, link, &|time| time));
        known.push((expected.clone(), Rc::clone(&passing)));
        Some(passing)
    }
}

/// A run whose clock is that of the records.
struct Replay<'a> {
    records: &'a Records,
    scenario: &'a Scenario,
    clock: Cell<u64>,
    /// When the next step began: what comes then is of that.
    end: u64,
    lateness: Duration,
    /// Whether a look gives a notification the time to be read, as in a run. Where something is waited for it is looked for more often instead.
    patient: bool,
    filtered: &'a Filtered,
}

impl Replay<'_> {
    fn began(&self, step: Option<&String>) -> Option<u64> {
        let step = step?;
        let played = self.records.result.steps.iter().find(|played| played.name == *step);
        // A step that had not begun by now was not known then.
        played.map(|played| at(played.at_seconds)).filter(|began| *began <= self.clock.get())
    }

    fn span(&self, window: &Window) -> Span {
        Span {
            since: self.began(window.since.as_ref()).unwrap_or(0),
            until: self.began(window.until.as_ref()).unwrap_or_else(|| self.clock.get() + 1),
        }
    }

    fn late(&self, span: Span) -> Lateness {
        let length = Duration::from_nanos(span.until.saturating_sub(span.since));
        // Late throughout, or not at all.
        let sum = if self.lateness.is_zero() { Duration::ZERO } else { length };
        Lateness { worst: self.lateness, sum }
    }

    fn load(&self, name: &str) -> Option<requests::Load> {
        let step = self.scenario.steps.iter().find(|step| crate::scenario::load_name(step) == Some(name))?;
        let Action::Requests(load) = &step.action else { return None };
        Some(requests::Load {
            interval: Duration::from_secs(1) / load.rate.max(1),
            timeout: load.timeout.get(),
        })
    }

    fn holders(&self, expected: &HoldersExpectation) -> Vec<Finding> {
        let last = self.clock.get().saturating_add(NOTIFIED[0]).min(self.end);
        loop {
            let now = self.clock.get();
            let window = self.span(&expected.window);
            let lateness = |span| self.late(span).of_a_chain();
            let findings = holders::judge(expected, &self.records.history(now), window, &lateness);
            let wait = self.patient && expected.nodes.is_some();
            if !wait || worst(&findings) == expect::Verdict::Passed || now >= last {
                return findings;
            }
            self.clock.set((now + NOTIFIED[1]).min(last));
        }
    }
}

impl Looks for Replay<'_> {
    fn now(&self) -> u64 {
        self.clock.get()
    }

    fn findings(&self, kind: &Kind, _: u64) -> RunResult<Vec<Finding>> {
        let now = self.clock.get();
        match kind {
            Kind::Requests(expected) => {
                let of = self.load(&expected.load).ok_or_else(|| {
                    Error::harness(format!("`{}` is no load of requests that was played", expected.load))
                })?;
                let names = std::iter::once(&expected.load).chain(&expected.also);
                let all: Vec<_> = names.flat_map(|name| self.records.requests(name, now)).cloned().collect();
                Ok(requests::judge(expected, of, &all, self.span(&expected.window), &|span| self.late(span)))
            }
            Kind::Holders(expected) => Ok(self.holders(expected)),
            Kind::Rest(expected) => Ok(vec![holders::at_rest(expected, &self.records.history(now), now)]),
            Kind::Frames(expected) => {
                let window = self.span(&expected.window);
                let passing = self.filtered.of(self.records, expected);
                let lateness = |span| self.late(span).of_a_chain();
                Ok(judge_frames(expected, passing.as_deref(), window, &lateness))
            }
            _ => Err(Error::harness("this is not recorded")),
        }
    }

    fn pause(&self, length: Duration) -> RunResult<()> {
        let now = self.clock.get();
        if now >= self.end {
            return Err(Error::harness(
                "what is recorded of the step ends before it is decided; this needs a live run",
            ));
        }
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        self.clock.set(now.saturating_add(length.max(1)).min(self.end));
        Ok(())
    }

    fn worst(&self, _: Span) -> Duration {
        self.lateness
    }

    fn seconds(&self, at: u64) -> f64 {
        self.records.timeline.seconds(at)
    }
}

impl Judgement {
    /// The exit code of a run with this result.
    pub(crate) fn exit_code(&self) -> u8 {
        Summary { results: vec![self.result.clone()] }.exit_code()
    }

    /// The table of a run, and what is otherwise than it was recorded.
    pub(crate) fn text(&self) -> String {
        let mut text = table::scenario(&self.result, &self.timeline);
        let [from_records, as_recorded, live] = self.counts;
        text.push_str(&format!(
            "\nof what is expected, {from_records} judged from the records, {as_recorded} as found then, {live} for a live run\n"
        ));
        let (then, now) = (self.recorded.verdict, self.result.verdict);
        if then == now {
            text.push_str(&format!("recorded: {}, too\n", then.name()));
        } else {
            text.push_str(&format!("recorded: {}; judged again: {}\n", then.name(), now.name()));
        }
        for (then, now) in self.recorded.steps.iter().zip(&self.result.steps) {
            if then.verdict != now.verdict {
                let finding =
                    now.judged.iter().flat_map(|one| &one.findings).max_by_key(|finding| finding.verdict);
                let why = finding.map_or_else(String::new, |finding| {
                    format!(": wanted {}; seen {}", finding.wanted, finding.seen)
                });
                text.push_str(&format!(
                    "  step `{}` was {}, is {}{why}\n",
                    then.name,
                    Verdict::from(then.verdict).name(),
                    Verdict::from(now.verdict).name()
                ));
            }
        }
        text
    }
}
