//! `bascule-lab analyze`: a recording, judged again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::{bad_input, play};
use crate::run::replay;
use crate::scenario::load_file;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bascule-lab analyze lab-results/tp-ipvs                          what was expected, judged again
  cp lab-results/tp-ipvs/tp-ipvs.yaml stricter.yaml                then change what is expected in it:
  bascule-lab analyze lab-results/tp-ipvs --scenario stricter.yaml   would that run have passed?

Requests, who held addresses, and frames are judged from the records. What a run asks for at the moment (kernel,
agentStatus, plan, log, command, exec, metric, realServers, connections, claims), or knew better because it knew how late
the machine was, stands as it was found as long as the same is expected; else it is undecided and needs a live run. Nothing is written, and no root is needed.

Exit codes are those of `run`: 0 passed; 1 failed, error or undecided; 2 bad input; 3 unsupported.")]
pub(super) struct AnalyzeArgs {
    /// A folder of results, `DIR/NAME`, as `run` makes it.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// A scenario that does the same and expects something else; the one that was played unless told.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
}

/// Prints the table of the run, and what is otherwise than it was recorded.
pub(super) fn run(args: &AnalyzeArgs) -> Result<ExitCode> {
    let other = match args.scenario.as_deref().map(load_file).transpose() {
        Ok(other) => other,
        Err(problems) => return Ok(play::tell(&problems)),
    };
    let judgement = replay::judge(&args.folder, other).map_err(bad_input)?;
    println!("{}", judgement.text().trim_end());
    Ok(ExitCode::from(judgement.exit_code()))
}
