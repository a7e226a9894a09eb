//! The state of a group for another process of the same machine: a planned upgrade changes no state.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Group, GroupConfig, GroupState, Link, RouterId};
use crate::authentication::{Senders, Sequence};
use crate::packet::{Family, Version};
use crate::router::{State, VirtualRouter};
use crate::time::BootTime;

/// The form of [`Snapshot`]; another one is refused.
const FORMAT: u32 = 1;

/// The state of a group. Its points in time are of this machine's [`BootTime`]. It holds no keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    format: u32,
    group: String,
    version: Version,
    state: GroupState,
    since: BootTime,
    reason: String,
    running: bool,
    graced: bool,
    hold: bool,
    /// Absent in what a release wrote that knew nothing of it.
    #[serde(default)]
    stands_by: bool,
    commanded: bool,
    better_since: Option<BootTime>,
    failing: BTreeMap<String, bool>,
    renewed_at: Option<BootTime>,
    farewell_at: Option<BootTime>,
    routers: Vec<RouterSnapshot>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RouterSnapshot {
    instance: String,
    interface: String,
    family: Family,
    vrid: u8,
    link: Link,
    source: Option<IpAddr>,
    state: State,
    sequence: Sequence,
    senders: Senders,
    warned: bool,
    one_sided: bool,
}

impl Snapshot {
    /// Whose state it is.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Whether something that it tracks was failing.
    pub fn is_failing(&self, name: &str) -> bool {
        self.failing.get(name).copied().unwrap_or(false)
    }
}

/// Why a snapshot cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Another release wrote it in another form.
    #[error("the state to take over is of form {0}, this program knows form 1")]
    Format(u32),
    /// It is another group's, of another version of the protocol, or of none of the virtual routers.
    #[error("the state to take over is that of other virtual routers than are configured")]
    Routers,
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A group that goes on.
#[derive(Debug)]
pub struct Restored {
    /// It.
    pub group: Group,
    /// Whether its virtual routers are those that the other process had.
    pub whole: bool,
}

impl Group {
    /// The state, for [`Group::restore`] in another process. After it was taken, this process must not handle the group any more.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            format: FORMAT,
            group: self.config.name.to_string(),
            version: self.config.version,
            state: self.state,
            since: self.since,
            reason: self.reason.clone(),
            running: self.running,
            graced: self.graced,
            hold: self.hold,
            stands_by: self.stands_by,
            commanded: self.commanded,
            better_since: self.better_since,
            failing: self.failing.iter().map(|(name, failing)| (name.to_string(), *failing)).collect(),
            renewed_at: self.renewed_at,
            farewell_at: self.farewell_at,
            routers: self
                .slots
                .iter()
                .map(|slot| RouterSnapshot {
                    instance: slot.id.instance.to_string(),
                    interface: slot.interface.to_string(),
                    family: slot.id.family,
                    vrid: slot.endpoint.vrid,
                    link: slot.link,
                    source: slot.router.source(),
                    state: slot.router.state().clone(),
                    sequence: slot.sequence,
                    senders: slot.senders.clone(),
                    warned: slot.warned,
                    one_sided: slot.one_sided,
                })
                .collect(),
        }
    }

    /// Goes on where another process left off. Virtual routers that `config` has and that process had not take their links from
    /// `links`; they join with the next input, and [`Input::Configure`](super::Input::Configure) with the same configuration also
    /// makes addresses that are new on the others known.
    pub fn restore(
        config: GroupConfig,
        snapshot: Snapshot,
        links: &[(RouterId, Link)],
    ) -> Result<Restored, RestoreError> {
        if snapshot.format != FORMAT {
            return Err(RestoreError::Format(snapshot.format));
        }
        let mut group = Group::new(config)?;
        let same_group = *group.config.name == *snapshot.group && group.config.version == snapshot.version;
        if !same_group {
            return Err(RestoreError::Routers);
        }
        group.failing = group
            .config
            .trackers
            .iter()
            .filter_map(|tracker| Some((tracker.name.clone(), *snapshot.failing.get(&*tracker.name)?)))
            .collect();
        group.stands_by = snapshot.stands_by;
        let mut left = snapshot.routers;
        let (known, configured) = (left.len(), group.slots.len());
        let matched = group.restore_routers(&mut left, links);
        if matched == 0 {
            return Err(RestoreError::Routers);
        }
        group.state = snapshot.state;
        group.since = snapshot.since;
        group.reason = snapshot.reason;
        (group.running, group.graced) = (snapshot.running, snapshot.graced);
        (group.hold, group.commanded) = (snapshot.hold, snapshot.commanded);
        (group.better_since, group.renewed_at) = (snapshot.better_since, snapshot.renewed_at);
        group.farewell_at = snapshot.farewell_at;
        Ok(Restored { group, whole: matched == known && matched == configured })
    }

    /// Returns how many virtual routers were found.
    fn restore_routers(&mut self, left: &mut Vec<RouterSnapshot>, links: &[(RouterId, Link)]) -> usize {
        let priority = self.priority();
        let mut matched = 0;
        for slot in &mut self.slots {
            let same = |left: &RouterSnapshot| {
                *slot.id.instance == *left.instance
                    && *slot.interface == *left.interface
                    && slot.id.family == left.family
                    && slot.endpoint.vrid == left.vrid
            };
            let Some(at) = left.iter().position(same) else {
                if let Some((_, link)) = links.iter().find(|(id, _)| *id == slot.id) {
                    slot.link = *link;
                }
                continue;
            };
            let left = left.swap_remove(at);
            let parameters = self.config.parameters(self.interval, &slot.id, priority);
            slot.router = VirtualRouter::restore(parameters, left.source, left.state);
            (slot.link, slot.sequence, slot.senders) = (left.link, left.sequence, left.senders);
            (slot.warned, slot.one_sided) = (left.warned, left.one_sided);
            matched += 1;
        }
        matched
    }
}
