//! How long it takes until what somebody changed by hand is as it should be again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::generations::Generations;
use super::report::Comparison;
use super::rules::{DIRECTOR, FRONT, INTERFACE, Rules};
use super::site::Site;
use super::{Bench, metrics};
use crate::scenario::topology::Topology;
use crate::world::{Event, Exec, Process, Watched, World};

/// What the kernel notifies is back within so many ms.
const NOTIFIED: f64 = 50.0;
/// A flush of IPVS is put right within so many ms.
const FLUSH: f64 = 1000.0;
/// Services whose address is on the interface; also the size of the small set.
const FRONT_SERVICES: u32 = 20;
/// How often the kernel is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How often a setting is read: it costs next to nothing.
const GLANCE: Duration = Duration::from_micros(100);
/// How long repairing may take where the kernel notifies, and for a flush.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to find a single entry.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// Of a flushed table, so many services are looked at until they are back; then all.
const SAMPLES: u32 = 8;
/// Where forwarding is switched.
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// The metric that tells within what time the whole table is looked at.
const PERIOD: &str = "bascule_plane_look_period_seconds{plane=\"ipvs\"}";

pub(super) fn run(bench: &Bench) -> Result<Vec<Comparison>> {
    let small = bench.services.min(FRONT_SERVICES);
    let mut comparisons = set(bench, small, bench.samples)?;
    if bench.services > small {
        // A single entry may take as long as a look at the whole table: few samples.
        comparisons.extend(set(bench, bench.services, bench.samples.min(2))?);
    }
    Ok(comparisons)
}

/// All kinds, in a set of so many services.
fn set(bench: &Bench, services: u32, samples: u32) -> Result<Vec<Comparison>> {
    let rules = Rules { services, servers: bench.servers, front: services.min(FRONT_SERVICES) };
    let topology: Topology = serde_json::from_value(serde_json::json!({
        "networks": [{ "name": "lan" }],
        "nodes": [{
            "name": DIRECTOR,
            "links": [{ "network": "lan", "interface": INTERFACE, "addresses": ["10.99.0.1/24"] }],
            "routes": [{ "to": "default", "via": "10.99.0.2" }],
        }],
    }))?;
    let mut site = Site::with(bench, &format!("drift-{services}"), &topology)?;
    let mut addresses = Addresses::of(site.world())?;
    site.write_manifests(rules)?;
    bench.say(&format!("{services} services: the agent starts"));
    let agent = site.start_agent()?;
    site.await_rules(rules, &agent)?;
    addresses.until(true, bench)?;
    await_forwarding(&site, bench)?;
    let table = await_table(&site, bench)?;
    site.await_rest(&agent)?;

    let mut drift = Drift { bench, site: &mut site, rules, agent: &agent };
    let (mut deleted, mut forwarding, mut flushed, mut removed) = (vec![], vec![], vec![], vec![]);
    let (mut noticed, mut cleared, mut server, mut weight) = (vec![], vec![], vec![], vec![]);
    for sample in 0..samples {
        bench.say(&format!("{services} services: sample {} of {samples}", sample + 1));
        // At another moment of the agent's second each time.
        bench.pause(Duration::from_millis(u64::from(sample * 370 % 1000)))?;
        deleted.push(drift.address(&mut addresses)?);
        forwarding.push(drift.forwarding()?);
        flushed.push(drift.table("flush", &table)?);
        removed.push(drift.table("delete", &table)?);
        bench.pause(Duration::from_millis(u64::from(sample * 230 % 1000)))?;
        let clear = drift.clear()?;
        bench.say(&format!(
            "`ipvsadm -C`: first back after {:.0} ms, all after {:.0} ms",
            clear.first, clear.whole
        ));
        noticed.push(clear.first);
        cleared.push(clear.whole);
        // A repair of much has filled the time; from here on the look goes its way.
        drift.site.await_rest(drift.agent)?;
        bench.pause(Duration::from_millis(u64::from(sample * 410 % 1000)))?;
        let service = sample * 7919 % services;
        server.push(drift.entry(service, &["-d"], &[])?);
        bench.pause(Duration::from_millis(u64::from(sample * 290 % 1000)))?;
        let service = (sample * 7919 + services / 2) % services;
        weight.push(drift.entry(service, &["-e"], &["-m", "-w", "7"])?);
    }
    let period = metrics::read(&drift.site.node, PERIOD)?.map_or(FLUSH, |seconds| seconds * 1000.0);
    Site::end(&agent);

    let version = &bench.version;
    let row = |what: &str, samples: &[f64], limit: f64| {
        Comparison::new(format!("{what}, {services} services"), "ms", version, samples).each_at_most(limit)
    };
    Ok(vec![
        row("address deleted (ip addr del)", &deleted, NOTIFIED),
        row("ip_forward set to 0", &forwarding, NOTIFIED),
        row("our table flushed (nft flush table)", &flushed, NOTIFIED),
        row("our table deleted (nft delete table)", &removed, NOTIFIED),
        row("IPVS cleared (ipvsadm -C), until the first are back", &noticed, FLUSH),
        if services <= FRONT_SERVICES {
            row("IPVS cleared (ipvsadm -C), until all are back", &cleared, FLUSH)
        } else {
            let what = format!("IPVS cleared (ipvsadm -C), until all are back, {services} services");
            Comparison::new(what, "ms", version, &cleared)
        },
        row("one real server deleted (ipvsadm -d)", &server, period),
        row("one weight changed (ipvsadm -e)", &weight, period),
    ])
}

/// In ms: until something was back, until everything was.
struct Repaired {
    first: f64,
    whole: f64,
}

struct Drift<'a, 'b> {
    bench: &'a Bench,
    site: &'a mut Site<'b>,
    rules: Rules,
    agent: &'a Process,
}

impl Drift<'_, '_> {
    fn late(&self, what: &str) -> anyhow::Error {
        let ended = self.agent.exit().map_or_else(String::new, |exit| format!("the agent ended ({exit}); "));
        anyhow::anyhow!("{what} was not put back; {ended}{}", self.site.hint())
    }

    fn address(&self, addresses: &mut Addresses) -> Result<f64> {
        let prefix = format!("{FRONT}/32");
        self.site.node.exec(&Exec::new(["ip", "addr", "del", &prefix, "dev", INTERFACE]))?.checked()?;
        let gone = addresses.until(false, self.bench)?;
        let back =
            addresses.until(true, self.bench).map_err(|error| error.context(self.late("the address")))?;
        Ok(milliseconds(back.saturating_sub(gone)))
    }

    fn forwarding(&self) -> Result<f64> {
        let path = self.site.node.host_path(IP_FORWARD.as_ref())?;
        let took = self.site.node.in_netns(|| -> std::io::Result<Option<Duration>> {
            let begun = Instant::now();
            std::fs::write(&path, "0")?;
            while begun.elapsed() < PATIENCE {
                if std::fs::read(&path)?.starts_with(b"1") {
                    return Ok(Some(begun.elapsed()));
                }
                std::thread::sleep(GLANCE);
            }
            Ok(None)
        })?;
        let took = took.with_context(|| format!("switching {}", path.display()))?;
        Ok(took.ok_or_else(|| self.late("ip_forward"))?.as_secs_f64() * 1000.0)
    }

    /// From the transaction that flushed or deleted the table to the last one that has it as it was.
    fn table(&self, verb: &str, wanted: &str) -> Result<f64> {
        let mut generations = self.site.node.in_netns(Generations::open)??;
        let exec = Exec::new(["nft", verb, "table", "inet", "bascule"]);
        let deadline = Instant::now() + PATIENCE;
        std::thread::scope(|scope| {
            // Beside it: the kernel's messages are to be heard when they come, which may be before nft has ended.
            let command = scope.spawn(|| self.site.node.exec(&exec)?.checked());
            let mut compared = 0;
            while !command.is_finished() || generations.times().len() < 2 {
                if Instant::now() > deadline {
                    return Err(self.late("the nftables table"));
                }
                generations.hear()?;
                self.bench.pause(GLANCE)?;
            }
            match command.join() {
                Ok(result) => result?,
                Err(_) => bail!("running `nft {verb} table inet bascule` failed"),
            };
            loop {
                generations.hear()?;
                let times = generations.times();
                if times.len() > compared {
                    compared = times.len();
                    if let [begun, .., ended] = times[..]
                        && listing(self.site)? == wanted
                    {
                        return Ok((ended - begun).as_secs_f64() * 1000.0);
                    }
                }
                if Instant::now() > deadline {
                    return Err(self.late("the nftables table"));
                }
                self.bench.pause(LOOK)?;
            }
        })
    }

    /// Until the first services are back, and until all are. A large set takes its time: the kernel goes through what was removed for
    /// each real server that is added, for two minutes.
    fn clear(&mut self) -> Result<Repaired> {
        let services = self.rules.services;
        let step = (services / SAMPLES).max(1) as usize;
        let mut looked: Vec<u32> = (0..services).step_by(step).collect();
        looked.push(services - 1);
        let took = self.ipvs(&["ipvsadm", "-C"], &looked, LONG_PATIENCE)?;
        let absent = self.site.absent(self.rules)?;
        if !absent.is_empty() {
            bail!("{} services were not put back with the others; {}", absent.len(), self.site.hint());
        }
        Ok(took)
    }

    /// One real server, with `ipvsadm BEFORE -t … -r … AFTER`.
    fn entry(&mut self, service: u32, before: &[&str], after: &[&str]) -> Result<f64> {
        let bascule_ipvs::ServiceId::Address { address, port, .. } = self.rules.service(service) else {
            bail!("the services of this benchmark have addresses");
        };
        let server = self.rules.destinations(service).last().context("a service has real servers")?;
        let (virtual_server, server) = (format!("{address}:{port}"), server.to_string());
        let mut argv = vec!["ipvsadm"];
        argv.extend(before);
        argv.extend(["-t", &virtual_server, "-r", &server]);
        argv.extend(after);
        let took = self.ipvs(&argv, &[service], LONG_PATIENCE)?.whole;
        if self.rules.services > FRONT_SERVICES {
            self.bench.say(&format!("`{}` was put back after {:.1} s", argv.join(" "), took / 1000.0));
        }
        Ok(took)
    }

    /// Runs a command that changes some of these services, and waits until all are as they were. From the last look that found them
    /// so to the first that did again.
    fn ipvs(&mut self, argv: &[&str], services: &[u32], patience: Duration) -> Result<Repaired> {
        let node = self.site.node.clone();
        let exec = Exec::new(argv.iter().copied());
        std::thread::scope(|scope| {
            let begun = Instant::now();
            let command = scope.spawn(move || node.exec(&exec)?.checked());
            let mut whole_at = begun;
            let mut seen_broken = false;
            let mut first_back = None;
            loop {
                let ended = command.is_finished();
                let look = Instant::now();
                let mut whole = 0;
                for service in services {
                    whole += usize::from(self.site.whole(self.rules, *service)?);
                }
                if seen_broken && whole > 0 && first_back.is_none() {
                    first_back = Some(Instant::now());
                }
                if whole < services.len() {
                    // A flush is whole: until none is left, what is there has not gone yet.
                    seen_broken |= whole == 0;
                } else if seen_broken || ended {
                    // Never seen broken: it was put back between two looks.
                    let back = Instant::now();
                    match command.join() {
                        Ok(result) => result?,
                        Err(_) => bail!("running `{}` failed", argv.join(" ")),
                    };
                    let since = |at: Instant| (at - whole_at).as_secs_f64() * 1000.0;
                    return Ok(Repaired { first: since(first_back.unwrap_or(back)), whole: since(back) });
                } else {
                    whole_at = look;
                }
                if begun.elapsed() > patience {
                    return Err(self.late("IPVS"));
                }
                self.bench.pause(LOOK)?;
            }
        })
    }
}

fn milliseconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1000.0
}

/// Waits until the agent has switched forwarding on.
fn await_forwarding(site: &Site<'_>, bench: &Bench) -> Result<()> {
    let path = site.node.host_path(IP_FORWARD.as_ref())?;
    let deadline = Instant::now() + PATIENCE;
    while !site.node.in_netns(|| std::fs::read(&path))??.starts_with(b"1") {
        if Instant::now() > deadline {
            bail!("the agent has not switched ip_forward on; {}", site.hint());
        }
        bench.pause(LOOK)?;
    }
    Ok(())
}

/// Waits for our table; as `nft` lists it.
fn await_table(site: &Site<'_>, bench: &Bench) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = listing(site)?;
        if text.contains(&FRONT.to_string()) {
            return Ok(text);
        }
        if Instant::now() > deadline {
            bail!("the agent has not made its nftables table; {}", site.hint());
        }
        bench.pause(Duration::from_millis(50))?;
    }
}

/// Our table as text; empty when it is not there.
fn listing(site: &Site<'_>) -> Result<String> {
    let output = site.node.exec(&Exec::new(["nft", "list", "table", "inet", "bascule"]))?;
    Ok(if output.success() { output.text() } else { String::new() })
}

/// When the address of the services came and went.
struct Addresses(Receiver<Watched>);

impl Addresses {
    fn of(world: &World) -> Result<Self> {
        Ok(Self(world.watch().context("the watch is taken already")?))
    }

    /// Waits until it is added, or removed; the kernel's message was read at this time (CLOCK_MONOTONIC, nanoseconds).
    fn until(&mut self, added: bool, bench: &Bench) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_recv() {
                Ok(Watched { at, event, .. }) => match event {
                    Event::AddressAdded { address, .. } if added && address == IpAddr::V4(FRONT) => {
                        return Ok(at);
                    }
                    Event::AddressRemoved { address, .. } if !added && address == IpAddr::V4(FRONT) => {
                        return Ok(at);
                    }
                    _ => {}
                },
                Err(TryRecvError::Disconnected) => bail!("the watch over addresses has ended"),
                Err(TryRecvError::Empty) => {
                    if Instant::now() > deadline {
                        bail!("{FRONT} was not {}", if added { "added" } else { "removed" });
                    }
                    bench.pause(LOOK)?;
                }
            }
        }
    }
}
