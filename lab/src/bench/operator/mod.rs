//! The operator and its agents in a cluster: a real kube-apiserver with its etcd, the operator, and agents, which write into simulated
//! kernels (`bascule-agent --simulated-ipvs`), so that it runs where the kernel has no IPVS.
//!
//! What is written is counted by the API server; when a kernel was told something is in its journal, beside the moment at which the API
//! server's answer to the user had come.

mod api;
mod changes;
mod journal;
mod shape;
mod site;
mod writes;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::report::{Comparison, percentile};
use super::site::KIB_PER_MB;
use super::{Bench, BenchArgs, in_path};
use api::Connection;
use changes::Changes;
use journal::monotonic;
use shape::Shape;
use site::Site;
use writes::Writes;

/// Seconds until the kernels of all directors have everything.
const FIRST_SYNC: f64 = 120.0;
/// MB of resident memory, of the operator and of each agent.
const MEMORY: f64 = 200.0;
/// Writes of a binding's spec, and of its status, on each director by one change.
const OF_BINDING: f64 = 1.0;
/// Writes of the user's object's status by one change.
const OF_STATUS: f64 = 2.0;
/// Writes about a director, and about a group, by a failover.
const OF_FAILOVER: f64 = 2.0;
/// Milliseconds from the API server's answer to the kernel's command, 99th percentile, one change at a time.
const IDLE: f64 = 100.0;
/// The same while changes come one after the other.
const LOADED: f64 = 500.0;

/// Changes whose writes are counted one by one.
const COUNTED: u32 = 3;
/// How long the first sync and the statuses may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often journals are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(10);
/// From one look at the statuses to the next: all objects are read.
const STATUSES: Duration = Duration::from_secs(10);
/// Objects in a page of a list.
const PAGE: u32 = 500;
/// A director whose Lease is so old is not heard any more, and that is written, too.
const STALE: Duration = Duration::from_secs(50);

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OperatorArgs {
    /// Directors with an agent (operator).
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) agents: u32,
    /// Directors of each group, all of which carry its services (operator).
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) members: u32,
    /// Changes a second under load (operator).
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rate: u32,
    /// Seconds of load (operator).
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(super) load: u32,
    /// The operator's program (operator) [default: beside this one, else in PATH].
    #[arg(long, value_name = "PROGRAM")]
    pub(super) operator: Option<PathBuf>,
}

pub(super) fn run(bench: &Bench, args: &BenchArgs) -> Result<Vec<Comparison>> {
    let asked = &args.operator;
    let shape = Shape::new(bench.services, bench.servers, asked.agents, asked.members)?;
    let program = program(asked.operator.as_deref(), &bench.program)?;
    let mut site = Site::new(bench, shape, &program)?;
    let mut rows = Rows { size: size(shape), versions: versions(&site)?, made: Vec::new() };
    site.fill()?;
    let mut connection = site.connect()?;

    let (first, begun) = first_sync(&mut site)?;
    rows.at_most("first sync, start to last rule", "s", &[first], FIRST_SYNC);
    let complete = statuses(&site, &mut connection, begun)?;
    rows.figure("until all statuses say so", "s", &[complete]);
    let mut memory = vec![Memory::of(&site)?];

    let mut changes = Changes::new(shape);
    one_by_one(&mut site, &mut connection, &mut changes, &mut rows)?;
    let idle = changes.idle(&mut site, bench.changes)?;
    rows.latency("a weight, from the API server's answer to the kernel's command", &idle, IDLE);
    site.quiet(&mut connection)?;
    let (loaded, rate) = changes.under_load(&mut site, asked.rate, asked.load)?;
    rows.latency(&format!("the same under {rate:.0} changes a second"), &loaded, LOADED);
    bench.say("waiting until nothing is written");
    site.quiet(&mut connection)?;
    memory.push(Memory::of(&site)?);
    rows.memory(&memory);
    if shape.members > 1 {
        switch_over(&site, &mut connection, &mut rows)?;
        crash(&mut site, &mut connection, &mut rows)?;
    }
    Ok(rows.made)
}

fn size(shape: Shape) -> String {
    let Shape { services, servers, agents, members } = shape;
    format!("{services} services of {servers} over {agents} agents, each on {members}")
}

fn versions(site: &Site<'_>) -> Result<String> {
    let operator = site.version()?;
    let agent = &site.bench.version;
    Ok(if operator == *agent { operator } else { format!("operator {operator}, agent {agent}") })
}

fn program(asked: Option<&Path>, own: &Path) -> Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.to_owned());
    }
    let beside = Some(own.with_file_name("bascule-operator")).filter(|path| path.is_file());
    beside.or_else(|| in_path("bascule-operator")).context(
        "there is no bascule-operator beside bascule-lab and none in PATH; build it or give --operator",
    )
}

/// The table as it grows.
struct Rows {
    size: String,
    versions: String,
    made: Vec<Comparison>,
}

impl Rows {
    fn new_row(&self, what: &str, unit: &'static str, samples: &[f64]) -> Comparison {
        let what = if self.made.is_empty() { format!("{}: {what}", self.size) } else { what.to_owned() };
        Comparison::new(what, unit, &self.versions, samples)
    }

    fn figure(&mut self, what: &str, unit: &'static str, samples: &[f64]) {
        self.made.push(self.new_row(what, unit, samples));
    }

    /// Each sample is to be at most this.
    fn at_most(&mut self, what: &str, unit: &'static str, samples: &[f64], limit: f64) {
        self.made.push(self.new_row(what, unit, samples).each_at_most(limit));
    }

    fn latency(&mut self, what: &str, samples: &[f64], limit: f64) {
        self.figure(what, "ms", samples);
        self.at_most("the same, 99th percentile", "ms", &[percentile(samples, 99)], limit);
    }

    fn memory(&mut self, taken: &[Memory]) {
        let operators =
            |of: fn(&(f64, f64)) -> f64| taken.iter().map(|one| of(&one.operator)).collect::<Vec<_>>();
        let agents = |of: fn(&(f64, f64)) -> f64| {
            taken.iter().flat_map(|one| one.agents.iter().map(of)).collect::<Vec<_>>()
        };
        self.at_most("operator's memory at rest (VmRSS)", "MB", &operators(|one| one.0), MEMORY);
        self.at_most(
            "an agent's memory at rest, its kernel's table in it",
            "MB",
            &agents(|one| one.0),
            MEMORY,
        );
        self.figure("operator's memory at most (VmHWM)", "MB", &operators(|one| one.1));
        self.figure("an agent's memory at most", "MB", &agents(|one| one.1));
    }
}

/// Resident memory now and at most so far, in MB.
struct Memory {
    operator: (f64, f64),
    agents: Vec<(f64, f64)>,
}

impl Memory {
    fn of(site: &Site<'_>) -> Result<Self> {
        let operator = memory(&site.operator_id().context("no operator runs")?.to_string())?;
        let agents = site.agents.iter().map(|agent| memory(&agent.process.pid().to_string()));
        let memory = Self { operator, agents: agents.collect::<Result<_>>()? };
        let agents: Vec<_> = memory.agents.iter().map(|(now, _)| format!("{now:.0}")).collect();
        site.bench.say(&format!(
            "memory: operator {:.0} MB, agents {} MB",
            memory.operator.0,
            agents.join(", ")
        ));
        Ok(memory)
    }
}

fn memory(pid: &str) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let of = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next());
        let kib: f64 = number.with_context(|| format!("{path} has no {name}"))?.parse()?;
        Ok(kib / KIB_PER_MB)
    };
    Ok((of("VmRSS")?, of("VmHWM")?))
}

/// Starts everything; seconds until the last kernel had the last of its rules, and when it began.
fn first_sync(site: &mut Site<'_>) -> Result<(f64, u64)> {
    let bench = site.bench;
    let shape = site.shape;
    bench.say("the operator and the agents start");
    let begun = monotonic();
    site.start()?;
    let (deadline, mut said) = (Instant::now() + PATIENCE, Instant::now());
    loop {
        site.alive()?;
        let (mut missing, mut last) = (0, begun);
        for (number, agent) in (0..).zip(&mut site.agents) {
            let told = agent.journal.read()?;
            ensure!(
                told.removed == 0,
                "{} services or real servers were removed from a kernel",
                told.removed
            );
            let services = shape.services_on(number);
            let wanted = usize::try_from(services + services * shape.servers)?;
            missing += wanted.saturating_sub(told.services + told.servers);
            last = last.max(told.last_added);
        }
        if missing == 0 {
            let took = seconds(last.saturating_sub(begun));
            bench.say(&format!("all kernels have everything after {took:.1} s"));
            return Ok((took, begun));
        }
        if said.elapsed() > PROGRESS {
            said = Instant::now();
            bench.say(&format!("kernels lack {missing} services and real servers"));
        }
        ensure!(
            Instant::now() < deadline,
            "kernels lack {missing} services and real servers; {}",
            site.hint()
        );
        bench.pause(LOOK)?;
    }
}

#[expect(clippy::cast_precision_loss, reason = "hours of nanoseconds are below 2^52")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Waits until every VirtualService says that it is programmed and ready; seconds since `begun`.
fn statuses(site: &Site<'_>, connection: &mut Connection, begun: u64) -> Result<f64> {
    let bench = site.bench;
    let deadline = Instant::now() + PATIENCE;
    loop {
        site.alive()?;
        let written = site.writes(connection)?.of("virtualservicebindings/status");
        bench.say(&format!("{written} statuses of {} bindings were written", site.shape.bindings()));
        // Before that not all can be ready, and reading them all costs the API server much.
        if written >= site.shape.bindings() {
            let at = monotonic();
            let ready = site.runtime.block_on(ready(connection))?;
            if ready == site.shape.services {
                return Ok(seconds(at.saturating_sub(begun)));
            }
            bench.say(&format!("{ready} of {} services are ready", site.shape.services));
        }
        if Instant::now() > deadline {
            bail!("not all services are ready after {} s; {}", PATIENCE.as_secs(), site.hint());
        }
        bench.pause(STATUSES)?;
    }
}

/// How many VirtualServices are ready as they are now.
async fn ready(connection: &mut Connection) -> Result<u32> {
    let mut ready = 0;
    let mut from = String::new();
    loop {
        let path = format!("/apis/bascule.dev/v1alpha1/virtualservices?limit={PAGE}&continue={from}");
        let list = connection.get(&path).await?;
        for one in list["items"].as_array().into_iter().flatten() {
            ready += u32::from(is_ready(one));
        }
        match list["metadata"]["continue"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut from),
            _ => return Ok(ready),
        }
    }
}

fn is_ready(service: &Value) -> bool {
    let generation = &service["metadata"]["generation"];
    let is = |kind: &str| {
        let all = service["status"]["conditions"].as_array();
        all.into_iter().flatten().any(|one| one["type"] == kind && one["status"] == "True")
    };
    service["status"]["observedGeneration"] == *generation && is("Programmed") && is("Ready")
}

/// What one change costs, some times.
fn one_by_one(
    site: &mut Site<'_>,
    connection: &mut Connection,
    changes: &mut Changes,
    rows: &mut Rows,
) -> Result<()> {
    let members = f64::from(site.shape.members);
    let (mut spec, mut status, mut user) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = site.quiet(connection)?;
    for _ in 0..COUNTED {
        changes.one(site, connection)?;
        let after = site.quiet(connection)?;
        let cost = after.since(&before);
        site.bench.say(&format!("one change: {}", cost.words()));
        spec.push(count(&cost, "virtualservicebindings") / members);
        status.push(count(&cost, "virtualservicebindings/status") / members);
        user.push(count(&cost, "virtualservices/status"));
        before = after;
    }
    rows.at_most("one change: spec writes a director", "writes", &spec, OF_BINDING);
    rows.at_most("one change: status writes a director", "writes", &status, OF_BINDING);
    rows.at_most("one change: status writes of the VirtualService", "writes", &user, OF_STATUS);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count(writes: &Writes, resource: &str) -> f64 {
    writes.of(resource) as f64
}

/// The first group moves to its second member, by command.
fn switch_over(site: &Site<'_>, connection: &mut Connection, rows: &mut Rows) -> Result<()> {
    let before = site.quiet(connection)?;
    site.switch_over(&Shape::director(0), &Shape::group(0))?;
    let cost = site.quiet(connection)?.since(&before);
    failover(site, "switch-over", &cost, rows);
    Ok(())
}

/// The director that has the last group ends without a word.
fn crash(site: &mut Site<'_>, connection: &mut Connection, rows: &mut Rows) -> Result<()> {
    let shape = site.shape;
    let active = shape.members_of(shape.groups() - 1).next().context("a group has members")?;
    let before = site.quiet(connection)?;
    site.kill(active)?;
    site.bench.pause(STALE)?;
    let cost = site.quiet(connection)?.since(&before);
    failover(site, "agent killed", &cost, rows);
    Ok(())
}

/// What one group's failover costs: the directors' share is the mean of the group's members.
fn failover(site: &Site<'_>, name: &str, cost: &Writes, rows: &mut Rows) {
    site.bench.say(&format!("{name}: {}", cost.words()));
    let directors = ["directors", "directors/status", "directorconfigs", "directorconfigs/status"];
    let directors: f64 = directors.iter().map(|resource| count(cost, resource)).sum();
    let groups = count(cost, "vrrpgroups") + count(cost, "vrrpgroups/status");
    let services = ["virtualservices", "virtualservicebindings"];
    let services: f64 =
        services.iter().map(|one| count(cost, one) + count(cost, &format!("{one}/status"))).sum();
    let each = directors / f64::from(site.shape.members);
    rows.at_most(&format!("{name}: writes a director of the group"), "writes", &[each], OF_FAILOVER);
    rows.at_most(&format!("{name}: writes of the group"), "writes", &[groups], OF_FAILOVER);
    rows.at_most(&format!("{name}: writes of services and bindings"), "writes", &[services], 0.0);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_ready_as_it_is_now() {
        let service = |observed: u32, ready: &str| {
            json!({
                "metadata": {"generation": 2},
                "status": {"observedGeneration": observed, "conditions": [
                    {"type": "Programmed", "status": "True"}, {"type": "Ready", "status": ready}]},
            })
        };
        assert!(is_ready(&service(2, "True")));
        assert!(!is_ready(&service(1, "True")), "of an earlier form");
        assert!(!is_ready(&service(2, "Unknown")));
        assert!(!is_ready(&json!({"metadata": {"generation": 1}})));
    }

    #[test]
    fn memory_of_a_process_is_told() {
        let (now, most) = memory("self").unwrap();
        assert!(now > 0.1 && most >= now, "{now} {most}");
        assert!(memory("0").is_err());
    }
}
