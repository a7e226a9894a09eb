//! The same benchmark inside the virtual machine: both sides in it, results fetched.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::BenchArgs;
use crate::cli::machine::{GRACE, block_on, connect, machine_environment};
use crate::vm::message::{Boot, Command};
use crate::vm::{Interaction, Settings};

/// Runs this very program in the machine and fetches what it wrote.
pub(super) fn run(args: &BenchArgs) -> Result<ExitCode> {
    block_on(async {
        let mut vm = connect(&Settings::default()).await?;
        let programs = vm.install_programs().await?;
        let agent = match &args.agent {
            Some(path) => Some(vm.install_program(path).await?),
            None => None,
        };
        let inside = match vm.ready() {
            Boot::Ready { accelerator, .. } => format!("virtual machine, {accelerator}"),
            _ => "virtual machine".to_owned(),
        };
        let folder = format!("/tmp/bascule-bench-{}", std::process::id());
        let mut command = vec![format!("{programs}/bascule-lab"), "bench".to_owned()];
        command.extend(arguments(args, &folder, agent.as_deref(), &inside));
        let command = Command {
            arguments: command,
            environment: machine_environment(&programs),
            grace_millis: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
            ..Command::default()
        };
        let code = vm.run(command, Interaction::Watch).await?;
        let results = format!("{folder}/{}", args.name.as_str());
        if vm.has(&results).await? {
            let to = args.out.join(args.name.as_str());
            std::fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
            vm.get(&results, &to).await?;
            eprintln!("bascule-lab: the results are in {}", to.display());
        }
        vm.remove(&folder).await?;
        Ok(ExitCode::from(code))
    })
}

/// The arguments with which it runs there.
pub(super) fn arguments(args: &BenchArgs, folder: &str, agent: Option<&str>, inside: &str) -> Vec<String> {
    let mut arguments: Vec<String> = vec![args.name.as_str().to_owned()];
    let mut add = |option: &str, value: &dyn ToString| {
        arguments.push(option.to_owned());
        arguments.push(value.to_string());
    };
    add("--services", &args.services);
    add("--servers", &args.servers());
    add("--samples", &args.samples);
    if let Some(samples) = args.peer_samples {
        add("--peer-samples", &samples);
    }
    add("--changes", &args.changes);
    add("--rest", &args.rest);
    add("--kernel", &"host");
    add("--out", &Path::new(folder).display());
    if let Some(agent) = agent {
        add("--agent", &agent);
    }
    add("--inside", &inside);
    if let Some(seconds) = args.with_boot {
        add("--with-boot", &seconds);
    }
    arguments.extend(args.failover.arguments());
    arguments.extend(args.scale.arguments());
    arguments.extend(args.checks.arguments());
    if args.check {
        arguments.push("--check".to_owned());
    }
    arguments
}
