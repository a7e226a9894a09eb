//! The program `bascule-operator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bascule_operator::cli::main()
}
