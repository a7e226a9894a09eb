//! `bascule-lab check`: what is up, judged as a person has configured it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::bad_input;
use super::hand::{NOTHING, Standing, repeat, standing};
use super::keeper::{self, Answer, Request};
use super::kernel::Kernel;
use super::machine::block_on;
use crate::vm::Interaction;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bascule-lab up tp-ipvs --topology-only      the network of the TP, where nothing is configured
  bascule-lab connect Load-Balancer           type the lines of the TP there, then `exit`
  bascule-lab check tp-ipvs                   what is right, what is wrong, and a hint for each thing that is
  bascule-lab down

It starts the clients' requests of the scenario and looks at what its steps expect: answers, kernel tables, who has which address, recorded frames.
It configures nothing, so that you can mend and check as often as you like. `not judged` says what only Bascule's agent could be asked, and what
comes after a step that breaks or changes something.

Exit codes: 0 all right; 1 something is wrong, or the lab failed; 2 nothing is up, or something else; 3 nothing could be judged.")]
pub(super) struct CheckArgs {
    /// Name or file of the scenario that is up, to be sure that it is this one [default: what is up].
    #[arg(value_name = "NAME|FILE")]
    scenario: Option<String>,
    /// Plays the faults of the scenario, too, its commands and what it tells its servers, up to the first change of manifests. What was typed does not outlive a reboot.
    #[arg(long)]
    faults: bool,
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
}

impl CheckArgs {
    /// The same call inside the virtual machine.
    fn passed_on(&self) -> Vec<String> {
        let mut arguments = vec!["check".to_owned()];
        arguments.extend(self.faults.then(|| "--faults".to_owned()));
        arguments.extend(self.scenario.clone());
        arguments
    }
}

/// Judges what is up.
pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let elsewhere = block_on(async {
        match standing(args.kernel).await? {
            Standing::Here => Ok(None),
            Standing::There(vm) => repeat(vm, args.passed_on(), Interaction::Watch).await.map(Some),
            Standing::Nowhere => Err(bad_input(
                "nothing is up; `bascule-lab up NAME --topology-only` first, then configure it by hand",
            )),
        }
    })?;
    if let Some(code) = elsewhere {
        return Ok(code);
    }
    let Some(Answer::Up { scenario, .. }) = keeper::ask(&Request::Status)? else {
        return Err(bad_input(NOTHING));
    };
    if let Some(wanted) = args.scenario.as_deref().map(name).filter(|wanted| *wanted != scenario) {
        return Err(bad_input(format!("{wanted} is not up; {scenario} is")));
    }
    match keeper::ask_telling(&Request::Check { faults: args.faults }, |line| eprintln!("{line}"))? {
        Some(Answer::Checked { text, code }) => {
            println!("{}", text.trim_end());
            Ok(ExitCode::from(code))
        }
        Some(Answer::Failed(reason)) => bail!("{reason}"),
        Some(other) => bail!("the keeper answered {other:?}"),
        None => Err(bad_input("it was taken down")),
    }
}

/// What a scenario is called, by its name or its file.
fn name(scenario: &str) -> &str {
    let path = Path::new(scenario);
    let is_file = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let stem = if is_file { path.file_stem() } else { path.file_name() };
    stem.and_then(|stem| stem.to_str()).unwrap_or(scenario)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_as_it_was_when_it_was_brought_up() {
        for (given, called) in
            [("tp-ipvs", "tp-ipvs"), ("./my.yaml", "my"), ("/tmp/my.net.yml", "my.net"), ("a.2", "a.2")]
        {
            assert_eq!(name(given), called);
        }
    }
}
