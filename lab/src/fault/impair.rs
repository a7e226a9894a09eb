//! Bad cables: frames that are lost, late, doubled, out of order or slow.

use std::time::{Duration, Instant};

use super::Played;
use super::network::{frames_pass, live};
use crate::scenario::fault::{Direction, Impair};
use crate::scenario::value::Percent;
use crate::world::{Cable, Counters, Error, Netem, Node, Result, Switch, Way, World, now};

/// How long a probe may take besides the delay that was asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// As many probes are sent at most until one of each kind was seen.
const PROBES: u32 = 256;
/// A loss below this would need more probes than that: at 10 % none of 256 is lost once in 10¹¹ times.
const SEEN: Percent = Percent(10_000);

fn ways(direction: Direction) -> &'static [Way] {
    match direction {
        Direction::Both => &[Way::From, Way::To],
        Direction::In => &[Way::To],
        Direction::Out => &[Way::From],
    }
}

fn words(way: Way) -> &'static str {
    match way {
        Way::From => "out",
        Way::To => "in",
    }
}

pub(super) fn impair(world: &World, fault: &Impair) -> Result<Played> {
    let node = world.node(&fault.node)?;
    let cable = node.cable(&fault.interface)?;
    let switch = world.cabling();
    let netem = Netem::of(fault);
    let name = format!("{} of {}", fault.interface, fault.node);
    if !live(world, &node, cable) || switch.is_cut(cable.bridge_port()) {
        return Err(Error::wrong(format!("no frame passes on {name}, so that none could be seen to suffer")));
    }
    for way in ways(fault.direction) {
        if switch.is_bad(cable, *way).is_some() {
            return Err(Error::wrong(format!("{name} is impaired {} already; heal it first", words(*way))));
        }
    }
    let at = now();
    let made = ways(fault.direction).iter().try_for_each(|way| switch.impair(&node, cable, *way, &netem));
    let done = now();
    let proof = made.and_then(|()| {
        ways(fault.direction)
            .iter()
            .map(|way| prove(world, &node, cable, *way, fault))
            .collect::<Result<Vec<_>>>()
    });
    match proof {
        Ok(proof) => Ok(Played::new(at, done, format!("{name}, as the kernel says: {}", proof.join("; ")))),
        Err(error) => {
            for way in ways(fault.direction) {
                if switch.is_bad(cable, *way).is_some() {
                    switch.repair(&node, cable, *way)?;
                }
            }
            Err(error)
        }
    }
}

/// What the kernel says of a way of a cable; an error unless it is what was asked for.
fn read_back(switch: &Switch, node: &Node, cable: &Cable, way: Way, wanted: &Netem) -> Result<Counters> {
    match switch.queue(node, cable, way)? {
        Some((netem, counters)) if netem == *wanted => Ok(counters),
        Some((other, _)) => Err(Error::wrong(format!("the kernel holds {other:?} instead of {wanted:?}"))),
        None => Err(Error::wrong(format!("the kernel holds no netem {} {}", words(way), cable.interface))),
    }
}

/// Sends probes until one was seen to be lost and one to be late, as far as that was asked for and can be seen.
fn prove(world: &World, node: &Node, cable: &Cable, way: Way, fault: &Impair) -> Result<String> {
    let switch = world.cabling();
    let netem = Netem::of(fault);
    let before = read_back(switch, node, cable, way, &netem)?;
    let (there, here) = (Switch::probe_in(node, cable)?, switch.probe_at(&cable.network)?);
    let (sender, receiver) = match way {
        Way::From => (&there, &here),
        Way::To => (&here, &there),
    };
    let length =
        |span: Option<crate::scenario::Span>| span.map_or(Duration::ZERO, crate::scenario::Span::get);
    let least = length(fault.delay).saturating_sub(length(fault.jitter));
    let longest = length(fault.delay) + length(fault.jitter);
    // What may be lost is not waited for that long.
    let wait = longest + if fault.loss.is_some() { PATIENCE / 10 } else { PATIENCE };
    let mut missing_loss = fault.loss.is_some_and(|loss| loss >= SEEN);
    // Of what is all lost, or comes without delay, none comes late.
    let never_late = [fault.loss, fault.reorder].contains(&Some(Percent::ALL));
    let mut missing_delay = !least.is_zero() && !never_late;
    let mut seen = Vec::new();
    let deadline = Instant::now() + (longest + PATIENCE) * 4;
    for number in 1..=PROBES {
        let sent = Instant::now();
        let probe = sender.send().map_err(|error| Error::wrong(format!("sending a probe: {error}")))?;
        let counters = read_back(switch, node, cable, way, &netem)?;
        // It is lost where it is put into the queue, before the call returns.
        if counters.dropped > before.dropped && missing_loss {
            missing_loss = false;
            seen.push(format!("the {number}. probe was lost"));
        } else if missing_delay {
            let came = receiver
                .arrives(probe, wait)
                .map_err(|error| Error::wrong(format!("waiting for a probe: {error}")))?;
            let took = sent.elapsed();
            if came && took >= least {
                missing_delay = false;
                seen.push(format!("a probe took {} ms", took.as_millis()));
            }
        }
        if !missing_loss && !missing_delay {
            break;
        }
        if Instant::now() > deadline {
            break;
        }
    }
    if missing_loss || missing_delay {
        let what = if missing_loss { "lost" } else { "late" };
        return Err(Error::wrong(format!("no probe {} {} was {what}", words(way), cable.interface)));
    }
    let counters = read_back(switch, node, cable, way, &netem)?;
    if counters.passed + counters.dropped == 0 && !through(switch, node, cable, way, &netem)? {
        return Err(Error::wrong(format!(
            "no probe went through the queue {} {}",
            words(way),
            cable.interface
        )));
    }
    let seen = if seen.is_empty() { "probes go through it".to_owned() } else { seen.join(", ") };
    Ok(format!("{} {}; {seen}", words(way), fault.words()))
}

/// Whether a frame is counted by the queue; what waits in it is counted when it goes on.
fn through(switch: &Switch, node: &Node, cable: &Cable, way: Way, netem: &Netem) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let counters = read_back(switch, node, cable, way, netem)?;
        if counters.passed + counters.dropped > 0 {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}

pub(super) fn repair(world: &World, fault: &Impair) -> Result<Played> {
    let node = world.node(&fault.node)?;
    let cable = node.cable(&fault.interface)?;
    let switch = world.cabling();
    let wanted = Some(Netem::of(fault));
    if ways(fault.direction).iter().any(|way| switch.is_bad(cable, *way) != wanted) {
        return Err(Error::wrong("it is not in effect"));
    }
    let at = now();
    let mut proof = Vec::new();
    for way in ways(fault.direction) {
        if let Some(Counters { passed, dropped }) = switch.repair(&node, cable, *way)? {
            let all = passed + dropped;
            proof.push(format!("{}: {dropped} of {all} frames had been lost", words(*way)));
        }
    }
    let done = now();
    if !node.is_up() {
        return Ok(Played::new(at, done, format!("the cable is good; {} is off", fault.node)));
    }
    for way in ways(fault.direction) {
        if switch.queue(&node, cable, *way)?.is_some() {
            return Err(Error::wrong(format!("netem is still there {}", words(*way))));
        }
    }
    proof.push(frames_pass(world, &node, cable)?);
    Ok(Played::new(at, done, proof.join("; ")))
}
