//! `status` and `switchover`: ask the running agent.

use std::io::Write as _;
use std::process::ExitCode;

use super::args::{Output, Status, Switchover};
use super::{fail, paint};
use crate::status::{self, ask, render};

pub(super) fn status(args: &Status) -> ExitCode {
    let status = match ask(&args.run_dir) {
        Ok(status) => status,
        Err(error) => return fail(error, 1),
    };
    let text = match args.output {
        Output::Text => render(&status, paint::wanted()),
        Output::Json => match serde_json::to_string_pretty(&status) {
            Ok(text) => text + "\n",
            Err(error) => return fail(error, 1),
        },
    };
    // A reader that closed early (head, less) has what it wanted.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

pub(super) fn switchover(args: &Switchover) -> ExitCode {
    match status::switchover(&args.run_dir, &args.group) {
        Ok(reason) => {
            println!("{}: {reason}", args.group);
            ExitCode::SUCCESS
        }
        Err(error) => fail(error, 1),
    }
}
