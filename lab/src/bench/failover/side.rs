//! Two pairs of directors: ours and keepalived's, each with a client.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::json;

use super::super::Bench;
use super::super::site::{KEEPALIVED, MANIFESTS};
use super::sample::{Sample, answered_last};
use super::{Event, PROBE};
use crate::expect::holders::History;
use crate::fault;
use crate::programs::record::Request;
use crate::run::Lines;
use crate::scenario::Fault;
use crate::scenario::topology::Topology;
use crate::world::{Exec, Exit, Process, Spawn, World, WorldDir, now};

/// The address that clients ask.
const FRONT: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 16, 193, 30));
/// How long a takeover, a return, a start may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// A ping that is not answered by then is lost; by then all are known.
const TIMEOUT: Duration = Duration::from_millis(500);
/// So many pings in a row have to be answered before and after an event.
const QUIET: usize = 30;
/// Before an event nothing is missing for this long, and what is measured begins there.
const BEFORE: Duration = Duration::from_millis(100);
/// Priorities of the first and of the second director, and of the first while it gives way.
const PRIORITIES: [u8; 2] = [200, 100];
const LOWERED: u8 = 50;
const GROUP: &str = "front";

/// The networks of both sides.
pub(super) struct Site<'a> {
    bench: &'a Bench,
    world: World,
    history: Arc<Mutex<History>>,
    interval: Duration,
    peer_only: bool,
    logs: std::path::PathBuf,
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.world.tear_down() {
            self.bench.say(&format!("{error}; the lab's next start tries again"));
        }
    }
}

fn names(peer_only: bool) -> &'static [&'static str] {
    if peer_only { &["keepalived"] } else { &["bascule", "keepalived"] }
}

fn topology(peer_only: bool) -> Result<Topology> {
    let (mut networks, mut nodes) = (Vec::new(), Vec::new());
    for side in names(peer_only) {
        let (outside, inside) = (format!("{side}-outside"), format!("{side}-inside"));
        networks.extend([json!({"name": outside}), json!({"name": inside})]);
        for number in 1..=2 {
            nodes.push(json!({
                "name": format!("{side}{number}"),
                "links": [
                    {"network": outside, "interface": "enp0s3", "addresses": [format!("192.16.193.{number}/24")]},
                    {"network": inside, "interface": "enp0s8", "addresses": [format!("172.16.193.{number}/16")]},
                ],
            }));
        }
        nodes.push(json!({
            "name": format!("{side}-client"),
            "links": [{"network": outside, "interface": "enp0s3", "addresses": ["192.16.193.100/24"]}],
        }));
    }
    Ok(serde_json::from_value(json!({"networks": networks, "nodes": nodes}))?)
}

impl<'a> Site<'a> {
    /// Builds them; nothing runs yet.
    pub(super) fn build(bench: &'a Bench, interval: Duration, peer_only: bool) -> Result<Self> {
        bench.check()?;
        let label = format!("{}ms", interval.as_millis());
        let logs = bench.folder.join("logs").join(&label);
        let programs = bench.agent.iter().map(|path| ("bascule-agent".to_owned(), path.clone())).collect();
        let dir = WorldDir {
            label: format!("bench {} {label}", bench.name),
            logs: logs.clone(),
            program: bench.program.clone(),
            programs,
            cancel: bench.cancel.clone(),
        };
        let world = World::build(&topology(peer_only)?, &dir, &|_| {})?;
        let history: Arc<Mutex<History>> = Arc::default();
        let mut events = world.watch().context("the watch is taken already")?;
        let taken = Arc::clone(&history);
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            // It ends with the world.
            while let Some(watched) = events.blocking_recv() {
                taken.lock().unwrap_or_else(PoisonError::into_inner).put(&watched);
            }
        })?;
        Ok(Self { bench, world, history, interval, peer_only, logs })
    }

    /// Starts the directors and the pings of each side.
    pub(super) fn sides(&self) -> Result<Vec<Side<'_>>> {
        names(self.peer_only).iter().map(|name| Side::start(self, name)).collect()
    }
}

/// Two directors of one kind and their client.
pub(super) struct Side<'a> {
    site: &'a Site<'a>,
    name: &'static str,
    lines: Lines,
    client: Process,
    /// The event from which it has still to come back.
    broken: Option<Event>,
}

impl<'a> Side<'a> {
    fn start(site: &'a Site<'a>, name: &'static str) -> Result<Self> {
        let client = format!("{name}-client");
        let node = site.world.node(&client)?;
        node.write_file(Self::record(), b"")?;
        let rate = (1.0 / PROBE.as_secs_f64()).to_string();
        let timeout = format!("{}ms", TIMEOUT.as_millis());
        let front = FRONT.to_string();
        let argv = ["bascule-lab", "load", "--name", "pings", "--protocol", "ping", "--target", &front]
            .into_iter()
            .chain(["--rate", &rate, "--timeout", &timeout, "--out", Self::record()]);
        let client = node.spawn(&Spawn::new("pings", argv))?;
        client.wait_for_line("ready", PATIENCE)?;
        let side = Self { site, name, lines: Lines::default(), client, broken: None };
        for (number, priority) in PRIORITIES.into_iter().enumerate() {
            side.configure(number, priority)?;
        }
        // The first one is active from the start.
        for number in 0..2 {
            side.run(number)?;
        }
        Ok(side)
    }

    /// Where the client's record is.
    fn record() -> &'static str {
        "/var/log/bascule-lab/pings.jsonl"
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn is_ours(&self) -> bool {
        self.name == "bascule"
    }

    fn node(&self, number: usize) -> String {
        format!("{}{}", self.name, number + 1)
    }

    /// Writes what a director's program reads at its start.
    fn configure(&self, number: usize, priority: u8) -> Result<()> {
        let node = self.site.world.node(&self.node(number))?;
        if self.is_ours() {
            node.write_file(format!("{MANIFESTS}/{GROUP}.yaml"), manifest(self.site.interval))?;
        } else {
            node.write_file(KEEPALIVED, keepalived(self.site.interval, number, priority))?;
        }
        Ok(())
    }

    fn run(&self, number: usize) -> Result<Process> {
        let node = self.node(number);
        let argv: Vec<&str> = if self.is_ours() {
            vec!["bascule-agent", "--manifests", MANIFESTS, "--director", &node]
        } else {
            vec!["keepalived", "--vrrp", "--dont-fork", "--log-console", "--use-file", KEEPALIVED]
        };
        Ok(self.site.world.node(&node)?.spawn(&Spawn::new(self.name, argv))?)
    }

    fn program(&self, number: usize) -> Result<Process> {
        let node = self.site.world.node(&self.node(number))?;
        let process = node.process(self.name).context("it was never started")?;
        if let Some(exit) = process.exit() {
            bail!("{} on {} ended ({exit}); see {}", self.name, node.name(), self.site.logs.display());
        }
        Ok(process)
    }

    /// Which of the two have the address.
    fn holders(&self) -> [bool; 2] {
        let history = self.site.history.lock().unwrap_or_else(PoisonError::into_inner);
        let holders = history.holders(FRONT);
        [0, 1].map(|number| holders.contains(self.node(number).as_str()))
    }

    /// The pings that have ended since the beginning.
    fn requests(&mut self) -> Result<&[Request]> {
        if let Some(exit) = self.client.exit() {
            bail!("the pings of {} ended ({exit}); see {}", self.name, self.site.logs.display());
        }
        let file = self.site.world.node(&format!("{}-client", self.name))?.open_file(Self::record())?;
        self.lines.read_on(file, true).context("reading the pings")?;
        Ok(&self.lines.requests)
    }

    /// Waits until the first director has the address alone, and is answered.
    pub(super) fn await_ready(&mut self) -> Result<()> {
        if let Some(event) = self.broken.take() {
            self.mend(event)?;
        }
        self.await_holder(0)?;
        // The peer has to know it too: it hears two advertisements.
        self.site.bench.pause(self.site.interval * 2)?;
        // What belongs to earlier events is not needed any more.
        let requests = &mut self.lines.requests;
        let old = requests.len().saturating_sub(2000);
        requests.drain(..old);
        Ok(())
    }

    fn await_holder(&mut self, number: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let wanted = [number == 0, number == 1];
        loop {
            if self.holders() == wanted && answered_last(self.requests()?) >= QUIET {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{FRONT} is not on {} alone and answered after {} s (first director: {}, second: {}); see {}",
                    self.node(number),
                    PATIENCE.as_secs(),
                    self.holders()[0],
                    self.holders()[1],
                    self.site.logs.display()
                );
            }
            self.site.bench.pause(LOOK)?;
        }
    }

    /// Plays an event and measures.
    pub(super) fn play(&mut self, event: Event) -> Result<Sample> {
        self.program(0)?;
        let since = now();
        self.broken = Some(event);
        match event {
            Event::Crash | Event::LinkLoss => {
                fault::inject(&self.site.world, &self.fault(event)?)?;
            }
            Event::Stop => self.program(0)?.signal(Signal::SIGTERM)?,
            Event::Planned => self.give_away(0)?,
        }
        self.await_holder(1)?;
        // Whatever was sent in the gap has been given up by then.
        self.site.bench.pause(TIMEOUT + PROBE * 2)?;
        let since = since.saturating_sub(u64::try_from(BEFORE.as_nanos()).unwrap_or(0));
        let until = now().saturating_sub(u64::try_from(TIMEOUT.as_nanos()).unwrap_or(0));
        Sample::of(self.requests()?, since, until).context("no ping was answered")
    }

    fn fault(&self, event: Event) -> Result<Fault> {
        let node = self.node(0);
        Ok(serde_json::from_value(match event {
            Event::LinkLoss => json!({"carrierLost": {"node": node, "interface": "enp0s3"}}),
            _ => json!({"crash": {"node": node}}),
        })?)
    }

    /// Gives the address away on purpose.
    fn give_away(&self, number: usize) -> Result<()> {
        if !self.is_ours() {
            self.configure(0, if number == 0 { LOWERED } else { PRIORITIES[0] })?;
            return Ok(self.program(0)?.signal(Signal::SIGHUP)?);
        }
        let node = self.site.world.node(&self.node(number))?;
        let switch = Exec::new(["bascule-agent", "switchover", GROUP]).timeout(PATIENCE);
        node.exec(&switch)?.checked()?;
        Ok(())
    }

    /// Brings the first director back; it takes the address again.
    fn mend(&self, event: Event) -> Result<()> {
        match event {
            Event::Crash => {
                fault::heal(&self.site.world, &self.fault(event)?)?;
                self.run(0)?;
            }
            Event::LinkLoss => {
                fault::heal(&self.site.world, &self.fault(event)?)?;
            }
            Event::Stop => {
                let process = self.site.world.node(&self.node(0))?.process(self.name);
                match process.context("it was never started")?.wait(PATIENCE) {
                    Some(Exit::Code(0) | Exit::Signal(_)) => {}
                    Some(exit) => self.site.bench.say(&format!("{} ended with {exit}", self.node(0))),
                    None => bail!("{} has not ended after SIGTERM", self.node(0)),
                }
                self.run(0)?;
            }
            Event::Planned => self.give_away(1)?,
        }
        Ok(())
    }
}

/// keepalived's configuration.
fn keepalived(interval: Duration, number: usize, priority: u8) -> String {
    let seconds = interval.as_secs_f64();
    let instance = |name: &str, interface: &str, id: u8, address: &str| {
        format!(
            "vrrp_instance {name} {{\n  state BACKUP\n  interface {interface}\n  virtual_router_id {id}\n  \
             priority {priority}\n  advert_int {seconds}\n  virtual_ipaddress {{\n    {address} dev {interface}\n  }}\n}}\n"
        )
    };
    format!(
        "global_defs {{\n  router_id dir{}\n  vrrp_version 3\n}}\nvrrp_sync_group {GROUP} {{\n  group {{\n    outside\n    \
         inside\n  }}\n}}\n{}{}",
        number + 1,
        instance("outside", "enp0s3", 30, "192.16.193.30/32"),
        instance("inside", "enp0s8", 31, "172.16.193.253/16"),
    )
}

/// The same for ours.
fn manifest(interval: Duration) -> String {
    format!(
        "apiVersion: bascule.dev/v1alpha1\nkind: VrrpGroup\nmetadata: {{name: {GROUP}}}\nspec:\n  members:\n  \
         - {{director: bascule1, priority: {}}}\n  - {{director: bascule2, priority: {}}}\n  \
         advertisementInterval: {}ms\n  instances:\n  \
         - {{name: outside, interface: enp0s3, virtualRouterId: 30, addresses: [192.16.193.30/32]}}\n  \
         - {{name: inside, interface: enp0s8, virtualRouterId: 31, addresses: [172.16.193.253/16]}}\n",
        PRIORITIES[0],
        PRIORITIES[1],
        interval.as_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_the_same_network() {
        let both = topology(false).unwrap();
        assert_eq!((both.networks.len(), both.nodes.len()), (4, 6));
        let shape = |side: &str| {
            let of = both.nodes.iter().filter(|node| node.name.starts_with(side));
            of.flat_map(|node| node.links.iter().map(|link| (link.interface.clone(), link.addresses.clone())))
                .collect::<Vec<_>>()
        };
        assert_eq!(shape("bascule"), shape("keepalived"));
        assert_eq!(topology(true).unwrap().nodes.len(), 3);
    }

    #[test]
    fn configurations() {
        insta::assert_snapshot!("keepalived", keepalived(Duration::from_millis(100), 0, 200));
        let text = manifest(Duration::from_millis(100));
        let documents = bascule_crds::manifest::parse(&text).unwrap();
        assert_eq!(documents[0].value["spec"]["advertisementInterval"], "100ms");
        insta::assert_snapshot!("manifest", text);
    }
}
