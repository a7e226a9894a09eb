//! `validate`: every problem of the manifests, and what to think about twice.

use std::io::Write as _;
use std::process::ExitCode;

use super::args::{Output, Validate};
use super::{USAGE, fail};
use crate::manifests::check::{self, Check};

pub(super) fn validate(args: &Validate) -> ExitCode {
    let check = match check::read(&args.manifests, None) {
        Ok(check) => check,
        Err(error) => {
            let directory = args.manifests.display();
            return fail(format_args!("the manifests directory {directory} cannot be read: {error}"), USAGE);
        }
    };
    if let Err(error) = print(args.output, &check) {
        return fail(error, USAGE);
    }
    if check.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(output: Output, check: &Check) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let Check { files, objects, problems, warnings, .. } = check;
    if output == Output::Json {
        let document = serde_json::json!({
            "files": files,
            "objects": objects,
            "problems": problems,
            "warnings": warnings,
            "notes": check.notes,
        });
        serde_json::to_writer_pretty(&mut out, &document)?;
        writeln!(out)?;
        return out.flush();
    }
    for problem in problems {
        writeln!(out, "{problem}")?;
    }
    for warning in warnings {
        writeln!(out, "{warning}")?;
    }
    for note in &check.notes {
        writeln!(out, "note: {note}")?;
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let mut found = if problems.is_empty() {
        "no problems".to_owned()
    } else {
        format!("{} problem{}", problems.len(), plural(problems.len()))
    };
    if !warnings.is_empty() {
        found += &format!(" and {} warning{}", warnings.len(), plural(warnings.len()));
    }
    writeln!(out, "{found} in {objects} object{} of {files} file{}", plural(*objects), plural(*files))?;
    out.flush()
}
