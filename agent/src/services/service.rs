//! One service of a group: its name, and what is known of it.

use std::fmt;
use std::time::Instant;

use bascule_crds::common::ProgramCall;
use bascule_crds::vrrp_group::MachineService;
use serde::{Deserialize, Serialize};

use super::group::{Operation, Verb};

/// A service of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// A unit of systemd.
    Unit(String),
    /// A program that is called with its arguments and then `start`, `stop` or `status`.
    Program(ProgramCall),
}

impl Service {
    /// As the manifest has it; `None` of one that names neither, which validation refuses.
    pub fn new(service: &MachineService) -> Option<Self> {
        match service {
            MachineService { systemd: Some(unit), .. } => Some(Self::Unit(unit.clone())),
            MachineService { exec: Some(call), .. } => Some(Self::Program(call.clone())),
            _ => None,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => f.write_str(unit),
            Self::Program(call) => {
                f.write_str(&call.program)?;
                call.args.iter().try_for_each(|arg| write!(f, " {arg}"))
            }
        }
    }
}

/// What a service is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nobody has looked.
    Unknown,
    /// It does not run.
    Stopped,
    /// It runs.
    Running,
    /// It should run, and does not or only half: it is stopped before anything else.
    Broken,
    /// It did not stop.
    Stuck {
        /// When that is tried again.
        again: Instant,
    },
}

/// What a person is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Nobody has looked yet.
    Unknown,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It does not run.
    Stopped,
    /// It is why the group is failing, or is about to be restarted.
    Failed,
}

/// A service, and what is known of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which.
    pub service: Service,
    /// What it is.
    pub condition: Condition,
    /// It is in the manifest no more.
    pub leaving: bool,
    /// What is shown.
    pub shown: State,
    /// Since when.
    pub since: Instant,
    /// What was said last of what went wrong.
    pub message: String,
    /// When it was last seen running.
    pub(super) looked: Instant,
    /// When it was restarted last.
    pub(super) restarted: Option<Instant>,
    /// It is taken for stopped, and nobody could find out.
    pub(super) doubtful: bool,
    /// It is why the group is failing.
    pub(super) is_guilty: bool,
}

impl Entry {
    pub(super) fn new(service: Service, now: Instant) -> Self {
        Self {
            service,
            condition: Condition::Unknown,
            leaving: false,
            shown: State::Unknown,
            since: now,
            message: String::new(),
            looked: now,
            restarted: None,
            doubtful: false,
            is_guilty: false,
        }
    }

    pub(super) fn operation(&self, verb: Verb) -> Operation {
        Operation { verb, service: self.service.clone() }
    }

    /// What brings it nearer to running; `None` when it runs.
    pub(super) fn toward_running(&self) -> Option<Operation> {
        let verb = match self.condition {
            Condition::Unknown => Verb::Status,
            Condition::Stopped => Verb::Start,
            Condition::Running => return None,
            Condition::Broken | Condition::Stuck { .. } => Verb::Stop,
        };
        Some(self.operation(verb))
    }

    /// What brings it nearer to being stopped; `None` when it is, or has to be waited for.
    pub(super) fn down(&self, now: Instant) -> Option<Operation> {
        let verb = match self.condition {
            Condition::Unknown => Verb::Status,
            Condition::Stopped => return None,
            Condition::Running | Condition::Broken => Verb::Stop,
            Condition::Stuck { again } if again <= now => Verb::Stop,
            Condition::Stuck { .. } => return None,
        };
        Some(self.operation(verb))
    }

    /// When it is to be stopped once more, if it did not.
    pub(super) fn stop_again(&self) -> Option<Instant> {
        match self.condition {
            Condition::Stuck { again } => Some(again),
            _ => None,
        }
    }

    /// When it was last seen running, if it is.
    pub(super) fn looked_at(&self) -> Option<Instant> {
        (self.condition == Condition::Running && !self.leaving).then_some(self.looked)
    }

    /// It runs.
    pub(super) fn up(&mut self, now: Instant) {
        self.becomes(Condition::Running);
        self.looked = now;
        self.is_guilty = false;
    }

    pub(super) fn becomes(&mut self, condition: Condition) {
        self.condition = condition;
        self.doubtful = false;
        if condition == Condition::Running {
            self.message.clear();
        }
    }

    /// Nobody can find out; what was not seen running is taken for stopped until the hold is over.
    pub(super) fn is_doubtful(&mut self, why: String) {
        self.condition = Condition::Stopped;
        self.doubtful = true;
        self.message = why;
    }

    /// The hold is over: what could not be found out is to be asked again.
    pub(super) fn ask_again(&mut self) -> Option<()> {
        std::mem::take(&mut self.doubtful).then(|| self.condition = Condition::Unknown)
    }

    /// It may fail anew.
    pub(super) fn forgive(&mut self) {
        self.restarted = None;
        self.is_guilty = false;
    }

    /// Notes what is shown, and since when.
    pub(super) fn note(&mut self, now: Instant, in_flight: Option<&Operation>) {
        let verb =
            in_flight.filter(|operation| operation.service == self.service).map(|operation| operation.verb);
        let state = match (verb, self.condition) {
            (Some(Verb::Start), _) => State::Starting,
            (Some(Verb::Stop), _) => State::Stopping,
            (_, Condition::Broken | Condition::Stuck { .. }) => State::Failed,
            (_, Condition::Stopped) if self.is_guilty => State::Failed,
            (_, Condition::Unknown) => State::Unknown,
            (_, Condition::Stopped) => State::Stopped,
            (_, Condition::Running) => State::Running,
        };
        if state != self.shown {
            self.shown = state;
            self.since = now;
        }
    }
}
