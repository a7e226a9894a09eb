//! The command line.

mod args;
mod logging;
mod run;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Args, Command};

/// Exit code for what the caller wrote wrongly, as clap has it.
const USAGE: u8 = 2;

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        None => run::run(&args.run),
        Some(Command::Flush(flush)) => run::flush(&flush),
        Some(Command::Completion { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "bascule-operator", &mut script);
            match std::io::stdout().write_all(&script) {
                // Whoever reads only the beginning has what he wanted.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(error, 1),
                _ => ExitCode::SUCCESS,
            }
        }
    }
}

/// An error of the whole call, on the standard error, and the exit code for it.
fn fail(message: impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("bascule-operator: {message}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
