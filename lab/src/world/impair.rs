//! Cables that are bad: netem at either end of a cable. What a cable has outlives the node at its end: it is there again when that boots.

use std::os::fd::AsFd;
use std::sync::{MutexGuard, PoisonError};

use super::error::Result;
use super::links::Links;
use super::node::{Cable, Node};
use super::qdisc::{Counters, Netem, Queues};
use super::switch::Switch;

/// Which end of a cable has the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// The node's: frames from it.
    From,
    /// The switch's: frames to the node.
    To,
}

/// What is wrong with cables, by port of the switch and way.
pub(super) type Bad = std::collections::BTreeMap<(String, Way), Netem>;

impl Switch {
    fn bad(&self) -> MutexGuard<'_, Bad> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queues at that end, and the number of the interface there.
    fn end(&self, node: &Node, cable: &Cable, way: Way) -> Result<(Queues, u32)> {
        let (network, name) = match way {
            Way::From => (node.network()?, &cable.interface),
            Way::To => (self.node.network()?, &cable.port),
        };
        let index = Links::open(network.as_fd())?.interface(name)?.index;
        Ok((Queues::open(network.as_fd())?, index))
    }

    /// Makes a cable bad, one way.
    pub(crate) fn impair(&self, node: &Node, cable: &Cable, way: Way, netem: &Netem) -> Result<()> {
        let (mut queues, index) = self.end(node, cable, way)?;
        queues.add(index, netem)?;
        self.bad().insert((cable.port.clone(), way), netem.clone());
        Ok(())
    }

    /// Makes a cable good again, one way. What its queue had done, if the node is on.
    pub(crate) fn repair(&self, node: &Node, cable: &Cable, way: Way) -> Result<Option<Counters>> {
        self.bad().remove(&(cable.port.clone(), way));
        if !node.is_up() {
            return Ok(None);
        }
        let (mut queues, index) = self.end(node, cable, way)?;
        let read = queues.read(index)?;
        if read.is_some() {
            queues.remove(index)?;
        }
        Ok(read.map(|(_, counters)| counters))
    }

    /// What the kernel says of a cable, one way; `None`: nothing is wrong with it.
    pub(crate) fn queue(&self, node: &Node, cable: &Cable, way: Way) -> Result<Option<(Netem, Counters)>> {
        let (mut queues, index) = self.end(node, cable, way)?;
        queues.read(index)
    }

    /// What is wrong with a cable, one way.
    pub(crate) fn is_bad(&self, cable: &Cable, way: Way) -> Option<Netem> {
        self.bad().get(&(cable.port.clone(), way)).cloned()
    }

    /// Whether something is wrong with a cable: a frame that does not come then shows nothing.
    pub(crate) fn is_impaired(&self, cable: &Cable) -> bool {
        [Way::From, Way::To].into_iter().any(|way| self.bad().contains_key(&(cable.port.clone(), way)))
    }

    /// Makes a cable that was just made as bad as the one before.
    pub(super) fn impair_again(&self, node: &Node, cable: &Cable) -> Result<()> {
        for way in [Way::From, Way::To] {
            if let Some(netem) = self.is_bad(cable, way) {
                let (mut queues, index) = self.end(node, cable, way)?;
                queues.add(index, &netem)?;
            }
        }
        Ok(())
    }
}
