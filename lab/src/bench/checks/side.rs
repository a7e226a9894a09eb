//! One program with its checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bascule_ipvs::{Protocol, ServiceId};
use serde::Deserialize;
use serde_json::json;

use super::super::Bench;
use super::super::rules::{DIRECTOR, INTERFACE};
use super::super::site::{Cpu, KEEPALIVED, MANIFESTS, Site, cpu, resident};
use crate::programs::clock::monotonic_ns;
use crate::world::{Exec, Node, Process, Spawn};

/// The machine with the web server, which answers at every address of 10.98.0.0/16.
const SERVERS: &str = "servers";
/// As many of them are checked at most.
pub(super) const MAX_TARGETS: u32 = 60_000;
/// Real servers of a virtual service.
const A_SERVICE: u32 = 200;
/// Where the web server notes requests.
const LOG: &str = "/var/log/bascule-lab/web.jsonl";
/// How long a check may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Failures in a row until a real server is down, on both sides: keepalived's `retry` 1.
const FALL: u32 = 2;
/// How long it takes at most until all real servers are in the kernel and were checked.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the kernel's table is looked at when a death is waited for.
const LOOK: Duration = Duration::from_millis(5);
/// No line of the log is longer.
const LINE: usize = 400;

/// A set of checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) targets: u32,
    pub(super) interval: Duration,
    pub(super) look: Duration,
    pub(super) deaths: u32,
}

impl Plan {
    /// The time within which a death is to be noticed.
    pub(super) fn detection(self) -> Duration {
        self.interval * FALL + TIMEOUT
    }

    fn services(self) -> u32 {
        self.targets.div_ceil(A_SERVICE)
    }

    /// The real servers of a service.
    fn of(self, service: u32) -> std::ops::Range<u32> {
        service * A_SERVICE..((service + 1) * A_SERVICE).min(self.targets)
    }
}

/// Whose checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Bascule,
    Keepalived,
}

impl Who {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bascule => "bascule",
            Self::Keepalived => "keepalived",
        }
    }
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Requests that came while it was looked at.
    requests: usize,
    /// For how long that was.
    time: Duration,
    /// CPU time of the program meanwhile.
    cpu: Cpu,
    /// Resident memory in MB.
    pub(super) memory: f64,
    /// By how much the time between two requests to one server exceeded the interval, in ms.
    pub(super) lateness: Vec<f64>,
    /// From each death to its leaving the kernel's table, in ms.
    pub(super) noticed: Vec<f64>,
}

impl Seen {
    pub(super) fn rate(&self) -> f64 {
        count(self.requests) / self.time.as_secs_f64()
    }

    /// Seconds.
    pub(super) fn cpu_per_check(&self) -> f64 {
        (self.cpu.user + self.cpu.system) / count(self.requests.max(1))
    }

    /// Seconds, without what the kernel does.
    pub(super) fn user_per_check(&self) -> f64 {
        self.cpu.user / count(self.requests.max(1))
    }
}

#[expect(clippy::cast_precision_loss, reason = "requests of a run are far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

/// The address of a real server.
fn target(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a62_0000 + 1 + number)
}

/// The address of a virtual service.
fn front(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a61_0000 + 1 + service)
}

fn service_id(service: u32) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: IpAddr::V4(front(service)), port: 80 }
}

/// Lets a program check, and looks.
pub(super) fn measure(bench: &Bench, who: Who, plan: Plan) -> Result<Seen> {
    let label = format!("{}-{}-{}", who.name(), plan.targets, plan.interval.as_secs());
    let topology = serde_json::from_value(json!({
        "networks": [{"name": "lan"}],
        "nodes": [
            {
                "name": DIRECTOR,
                "links": [{"network": "lan", "interface": INTERFACE, "addresses": ["10.99.0.1/24"]}],
                "routes": [{"to": "10.98.0.0/16", "via": "10.99.0.2"}],
            },
            {
                "name": SERVERS,
                "links": [{"network": "lan", "interface": INTERFACE, "addresses": ["10.99.0.2/24"]}],
                "exec": [
                    "ip route add local 10.98.0.0/16 dev lo",
                    "nft add table ip lab",
                    "nft add set ip lab dead '{ type ipv4_addr; }'",
                    "nft add chain ip lab in '{ type filter hook input priority 0; }'",
                    "nft add rule ip lab in ip daddr @dead tcp dport 80 reject with tcp reset",
                ],
            },
        ],
    }))?;
    let mut site = Site::with(bench, &label, &topology)?;
    let servers = site.world().node(SERVERS)?;
    servers.write_file(LOG, b"")?;
    let argv =
        ["bascule-lab", "serve", "--name", "web", "--control", "/run/web.sock", "--http", "80", "--log", LOG];
    servers.spawn(&Spawn::new("web", argv))?.wait_for_line("ready", PATIENCE)?;
    bench.say(&format!("{label}: starts"));
    let process = start(&site, who, plan)?;
    await_checked(bench, &mut site, &servers, plan, &process)?;
    // What it does at the start is not what is measured.
    bench.pause(plan.interval * 2)?;
    let mut seen = look(bench, &servers, plan, &process)?;
    bench.say(&format!(
        "{label}: {:.0} checks a second, {:.0} µs of CPU each",
        seen.rate(),
        seen.cpu_per_check() * 1e6
    ));
    for death in 0..plan.deaths {
        seen.noticed.push(notice(bench, &mut site, &servers, plan, death)?);
    }
    if let Some(exit) = process.exit() {
        bail!("{} ended ({exit}); {}", who.name(), site.hint());
    }
    Site::end(&process);
    Ok(seen)
}

/// Starts it, held to the first core.
fn start(site: &Site<'_>, who: Who, plan: Plan) -> Result<Process> {
    let mut argv = vec!["taskset", "-c", "0"];
    match who {
        Who::Bascule => {
            site.node.write_file(format!("{MANIFESTS}/checks.yaml"), manifests(plan))?;
            argv.extend(["bascule-agent", "--manifests", MANIFESTS, "--director", DIRECTOR]);
        }
        Who::Keepalived => {
            site.node.write_file(KEEPALIVED, configuration(plan))?;
            argv.extend(["keepalived", "--check", "--dont-fork", "--log-console", "--use-file", KEEPALIVED]);
        }
    }
    Ok(site.node.spawn(&Spawn::new(who.name(), argv))?)
}

fn manifests(plan: Plan) -> String {
    let mut text = format!(
        "apiVersion: bascule.dev/v1alpha1\nkind: HealthCheck\nmetadata: {{name: page, namespace: bench}}\nspec:\n  \
         interval: {}s\n  timeout: {}s\n  rise: 1\n  fall: {FALL}\n  http: {{path: /, statusCodes: [\"200\"]}}\n",
        plan.interval.as_secs(),
        TIMEOUT.as_secs()
    );
    for service in 0..plan.services() {
        let _ = write!(
            text,
            "---\napiVersion: bascule.dev/v1alpha1\nkind: VirtualService\nmetadata: {{name: web-{service}, namespace: bench}}\n\
             spec:\n  director: {{name: {DIRECTOR}}}\n  addresses: [{}]\n  ports: [{{port: 80, protocol: TCP}}]\n  \
             scheduler: {{name: rr}}\n  forwarding: {{method: Masquerade}}\n  healthChecks: [page]\n  realServers:\n",
            front(service)
        );
        for number in plan.of(service) {
            let _ = writeln!(text, "    - {{name: srv{number}, address: {}}}", target(number));
        }
    }
    text
}

fn configuration(plan: Plan) -> String {
    let (interval, timeout) = (plan.interval.as_secs(), TIMEOUT.as_secs());
    let mut text = String::new();
    for service in 0..plan.services() {
        let _ = writeln!(
            text,
            "virtual_server {} 80 {{\n  delay_loop {interval}\n  lvs_sched rr\n  lvs_method NAT\n  protocol TCP",
            front(service)
        );
        for number in plan.of(service) {
            let _ = writeln!(
                text,
                "  real_server {} 80 {{\n    weight 1\n    HTTP_GET {{\n      url {{\n        path /\n        status_code 200\n      }}\n      \
                 connect_timeout {timeout}\n      retry {}\n      delay_before_retry {interval}\n    }}\n  }}",
                target(number),
                FALL - 1
            );
        }
        text.push_str("}\n");
    }
    text
}

/// Waits until all real servers are in the kernel and each has been asked.
fn await_checked(
    bench: &Bench,
    site: &mut Site<'_>,
    servers: &Node,
    plan: Plan,
    process: &Process,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE + plan.interval * 2;
    loop {
        let mut held = 0;
        for service in 0..plan.services() {
            held += site.table.destinations(&service_id(service))?.len();
        }
        let asked = arrivals(servers, 0, u64::MAX)?.0.len();
        if held >= plan.targets as usize && asked >= plan.targets as usize {
            return Ok(());
        }
        if let Some(exit) = process.exit() {
            bail!("{} ended ({exit}); {}", process.name(), site.hint());
        }
        if Instant::now() > deadline {
            bail!(
                "of {} real servers {held} are in the kernel and {asked} were asked; {}",
                plan.targets,
                site.hint()
            );
        }
        bench.pause(Duration::from_secs(1))?;
    }
}

/// Looks for a while.
fn look(bench: &Bench, servers: &Node, plan: Plan, process: &Process) -> Result<Seen> {
    let offset = std::fs::metadata(servers.host_path(LOG.as_ref())?).context("the web server's log")?.len();
    let (since, before) = (monotonic_ns(), cpu(process));
    bench.pause(plan.look)?;
    let (until, after) = (monotonic_ns(), cpu(process));
    let cpu = Cpu { user: after.user - before.user, system: after.system - before.system };
    let memory = resident(process)?;
    let (arrivals, requests) = arrivals(servers, offset, until)?;
    let lateness = arrivals.values().flat_map(|times| lateness(times, plan.interval)).collect();
    Ok(Seen {
        requests,
        time: Duration::from_nanos(until - since),
        cpu,
        memory,
        lateness,
        noticed: Vec::new(),
    })
}

/// By how much the time from one request to the next exceeded the interval, in ms.
fn lateness(times: &[u64], interval: Duration) -> impl Iterator<Item = f64> {
    times.windows(2).map(move |pair| {
        let took = Duration::from_nanos(pair[1].saturating_sub(pair[0]));
        took.saturating_sub(interval).as_secs_f64() * 1000.0
    })
}

/// What the web server notes of a request.
#[derive(Deserialize)]
struct Arrival {
    t: u64,
    local: String,
}

/// When requests came to each address, from a place in the log on up to a time; and how many there were.
fn arrivals(servers: &Node, offset: u64, until: u64) -> Result<(BTreeMap<String, Vec<u64>>, usize)> {
    use std::io::{BufRead as _, Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(servers.host_path(LOG.as_ref())?).context("the web server's log")?;
    file.seek(SeekFrom::Start(offset))?;
    let mut by: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut requests = 0;
    let mut reader = std::io::BufReader::new(file);
    let mut line = String::new();
    // The last line may be unfinished.
    while (&mut reader).take(LINE as u64).read_line(&mut line)? > 0 && line.ends_with('\n') {
        let arrival: Arrival = serde_json::from_str(&line).context("a line of the web server's log")?;
        if arrival.t < until {
            requests += 1;
            by.entry(arrival.local).or_default().push(arrival.t);
        }
        line.clear();
    }
    Ok((by, requests))
}

/// A real server refuses connections; how long it takes until it is out, in ms. Then it is well again, and back.
fn notice(bench: &Bench, site: &mut Site<'_>, servers: &Node, plan: Plan, death: u32) -> Result<f64> {
    // Another one each time, at another moment of the interval: 7919 is a prime.
    let number = u32::try_from(u64::from(death) * 7919 % u64::from(plan.targets))?;
    bench.pause(plan.interval * (death * 37 % 100) / 100)?;
    let address = target(number);
    let element = format!("{{ {address} }}");
    let set = |verb: &str| -> Result<()> {
        servers.exec(&Exec::new(["nft", verb, "element", "ip", "lab", "dead", &element]))?.checked()?;
        Ok(())
    };
    let begun = Instant::now();
    set("add")?;
    await_presence(bench, site, number, false, begun)?;
    let took = begun.elapsed();
    set("delete")?;
    await_presence(bench, site, number, true, Instant::now())?;
    Ok(took.as_secs_f64() * 1000.0)
}

fn await_presence(
    bench: &Bench,
    site: &mut Site<'_>,
    number: u32,
    there: bool,
    begun: Instant,
) -> Result<()> {
    let (service, address) = (service_id(number / A_SERVICE), IpAddr::V4(target(number)));
    loop {
        let held = site.table.destinations(&service)?;
        if held.iter().any(|entry| entry.destination.id.address == address) == there {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let word = if there { "back in" } else { "out of" };
            bail!("{address} is not {word} the kernel after {} s; {}", PATIENCE.as_secs(), site.hint());
        }
        bench.pause(LOOK)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan =
        Plan { targets: 250, interval: Duration::from_secs(1), look: Duration::from_secs(1), deaths: 0 };

    #[test]
    fn both_sides_are_told_the_same() {
        assert_eq!((PLAN.services(), PLAN.of(0), PLAN.of(1)), (2, 0..200, 200..250));
        let documents = bascule_crds::manifest::parse(&manifests(PLAN)).unwrap();
        assert_eq!(documents.len(), 3);
        assert_eq!(documents[2].value["spec"]["realServers"].as_array().unwrap().len(), 50);
        assert_eq!(documents[2].value["spec"]["realServers"][49]["address"], "10.98.0.250");
        let configuration = configuration(PLAN);
        assert_eq!(configuration.matches("real_server ").count(), 250);
        assert_eq!(configuration.matches("virtual_server ").count(), 2);
        assert_eq!(configuration.matches('{').count(), configuration.matches('}').count());
        assert_eq!(PLAN.detection(), Duration::from_secs(3));
    }

    #[test]
    fn lateness_is_what_exceeds_the_interval() {
        let ms = 1_000_000;
        let late: Vec<f64> = lateness(&[0, 1000 * ms, 2250 * ms, 3000 * ms], PLAN.interval).collect();
        assert_eq!(late.len(), 3);
        assert!(late[0].abs() < 1e-9 && (late[1] - 250.0).abs() < 1e-9 && late[2].abs() < 1e-9);
    }
}
