//! The services of one group: a state machine without a clock and without processes.
//!
//! It has one operation in flight at most, so that no service ever has two and the order is a plain loop. What is wanted
//! follows from the role; what is done next follows from what each service is, so that there is nothing to be undone when
//! the role changes in the middle: the operation in flight is waited for, and the next one goes the other way.

use std::time::{Duration, Instant};

use super::service::{Condition, Entry, Service, State};

/// From one look at a running service to the next.
pub const PERIOD: Duration = Duration::from_secs(10);

/// So long must a restarted service run until it may be restarted once more, and all of them until the hold is short again.
pub const HEALTH: Duration = Duration::from_secs(600);

/// How long a group stays failing the first time; doubled each time until [`MAX_HOLD`].
pub const HOLD: Duration = Duration::from_secs(30);

/// How long a group stays failing at most, unless a service does not stop.
pub const MAX_HOLD: Duration = Duration::from_secs(600);

/// From one attempt to stop a service that does not stop to the next.
pub const STOP_AGAIN: Duration = Duration::from_secs(30);

/// Longest reason, in characters (`VrrpGroup.status.members[].reason`).
pub const MAX_REASON: usize = 128;

/// What can be asked of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Begin to run.
    Start,
    /// End.
    Stop,
    /// Say whether it runs.
    Status,
}

impl Verb {
    /// As the argument of a resource script.
    pub const fn word(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Status => "status",
        }
    }
}

/// Something to do with a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What.
    pub verb: Verb,
    /// With which.
    pub service: Service,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It runs, or it is stopped; of status: it runs.
    Yes,
    /// It is not so, and why; of status: it does not run.
    No(String),
    /// Of status: it neither runs nor is it stopped, such as one that somebody is starting.
    Between(String),
    /// Nobody can know as things are: the program may not be run, systemd is not there.
    Impossible(String),
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// These are its services, from the first to the last.
    Services(Vec<Service>),
    /// It is active on this machine.
    Active,
    /// It is not.
    NotActive,
    /// The operation in flight has ended.
    Finished(Operation, Done),
    /// [`Group::next_deadline`] is over.
    Timer,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin this; [`Input::Finished`] must follow.
    Begin(Operation),
    /// The group is failing, and why; or it is well again.
    Report(Option<String>),
    /// To the log, for information.
    Info(String),
    /// To the log, as a warning.
    Warn(String),
}

/// A group that cannot do its work here.
#[derive(Clone, Debug)]
struct Fault {
    reason: String,
    /// Not before this is it over.
    until: Instant,
}

/// The services of one group.
#[derive(Clone, Debug)]
pub struct Group {
    /// From one look at a running service to the next.
    period: Duration,
    /// As in the manifest; behind them those that left it and are to be stopped.
    entries: Vec<Entry>,
    /// `None`: nobody has said yet.
    active: Option<bool>,
    in_flight: Option<Operation>,
    fault: Option<Fault>,
    /// Faults without [`HEALTH`] between them.
    faults: u32,
    /// Since when all run.
    healthy_since: Option<Instant>,
}

impl Default for Group {
    fn default() -> Self {
        Self::with_period(PERIOD)
    }
}

impl Group {
    /// A group without services that looks at them so often.
    pub fn with_period(period: Duration) -> Self {
        Self {
            period,
            entries: Vec::new(),
            active: None,
            in_flight: None,
            fault: None,
            faults: 0,
            healthy_since: None,
        }
    }

    /// Takes an input and says what is to be done, in order.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Services(services) => self.services(now, services),
            Input::Active => self.active = Some(true),
            Input::NotActive => self.active = Some(false),
            Input::Finished(operation, done) => {
                if self.in_flight.as_ref() == Some(&operation) {
                    self.in_flight = None;
                    self.finished(now, &operation, done, &mut actions);
                }
            }
            Input::Timer => {}
        }
        self.advance(now, &mut actions);
        for entry in &mut self.entries {
            entry.note(now, self.in_flight.as_ref());
        }
        actions
    }

    /// When [`Input::Timer`] is due; `None` while an operation is in flight and when there is nothing to wait for.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let stuck = self.entries.iter().filter_map(Entry::stop_again);
        let blocked = self.entries.iter().any(|entry| !entry.leaving && entry.stop_again().is_some());
        let hold = self.fault.iter().filter(|_| !blocked).map(|fault| fault.until);
        let watch = self
            .entries
            .iter()
            .filter(|_| self.wanted())
            .filter_map(Entry::looked_at)
            .map(|at| at + self.period);
        stuck.chain(hold).chain(watch).min()
    }

    /// Why the group is failing, if it is.
    pub fn failing(&self) -> Option<&str> {
        self.fault.as_ref().map(|fault| fault.reason.as_str())
    }

    /// Whether it is active here; `None` before anybody said.
    pub fn active(&self) -> Option<bool> {
        self.active
    }

    /// The services, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether nothing is in flight and all are stopped, or do not stop.
    pub fn is_over(&self) -> bool {
        self.in_flight.is_none()
            && self
                .entries
                .iter()
                .all(|entry| entry.condition == Condition::Stopped || entry.stop_again().is_some())
    }

    fn wanted(&self) -> bool {
        self.active == Some(true) && self.fault.is_none()
    }

    fn services(&mut self, now: Instant, services: Vec<Service>) {
        let is_same =
            self.entries.iter().filter(|entry| !entry.leaving).map(|entry| &entry.service).eq(&services);
        if is_same {
            return;
        }
        let mut old = std::mem::take(&mut self.entries);
        for service in services {
            if self.entries.iter().any(|entry| entry.service == service) {
                continue;
            }
            let known = old.iter().position(|entry| entry.service == service).map(|at| old.remove(at));
            let mut entry = known.unwrap_or_else(|| Entry::new(service, now));
            entry.leaving = false;
            self.entries.push(entry);
        }
        self.entries.extend(old.into_iter().map(|entry| Entry { leaving: true, ..entry }));
        // What was wrong may have been mended by this.
        if let Some(fault) = &mut self.fault {
            fault.until = now;
        }
    }

    fn finished(&mut self, now: Instant, operation: &Operation, done: Done, actions: &mut Vec<Action>) {
        let wanted = self.wanted();
        let Some(at) = self.entries.iter().position(|entry| entry.service == operation.service) else {
            return;
        };
        let entry = &mut self.entries[at];
        let wanted = wanted && !entry.leaving;
        let name = entry.service.to_string();
        match (operation.verb, done) {
            (Verb::Status, Done::Yes) => {
                if entry.condition == Condition::Unknown {
                    actions.push(if wanted {
                        Action::Info(format!("{name} runs already"))
                    } else {
                        Action::Warn(format!(
                            "{name} runs, although the group is not active here; stopping it"
                        ))
                    });
                }
                entry.up(now);
            }
            (Verb::Status, Done::No(why) | Done::Between(why))
                if entry.condition == Condition::Running && wanted =>
            {
                self.failed(now, at, why, false, actions);
            }
            (Verb::Status, Done::No(_)) => entry.becomes(Condition::Stopped),
            (Verb::Status, Done::Between(why)) => {
                // Not ours yet, so that it costs no restart.
                entry.condition = Condition::Broken;
                entry.message = why;
            }
            (Verb::Status, Done::Impossible(why)) => {
                // It may run all the same, if it did.
                if entry.condition == Condition::Unknown {
                    entry.is_doubtful(why.clone());
                }
                if !entry.leaving {
                    self.failed(now, at, why, true, actions);
                }
            }
            (Verb::Start, Done::Yes) => {
                entry.up(now);
                actions.push(Action::Info(format!("{name} is started")));
            }
            (Verb::Start, Done::Impossible(why)) => {
                entry.is_doubtful(why.clone());
                if wanted {
                    self.failed(now, at, why, true, actions);
                }
            }
            (Verb::Start, Done::No(why) | Done::Between(why)) => {
                entry.becomes(Condition::Broken);
                if wanted {
                    self.failed(now, at, why, false, actions);
                } else {
                    entry.message = why;
                }
            }
            (Verb::Stop, Done::Yes) => {
                entry.becomes(Condition::Stopped);
                actions.push(Action::Info(format!("{name} is stopped")));
            }
            (Verb::Stop, Done::No(why) | Done::Between(why) | Done::Impossible(why)) => {
                entry.condition = Condition::Stuck { again: now + STOP_AGAIN };
                let why = format!("does not stop: {why}");
                if entry.message != why {
                    actions.push(Action::Warn(format!("{name} {why}")));
                    entry.message.clone_from(&why);
                }
                let leaving = entry.leaving;
                entry.is_guilty |= !leaving;
                // A hold that stands is not made longer: it is tried again by itself.
                if !leaving && self.fault.is_none() {
                    self.fault(now, at, &why, actions);
                }
            }
        }
    }

    /// A service is not what it should be: it is restarted, or the group fails.
    fn failed(&mut self, now: Instant, at: usize, why: String, impossible: bool, actions: &mut Vec<Action>) {
        let entry = &mut self.entries[at];
        entry.message.clone_from(&why);
        let may_restart = entry.restarted.is_none_or(|restarted| now >= restarted + HEALTH);
        if may_restart && !impossible {
            entry.restarted = Some(now);
            entry.condition = Condition::Broken;
            actions.push(Action::Warn(format!("{} failed: {why}; restarting it once", entry.service)));
        } else {
            if entry.condition == Condition::Running {
                entry.condition = Condition::Broken;
            }
            self.fault(now, at, &why, actions);
        }
    }

    fn fault(&mut self, now: Instant, at: usize, why: &str, actions: &mut Vec<Action>) {
        self.entries[at].is_guilty = true;
        if self.fault.as_ref().is_some_and(|fault| now < fault.until) {
            return;
        }
        self.settle_health(now);
        let hold = HOLD.saturating_mul(1 << self.faults.min(16)).min(MAX_HOLD);
        self.faults = self.faults.saturating_add(1);
        if let Some(fault) = &mut self.fault {
            // Asked anew at the end of the hold, and it is no better.
            fault.until = now + hold;
            return;
        }
        let reason: String = format!("{}: {why}", self.entries[at].service)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_REASON)
            .collect();
        actions
            .push(Action::Warn(format!("the group is failing for {} s at least: {reason}", hold.as_secs())));
        actions.push(Action::Report(Some(reason.clone())));
        self.fault = Some(Fault { reason, until: now + hold });
    }

    /// Long health makes the next hold short again.
    fn settle_health(&mut self, now: Instant) {
        if self.healthy_since.take().is_some_and(|since| now >= since + HEALTH) {
            self.faults = 0;
        }
    }

    /// Whatever follows from the state: an operation begins, a fault ends.
    fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.in_flight.is_some() {
            return;
        }
        // Nobody has said that the group is anywhere, so that nobody has started it.
        let untold = self.active.is_none();
        self.entries.retain(|entry| !entry.leaving || !(untold || entry.condition == Condition::Stopped));
        let mut next = self.next(now);
        if next.is_none() && self.fault_is_over(now) {
            // What could not be found out is asked again before anybody relies on this member.
            let asked =
                self.entries.iter_mut().filter(|entry| !entry.leaving).filter_map(Entry::ask_again).count();
            if asked == 0 {
                self.fault = None;
                self.entries.iter_mut().for_each(Entry::forgive);
                actions.push(Action::Info("the group is no longer failing".into()));
                actions.push(Action::Report(None));
            }
            next = self.next(now);
        }
        let all_run = self.wanted()
            && self.entries.iter().all(|entry| entry.leaving || entry.condition == Condition::Running);
        if all_run {
            self.healthy_since.get_or_insert(now);
        } else {
            self.settle_health(now);
        }
        if let Some(operation) = next {
            self.in_flight = Some(operation.clone());
            actions.push(Action::Begin(operation));
        }
    }

    fn fault_is_over(&self, now: Instant) -> bool {
        self.fault.as_ref().is_some_and(|fault| now >= fault.until)
            && self.entries.iter().all(|entry| entry.leaving || entry.condition == Condition::Stopped)
    }

    fn next(&self, now: Instant) -> Option<Operation> {
        self.active?;
        // First of all what left the manifest: its successor may want the same port.
        let left = self.entries.iter().rev().filter(|entry| entry.leaving).find_map(|entry| entry.down(now));
        if left.is_some() {
            return left;
        }
        let ours = self.entries.iter().filter(|entry| !entry.leaving);
        if !self.wanted() {
            return ours.rev().find_map(|entry| entry.down(now));
        }
        // Up to the first that does not run: those behind it wait for it.
        if let Some(operation) = ours.clone().find_map(Entry::toward_running) {
            return Some(operation);
        }
        let due = ours.filter_map(|entry| Some((entry.looked_at()?, entry)));
        let (looked, entry) = due.min_by_key(|(looked, _)| *looked)?;
        (looked + self.period <= now).then(|| entry.operation(Verb::Status))
    }

    /// What a person is shown of each service: its name, its state, since when, and what was said last.
    pub fn states(&self) -> impl Iterator<Item = (&Service, State, Instant, &str)> {
        self.entries.iter().map(|entry| (&entry.service, entry.shown, entry.since, entry.message.as_str()))
    }
}
