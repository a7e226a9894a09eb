//! Very many virtual routers on one network: does anything change that should not, and how late are advertisements.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::json;

use super::report::{Comparison, Peer, percentile};
use super::site::{KEEPALIVED, MANIFESTS};
use super::{Bench, BenchArgs, peer};
use crate::expect::holders::History;
use crate::programs::pcapng::{self, Block};
use crate::scenario::topology::Topology;
use crate::world::{Process, Spawn, World, WorldDir};

/// From one advertisement to the next.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long it takes at most until all addresses are where they should be.
const PATIENCE: Duration = Duration::from_secs(300);
/// Nothing is measured just after that.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a recording may take to begin and to end.
const RECORDING: Duration = Duration::from_secs(60);
/// Where the frames are recorded.
const RECORD: &str = "/var/log/bascule-lab/lan.pcapng";
const INTERFACE: &str = "enp0s3";
const OBSERVER: &str = "observer";

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ScaleArgs {
    /// Virtual routers on one network (vrrp-scale).
    #[arg(long, value_name = "N", default_value_t = 255, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(super) groups: u32,
    /// As many of them has one pair of directors (vrrp-scale).
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(super) groups_per_director: u32,
    /// Seconds that are looked at (vrrp-scale).
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) time: u64,
}

impl ScaleArgs {
    /// The same as a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let (groups, per, time) = (self.groups, self.groups_per_director, self.time);
        [
            "--groups",
            &groups.to_string(),
            "--groups-per-director",
            &per.to_string(),
            "--time",
            &time.to_string(),
        ]
        .map(str::to_owned)
        .into()
    }
}

/// What was seen on the network.
struct Seen {
    /// How often a virtual router spoke that had not spoken before, or somebody gave one up.
    transitions: u32,
    /// Of each virtual router: by how much, at worst, an advertisement was off its time, in milliseconds.
    worst: Vec<f64>,
    /// By how much each one was.
    all: Vec<f64>,
}

pub(super) fn run(bench: &Bench, args: &BenchArgs) -> Result<Vec<Comparison>> {
    let scale = &args.scale;
    let theirs = side(bench, scale, "keepalived")?;
    let ours = if args.failover.peer_only { None } else { Some(side(bench, scale, "bascule")?) };
    let what = format!("{} groups at {} ms, {} s", scale.groups, INTERVAL.as_millis(), scale.time);
    let row = |name: &str, unit: &'static str, of: &dyn Fn(&Seen) -> Vec<f64>| -> Result<Comparison> {
        let peer = Peer { samples: of(&theirs), ..peer("keepalived")? };
        let samples = ours.as_ref().map(of).unwrap_or_default();
        Ok(Comparison::new(format!("{what}: {name}"), unit, &bench.version, &samples).beside(peer))
    };
    let transitions = row("transitions", "transitions", &|seen| vec![f64::from(seen.transitions)])?;
    Ok(vec![
        if ours.is_some() { transitions.each_at_most(0.0) } else { transitions },
        row("lateness of advertisements, worst of each group", "ms", &|seen| seen.worst.clone())?,
        row("lateness of advertisements, p99 of all", "ms", &|seen| vec![percentile(&seen.all, 99)])?,
    ])
}

/// The pair that has a group.
fn pair(scale: &ScaleArgs, group: u32) -> u32 {
    group / scale.groups_per_director
}

fn pairs(scale: &ScaleArgs) -> u32 {
    scale.groups.div_ceil(scale.groups_per_director)
}

/// The address of a group.
fn address(group: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 0, u8::try_from(group + 1).unwrap_or(u8::MAX))
}

fn director(pair: u32, number: u32) -> String {
    format!("dir{}-{number}", pair + 1)
}

fn topology(scale: &ScaleArgs) -> Result<Topology> {
    let mut nodes = vec![json!({
        "name": OBSERVER,
        "links": [{"network": "lan", "interface": INTERFACE, "addresses": ["10.99.255.1/16"]}],
    })];
    for pair in 0..pairs(scale) {
        for number in 1..=2 {
            nodes.push(json!({
                "name": director(pair, number),
                "links": [{"network": "lan", "interface": INTERFACE, "addresses": [format!("10.99.{pair}.{number}/16")]}],
            }));
        }
    }
    Ok(serde_json::from_value(json!({"networks": [{"name": "lan"}], "nodes": nodes}))?)
}

/// One kind of director for the given time.
fn side(bench: &Bench, scale: &ScaleArgs, name: &'static str) -> Result<Seen> {
    bench.check()?;
    bench.say(&format!("{name}: {} directors are built", pairs(scale) * 2));
    let logs = bench.folder.join("logs").join(name);
    let dir = WorldDir {
        label: format!("bench {} {name}", bench.name),
        logs: logs.clone(),
        program: bench.program.clone(),
        programs: bench.agent.iter().map(|path| ("bascule-agent".to_owned(), path.clone())).collect(),
        cancel: bench.cancel.clone(),
    };
    let world = World::build(&topology(scale)?, &dir, &|_| {})?;
    let history: Arc<Mutex<History>> = Arc::default();
    let mut events = world.watch().context("the watch is taken already")?;
    let taken = Arc::clone(&history);
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        // It ends with the world.
        while let Some(watched) = events.blocking_recv() {
            taken.lock().unwrap_or_else(PoisonError::into_inner).put(&watched);
        }
    })?;
    let mut programs = Vec::new();
    for pair in 0..pairs(scale) {
        for number in 1..=2 {
            programs.push(start(&world, scale, name, pair, number)?);
        }
    }
    let held = || {
        let history = history.lock().unwrap_or_else(PoisonError::into_inner);
        (0..scale.groups)
            .filter(|group| {
                let holders = history.holders(IpAddr::V4(address(*group)));
                holders.iter().copied().eq([director(pair(scale, *group), 1).as_str()])
            })
            .count()
    };
    let deadline = Instant::now() + PATIENCE;
    while held() < scale.groups as usize {
        if Instant::now() > deadline {
            bail!(
                "{name}: {} of {} groups have a director after {} s; see {}",
                held(),
                scale.groups,
                PATIENCE.as_secs(),
                logs.display()
            );
        }
        alive(&programs, &logs)?;
        bench.pause(Duration::from_millis(200))?;
    }
    bench.pause(SETTLE)?;
    bench.say(&format!("{name}: all {} groups have a director; {} s are recorded", scale.groups, scale.time));
    let seen = record(bench, &world, scale)?;
    alive(&programs, &logs)?;
    bench.say(&format!(
        "{name}: {} transitions, p99 of the lateness {:.2} ms",
        seen.transitions,
        percentile(&seen.all, 99)
    ));
    world.tear_down()?;
    Ok(seen)
}

fn alive(programs: &[Process], logs: &std::path::Path) -> Result<()> {
    match programs.iter().find_map(|program| program.exit()) {
        Some(exit) => bail!("a director's program ended ({exit}); see {}", logs.display()),
        None => Ok(()),
    }
}

fn start(world: &World, scale: &ScaleArgs, name: &str, of: u32, number: u32) -> Result<Process> {
    let groups = (0..scale.groups).filter(|group| pair(scale, *group) == of);
    let node = world.node(&director(of, number))?;
    let spawn = if name == "bascule" {
        let text: Vec<String> = groups.map(|group| manifest(of, group)).collect();
        node.write_file(format!("{MANIFESTS}/groups.yaml"), text.join("---\n"))?;
        let argv = ["bascule-agent", "--manifests", MANIFESTS, "--director", node.name()];
        Spawn::new(name, argv)
    } else {
        let text: String = groups.map(|group| instance(group, number)).collect();
        node.write_file(KEEPALIVED, format!("global_defs {{\n  vrrp_version 3\n}}\n{text}"))?;
        let argv = ["keepalived", "--vrrp", "--dont-fork", "--log-console", "--use-file", KEEPALIVED];
        Spawn::new(name, argv)
    };
    Ok(node.spawn(&spawn)?)
}

fn priority(number: u32) -> u32 {
    if number == 1 { 200 } else { 100 }
}

fn manifest(pair: u32, group: u32) -> String {
    format!(
        "apiVersion: bascule.dev/v1alpha1\nkind: VrrpGroup\nmetadata: {{name: group{group}}}\nspec:\n  members:\n  \
         - {{director: {}, priority: {}}}\n  - {{director: {}, priority: {}}}\n  advertisementInterval: {}ms\n  instances:\n  \
         - {{name: lan, interface: {INTERFACE}, virtualRouterId: {}, addresses: [{}/32]}}\n",
        director(pair, 1),
        priority(1),
        director(pair, 2),
        priority(2),
        INTERVAL.as_millis(),
        group + 1,
        address(group)
    )
}

fn instance(group: u32, number: u32) -> String {
    format!(
        "vrrp_instance group{group} {{\n  state BACKUP\n  interface {INTERFACE}\n  virtual_router_id {}\n  priority {}\n  \
         advert_int {}\n  virtual_ipaddress {{\n    {}/32\n  }}\n}}\n",
        group + 1,
        priority(number),
        INTERVAL.as_secs_f64(),
        address(group)
    )
}

/// Records the network for the time that was asked for.
fn record(bench: &Bench, world: &World, scale: &ScaleArgs) -> Result<Seen> {
    let observer = world.node(OBSERVER)?;
    observer.write_file(RECORD, b"")?;
    let argv = ["bascule-lab", "capture-link", "--interface", INTERFACE, "--label", "lan", "--out", RECORD];
    let capture = observer.spawn(&Spawn::new("capture", argv))?;
    capture.wait_for_line("ready", RECORDING)?;
    bench.pause(Duration::from_secs(scale.time))?;
    capture.signal(Signal::SIGTERM)?;
    capture.wait(RECORDING).context("the recording does not end")?;
    let blocks = pcapng::read(observer.read_file(RECORD)?.as_slice()).context("reading what was recorded")?;
    let mut heard = Vec::new();
    for block in &blocks {
        match block {
            Block::Packet(packet) => heard.extend(advertisement(packet.time_ns, &packet.data)),
            Block::Statistics { dropped, .. } if *dropped > 0 => {
                bail!("{dropped} frames were lost to the recording");
            }
            _ => {}
        }
    }
    seen(&heard, scale.groups)
}

/// An advertisement on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Advertisement {
    at: u64,
    source: Ipv4Addr,
    virtual_router_id: u8,
    priority: u8,
}

/// Reads one from a frame, if it is one.
fn advertisement(at: u64, frame: &[u8]) -> Option<Advertisement> {
    let ip = frame.get(14..).filter(|_| frame.get(12..14) == Some(&[0x08, 0x00]))?;
    if *ip.get(9)? != 112 {
        return None;
    }
    let message = ip.get(usize::from(ip.first()? & 15) * 4..)?;
    Some(Advertisement {
        at,
        source: Ipv4Addr::from_octets(ip.get(12..16)?.try_into().ok()?),
        virtual_router_id: *message.get(1)?,
        priority: *message.get(2)?,
    })
}

/// What the advertisements tell.
fn seen(heard: &[Advertisement], groups: u32) -> Result<Seen> {
    let mut by_router: BTreeMap<u8, Vec<Advertisement>> = BTreeMap::new();
    for one in heard {
        by_router.entry(one.virtual_router_id).or_default().push(*one);
    }
    if by_router.len() < groups as usize {
        bail!("only {} of {groups} virtual routers were heard", by_router.len());
    }
    let mut seen = Seen { transitions: 0, worst: Vec::new(), all: Vec::new() };
    for of in by_router.values() {
        let mut worst = 0.0f64;
        for pair in of.windows(2) {
            let changed = pair[0].source != pair[1].source || pair[1].priority == 0;
            seen.transitions += u32::from(changed);
            let took = Duration::from_nanos(pair[1].at.saturating_sub(pair[0].at));
            let off = took.abs_diff(INTERVAL).as_secs_f64() * 1000.0;
            worst = worst.max(off);
            seen.all.push(off);
        }
        seen.worst.push(worst);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(groups: u32, groups_per_director: u32) -> ScaleArgs {
        ScaleArgs { groups, groups_per_director, time: 1 }
    }

    #[test]
    fn every_group_has_a_pair_on_one_network() {
        let all = scale(255, 8);
        let topology = topology(&all).unwrap();
        assert_eq!(topology.nodes.len(), 1 + 2 * 32);
        assert_eq!(pair(&all, 254), 31);
        assert!(topology.node(&director(31, 2)).is_some());
        let documents = bascule_crds::manifest::parse(&manifest(31, 254)).unwrap();
        assert_eq!(documents[0].value["spec"]["instances"][0]["virtualRouterId"], 255);
    }

    #[test]
    fn lateness_and_transitions_are_read_off_the_wire() {
        let one = |at: u64, last: u8, priority| Advertisement {
            at: at * 1_000_000,
            source: Ipv4Addr::new(10, 99, 0, last),
            virtual_router_id: 1,
            priority,
        };
        let calm = seen(&[one(0, 1, 200), one(101, 1, 200), one(199, 1, 200)], 1).unwrap();
        assert_eq!(calm.transitions, 0);
        assert_eq!(calm.all.len(), 2);
        assert!((calm.worst[0] - 2.0).abs() < 1e-9);
        let lost = seen(&[one(0, 1, 200), one(100, 1, 0), one(160, 2, 100)], 1).unwrap();
        assert_eq!(lost.transitions, 2);
        assert!(seen(&[one(0, 1, 200)], 2).is_err(), "a group is silent");
    }

    #[test]
    fn a_frame_is_read_with_or_without_options() {
        let mut frame = vec![0; 14 + 20 + 12];
        frame[12] = 0x08;
        frame[14] = 0x45;
        frame[23] = 112;
        frame[26..30].copy_from_slice(&[10, 99, 0, 1]);
        frame[34..37].copy_from_slice(&[0x31, 7, 200]);
        let read = advertisement(5, &frame).unwrap();
        assert_eq!(
            (read.virtual_router_id, read.priority, read.source),
            (7, 200, Ipv4Addr::new(10, 99, 0, 1))
        );
        frame[23] = 17;
        assert_eq!(advertisement(5, &frame), None);
        assert_eq!(advertisement(5, &frame[..20]), None);
    }
}
