//! Faults of processes and whole machines.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::network::cut_off;
use super::{AGENT, Played, Restart};
use crate::world::{Error, Exit, Node, Process, Result, World, inventory, now};

/// How long a signal may take until it is seen to have worked.
const EFFECT: Duration = Duration::from_secs(10);
/// After this time a process that does not stop is told again.
const IN_VFORK: Duration = Duration::from_millis(500);
/// How long a service may take to end in order: a peer first gives up what it has, by scripts.
const ORDERLY: Duration = Duration::from_secs(180);

/// Whether every thread of a process and of those in its group is stopped.
fn stopped(process: &Process) -> bool {
    let group = process.group();
    !group.is_empty()
        && group
            .iter()
            .all(|pid| inventory::thread_states(*pid).iter().all(|state| matches!(state, 'T' | 't' | 'Z')))
}

fn wait_until(what: impl Fn() -> String, condition: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + EFFECT;
    while !condition() {
        if Instant::now() > deadline {
            return Err(Error::wrong(format!("{} after {EFFECT:?}", what())));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The agent of a node, or the peer program in its place; and how it is called.
fn manager(world: &World, name: &str) -> Result<(Process, &'static str)> {
    let node = world.node(name)?;
    match node.peer() {
        Some(peer) => Ok((node.running(peer)?, peer)),
        None => Ok((node.running(AGENT)?, AGENT)),
    }
}

pub(super) fn freeze_agent(world: &World, name: &str) -> Result<Played> {
    let (agent, what) = manager(world, name)?;
    if stopped(&agent) {
        return Err(Error::wrong(format!("the {what} is stopped already")));
    }
    let mut at = now();
    agent.signal_group(Signal::SIGSTOP)?;
    let mut tried = Instant::now();
    let begun = tried;
    // A thread that waits in vfork(2) for a child does not stop, and the child that has stopped never lets it go: then all go on, and are
    // stopped again.
    while !stopped(&agent) {
        if begun.elapsed() > EFFECT {
            // Not half of it stands still.
            let _ = agent.signal_group(Signal::SIGCONT);
            return Err(Error::wrong(format!("the {what} still runs after {EFFECT:?}")));
        }
        if tried.elapsed() > IN_VFORK {
            agent.signal_group(Signal::SIGCONT)?;
            std::thread::sleep(Duration::from_millis(1));
            at = now();
            agent.signal_group(Signal::SIGSTOP)?;
            tried = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let threads: usize = agent.group().iter().map(|pid| inventory::thread_states(*pid).len()).sum();
    Ok(Played::new(
        at,
        now(),
        format!("all {threads} threads of the {what} (process {}) are stopped", agent.pid()),
    ))
}

pub(super) fn thaw_agent(world: &World, name: &str) -> Result<Played> {
    let (agent, what) = manager(world, name)?;
    if !stopped(&agent) {
        return Err(Error::wrong(format!("the {what} is not stopped")));
    }
    let at = now();
    agent.signal_group(Signal::SIGCONT)?;
    wait_until(|| format!("the {what} is still stopped"), || !stopped(&agent))?;
    Ok(Played::new(at, now(), format!("the {what} (process {}) runs again", agent.pid())))
}

pub(super) fn kill_agent(world: &World, name: &str) -> Result<Played> {
    let (agent, what) = manager(world, name)?;
    let at = now();
    // A peer may be several processes; what an agent started outlives it.
    if what == AGENT {
        agent.signal(Signal::SIGKILL)?
    } else {
        agent.signal_group(Signal::SIGKILL)?
    }
    match agent.wait(EFFECT) {
        Some(Exit::Signal(libc::SIGKILL)) => {
            Ok(Played::new(at, now(), format!("the {what} (process {}) ended by SIGKILL", agent.pid())))
        }
        Some(exit) => {
            Err(Error::wrong(format!("the {what} ended by itself before the signal came ({exit})")))
        }
        None => Err(Error::wrong(format!("the {what} has not ended {EFFECT:?} after SIGKILL"))),
    }
}

pub(super) fn stop_service(world: &World, name: &str, service: &str) -> Result<Played> {
    let process = world.node(name)?.running(service)?;
    let at = now();
    process.signal(Signal::SIGTERM)?;
    match process.wait(ORDERLY) {
        Some(exit) => Ok(Played::new(
            at,
            now(),
            format!("{service} (process {}) ended after SIGTERM: {exit}", process.pid()),
        )),
        None => Err(Error::wrong(format!("{service} has not ended {ORDERLY:?} after SIGTERM"))),
    }
}

/// Nothing to do but to see that it does not run: starting is the runner's.
pub(super) fn may_start(world: &World, name: &str, process: &str, restart: Restart) -> Result<Played> {
    let node = world.node(name)?;
    node.awake()?;
    if node.process(process).is_some_and(|process| process.alive()) {
        return Err(Error::wrong(format!("{process} runs on {name}")));
    }
    let at = now();
    Ok(Played { restart, ..Played::new(at, at, format!("{process} may be started")) })
}

fn freeze_reason(name: &str) -> String {
    format!("freezeNode {name}")
}

fn crash_reason(name: &str) -> String {
    format!("crash {name}")
}

fn must_be_on(node: &Node) -> Result<()> {
    if node.is_up() { Ok(()) } else { Err(Error::wrong(format!("{} is off", node.name()))) }
}

pub(super) fn freeze_node(world: &World, name: &str) -> Result<Played> {
    let node = world.node(name)?;
    must_be_on(&node)?;
    if node.is_frozen() {
        return Err(Error::wrong(format!("{name} is frozen already")));
    }
    let reason = freeze_reason(name);
    let (at, done, cut) = cut_off(world, &node, &reason)?;
    match node.freeze(true) {
        Ok(frozen) => Ok(Played::new(at, done, format!("{cut}; {frozen}"))),
        Err(error) => {
            world.cabling().restore(&reason)?;
            Err(error)
        }
    }
}

pub(super) fn thaw_node(world: &World, name: &str) -> Result<Played> {
    let node = world.node(name)?;
    must_be_on(&node)?;
    if !node.is_frozen() {
        return Err(Error::wrong(format!("{name} is not frozen")));
    }
    let at = now();
    let thawed = node.freeze(false)?;
    world.cabling().restore(&freeze_reason(name))?;
    Ok(Played::new(at, now(), format!("{thawed}; its frames pass again")))
}

/// Frames cut first, then everything gone. Returns the times and the proof; the frames stay cut.
fn lose_power(world: &World, node: &Node) -> Result<(u64, u64, String)> {
    must_be_on(node)?;
    let pid = node.pid();
    let network = node.network_namespace()?;
    let processes = node.processes().len();
    let (at, done, cut) = cut_off(world, node, &crash_reason(node.name()))?;
    world.power_off(node, done)?;
    // What a frozen node was cut for is over with it.
    world.cabling().restore(&freeze_reason(node.name()))?;
    if let Some(pid) = pid.filter(|pid| inventory::process(*pid).is_some_and(|process| process.state != 'Z'))
    {
        return Err(Error::wrong(format!("process {pid} is still there")));
    }
    // Its last holders let go of it while they end.
    let link = format!("net:[{network}]");
    wait_until(
        || format!("the network {link} of {} is still there", node.name()),
        || !inventory::Inventory::take().namespaces.contains(&link),
    )?;
    Ok((at, done, format!("{cut}; {processes} processes and the network {link} are gone")))
}

pub(super) fn crash(world: &World, name: &str) -> Result<Played> {
    let node = world.node(name)?;
    let (at, done, proof) = lose_power(world, &node)?;
    Ok(Played::new(at, done, proof))
}

pub(super) fn boot(world: &World, name: &str) -> Result<Played> {
    let node = world.node(name)?;
    if node.is_up() {
        return Err(Error::wrong(format!("{name} is on")));
    }
    let at = now();
    power_on(world, &node)?;
    let proof =
        format!("{name} has booted for the {}. time; process {}", node.boots(), node.pid().unwrap_or(-1));
    Ok(Played { restart: Restart::Everything { node: name.to_owned() }, ..Played::new(at, now(), proof) })
}

fn power_on(world: &World, node: &Node) -> Result<()> {
    world.power_on(node, || world.cabling().restore(&crash_reason(node.name())).map(drop))
}

pub(super) fn reboot(world: &World, name: &str) -> Result<Played> {
    let node = world.node(name)?;
    let (at, done, proof) = lose_power(world, &node)?;
    power_on(world, &node)?;
    let proof = format!("{proof}; it has booted for the {}. time", node.boots());
    Ok(Played { restart: Restart::Everything { node: name.to_owned() }, ..Played::new(at, done, proof) })
}
