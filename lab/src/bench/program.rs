//! Programming an empty kernel.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::{Comparison, Peer};
use super::rules::Rules;
use super::site::{KEEPALIVED, RULES, Site};
use super::{Bench, bare, peer};
use crate::world::Spawn;

/// How long `ipvsadm -R` may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Ours may take so much of ipvsadm's time.
const OF_IPVSADM: f64 = 1.0 / 7.0;
/// Ours may take so much of the time of the bare messages.
const OF_BARE: f64 = 1.2;

pub(super) fn run(bench: &Bench) -> Result<Vec<Comparison>> {
    let rules = Rules { services: bench.services, servers: bench.servers, front: 0 };
    let (mut kernel, mut total, mut bare_times) = (Vec::new(), Vec::new(), Vec::new());
    // In turn, so that a machine that is busy for a while is so for both.
    for sample in 1..=bench.samples {
        let (whole, part) = agent(bench, rules, sample)?;
        total.push(whole);
        kernel.push(part);
        let site = Site::new(bench, &format!("bare-{sample}"))?;
        let took = site.node.in_netns(|| bare::send(rules.commands()))??.as_secs_f64();
        bench.say(&format!("bare messages, sample {sample}: {took:.3} s"));
        bare_times.push(took);
    }
    let mut ipvsadm_times = Vec::new();
    let mut keepalived_times = Vec::new();
    for sample in 1..=bench.peer_samples.unwrap_or(1) {
        ipvsadm_times.push(ipvsadm(bench, rules, sample)?);
        keepalived_times.push(keepalived(bench, rules, sample)?);
    }
    let ours = &bench.version;
    let ipvsadm = Peer { samples: ipvsadm_times, name: "ipvsadm -R".into(), ..peer("ipvsadm")? };
    let keepalived = Peer { samples: keepalived_times, ..peer("keepalived")? };
    let bare =
        Peer { name: "bare messages".into(), version: env!("CARGO_PKG_VERSION").into(), samples: bare_times };
    let (services, servers) = (rules.services, rules.servers);
    let size = format!("{services} services of {servers}");
    Ok(vec![
        Comparison::new(format!("{size}, first rule to last, against ipvsadm -R"), "s", ours, &kernel)
            .beside(ipvsadm.clone())
            .at_most(OF_IPVSADM),
        Comparison::new(
            format!("{size}, first rule to last, against a bare send in batches"),
            "s",
            ours,
            &kernel,
        )
        .beside(bare)
        .at_most(OF_BARE),
        Comparison::new(format!("{size}, start to last rule, against ipvsadm -R"), "s", ours, &total)
            .beside(ipvsadm),
        Comparison::new(format!("{size}, start to last rule, against keepalived's start"), "s", ours, &total)
            .beside(keepalived),
    ])
}

/// Seconds from the agent's start to the last rule, and from the first rule to the last.
fn agent(bench: &Bench, rules: Rules, sample: u32) -> Result<(f64, f64)> {
    let mut site = Site::new(bench, &format!("agent-{sample}"))?;
    site.write_manifests(rules)?;
    bench.say(&format!("agent, sample {sample}: starts"));
    let started = Instant::now();
    let process = site.start_agent()?;
    let filled = site.await_rules(rules, &process)?;
    let total = (filled.last - started).as_secs_f64();
    let part = (filled.last - filled.first).as_secs_f64();
    bench.say(&format!("agent, sample {sample}: {total:.3} s, of which first rule to last {part:.3} s"));
    Site::end(&process);
    Ok((total, part))
}

fn ipvsadm(bench: &Bench, rules: Rules, sample: u32) -> Result<f64> {
    let mut site = Site::new(bench, &format!("ipvsadm-{sample}"))?;
    site.node.write_file(RULES, rules.ipvsadm())?;
    bench.say(&format!("ipvsadm -R, sample {sample}: starts"));
    let started = Instant::now();
    let command = format!("exec ipvsadm -R < {RULES}");
    let process = site.node.spawn(&Spawn::new("ipvsadm", ["/bin/sh", "-c", &command]))?;
    let took = (site.await_end(&process, PATIENCE)? - started).as_secs_f64();
    let absent = site.absent(rules)?;
    anyhow::ensure!(absent.is_empty(), "ipvsadm -R left out {} services; {}", absent.len(), site.hint());
    bench.say(&format!("ipvsadm -R, sample {sample}: {took:.3} s"));
    Ok(took)
}

fn keepalived(bench: &Bench, rules: Rules, sample: u32) -> Result<f64> {
    let mut site = Site::new(bench, &format!("keepalived-{sample}"))?;
    site.node.write_file(KEEPALIVED, rules.keepalived(None))?;
    bench.say(&format!("keepalived, sample {sample}: starts"));
    let started = Instant::now();
    let process = site.start_keepalived()?;
    let filled = site.await_rules(rules, &process)?;
    let took = (filled.last - started).as_secs_f64();
    bench.say(&format!("keepalived, sample {sample}: {took:.3} s"));
    Ok(took)
}
