//! `bascule-lab chaos`: random faults, with invariants throughout.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::away::Away;
use super::bad_input;
use super::kernel::{Kernel, Place};
use super::play::{self, place, tell};
use crate::chaos::{Chaos, Plant, Wanted, names};
use crate::run::{RunOptions, folder};
use crate::scenario::{Span, resolve};

/// The kinds of faults that chaos can draw.
const KINDS: [&str; 13] = [
    "adminDown",
    "blackhole",
    "carrierLost",
    "clockStep",
    "crash",
    "diskFull",
    "freezeAgent",
    "freezeNode",
    "impair",
    "killAgent",
    "partition",
    "reboot",
    "stopService",
];

const HELP: &str = "\
Takes the network of a scenario, and its beginning until clients ask; then faults come and go as a number says (--seed): the same
number, the same faults. Of directors, of checked real servers and of each router one is broken at a time, two in all; at the end
everything is healed and quiet. Throughout:

  requests     none fails while there is a healthy path, beyond the time in which a failure has to be noticed
  holders      two have an address for no longer than its lifetime, and at the end exactly one has it
  connections  held ones outlive directors
  plan         once nothing is broken, kernels hold what is desired

The times follow from the timers in the manifests. What breaks an invariant is reduced to few faults: each candidate is tried three
times, until none can be left out or --budget is over. It is printed as a scenario, with how often it breaks, and is
DIR/NAME-chaos-SEED-reduced.yaml; `bascule-lab run` plays it.

Examples:
  bascule-lab chaos tp-complete --seed 1 --duration 2m
  bascule-lab chaos tp-two-directors --seed 7 --only crash,killAgent     of these kinds alone
  bascule-lab chaos tp-two-directors --seed 7 --print > mine.yaml        the scenario, to read or to change; plays nothing
  bascule-lab chaos tp-two-directors --seed 1 --plant garp               a defect in the network, to see it found

Exit codes as those of `run`: 0 all invariants held; 1 one broke, undecided (the machine stood still) or error; 2 bad input;
3 unsupported.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct ChaosArgs {
    /// Name of a shipped scenario, or a file.
    #[arg(value_name = "NAME|FILE")]
    scenario: String,
    /// Draws the faults and the moments of their coming; a number of its own each time unless told, and printed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// For how long faults come; the beginning, boots and the quiet time come on top.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    duration: Span,
    /// How long reducing may take; 0s reduces nothing.
    #[arg(long, value_name = "DURATION", default_value = "15m")]
    budget: Span,
    /// Only faults of these kinds. `impair` and `clockStep` come only if they are named.
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_parser = KINDS)]
    only: Vec<String>,
    /// Plants a defect in the network, to see it found: directors' gratuitous ARP is dropped, what a killed agent leaves is never swept,
    /// connection synchronisation is stopped.
    #[arg(long, value_enum, value_name = "DEFECT")]
    plant: Option<Plant>,
    /// Prints the scenario and plays nothing.
    #[arg(long)]
    print: bool,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t)]
    kernel: Kernel,
    /// Folder of the results: DIR/NAME-chaos-SEED/ and DIR/NAME-chaos-SEED-reduced/ as those of `run`, and both scenarios as files.
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    out: PathBuf,
}

impl ChaosArgs {
    fn wanted(&self) -> Result<Wanted> {
        const LONGEST: Span = Span::from_secs(24 * 3600);
        for (option, span) in [("--duration", self.duration), ("--budget", self.budget)] {
            if span > LONGEST {
                return Err(bad_input(format!("{option} {span}: has to be at most {LONGEST}")));
            }
        }
        Ok(Wanted {
            seed: self.seed.unwrap_or_else(|| crate::world::now() % 1_000_000),
            duration: self.duration.get(),
            budget: self.budget.get(),
            only: self.only.iter().cloned().collect::<BTreeSet<_>>(),
            plant: self.plant,
        })
    }
}

/// The same inside the virtual machine.
fn passed_on(wanted: &Wanted) -> Vec<String> {
    let mut options = vec![
        "--seed".to_owned(),
        wanted.seed.to_string(),
        "--duration".to_owned(),
        Span(wanted.duration).to_string(),
        "--budget".to_owned(),
        Span(wanted.budget).to_string(),
    ];
    if !wanted.only.is_empty() {
        options.extend(["--only".to_owned(), wanted.only.iter().cloned().collect::<Vec<_>>().join(",")]);
    }
    if let Some(plant) = wanted.plant {
        options.extend(["--plant".to_owned(), plant.name().to_owned()]);
    }
    options
}

/// Draws, plays and reduces.
pub(super) fn run(args: &ChaosArgs) -> Result<ExitCode> {
    let scenario = match resolve(&args.scenario) {
        Ok(scenario) => scenario,
        Err(problems) => return Ok(tell(&problems)),
    };
    let wanted = args.wanted()?;
    let folders: Vec<PathBuf> =
        names(&scenario, &wanted).iter().map(|name| folder::folder(&args.out, name, 1)).collect();
    let chaos = Chaos::draw(&scenario, wanted.clone()).map_err(bad_input)?;
    if args.print {
        print!("{}", chaos.text());
        return Ok(ExitCode::SUCCESS);
    }
    for path in &folders {
        if let Some(why) = folder::refusal(path).with_context(|| format!("looking at {}", path.display()))? {
            return Err(bad_input(why));
        }
    }
    match place(args.kernel, std::slice::from_ref(chaos.scenario())) {
        Place::Host => here(args, &chaos),
        Place::Vm => Away {
            verb: "chaos",
            names: std::slice::from_ref(&args.scenario),
            options: passed_on(&wanted),
            waits: false,
            out: &args.out,
            folders: &folders,
        }
        .run(),
    }
}

fn here(args: &ChaosArgs, chaos: &Chaos) -> Result<ExitCode> {
    let mut options = RunOptions::new(args.out.clone())?;
    options.cancel = play::prepare()?;
    let code =
        chaos.play(&options).with_context(|| format!("writing the results to {}", args.out.display()))?;
    play::say_where(&args.out);
    Ok(ExitCode::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<ChaosArgs, clap::Error> {
        let command = <ChaosArgs as clap::Args>::augment_args(clap::Command::new("chaos"));
        let matches = command.try_get_matches_from([&["chaos"], words].concat())?;
        <ChaosArgs as clap::FromArgMatches>::from_arg_matches(&matches)
    }

    #[test]
    fn options_reach_the_machine() {
        let words = [
            "udp",
            "--seed",
            "7",
            "--duration",
            "90s",
            "--budget",
            "0s",
            "--only",
            "crash,impair",
            "--plant",
            "sync",
        ];
        let wanted = parse(&words).expect("good").wanted().expect("good");
        let options = passed_on(&wanted);
        let again: Vec<&str> = ["udp"].into_iter().chain(options.iter().map(String::as_str)).collect();
        let again = parse(&again).expect("good").wanted().expect("good");
        assert_eq!(passed_on(&again), options);
        assert_eq!((again.seed, again.duration, again.plant), (7, wanted.duration, Some(Plant::Sync)));
        assert_eq!(again.only, BTreeSet::from(["crash".to_owned(), "impair".to_owned()]));
        assert!(again.budget.is_zero());
    }

    #[test]
    fn what_cannot_be_asked_for() {
        for words in [
            &["udp", "--only", "fire"][..],
            &["udp", "--plant", "mine"],
            &["udp", "--duration", "2"],
            &["udp", "--seed", "-1"],
            &[],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        let error = parse(&["udp", "--duration", "25h"]).expect("parsed").wanted().expect_err("too long");
        assert!(error.is::<super::super::BadInput>(), "{error}");
    }

    #[test]
    fn each_seed_of_scenarios_that_have_what_it_takes_is_a_scenario() {
        let wanted = |seed| Wanted {
            seed,
            duration: std::time::Duration::from_secs(120),
            budget: std::time::Duration::ZERO,
            only: BTreeSet::new(),
            plant: None,
        };
        for name in ["tp-two-directors", "tp-complete", "tp-ipvs", "tp-two-directors-v2", "checks-failover"] {
            let scenario = resolve(name).expect("it ships");
            for seed in 0..20 {
                let chaos = Chaos::draw(&scenario, wanted(seed)).unwrap_or_else(|why| panic!("{why}"));
                let steps = chaos.scenario().steps.len();
                assert!(steps <= 256, "{name} {seed}: {steps} steps");
                assert_eq!(chaos.text(), Chaos::draw(&scenario, wanted(seed)).expect("again").text());
            }
        }
    }
}
