//! `run` and `compare` in the virtual machine: the same program there; its results come back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::machine::{GRACE, block_on, connect, machine_environment};
use crate::run::{JUNIT, folder};
use crate::scenario::shipped;
use crate::vm::message::Command;
use crate::vm::{Interaction, Settings, Vm};

/// What is played there.
pub(super) struct Away<'a> {
    /// The command: `run`, `compare`.
    pub(super) verb: &'a str,
    /// The scenarios, as the caller named them.
    pub(super) names: &'a [String],
    /// Options that are the same there.
    pub(super) options: Vec<String>,
    /// Where the results go here.
    pub(super) out: &'a Path,
    /// The folders in it that are replaced.
    pub(super) folders: &'a [PathBuf],
    /// Whether it waits for a person.
    pub(super) waits: bool,
}

impl Away<'_> {
    /// Plays it; the exit code is that of there.
    pub(super) fn run(self) -> Result<ExitCode> {
        // Should they not come back, those of an earlier run are not taken for them.
        let junit = self.out.join(JUNIT);
        folder::remove_file(&junit).with_context(|| format!("removing {}", junit.display()))?;
        block_on(async {
            let mut vm = connect(&Settings::default()).await?;
            let programs = vm.install_programs().await?;
            let folder = format!("/tmp/bascule-run-{}", std::process::id());
            let mut command = vec![format!("{programs}/bascule-lab"), self.verb.to_owned()];
            for (at, name) in self.names.iter().enumerate() {
                if shipped::find(name).is_some() {
                    command.push(name.clone());
                    continue;
                }
                let path = PathBuf::from(name);
                let file =
                    path.file_name().and_then(|file| file.to_str()).context("a file's name is not UTF-8")?;
                let there = format!("{folder}/scenarios/{at}/{file}");
                vm.put(&path, &there).await?;
                command.push(there);
            }
            let results = format!("{folder}/results");
            command.extend(["--kernel", "host", "--out", &results].map(str::to_owned));
            command.extend(self.options);
            let command = Command {
                arguments: command,
                environment: machine_environment(&programs),
                grace_millis: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
                ..Command::default()
            };
            let interaction = if self.waits { Interaction::Terminal } else { Interaction::Watch };
            let code = vm.run(command, interaction).await?;
            let fetched = fetch(&mut vm, &results, self.out, self.folders).await;
            // Also when they could not be fetched: the machine's memory is not a store.
            vm.remove(&folder).await?;
            fetched?;
            Ok(ExitCode::from(code))
        })
    }
}

/// Brings results from the machine, in place of those of an earlier run.
async fn fetch(vm: &mut Vm, results: &str, out: &Path, folders: &[PathBuf]) -> Result<()> {
    if !vm.has(results).await? {
        return Ok(());
    }
    for folder in folders {
        folder::clear(folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    vm.get(results, out).await?;
    eprintln!("bascule-lab: the results are in {}", out.display());
    Ok(())
}
