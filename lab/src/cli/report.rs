//! `bascule-lab report`: the report of a run, made anew.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::bad_input;
use crate::report;

#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// A folder of results, `DIR/NAME`: with result.json, and as far as they are there timeline.jsonl, capture.pcapng, tables.json, logs.
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
}

/// Writes `report.html` into each folder.
pub(super) fn run(args: &ReportArgs) -> Result<ExitCode> {
    for folder in &args.folders {
        report::write(folder)
            .map_err(|error| bad_input(format!("no report of {}: {error}", folder.display())))?;
        println!("{}", folder.join(report::PAGE).display());
    }
    Ok(ExitCode::SUCCESS)
}
