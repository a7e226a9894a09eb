//! `bascule-lab inspect` and `watch`: what is up, as it is now.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::hand::{NOTHING, Standing, repeat, standing};
use super::keeper::{self, Answer, Request};
use super::kernel::Kernel;
use super::machine::block_on;
use super::{Output, bad_input};
use crate::inspect::{Inspection, Paint, view};
use crate::vm::Interaction;

/// How often `watch` looks, in seconds: at least, and at most.
const INTERVAL: std::ops::RangeInclusive<u64> = 1..=3600;
/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bascule-lab watch                  every second, until Ctrl-C
  bascule-lab watch --count 1        once, as `inspect`
  bascule-lab watch -n 5 | tee log   every five seconds, one below the other")]
pub(super) struct WatchArgs {
    /// Seconds from one look to the next.
    #[arg(short = 'n', long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Ends after so many looks.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
}

/// Prints what is up.
pub(super) fn inspect(args: &InspectArgs) -> Result<ExitCode> {
    let mut arguments = vec!["inspect".to_owned()];
    if args.output == Output::Json {
        arguments.extend(["--output", "json"].map(String::from));
    }
    if let Some(code) = elsewhere(args.kernel, arguments)? {
        return Ok(code);
    }
    let seen = look()?;
    match args.output {
        Output::Text => print!("{}\n\n{}", seen.scenario, view(&seen, paint())),
        Output::Json => println!("{}", serde_json::to_string_pretty(&seen)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints it again and again.
pub(super) fn watch(args: &WatchArgs) -> Result<ExitCode> {
    let interval = args.interval.clamp(*INTERVAL.start(), *INTERVAL.end());
    let mut arguments = vec!["watch".to_owned(), "--interval".to_owned(), interval.to_string()];
    if let Some(count) = args.count {
        arguments.extend(["--count".to_owned(), count.to_string()]);
    }
    if let Some(code) = elsewhere(args.kernel, arguments)? {
        return Ok(code);
    }
    let interval = Duration::from_secs(interval);
    let screen = std::io::stdout().is_terminal();
    let begun = Instant::now();
    let mut looks = 0;
    loop {
        let next = Instant::now() + interval;
        let seen = look()?;
        looks += 1;
        let clear = if screen { CLEAR } else { "" };
        let head = format!(
            "{}  after {} s, every {} s; Ctrl-C ends",
            seen.scenario,
            begun.elapsed().as_secs(),
            interval.as_secs()
        );
        let mut out = std::io::stdout().lock();
        // A pipe that nobody reads any more ends it.
        if write!(out, "{clear}{head}\n\n{}", view(&seen, paint())).and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        drop(out);
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(ExitCode::SUCCESS);
        }
        if !screen {
            println!();
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Repeats the call in the virtual machine, if that is where something is up.
fn elsewhere(kernel: Kernel, arguments: Vec<String>) -> Result<Option<ExitCode>> {
    block_on(async {
        match standing(kernel).await? {
            Standing::Here => Ok(None),
            Standing::There(vm) => repeat(vm, arguments, Interaction::Terminal).await.map(Some),
            Standing::Nowhere => Err(bad_input(NOTHING)),
        }
    })
}

fn look() -> Result<Inspection> {
    match keeper::ask(&Request::Inspect)? {
        Some(Answer::Seen(seen)) => Ok(*seen),
        Some(Answer::Failed(reason)) => bail!("{reason}"),
        Some(other) => bail!("the keeper answered {other:?}"),
        None => Err(bad_input("it was taken down")),
    }
}

/// Colours are for people.
fn paint() -> Paint {
    let wanted =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    if wanted { Paint::Colours } else { Paint::Plain }
}
