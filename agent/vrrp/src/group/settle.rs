//! What makes the virtual routers of a group one.

use std::time::Duration;

use super::{Action, AgentLoss, Change, Group, GroupState, Link, Slot, Switchover, Warning, about, shorten};
use crate::packet::Family;
use crate::router::{self, Backup, Reason, State, StateName};
use crate::time::{BootTime, Now, earliest};

/// What keeps a group from taking part.
pub(super) enum Blocked {
    /// An interface was not looked at yet.
    Waiting(String),
    /// Something failed.
    Fault(String),
}

impl Group {
    /// Brings the group and its virtual routers to one state, after any input.
    pub(super) fn settle(&mut self, now: Now) {
        if let Some((at, reason)) = self.lost.take() {
            self.follow(now, at, reason);
        }
        self.join(now);
        match (self.state, self.blocked()) {
            (GroupState::Initialize | GroupState::Fault, _) if !self.running => {}
            (GroupState::Initialize | GroupState::Fault, None) => self.start_all(now),
            (GroupState::Initialize | GroupState::Fault, Some(Blocked::Fault(reason))) => {
                self.change(now, GroupState::Fault, reason);
            }
            (GroupState::Initialize | GroupState::Fault, Some(Blocked::Waiting(reason))) => {
                self.change(now, GroupState::Initialize, reason);
            }
            (GroupState::Backup | GroupState::Active, Some(Blocked::Fault(reason))) => {
                let stopping = !self.running;
                let to = if stopping { GroupState::Initialize } else { GroupState::Fault };
                self.shut_down(now, to, reason);
                if stopping {
                    self.out.push(Action::Stopped { addresses_left: false });
                }
            }
            (GroupState::Backup, _) if self.slots.iter().all(|slot| slot.router.is_ready()) => {
                self.activate_all(now);
            }
            (GroupState::Backup | GroupState::Active, _) => {}
        }
    }

    /// What keeps it from taking part, a fault before anything else.
    pub(super) fn blocked(&self) -> Option<Blocked> {
        let mut waiting = None;
        for Slot { id, interface, link, .. } in &self.slots {
            match link {
                Link::Up { .. } => {}
                Link::Unknown => {
                    let reason = || Blocked::Waiting(shorten(format!("waiting for interface {interface}")));
                    waiting = waiting.or_else(|| Some(reason()));
                }
                Link::Down | Link::Missing | Link::NoAddress | Link::Deaf | Link::Mute | Link::NoHome => {
                    return Some(Blocked::Fault(shorten(link.trouble(interface, id.family))));
                }
            }
        }
        let failed = |name: &str| self.failing.get(name).copied().unwrap_or(false);
        let fault =
            self.config.trackers.iter().find(|tracker| tracker.weight.is_none() && failed(&tracker.name));
        fault.map(|tracker| Blocked::Fault(shorten(format!("{} failed", tracker.name)))).or(waiting)
    }

    fn start_all(&mut self, now: Now) {
        let again = self.state == GroupState::Fault;
        let grace = match self.config.startup_grace {
            grace if !self.graced && (!self.config.highest || self.stands_by) => grace,
            _ => Duration::ZERO,
        };
        self.graced = true;
        self.better_since = Some(now.boot);
        for at in 0..self.slots.len() {
            if let Link::Up { source } = self.slots[at].link {
                self.drive(now, at, router::Input::Startup { source, grace });
            }
        }
        let reason = if again { format!("no more: {}", self.reason) } else { Reason::Started.to_string() };
        self.change(now, GroupState::Backup, reason);
    }

    /// All have been silent: all become Active.
    fn activate_all(&mut self, now: Now) {
        let begin = self.out.len();
        let mut why: Option<(usize, Reason)> = None;
        for at in 0..self.slots.len() {
            if let Some(reason) = self.drive(now, at, router::Input::Activate)
                && why.is_none_or(|(_, other)| weight(reason) > weight(other))
            {
                why = Some((at, reason));
            }
        }
        // From one that lives: all traffic is taken over before it hears of it anywhere. From one that is dead: all other
        // members hear of it first.
        let predecessor_lives = matches!(why, Some((_, Reason::Released { .. } | Reason::Preempted { .. })));
        self.out[begin..].sort_by_key(|action| match action {
            Action::Send { .. } => {
                if predecessor_lives {
                    2
                } else {
                    0
                }
            }
            Action::HoldAddresses { .. } => u8::from(!predecessor_lives),
            Action::Announce { .. } => 1 + u8::from(!predecessor_lives),
            _ => 3,
        });
        let reason = why.map_or_else(String::new, |(at, reason)| about(&self.slots, at, &reason.to_string()));
        self.rose(now, reason);
    }

    pub(super) fn rose(&mut self, now: Now, reason: String) {
        for slot in &mut self.slots {
            slot.counters.became_active += 1;
        }
        self.better_since = None;
        // Whoever was switched away from is active again: the new active one was lost, or gave way in its turn.
        self.set_hold(false);
        self.change(now, GroupState::Active, reason);
    }

    /// A virtual router ceased to be Active: the others follow.
    fn follow(&mut self, now: Now, at: usize, reason: Reason) {
        for other in (0..self.slots.len()).filter(|other| *other != at) {
            self.drive(now, other, router::Input::GiveWay);
        }
        let text = about(&self.slots, at, &reason.to_string());
        if matches!(reason, Reason::HandedOver { .. }) && std::mem::take(&mut self.commanded) {
            self.out.push(Action::Switchover(Switchover::Done { reason: text.clone() }));
            self.set_hold(true);
        }
        let addresses_left =
            matches!(reason, Reason::NoSuccessor { .. }) && self.config.on_agent_loss == AgentLoss::Keep;
        self.fell_to(now, text, addresses_left);
    }

    /// All virtual routers have ceased to be Active.
    pub(super) fn fell(&mut self, now: Now, reason: String) {
        self.fell_to(now, reason, false);
    }

    fn fell_to(&mut self, now: Now, reason: String, addresses_left: bool) {
        self.lost = None;
        self.interrupt(&reason);
        let gone = self.slots.iter().all(|slot| slot.router.state_name() == StateName::Initialize);
        self.better_since = None;
        self.change(now, if gone { GroupState::Initialize } else { GroupState::Backup }, reason);
        if gone && !self.running {
            self.out.push(Action::Stopped { addresses_left });
        }
    }

    /// All to Initialize at once; those that were Active say priority 0 where they can.
    pub(super) fn shut_down(&mut self, now: Now, to: GroupState, reason: String) {
        let again = self.state == GroupState::Active && to == GroupState::Fault;
        for at in 0..self.slots.len() {
            self.drive(now, at, router::Input::Shutdown);
        }
        self.lost = None;
        self.interrupt(&reason);
        self.change(now, to, reason);
        self.farewell_at = again.then(|| now.boot + self.interval.duration() / 10);
    }

    fn change(&mut self, now: Now, to: GroupState, reason: String) {
        let from = std::mem::replace(&mut self.state, to);
        self.reason.clone_from(&reason);
        if from != to {
            self.farewell_at = None;
            self.since = now.boot;
            self.out.push(Action::Changed(Change { from, to, reason }));
        }
    }

    /// Keeps the addresses alive in the kernel: a third of the lifetime after the last time, and with an advertisement when the
    /// next would be too late for addresses to outlive the wait of the peers. So they never go while this member may still be
    /// active as far as the peers are concerned.
    pub(super) fn renew(&mut self, now: Now) {
        let lifetime = self.config.address_lifetime().filter(|_| self.state == GroupState::Active);
        let Some(lifetime) = lifetime else {
            self.renewed_at = None;
            return;
        };
        let Some(last) = self.renewed_at else {
            // Just added, with a fresh lifetime.
            self.renewed_at = Some(now.boot);
            return;
        };
        let spoke = self.out.iter().any(|action| matches!(action, Action::Send { .. }));
        let patience = self.slots.iter().map(|slot| slot.router.parameters().patience()).max();
        let until_next = self.interval.duration() + patience.unwrap_or_default();
        if now.boot >= last + lifetime / 3 || (spoke && last + lifetime < now.boot + until_next) {
            self.renewed_at = Some(now.boot);
            self.out.push(Action::RenewAddresses { lifetime });
        }
    }

    /// When a silence is to be warned of.
    pub(super) fn warning_deadline(&self, slot: &Slot) -> Option<BootTime> {
        let State::Backup(backup) = slot.router.state() else { return None };
        let silent = self.config.warn_after.filter(|_| !slot.warned).map(|after| backup.heard_at + after);
        let alone = (slot.router.is_ready() && !slot.one_sided).then(|| one_sided_at(slot, backup));
        earliest(silent, alone)
    }

    pub(super) fn warn_of_silence(&mut self, now: Now) {
        for slot in &mut self.slots {
            let State::Backup(backup) = slot.router.state() else { continue };
            let silent = now.boot.since(backup.heard_at);
            let mut warn = |kind, text| {
                let router = Some(slot.id.clone());
                self.out.push(Action::Warning(Warning { router, kind, text, suppressed: 0 }));
            };
            if !slot.warned && self.config.warn_after.is_some_and(|after| silent >= after) {
                let active =
                    backup.active.map_or_else(String::new, |active| format!(" from {}", active.source));
                warn("silent", format!("heard nothing{active} for {silent:.2?}"));
                slot.warned = true;
            }
            if slot.router.is_ready() && !slot.one_sided && now.boot >= one_sided_at(slot, backup) {
                let others = "while other instances still hear the active member: not taking over";
                warn("one-sided", format!("heard nothing for {silent:.2?}, {others}"));
                slot.one_sided = true;
            }
        }
    }
}

impl Link {
    /// What is wrong with an interface, in words.
    fn trouble(self, interface: &str, family: Family) -> String {
        match self {
            Link::Up { .. } => format!("interface {interface} is up"),
            Link::Unknown => format!("interface {interface} was not looked at yet"),
            Link::Down => format!("interface {interface} is down"),
            Link::Missing => format!("there is no interface {interface}"),
            Link::NoAddress => format!("interface {interface} has no {}", family.address_name()),
            Link::Deaf => format!("interface {interface} has no socket for VRRP"),
            Link::Mute => format!("advertisements cannot be sent on interface {interface}"),
            Link::NoHome => {
                format!("interface {interface} has no interface with the virtual MAC address over it")
            }
        }
    }
}

/// Networks fall silent within moments of each other when a member dies; when one is still silent alone after twice the wait, it is
/// that network.
fn one_sided_at(slot: &Slot, backup: &Backup) -> BootTime {
    backup.heard_at + slot.router.parameters().active_down_interval(backup.active_adver_interval) * 2
}

/// Which of several reasons says most.
fn weight(reason: Reason) -> u8 {
    match reason {
        Reason::Released { .. } => 3,
        Reason::Preempted { .. } => 2,
        Reason::Silence { active: Some(_), .. } => 1,
        _ => 0,
    }
}
