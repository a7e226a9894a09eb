//! `bascule-lab compare`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::away::Away;
use super::bad_input;
use super::kernel::{Kernel, Place};
use super::play::{folders, load, place, prepare, say_where, tell};
use crate::compare::{Comparison, JSON, MARKDOWN, markdown, plays, text};
use crate::run::{RunOptions, folder, run_scenarios};
use crate::scenario::{Scenario, shipped};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each scenario says under `peers` who else can play it, with which files, and what is expected otherwise then; what
differs, and why, stands below the table.

Examples:
  bascule-lab compare tp-ipvs                     the TP by ipvsadm, and by Bascule
  bascule-lab compare --all --out side-by-side    all that say how another one plays them

Exit codes: 0 all passed; 1 any failed, error or undecided; 2 bad input; else 3 if any is unsupported.")]
pub(super) struct CompareArgs {
    /// Names of shipped scenarios, or files (with a `/` or ending in .yaml).
    #[arg(value_name = "NAME|FILE", required_unless_present = "all", conflicts_with = "all")]
    scenarios: Vec<String>,
    /// All scenarios that ship and that somebody else can play.
    #[arg(long)]
    all: bool,
    /// Where they run.
    #[arg(long, value_enum, default_value_t)]
    kernel: Kernel,
    /// Folder of the results: DIR/compare.json, DIR/compare.md, and as of `run` DIR/NAME/ and DIR/NAME-with-PEER/.
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    out: PathBuf,
    /// Draws the moments of faults, the same for all.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Plays the other steps of a scenario, too, when one has failed, so that the table has more figures.
    #[arg(long)]
    keep_going: bool,
}

impl CompareArgs {
    /// Those options that are the same inside the virtual machine.
    fn passed_on(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.keep_going {
            options.push("--keep-going".to_owned());
        }
        if let Some(seed) = self.seed {
            options.extend(["--seed".to_owned(), seed.to_string()]);
        }
        options
    }
}

/// Plays them with all, here or in the virtual machine.
pub(super) fn run(args: &CompareArgs) -> Result<ExitCode> {
    let mut names: Vec<String> = if args.all {
        shipped::SHIPPED.iter().map(|shipped| shipped.name.to_owned()).collect()
    } else {
        args.scenarios.clone()
    };
    let mut scenarios = match load(&names) {
        Ok(scenarios) => scenarios,
        Err(problems) => return Ok(tell(&problems)),
    };
    if args.all {
        scenarios.retain(|scenario| !scenario.peers.is_empty());
        names = scenarios.iter().map(|scenario| scenario.name.clone()).collect();
    }
    if let Some(alone) = scenarios.iter().find(|scenario| scenario.peers.is_empty()) {
        return Err(bad_input(format!(
            "{} says of nobody how it is played in Bascule's place, so that there is nothing to compare; it would say so under `peers`",
            alone.name
        )));
    }
    let all: Vec<Scenario> = scenarios.iter().flat_map(plays).map(|(_, scenario)| scenario).collect();
    let folders = folders(&all, &args.out, 1)?;
    for file in [JSON, MARKDOWN] {
        let file = args.out.join(file);
        folder::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    match place(args.kernel, &all) {
        Place::Host => here(args, &scenarios, &all),
        Place::Vm => {
            let options = args.passed_on();
            Away { verb: "compare", names: &names, options, out: &args.out, folders: &folders, waits: false }
                .run()
        }
    }
}

fn here(args: &CompareArgs, scenarios: &[Scenario], all: &[Scenario]) -> Result<ExitCode> {
    let cancel = prepare()?;
    let mut options = RunOptions::new(args.out.clone())?;
    // One seed for all: the same fault at the same phase of everybody's timers.
    options.seed = args.seed;
    options.keep_going = args.keep_going;
    // The table of each play is in its folder.
    options.print = Arc::new(|_| {});
    options.cancel = cancel;
    let summary = run_scenarios(all, &options)
        .with_context(|| format!("writing the results to {}", args.out.display()))?;
    let mut results = summary.results.as_slice();
    let mut comparisons = Vec::new();
    for scenario in scenarios {
        let (of_this, rest) = results.split_at(plays(scenario).len().min(results.len()));
        comparisons.push(Comparison::of(scenario, of_this));
        results = rest;
    }
    write(&args.out, &comparisons)?;
    print!("{}", text(&comparisons));
    say_where(&args.out);
    Ok(ExitCode::from(summary.exit_code()))
}

/// Writes `compare.json` and `compare.md`.
fn write(out: &Path, comparisons: &[Comparison]) -> Result<()> {
    let json = serde_json::to_string_pretty(&serde_json::json!({ "comparisons": comparisons }))? + "\n";
    for (file, text) in [(JSON, json), (MARKDOWN, markdown(comparisons))] {
        let path = out.join(file);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
