//! Networks of namespaces, played failures, and what happened.

use std::process::ExitCode;

use bascule_lab::programs::Program;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "bascule-lab", version)]
enum Cli {
    #[command(flatten)]
    Program(Program),
}

fn main() -> ExitCode {
    // Before anything else: it needs a process with one thread.
    if let Some(code) = bascule_lab::world::hidden_main() {
        return code;
    }
    let Cli::Program(program) = Cli::parse();
    program.run().unwrap_or_else(|error| {
        eprintln!("bascule-lab: {error:#}");
        ExitCode::from(2)
    })
}
