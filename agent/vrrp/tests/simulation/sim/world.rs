//! The machines and the networks between them, on one time line.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bascule_vrrp::group::Switchover;
use bascule_vrrp::packet::Datagram;
use bascule_vrrp::{Action, GroupState, Input};

use super::check::Pairs;
use super::node::{Node, Packet};
use super::plan::{Plan, Weather};
use super::rng::Rng;

#[derive(Debug)]
pub(crate) enum Event {
    Deliver { to: usize, packet: Packet },
    Wake { node: usize, generation: u64 },
    Thaw { node: usize },
    Fault,
    Look,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) datagrams: u64,
    pub(crate) lost: u64,
    pub(crate) transitions: u64,
    pub(crate) faults: u64,
    /// Longest time that two who heard each other were active, in hundredths of an interval.
    pub(crate) longest_two: u64,
}

/// What is made wrong on purpose, to see that the simulation notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Addresses are never taken away.
    KeepsAddresses,
    /// Nobody steps down for having been late.
    NeverLate,
    /// Nobody hears priority 0.
    LosesPriorityZero,
    /// Nobody hears the first member.
    MutesTheFirst,
    /// An upgrade begins anew.
    ForgetsOnUpgrade,
    /// A successor speaks first and takes the addresses later.
    SpeaksFirst,
    /// Timers are never called.
    Sleeps,
}

pub(crate) struct World {
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    serial: u64,
    pub(crate) nodes: Vec<Node>,
    /// `cut[net][from][to]`.
    pub(crate) cut: Vec<Vec<Vec<bool>>>,
    pub(crate) weather: Weather,
    pub(crate) storming: bool,
    /// Until then timers may be late, and datagrams come, as in the weather before.
    pub(crate) aftermath: u64,
    /// Nobody may lack the addresses from now on.
    pub(crate) covered: bool,
    /// No state may change from now on.
    pub(crate) at_rest: bool,
    pub(crate) switchover: Option<Switchover>,
    pub(crate) last_sent: Vec<u64>,
    /// How long the node that is being driven was busy with what it did before.
    busy: u64,
    pub(crate) pairs: Pairs,
    pub(crate) counts: Counts,
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(mut plan: Plan, trace: bool, sabotage: Option<Sabotage>) -> Self {
        for member in &mut plan.members {
            member.alone = sabotage == Some(Sabotage::NeverLate);
        }
        let (members, nets) = (plan.members.len(), plan.members[0].instances.len());
        World {
            sabotage,
            rng: Rng::new(!plan.seed),
            now: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            serial: 0,
            nodes: (0..members).map(|index| Node::new(&plan, index)).collect(),
            cut: vec![vec![vec![false; members]; members]; nets],
            weather: plan.storm,
            storming: true,
            aftermath: 0,
            covered: false,
            at_rest: false,
            switchover: None,
            last_sent: vec![0; members],
            busy: 0,
            pairs: Pairs::default(),
            counts: Counts::default(),
            trace: trace.then(Vec::new),
            plan,
        }
    }

    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let now = self.now;
            trace.push(format!("{:>5}.{:06} {}", now / 1_000_000_000, now / 1000 % 1_000_000, text()));
        }
    }

    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.serial += 1;
        self.queue.push(Reverse((at.max(self.now), self.serial, slot)));
    }

    /// Goes on until `end`.
    pub(crate) fn run(&mut self, end: u64) -> Result<(), String> {
        while let Some(Reverse((at, _, slot))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            self.free.push(slot);
            self.counts.events += 1;
            let event = self.events[slot].take().ok_or("an event without content")?;
            self.happen(event)?;
            if self.covered && !self.nodes.iter().any(|node| node.holds_all(self.now)) {
                return Err("nobody holds the addresses, though the switch was planned".to_owned());
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { to, packet } => self.deliver(to, packet),
            Event::Wake { node, generation } => {
                let node_is_here =
                    self.nodes[node].generation == generation && self.nodes[node].frozen.is_none();
                if node_is_here { self.feed(node, Input::Timer) } else { Ok(()) }
            }
            Event::Thaw { node } => self.thaw(node),
            Event::Fault => self.fault(),
            Event::Look => self.look(),
        }
    }

    fn deliver(&mut self, to: usize, packet: Packet) -> Result<(), String> {
        let node = &mut self.nodes[to];
        let net = node.net(&packet.router);
        if !node.up || node.process.is_none() || !node.link_up[net] {
            return Ok(());
        }
        match node.frozen {
            Some((_, true)) => Ok(()),
            Some((_, false)) => {
                node.queue(packet);
                Ok(())
            }
            None => self.receive(to, &packet),
        }
    }

    fn receive(&mut self, to: usize, packet: &Packet) -> Result<(), String> {
        let Packet { router, source, destination, bytes } = packet;
        let datagram = Datagram { source: *source, destination: *destination, ttl: 255, payload: bytes };
        self.feed(to, Input::Datagram { router, datagram })
    }

    /// It goes on where it stood: first with what its sockets hold, then with its timers, as agents must.
    pub(crate) fn thaw(&mut self, at: usize) -> Result<(), String> {
        let Some((until, _)) = self.nodes[at].frozen else { return Ok(()) };
        if self.now < until {
            return Ok(());
        }
        self.nodes[at].frozen = None;
        self.say(|| format!("node {at} goes on"));
        while let Some(packet) = self.nodes[at].inbox.pop_front() {
            self.receive(at, &packet)?;
        }
        self.feed(at, Input::Timer)
    }

    /// Hands `input` to a node's process, carries out what it wants, and looks whether that was right.
    pub(crate) fn feed(&mut self, at: usize, input: Input<'_>) -> Result<(), String> {
        let clock = self.nodes[at].clock(self.now);
        let Some(group) = &mut self.nodes[at].process else { return Ok(()) };
        let before = group.state();
        let late = before == GroupState::Active && self.now - self.last_sent[at] > self.too_late(at);
        let group = self.nodes[at].process.as_mut().ok_or("no process")?;
        if self.sabotage == Some(Sabotage::Sleeps) && input == Input::Timer {
            return self.wake_later(at);
        }
        let mut actions = group.handle(clock, input);
        if self.sabotage == Some(Sabotage::SpeaksFirst) {
            actions.sort_by_key(|action| !matches!(action, Action::Send { .. }));
        }
        // What it says once it has given up its addresses is for its successor.
        let gave_up = actions.iter().rposition(|action| matches!(action, Action::DropAddresses { .. }));
        let spoke = actions.iter().position(|action| matches!(action, Action::Send { .. }));
        if late && spoke.is_some_and(|spoke| gave_up.is_none_or(|gave_up| spoke < gave_up)) {
            return Err(format!("node {at} spoke though it was late beyond its peers' patience"));
        }
        self.busy = self.nodes[at].busy_until.saturating_sub(self.now);
        for action in actions {
            self.carry_out(at, action)?;
        }
        self.nodes[at].busy_until = self.now + self.busy;
        self.nodes[at].keep_record();
        self.nodes[at].check(self.now)?;
        self.wake_later(at)
    }

    /// Of the true time, so with what a clock may go wrong.
    fn too_late(&self, at: usize) -> u64 {
        let config = &self.nodes[at].config;
        let patience = config.interval * (config.down_intervals + 1);
        super::plan::nanos(patience) * 102 / 100
    }

    fn wake_later(&mut self, at: usize) -> Result<(), String> {
        let node = &mut self.nodes[at];
        node.generation += 1;
        let generation = node.generation;
        let Some(deadline) = node.process.as_ref().and_then(bascule_vrrp::Group::next_deadline) else {
            return Ok(());
        };
        if deadline < node.clock(self.now).boot && node.frozen.is_none() {
            // It was late for one timer and may have another one due, but not for ever.
            let due = node.true_time(deadline);
            if self.now - due > 1000 * self.plan.interval() {
                return Err(format!("node {at}: a deadline {} ns ago is not met", self.now - due));
            }
        }
        let due = node.true_time(deadline).max(self.now);
        let lateness = self.weather.lateness;
        let late = self.rng.range(0, lateness);
        self.schedule(due + late, Event::Wake { node: at, generation });
        Ok(())
    }

    pub(crate) fn set_weather(&mut self, weather: Weather) {
        self.aftermath = self.now + self.weather.delay.1 + self.weather.lateness;
        self.weather = weather;
        self.say(|| format!("{weather:?}"));
    }

    /// It takes time to add the addresses of a virtual router.
    pub(crate) fn cost(&self) -> u64 {
        self.plan.interval() / 50
    }

    fn carry_out(&mut self, at: usize, action: Action) -> Result<(), String> {
        let now = self.now;
        match action {
            Action::Send { router, source, destination, bytes } => {
                self.last_sent[at] = now;
                self.send(at, &Packet { router, source, destination, bytes });
            }
            Action::HoldAddresses { router, lifetime } => {
                self.busy += self.cost();
                self.nodes[at].hold(now + self.busy, &router, lifetime);
            }
            Action::RenewAddresses { lifetime } => self.nodes[at].renew(now, lifetime),
            Action::DropAddresses { .. } if self.sabotage == Some(Sabotage::KeepsAddresses) => {}
            Action::DropAddresses { router } => self.nodes[at].drop_addresses(&router),
            Action::Changed(change) => {
                self.counts.transitions += 1;
                self.say(|| format!("node {at}: {:?} -> {:?}: {}", change.from, change.to, change.reason));
                let length = change.reason.chars().count();
                if !(1..=128).contains(&length) || change.from == change.to {
                    return Err(format!("node {at}: not a transition with a reason: {change:?}"));
                }
                if self.at_rest {
                    return Err(format!("node {at} changed though nothing happened: {change:?}"));
                }
            }
            Action::Switchover(outcome) => {
                self.say(|| format!("node {at}: switch-over {outcome:?}"));
                self.switchover = Some(outcome);
            }
            Action::Warning(warning) => self.say(|| format!("node {at}: {}: {}", warning.kind, warning.text)),
            Action::Stopped { addresses_left } => {
                self.say(|| format!("node {at} stopped, addresses left: {addresses_left}"));
            }
            Action::Announce { .. } | Action::Remember { .. } => {}
        }
        Ok(())
    }

    fn send(&mut self, from: usize, packet: &Packet) {
        let net = self.nodes[from].net(&packet.router);
        match self.sabotage {
            Some(Sabotage::LosesPriorityZero) if packet.bytes[2] == 0 => return,
            Some(Sabotage::MutesTheFirst) if from == 0 => return,
            _ => {}
        }
        for to in 0..self.nodes.len() {
            if to == from || !self.nodes[from].link_up[net] {
                continue;
            }
            self.counts.datagrams += 1;
            if self.cut[net][from][to] || self.rng.chance(self.weather.loss) {
                self.counts.lost += 1;
                continue;
            }
            let (low, high) = self.weather.delay;
            let copies = 1 + u64::from(self.rng.chance(self.weather.repeat));
            for _ in 0..copies {
                let delay = self.rng.range(low, high);
                self.schedule(self.now + self.busy + delay, Event::Deliver { to, packet: packet.clone() });
            }
        }
    }
}
