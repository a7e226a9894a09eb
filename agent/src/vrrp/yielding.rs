//! A planned hand-over of a group that runs services of the machine: heartbeat's order. They are stopped first, while this member is
//! active and has the addresses; then it says priority 0, and the successor starts them when it has taken over. So they never run on
//! both. Where a better member preempts, or something fails, nobody is asked before.

use std::{sync::Arc, time::Duration};

use bascule_vrrp::group::Switchover;
use bascule_vrrp::{BootTime, GroupState, Input};

use super::clock;
use super::driver::Driver;
use super::member::Leaving;
use super::voice::Remark;

/// So long the services of a group may take to stop; then it hands over all the same.
pub(super) const STOPPING: Duration = Duration::from_secs(30);

/// What is done once the services are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The commanded switch-over.
    SwitchOver,
    /// The addresses to the member that is preferred now, or to any other one: this machine is to be out of service.
    GiveAway,
    /// The end of the group, or of the agent.
    Stop,
}

impl Then {
    const fn input(self) -> Input<'static> {
        match self {
            Then::SwitchOver => Input::Switchover,
            Then::GiveAway => Input::GiveAway,
            Then::Stop => Input::Stop,
        }
    }
}

/// A hand-over that waits for services to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Yielding {
    /// No longer than until then.
    pub(crate) until: BootTime,
    then: Then,
}

impl Driver {
    /// Hands a group over: at once, or when its services are stopped.
    pub(super) fn hand_over(&mut self, name: &Arc<str>, then: Then) {
        let Some(member) = self.members.get_mut(name) else { return };
        if let Some(yielding) = &mut member.yielding {
            match then {
                Then::Stop => yielding.then = then,
                Then::GiveAway => {}
                Then::SwitchOver => {
                    member.answer(Switchover::Refused { reason: "a hand-over is under way" });
                }
            }
            return;
        }
        let has_services = self.yields && !member.plan.spec.services.is_empty();
        let is_active = member.group.state() == GroupState::Active && !member.group.is_releasing();
        let is_refused = then == Then::SwitchOver && member.plan.config.preferred;
        if has_services && is_active && !is_refused {
            member.yielding = Some(Yielding { until: clock::now().boot + STOPPING, then });
            self.voice.say(Remark::Yield { group: name.clone(), stop: true });
        } else {
            self.handle(name, then.input());
        }
    }

    /// Another member is preferred from now on. Without services it simply preempts.
    pub(super) fn give_away(&mut self, name: &Arc<str>) {
        let member = self.members.get(name);
        let is_active = member.is_some_and(|member| member.group.state() == GroupState::Active);
        if is_active && member.is_some_and(|member| !member.plan.spec.services.is_empty()) {
            self.hand_over(name, Then::GiveAway);
        }
    }

    /// Lets a group stand by as it is configured to: an active one gives the addresses away, once its services are stopped.
    pub(super) fn stand_by(&mut self, name: &Arc<str>) {
        let Some(member) = self.members.get(name) else { return };
        let stands_by = member.plan.spec.stands_by;
        if member.leaving != Leaving::No || member.group.stands_by() == stands_by {
            return;
        }
        if stands_by {
            self.hand_over(name, Then::GiveAway);
        }
        // Its priority stays what it was until then: nobody is to preempt before.
        if self.members.get(name).is_some_and(|member| member.yielding.is_none()) {
            self.handle(name, Input::StandBy(stands_by));
        }
    }

    /// The services of a group are stopped, as it asked for.
    pub(super) fn services_stopped(&mut self, group: &str) {
        let name: Arc<str> = group.into();
        let yielding = self.members.get_mut(&name).and_then(|member| member.yielding.take());
        if let Some(yielding) = yielding {
            self.handle(&name, yielding.then.input());
            self.stand_by(&name);
        }
    }

    /// Ends what has waited long enough, and what has no reason to wait any more: the group is not active.
    pub(super) fn end_yielding(&mut self, now: BootTime) {
        let over = self
            .members
            .iter()
            .filter(|(_, member)| member.yield_deadline().is_some_and(|until| now >= until));
        let over: Vec<_> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            let Some(member) = self.members.get_mut(&name) else { continue };
            let Some(yielding) = member.yielding.take() else { continue };
            if member.group.state() == GroupState::Active {
                self.voice.warn(format!(
                    "{name}: its services do not stop within {} s: handing over all the same",
                    STOPPING.as_secs()
                ));
            } else if yielding.then == Then::SwitchOver {
                let reason = member.group.status().reason;
                member.answer(Switchover::Interrupted { reason });
                self.stand_by(&name);
                continue;
            }
            self.handle(&name, yielding.then.input());
            self.stand_by(&name);
        }
    }

    /// Whether a group waits for its services to stop.
    pub(super) fn is_yielding(&self) -> bool {
        self.members.values().any(|member| member.yielding.is_some())
    }
}
