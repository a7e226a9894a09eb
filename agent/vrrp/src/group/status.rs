//! What a group looks like from outside.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Difference, Group, GroupState, Link, RouterId, StalePeer};
use crate::router::{Peer, State, StateName};
use crate::time::BootTime;

/// A group, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: GroupState,
    /// Whether it is Active and hands over.
    pub releasing: bool,
    /// Since when it is in this state.
    pub since: BootTime,
    /// Why, in at most 128 characters.
    pub reason: String,
    /// The priority that it advertises.
    pub priority: u8,
    /// Whether a commanded switch-over holds against preemption.
    pub hold: bool,
    /// What it tracks and that fails.
    pub failing: Vec<String>,
    /// Its virtual routers.
    pub routers: Vec<RouterStatus>,
}

/// A virtual router, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterStatus {
    /// Which.
    pub id: RouterId,
    /// Its interface.
    pub interface: String,
    /// Its VRID.
    pub vrid: u8,
    /// The interface's state.
    pub link: Link,
    /// Its state.
    pub state: StateName,
    /// Whether it is Backup and hears no active router.
    pub ready: bool,
    /// The active router that it listens to; for an active one, itself.
    pub active: Option<IpAddr>,
    /// When a peer was last heard; none if nobody was since it is Backup.
    pub heard_at: Option<BootTime>,
    /// In what the configuration of a peer differs, as far as it was heard; see [`super::FORGOTTEN`].
    pub differences: Vec<Difference>,
    /// Peers of which everything is refused because the clocks are too far apart, at most 16. Who has fallen silent
    /// since is among them: see [`StalePeer::at`].
    pub stale: Vec<StalePeer>,
    /// What it counted since it was made.
    pub counters: Counters,
}

/// What a virtual router counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Advertisements sent; unicast counts once for all peers.
    pub sent: u64,
    /// Of them, those with priority 0.
    pub sent_priority_zero: u64,
    /// Datagrams handed in.
    pub received: u64,
    /// Of them, valid advertisements.
    pub accepted: u64,
    /// Of them, those with priority 0.
    pub accepted_priority_zero: u64,
    /// What was dropped, by [`crate::Rejection::name`].
    pub rejected: BTreeMap<&'static str, u64>,
    /// How often it became Active.
    pub became_active: u64,
}

impl Group {
    /// What is to be shown.
    pub fn status(&self) -> Status {
        Status {
            state: self.state,
            releasing: self.is_releasing(),
            since: self.since,
            reason: self.reason.clone(),
            priority: self.priority(),
            hold: self.hold,
            failing: self
                .failing
                .iter()
                .filter(|(_, failing)| **failing)
                .map(|(name, _)| name.to_string())
                .collect(),
            routers: self.slots.iter().map(RouterStatus::of).collect(),
        }
    }
}

impl RouterStatus {
    fn of(slot: &super::Slot) -> Self {
        let (peer, heard_at): (Option<Peer>, _) = match slot.router.state() {
            State::Backup(backup) => {
                let peer = backup.active.or(backup.lower);
                // Where nobody was heard it says since when this one listens.
                (peer, peer.map(|_| backup.heard_at))
            }
            State::Initialize | State::Active(_) => (None, None),
        };
        let state = slot.router.state_name();
        RouterStatus {
            id: slot.id.clone(),
            interface: slot.interface.to_string(),
            vrid: slot.endpoint.vrid,
            link: slot.link,
            state,
            ready: slot.router.is_ready(),
            active: match state {
                StateName::Active => slot.router.source(),
                _ => peer.map(|peer| peer.source),
            },
            heard_at,
            differences: slot.differences.all(),
            stale: slot.stale.all(),
            counters: slot.counters.clone(),
        }
    }
}
