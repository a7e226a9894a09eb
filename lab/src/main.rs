//! Networks of namespaces, played failures, and what happened.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: it needs a process with one thread.
    if let Some(code) = bascule_lab::world::hidden_main() {
        return code;
    }
    bascule_lab::cli::main()
}
