//! Runs scenarios: builds the network, starts the programs, plays the steps, writes down what happened and what came of it.

mod canary;
mod captures;
mod error;
mod loads;
mod logs;
mod look;
mod play;
mod programs;
mod result;
mod session;
mod table;
mod timeline;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use error::Error;
pub use result::{Judged, LoadResult, ScenarioResult, StepResult, Summary, Verdict};
pub use session::{Up, missing, up};

use crate::scenario::Scenario;

/// How often a scenario is played again because its verdict was `undecided`.
const AGAIN: u32 = 2;

/// Told a line, without its end.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Ends a run in order from another thread or a signal handler. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the run to end: it takes everything down and says `interrupted`.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// How to run.
#[derive(Clone)]
pub struct RunOptions {
    /// Where results go: `OUT/junit.xml`, `OUT/NAME/…`.
    pub out: PathBuf,
    /// The phase of faults; each run draws its own unless told.
    pub seed: Option<u64>,
    /// How often each scenario is played; at least once.
    pub repeat: u32,
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
            program: std::env::current_exe()?,
            agent: None,
            progress: Arc::new(|line| eprintln!("{line}")),
            print: Arc::new(|line| println!("{line}")),
            cancel: Cancel::default(),
        })
    }
}

/// Plays scenarios one after another and writes `OUT/junit.xml`.
///
/// # Errors
/// When the results cannot be written. What goes wrong in a scenario is its verdict, never an error of all.
pub fn run_scenarios(scenarios: &[Scenario], options: &RunOptions) -> std::io::Result<Summary> {
    std::fs::create_dir_all(&options.out)?;
    let mut summary = Summary::default();
    let seed = options.seed.unwrap_or_else(|| crate::world::now() % 1_000_000);
    for run in 1..=options.repeat.max(1) {
        for scenario in scenarios {
            if options.cancel.is_cancelled() {
                break;
            }
            let folder = if run == 1 { scenario.name.clone() } else { format!("{}.{run}", scenario.name) };
            let folder = options.out.join(folder);
            let mut attempts = 0;
            let result = loop {
                attempts += 1;
                let seed = seed.wrapping_add(u64::from(run - 1)).wrapping_add(u64::from(attempts - 1) << 32);
                let mut result = session::run(scenario, options, &folder, seed)?;
                result.run = run;
                result.attempts = attempts;
                session::write_result(&folder, &result)?;
                if result.verdict != Verdict::Undecided || attempts > AGAIN || options.cancel.is_cancelled() {
                    break result;
                }
                (options.progress)(&format!("{}: undecided; played again", scenario.name));
            };
            summary.results.push(result);
            // After each, so that an interrupted run leaves what it has.
            std::fs::write(options.out.join("junit.xml"), summary.junit())?;
        }
    }
    if summary.results.len() > 1 {
        (options.print)(&table::all(&summary));
    }
    Ok(summary)
}
