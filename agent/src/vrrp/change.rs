//! Other configurations, and commands.

use std::collections::BTreeSet;
use std::sync::Arc;

use bascule_vrrp::group::AgentLoss;
use bascule_vrrp::{Input, RouterId};

use super::addresses;
use super::config::{GroupPlan, SERVICES};
use super::driver::{Driver, look};
use super::member::{Leaving, Waiting};
use super::routing::Cause;
use super::yielding::Then;

impl Driver {
    /// Makes the groups those of a configuration. Groups in `keep` stay as they are: what is configured for them now cannot be
    /// carried out. What a group's configuration leaves as it was is not disturbed; a group that is not configured any more
    /// hands over and goes.
    pub(super) fn configure(&mut self, plans: Vec<GroupPlan>, keep: &BTreeSet<String>) {
        // Nobody would end what begins now.
        if self.stopping {
            return;
        }
        self.waiting.clear();
        let wanted: BTreeSet<Arc<str>> = plans.iter().map(|plan| plan.config.name.clone()).collect();
        let gone = self.members.iter().filter(|(name, member)| {
            !wanted.contains(*name) && !keep.contains(&***name) && member.leaving == Leaving::No
        });
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            if let Some(member) = self.members.get_mut(&name) {
                member.leaving = Leaving::Away(None);
            }
            self.hand_over(&name, Then::Stop);
        }
        for plan in plans {
            match self.members.get_mut(&plan.config.name) {
                None => self.add_in_turn(plan),
                Some(member) if matches!(member.leaving, Leaving::Away(_)) => {
                    member.leaving = Leaving::Away(Some(Box::new(plan)));
                }
                Some(member) if member.plan == plan => self.stand_by(&plan.config.name),
                Some(_) => self.change(plan),
            }
        }
        self.configured = true;
        self.open_wires();
        self.tell_links();
        self.make_links(true);
        self.put_back();
        self.route(Cause::Repair);
        self.forget_addresses();
    }

    /// Another configuration of a group that runs: addresses that come are added before those that go are removed.
    fn change(&mut self, plan: GroupPlan) {
        let name = plan.config.name.clone();
        self.say_warnings(&plan);
        let Some(member) = self.members.get_mut(&name) else { return };
        let former = std::mem::replace(&mut member.plan, plan);
        let config = Box::new(member.plan.config.clone());
        member.links.retain(|id, _| same_router(&former, &member.plan, id));
        member.tracked.clear();
        self.note_addresses();
        self.make_links(false);
        self.open_wires();
        let links = self.links_of(&name);
        if let Some(member) = self.members.get_mut(&name) {
            member.links.extend(links.iter().map(|(id, link)| (id.clone(), *link)));
        }
        self.handle(&name, Input::Configure { config, links });
        let Some(member) = self.members.get_mut(&name) else { return };
        let plan = &member.plan;
        let gives_away = plan.spec.other_preferred && !former.spec.other_preferred;
        member.holds.retain(|id, _| plan.routers.contains_key(id));
        self.route(Cause::Moved);
        self.drop_former(&former, &name);
        self.tell_links_of(&name);
        if gives_away {
            self.give_away(&name);
        }
        self.stand_by(&name);
    }

    fn links_of(&self, name: &Arc<str>) -> Vec<(RouterId, bascule_vrrp::Link)> {
        let Some(member) = self.members.get(name) else { return Vec::new() };
        let routers = member.plan.routers.iter();
        routers
            .map(|(id, router)| (id.clone(), look(&self.network, &self.wires, self.floating(), id, router)))
            .collect()
    }

    /// Removes the addresses that a group had by its former configuration and has not by the present one.
    fn drop_former(&mut self, former: &GroupPlan, name: &Arc<str>) {
        let Some(member) = self.members.get(name) else { return };
        let mut ops = Vec::new();
        for (id, router) in &former.routers {
            let mut gone = router.clone();
            let now = member.plan.routers.get(id).filter(|now| now.home() == router.home());
            let stays = |place: &super::config::Placement| {
                now.is_some_and(|now| {
                    now.places
                        .iter()
                        .any(|other| (other.address, other.prefix) == (place.address, place.prefix))
                })
            };
            gone.places.retain(|place| !stays(place));
            let owner = self.owner();
            ops.extend(addresses::release(&gone, &self.network, &owner, false));
        }
        self.spare_others(name, &mut ops);
        self.apply(&ops);
    }

    /// Gives a group's addresses to another member.
    pub(super) fn switchover(&mut self, group: &str, waiting: Waiting) {
        let name: Arc<str> = group.into();
        let Some(member) = self.members.get_mut(&name) else {
            let known: Vec<_> = self.members.keys().map(|name| &**name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let _ = waiting.send(Err(format!("this director has no group {group}; it has: {known}")));
            return;
        };
        if member.switchover.is_some() {
            let _ = waiting.send(Err("a switch-over is under way".to_owned()));
            return;
        }
        member.switchover = Some(waiting);
        self.hand_over(&name, Then::SwitchOver);
    }

    /// Ends all groups: each hands over first.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.waiting.clear();
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in names {
            let Some(member) = self.members.get_mut(&name) else { continue };
            match &mut member.leaving {
                Leaving::No => self.hand_over(&name, Then::Stop),
                // It has been told, and does not come back.
                Leaving::Away(again) => *again = None,
                Leaving::End => {}
            }
        }
    }

    /// Ends groups that wait for a successor, without one.
    pub(super) fn halt(&mut self) {
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in names {
            let Some(member) = self.members.get_mut(&name).filter(|member| member.leaving != Leaving::End)
            else {
                continue;
            };
            member.yielding = None;
            if member.plan.config.on_agent_loss == AgentLoss::Keep {
                member.leaving = Leaving::End;
            } else {
                self.handle(&name, Input::Halt);
            }
        }
    }

    /// Whether all groups have ended, after [`Driver::stop`].
    pub(super) fn has_stopped(&self) -> bool {
        self.members.values().all(|member| member.leaving == Leaving::End)
    }

    /// Something that a group tracks outside of this thread failed or recovered.
    pub(super) fn tracked(&mut self, group: &str, name: &str, failing: bool) {
        let group: Arc<str> = group.into();
        if name != SERVICES {
            let key = (group.clone(), name.into());
            if failing {
                self.failing.insert(key)
            } else {
                self.failing.remove(&key)
            };
            self.tell_links_of(&group);
            return;
        }
        if let Some(member) = self.members.get_mut(&group) {
            member.inherited_fault = None;
        }
        self.handle(&group, Input::Tracked { name, failing });
    }
}

/// Whether a virtual router is the same one in both configurations.
fn same_router(one: &GroupPlan, other: &GroupPlan, id: &RouterId) -> bool {
    let key = |plan: &GroupPlan| plan.routers.get(id).map(|router| (router.interface.clone(), router.vrid));
    key(one).is_some() && key(one) == key(other)
}
