//! `plan`: what would change, without changing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use super::args::{Origin, Output, Plan};
use super::{fail, paint};
use crate::api;
use crate::api::connect::Cluster;
use crate::api::fetch::{Fetched, fetch};
use crate::checks;
use crate::manifests::check::{self, Check};
use crate::reconcile::{Options, PlannedOp, plan_once};
use crate::state::{self, Saved};

/// Exit code when something would change.
const CHANGES: u8 = 2;

pub(super) fn plan(args: &Plan) -> ExitCode {
    let source = &args.source;
    let mut remembered = state::load(&source.state_dir);
    let objects = std::mem::take(&mut remembered.objects);
    let check = match source.origin() {
        Origin::Directory(directory) => {
            let objects = objects.into_iter().filter(|(key, _)| !api::source::is_ours(key)).collect();
            check::read(&directory, Some((source.director(), objects))).map_err(|error| {
                format!("the manifests directory {} cannot be read: {error}", directory.display())
            })
        }
        Origin::Api(cluster) => asked(&cluster, source.director(), &objects),
    };
    let check = match check {
        Ok(check) => check,
        Err(error) => return fail(error, 1),
    };
    for problem in &check.problems {
        eprintln!("{problem}");
    }
    for note in &remembered.notes {
        eprintln!("{note}");
    }
    let Check { config, checks: health_checks, problems, named, .. } = check;
    if !named.contains(source.director()) {
        let named = named.into_iter().collect::<Vec<_>>().join(", ");
        eprintln!(
            "no manifest names the director {}{}",
            source.director(),
            if named.is_empty() { String::new() } else { format!("; they name {named}") }
        );
    }
    let Some(config) = config else { return fail("there is no configuration", 1) };
    let config = Arc::new(config);
    let (live, problem) = checks::kept(source.director(), &source.run_dir, &config, &health_checks);
    if let Some(problem) = problem {
        eprintln!("{problem}");
    }
    let options =
        Options { adopt: source.adopt, proc_sys: source.proc_sys.clone(), ..Options::new(&source.run_dir) };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, 1),
    };
    let (operations, error) = match runtime.block_on(plan_once(&config, &live, &options)) {
        Ok(operations) => (operations, None),
        Err(error) => (error.ops.clone(), Some(error)),
    };
    if let Err(error) = print(args.output, &operations, error.as_ref().map(ToString::to_string), &problems) {
        return fail(error, 1);
    }
    if let Some(error) = &error {
        return fail(error, 1);
    }
    if !problems.is_empty() {
        return ExitCode::FAILURE;
    }
    if operations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) }
}

/// What the API says, as a directory would.
fn asked(cluster: &Cluster, director: &str, remembered: &BTreeMap<String, Saved>) -> Result<Check, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let fetched = runtime.block_on(fetch(cluster, director, remembered));
    let Fetched { config, checks, problems } = fetched.map_err(|error| format!("{error:#}"))?;
    if config.is_none() {
        return Err(format!(
            "the API server has no DirectorConfig {director}: see that there is a Director {director} and that the operator runs"
        ));
    }
    Ok(Check { config, checks, problems, named: BTreeSet::from([director.to_owned()]), ..Check::default() })
}

fn print(
    output: Output,
    operations: &[PlannedOp],
    error: Option<String>,
    problems: &[crate::manifests::Problem],
) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if output == Output::Json {
        let document = serde_json::json!({ "operations": operations, "error": error, "problems": problems });
        serde_json::to_writer_pretty(&mut out, &document)?;
        writeln!(out)?;
        return out.flush();
    }
    let colours = paint::wanted();
    for operation in operations {
        let colour = match operation.kind.split('-').next() {
            Some("add") => "\x1b[32m",
            Some("remove" | "delete") => "\x1b[31m",
            _ => "\x1b[33m",
        };
        if colours {
            writeln!(out, "{colour}{operation}\x1b[0m")?;
        } else {
            writeln!(out, "{operation}")?;
        }
    }
    match (operations.len(), error.is_some()) {
        (0, false) => writeln!(out, "nothing to do")?,
        (0, true) => {}
        (1, _) => writeln!(out, "1 operation")?,
        (count, _) => writeln!(out, "{count} operations")?,
    }
    out.flush()
}
