//! `bascule-lab list`, `show`, `validate` and `run`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::kernel::{Kernel, Place, vm_possible};
use super::machine::{GRACE, block_on, connect, machine_environment};
use super::stops::{OnFailure, must_have_keys, wait_for_person};
use super::{BAD_INPUT, bad_input};
use crate::doctor::kernel::Ability;
use crate::run::{Cancel, Halt, JUNIT, RunOptions, folder, run_scenarios};
use crate::scenario::{Feature, Problem, Scenario, resolve, shipped};
use crate::vm::executor::MACHINE;
use crate::vm::message::Command;
use crate::vm::{Interaction, Settings, Vm};
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
    /// As text, or for Graphviz: `bascule-lab graph tp-ipvs -o dot | dot -Tsvg > tp-ipvs.svg`.
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

fn load(names: &[String]) -> Result<Vec<Scenario>, Vec<Problem>> {
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
    let scenarios = match load(&names) {
        Ok(scenarios) => scenarios,
        Err(problems) => return Ok(tell(&problems)),
    };
    let folders = folders(&scenarios, args)?;
    match place(args.kernel, &scenarios) {
        Place::Host => here(args, &scenarios),
        Place::Vm => in_machine(&Errand {
            call: "run",
            names: &names,
            options: args.passed_on(),
            waits: args.waits(),
            out: &args.out,
            folders: &folders,
        }),
    }
}

/// Where the results go. Bad input where two would go to one place, or over what is none.
fn folders(scenarios: &[Scenario], args: &RunArgs) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let mut taken = BTreeMap::new();
    for scenario in scenarios {
        for run in 1..=args.repeat {
            let folder = folder::folder(&args.out, &scenario.name, run);
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

fn here(args: &RunArgs, scenarios: &[Scenario]) -> Result<ExitCode> {
    must_be_root()?;
    for line in janitor::sweep()? {
        eprintln!("{line}");
    }
    let cancel = Cancel::default();
    cancel.on_signals().context("listening to signals")?;
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

pub(super) fn must_be_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(bad_input("scenarios need root: they are made of namespaces; run it with sudo"))
}

/// Says where the results are. Inside the machine they are on their way to where the caller wants them.
pub(super) fn say_where(out: &Path) {
    if std::env::var_os(MACHINE).is_none() {
        eprintln!("bascule-lab: the results are in {}", out.display());
    }
}

/// A call of this program for the machine.
pub(super) struct Errand<'a> {
    /// The subcommand.
    pub(super) call: &'a str,
    /// Names of shipped scenarios, and files, which are copied.
    pub(super) names: &'a [String],
    /// Its other arguments.
    pub(super) options: Vec<String>,
    /// Whether it waits for a person.
    pub(super) waits: bool,
    /// Where the results go, and their folders in it.
    pub(super) out: &'a Path,
    pub(super) folders: &'a [PathBuf],
}

/// The same program in the machine; its results come back.
pub(super) fn in_machine(errand: &Errand<'_>) -> Result<ExitCode> {
    // Should they not come back, those of an earlier run are not taken for them.
    let junit = errand.out.join(JUNIT);
    folder::remove_file(&junit).with_context(|| format!("removing {}", junit.display()))?;
    block_on(async {
        let mut vm = connect(&Settings::default()).await?;
        let programs = vm.install_programs().await?;
        let folder = format!("/tmp/bascule-run-{}", std::process::id());
        let mut command = vec![format!("{programs}/bascule-lab"), errand.call.to_owned()];
        for (at, name) in errand.names.iter().enumerate() {
            if shipped::find(name).is_some() {
                command.push(name.clone());
                continue;
            }
            let path = PathBuf::from(name);
            let file =
                path.file_name().and_then(|file| file.to_str()).context("a file's name is not UTF-8")?;
            let there = format!("{folder}/scenarios/{at}/{file}");
            vm.put(&path, &there).await?;
            command.push(there);
        }
        let results = format!("{folder}/results");
        command.extend(["--kernel", "host", "--out", &results].map(str::to_owned));
        command.extend(errand.options.iter().cloned());
        let command = Command {
            arguments: command,
            environment: machine_environment(&programs),
            grace_millis: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
            ..Command::default()
        };
        let interaction = if errand.waits { Interaction::Terminal } else { Interaction::Watch };
        let code = vm.run(command, interaction).await?;
        let fetched = fetch(&mut vm, &results, errand.out, errand.folders).await;
        // Also when they could not be fetched: the machine's memory is not a store.
        vm.remove(&folder).await?;
        fetched?;
        Ok(ExitCode::from(code))
    })
}

/// Brings results from the machine, in place of those of an earlier run.
async fn fetch(vm: &mut Vm, results: &str, out: &Path, folders: &[PathBuf]) -> Result<()> {
    if !vm.has(results).await? {
        return Ok(());
    }
    for folder in folders {
        folder::clear(folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    vm.get(results, out).await?;
    eprintln!("bascule-lab: the results are in {}", out.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(out: &Path, repeat: u32) -> RunArgs {
        let out = out.to_str().expect("UTF-8");
        parse(&["udp", "--kernel", "host", "--out", out, "--repeat", &repeat.to_string()])
    }

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
            let error = folders(scenarios, &args(out.path(), repeat)).expect_err("must be refused");
            assert!(error.is::<super::super::BadInput>(), "{error}");
            error.to_string()
        };
        assert_eq!(folders(&[named("a"), named("b")], &args(out.path(), 2)).expect("good").len(), 4);
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
