//! `bascule-lab list`, `show`, `validate` and `run`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::away::Away;
use super::kernel::{Kernel, Place, vm_possible};
use super::stops::{OnFailure, must_have_keys, wait_for_person};
use super::{BAD_INPUT, bad_input};
use crate::doctor::kernel::Ability;
use crate::run::{Cancel, Halt, RunOptions, folder, run_scenarios};
use crate::scenario::topology::Peer;
use crate::scenario::{Feature, Problem, Scenario, resolve, shipped, suggest};
use crate::vm::executor::MACHINE;
use crate::world::{World, janitor, wallclock};

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Names of shipped scenarios, or files (with a `/` or ending in .yaml).
    #[arg(value_name = "NAME|FILE", required_unless_present = "all", conflicts_with = "all")]
    scenarios: Vec<String>,
    /// All scenarios that ship.
    #[arg(long)]
    all: bool,
    /// Of these, only those whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Who is played in Bascule's place, where the scenario says how: keepalived, heartbeat, frr or ipvsadm. (All: those that do.)
    #[arg(long, value_name = "PEER")]
    with: Option<String>,
    /// Where they run.
    #[arg(long, value_enum, default_value_t)]
    kernel: Kernel,
    /// Folder of the results: DIR/junit.xml, and DIR/NAME/ with report.html, result.json, timeline.jsonl, capture.pcapng and logs.
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    out: PathBuf,
    /// Draws the moments of faults; a run prints the one that it used.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How often each is played.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
    /// Plays the other steps of a scenario, too, when one has failed.
    #[arg(long)]
    keep_going: bool,
    /// Plays no further scenario when one has not passed. (Else all are played.)
    #[arg(long)]
    fail_fast: bool,
    /// Builds the network, starts its programs and takes everything down; plays no step.
    #[arg(long)]
    topology_only: bool,
    /// Waits for Enter before each step; on the way there is a shell in each node.
    #[arg(long)]
    pause: bool,
    /// What to do when a scenario has failed, before its network is taken down.
    #[arg(long, value_enum, value_name = "WHAT")]
    on_failure: Option<OnFailure>,
}

impl RunArgs {
    /// Those options that are the same inside the virtual machine.
    fn passed_on(&self) -> Vec<String> {
        let flags = [
            ("--keep-going", self.keep_going),
            ("--fail-fast", self.fail_fast),
            ("--topology-only", self.topology_only),
            ("--pause", self.pause),
            ("--on-failure=shell", self.on_failure == Some(OnFailure::Shell)),
        ];
        let mut options = vec!["--repeat".to_owned(), self.repeat.to_string()];
        options.extend(flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag.to_owned()));
        if let Some(seed) = self.seed {
            options.extend(["--seed".to_owned(), seed.to_string()]);
        }
        if let Some(peer) = &self.with {
            options.extend(["--with".to_owned(), peer.clone()]);
        }
        options
    }

    /// Whether it waits for a person.
    fn waits(&self) -> bool {
        self.pause || self.on_failure.is_some()
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct NameArgs {
    /// Name of a shipped scenario.
    name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct GraphArgs {
    /// Name of a shipped scenario, or a file.
    #[arg(value_name = "NAME|FILE")]
    scenario: String,
    /// As text, as a picture, or for others to draw: `bascule-lab graph tp-ipvs -o svg > tp-ipvs.svg`.
    #[arg(short, long, value_enum, default_value_t)]
    output: Drawing,
}

/// How a topology is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Drawing {
    /// For people.
    #[default]
    Text,
    /// For Graphviz.
    Dot,
    /// A picture.
    Svg,
    /// For Markdown.
    Mermaid,
}

#[derive(Debug, clap::Args)]
pub(super) struct FilesArgs {
    /// Scenario files.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
}

/// Names and titles of what ships.
pub(super) fn list() -> ExitCode {
    let width = shipped::SHIPPED.iter().map(|shipped| shipped.name.len()).max().unwrap_or(0);
    for shipped in shipped::SHIPPED {
        let title = resolve(shipped.name).ok().and_then(|scenario| scenario.title).unwrap_or_default();
        println!("{:width$}  {title}", shipped.name);
    }
    ExitCode::SUCCESS
}

/// The topology of a scenario.
pub(super) fn graph(args: &GraphArgs) -> ExitCode {
    match resolve(&args.scenario) {
        Ok(scenario) => {
            print!(
                "{}",
                match args.output {
                    Drawing::Text => super::graph::text(&scenario),
                    Drawing::Dot => super::graph::dot(&scenario),
                    Drawing::Svg => super::drawn::svg(&scenario),
                    Drawing::Mermaid => super::drawn::mermaid(&scenario),
                }
            );
            ExitCode::SUCCESS
        }
        Err(problems) => tell(&problems),
    }
}

/// The text of what ships.
pub(super) fn show(args: &NameArgs) -> Result<ExitCode> {
    let Some(shipped) = shipped::find(&args.name) else {
        return Err(bad_input(format!("no scenario `{}` ships{}", args.name, shipped::hint(&args.name))));
    };
    print!("{}", shipped.text);
    Ok(ExitCode::SUCCESS)
}

/// Every problem of some files.
pub(super) fn validate(args: &FilesArgs) -> ExitCode {
    match load(&args.files) {
        Ok(scenarios) => {
            for scenario in scenarios {
                println!("{}: good, {} steps", scenario.name, scenario.steps.len());
            }
            ExitCode::SUCCESS
        }
        Err(problems) => tell(&problems),
    }
}

pub(super) fn tell(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    ExitCode::from(BAD_INPUT)
}

pub(super) fn load(names: &[String]) -> Result<Vec<Scenario>, Vec<Problem>> {
    let (mut scenarios, mut problems) = (Vec::new(), Vec::new());
    for name in names {
        match resolve(name) {
            Ok(scenario) => scenarios.push(scenario),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(scenarios) } else { Err(problems) }
}

/// Plays them, here or in the virtual machine.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode> {
    let mut names: Vec<String> = if args.all {
        shipped::SHIPPED.iter().map(|shipped| shipped.name.to_owned()).collect()
    } else {
        args.scenarios.clone()
    };
    if let Some(text) = &args.filter {
        names.retain(|name| name.contains(text.as_str()));
    }
    if names.is_empty() {
        return Err(bad_input("no scenario is left to run"));
    }
    for (option, set) in [("--pause", args.pause), ("--on-failure shell", args.on_failure.is_some())] {
        if set {
            must_have_keys(option)?;
        }
    }
    // Judged here first, so that a mistake is told before anything boots.
    let mut scenarios = match load(&names) {
        Ok(scenarios) => scenarios,
        Err(problems) => return Ok(tell(&problems)),
    };
    if let Some(peer) = &args.with {
        if args.all {
            // Of all that ship, those that say how it is played.
            let able = |scenario: &Scenario| scenario.peers.iter().any(|(name, _)| name == peer);
            scenarios.retain(able);
            names.retain(|name| scenarios.iter().any(|scenario| scenario.name == *name));
        }
        let with = scenarios.iter().map(|scenario| scenario.with_peer(peer).map_err(bad_input));
        scenarios = with.collect::<Result<_>>()?;
        if scenarios.is_empty() {
            let hint = suggest::hint(peer, Peer::NAMES);
            return Err(bad_input(format!(
                "no scenario says how `{peer}` is played in Bascule's place{hint}"
            )));
        }
    }
    let folders = folders(&scenarios, &args.out, args.repeat)?;
    match place(args.kernel, &scenarios) {
        Place::Host => here(args, &scenarios),
        Place::Vm => {
            let away = Away {
                verb: "run",
                names: &names,
                options: args.passed_on(),
                out: &args.out,
                folders: &folders,
                waits: args.waits(),
            };
            away.run()
        }
    }
}

/// Where the results go. Bad input where two would go to one place, or over what is none.
pub(super) fn folders(scenarios: &[Scenario], out: &Path, repeat: u32) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let mut taken = BTreeMap::new();
    for scenario in scenarios {
        for run in 1..=repeat {
            let folder = folder::folder(out, &scenario.name, run);
            if let Some(other) = taken.insert(folder.clone(), &scenario.name) {
                return Err(bad_input(format!(
                    "the results of {other} and {} would both go to {}; play them one by one, each with its own --out",
                    scenario.name,
                    folder.display()
                )));
            }
            let refusal =
                folder::refusal(&folder).with_context(|| format!("looking at {}", folder.display()))?;
            if let Some(why) = refusal {
                return Err(bad_input(why));
            }
            folders.push(folder);
        }
    }
    Ok(folders)
}

/// What a kernel has to have for these scenarios.
fn needed(scenarios: &[Scenario]) -> Vec<Ability> {
    let features: BTreeSet<Feature> = scenarios.iter().flat_map(Scenario::features).collect();
    features.into_iter().map(Ability::from).collect()
}

/// Where these scenarios run.
pub(super) fn place(kernel: Kernel, scenarios: &[Scenario]) -> Place {
    let mut say = |text: &str| eprintln!("bascule-lab: {text}");
    let moved = scenarios.iter().any(Scenario::moves_the_clock);
    if let Some(why) = wallclock::refusal().filter(|_| moved && kernel == Kernel::Auto) {
        match vm_possible() {
            Ok(()) => return Place::Vm,
            Err(error) => say(&format!("{why}; and no virtual machine: {error:#}")),
        }
    }
    kernel.choose(&needed(scenarios), &mut say)
}

/// What comes before scenarios are played on this kernel; it ends with what ends the run.
pub(super) fn prepare() -> Result<Cancel> {
    if !nix::unistd::geteuid().is_root() {
        return Err(bad_input("scenarios need root: they are made of namespaces; run it with sudo"));
    }
    for line in janitor::sweep()? {
        eprintln!("{line}");
    }
    let cancel = Cancel::default();
    cancel.on_signals().context("listening to signals")?;
    Ok(cancel)
}

/// Where the results are. Inside the machine they are on their way to where the caller wants them.
pub(super) fn say_where(out: &Path) {
    if std::env::var_os(MACHINE).is_none() {
        eprintln!("bascule-lab: the results are in {}", out.display());
    }
}

fn here(args: &RunArgs, scenarios: &[Scenario]) -> Result<ExitCode> {
    let cancel = prepare()?;
    let mut options = RunOptions::new(args.out.clone())?;
    options.seed = args.seed;
    options.repeat = args.repeat;
    options.keep_going = args.keep_going;
    options.fail_fast = args.fail_fast;
    options.topology_only = args.topology_only;
    let wait = |set: bool| -> Option<Halt> {
        let cancel = cancel.clone();
        set.then(|| Arc::new(move |world: &World, what: &str| wait_for_person(world, what, &cancel)) as Halt)
    };
    options.pause = wait(args.pause);
    options.on_failure = wait(args.on_failure == Some(OnFailure::Shell));
    options.cancel = cancel;
    let summary = run_scenarios(scenarios, &options)
        .with_context(|| format!("writing the results to {}", args.out.display()))?;
    say_where(&args.out);
    Ok(ExitCode::from(summary.exit_code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> RunArgs {
        let command = <RunArgs as clap::Args>::augment_args(clap::Command::new("run"));
        let matches = command.get_matches_from([&["run"], words].concat());
        <RunArgs as clap::FromArgMatches>::from_arg_matches(&matches).expect("good")
    }

    #[test]
    fn options_reach_the_machine() {
        let words = ["udp", "--seed", "7", "--keep-going", "--fail-fast", "--topology-only", "--pause"];
        let args = parse(&[&words[..], &["--on-failure", "shell"]].concat());
        assert!(args.waits());
        let again = parse(&args.passed_on().iter().map(String::as_str).chain(["udp"]).collect::<Vec<_>>());
        assert_eq!((again.repeat, again.seed, again.on_failure), (1, Some(7), Some(OnFailure::Shell)));
        assert!(again.keep_going && again.fail_fast && again.topology_only && again.pause);
        let plain = parse(&["udp", "--repeat", "3"]);
        assert_eq!(plain.passed_on(), ["--repeat", "3"]);
        assert!(!plain.waits());
    }

    #[test]
    fn results_go_to_folders_of_their_own_and_over_nobody_elses_work() {
        let out = tempfile::tempdir().expect("a folder");
        let named = |name: &str| Scenario { name: name.into(), ..resolve("udp").expect("it ships") };
        let refused = |scenarios: &[Scenario], repeat| {
            let error = folders(scenarios, out.path(), repeat).expect_err("must be refused");
            assert!(error.is::<super::super::BadInput>(), "{error}");
            error.to_string()
        };
        assert_eq!(folders(&[named("a"), named("b")], out.path(), 2).expect("good").len(), 4);
        assert!(refused(&[named("a"), named("a")], 1).contains("both go to"));
        assert!(refused(&[named("a.2"), named("a")], 2).contains("both go to"));
        std::fs::create_dir(out.path().join("a")).expect("made");
        std::fs::write(out.path().join("a/main.rs"), "much work").expect("written");
        assert!(refused(&[named("a")], 1).contains("is not a result folder"));
        assert!(out.path().join("a/main.rs").is_file());
    }

    #[test]
    fn a_scenario_is_not_named_after_any_file() {
        for file in ["...yaml", "a b.yaml", "/tmp/.yaml"] {
            let problems =
                crate::scenario::load(file, shipped::SHIPPED[0].text).expect_err("must be refused");
            assert!(problems[0].message.contains("named after its file"), "{file}: {problems:?}");
        }
    }
}
