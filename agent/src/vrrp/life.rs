//! How a group begins and ends on this machine.

use std::{sync::Arc, time::Duration};

use bascule_vrrp::resume::{Verdict, judge};
use bascule_vrrp::{Group, GroupState, Input};

use super::addresses::Owner;
use super::clock;
use super::config::GroupPlan;
use super::driver::Driver;
use super::member::{Leaving, Member};
use super::record;
use super::routing::Cause;
use super::voice::Remark;

impl Driver {
    /// Begins a group: as Active, if a former process of this machine was so a moment ago and its addresses are still there.
    pub(super) fn begin(&mut self, name: &Arc<str>) {
        self.tell_links_of(name);
        let Some(member) = self.members.get_mut(name) else { return };
        let held = record::is_held(&self.paths.state_dir, name);
        let record = member.record.read();
        let owner = Owner { marks: self.marks, noted: self.ledger.entries() };
        let there = self.network.holds_all(member.plan.places(), |held| owner.owns(&self.network, held));
        let verdict = judge(record.as_ref(), &self.boot_id, clock::now().boot, there);
        if let Some(mut record) = record {
            record.hold |= held;
            member.group.remember(&record);
        } else if held {
            member.group.remember(&bascule_vrrp::resume::Record {
                boot_id: self.boot_id.clone(),
                last_advertisement: None,
                patience: Duration::ZERO,
                hold: true,
                sequences: Vec::new(),
            });
        }
        let resume = verdict == Verdict::Resume;
        match verdict {
            Verdict::Resume => {
                self.voice
                    .say(Remark::Info(format!("{name}: a former process was active a moment ago: going on")));
            }
            Verdict::Fresh { reason } => {
                tracing::debug!("vrrp: {name}: begins anew: {reason}");
                let routers: Vec<_> = member.plan.routers.keys().cloned().collect();
                for router in routers {
                    self.release(name, &router, false);
                }
            }
        }
        self.stand_by(name);
        self.handle(name, Input::Start { resume });
    }

    pub(super) fn stopped(&mut self, name: &Arc<str>) {
        let Some(member) = self.members.get_mut(name) else { return };
        match std::mem::replace(&mut member.leaving, Leaving::End) {
            Leaving::Away(again) => {
                member.record.remove();
                self.members.remove(name);
                if let Some(plan) = again {
                    self.add(*plan);
                }
                self.add_waiting();
                self.open_wires();
                self.make_links(true);
                self.put_back();
                self.route(Cause::Moved);
                self.forget_addresses();
            }
            // Its interfaces go.
            Leaving::End | Leaving::No => self.make_links(true),
        }
    }

    /// Takes a group in and begins it; after the hand-over of another one that still has its addresses or virtual routers, such as
    /// the same group under a former name.
    pub(super) fn add_in_turn(&mut self, plan: GroupPlan) {
        let before = |member: &&Member| member.leaving != Leaving::No && plan.meets(&member.plan);
        match self.members.values().find(before) {
            None => self.add(plan),
            Some(other) => {
                self.voice.say(Remark::Info(format!(
                    "{}: begins when {} has handed over: both have an address or a virtual router of one interface",
                    plan.config.name, other.plan.config.name
                )));
                self.waiting.push(plan);
            }
        }
    }

    /// Tries again those that waited for a group that has ended.
    fn add_waiting(&mut self) {
        for plan in std::mem::take(&mut self.waiting) {
            self.add_in_turn(plan);
        }
    }

    /// Takes a group in and begins it.
    fn add(&mut self, plan: GroupPlan) {
        self.say_warnings(&plan);
        let name = plan.config.name.clone();
        match Member::new(plan, &self.paths.records()) {
            Ok(member) => {
                self.members.insert(name.clone(), member);
                self.note_addresses();
                self.make_links(false);
                self.open_wires();
                self.begin(&name);
            }
            Err(error) => self.voice.warn(format!("{name}: {error}")),
        }
    }

    /// What is legal and still hardly meant.
    pub(super) fn say_warnings(&self, plan: &GroupPlan) {
        for warning in plan.config.warnings() {
            self.voice.warn(format!("{}: {warning}", plan.config.name));
        }
    }

    /// Takes a group in whose state another process left: nothing changes.
    pub(super) fn add_restored(&mut self, plan: GroupPlan, group: Group) {
        let name = plan.config.name.clone();
        let mut member = Member::with(plan, group, &self.paths.records());
        if member.group.state() == GroupState::Active {
            let lifetime = member.plan.config.address_lifetime();
            member.holds = member.plan.routers.keys().map(|id| (id.clone(), lifetime)).collect();
        }
        for status in member.group.status().routers {
            member.links.insert(status.id, status.link);
        }
        self.members.insert(name, member);
        self.note_addresses();
    }
}
