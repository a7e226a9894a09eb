//! Processes that dumped core: whatever the steps say, a run with one of them has failed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;

use super::cores::{Core, Cores};
use super::logs;
use super::result::{CoreDump, ScenarioResult, Verdict};
use super::timeline::Timeline;
use crate::expect::Finding;
use crate::scenario::Scenario;
use crate::world::journal::{self, Dump};

/// So many of the last lines of a program's log are told.
const LINES: usize = 5;
/// The folder of core files, in that of results.
const CORES: &str = "cores";

/// Watches for them over a run.
pub(super) struct Dumps {
    logs: PathBuf,
    cores: Cores,
    /// What nodes are called, by what `uname -n` prints in them.
    hosts: BTreeMap<String, String>,
    found: Vec<(Dump, CoreDump)>,
}

impl Dumps {
    /// Begins, before the network is built. `folder` is that of results.
    pub(super) fn begin(scenario: &Scenario, folder: &Path) -> Self {
        let nodes = scenario.topology.nodes.iter();
        let hosts = nodes.map(|node| (node.hostname().to_owned(), node.name.to_string())).collect();
        Self { logs: folder.join("logs"), cores: Cores::begin(), hosts, found: Vec::new() }
    }

    /// What has come since the last look: on the timeline, and as findings.
    ///
    /// # Errors
    /// When what nodes wrote down cannot be read.
    pub(super) fn news(&mut self, timeline: &Timeline) -> io::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for dump in journal::dumps(&self.logs)? {
            if !self.found.iter().any(|(other, _)| *other == dump) {
                findings.push(self.take(dump, timeline));
            }
        }
        Ok(findings)
    }

    fn take(&mut self, dump: Dump, timeline: &Timeline) -> Finding {
        let log = dump.of.as_ref().map(|name| logs::last(&self.logs, &dump.node, name, LINES));
        let told = CoreDump {
            node: dump.node.clone(),
            program: match (&*dump.program, &dump.of) {
                ("", Some(name)) => name.clone(),
                (program, _) => program.to_owned(),
            },
            of: dump.of.clone(),
            pid: dump.pid,
            signal: signal_name(dump.signal),
            at_seconds: timeline.seconds(dump.at),
            core: None,
            why_no_core: None,
            log: log.unwrap_or_default(),
        };
        timeline.put(
            dump.at,
            "coreDump",
            json!({"node": told.node, "program": told.program, "of": told.of, "pid": told.pid, "signal": told.signal}),
        );
        let mut seen = told.words();
        if let Some(line) = told.log.last() {
            seen = format!("{seen}; it logged last: {line}");
        }
        let finding = Finding::of(false, "no process dumps core", seen).at(Some(dump.at));
        self.found.push((dump, told));
        finding
    }

    /// Ends it, when all that ran has ended: keeps core files, and has the run failed for what was found.
    ///
    /// # Errors
    /// When it cannot be read or kept.
    pub(super) fn end(
        mut self,
        timeline: &Timeline,
        result: &mut ScenarioResult,
        folder: &Path,
    ) -> io::Result<()> {
        let _ = self.news(timeline)?;
        let mut cores = self.cores.list()?;
        let mut matched = Vec::new();
        for (dump, _) in &self.found {
            let of = |core: &Core| {
                core.pid == dump.pid
                    && core.signal == dump.signal
                    && self.hosts.get(&core.host) == Some(&dump.node)
            };
            matched.push(cores.iter().position(of).map(|place| cores.remove(place)));
        }
        // What its own parent collected, no node has seen: the kernel has.
        for core in cores {
            let Some(node) = self.hosts.get(&core.host).cloned() else { continue };
            let dump = Dump {
                at: core.at,
                node,
                pid: core.pid,
                program: core.program.clone(),
                signal: core.signal,
                of: None,
            };
            let _ = self.take(dump, timeline);
            matched.push(Some(core));
        }
        let why = self.cores.why_none();
        for ((_, told), core) in self.found.iter_mut().zip(matched) {
            match core {
                Some(core) => told.core = Some(keep(&core, &told.node, folder)?),
                None => told.why_no_core = Some(why.clone()),
            }
        }
        result.core_dumps = self.found.into_iter().map(|(_, told)| told).collect();
        fail(result);
        Ok(())
    }
}

/// A run with a process that dumped core has failed, and says so first.
pub(super) fn fail(result: &mut ScenarioResult) {
    let Some(first) = result.core_dumps.first() else { return };
    let mut words = first.words();
    // Where a step found it, that is its reason already.
    if result.verdict == Verdict::Failed && result.reason.contains(&words) {
        return;
    }
    let more = result.core_dumps.len() - 1;
    if more > 0 {
        words = format!("{words}, and {more} more");
    }
    result.reason = match result.verdict {
        Verdict::Failed | Verdict::Error => format!("{words}; and {}", result.reason),
        _ => words,
    };
    result.verdict = Verdict::Failed;
}

/// Moves a core file to the results; its path among them.
fn keep(core: &Core, node: &str, folder: &Path) -> io::Result<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let program: String = core.program.chars().map(plain).collect();
    let cut = if core.cut { ".cut" } else { "" };
    let name = format!("{CORES}/{node}.{program}.{}{cut}.core", core.pid);
    std::fs::create_dir_all(folder.join(CORES))?;
    std::fs::copy(&core.path, folder.join(&name))?;
    std::fs::remove_file(&core.path)?;
    Ok(name)
}

fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::result::example;
    use super::*;

    fn dump() -> CoreDump {
        CoreDump {
            node: "SRV1".into(),
            program: "sh".into(),
            of: None,
            pid: 12,
            signal: "SIGSEGV".into(),
            at_seconds: 1.5,
            core: None,
            why_no_core: Some("not kept: why".into()),
            log: Vec::new(),
        }
    }

    #[test]
    fn whatever_the_steps_say_it_has_failed() {
        for verdict in [Verdict::Passed, Verdict::Undecided, Verdict::Error, Verdict::Failed] {
            let mut result = example("a", verdict);
            let before = result.reason.clone();
            fail(&mut result);
            assert_eq!((result.verdict, &result.reason), (verdict, &before), "nothing has dumped core");
            result.core_dumps = vec![dump(), dump()];
            fail(&mut result);
            assert_eq!(result.verdict, Verdict::Failed);
            let words = "sh of SRV1 (process 12) dumped core at 1.500 s: SIGSEGV, and 1 more";
            assert!(result.reason.starts_with(words), "{}", result.reason);
            let found_more = matches!(verdict, Verdict::Error | Verdict::Failed);
            assert_eq!(result.reason.contains(&format!("; and {before}")), found_more, "{}", result.reason);
            let reason = result.reason.clone();
            fail(&mut result);
            assert_eq!(result.reason, reason, "said once");
        }
    }

    #[test]
    fn a_core_file_goes_to_the_results() {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("core,SRV1,12,11,a program");
        std::fs::write(&path, "core").unwrap();
        let program = "a program/../x".to_owned();
        let core =
            Core { path: path.clone(), host: "SRV1".into(), pid: 12, signal: 11, program, at: 0, cut: true };
        let name = keep(&core, "SRV1", out.path()).unwrap();
        assert_eq!(name, "cores/SRV1.a_program_.._x.12.cut.core");
        assert_eq!(std::fs::read_to_string(out.path().join(name)).unwrap(), "core");
        assert!(!path.exists());
    }
}
