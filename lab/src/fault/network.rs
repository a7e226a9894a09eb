//! Faults of links and networks.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Played;
use crate::scenario::fault::{Blackhole, CarrierFault, Direction, InterfaceFault, Partition};
use crate::world::{Cable, Cut, Error, Interface, Links, Node, Result, Switch, World, configure, now};

/// How long the kernel may take until a change is seen everywhere. It takes microseconds.
const EFFECT: Duration = Duration::from_secs(5);
/// After how long another probe is sent on a cable that loses some.
const AGAIN: Duration = Duration::from_millis(200);

/// What the kernel of a node says of one of its interfaces.
pub(super) fn interface_of(node: &Node, interface: &str) -> Result<Interface> {
    node.cable(interface)?;
    Links::open(node.network()?.as_fd())?.interface(interface)
}

/// Looks at an interface until it is as it has to be.
fn wait_for(
    node: &Node,
    interface: &str,
    what: &str,
    wanted: impl Fn(&Interface) -> bool,
) -> Result<Interface> {
    let mut links = Links::open(node.network()?.as_fd())?;
    let deadline = Instant::now() + EFFECT;
    loop {
        let now = links.interface(interface)?;
        if wanted(&now) {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(Error::wrong(format!(
                "{interface} of {} is not {what} after {EFFECT:?}",
                node.name()
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether frames can pass on a cable as far as its two ends go.
pub(super) fn live(world: &World, node: &Node, cable: &Cable) -> bool {
    node.is_up()
        && !world.cabling().is_unplugged(cable)
        && interface_of(node, &cable.interface).is_ok_and(|interface| interface.up && interface.carrier)
}

/// Waits until frames pass, where nothing else stands against it. Returns what shows it.
pub(super) fn frames_pass(world: &World, node: &Node, cable: &Cable) -> Result<String> {
    if !live(world, node, cable) {
        return Ok("another fault still holds the link down".into());
    }
    if world.cabling().is_cut(cable.bridge_port()) {
        return Ok("another fault still swallows its frames".into());
    }
    if world.cabling().is_impaired(cable) {
        return Ok("another fault still impairs its frames".into());
    }
    world.cabling().wait_until_plugged(node, cable)?;
    Ok("probes pass both ways".into())
}

pub(super) fn admin_down(world: &World, fault: &InterfaceFault) -> Result<Played> {
    let node = world.node(&fault.node)?;
    if !interface_of(&node, &fault.interface)?.up {
        return Err(Error::wrong(format!("{} of {} is down already", fault.interface, fault.node)));
    }
    let mut links = Links::open(node.network()?.as_fd())?;
    let at = now();
    links.set_up(&fault.interface, false)?;
    let done = now();
    wait_for(&node, &fault.interface, "down", |interface| !interface.up)?;
    Ok(Played::new(at, done, format!("{} of {}: IFF_UP is cleared", fault.interface, fault.node)))
}

pub(super) fn admin_up(world: &World, fault: &InterfaceFault) -> Result<Played> {
    let node = world.node(&fault.node)?;
    let at = now();
    configure(&node, Some(&fault.interface))?;
    let done = now();
    wait_for(&node, &fault.interface, "up", |interface| interface.up)?;
    let cable = node.cable(&fault.interface)?;
    if !world.cabling().is_unplugged(cable) {
        wait_for(&node, &fault.interface, "with carrier", |interface| interface.carrier)?;
    }
    let passing = frames_pass(world, &node, cable)?;
    Ok(Played::new(at, done, format!("{} of {}: IFF_UP is set; {passing}", fault.interface, fault.node)))
}

/// The cables that a fault pulls.
fn pulled<'a>(node: &'a Node, fault: &CarrierFault) -> Result<Vec<&'a Cable>> {
    match &fault.interface {
        Some(interface) => Ok(vec![node.cable(interface)?]),
        None if node.cables().is_empty() => Err(Error::wrong(format!("{} has no cable", fault.node))),
        None => Ok(node.cables().iter().collect()),
    }
}

pub(super) fn carrier_lost(world: &World, fault: &CarrierFault) -> Result<Played> {
    let node = world.node(&fault.node)?;
    let cables = pulled(&node, fault)?;
    for cable in &cables {
        let before = interface_of(&node, &cable.interface)?;
        if !before.up || !before.carrier {
            return Err(Error::wrong(format!(
                "{} of {} is {} already",
                cable.interface,
                fault.node,
                if before.up { "without carrier" } else { "down" }
            )));
        }
    }
    let at = now();
    for cable in &cables {
        world.cabling().plug(cable, false)?;
    }
    let done = now();
    for cable in &cables {
        let gone = |interface: &Interface| interface.up && !interface.carrier;
        wait_for(&node, &cable.interface, "up without carrier", gone)?;
    }
    Ok(Played::new(
        at,
        done,
        format!("{} of {}: IFF_UP is set, IFF_LOWER_UP is cleared", names(&cables), fault.node),
    ))
}

fn names(cables: &[&Cable]) -> String {
    cables.iter().map(|cable| cable.interface.as_str()).collect::<Vec<_>>().join(" and ")
}

pub(super) fn carrier_back(world: &World, fault: &CarrierFault) -> Result<Played> {
    let node = world.node(&fault.node)?;
    let cables = pulled(&node, fault)?;
    let at = now();
    for cable in &cables {
        world.cabling().plug(cable, true)?;
    }
    let done = now();
    if !node.is_up() {
        return Ok(Played::new(at, done, format!("plugged in; {} is off", fault.node)));
    }
    let mut proof = Vec::new();
    for cable in &cables {
        let interface = &cable.interface;
        if !interface_of(&node, interface)?.up {
            proof.push(format!("{interface} is plugged in, but down"));
            continue;
        }
        wait_for(&node, interface, "with carrier", |interface| interface.carrier)?;
        let passing = frames_pass(world, &node, cable)?;
        proof.push(format!("{interface} of {}: IFF_LOWER_UP is set; {passing}", fault.node));
    }
    Ok(Played::new(at, done, proof.join("; ")))
}

fn blackhole_reason(fault: &Blackhole) -> String {
    // The direction is part of it: two faults, one each way, are two faults.
    format!("blackhole {} {} {:?}", fault.node, fault.interface, fault.direction)
}

pub(super) fn blackhole(world: &World, fault: &Blackhole) -> Result<Played> {
    let node = world.node(&fault.node)?;
    let cable = node.cable(&fault.interface)?;
    let reason = blackhole_reason(fault);
    let switch = world.cabling();
    if switch.is_cut_for(&reason) {
        return Err(Error::wrong("it is in effect already"));
    }
    if !live(world, &node, cable) {
        return Err(Error::wrong(format!(
            "{} of {} is down or without carrier, so that no frame could be seen to vanish",
            fault.interface, fault.node
        )));
    }
    let from = Cut::From(cable.bridge_port().into());
    let to = Cut::To(cable.bridge_port().into());
    let cuts = match fault.direction {
        Direction::Both => vec![from, to],
        Direction::In => vec![to],
        Direction::Out => vec![from],
    };
    let at = now();
    switch.cut(&reason, &cuts)?;
    let done = now();
    let proof = cuts.iter().map(|cut| prove_swallowed(world, &node, cable, cut)).collect::<Result<Vec<_>>>();
    match proof {
        Ok(proof) => Ok(Played::new(at, done, format!("carrier stays; {}", proof.join("; ")))),
        Err(error) => {
            switch.restore(&reason)?;
            Err(error)
        }
    }
}

pub(super) fn blackhole_over(world: &World, fault: &Blackhole) -> Result<Played> {
    let node = world.node(&fault.node)?;
    let cable = node.cable(&fault.interface)?;
    let reason = blackhole_reason(fault);
    if !world.cabling().is_cut_for(&reason) {
        return Err(Error::wrong("it is not in effect"));
    }
    let at = now();
    world.cabling().restore(&reason)?;
    let done = now();
    Ok(Played::new(at, done, frames_pass(world, &node, cable)?))
}

/// Sends a probe the way that is cut and waits until the cut has counted it.
pub(super) fn prove_swallowed(world: &World, node: &Node, cable: &Cable, cut: &Cut) -> Result<String> {
    let switch = world.cabling();
    let (there, here) = (Switch::probe_in(node, cable)?, switch.probe_at(&cable.network)?);
    let (sender, receiver, way) = match cut {
        Cut::From(_) => (there, here, "from"),
        _ => (here, there, "to"),
    };
    let name = format!("{} of {}", cable.interface, node.name());
    let before = switch.swallowed(cut)?.ok_or_else(|| {
        Error::wrong(format!("the kernel does not hold the rule that cuts frames {way} {name}"))
    })?;
    let send =
        || sender.send().map_err(|error| Error::wrong(format!("sending a probe {way} {name}: {error}")));
    let mut number = send()?;
    let mut sent = Instant::now();
    let deadline = sent + EFFECT;
    loop {
        // A cable that is bad besides may have lost it.
        if switch.is_impaired(cable) && sent.elapsed() > AGAIN {
            number = send()?;
            sent = Instant::now();
        }
        if switch.swallowed(cut)?.is_some_and(|count| count > before) {
            break;
        }
        if Instant::now() > deadline {
            return Err(Error::wrong(format!("a probe {way} {name} was not swallowed within {EFFECT:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // It has been counted as dropped, so that it is not on its way any more.
    let arrived = receiver
        .arrives(number, Duration::ZERO)
        .map_err(|error| Error::wrong(format!("looking for a probe {way} {name}: {error}")))?;
    if arrived {
        return Err(Error::wrong(format!("a probe {way} {name} arrived all the same")));
    }
    Ok(format!("a probe {way} {name} was swallowed"))
}

/// Cuts everything to and from a node and proves it on every link that is live.
pub(super) fn cut_off(world: &World, node: &Node, reason: &str) -> Result<(u64, u64, String)> {
    let switch = world.cabling();
    if switch.is_cut_for(reason) {
        return Err(Error::wrong("it is in effect already"));
    }
    // Whatever another fault holds down, or makes bad, needs no proof; of several cables that are bonded only one would carry it.
    let provable =
        |cable: &&Cable| live(world, node, cable) && !switch.is_impaired(cable) && cable.bonded.is_none();
    let live: Vec<_> = node.cables().iter().filter(provable).collect();
    let at = now();
    switch.cut(reason, &Switch::all_of(node))?;
    let done = now();
    for cable in &live {
        for cut in [Cut::From(cable.bridge_port().into()), Cut::To(cable.bridge_port().into())] {
            if let Err(error) = prove_swallowed(world, node, cable, &cut) {
                switch.restore(reason)?;
                return Err(error);
            }
        }
    }
    Ok((at, done, format!("frames were seen to vanish on {} of {} links", live.len(), node.cables().len())))
}

fn partition_reason(fault: &Partition) -> String {
    let groups: Vec<_> = fault
        .groups
        .iter()
        .map(|group| {
            let mut names: Vec<&str> = group.iter().map(|name| &**name).collect();
            names.sort_unstable();
            names.join(",")
        })
        .collect();
    format!("partition {} {}", fault.network, groups.join("|"))
}

/// A node and one of its cables.
type End = (Node, Cable);

/// The nodes of each group with their cables to the network.
fn members(world: &World, fault: &Partition) -> Result<Vec<Vec<End>>> {
    let mut seen = std::collections::BTreeSet::new();
    fault
        .groups
        .iter()
        .map(|group| {
            let mut found = Vec::new();
            for name in group {
                let node = world.node(name)?;
                if !seen.insert(name.to_string()) {
                    return Err(Error::wrong(format!("{name} is in two groups")));
                }
                let before = found.len();
                let cables = node.cables().iter().filter(|cable| cable.network == *fault.network);
                found.extend(cables.map(|cable| (node.clone(), cable.clone())));
                if found.len() == before {
                    return Err(Error::wrong(format!("{name} is not on the network {}", fault.network)));
                }
            }
            Ok(found)
        })
        .collect()
}

/// Every way from one group to another.
fn ways(groups: &[Vec<End>]) -> Vec<(&End, &End)> {
    let mut ways = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        for (other_number, other) in groups.iter().enumerate() {
            if number != other_number {
                ways.extend(group.iter().flat_map(|from| other.iter().map(move |to| (from, to))));
            }
        }
    }
    ways
}

pub(super) fn partition(world: &World, fault: &Partition) -> Result<Played> {
    let switch = world.cabling();
    let reason = partition_reason(fault);
    if switch.is_cut_for(&reason) {
        return Err(Error::wrong("it is in effect already"));
    }
    let groups = members(world, fault)?;
    let ways = ways(&groups);
    let cut_of = |from: &Cable, to: &Cable| Cut::Apart(from.port.clone(), to.port.clone());
    let cuts: Vec<_> = ways.iter().map(|(from, to)| cut_of(&from.1, &to.1)).collect();
    let provable = |end: &End| {
        live(world, &end.0, &end.1) && !switch.is_cut(end.1.bridge_port()) && !switch.is_impaired(&end.1)
    };
    let tested: Vec<_> = ways.iter().filter(|(from, to)| provable(from) && provable(to)).collect();
    if tested.is_empty() {
        return Err(Error::wrong(format!(
            "no two nodes of different groups are up on {}, so that no frame could be seen to vanish",
            fault.network
        )));
    }
    let at = now();
    switch.cut(&reason, &cuts)?;
    let done = now();
    let proved: Result<()> = tested.iter().try_for_each(|(from, to)| {
        let cut = cut_of(&from.1, &to.1);
        let before = switch.swallowed(&cut)?.unwrap_or(0);
        let probe = Switch::probe_in(&from.0, &from.1)?;
        let failed =
            |what: &str| Error::wrong(format!("a probe from {} to {} {what}", from.0.name(), to.0.name()));
        probe.send().map_err(|error| failed(&format!("cannot be sent: {error}")))?;
        let deadline = Instant::now() + EFFECT;
        while switch.swallowed(&cut)?.is_none_or(|count| count <= before) {
            if Instant::now() > deadline {
                return Err(failed("was not swallowed"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    if let Err(error) = proved {
        switch.restore(&reason)?;
        return Err(error);
    }
    Ok(Played::new(at, done, format!("probes were swallowed on {} of {} ways", tested.len(), ways.len())))
}

pub(super) fn partition_over(world: &World, fault: &Partition) -> Result<Played> {
    let switch = world.cabling();
    let reason = partition_reason(fault);
    if !switch.is_cut_for(&reason) {
        return Err(Error::wrong("it is not in effect"));
    }
    let groups = members(world, fault)?;
    let at = now();
    switch.restore(&reason)?;
    let done = now();
    let mut passed = 0;
    let ways = ways(&groups);
    for (from, to) in &ways {
        let usable = |end: &End| {
            live(world, &end.0, &end.1) && !switch.is_cut(end.1.bridge_port()) && !switch.is_impaired(&end.1)
        };
        if !usable(from) || !usable(to) {
            continue;
        }
        let (sender, receiver) = (Switch::probe_in(&from.0, &from.1)?, Switch::probe_in(&to.0, &to.1)?);
        let deadline = Instant::now() + EFFECT;
        loop {
            let number = sender.send().map_err(|error| Error::wrong(format!("sending a probe: {error}")))?;
            let arrived = receiver
                .arrives(number, Duration::from_millis(200))
                .map_err(|error| Error::wrong(format!("waiting for a probe: {error}")))?;
            if arrived {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::wrong(format!("{} still does not hear {}", to.0.name(), from.0.name())));
            }
        }
        passed += 1;
    }
    Ok(Played::new(at, done, format!("probes pass on {passed} of {} ways", ways.len())))
}
