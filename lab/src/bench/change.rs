//! One weight changed among many, and what it costs to stand by.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bascule_ipvs::DestinationId;
use nix::sys::signal::Signal;

use super::report::{Comparison, Peer, percentile};
use super::rules::Rules;
use super::site::{KEEPALIVED, Site};
use super::{Bench, peer};

/// Our p99 may be so much of keepalived's reload.
const OF_RELOAD: f64 = 1.0 / 500.0;
/// MB of memory at rest.
const MEMORY: f64 = 200.0;
/// Percent of a core at rest.
const CPU: f64 = 2.0;
/// How long one change may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the kernel is asked whether it has our change.
const LOOK: Duration = Duration::from_micros(500);
/// The same for a peer that takes seconds.
const PEER_LOOK: Duration = Duration::from_millis(2);
/// Times that keepalived reloads.
const RELOADS: u32 = 3;

struct Measured {
    changes: Vec<f64>,
    percent: f64,
    memory: f64,
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Comparison>> {
    let rules = Rules { services: bench.services, servers: bench.servers, front: 0 };
    let ours = agent(bench, rules)?;
    let theirs = keepalived_reloads(bench, rules)?;
    let version = &bench.version;
    let keepalived = peer("keepalived")?;
    let reload = Peer { samples: theirs.changes, ..keepalived.clone() };
    let services = rules.services;
    let p99 = percentile(&ours.changes, 99);
    Ok(vec![
        Comparison::new(
            format!("a weight among {services} services, from the manifest's rename to the kernel, against a reload"),
            "ms",
            version,
            &ours.changes,
        )
        .beside(reload.clone()),
        Comparison::new(format!("the same, 99th percentile of {} changes", ours.changes.len()), "ms", version, &[p99])
            .beside(reload)
            .at_most(OF_RELOAD),
        Comparison::new(format!("memory at rest with {services} services (VmRSS)"), "MB", version, &[ours.memory])
            .at_most(MEMORY),
        Comparison::new("the same, beside keepalived", "MB", version, &[ours.memory])
            .beside(Peer { samples: vec![theirs.memory], ..keepalived.clone() }),
        Comparison::new(format!("CPU at rest with {services} services"), "% of a core", version, &[ours.percent])
            .at_most(CPU),
        Comparison::new("the same, beside keepalived", "% of a core", version, &[ours.percent])
            .beside(Peer { samples: vec![theirs.percent], ..keepalived }),
    ])
}

fn agent(bench: &Bench, rules: Rules) -> Result<Measured> {
    let mut site = Site::new(bench, "agent")?;
    let folder = site.write_manifests(rules)?;
    bench.say("agent: starts");
    let process = site.start_agent()?;
    site.await_rules(rules, &process)?;
    site.await_rest(&process)?;
    bench.say(&format!("agent: at rest for {} s", bench.rest.as_secs()));
    let (percent, memory) = site.at_rest(&process, bench.rest)?;
    bench.say(&format!("agent: {percent:.2} % of a core, {memory:.0} MB"));

    let temporary = folder.join(".change");
    let mut changes = Vec::new();
    for change in 0..bench.changes {
        // Each time another one, here and there: 7919 is a prime.
        let service = u32::try_from(u64::from(change) * 7919 % u64::from(rules.services))?;
        let weight = 2 + change;
        let id = rules.destinations(service).next().context("a service has real servers")?;
        std::fs::write(&temporary, rules.manifest(service, weight)).context("writing a manifest")?;
        let begun = Instant::now();
        std::fs::rename(&temporary, folder.join(Rules::file(service))).context("renaming a manifest")?;
        let held = await_weight(bench, &mut site, (rules, service, id), weight, LOOK)?;
        changes.push((held - begun).as_secs_f64() * 1000.0);
        if (change + 1) % 50 == 0 {
            bench.say(&format!("agent: {} of {} changes", change + 1, bench.changes));
        }
        // Not in step with anything that the agent does every second.
        bench.pause(Duration::from_millis(60 + u64::from(change * 37 % 83)))?;
    }
    Site::end(&process);
    Ok(Measured { changes, percent, memory })
}

/// Waits until a real server has a weight; when it was seen.
fn await_weight(
    bench: &Bench,
    site: &mut Site<'_>,
    (rules, service, server): (Rules, u32, DestinationId),
    weight: u32,
    look: Duration,
) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    let id = rules.service(service);
    loop {
        let held = site.table.destinations(&id)?;
        if held.iter().any(|entry| entry.destination.id == server && entry.destination.weight == weight) {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            bail!(
                "{server} of {id} did not have weight {weight} after {} s; {}",
                PATIENCE.as_secs(),
                site.hint()
            );
        }
        bench.pause(look)?;
    }
}

fn keepalived_reloads(bench: &Bench, rules: Rules) -> Result<Measured> {
    let mut site = Site::new(bench, "keepalived")?;
    site.node.write_file(KEEPALIVED, rules.keepalived(None))?;
    bench.say("keepalived: starts");
    let process = site.start_keepalived()?;
    site.await_rules(rules, &process)?;
    site.await_rest(&process)?;
    bench.say(&format!("keepalived: at rest for {} s", bench.rest.as_secs()));
    let (percent, memory) = site.at_rest(&process, bench.rest)?;
    bench.say(&format!("keepalived: {percent:.2} % of a core, {memory:.0} MB"));
    let service = rules.services / 2;
    let id = rules.destinations(service).next().context("a service has real servers")?;
    let mut changes = Vec::new();
    for reload in 0..bench.peer_samples.unwrap_or(RELOADS) {
        let weight = 2 + reload;
        site.node.write_file(KEEPALIVED, rules.keepalived(Some((service, weight))))?;
        let begun = Instant::now();
        process.signal(Signal::SIGHUP)?;
        let held = await_weight(bench, &mut site, (rules, service, id), weight, PEER_LOOK)?;
        let took = (held - begun).as_secs_f64();
        bench.say(&format!("keepalived, reload {}: {took:.3} s", reload + 1));
        changes.push(took * 1000.0);
        site.await_rest(&process)?;
    }
    Ok(Measured { changes, percent, memory })
}
