//! `bascule-lab import`: a topology of containerlab as a scenario.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{bad_input, play};
use crate::import::import;
use crate::scenario::read_text;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bascule-lab import mylab.clab.yml                        prints the scenario
  bascule-lab import mylab.clab.yml -o mylab.yaml          writes it; then:
  bascule-lab graph ./mylab.yaml                             what became of it,
  bascule-lab run ./mylab.yaml                               whether neighbours reach each other,
  bascule-lab up ./mylab.yaml                                to work in it by hand
  bascule-lab import --lenient mylab.clab.yml -o mylab.yaml  leaves out commands that cannot be translated

Nodes of kind `linux` become nodes, bridges and links become networks; of `exec`, what sets addresses, routes and
kernel parameters becomes fields. Nodes of other kinds are refused. What is left out is told, and in comments.

Exit codes: 0 done; 1 the file could not be written; 2 bad input.")]
pub(super) struct ImportArgs {
    /// A topology of containerlab.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the scenario goes; standard output unless told.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Commands of `exec` that cannot be translated, and fields that are not known, are left out and listed in comments; else they are mistakes.
    #[arg(long)]
    lenient: bool,
}

/// Writes or prints the scenario; what is otherwise in it goes to standard error.
pub(super) fn run(args: &ImportArgs) -> Result<ExitCode> {
    let text = match read_text(&args.file) {
        Ok(text) => text,
        Err(problems) => return Ok(play::tell(&problems)),
    };
    let out = args.out.as_deref();
    if let Some(out) = out {
        if !out.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            return Err(bad_input(format!(
                "{} would be no scenario; let its name end in .yaml",
                out.display()
            )));
        }
        if matches!((args.file.canonicalize(), out.canonicalize()), (Ok(one), Ok(other)) if one == other) {
            return Err(bad_input(format!(
                "{} would be written over itself; give another --out",
                out.display()
            )));
        }
    }
    let file = args.file.display().to_string();
    let imported = match import(&file, &text, &name(out.unwrap_or(&args.file)), args.lenient) {
        Ok(imported) => imported,
        Err(problems) => return Ok(play::tell(&problems)),
    };
    for note in &imported.notes {
        eprintln!("{file}:{}: note: {}", note.line, note.text);
    }
    let Some(out) = out else {
        print!("{}", imported.text);
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::write(out, &imported.text).with_context(|| format!("writing {}", out.display()))?;
    let topology = &imported.scenario.topology;
    println!("{}: {} networks, {} nodes", out.display(), topology.networks.len(), topology.nodes.len());
    Ok(ExitCode::SUCCESS)
}

/// The scenario's name: that of its file, without the endings of either.
fn name(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    match stem.strip_suffix(".clab") {
        Some(plain) => plain.to_owned(),
        None => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_named_after_its_file() {
        for (path, expected) in [("a/mylab.clab.yml", "mylab"), ("mine.yaml", "mine"), ("x.y.yaml", "x.y")] {
            assert_eq!(name(Path::new(path)), expected, "{path}");
        }
    }
}
