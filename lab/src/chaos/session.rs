//! The edge: chaos from what was asked for to files and an exit code. Scenarios are played by the runner, as all are.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Plant;
use super::base::Base;
use super::compile::compile;
use super::hunt::{Found, Hunt, Outcome, Play};
use super::menu::menu;
use super::plan::{self, Pair};
use crate::run::{RunOptions, Verdict, folder, run_scenarios};
use crate::scenario::{Scenario, Span, written};

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) seed: u64,
    /// For how long faults come.
    pub(crate) duration: Duration,
    /// For how long candidates are played at most; zero: none is.
    pub(crate) budget: Duration,
    /// Only faults of these kinds; all that the network offers if there is none.
    pub(crate) only: BTreeSet<String>,
    pub(crate) plant: Option<Plant>,
}

/// The names of the scenario that is drawn, and of the reduced one: those of folders of results.
pub(crate) fn names(scenario: &Scenario, wanted: &Wanted) -> [String; 2] {
    let plant = wanted.plant.map_or_else(String::new, |plant| format!("-{}", plant.name()));
    let name = format!("{}-chaos{plant}-{}", scenario.name, wanted.seed);
    [name.clone(), format!("{name}-reduced")]
}

/// Chaos, drawn and ready to be played.
#[derive(Clone, Debug)]
pub(crate) struct Chaos {
    base: Base,
    wanted: Wanted,
    pairs: Vec<Pair>,
    names: [String; 2],
    origin: String,
    text: String,
    scenario: Scenario,
}

impl Chaos {
    /// Draws it.
    ///
    /// # Errors
    /// In words, where the scenario or what is asked for does not do.
    pub(crate) fn draw(scenario: &Scenario, wanted: Wanted) -> Result<Self, String> {
        let in_scenario = |why: String| format!("{}: {why}", scenario.name);
        let mut base = Base::of(scenario).map_err(in_scenario)?;
        if let Some(plant) = wanted.plant {
            plant.put(&mut base.scenario, &base.site).map_err(in_scenario)?;
        }
        let parts = menu(&base.site, &scenario.topology, &wanted.only);
        if parts.is_empty() {
            let named: Vec<&str> = wanted.only.iter().map(String::as_str).collect();
            let why = if named.is_empty() { String::new() } else { format!(" of {}", named.join(", ")) };
            return Err(in_scenario(format!(
                "nothing{why} can be broken in it; chaos breaks directors, checked real servers and routers"
            )));
        }
        let pairs = plan::draw(&parts, wanted.seed, wanted.duration);
        if pairs.is_empty() {
            return Err(in_scenario(format!(
                "no fault has room in {} with what comes before and after it; give a longer --duration",
                Span(wanted.duration)
            )));
        }
        let origin = format!("seed {} and duration {}", wanted.seed, Span(wanted.duration));
        let names = names(scenario, &wanted);
        let planted = wanted.plant.map_or_else(String::new, |plant| format!(" Planted: {}.", plant.name()));
        let words = format!("Random faults on the network of {}, of {origin}.{planted}", scenario.name);
        let compiled = compile(&base, &pairs, &names[0], &words);
        let heading = format!("{words} Play it: bascule-lab run {}.yaml", names[0]);
        let (text, scenario) = written(&compiled, &heading).map_err(in_scenario)?;
        Ok(Self { base, wanted, pairs, names, origin, text, scenario })
    }

    /// The scenario that is played.
    pub(crate) fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The same as a file.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What is broken when, in lines.
    pub(crate) fn plan(&self) -> String {
        let kinds: Vec<&str> = plan::kinds(&self.pairs).into_iter().collect();
        format!(
            "{}: {} faults ({}), of {}\n{}",
            self.names[0],
            self.pairs.len(),
            kinds.join(", "),
            self.origin,
            plan::print(&self.pairs)
        )
    }

    /// Plays it, and reduces what broke an invariant. The exit code is that of `run`.
    ///
    /// # Errors
    /// When results cannot be written.
    pub(crate) fn play(&self, options: &RunOptions) -> io::Result<u8> {
        let options = RunOptions { seed: Some(self.wanted.seed), repeat: 1, ..options.clone() };
        (options.print)(self.plan().trim_end());
        let summary = run_scenarios(std::slice::from_ref(&self.scenario), &options)?;
        std::fs::write(options.out.join(format!("{}.yaml", self.names[0])), &self.text)?;
        let code = summary.exit_code();
        let Some(result) = summary.results.first() else { return Ok(code) };
        let outcome = Outcome::of(result);
        let Some(broken) = outcome.broken.filter(|_| outcome.verdict == Verdict::Failed) else {
            return Ok(code);
        };
        if self.wanted.budget.is_zero() || options.cancel.is_cancelled() {
            return Ok(code);
        }
        // What had not come yet did not break it.
        let came = result.steps.iter().filter(|step| step.action == "fault").count();
        let found = self.reduce(&self.pairs[..came.min(self.pairs.len())], &broken, &options)?;
        self.tell(&found, &broken, &options)?;
        Ok(code)
    }

    fn reduce(&self, pairs: &[Pair], broken: &str, options: &RunOptions) -> io::Result<Found> {
        let say = format!(
            "the invariant `{broken}` broke after {} of {} faults; reducing them for {} at most",
            pairs.len(),
            self.pairs.len(),
            Span(self.wanted.budget)
        );
        (options.progress)(&format!("{}: {say}", self.names[0]));
        let words = format!(
            "Reduced from random faults on the network of {}, of {}.{}",
            self.base.scenario.name,
            self.origin,
            self.wanted.plant.map_or_else(String::new, |plant| format!(" Planted: {}.", plant.name()))
        );
        let mut player = Runner::new(options, &self.names[1])?;
        Hunt::new(&self.base, self.names[1].clone(), words, self.wanted.budget, &mut player)
            .reduce(pairs, broken)
    }

    /// Writes and prints what was found.
    fn tell(&self, found: &Found, broken: &str, options: &RunOptions) -> io::Result<()> {
        let path = options.out.join(format!("{}.yaml", self.names[1]));
        std::fs::write(&path, &found.text)?;
        let end = if found.minimal {
            "none of them can be left out"
        } else {
            "the budget was over before every fault was tried"
        };
        (options.print)(found.text.trim_end());
        (options.print)(&format!(
            "{}: {} of {} faults break `{broken}` in {} of {} plays; {end}; {} plays in all\n{}",
            self.names[1],
            found.pairs.len(),
            self.pairs.len(),
            found.rate.0,
            found.rate.1,
            found.plays,
            plan::print(&found.pairs).trim_end()
        ));
        Ok(())
    }
}

/// Plays candidates in a folder of their own, which goes with it.
struct Runner {
    options: RunOptions,
    progress: crate::run::Tell,
    tries: PathBuf,
    name: String,
    /// Where the results of the best one go.
    kept: PathBuf,
    seed: u64,
}

impl Runner {
    fn new(options: &RunOptions, name: &str) -> io::Result<Self> {
        let kept = folder::folder(&options.out, name, 1);
        // Those of an earlier hunt.
        folder::clear(&kept)?;
        let tries = options.out.join(format!(".tries-{}", std::process::id()));
        std::fs::create_dir(&tries)?;
        let progress = Arc::clone(&options.progress);
        let options = RunOptions {
            out: tries.clone(),
            print: Arc::new(|_| {}),
            progress: Arc::new(|_| {}),
            on_failure: None,
            keep_going: false,
            ..options.clone()
        };
        Ok(Self {
            seed: options.seed.unwrap_or_default(),
            progress,
            options,
            tries,
            name: name.to_owned(),
            kept,
        })
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // What is left of it is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.tries);
    }
}

impl Play for Runner {
    fn play(&mut self, scenario: &Scenario, number: u32) -> io::Result<Outcome> {
        // Another phase of the timers each time.
        self.options.seed = Some(self.seed.wrapping_add(u64::from(number)));
        let summary = run_scenarios(std::slice::from_ref(scenario), &self.options)?;
        let result = summary.results.first().ok_or_else(|| io::Error::other("a candidate was not played"))?;
        Ok(Outcome::of(result))
    }

    fn keep(&mut self) -> io::Result<()> {
        let from: &Path = &folder::folder(&self.tries, &self.name, 1);
        folder::clear(&self.kept)?;
        std::fs::rename(from, &self.kept)
    }

    fn tell(&mut self, line: &str) {
        (self.progress)(&format!("{}: {line}", self.name));
    }

    fn is_cancelled(&self) -> bool {
        self.options.cancel.is_cancelled()
    }
}
