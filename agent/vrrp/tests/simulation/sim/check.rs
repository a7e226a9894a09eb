//! Two that hear each other are not both active for longer than the derived bound.

use std::collections::BTreeMap;

use super::world::{Event, World};

/// Since when two are active that should have settled it, with the priorities that they had.
#[derive(Debug, Default)]
pub(crate) struct Pairs(BTreeMap<(usize, usize), (u64, u8, u8)>);

impl World {
    /// Once in a tenth of an interval.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        let tick = (self.plan.interval() / 10).max(1);
        self.schedule(self.now + tick, Event::Look);
        let count = self.nodes.len();
        for a in 0..count {
            for b in a + 1..count {
                self.look_at(a, b, tick)?;
            }
        }
        Ok(())
    }

    /// The one that wins must speak within an interval, its word takes as long as words take, and the other one gives way. A
    /// timer may be late, a clock slow, a process busy.
    pub(crate) fn bound_of_two(&self) -> u64 {
        let busy = self.cost() * self.nodes[0].routers.len() as u64;
        (self.plan.interval() + self.weather.delay.1 + self.weather.lateness + busy) * 102 / 100
    }

    fn look_at(&mut self, a: usize, b: usize, tick: u64) -> Result<(), String> {
        let priorities = (self.nodes[a].priority(), self.nodes[b].priority());
        let both = self.nodes[a].contends() && self.nodes[b].contends();
        if !both || !self.hears(a, b) || self.now < self.aftermath {
            self.pairs.0.remove(&(a, b));
            return Ok(());
        }
        let entry = self.pairs.0.entry((a, b)).or_insert((self.now, priorities.0, priorities.1));
        if (entry.1, entry.2) != priorities {
            *entry = (self.now, priorities.0, priorities.1);
        }
        let lasted = self.now - entry.0;
        self.counts.longest_two = self.counts.longest_two.max(lasted * 100 / self.plan.interval());
        if lasted > self.bound_of_two() + tick {
            return Err(format!(
                "nodes {a} and {b} hear each other and are both active for {lasted} ns, the bound is {}",
                self.bound_of_two()
            ));
        }
        Ok(())
    }

    /// Whether there is a network on which the one that should give way is sure to hear the other one. With one priority the
    /// leading virtual router decides alone, unless it is cut off.
    fn hears(&self, a: usize, b: usize) -> bool {
        let equal = self.nodes[a].priority() == self.nodes[b].priority();
        let deciding = if equal { 1 } else { self.nodes[a].routers.len() };
        self.weather.loss == 0
            && self.nodes[a].routers[..deciding].iter().any(|(router, net)| {
                let net = *net;
                let rank = |node: usize| (self.nodes[node].priority(), self.nodes[node].source(router));
                let (winner, loser) = if rank(a) > rank(b) { (a, b) } else { (b, a) };
                !self.cut[net][winner][loser]
                    && self.nodes[winner].link_up[net]
                    && self.nodes[loser].link_up[net]
            })
    }
}
