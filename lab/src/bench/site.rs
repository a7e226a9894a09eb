//! Where one sample is taken: a machine of its own in fresh namespaces, and the kernel's table as seen from outside.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bascule_ipvs::Client;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

use super::Bench;
use super::rules::{DIRECTOR, Rules};
use crate::scenario::topology::Topology;
use crate::world::{Exit, Node, Process, Spawn, World, WorldDir};

/// Where the agent finds its manifests: on the node's disk.
pub(super) const MANIFESTS: &str = "/var/lib/manifests";
/// keepalived's configuration.
pub(super) const KEEPALIVED: &str = "/etc/keepalived/keepalived.conf";
/// Where rules for `ipvsadm -R` are.
pub(super) const RULES: &str = "/var/lib/rules";

/// How often a table that is being filled is looked at: seldom, for the kernel has one lock for all of it.
const LOOK: Duration = Duration::from_millis(10);
/// How long filling a table may take, whoever does it.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long what belongs to an ended machine may stay in the kernel.
const REMOVAL: Duration = Duration::from_secs(120);
/// Services that are looked at while a table is being filled; all are at the end.
const SAMPLES: u32 = 16;
/// Memory of a page of /proc/PID/statm is told in KiB by /proc/PID/status instead.
pub(super) const KIB_PER_MB: f64 = 1000.0 * 1000.0 / 1024.0;

/// A machine for one sample.
pub(super) struct Site<'a> {
    bench: &'a Bench,
    world: World,
    pub(super) node: Node,
    /// Asks the machine's kernel table, from outside.
    pub(super) table: Client,
    logs: PathBuf,
}

/// When a table was filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    /// The last moment at which it was seen empty.
    pub(super) first: Instant,
    /// The first at which everything was seen.
    pub(super) last: Instant,
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.world.tear_down() {
            self.bench.say(&format!("{error}; the lab's next start tries again"));
        }
        self.bench.await_removal(REMOVAL);
    }
}

impl<'a> Site<'a> {
    /// A machine without network but for `lo`, which is up.
    pub(super) fn new(bench: &'a Bench, label: &str) -> Result<Self> {
        let alone = serde_json::json!({ "networks": [], "nodes": [{ "name": DIRECTOR }] });
        Self::with(bench, label, &serde_json::from_value(alone)?)
    }

    /// A machine in a network.
    pub(super) fn with(bench: &'a Bench, label: &str, topology: &Topology) -> Result<Self> {
        bench.check()?;
        let logs = bench.folder.join("logs").join(label);
        let dir = WorldDir {
            label: format!("bench {} {label}", bench.name),
            logs: logs.clone(),
            program: bench.program.clone(),
            programs: bench.agent.iter().map(|path| ("bascule-agent".to_owned(), path.clone())).collect(),
            cancel: bench.cancel.clone(),
        };
        let world = World::build(topology, &dir, &|_| {})?;
        let node = world.node(DIRECTOR)?;
        let table = node.in_netns(Client::connect)?.context("asking the kernel for IPVS")?;
        Ok(Self { bench, world, node, table, logs })
    }

    /// The machine's network, and what happens in it.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// Writes a manifest a service.
    pub(super) fn write_manifests(&self, rules: Rules) -> Result<PathBuf> {
        let folder = self.node.host_path(MANIFESTS.as_ref())?;
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        for service in 0..rules.services {
            let path = folder.join(Rules::file(service));
            std::fs::write(&path, rules.manifest(service, 1))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(folder)
    }

    /// Starts the agent on its manifests.
    pub(super) fn start_agent(&self) -> Result<Process> {
        let argv = ["bascule-agent", "--manifests", MANIFESTS, "--director", DIRECTOR];
        Ok(self.node.spawn(&Spawn::new("agent", argv))?)
    }

    /// Starts keepalived on its configuration, with nothing but its part for IPVS.
    pub(super) fn start_keepalived(&self) -> Result<Process> {
        let argv = ["keepalived", "--check", "--dont-fork", "--log-console", "--use-file", KEEPALIVED];
        Ok(self.node.spawn(&Spawn::new("keepalived", argv))?)
    }

    /// Waits until the kernel holds the rules, all of them and as they should be, while `process` runs.
    pub(super) fn await_rules(&mut self, rules: Rules, process: &Process) -> Result<Filled> {
        let deadline = Instant::now() + PATIENCE;
        let step = (rules.services / SAMPLES).max(1);
        let mut missing: Vec<u32> = (0..rules.services).step_by(step as usize).collect();
        if !missing.contains(&(rules.services - 1)) {
            missing.push(rules.services - 1);
        }
        let mut first = None;
        let mut last_look = Instant::now();
        loop {
            let look = Instant::now();
            // Services that were seen once stay: the one that comes last is what is waited for.
            while let Some(service) = missing.last().copied() {
                let held = self.table.destinations(&rules.service(service))?;
                if first.is_none() && !held.is_empty() {
                    first = Some(last_look);
                }
                if held.len() < rules.servers as usize {
                    break;
                }
                missing.pop();
            }
            if first.is_none() && self.table.service(&rules.service(0))?.is_some() {
                first = Some(last_look);
            }
            last_look = look;
            if missing.is_empty() {
                let last = Instant::now();
                missing = self.absent(rules)?;
                if missing.is_empty() {
                    return Ok(Filled { first: first.unwrap_or(last), last });
                }
            }
            if let Some(exit) = process.exit() {
                bail!(
                    "{} ended ({exit}) before the rules were in the kernel; {}",
                    process.name(),
                    self.hint()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} had not brought the rules into the kernel after {} s; {}",
                    process.name(),
                    PATIENCE.as_secs(),
                    self.hint()
                );
            }
            self.bench.pause(LOOK)?;
        }
    }

    /// Services that are not in the kernel with all their real servers.
    pub(super) fn absent(&mut self, rules: Rules) -> Result<Vec<u32>> {
        let mut absent = Vec::new();
        for service in 0..rules.services {
            if !self.whole(rules, service)? {
                absent.push(service);
            }
        }
        Ok(absent)
    }

    /// Whether a service has all its real servers, each of weight 1.
    pub(super) fn whole(&mut self, rules: Rules, service: u32) -> Result<bool> {
        let held = self.table.destinations(&rules.service(service))?;
        Ok(held.len() == rules.servers as usize
            && rules.destinations(service).all(|id| {
                held.iter().any(|entry| entry.destination.id == id && entry.destination.weight == 1)
            }))
    }

    /// Where to read on.
    pub(super) fn hint(&self) -> String {
        format!("see {}", self.logs.display())
    }

    /// Waits for a command's end; how it ended.
    pub(super) fn await_end(&self, process: &Process, patience: Duration) -> Result<Instant> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(exit) = process.wait(Duration::from_millis(100)) {
                let ended = Instant::now();
                if exit != Exit::Code(0) {
                    bail!("{} ended with {exit}; {}", process.name(), self.hint());
                }
                return Ok(ended);
            }
            self.bench.check()?;
            if Instant::now() > deadline {
                bail!("{} did not end within {} s; {}", process.name(), patience.as_secs(), self.hint());
            }
        }
    }

    /// Waits until a process and what it started have next to nothing to do; after a minute it is as it is.
    pub(super) fn await_rest(&self, process: &Process) -> Result<()> {
        for _ in 0..60 {
            let before = cpu_seconds(process);
            let second = Duration::from_secs(1);
            self.bench.pause(second)?;
            if cpu_seconds(process) - before < 0.05 {
                return Ok(());
            }
        }
        self.bench.say(&format!("{} has not come to rest within a minute", process.name()));
        Ok(())
    }

    /// What a process and what it started take while there is nothing to do: percent of a core, and resident memory in MB.
    pub(super) fn at_rest(&self, process: &Process, time: Duration) -> Result<(f64, f64)> {
        let (begun, before) = (Instant::now(), cpu_seconds(process));
        self.bench.pause(time)?;
        let used = cpu_seconds(process) - before;
        let percent = 100.0 * used / begun.elapsed().as_secs_f64();
        Ok((percent, resident(process)?))
    }

    /// Ends a process in order.
    pub(super) fn end(process: &Process) {
        // It goes with the machine anyway.
        let _ = process.signal(Signal::SIGTERM);
        process.wait(Duration::from_secs(20));
    }
}

/// The processes of a program: keepalived's parent and child.
fn all(process: &Process) -> Vec<i32> {
    let mut all = vec![process.pid()];
    // A child may lead a group of its own.
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
    all
}

/// CPU time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    /// In the program itself.
    pub(super) user: f64,
    /// In the kernel on its behalf.
    pub(super) system: f64,
}

/// CPU time used so far, user and system, in seconds.
pub(super) fn cpu_seconds(process: &Process) -> f64 {
    let Cpu { user, system } = cpu(process);
    user + system
}

/// CPU time used so far.
pub(super) fn cpu(process: &Process) -> Cpu {
    let (mut user, mut system) = (0, 0);
    for pid in all(process) {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The second field, in parentheses, may hold anything.
        let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11);
        let mut ticks = fields.map(|field| field.parse::<u64>().unwrap_or(0));
        user += ticks.next().unwrap_or(0);
        system += ticks.next().unwrap_or(0);
    }
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    #[expect(clippy::cast_precision_loss, reason = "ticks since a start are far below 2^52")]
    let seconds = |ticks: u64| ticks as f64 / second as f64;
    Cpu { user: seconds(user), system: seconds(system) }
}

/// Resident memory (VmRSS) in MB.
pub(super) fn resident(process: &Process) -> Result<f64> {
    let mut kib = 0.0;
    for pid in all(process) {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let number = line.split_whitespace().next().context("VmRSS without a number")?;
        kib += number.parse::<f64>().context("VmRSS is no number")?;
    }
    Ok(kib / KIB_PER_MB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn megabytes_are_a_million_bytes() {
        assert!((1_000_000.0 / 1024.0 / KIB_PER_MB - 1.0).abs() < 1e-9);
    }
}
