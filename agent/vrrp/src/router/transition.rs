//! The transitions: one total match over state and input.

use std::net::IpAddr;
use std::time::Duration;

use super::{
    Action, Active, Afterwards, Announcer, Backup, Heard, Input, Notice, Parameters, Peer, Phase, Reason,
    Spoken, State, StateName, VirtualRouter, Waiting,
};
use crate::packet::{PRIORITY_OWNER, PRIORITY_RELEASE};
use crate::time::BootTime;

impl VirtualRouter {
    /// Takes `input` at `now` and says what must be done. `now` must not run backwards. Call it with [`Input::Timer`] when
    /// [`VirtualRouter::next_deadline`] has come, after everything that was received before: a backup that was not running must
    /// not take its own deafness for silence.
    pub fn handle(&mut self, now: BootTime, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(silent) = self.lateness(now) {
            self.step_down(now, Reason::Late { silent }, None, &mut actions);
        }
        let todo = &mut actions;
        match (&mut self.state, input) {
            (State::Initialize, Input::Startup { source, grace }) => self.start(now, source, grace, todo),
            (State::Initialize, Input::Resume { source }) => {
                self.source = Some(source);
                self.activate(now, Reason::Resumed, todo);
            }
            (
                State::Initialize,
                Input::Shutdown
                | Input::Timer
                | Input::Advertisement(_)
                | Input::Release(_)
                | Input::Activate
                | Input::GiveWay
                | Input::GroupReleased { .. }
                | Input::GroupHeard,
            ) => {}

            (
                State::Backup(_) | State::Active(_),
                Input::Startup { source, .. } | Input::Resume { source },
            ) => {
                self.source = Some(source);
            }

            (State::Backup(_), Input::Shutdown) => {
                self.enter(State::Initialize, Reason::Shutdown, todo);
            }
            (State::Backup(_), Input::Timer) => self.active_down_timer(now, todo),
            (State::Backup(_), Input::Advertisement(heard)) => self.heard_as_backup(now, &heard, todo),
            (State::Backup(backup), Input::Activate) => match backup.waiting {
                Waiting::Ready => {
                    let reason = self.why_active(now);
                    self.activate(now, reason, todo);
                }
                Waiting::Listening { .. } => {}
            },
            (State::Backup(backup), Input::GroupReleased { by }) => {
                backup.released_by = Some(by);
                let skew = self.parameters.skew_time(backup.active_adver_interval);
                backup.hurry(now + skew);
            }
            (State::Backup(backup), Input::GroupHeard) => {
                let down = self.parameters.active_down_interval(backup.active_adver_interval);
                backup.end_grace(now + down);
            }
            // A backup has nothing to hand over.
            (State::Backup(_), Input::Release(_) | Input::GiveWay) => {}

            (State::Active(_), Input::Shutdown) => {
                todo.push(Action::Advertise { priority: PRIORITY_RELEASE });
                todo.push(Action::DropAddresses);
                self.enter(State::Initialize, Reason::Shutdown, todo);
            }
            (State::Active(_), Input::Timer) => self.adver_timer(now, todo),
            (State::Active(active), Input::Advertisement(heard)) => match active.phase {
                Phase::Holding => self.heard_as_active(now, &heard, todo),
                Phase::Releasing { .. } if heard.priority == PRIORITY_RELEASE => {}
                Phase::Releasing { .. } => {
                    let reason = Reason::HandedOver { to: heard.source };
                    self.step_down(now, reason, Some(&heard), todo);
                }
            },
            (State::Active(active), Input::Release(then)) => {
                let until = match active.phase {
                    Phase::Holding => now + self.parameters.active_down_interval(self.parameters.interval),
                    Phase::Releasing { until, .. } => until,
                };
                active.phase = Phase::Releasing { until, then };
                let interval = self.parameters.interval.duration();
                active.advertise(now, PRIORITY_RELEASE, &self.parameters, todo);
                // Once more soon: the first may be lost, or overtake the last advertisement before it and be undone by that.
                active.adver_at = now + interval / 10;
            }
            (State::Active(_), Input::GiveWay) => self.step_down(now, Reason::Group, None, todo),
            (State::Active(_), Input::Activate | Input::GroupReleased { .. } | Input::GroupHeard) => {}
        }
        actions
    }

    /// Changes the state, with a transition to report if its name changes.
    fn enter(&mut self, state: State, reason: Reason, actions: &mut Vec<Action>) {
        let from = self.state_name();
        self.state = state;
        let to = self.state_name();
        actions.push(Action::Transition { from, to, reason });
    }

    /// RFC 9568 section 6.4.1.
    fn start(&mut self, now: BootTime, source: IpAddr, grace: Duration, actions: &mut Vec<Action>) {
        self.source = Some(source);
        if self.parameters.priority == PRIORITY_OWNER && !self.parameters.lock_step {
            self.activate(now, Reason::Owner, actions);
            return;
        }
        let interval = self.parameters.interval;
        let down = self.parameters.active_down_interval(interval);
        let mut backup = Backup::new(now, interval, now + down.max(grace));
        backup.grace = grace > down;
        if self.parameters.priority == PRIORITY_OWNER {
            backup.waiting = Waiting::Ready;
        }
        self.enter(State::Backup(backup), Reason::Started, actions);
    }

    /// The Active_Down_Timer may have run out (section 6.4.2).
    fn active_down_timer(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        let State::Backup(backup) = &mut self.state else { return };
        let Waiting::Listening { until } = backup.waiting else { return };
        if now < until {
            return;
        }
        let interval = backup.active_adver_interval;
        let late = now.since(until);
        // Whoever is an interval late was not listening either, or has a network stack that was not running. Once a silence.
        if late > interval.duration() && !backup.doubted {
            backup.doubted = true;
            let more = interval.duration() + self.parameters.skew_time(interval);
            backup.waiting = Waiting::Listening { until: now + more };
            actions.push(Action::Notice(Notice::Doubt { late }));
            return;
        }
        if self.parameters.lock_step {
            backup.waiting = Waiting::Ready;
            return;
        }
        let reason = self.why_active(now);
        self.activate(now, reason, actions);
    }

    /// An advertisement in Backup (section 6.4.2).
    fn heard_as_backup(&mut self, now: BootTime, heard: &Heard, actions: &mut Vec<Action>) {
        let State::Backup(backup) = &mut self.state else { return };
        let own = self.parameters.priority;
        if heard.priority == PRIORITY_RELEASE {
            backup.released_by = Some(heard.source);
            backup.hurry(now + self.parameters.skew_time(backup.active_adver_interval));
            return;
        }
        let peer = Peer { source: heard.source, priority: heard.priority, at: now };
        backup.heard_at = now;
        self.tell_successor(heard, actions);
        let State::Backup(backup) = &mut self.state else { return };
        if self.parameters.preempt && heard.priority < own {
            backup.lower = Some(peer);
            let down = self.parameters.active_down_interval(backup.active_adver_interval);
            backup.end_grace(now + down);
            return;
        }
        if heard.priority == own && backup.active.is_none_or(|active| active.source != heard.source) {
            actions.push(Action::Notice(Notice::SamePriority { peer: heard.source, priority: own }));
        }
        self.ties = 0;
        let until = now + self.parameters.active_down_interval(heard.interval);
        *backup = Backup { active: Some(peer), ..Backup::new(now, heard.interval, until) };
    }

    /// An advertisement in Active (section 6.4.3).
    fn heard_as_active(&mut self, now: BootTime, heard: &Heard, actions: &mut Vec<Action>) {
        let State::Active(active) = &mut self.state else { return };
        let (own, interval) = (self.parameters.priority, self.parameters.interval.duration());
        let peer = heard.source;
        if heard.priority == PRIORITY_RELEASE {
            if active.may_answer(now, interval) {
                active.advertise(now, own, &self.parameters, actions);
            }
            return;
        }
        let higher_address = heard.priority == own && self.source.is_none_or(|source| peer > source);
        if heard.priority > own {
            let reason = Reason::Higher { peer, priority: heard.priority, own };
            self.step_down(now, reason, Some(heard), actions);
            return;
        }
        if heard.priority == own {
            actions.push(Action::Notice(Notice::SamePriority { peer, priority: own }));
        }
        let give_way = self.parameters.leading || active.tie_lasts(now, interval, higher_address);
        if higher_address && give_way {
            self.ties = self.ties.saturating_add(1);
            let reason = Reason::HigherAddress { peer, priority: own };
            self.step_down(now, reason, Some(heard), actions);
            return;
        }
        if active.may_answer(now, interval) {
            // To the router that speaks, and to the bridges that learned from it.
            actions.push(Action::Advertise { priority: own });
            // Whom this one has just relieved says so once.
            if !active.announcer.has_just_announced(now) {
                actions.push(Action::Notice(Notice::AlsoActive { peer, priority: heard.priority }));
            }
            active.spoke(now, &self.parameters);
        }
        let times = active.announcer.assert(now, &self.parameters.announce);
        announce(times, actions);
    }

    /// Adver_Timer, the end of a hand-over, and announcements.
    fn adver_timer(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        let State::Active(active) = &mut self.state else { return };
        let own = self.parameters.priority;
        if let Phase::Releasing { until, then } = active.phase
            && now >= until
        {
            let waited = self.parameters.active_down_interval(self.parameters.interval);
            match then {
                Afterwards::Resume => {
                    active.phase = Phase::Holding;
                    active.advertise(now, own, &self.parameters, actions);
                    actions.push(Action::Notice(Notice::Resumed { waited }));
                }
                Afterwards::Leave | Afterwards::LeaveAddresses => {
                    if then == Afterwards::Leave {
                        actions.push(Action::DropAddresses);
                    }
                    self.enter(State::Initialize, Reason::NoSuccessor { waited }, actions);
                    return;
                }
            }
        }
        if now >= active.adver_at {
            let priority = match active.phase {
                Phase::Holding => own,
                Phase::Releasing { .. } => PRIORITY_RELEASE,
            };
            active.advertise(now, priority, &self.parameters, actions);
        }
        let times = active.announcer.poll(now, &self.parameters.announce);
        announce(times, actions);
    }

    /// Active, with everything that goes with it.
    fn activate(&mut self, now: BootTime, reason: Reason, actions: &mut Vec<Action>) {
        let (announcer, times) = Announcer::start(now, &self.parameters.announce);
        let interval = self.parameters.interval.duration();
        let active = Active {
            adver_at: now + interval,
            last_sent: now,
            before: Some(Spoken { at: now, patience: self.parameters.patience() }),
            patience: self.parameters.patience(),
            answer_from: now,
            phase: Phase::Holding,
            tie: None,
            announcer,
        };
        self.enter(State::Active(active), reason, actions);
        let advertise = Action::Advertise { priority: self.parameters.priority };
        // From one that lives: first take the traffic over, then let it know, for it drops the addresses when it hears. From one
        // that is dead: first let the other backups know, for they are about to rise too.
        let predecessor_lives = matches!(reason, Reason::Released { .. } | Reason::Preempted { .. });
        if predecessor_lives {
            actions.push(Action::HoldAddresses);
            announce(times, actions);
            actions.push(advertise);
        } else {
            actions.push(advertise);
            actions.push(Action::HoldAddresses);
            announce(times, actions);
        }
    }

    /// Active no more: Backup, or Initialize if it was about to stop.
    fn step_down(&mut self, now: BootTime, reason: Reason, heard: Option<&Heard>, actions: &mut Vec<Action>) {
        let State::Active(active) = &self.state else { return };
        actions.push(Action::DropAddresses);
        if let Phase::Releasing { then: Afterwards::Leave | Afterwards::LeaveAddresses, .. } = active.phase {
            self.enter(State::Initialize, reason, actions);
            return;
        }
        let interval = heard.map_or(self.parameters.interval, |heard| heard.interval);
        let mut down = self.parameters.active_down_interval(interval);
        if !self.parameters.leading && matches!(reason, Reason::HigherAddress { .. }) {
            down += self.tie_break(interval.duration());
        }
        let mut backup = Backup::new(now, interval, now + down);
        backup.active = heard.map(|heard| Peer { source: heard.source, priority: heard.priority, at: now });
        self.enter(State::Backup(backup), reason, actions);
        self.successor_is_told = false;
    }

    /// Lets whoever is active now know, by one more advertisement, that this one was: where the two did not hear each other, the last
    /// that the neighbours learned may be this one's announcements, and the other has no other reason to repeat its own. RFC 9568
    /// does not ask for it; keepalived does much the same (`vrrp_higher_prio_send_advert`). It is the answer to the first
    /// advertisement that is heard in Backup, on each network by itself: by then all networks of the group have given up their
    /// addresses. Only a router that outranks this one is told: another would give way.
    fn tell_successor(&mut self, heard: &Heard, actions: &mut Vec<Action>) {
        let own = self.parameters.priority;
        let outranks = heard.priority > own
            || heard.priority == own && self.source.is_some_and(|source| heard.source > source);
        if outranks && !self.successor_is_told && matches!(self.state, State::Backup(_)) {
            self.successor_is_told = true;
            actions.push(Action::Advertise { priority: own });
        }
    }

    /// Two groups of one priority that do not hear each other on the leading network may each win on another one, by the higher
    /// address there, and both give way, again and again at the same moment. A wait that differs between them, and from one
    /// time to the next, ends that.
    fn tie_break(&self, interval: Duration) -> Duration {
        let octets = match self.source {
            Some(IpAddr::V4(source)) => source.octets().to_vec(),
            Some(IpAddr::V6(source)) => source.octets().to_vec(),
            None => Vec::new(),
        };
        let hash = octets
            .into_iter()
            .chain(self.ties.to_be_bytes())
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        interval * (hash >> 24) / 256
    }

    /// Why the Active_Down_Timer ran out.
    fn why_active(&self, now: BootTime) -> Reason {
        let State::Backup(backup) = &self.state else { return Reason::Group };
        if let Some(by) = backup.released_by {
            return Reason::Released { by };
        }
        let patience = self.parameters.active_down_interval(backup.active_adver_interval);
        match backup.lower {
            Some(lower) if now.since(lower.at) <= patience => Reason::Preempted {
                peer: lower.source,
                priority: lower.priority,
                own: self.parameters.priority,
            },
            _ => Reason::Silence {
                active: backup.active.map(|active| active.source),
                silent: now.since(backup.heard_at),
                interval: backup.active_adver_interval,
            },
        }
    }
}

impl Backup {
    fn new(now: BootTime, active_adver_interval: super::Interval, until: BootTime) -> Self {
        Backup {
            waiting: Waiting::Listening { until },
            active_adver_interval,
            active: None,
            heard_at: now,
            grace: false,
            released_by: None,
            lower: None,
            doubted: false,
        }
    }

    /// The timer fires at `at` at the latest. Never later than before: priority 0 that is repeated (a hand-over says it every
    /// interval, in case one is lost) must not put it off.
    fn hurry(&mut self, at: BootTime) {
        self.grace = false;
        if let Waiting::Listening { until } = &mut self.waiting {
            *until = (*until).min(at);
        }
    }

    fn end_grace(&mut self, at: BootTime) {
        if self.grace {
            self.hurry(at);
        }
    }
}

impl Active {
    /// Speaks, and sets the Adver_Timer an interval after when it was due, so that lateness does not add up.
    fn advertise(&mut self, now: BootTime, priority: u8, told: &Parameters, actions: &mut Vec<Action>) {
        let interval = told.interval.duration();
        actions.push(Action::Advertise { priority });
        let on_time = self.adver_at <= now && now.since(self.adver_at) < interval;
        self.adver_at = if on_time { self.adver_at + interval } else { now + interval };
        self.spoke(now, told);
    }

    /// Notes that it wants to speak. Until that has left the peers go by what they heard before.
    fn spoke(&mut self, now: BootTime, told: &Parameters) {
        self.before.get_or_insert(Spoken { at: self.last_sent, patience: self.patience });
        (self.last_sent, self.patience) = (now, told.patience());
    }

    /// Notes a tie, and whether it has lasted for two intervals.
    fn tie_lasts(&mut self, now: BootTime, interval: Duration, tie: bool) -> bool {
        if !tie {
            return false;
        }
        let since = match self.tie {
            Some((since, last)) if now.since(last) <= interval * 2 => since,
            _ => now,
        };
        self.tie = Some((since, now));
        now.since(since) >= interval * 2
    }

    /// Whether to answer another router now: a quarter of an interval after the last answer.
    fn may_answer(&mut self, now: BootTime, interval: Duration) -> bool {
        let may = now >= self.answer_from;
        if may {
            self.answer_from = now + interval / 4;
        }
        may
    }
}

fn announce(times: u32, actions: &mut Vec<Action>) {
    if times > 0 {
        actions.push(Action::Announce { times });
    }
}

impl From<StateName> for &'static str {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Initialize => "Initialize",
            StateName::Backup => "Backup",
            StateName::Active => "Active",
        }
    }
}
