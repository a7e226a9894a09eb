//! Runs scenarios: builds the network, starts the programs, plays the steps, writes down what happened and what came of it.

mod captures;
mod check;
mod collect;
mod cores;
mod dumps;
mod error;
mod events;
pub(crate) mod folder;
mod judge;
mod loads;
mod logs;
mod look;
mod peers;
mod play;
mod programs;
mod reals;
mod recording;
pub(crate) mod replay;
mod result;
mod session;
mod table;
mod tables;
mod timeline;
mod wallclock;

use std::path::PathBuf;
use std::sync::Arc;

pub use check::Checked;
pub use error::Error;
pub(crate) use loads::Lines;
pub use recording::Recording;
pub use result::{
    ConnectionsResult, CoreDump, Judged, LoadResult, ScenarioResult, StepResult, Summary, Verdict,
};
pub use session::{Up, missing, up};

pub use crate::cancel::Cancel;
use crate::report;
use crate::scenario::Scenario;
use crate::world::World;

/// The file of all verdicts, in the folder of results.
pub const JUNIT: &str = "junit.xml";
/// How often a scenario is played again because its verdict was `undecided`.
const AGAIN: u32 = 3;

/// Told a line, without its end.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Waits for a person, who is told what it is about and may look around in the world.
pub type Halt = Arc<dyn Fn(&World, &str) + Send + Sync>;

/// How to run.
#[derive(Clone)]
pub struct RunOptions {
    /// Where results go: `OUT/junit.xml`, `OUT/NAME/…`.
    pub out: PathBuf,
    /// The phase of faults; each run draws its own unless told.
    pub seed: Option<u64>,
    /// How often each scenario is played; at least once.
    pub repeat: u32,
    /// Whether the other steps of a scenario are played, too, when one has failed.
    pub keep_going: bool,
    /// Whether no further scenario is played when one has not passed.
    pub fail_fast: bool,
    /// Whether no step is played: the network is built, its programs are started, and everything is taken down. Of what is up: whether no
    /// agent and no peer is started.
    pub topology_only: bool,
    /// Called before each step.
    pub pause: Option<Halt>,
    /// Called when a scenario has failed, before its network is taken down.
    pub on_failure: Option<Halt>,
    /// The lab's own program.
    pub program: PathBuf,
    /// The agent's program; the one beside the lab's, else the one in PATH, unless told.
    pub agent: Option<PathBuf>,
    /// Told what is being done.
    pub progress: Tell,
    /// Told the tables.
    pub print: Tell,
    /// Ends the run.
    pub cancel: Cancel,
}

impl RunOptions {
    /// The usual: this program, progress to standard error, tables to standard output, once.
    ///
    /// # Errors
    /// When the path of this program cannot be found out.
    pub fn new(out: PathBuf) -> std::io::Result<Self> {
        Ok(Self {
            out,
            seed: None,
            repeat: 1,
            keep_going: false,
            fail_fast: false,
            topology_only: false,
            pause: None,
            on_failure: None,
            program: std::env::current_exe()?,
            agent: None,
            progress: Arc::new(|line| eprintln!("{line}")),
            print: Arc::new(|line| println!("{line}")),
            cancel: Cancel::default(),
        })
    }
}

/// Plays scenarios one after another and writes `OUT/junit.xml`. What is not played because the run was cancelled is an error of its
/// own: a run that was cut short has not passed.
///
/// # Errors
/// When the results cannot be written, or would replace what is none. What goes wrong in a scenario is its verdict, never an error of all.
pub fn run_scenarios(scenarios: &[Scenario], options: &RunOptions) -> std::io::Result<Summary> {
    std::fs::create_dir_all(&options.out)?;
    let junit = options.out.join(JUNIT);
    // That of an earlier run would be taken for this one's.
    folder::remove_file(&junit)?;
    let mut summary = Summary::default();
    let seed = options.seed.unwrap_or_else(|| crate::world::now() % 1_000_000);
    'all: for run in 1..=options.repeat.max(1) {
        for scenario in scenarios {
            let seed = seed.wrapping_add(u64::from(run - 1));
            if options.cancel.is_cancelled() {
                let reason = "not played: the run was interrupted".to_owned();
                let base = ScenarioResult::new(scenario, seed);
                summary.results.push(ScenarioResult { verdict: Verdict::Error, reason, run, ..base });
                continue;
            }
            summary.results.push(until_decided(scenario, options, run, seed)?);
            // After each, so that a run that is killed leaves what it has.
            std::fs::write(&junit, summary.junit())?;
            if options.fail_fast && summary.exit_code() == 1 {
                break 'all;
            }
        }
    }
    std::fs::write(&junit, summary.junit())?;
    if summary.results.len() > 1 {
        (options.print)(&table::all(&summary));
    }
    Ok(summary)
}

/// Plays a scenario, and again while it is undecided, a bounded number of times.
fn until_decided(
    scenario: &Scenario,
    options: &RunOptions,
    run: u32,
    seed: u64,
) -> std::io::Result<ScenarioResult> {
    let folder = folder::folder(&options.out, &scenario.name, run);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let seed = seed.wrapping_add(u64::from(attempts - 1) << 32);
        let mut result = session::run(scenario, options, &folder, seed)?;
        result.run = run;
        result.attempts = attempts;
        doubt(scenario, &mut result);
        session::write_result(&folder, &result)?;
        if let Err(error) = report::write(&folder) {
            (options.progress)(&format!("{}: no {}: {error}", scenario.name, report::PAGE));
        }
        if result.verdict != Verdict::Undecided || attempts > AGAIN || options.cancel.is_cancelled() {
            return Ok(result);
        }
        (options.progress)(&format!("{}: undecided; played again", scenario.name));
    }
}

/// What failed on a machine that stood still for longer than the scenario can bear has not been decided.
fn doubt(scenario: &Scenario, result: &mut ScenarioResult) {
    let Some(limit) = scenario.requires.lateness else { return };
    let worst = result.steps.iter().map(|step| step.lateness_ms).fold(0.0, f64::max);
    let dumped = !result.core_dumps.is_empty();
    if result.verdict == Verdict::Failed && !dumped && worst > limit.get().as_secs_f64() * 1000.0 {
        result.verdict = Verdict::Undecided;
        result.reason = format!("the machine stood still for {worst:.1} ms; {}", result.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_on_a_machine_that_stands_still_is_undecided() {
        let mut scenario = unsupported("a");
        let judged = |scenario: &Scenario, verdict, lateness_ms| {
            let mut result = result::example("a", verdict);
            result.steps = vec![result::example_step(lateness_ms)];
            doubt(scenario, &mut result);
            result.verdict
        };
        assert_eq!(judged(&scenario, Verdict::Failed, 900.0), Verdict::Failed, "nothing is said of it");
        scenario.requires.lateness = Some(crate::scenario::Span::from_millis(200));
        assert_eq!(judged(&scenario, Verdict::Failed, 201.0), Verdict::Undecided);
        assert_eq!(judged(&scenario, Verdict::Failed, 199.0), Verdict::Failed);
        assert_eq!(judged(&scenario, Verdict::Passed, 900.0), Verdict::Passed);
    }

    /// A scenario that no machine can play.
    fn unsupported(name: &str) -> Scenario {
        let text = "\
summary: It needs what nobody has.
requires: {programs: [a-program-that-nobody-has]}
topology: {networks: [{name: inside}], nodes: [{name: SRV1}]}
steps: [{name: a moment, wait: {for: 1s}}]
";
        crate::scenario::load(name, text).expect("a good scenario")
    }

    fn quiet(out: &std::path::Path) -> RunOptions {
        let mut options = RunOptions::new(out.to_owned()).unwrap();
        options.progress = Arc::new(|_| {});
        options.print = Arc::new(|_| {});
        options
    }

    #[test]
    fn what_was_not_played_has_not_passed() {
        let out = tempfile::tempdir().unwrap();
        let junit = out.path().join(JUNIT);
        let mut options = quiet(out.path());
        let scenarios = ["one", "two", "three"].map(unsupported);
        // Between the first and the second.
        let cancel = options.cancel.clone();
        options.progress = Arc::new(move |_| cancel.cancel());
        let summary = run_scenarios(&scenarios, &options).unwrap();
        let verdicts: Vec<_> = summary.results.iter().map(|result| result.verdict).collect();
        assert_eq!(verdicts, [Verdict::Unsupported, Verdict::Error, Verdict::Error]);
        assert_eq!(summary.exit_code(), 1);
        let text = std::fs::read_to_string(&junit).unwrap();
        assert!(text.contains("errors=\"2\"") && text.contains("interrupted"), "{text}");
        assert!(out.path().join("one/result.json").is_file());

        // Before the first; the file of an earlier run does not stay.
        std::fs::write(&junit, "all passed").unwrap();
        let summary = run_scenarios(&scenarios[..1], &options).unwrap();
        assert_eq!(summary.exit_code(), 1);
        assert!(std::fs::read_to_string(&junit).unwrap().contains("errors=\"1\""));
    }

    #[test]
    fn somebody_elses_folder_stays() {
        let out = tempfile::tempdir().unwrap();
        std::fs::create_dir(out.path().join("one")).unwrap();
        std::fs::write(out.path().join("one/thesis.tex"), "much work").unwrap();
        let error = run_scenarios(&[unsupported("one")], &quiet(out.path())).unwrap_err();
        assert!(error.to_string().contains("is not a result folder"), "{error}");
        assert!(out.path().join("one/thesis.tex").is_file());
    }
}
