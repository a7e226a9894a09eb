//! One virtual router: the state machine of RFC 9568 section 6.4 (RFC 3768 section 6.4 for version 2).
//!
//! ```text
//!                        +---------------+
//!             +--------->|               |<-------------+
//!             |          |  Initialize   |              |
//!             |   +------|               |----------+   |
//!             |   |      +---------------+          |   |
//!             |   |                                 |   |
//!             |   V                                 V   |
//!     +---------------+                       +---------------+
//!     |    Backup     |---------------------->|    Active     |
//!     |  Listening    |  Ready: all silent,   |  Holding      |
//!     |  Ready        |  or on its own        |  Releasing    |
//!     +---------------+<----------------------+---------------+
//! ```
//!
//! Backup is *Listening* while its Active_Down_Timer runs. On its own it becomes Active when that timer runs out; as part of a
//! group it becomes *Ready* and waits for [`Input::Activate`]. Active is *Holding*, or *Releasing* during a hand-over: it says
//! priority 0 while it keeps the addresses until a successor is heard.

mod announcer;
mod reason;
mod transition;

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use announcer::{Announce, Announcer};
pub use reason::{Notice, Reason};

use crate::endpoint::Heard;
use crate::packet::{Family, Version};
use crate::time::{BootTime, earliest};
use crate::timers::{self, Interval};

/// What a virtual router is told by its configuration (RFC 9568 section 6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Version.
    pub version: Version,
    /// Family of its addresses.
    pub family: Family,
    /// Priority, 1 to 255; 255 owns the addresses.
    pub priority: u8,
    /// Advertisement_Interval.
    pub interval: Interval,
    /// Intervals of silence until the active one is taken for dead, at least 1; 3 in the RFCs.
    pub down_intervals: u32,
    /// Preempt_Mode.
    pub preempt: bool,
    /// Part of a group: when its Active_Down_Timer has run out it waits for [`Input::Activate`].
    pub lock_step: bool,
    /// Whether a peer of the same priority with a higher address makes it give way at once. In a group this is so for one virtual
    /// router only, the same on all members: by the addresses of another network another member may win, and all would give
    /// way. The others give way when that has not helped for two intervals.
    pub leading: bool,
    /// Whether it steps down when it was not running for longer than peers wait. Not where there are no peers.
    pub step_down_when_late: bool,
    /// Gratuitous ARP or unsolicited neighbour advertisements.
    pub announce: Announce,
}

impl Parameters {
    /// Those of the RFCs, on its own: an interval of a second, three intervals of silence, preemption.
    pub fn new(version: Version, family: Family, priority: u8) -> Self {
        Parameters {
            version,
            family,
            priority,
            interval: Interval::SECOND,
            down_intervals: 3,
            preempt: true,
            lock_step: false,
            leading: true,
            step_down_when_late: true,
            announce: Announce::default(),
        }
    }

    /// Skew_Time with the interval of the active router.
    pub fn skew_time(&self, active_adver_interval: Interval) -> Duration {
        timers::skew_time(self.version, self.priority, active_adver_interval)
    }

    /// Active_Down_Interval with the interval of the active router.
    pub fn active_down_interval(&self, active_adver_interval: Interval) -> Duration {
        timers::active_down_interval(self.version, self.priority, active_adver_interval, self.down_intervals)
    }

    /// How long the peers wait at least: see [`timers::patience`].
    pub fn patience(&self) -> Duration {
        timers::patience(self.version, self.interval, self.down_intervals)
    }
}

/// The state, with the timers that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not started.
    Initialize,
    /// Listening to the active router.
    Backup(Backup),
    /// Holding the addresses.
    Active(Active),
}

/// The state without its timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StateName {
    /// RFC 9568 section 6.4.1.
    Initialize,
    /// RFC 9568 section 6.4.2.
    Backup,
    /// RFC 9568 section 6.4.3.
    Active,
}

/// Listening to the active router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// What it waits for.
    pub waiting: Waiting,
    /// Active_Adver_Interval: the active router's interval, learned in version 3.
    pub active_adver_interval: Interval,
    /// The active router, if one was heard.
    pub active: Option<Peer>,
    /// When a router that is active was last heard, whatever its priority; without one, since when it listens.
    pub heard_at: BootTime,
    /// Whether the first wait is extended (startup grace) and nobody was heard yet.
    pub grace: bool,
    /// Who said priority 0 since the active router was last heard.
    pub released_by: Option<IpAddr>,
    /// Active router of lower priority, not listened to.
    pub lower: Option<Peer>,
    /// Whether this silence was already doubted because the timer came late.
    pub doubted: bool,
}

/// What a backup waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waiting {
    /// For the Active_Down_Timer.
    Listening {
        /// When it fires.
        until: BootTime,
    },
    /// For the rest of its group: its own Active_Down_Timer has run out.
    Ready,
}

/// Another router that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address.
    pub source: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// When it was last heard.
    pub at: BootTime,
}

/// Holding the addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// The Adver_Timer.
    pub adver_at: BootTime,
    /// When it last spoke.
    pub last_sent: BootTime,
    /// What the peers go by as long as it is not known that the last advertisement has left; `None` once it has.
    #[serde(default)]
    pub before: Option<Spoken>,
    /// How long the peers wait after that, by what they were told then: see [`timers::patience`].
    pub patience: Duration,
    /// Until then it answers no further advertisement: answers are no amplifier.
    pub answer_from: BootTime,
    /// Holding or handing over.
    pub phase: Phase,
    /// Since when, and until when, a peer of the same priority with a higher address was heard by a router that is not leading.
    pub tie: Option<(BootTime, BootTime)>,
    /// Gratuitous ARP or neighbour advertisements to come.
    pub announcer: Announcer,
}

/// When a router spoke, and how long its peers wait after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoken {
    /// When.
    pub at: BootTime,
    /// How long they wait, by what they were told then.
    pub patience: Duration,
}

/// What an active router is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It is the active router.
    Holding,
    /// It hands over: it says priority 0 and keeps the addresses until a successor is heard.
    Releasing {
        /// When it gives up waiting: Active_Down_Interval after it began.
        until: BootTime,
        /// What it does then.
        then: Afterwards,
    },
}

/// What becomes of a hand-over that found no successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Afterwards {
    /// It resumes (a switch-over). With a successor it becomes Backup.
    Resume,
    /// It goes and takes the addresses along (a stop). With a successor too.
    Leave,
    /// It goes and leaves the addresses where they are (a stop with `onAgentLoss: Keep`). With a successor they go.
    LeaveAddresses,
}

/// What happens to a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The Startup event. In Backup and Active: the own address changed.
    Startup {
        /// Its own primary (IPv4) or link-local (IPv6) address.
        source: IpAddr,
        /// The first Active_Down_Interval is at least so long, until a peer is heard.
        grace: Duration,
    },
    /// To be Active at once: it was so a moment ago, and the addresses are still there (see [`crate::resume`]).
    Resume {
        /// Its own address.
        source: IpAddr,
    },
    /// The Shutdown event: at once, without hand-over.
    Shutdown,
    /// Time has passed.
    Timer,
    /// A valid advertisement came.
    Advertisement(Heard),
    /// Hand over.
    Release(Afterwards),
    /// The rest of the group is ready too.
    Activate,
    /// Another one of the group is Active no more.
    GiveWay,
    /// Another one of the group heard priority 0.
    GroupReleased {
        /// From whom.
        by: IpAddr,
    },
    /// Another one of the group heard a peer: the startup grace ends.
    GroupHeard,
}

/// What a virtual router wants done. In the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an ADVERTISEMENT.
    Advertise {
        /// Its priority; 0 says that this router goes.
        priority: u8,
    },
    /// The addresses must be there from now on.
    HoldAddresses,
    /// The addresses must be gone from now on.
    DropAddresses,
    /// Send gratuitous ARP or unsolicited neighbour advertisements for every address.
    Announce {
        /// So many times.
        times: u32,
    },
    /// The state changed.
    Transition {
        /// From here.
        from: StateName,
        /// To here.
        to: StateName,
        /// Why.
        reason: Reason,
    },
    /// Worth saying, no transition.
    Notice(Notice),
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualRouter {
    parameters: Parameters,
    /// Its own address; unspecified before Startup.
    source: Option<IpAddr>,
    state: State,
    /// How often in a row it gave way to a peer of the same priority.
    ties: u32,
    /// Whoever became active after this one knows that it was.
    successor_is_told: bool,
}

impl VirtualRouter {
    /// One in Initialize.
    pub fn new(parameters: Parameters) -> Self {
        VirtualRouter { parameters, source: None, state: State::Initialize, ties: 0, successor_is_told: true }
    }

    /// One in `state`, as another process left it.
    pub fn restore(parameters: Parameters, source: Option<IpAddr>, state: State) -> Self {
        VirtualRouter { parameters, source, state, ties: 0, successor_is_told: true }
    }

    /// The state.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The state's name.
    pub const fn state_name(&self) -> StateName {
        match self.state {
            State::Initialize => StateName::Initialize,
            State::Backup(_) => StateName::Backup,
            State::Active(_) => StateName::Active,
        }
    }

    /// Whether it is Backup and waits for its group only.
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, State::Backup(Backup { waiting: Waiting::Ready, .. }))
    }

    /// Whether it is Active and hands over.
    pub const fn is_releasing(&self) -> bool {
        matches!(self.state, State::Active(Active { phase: Phase::Releasing { .. }, .. }))
    }

    /// The parameters.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The own address, once started.
    pub const fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// Other parameters from now on. A shorter interval holds at once; a Backup's timer goes on as it was set.
    pub fn set_parameters(&mut self, now: BootTime, parameters: Parameters) {
        self.parameters = parameters;
        if let State::Active(active) = &mut self.state {
            active.adver_at = active.adver_at.min(now + self.parameters.interval.duration());
        }
    }

    /// Preempt_Mode from now on.
    pub(crate) fn set_preempt(&mut self, preempt: bool) {
        self.parameters.preempt = preempt;
    }

    /// When it must be called with [`Input::Timer`] at the latest; `None` while only something else can change it.
    pub fn next_deadline(&self) -> Option<BootTime> {
        match &self.state {
            State::Initialize => None,
            State::Backup(backup) => match backup.waiting {
                Waiting::Listening { until } => Some(until),
                Waiting::Ready => None,
            },
            State::Active(active) => {
                let until = match active.phase {
                    Phase::Holding => None,
                    Phase::Releasing { until, .. } => Some(until),
                };
                earliest(Some(active.adver_at), earliest(until, active.announcer.next_deadline()))
            }
        }
    }

    /// If it is Active and was silent for longer than its peers wait: for how long.
    pub fn lateness(&self, now: BootTime) -> Option<Duration> {
        match &self.state {
            State::Active(active) if self.parameters.step_down_when_late => {
                let silent = now.since(active.last_sent);
                (silent >= active.patience).then_some(silent)
            }
            _ => None,
        }
    }

    /// Whether it is Active and decided to speak so long ago that its peers, who have not heard it since the time before, do not wait
    /// any more. What has not left by then must not leave.
    pub fn overtaken(&self, now: BootTime) -> bool {
        match &self.state {
            State::Active(Active { before: Some(before), .. }) if self.parameters.step_down_when_late => {
                now.since(before.at) >= before.patience
            }
            _ => false,
        }
    }

    /// What it wanted to say has left.
    pub fn sent(&mut self) {
        if let State::Active(active) = &mut self.state {
            active.before = None;
        }
    }

    /// What it wanted to say has not left: it has been silent since the time before.
    pub fn unsent(&mut self) {
        if let State::Active(active) = &mut self.state
            && let Some(before) = active.before.take()
        {
            (active.last_sent, active.patience) = (before.at, before.patience);
        }
    }

    /// It resumed what a former process was about, which had spoken for the last time then.
    pub fn spoke_before(&mut self, before: Spoken) {
        if let State::Active(active) = &mut self.state {
            active.before = Some(before);
        }
    }
}
