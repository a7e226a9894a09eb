//! The addresses of groups on this machine: taken, renewed, announced, put back, given up.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use bascule_vrrp::RouterId;

use super::addresses::{self, Owner, Spot};
use super::clock;
use super::config::{GroupPlan, Placement};
use super::driver::{Driver, RETRY};
use super::kernel::Op;
use super::member::Leaving;

/// Longest until what failed is tried again.
const RARELY: Duration = Duration::from_secs(60);

impl Driver {
    pub(super) fn hold(&mut self, name: &Arc<str>, router: &RouterId, lifetime: Option<Duration>) {
        let Some(plan) = self.members.get(name).and_then(|member| member.plan.routers.get(router)) else {
            return;
        };
        let owner = self.owner();
        let (ops, foreign) = addresses::hold(plan, &self.network, &owner, lifetime);
        let said = (!foreign.is_empty()).then(|| {
            let all: Vec<_> = foreign.iter().map(ToString::to_string).collect();
            format!(
                "{router}: {} on {} was not put there by this agent: it stays there in whatever state the group is; remove it",
                all.join(", "),
                plan.home()
            )
        });
        if self.members.get_mut(name).is_some_and(|member| member.is_news("foreign", said.as_deref())) {
            self.voice.warn(format!("{name}: {}", said.unwrap_or_default()));
        }
        self.apply(&ops);
    }

    /// Removes the addresses of a virtual router that is, or was, one of a group.
    pub(super) fn release(&mut self, name: &Arc<str>, router: &RouterId, held: bool) {
        let Some(plan) = self.members.get(name).and_then(|member| member.plan.routers.get(router)) else {
            return;
        };
        let owner = self.owner();
        let mut ops = addresses::release(plan, &self.network, &owner, held);
        self.spare_others(name, &mut ops);
        self.apply(&ops);
    }

    /// An address that moved from one group to another is the other's now.
    pub(super) fn spare_others(&self, name: &Arc<str>, ops: &mut Vec<Op>) {
        let held: BTreeSet<(u32, IpAddr)> = self
            .members
            .iter()
            .filter(|(other, _)| *other != name)
            .flat_map(|(_, member)| {
                member
                    .holds
                    .keys()
                    .filter_map(|id| member.plan.routers.get(id))
                    .filter_map(|router| Some((self.network.index(router.home())?, &router.places)))
            })
            .flat_map(|(index, places)| places.iter().map(move |place| (index, place.address)))
            .collect();
        ops.retain(|op| !matches!(op, Op::Drop { index, address, .. } if held.contains(&(*index, *address))));
    }

    /// Carries out changes. What fails is tried again, ever more rarely ([`Driver::put_back`]).
    pub(super) fn apply(&mut self, ops: &[Op]) {
        if ops.is_empty() {
            return;
        }
        let applied = self.kernel.apply(ops);
        self.note_refused(ops, &applied);
        match applied {
            Ok(failed) => {
                // What was done is known before the kernel's notification of it is heard.
                for op in ops.iter().filter(|op| !failed.iter().any(|(other, _)| other == *op)) {
                    self.network.update(op.event());
                }
                if failed.is_empty() {
                    return;
                }
                self.put_back_later();
                for (op, error) in failed {
                    let (what, index, address) = match &op {
                        Op::Hold { index, place, .. } => ("added", *index, place.address),
                        Op::Drop { index, address, .. } => ("removed", *index, *address),
                    };
                    let interface =
                        self.network.name(index).map_or_else(|| index.to_string(), ToString::to_string);
                    self.voice.warn(format!("{address} cannot be {what} on {interface}: {error}"));
                }
            }
            Err(error) => {
                self.put_back_later();
                self.voice.warn(format!("addresses cannot be changed: {error}"));
            }
        }
    }

    /// Keeps what could not be added, until it could or is not wanted any more.
    fn note_refused(&mut self, ops: &[Op], applied: &io::Result<Vec<(Op, io::Error)>>) {
        for op in ops {
            let (key, wanted) = match op {
                Op::Hold { index, place, .. } => ((*index, place.address), true),
                Op::Drop { index, address, .. } => ((*index, *address), false),
            };
            let error = match applied {
                Ok(failed) => failed.iter().find(|(other, _)| other == op).map(|(_, error)| error),
                Err(error) => Some(error),
            };
            match error.filter(|_| wanted) {
                Some(error) => self.refused.insert(key, error.to_string()),
                None => self.refused.remove(&key),
            };
        }
    }

    /// Addresses that a group should have on this machine and that could not be added, and why.
    pub(super) fn lacking_addresses(&self, name: &Arc<str>) -> Vec<String> {
        let Some(member) = self.members.get(name).filter(|_| !self.refused.is_empty()) else {
            return Vec::new();
        };
        let held = member.plan.routers.iter().filter(|(id, _)| member.holds.contains_key(*id));
        let places =
            held.flat_map(|(_, router)| router.places.iter().map(move |place| (router.home(), place)));
        let why = |(home, place): (&Arc<str>, &Placement)| {
            let why = self.refused.get(&(self.network.index(home)?, place.address))?;
            Some(format!("address {} on {home}: {why}", place.address))
        };
        places.filter_map(why).collect()
    }

    fn put_back_later(&mut self) {
        let pause = RETRY.saturating_mul(1 << self.setbacks.min(6)).min(RARELY);
        self.setbacks = self.setbacks.saturating_add(1);
        self.put_back_at = Some(clock::now().boot + pause);
    }

    pub(super) fn announce(&self, name: &Arc<str>, router: &RouterId, times: u32) {
        let Some(plan) = self.members.get(name).and_then(|member| member.plan.routers.get(router)) else {
            return;
        };
        let Some(index) = self.network.index(plan.home()) else { return };
        let mac = self.network.mac(index);
        // Every address once before any of them twice. One that finds the interface's queue full is no reason to leave out the rest.
        let (mut failures, mut last) = (0_u32, None);
        for place in (0..times).flat_map(|_| &plan.places) {
            if let Err(error) = self.announcements.send(index, mac, place.address) {
                failures += 1;
                last = Some((place.address, error));
            }
        }
        if let Some((address, error)) = last {
            let interface = plan.home();
            self.voice.warn(format!(
                "{name}: {failures} announcements cannot be sent on {interface}, the last one for {address}: {error}"
            ));
        }
    }

    /// Puts back what somebody removed from an active group, and removes what has no business here.
    pub(super) fn put_back(&mut self) {
        if !self.configured {
            return;
        }
        let owner = self.owner();
        let mut ops = Vec::new();
        for (name, member) in &self.members {
            for (id, router) in &member.plan.routers {
                match member.holds.get(id) {
                    Some(lifetime) => {
                        ops.extend(addresses::missing(router, &self.network, &owner, *lifetime))
                    }
                    None if member.leaving == Leaving::No => {
                        let mut gone = addresses::release(router, &self.network, &owner, false);
                        self.spare_others(name, &mut gone);
                        ops.extend(gone);
                    }
                    None => {}
                }
            }
        }
        ops.extend(addresses::leftover(&self.network, &self.spots(), &owner));
        if !ops.is_empty() {
            self.totals.repaired += ops.len() as u64;
            let shown: Vec<_> = ops.iter().take(4).map(|op| self.shown(op)).collect();
            let more = ops.len().saturating_sub(shown.len());
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            self.voice.warn(format!("put right: {}{more}", shown.join(", ")));
            self.put_back_at = None;
            self.apply(&ops);
        }
        if self.put_back_at.is_none() {
            self.setbacks = 0;
        }
    }

    pub(super) fn shown(&self, op: &Op) -> String {
        let name =
            |index: u32| self.network.name(index).map_or_else(|| index.to_string(), ToString::to_string);
        match op {
            Op::Hold { index, place, .. } => format!("{} back on {}", place.address, name(*index)),
            Op::Drop { index, address, .. } => format!("{address} off {}", name(*index)),
        }
    }

    pub(super) fn floating(&self) -> &BTreeSet<IpAddr> {
        &self.floating
    }

    /// Tells which addresses are ours.
    pub(super) fn owner(&self) -> Owner<'_> {
        Owner { marks: self.marks, noted: self.ledger.entries() }
    }

    /// Every address that a group of the configuration may have.
    pub(super) fn spots(&self) -> BTreeSet<Spot> {
        self.members.values().flat_map(|member| spots(&member.plan)).collect()
    }

    /// Makes the table of addresses that may be ours that of the configuration, before any of them is added.
    pub(super) fn note_addresses(&mut self) {
        self.floating =
            self.members.values().flat_map(|m| m.plan.places().map(|(_, place)| place.address)).collect();
        let spots = self.spots();
        self.ledger.add(spots.iter().cloned());
    }

    /// Forgets addresses that are no group's any more and are gone.
    pub(super) fn forget_addresses(&mut self) {
        let spots = self.spots();
        let gone: Vec<_> =
            self.ledger.entries().iter().filter(|spot| !spots.contains(*spot)).cloned().collect();
        self.ledger.remove(&gone);
        let floating = &self.floating;
        self.refused.retain(|(_, address), _| floating.contains(address));
    }
}

fn spots(plan: &GroupPlan) -> impl Iterator<Item = Spot> {
    plan.places().map(|(interface, place)| Spot {
        interface: interface.into(),
        address: place.address,
        prefix: place.prefix,
    })
}
