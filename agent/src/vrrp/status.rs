//! The groups as status and metrics show them.

use std::collections::BTreeMap;
use std::time::Duration;

use bascule_vrrp::group::{Difference, FORGOTTEN, RouterStatus, StalePeer};
use bascule_vrrp::{BootTime, GroupState, Link};
use serde::{Deserialize, Serialize};

use super::clock;
use super::driver::Driver;
use super::member::Member;
use crate::secrets::SecretStatus;

/// All groups of this director.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VrrpStatus {
    /// The groups.
    pub groups: Vec<GroupStatus>,
    /// Advertisements heard for virtual routers that are nobody's here, since the start.
    pub foreign_advertisements: u64,
    /// Those virtual routers; at most 256 are remembered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<ForeignStatus>,
    /// Addresses put back into active groups, or removed where they had no business.
    pub repaired: u64,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// Its state: Initialize, Fault, Backup or Active.
    pub state: GroupState,
    /// It is Active and hands over, or stops its services in order to.
    pub releasing: bool,
    /// Why it is in that state, in at most 128 characters.
    pub reason: String,
    /// For how long.
    pub seconds_in_state: f64,
    /// The priority that it advertises.
    pub priority: u8,
    /// Whether a commanded switch-over holds against preemption.
    pub hold: bool,
    /// Whether it stands by, because the machine is out of service: it is active only while no other member can be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stands_by: bool,
    /// Why what is configured now cannot be carried out, if so: it goes on as before, or does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What it tracks and that fails: by that it is in Fault, or its priority is another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<String>,
    /// What it should have on this machine while it is active and has not, such as an address or a route, and why; at
    /// most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
    /// The keys of Secrets that its configuration names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretStatus>,
    /// Its virtual routers.
    pub instances: Vec<InstanceStatus>,
}

/// A virtual router: an instance's addresses of one family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Name of the instance.
    pub name: String,
    /// IPv4 or IPv6.
    pub family: String,
    /// The interface.
    pub interface: String,
    /// The virtual router id.
    pub virtual_router_id: u8,
    /// The interface's state: Up, Down, NoAddress, Missing, Deaf (no socket), Mute (nothing can be sent), NoHome (no interface with
    /// the virtual MAC address) or Unknown.
    pub link: String,
    /// Its state: Initialize, Backup or Active.
    pub state: String,
    /// It is Backup and hears nobody; it waits for the rest of its group.
    pub ready: bool,
    /// The active router's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// When an active router was last heard; absent when none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard_seconds_ago: Option<f64>,
    /// Advertisements sent.
    pub sent: u64,
    /// Of them, with priority 0.
    pub sent_priority_zero: u64,
    /// Datagrams received.
    pub received: u64,
    /// Of them, valid advertisements.
    pub accepted: u64,
    /// Of them, with priority 0.
    pub accepted_priority_zero: u64,
    /// Peers of which everything is refused because their clocks are too far from ours, in words; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<String>,
    /// What was dropped, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// In what the configuration of a peer differs, as far as its advertisements told within the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<DifferenceStatus>,
    /// How often it became Active.
    pub became_active: u64,
    /// With a virtual MAC address: the interface that has it and the addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_interface: Option<String>,
    /// Whether packets to the addresses that are for no virtual service are dropped (`accept: false`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub services_only: bool,
}

/// Something in which the configuration of a peer is not ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceStatus {
    /// What: addresses, authentication, interval, members, priority or version.
    pub what: String,
    /// The peer.
    pub peer: String,
    /// In words.
    pub message: String,
    /// When it was heard last.
    pub heard_seconds_ago: f64,
}

/// A virtual router that is nobody's here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignStatus {
    /// Where it was heard.
    pub interface: String,
    /// Its virtual router id.
    pub virtual_router_id: u8,
    /// Version of the protocol.
    pub version: u8,
    /// Who speaks.
    pub source: String,
    /// Advertisements heard.
    pub count: u64,
    /// When it was last heard.
    pub heard_seconds_ago: f64,
}

impl Driver {
    /// What is to be shown.
    pub(super) fn status(&self) -> VrrpStatus {
        let now = clock::now().boot;
        let groups = self.members.iter().map(|(name, member)| {
            let status = member.group.status();
            GroupStatus {
                group: name.to_string(),
                state: status.state,
                releasing: status.releasing || member.yielding.is_some(),
                reason: status.reason,
                seconds_in_state: now.since(status.since).as_secs_f64(),
                priority: status.priority,
                hold: status.hold,
                stands_by: member.group.stands_by(),
                refused: None,
                failing: status.failing,
                lacking: self.lacking(name),
                secrets: Vec::new(),
                instances: status.routers.into_iter().map(|router| instance(router, member, now)).collect(),
            }
        });
        let foreign = self.foreign.routers().iter().map(|one| ForeignStatus {
            interface: one.interface.to_string(),
            virtual_router_id: one.vrid,
            version: one.version,
            source: one.source.to_string(),
            count: one.count,
            heard_seconds_ago: now.since(one.last).as_secs_f64(),
        });
        let waiting = self.waiting.iter().map(|plan| GroupStatus {
            group: plan.config.name.to_string(),
            state: GroupState::Initialize,
            releasing: false,
            reason: "begins when another group has handed over what both have".to_owned(),
            seconds_in_state: 0.0,
            priority: plan.config.priority,
            hold: false,
            stands_by: false,
            refused: None,
            failing: Vec::new(),
            lacking: Vec::new(),
            secrets: Vec::new(),
            instances: Vec::new(),
        });
        VrrpStatus {
            groups: groups.chain(waiting).collect(),
            foreign_advertisements: self.totals.foreign,
            foreign: foreign.collect(),
            repaired: self.totals.repaired,
        }
    }
}

fn instance(router: RouterStatus, member: &Member, now: BootTime) -> InstanceStatus {
    let counters = router.counters;
    let differences = router.differences.iter().filter(|one| now.since(one.heard_at) < FORGOTTEN);
    let own_link = member.plan.routers.get(&router.id).and_then(|plan| plan.own_link.as_ref());
    let configured = member.plan.spec.instances.iter().find(|one| *one.name == *router.id.instance);
    InstanceStatus {
        name: router.id.instance.to_string(),
        family: router.id.family.to_string(),
        interface: router.interface,
        virtual_router_id: router.vrid,
        link: match router.link {
            Link::Up { .. } => "Up",
            Link::Down => "Down",
            Link::NoAddress => "NoAddress",
            Link::Missing => "Missing",
            Link::Deaf => "Deaf",
            Link::Mute => "Mute",
            Link::NoHome => "NoHome",
            Link::Unknown => "Unknown",
        }
        .to_owned(),
        state: format!("{:?}", router.state),
        ready: router.ready,
        active: router.active.map(|active| active.to_string()),
        heard_seconds_ago: router.heard_at.map(|at| now.since(at).as_secs_f64()),
        sent: counters.sent,
        sent_priority_zero: counters.sent_priority_zero,
        received: counters.received,
        accepted: counters.accepted,
        accepted_priority_zero: counters.accepted_priority_zero,
        stale: router.stale.iter().filter_map(|peer| stale(peer, member, now)).collect(),
        rejected: counters.rejected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        became_active: counters.became_active,
        differences: differences.map(|one| difference(one, now)).collect(),
        own_interface: own_link.map(|link| link.name.to_string()),
        services_only: configured.is_some_and(|one| !one.accept),
    }
}

fn difference(one: &Difference, now: BootTime) -> DifferenceStatus {
    DifferenceStatus {
        what: one.what.to_owned(),
        peer: one.peer.to_string(),
        message: one.text.clone(),
        heard_seconds_ago: now.since(one.heard_at).as_secs_f64(),
    }
}

/// What is to be said of a peer that is not believed for its clock, unless it has fallen silent.
fn stale(peer: &StalePeer, member: &Member, now: BootTime) -> Option<String> {
    let StalePeer { source, seconds, refused, at } = *peer;
    if now.since(at) > (member.plan.config.interval * 10).max(Duration::from_secs(10)) {
        return None;
    }
    let side = if seconds < 0 { "ahead of" } else { "behind" };
    Some(format!(
        "all {refused} advertisements of {source} were refused: its clock is {} s {side} ours, beyond the window; set the clocks, or \
         both become active",
        seconds.unsigned_abs()
    ))
}
