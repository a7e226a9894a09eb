//! Recorded links: one `bascule-lab capture` each, read while it runs, and all of them put into one file at the end.

use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::error::{Error, Result};
use crate::annotate::{Known, Language, annotate, file};
use crate::programs::clock::realtime_ns;
use crate::programs::pcapng::{self, Block, Packet};
use crate::scenario::Scenario;
use crate::world::{self, Node, Process, Spawn, World, now};

/// A recorded link. After a boot of its node it goes on in another file.
pub(super) struct Capture {
    pub(super) node: String,
    pub(super) interface: String,
    parts: Vec<Part>,
}

struct Part {
    path: String,
    process: Process,
    /// From when until when everything was recorded: CLOCK_REALTIME, nanoseconds.
    from: u64,
    until: Option<u64>,
}

/// The frames of a link: when (CLOCK_REALTIME, nanoseconds) and what, and how many were lost.
#[derive(Default)]
pub(super) struct Recorded {
    pub(super) packets: Vec<Packet>,
    pub(super) dropped: u64,
}

/// The EtherType of the lab's own probes, as it is on the wire.
const PROBE: [u8; 2] = world::PROBE_ETHERTYPE.to_be_bytes();
/// How long a capture may take to begin, or to write down what it has.
const PATIENCE: Duration = Duration::from_secs(60);
/// From when on nothing is added to the file of a link, in bytes; what comes later is counted as lost.
const LIMIT: u64 = 48 << 20;
/// The same for all links of a topology together: in the end all of it is in memory at once.
const LIMIT_OF_ALL: u64 = 512 << 20;
// The last frame, and the totals that every look at it adds, come on top.
const _: () = assert!(LIMIT + (8 << 20) < world::MAX_FILE, "what was recorded can be read");

impl Capture {
    /// Begins to record.
    pub(super) fn start(world: &World, node: &str, interface: &str) -> Result<Self> {
        let mut capture = Self { node: node.into(), interface: interface.into(), parts: Vec::new() };
        capture.go_on(world, 0)?;
        Ok(capture)
    }

    /// Begins, after its node has booted, the next file. From when its boot began (CLOCK_MONOTONIC, nanoseconds) until the capture runs
    /// something may have arrived that nobody recorded.
    pub(super) fn go_on(&mut self, world: &World, booting: u64) -> Result<()> {
        if let Some(part) = self.parts.last_mut() {
            let ago = now().saturating_sub(booting);
            part.until.get_or_insert_with(|| realtime_ns().saturating_sub(ago));
        }
        let node = world.node(&self.node)?;
        let path = format!("/var/log/bascule-lab/{}.{}.pcapng", self.interface, self.parts.len());
        node.write_file(&path, b"")?;
        let label = format!("{}/{}", self.node, self.interface);
        let ends: usize = world.nodes().iter().map(|node| node.interfaces().len()).sum();
        let limit = LIMIT.min(LIMIT_OF_ALL / (ends as u64).max(1)).to_string();
        let argv = [
            "bascule-lab",
            "capture-link",
            "--interface",
            &self.interface,
            "--label",
            &label,
            "--limit-bytes",
            &limit,
            "--out",
            &path,
        ];
        let process = node.spawn(&Spawn::new(&format!("capture-{}", self.interface), argv))?;
        process.wait_for_line("ready", PATIENCE)?;
        self.parts.push(Part { path, process, from: realtime_ns(), until: None });
        Ok(())
    }

    /// The frames up to now.
    pub(super) fn read(&self, world: &World) -> Result<Recorded> {
        let node = world.node(&self.node)?;
        let mut recorded = Recorded::default();
        for part in &self.parts {
            let blocks = if part.process.alive() && !node.is_frozen() {
                up_to_now(&node, part)?
            } else {
                read(&node, &part.path)?
            };
            let mut dropped = 0;
            for block in blocks {
                match block {
                    // The lab's own probes are no traffic of the network.
                    Block::Packet(packet) if packet.data.get(12..14) == Some(&PROBE[..]) => {}
                    Block::Packet(packet) => recorded.packets.push(packet),
                    // Each says the total so far.
                    Block::Statistics { dropped: total, .. } => dropped = total,
                    Block::Interface { .. } => {}
                }
            }
            recorded.dropped += dropped;
        }
        Ok(recorded)
    }

    /// Ends the recording.
    pub(super) fn stop(&mut self) {
        for part in &mut self.parts {
            part.until.get_or_insert_with(realtime_ns);
            // One that ended with its node is over already.
            let _ = part.process.stop(Duration::from_secs(10));
        }
    }

    /// Why it ended by itself, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        let part = self.parts.last()?;
        let exit = part.process.exit()?;
        Some(format!("the capture of {} {} ended ({exit})", self.node, self.interface))
    }
}

fn read(node: &Node, path: &str) -> Result<Vec<Block>> {
    let bytes = node.read_file(path)?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    pcapng::read(bytes.as_slice())
        .map_err(|error| Error::harness(format!("reading {path} of {}: {error}", node.name())))
}

/// Asks a running capture to write down what it has: it answers with a block of totals.
fn up_to_now(node: &Node, part: &Part) -> Result<Vec<Block>> {
    let totals =
        |blocks: &[Block]| blocks.iter().filter(|block| matches!(block, Block::Statistics { .. })).count();
    let before = totals(&read(node, &part.path)?);
    part.process.signal(Signal::SIGUSR1)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let blocks = read(node, &part.path)?;
        if totals(&blocks) > before || !part.process.alive() {
            return Ok(blocks);
        }
        if Instant::now() > deadline {
            return Err(Error::harness(format!(
                "the capture of {} does not write down what it has",
                node.name()
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Puts the frames of all links into one file, in the order of time, with names for the addresses and a comment on each that matters.
pub(super) fn merge(world: &World, scenario: &Scenario, captures: &[Capture], path: &Path) -> Result<()> {
    let mut merged = file::Capture::default();
    for capture in captures {
        let interface = u32::try_from(merged.links.len()).unwrap_or(u32::MAX);
        let recorded = capture.read(world)?;
        merged.links.push(file::Link {
            name: format!("{}/{}", capture.node, capture.interface),
            kind: file::ETHERNET,
            snap_length: 65_535,
            recorded: capture.parts.iter().map(|part| (part.from, part.until.unwrap_or(u64::MAX))).collect(),
            dropped: recorded.dropped,
            ..file::Link::default()
        });
        merged.packets.extend(recorded.packets.into_iter().map(|packet| Packet { interface, ..packet }));
    }
    file::sort(&mut merged.packets);
    let mut known = Known::of(scenario);
    file::tell(&merged, &mut known);
    let annotated = annotate(&merged.packets, &mut known);
    let failed = |error: std::io::Error| Error::harness(format!("writing {}: {error}", path.display()));
    let out = std::fs::File::create(path).map_err(failed)?;
    let about = format!("bascule-lab: {}", scenario.name);
    let comment = |frame| annotated.text(frame, Language::En);
    file::write(BufWriter::new(out), &about, &merged, &known, comment).map_err(failed)
}
