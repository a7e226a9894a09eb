//! The command line.

mod analyze;
mod annotate;
mod away;
mod chaos;
mod check;
mod compare;
mod drawn;
mod graph;
mod hand;
mod import;
mod keeper;
pub(crate) mod kernel;
mod look;
pub(crate) mod machine;
mod play;
mod record;
mod report;
mod stops;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::doctor;
use crate::programs::Program;
use crate::vm::{executor, launch, supervise};

/// Bad input: a scenario that is none, a file that is not there, an option that makes no sense.
pub const BAD_INPUT: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  bascule-lab doctor                              what this machine can run, what is missing, how to get it
  bascule-lab list                                the scenarios that ship
  bascule-lab run tp-ipvs                         play one; results are in ./lab-results
  bascule-lab run --all --out results             play all; results/junit.xml is for CI
  bascule-lab run tp-ipvs --with ipvsadm          the same with ipvsadm in Bascule's place
  bascule-lab compare tp-ipvs                     with both, side by side
  bascule-lab run my.yaml --repeat 5 --seed 7     a scenario of your own, five times
  bascule-lab run my.yaml --on-failure shell      look around where it failed, before all is taken down
  bascule-lab up tp-ipvs                          the same network, to work in by hand:
  bascule-lab exec Load-Balancer -- ipvsadm -Ln     look,
  bascule-lab inject adminDown node=SRV1 interface=enp0s3   break something,
  bascule-lab watch                                 see what becomes of it,
  bascule-lab down                                  and remove it
  bascule-lab up tp-ipvs --topology-only          the same without the agent, to type the TP's lines in, and then
  bascule-lab check tp-ipvs                         to see whether they are right

Exit codes of `run` and `compare`: 0 all passed; 1 any failed, error or undecided; 2 bad input; else 3 if any is unsupported.";

#[derive(Debug, Parser)]
#[command(
    name = "bascule-lab",
    version,
    about = "Rebuilds whole networks out of namespaces, plays failures on them, and says what happened",
    after_help = EXAMPLES,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what this machine can run, what is missing and how to get it.
    Doctor(DoctorArgs),
    /// Play scenarios and judge them.
    Run(play::RunArgs),
    /// Play scenarios with Bascule and with others in its place, and put what came of it side by side.
    Compare(compare::CompareArgs),
    /// Name the scenarios that ship.
    List,
    /// Print a scenario that ships, to read or to start one of your own from.
    Show(play::NameArgs),
    /// Say what is wrong with scenario files, with line and field.
    Validate(play::FilesArgs),
    /// Make a scenario of a topology of containerlab.
    Import(import::ImportArgs),
    /// Draw the topology of a scenario.
    Graph(play::GraphArgs),
    /// Build the network of a scenario, start its programs, and leave it for you to work in.
    Up(hand::UpArgs),
    /// Run a command in a node of what is up, with a terminal when standard input and output are one.
    Exec(hand::ExecArgs),
    /// Open a shell in a node of what is up.
    Connect(hand::ConnectArgs),
    /// Judge what is up as it was configured by hand: what is right, what is wrong, and what to type.
    Check(check::CheckArgs),
    /// Play a fault in what is up.
    Inject(hand::FaultArgs),
    /// End a fault that was injected.
    Heal(hand::FaultArgs),
    /// Say what is up, as it is now: links, addresses, groups, real servers and their connections.
    Inspect(look::InspectArgs),
    /// The same again and again, as `watch -n 1 'ipvsadm -Ln'`, for the whole network.
    Watch(look::WatchArgs),
    /// Record frames of what is up into a file that Wireshark reads, with a comment on each that matters.
    Capture(record::RecordArgs),
    /// Take down what is up.
    Down(hand::DownArgs),
    /// Make the report of a run anew from what is in its folder.
    Report(report::ReportArgs),
    /// Judge the recording of a run again, also by a scenario that expects something else.
    Analyze(analyze::AnalyzeArgs),
    /// Write a capture from elsewhere (pcap or pcapng) anew, with a comment on each frame that matters.
    Annotate(annotate::AnnotateArgs),
    /// The virtual machine that is used where this kernel lacks what a scenario needs.
    #[command(subcommand)]
    Vm(machine::Command),
    /// Break things at random, judge throughout, and reduce what fails to few faults.
    Chaos(chaos::ChaosArgs),
    /// Measure beside ipvsadm and keepalived, all on one kernel, and write OUT/NAME/bench.json.
    Bench(crate::bench::BenchArgs),
    /// Print a completion script: `bascule-lab completion bash > /etc/bash_completion.d/bascule-lab`.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Program(Program),
    #[command(hide = true)]
    Keep(keeper::KeepArgs),
    #[command(hide = true)]
    VmSupervise(supervise::SuperviseArgs),
    #[command(hide = true)]
    VmLaunch(launch::LaunchArgs),
    #[command(hide = true)]
    Executor(executor::ExecutorArgs),
}

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

#[derive(Debug, clap::Args)]
struct DoctorArgs {
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The whole program, but for the hidden subcommand that needs a process of one thread.
pub fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bascule-lab: {error:#}");
            let code = if error.is::<BadInput>() { BAD_INPUT } else { 1 };
            ExitCode::from(code)
        }
    }
}

/// The caller's mistake, as opposed to the machine's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);

fn bad_input(message: impl Into<String>) -> anyhow::Error {
    BadInput(message.into()).into()
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Doctor(args) => examine(&args),
        Command::Run(args) => play::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::List => Ok(play::list()),
        Command::Show(args) => play::show(&args),
        Command::Validate(args) => Ok(play::validate(&args)),
        Command::Import(args) => import::run(&args),
        Command::Graph(args) => Ok(play::graph(&args)),
        Command::Up(args) => hand::up(&args),
        Command::Exec(args) => hand::exec(&args),
        Command::Connect(args) => hand::shell(&args),
        Command::Check(args) => check::run(&args),
        Command::Inject(args) => hand::inject(&args),
        Command::Heal(args) => hand::heal(&args),
        Command::Inspect(args) => look::inspect(&args),
        Command::Watch(args) => look::watch(&args),
        Command::Capture(args) => record::run(&args),
        Command::Down(args) => hand::down(&args),
        Command::Report(args) => report::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Annotate(args) => annotate::run(&args),
        Command::Keep(args) => keeper::keep(&args),
        Command::Vm(command) => machine::run(command),
        Command::Chaos(args) => chaos::run(&args),
        Command::Bench(args) => crate::bench::run(args),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bascule-lab", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Program(program) => program.run().or_else(|error| {
            eprintln!("bascule-lab: {error:#}");
            Ok(ExitCode::from(BAD_INPUT))
        }),
        Command::VmSupervise(args) => supervise::run(args),
        Command::VmLaunch(args) => launch::run(&args),
        Command::Executor(args) => executor::run(&args),
    }
}

fn examine(args: &DoctorArgs) -> Result<ExitCode> {
    let report = doctor::examine();
    match args.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
