//! Inputs of a group.

use std::time::Duration;

use super::differences;
use super::{Action, Group, GroupConfig, GroupState, Input, Link, RouterId, Slot, Switchover, shorten};
use crate::authentication::AuthenticationError;
use crate::endpoint::Heard;
use crate::endpoint::Rejection;
use crate::packet::{Datagram, PRIORITY_RELEASE};
use crate::router::{self, Afterwards, Reason, StateName};
use crate::time::{BootTime, Now};

impl Group {
    /// Takes `input` at `now` and says what must be done, in order. `now.boot` must not run backwards. Call it with
    /// [`Input::Timer`] when [`Group::next_deadline`] has come, after everything that the sockets hold was handed in.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Vec<Action> {
        self.step_down_if_late(now);
        match input {
            Input::Start { resume } => self.start(now, resume),
            Input::Timer => {
                for at in 0..self.slots.len() {
                    self.drive(now, at, router::Input::Timer);
                }
                self.say_farewell(now);
            }
            Input::Link { router, link } => self.link_changed(now, &router, link),
            Input::Datagram { router, datagram } => self.received(now, router, &datagram),
            Input::Tracked { name, failing } => self.tracked(now, name, failing),
            Input::Switchover => self.switch_over(now),
            Input::GiveAway => {
                if self.state == GroupState::Active && !self.is_releasing() && !self.config.preferred {
                    self.release(now, Afterwards::Resume);
                }
            }
            Input::StandBy(stands_by) => self.stand_by(now, stands_by),
            Input::Unhold => self.set_hold(false),
            Input::Stop => self.stop(now),
            Input::Halt => self.halt(now),
            Input::Configure { config, links } => self.configure(now, *config, links),
        }
        self.settle(now);
        self.warn_of_silence(now);
        self.renew(now);
        std::mem::take(&mut self.out)
    }

    /// An active group that was not running for longer than its peers wait is not active any more as far as they are concerned. It
    /// steps down before it says anything.
    fn step_down_if_late(&mut self, now: Now) {
        let late = self.slots.iter().filter_map(|slot| slot.router.lateness(now.boot)).max();
        let Some(silent) = late else { return };
        for at in 0..self.slots.len() {
            self.drive(now, at, router::Input::GiveWay);
        }
        self.fell(now, Reason::Late { silent }.to_string());
    }

    fn start(&mut self, now: Now, resume: bool) {
        if self.running {
            return;
        }
        self.running = true;
        let up = |slot: &Slot| match slot.link {
            Link::Up { source } => Some(source),
            _ => None,
        };
        let sources: Option<Vec<_>> = self.slots.iter().map(up).collect();
        if let Some(sources) = sources.filter(|_| resume && self.blocked().is_none()) {
            self.graced = true;
            for (at, source) in sources.into_iter().enumerate() {
                self.drive(now, at, router::Input::Resume { source });
                if let Some(spoken) = self.spoken {
                    self.slots[at].router.spoke_before(spoken);
                }
            }
            self.rose(now, Reason::Resumed.to_string());
        } else if resume {
            // The addresses were left for it to go on, and it cannot.
            let routers = self.slots.iter().map(|slot| slot.id.clone());
            self.out.extend(routers.map(|router| Action::DropAddresses { router }));
        }
    }

    fn link_changed(&mut self, now: Now, router: &RouterId, link: Link) {
        let Some(at) = self.slot(router) else { return };
        self.slots[at].link = link;
        let started = self.slots[at].router.state_name() != StateName::Initialize;
        match link {
            Link::Up { source } if started => {
                self.drive(now, at, router::Input::Startup { source, grace: Duration::ZERO });
            }
            _ => {}
        }
    }

    fn received(&mut self, now: Now, id: &RouterId, datagram: &Datagram<'_>) {
        let Some(at) = self.slot(id) else { return };
        let slot = &mut self.slots[at];
        slot.counters.received += 1;
        let own = match slot.link {
            Link::Up { source } => Some(source),
            _ => slot.router.source(),
        };
        let heard = match slot.endpoint.open(own, &mut slot.senders, now.unix, datagram) {
            Ok(heard) => heard,
            Err(rejection) => {
                let name = rejection.name();
                if let Rejection::Authentication(AuthenticationError::Stale { seconds }) = rejection {
                    slot.stale.refused(now.boot, datagram.source, seconds);
                }
                *slot.counters.rejected.entry(name).or_default() += 1;
                if let Some(what) = differences::of_rejection(&rejection) {
                    slot.differences.note(now.boot, what, datagram.source, || rejection.to_string());
                }
                let text = || format!("an advertisement from {} was dropped: {rejection}", datagram.source);
                self.warn(now, Some(at), name, text);
                return;
            }
        };
        slot.counters.accepted += 1;
        slot.stale.accepted(heard.source);
        self.compare(now, at, &heard);
        if heard.priority == PRIORITY_RELEASE {
            self.slots[at].counters.accepted_priority_zero += 1;
        } else {
            (self.slots[at].warned, self.slots[at].one_sided) = (false, false);
            self.note_rank(now.boot, heard.priority);
        }
        let preempt = self.may_preempt(now, heard.priority);
        self.slots[at].router.set_preempt(preempt);
        self.drive(now, at, router::Input::Advertisement(heard));
        if self.state != GroupState::Backup {
            return;
        }
        let others = match heard.priority {
            PRIORITY_RELEASE => router::Input::GroupReleased { by: heard.source },
            _ => router::Input::GroupHeard,
        };
        for other in (0..self.slots.len()).filter(|other| *other != at) {
            self.drive(now, other, others);
        }
    }

    /// Notes and says in what the configuration of the sender differs.
    fn compare(&mut self, now: Now, at: usize, heard: &Heard) {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        if let Some(differ) = heard.differ {
            found.push(("addresses", differ.to_string()));
        }
        if heard.signed_in_vain {
            found.push(("authentication", "it signs what it says, and no key is configured here".to_owned()));
        }
        // A backup goes by what it hears (RFC 9568 section 6.4.2), but would itself speak in another rhythm.
        if heard.interval != self.interval {
            let (theirs, ours) = (heard.interval.duration(), self.interval.duration());
            found.push(("interval", format!("its interval is {theirs:?}, ours {ours:?}")));
        }
        if let Some(text) = self.rank_differs(heard.priority) {
            found.push(("priority", text));
        }
        let still: Vec<_> = found.iter().map(|(what, _)| *what).collect();
        self.slots[at].differences.agreed(heard.source, &still);
        for (what, text) in found {
            // That the virtual router has said already.
            let said = what == "priority" && heard.priority == self.priority();
            if !said {
                self.warn(now, Some(at), what, || format!("an advertisement from {}: {text}", heard.source));
            }
            self.slots[at].differences.note(now.boot, what, heard.source, || text);
        }
    }

    /// What a priority that was heard says against the priorities of our configuration. With weights priorities go up and down, and
    /// say nothing; nor does that of a member that stands by.
    fn rank_differs(&self, heard: u8) -> Option<String> {
        let weighs = self.config.trackers.iter().any(|tracker| tracker.weight.is_some());
        if weighs || self.stands_by || heard == PRIORITY_RELEASE {
            return None;
        }
        let own = self.priority();
        match heard {
            _ if heard == own => Some(format!("its priority is {heard}, as ours: each member has its own")),
            _ if self.config.highest && heard > own => Some(format!(
                "its priority is {heard}, and as configured here no member has more than our {own}"
            )),
            _ => None,
        }
    }

    /// `preempt.delay` counts from when this member became the better one.
    fn note_rank(&mut self, now: BootTime, heard: u8) {
        if heard >= self.priority() {
            self.better_since = None;
        } else {
            self.better_since.get_or_insert(now);
        }
    }

    fn tracked(&mut self, now: Now, name: &str, failing: bool) {
        let Some(tracker) = self.config.trackers.iter().find(|tracker| &*tracker.name == name) else {
            return;
        };
        self.failing.insert(tracker.name.clone(), failing);
        self.apply_parameters(now.boot);
    }

    fn apply_parameters(&mut self, now: BootTime) {
        let priority = self.priority();
        for slot in &mut self.slots {
            let parameters = self.config.parameters(self.interval, &slot.id, priority);
            slot.router.set_parameters(now, parameters);
        }
    }

    fn switch_over(&mut self, now: Now) {
        let refused = match self.state {
            _ if self.is_releasing() => Some("a hand-over is under way"),
            GroupState::Active if self.config.preferred => {
                Some("this member is preferred: change that instead")
            }
            GroupState::Active => None,
            _ => Some("this member is not active"),
        };
        if let Some(reason) = refused {
            self.out.push(Action::Switchover(Switchover::Refused { reason }));
            return;
        }
        self.commanded = true;
        self.release(now, Afterwards::Resume);
    }

    fn stand_by(&mut self, now: Now, stands_by: bool) {
        if self.stands_by == stands_by {
            return;
        }
        // Priority 0 comes first: what is said after it is only said if nobody takes over.
        if stands_by && self.state == GroupState::Active && !self.is_releasing() {
            self.release(now, Afterwards::Resume);
        }
        self.stands_by = stands_by;
        self.apply_parameters(now.boot);
    }

    fn stop(&mut self, now: Now) {
        self.running = false;
        if self.state != GroupState::Active {
            self.halt(now);
            return;
        }
        self.interrupt("stopped");
        let keep = self.config.on_agent_loss == super::AgentLoss::Keep;
        self.release(now, if keep { Afterwards::LeaveAddresses } else { Afterwards::Leave });
    }

    fn halt(&mut self, now: Now) {
        self.running = false;
        self.shut_down(now, GroupState::Initialize, Reason::Shutdown.to_string());
        self.out.push(Action::Stopped { addresses_left: false });
    }

    /// After a fault priority 0 is said once more: the first may be lost, or overtake the last advertisement before it and be undone
    /// by that.
    fn say_farewell(&mut self, now: Now) {
        if self.farewell_at.take_if(|at| now.boot >= *at).is_some() {
            for at in 0..self.slots.len() {
                self.advertise(now, at, PRIORITY_RELEASE);
            }
        }
    }

    fn release(&mut self, now: Now, then: Afterwards) {
        for at in 0..self.slots.len() {
            self.drive(now, at, router::Input::Release(then));
        }
    }

    /// A switch-over that was commanded ends otherwise.
    pub(super) fn interrupt(&mut self, reason: &str) {
        if std::mem::take(&mut self.commanded) {
            let reason = reason.to_owned();
            self.out.push(Action::Switchover(Switchover::Interrupted { reason }));
        }
    }

    pub(super) fn set_hold(&mut self, hold: bool) {
        if self.hold != hold {
            self.hold = hold;
            self.out.push(Action::Remember { hold });
        }
    }

    fn configure(&mut self, now: Now, config: GroupConfig, links: Vec<(RouterId, Link)>) {
        let interval = match config.validate().and_then(|()| config.wire_interval()) {
            Ok(interval) => interval,
            Err(error) => {
                self.warn(now, None, "configuration", || {
                    shorten(format!("refused, going on as before: {error}"))
                });
                return;
            }
        };
        // Another version is another protocol: the group starts anew.
        if config.version != self.config.version {
            self.shut_down(now, GroupState::Initialize, "the version of the protocol changed".to_owned());
        }
        let becomes_preferred = config.preferred && !self.config.preferred;
        let waits = becomes_preferred && self.state == GroupState::Backup && !config.courtesy.is_zero();
        let goes_on = self.courteous_until.filter(|_| config.preferred);
        self.courteous_until = if waits { Some(now.boot + config.courtesy) } else { goes_on };
        (self.config, self.interval) = (config, interval);
        self.slots.iter_mut().for_each(|slot| slot.differences.clear());
        self.failing.retain(|name, _| self.config.trackers.iter().any(|tracker| tracker.name == *name));
        let mut old = std::mem::take(&mut self.slots);
        let mut fresh = Vec::new();
        for mut slot in self.new_slots() {
            let same = |other: &Slot| {
                other.id == slot.id
                    && other.interface == slot.interface
                    && other.endpoint.vrid == slot.endpoint.vrid
            };
            if let Some(at) = old.iter().position(same) {
                let kept = old.remove(at);
                slot = Slot { endpoint: slot.endpoint, ..kept };
            } else {
                fresh.push(self.slots.len());
            }
            self.slots.push(slot);
        }
        for gone in old.iter().filter(|slot| slot.router.state_name() == StateName::Active) {
            self.out.push(Action::DropAddresses { router: gone.id.clone() });
        }
        self.apply_parameters(now.boot);
        for (id, link) in links {
            if let Some(at) = self.slot(&id).filter(|at| fresh.contains(at)) {
                self.slots[at].link = link;
            }
        }
        self.join(now);
        if self.state == GroupState::Active {
            let lifetime = self.config.address_lifetime();
            for slot in self.slots.iter().filter(|slot| slot.router.state_name() == StateName::Active) {
                self.out.push(Action::HoldAddresses { router: slot.id.clone(), lifetime });
                self.out.push(Action::Announce { router: slot.id.clone(), times: 1 });
            }
        }
    }

    /// Virtual routers that are new in a running group join its state, after a hand-over that is under way.
    pub(super) fn join(&mut self, now: Now) {
        if !self.running || self.is_releasing() {
            return;
        }
        for at in 0..self.slots.len() {
            let Slot { link: Link::Up { source }, router, .. } = &self.slots[at] else { continue };
            let (source, outside) = (*source, router.state_name() == StateName::Initialize);
            match self.state {
                GroupState::Active if outside => {
                    self.drive(now, at, router::Input::Resume { source });
                }
                GroupState::Backup if outside => {
                    self.drive(now, at, router::Input::Startup { source, grace: Duration::ZERO });
                }
                _ => {}
            }
        }
    }

    /// Hands `input` to a virtual router and turns what it wants into actions of the group. Returns why its state changed, if it
    /// did.
    pub(super) fn drive(&mut self, now: Now, at: usize, input: router::Input) -> Option<Reason> {
        let actions = self.slots[at].router.handle(now.boot, input);
        let mut why = None;
        for action in actions {
            let router = self.slots[at].id.clone();
            match action {
                router::Action::Advertise { priority } => self.advertise(now, at, priority),
                router::Action::HoldAddresses => {
                    let lifetime = self.config.address_lifetime();
                    self.out.push(Action::HoldAddresses { router, lifetime });
                }
                router::Action::DropAddresses => self.out.push(Action::DropAddresses { router }),
                router::Action::Announce { times } => self.out.push(Action::Announce { router, times }),
                router::Action::Transition { reason, .. } => {
                    (self.slots[at].warned, self.slots[at].one_sided) = (false, false);
                    why = Some(reason);
                }
                router::Action::Notice(notice) => self.notice(now, at, notice),
            }
        }
        if let Some(reason) = why
            && self.state == GroupState::Active
            && self.slots[at].router.state_name() != StateName::Active
        {
            self.lost.get_or_insert((at, reason));
        }
        why
    }

    fn notice(&mut self, now: Now, at: usize, notice: router::Notice) {
        let kind = match notice {
            router::Notice::Doubt { .. } => "late",
            router::Notice::SamePriority { .. } => "same-priority",
            router::Notice::AlsoActive { .. } => "also-active",
            router::Notice::Resumed { .. } => {
                self.commanded = false;
                // Each virtual router of the group says so.
                let outcome = Action::Switchover(Switchover::NoSuccessor);
                if !self.out.contains(&outcome) {
                    self.out.push(outcome);
                }
                "no-successor"
            }
        };
        self.warn(now, Some(at), kind, || notice.to_string());
    }

    fn advertise(&mut self, now: Now, at: usize, priority: u8) {
        let slot = &mut self.slots[at];
        // What is down sends nothing.
        let Link::Up { source } = slot.link else { return };
        for destination in slot.endpoint.destinations() {
            match slot.endpoint.seal(source, destination, priority, &mut slot.sequence, now.unix) {
                Ok(bytes) => {
                    self.out.push(Action::Send { router: slot.id.clone(), source, destination, bytes })
                }
                Err(error) => {
                    let text = error.to_string();
                    self.warn(now, Some(at), "cannot-send", || text);
                    return;
                }
            }
        }
        slot.counters.sent += 1;
        slot.counters.sent_priority_zero += u64::from(priority == PRIORITY_RELEASE);
    }

    /// Warns of a virtual router, or of the group, at a bounded rate.
    fn warn(&mut self, now: Now, at: Option<usize>, kind: &'static str, text: impl FnOnce() -> String) {
        let router = at.map(|at| &self.slots[at].id);
        self.out.extend(self.limiter.warn(now.boot, router, kind, text).map(Action::Warning));
    }
}
