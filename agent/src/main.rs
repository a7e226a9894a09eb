//! The program `bascule-agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bascule_agent::cli::main()
}
