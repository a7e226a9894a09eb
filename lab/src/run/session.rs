//! One scenario from its network's building to its taking down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc::Receiver;

use super::captures::Capture;
use super::collect::{collect, nearest, nearest_frames};
use super::dumps::Dumps;
use super::error::{Error, Result};
use super::events::{self, Streams};
use super::logs::Logs;
use super::play::Player;
use super::programs::Programs;
use super::reals::{self, Tables};
use super::result::{ScenarioResult, Verdict};
use super::tables::Moments;
use super::timeline::Timeline;
use super::wallclock::WallClock;
use super::{Cancel, RunOptions, folder, table};
use crate::canary::Canary;
use crate::doctor::kernel::{self, Ability};
use crate::expect::Span;
use crate::expect::holders::History;
use crate::fault::{self, Played, Restart};
use crate::programs::clock;
use crate::random::Random;
use crate::scenario::{Fault, Scenario, Step, load, recorded, shipped};
use crate::world::{Event, Watched, World, WorldDir, now, wallclock};

/// What this kernel and machine lack of what a scenario needs, in words; empty: nothing.
pub fn missing(scenario: &Scenario) -> Vec<String> {
    let mut missing = Vec::new();
    let abilities: Vec<Ability> = scenario.features().into_iter().map(Ability::from).collect();
    let needed = |ability: Ability| Ability::ALWAYS.contains(&ability) || abilities.contains(&ability);
    for finding in kernel::probe() {
        if let Some(why) = finding.lacking.filter(|_| needed(finding.ability)) {
            missing.push(format!("the kernel has no {}: {why}", finding.ability.name()));
        }
    }
    let always = ["ip"].into_iter();
    for program in always.chain(scenario.requires.programs.iter().map(String::as_str)) {
        if in_path(program).is_none() {
            missing.push(format!("the program {program} is not installed"));
        }
    }
    for peer in scenario.topology.nodes.iter().filter_map(|node| node.peer.as_ref()) {
        let (programs, package) = peer.programs();
        for program in programs.iter().filter(|program| in_path(program).is_none()) {
            let why = format!("the program {program} is not installed (apt-get install {package})");
            // Of each node that runs it.
            if !missing.contains(&why) {
                missing.push(why);
            }
        }
    }
    if let Some(why) = wallclock::refusal().filter(|_| scenario.moves_the_clock()) {
        missing.push(why.to_owned());
    }
    missing
}

/// A program in PATH, or where administrators' programs are.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The agent's program.
fn agent(options: &RunOptions) -> Result<PathBuf> {
    if let Some(path) = &options.agent {
        return Ok(path.clone());
    }
    let beside =
        options.program.parent().map(|folder| folder.join("bascule-agent")).filter(|path| path.is_file());
    beside.or_else(|| in_path("bascule-agent")).ok_or_else(|| {
        Error::harness(
            "there is no bascule-agent beside bascule-lab and none in PATH; build it or give its path",
        )
    })
}

/// A network that stands, with its programs running.
pub struct Up {
    /// The network.
    pub world: World,
    pub(super) scenario: Scenario,
    /// Where its logs are, in `logs/`.
    pub(super) folder: PathBuf,
    /// Who had which address, as far as a check has taken it in,
    pub(super) history: Arc<Mutex<History>>,
    /// and what has been notified since.
    pub(super) events: Mutex<Receiver<Watched>>,
    cancel: Cancel,
}

impl Up {
    /// Waits until the run is cancelled.
    pub fn wait(&self) {
        while !self.cancel.is_cancelled() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Plays a fault; after a reboot the programs of the node are started.
    ///
    /// # Errors
    /// When it does not take effect, or a program does not start.
    pub fn inject(&self, fault: &Fault) -> Result<Played> {
        let played = fault::inject(&self.world, fault)?;
        self.restart(&played.restart)?;
        Ok(played)
    }

    /// Ends a fault, and starts what it had ended.
    ///
    /// # Errors
    /// When it is not over, or a program does not start.
    pub fn heal(&self, fault: &Fault) -> Result<Played> {
        let played = fault::heal(&self.world, fault)?;
        self.restart(&played.restart)?;
        Ok(played)
    }

    fn restart(&self, restart: &Restart) -> Result<()> {
        let mut programs = Programs::new(&self.scenario.topology, &self.world);
        match restart {
            Restart::Nothing => Ok(()),
            Restart::Agent { node } => programs.start_manager(node),
            Restart::Service { node, service } => programs.start_service(node, service),
            Restart::Everything { node } => programs.start_node(node),
        }
    }

    /// Takes it down.
    ///
    /// # Errors
    /// When something could not be removed; the lab's next start tries again.
    pub fn tear_down(self) -> Result<()> {
        Ok(self.world.tear_down()?)
    }
}

fn build(scenario: &Scenario, options: &RunOptions, logs: PathBuf) -> Result<World> {
    let mut programs = BTreeMap::new();
    if scenario.topology.nodes.iter().any(|node| node.agent.is_some()) {
        match agent(options) {
            Ok(path) => drop(programs.insert("bascule-agent".to_owned(), path)),
            // Where none is started none need be there.
            Err(_) if options.topology_only => {}
            Err(error) => return Err(error),
        }
    }
    let dir = WorldDir {
        label: scenario.name.clone(),
        logs,
        program: options.program.clone(),
        programs,
        cancel: options.cancel.clone(),
    };
    let progress = |line: &str| (options.progress)(&format!("{}: {line}", scenario.name));
    Ok(World::build(&scenario.topology, &dir, &progress)?)
}

/// Builds the network of a scenario and starts its programs; plays no step. With `topology_only` its servers are all that is started.
///
/// # Errors
/// When the machine lacks something, or the network cannot be built.
pub fn up(scenario: &Scenario, options: &RunOptions) -> Result<Up> {
    let missing = missing(scenario);
    if !missing.is_empty() {
        return Err(Error::harness(missing.join("; ")));
    }
    let by_hand = options.topology_only.then(|| scenario.by_hand());
    let scenario = by_hand.as_ref().unwrap_or(scenario);
    let folder = options.out.join(&scenario.name);
    let world = build(scenario, options, folder.join("logs"))?;
    let events = world.watch().ok_or_else(|| Error::harness("the world is watched already"))?;
    let started = Programs::new(&scenario.topology, &world).start_all();
    if let Err(error) = started {
        world.tear_down()?;
        return Err(error);
    }
    Ok(Up {
        world,
        scenario: scenario.clone(),
        folder,
        history: Arc::default(),
        events: Mutex::new(events),
        cancel: options.cancel.clone(),
    })
}

/// Plays a scenario once. An error is one of writing results; all others are verdicts.
pub(super) fn run(
    scenario: &Scenario,
    options: &RunOptions,
    folder: &Path,
    seed: u64,
) -> std::io::Result<ScenarioResult> {
    // What an earlier run left there would be taken for this one's.
    folder::clear(folder)?;
    std::fs::create_dir_all(folder.join("logs"))?;
    let mut result = ScenarioResult::new(scenario, seed);
    // What is left if the lab is killed, and by which the next run knows the folder as one that it may clear.
    let unended = ScenarioResult {
        verdict: Verdict::Error,
        reason: "it was not played to its end".into(),
        ..result.clone()
    };
    write_result(folder, &unended)?;
    std::fs::write(folder.join(format!("{}.yaml", scenario.name)), scenario_text(scenario)?)?;
    let missing = missing(scenario);
    if !missing.is_empty() {
        result.verdict = Verdict::Unsupported;
        result.reason = missing.join("; ");
        (options.progress)(&format!("{}: unsupported: {}", scenario.name, result.reason));
        return Ok(result);
    }
    let built = now();
    let canary = Canary::start()?;
    let mut dumps = Dumps::begin(scenario, folder);
    let timeline = match set_up_and_play(scenario, options, folder, &canary, &mut dumps, &mut result) {
        Ok(timeline) => timeline,
        Err(Early { error, timeline }) => {
            // A failure that was found before counts for more than a harness that broke over it, and both are said.
            let text = match &error {
                Error::Interrupted => "interrupted".to_owned(),
                Error::Harness(text) => text.clone(),
            };
            if result.verdict == Verdict::Failed {
                result.reason = format!("{}; then the harness failed: {text}", result.reason);
            } else {
                result.verdict = Verdict::Error;
                result.reason = text;
            }
            timeline.unwrap_or_else(|| Timeline::new(built))
        }
    };
    dumps.end(&timeline, &mut result, folder)?;
    result.setup_seconds = Duration::from_nanos(timeline.start().saturating_sub(built)).as_secs_f64();
    timeline.write(&folder.join("timeline.jsonl"))?;
    (options.print)(table::scenario(&result, &timeline).trim_end());
    Ok(result)
}

/// A scenario as a file: that which ships as it ships, another one with its fields only. JSON is YAML.
fn scenario_text(scenario: &Scenario) -> std::io::Result<String> {
    let ships = shipped::find(&scenario.name)
        .filter(|shipped| load(shipped.name, shipped.text).is_ok_and(|other| other == *scenario));
    match ships {
        Some(shipped) => Ok(shipped.text.to_owned()),
        None => Ok(serde_json::to_string_pretty(scenario)? + "\n"),
    }
}

/// An error, and what had happened until then.
struct Early {
    error: Error,
    timeline: Option<Timeline>,
}

impl<E: Into<Error>> From<E> for Early {
    fn from(error: E) -> Self {
        Self { error: error.into(), timeline: None }
    }
}

fn set_up_and_play(
    scenario: &Scenario,
    options: &RunOptions,
    folder: &Path,
    canary: &Canary,
    dumps: &mut Dumps,
    result: &mut ScenarioResult,
) -> Result<Timeline, Early> {
    let logs_folder = folder.join("logs");
    let world = build(scenario, options, logs_folder.clone())?;
    let logs = Logs::new(logs_folder);
    let history: Arc<Mutex<History>> = Arc::default();
    let early: Arc<Mutex<Vec<Watched>>> = Arc::default();
    let timeline: Arc<std::sync::OnceLock<Timeline>> = Arc::default();
    let over: Arc<AtomicBool> = Arc::default();
    let tables: Arc<Tables> = Arc::default();
    let watcher = watch(&world, &history, &early, &timeline, &over)?;

    let mut programs = Programs::new(&scenario.topology, &world);
    programs.start_all()?;
    let mut recorded_links = Vec::new();
    for (node, interface) in recorded(scenario) {
        options.cancel.check()?;
        recorded_links.push(Capture::start(&world, &node, &interface)?);
    }

    let streams: Arc<Streams> = Arc::default();
    let listening = events::Watch::start(
        &scenario.steps,
        &scenario.topology,
        &world,
        &streams,
        &Arc::downgrade(&timeline),
    )?;
    let looking = reals::Watch::start(&scenario.steps, &world, &tables, &Arc::downgrade(&timeline))?;

    let line = timeline.get_or_init(|| Timeline::new(now()));
    for watched in early.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        note(line, &watched);
    }
    let mut player = Player {
        scenario,
        options,
        world: &world,
        programs,
        timeline: line,
        canary,
        logs: &logs,
        history,
        tables,
        streams,
        marks: Vec::new(),
        loads: BTreeMap::new(),
        captures: recorded_links,
        clock: WallClock::now(),
        random: Random::new(result.seed),
        dumps,
    };
    result.started_unix_ns = clock::realtime_ns().saturating_sub(now().saturating_sub(line.start()));
    let mut moments = Moments::default();
    moments.look("start", scenario, &world, line);
    let end = AtomicBool::new(false);
    let played = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                logs.look();
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let played = play(&mut player, &mut moments, result);
        end.store(true, Ordering::Relaxed);
        played
    });
    result.nearest_frames = nearest_frames(&player, result);
    moments.look("end", scenario, &world, line);
    let kept = moments.write(folder).map_err(|error| Error::harness(format!("writing the tables: {error}")));
    let collected = collect(&mut player, folder, result);
    let nearest = nearest(result, &logs, line.start());
    result.nearest_log_lines = nearest;
    drop(player);
    drop((looking, listening));
    // What goes now goes because the lab takes it down.
    over.store(true, Ordering::Relaxed);
    let down = world.tear_down();
    drop(world);
    // The queue ends with the world.
    let _ = watcher.join();
    let timeline = Arc::into_inner(timeline).and_then(std::sync::OnceLock::into_inner);
    for outcome in [played, kept, collected, down.map_err(Into::into)] {
        if let Err(error) = outcome {
            return Err(Early { error, timeline });
        }
    }
    timeline.ok_or_else(|| Error::harness("the timeline is still in use").into())
}

/// Takes the kernels' notifications in, on a thread of its own.
fn watch(
    world: &World,
    history: &Arc<Mutex<History>>,
    early: &Arc<Mutex<Vec<Watched>>>,
    timeline: &Arc<std::sync::OnceLock<Timeline>>,
    over: &Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<()>> {
    let mut events = world.watch().ok_or_else(|| Error::harness("the world is watched already"))?;
    let (history, early, timeline) = (Arc::clone(history), Arc::clone(early), Arc::downgrade(timeline));
    let over = Arc::clone(over);
    let take = move || {
        while let Some(watched) = events.blocking_recv() {
            if over.load(Ordering::Relaxed) {
                continue;
            }
            history.lock().unwrap_or_else(PoisonError::into_inner).put(&watched);
            let timeline = timeline.upgrade();
            match timeline.as_ref().and_then(|timeline| timeline.get()) {
                Some(timeline) => note(timeline, &watched),
                None => early.lock().unwrap_or_else(PoisonError::into_inner).push(watched),
            }
        }
    };
    std::thread::Builder::new()
        .name("watch".into())
        .spawn(take)
        .map_err(|error| Error::harness(format!("starting a thread: {error}")))
}

/// Puts a notification on the timeline.
pub(super) fn note(timeline: &Timeline, watched: &Watched) {
    let node = &watched.node;
    match &watched.event {
        Event::AddressAdded { interface, address, prefix, label, initial } => timeline.put(
            watched.at,
            "address",
            json!({"node": node, "interface": interface, "address": format!("{address}/{prefix}"), "label": label, "change": "added", "initial": initial}),
        ),
        Event::AddressRemoved { interface, address, prefix, gone } => timeline.put(
            watched.at,
            "address",
            json!({"node": node, "interface": interface, "address": format!("{address}/{prefix}"), "change": if *gone { "gone with its node" } else { "removed" }}),
        ),
        Event::Link { interface, up, carrier } => timeline.put(
            watched.at,
            "link",
            json!({"node": node, "interface": interface, "up": up, "carrier": carrier}),
        ),
        Event::LinkGone { interface } => {
            timeline.put(watched.at, "link", json!({"node": node, "interface": interface, "gone": true}));
        }
        Event::Lost { count } => timeline.put(watched.at, "lost", json!({"node": node, "notifications": count})),
    }
}

/// Plays the steps; the first that fails ends it.
fn play(player: &mut Player<'_>, moments: &mut Moments, result: &mut ScenarioResult) -> Result<()> {
    let (name, steps) = (&player.scenario.name, &player.scenario.steps);
    let options = player.options;
    let steps = if options.topology_only { &[] } else { steps.as_slice() };
    let outcome = steps.iter().enumerate().try_for_each(|(index, step)| {
        options.cancel.check()?;
        if result.verdict == Verdict::Failed && !options.keep_going {
            return Ok(());
        }
        moments.before(step, player.scenario, player.world, player.timeline);
        if let Some(pause) = &options.pause {
            pause(player.world, &format!("{name}: before [{}/{}] {}", index + 1, steps.len(), step.name));
            options.cancel.check()?;
        }
        (options.progress)(&format!("{name}: [{}/{}] {}", index + 1, steps.len(), step.name));
        let mut played = player.step(step).map_err(|error| in_step(step, error))?;
        for finding in played.judged.iter_mut().flat_map(|judged| &mut judged.findings) {
            finding.at_seconds = finding.at.map(|at| player.timeline.seconds(at));
        }
        let verdict = Verdict::from(played.verdict);
        if verdict > result.verdict {
            result.verdict = verdict;
            result.reason = reason(step, &played.judged);
        }
        result.steps.push(played);
        Ok(())
    });
    let ended = now();
    result.duration_seconds = player.timeline.seconds(ended);
    let all = Span { since: player.timeline.start(), until: ended };
    result.lateness_ms = player.canary.worst(all).as_secs_f64() * 1000.0;
    if let Some(halt) = options.on_failure.as_ref().filter(|_| result.verdict == Verdict::Failed) {
        halt(player.world, &format!("{name}: failed: {}", result.reason));
    }
    outcome
}

fn in_step(step: &Step, error: Error) -> Error {
    match error {
        Error::Harness(text) => Error::Harness(format!("step `{}`: {text}", step.name)),
        Error::Interrupted => Error::Interrupted,
    }
}

pub(super) fn reason(step: &Step, judged: &[super::Judged]) -> String {
    let findings = || judged.iter().flat_map(|judged| &judged.findings);
    let verdict = findings().map(|finding| finding.verdict).max();
    let worst = findings().find(|finding| Some(finding.verdict) == verdict);
    match worst {
        Some(finding) => format!("step `{}`: wanted {}; seen {}", step.name, finding.wanted, finding.seen),
        None => format!("step `{}`", step.name),
    }
}

/// Writes `result.json`.
pub(super) fn write_result(folder: &Path, result: &ScenarioResult) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut text = serde_json::to_string_pretty(result)?;
    text.push('\n');
    std::fs::write(folder.join(folder::RESULT), text)
}
