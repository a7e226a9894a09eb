//! A seeded simulation of a whole group on a network that loses, delays, repeats, reorders and partitions, on machines that
//! crash, boot, freeze and have clocks of their own, with an agent that is killed, stopped, upgraded and given orders.
//!
//! A seed decides everything. First a storm of faults, during which what must always hold is looked at after every step. Then the
//! faults stop: within the derived bound there is one active member, the right one, and nothing changes any more. At last one thing is
//! done on purpose, and its bound is looked at.

#![allow(dead_code, reason = "a test and an example share it, and use different parts")]

mod check;
mod fault;
mod finale;
mod node;
mod plan;
mod rng;
mod world;

use plan::Plan;
use world::{Event, World};

pub(crate) use world::{Counts, Sabotage};

/// What a seed led to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    pub(crate) finale: &'static str,
    /// How long nobody was active in the finale, in hundredths of an interval.
    pub(crate) gap: u64,
}

/// A broken promise.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) what: String,
    pub(crate) trace: Vec<String>,
}

/// Runs `seed`; with `trace` everything that happened is kept.
pub(crate) fn run(seed: u64, trace: bool) -> Result<Outcome, Box<Failure>> {
    run_with(seed, trace, None)
}

/// The same with something made wrong.
pub(crate) fn run_with(seed: u64, trace: bool, sabotage: Option<Sabotage>) -> Result<Outcome, Box<Failure>> {
    let mut world = World::new(Plan::draw(seed), trace, sabotage);
    let plan = format!("{:?}", world.plan);
    world.say(|| plan);
    play(&mut world).map_err(|what| {
        let mut trace = world.trace.take().unwrap_or_default();
        trace.push(format!("at {} ns: {what}", world.now));
        Box::new(Failure { seed, what, trace })
    })
}

fn play(world: &mut World) -> Result<Outcome, String> {
    let storm = world.plan.chaos;
    world.schedule(0, Event::Look);
    world.schedule(world.plan.fault_every, Event::Fault);
    for at in 0..world.nodes.len() {
        if world.rng.chance(900) {
            world.start(at)?;
        }
    }
    world.run(storm)?;
    world.calm_down()?;
    world.come_to_rest()?;
    let (finale, gap) = world.finale()?;
    Ok(Outcome { counts: world.counts, finale, gap })
}
