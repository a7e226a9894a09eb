//! The command line: what people and scripts call.

mod args;
mod digest;
mod keys;
mod lock;
mod logging;
mod plan;
mod run;
mod service_manager;
mod show;
mod validate;

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
        Some(Command::Plan(plan)) => plan::plan(&plan),
        Some(Command::Validate(validate)) => validate::validate(&validate),
        Some(Command::Status(status)) => show::status(&status),
        Some(Command::Switchover(switchover)) => show::switchover(&switchover),
        Some(Command::Digest(digest)) => digest::digest(&digest),
        Some(Command::Completion { shell }) => {
            clap_complete::generate(shell, &mut Args::command(), "bascule-agent", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

/// An error of the whole call, on the standard error, and the exit code for it.
fn fail(message: impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("bascule-agent: {message}");
    ExitCode::from(code)
}

/// Text for the terminal, with colours where they help and are wanted.
mod paint {
    use std::io::IsTerminal as _;

    /// Whether the standard output takes colours: it is a terminal and NO_COLOR is not set (no-color.org).
    pub(super) fn wanted() -> bool {
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            && std::io::stdout().is_terminal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
