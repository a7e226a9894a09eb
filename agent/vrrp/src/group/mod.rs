//! A group: virtual routers of several interfaces and of both families that change state together.
//!
//! * It becomes Active when the Active_Down_Timers of *all* have run out, so that a director that lost one of its networks does
//!   not claim the addresses of the other.
//! * An advertisement that wins on one network makes all Backup.
//! * A fault of one is a fault of all. The active member then says priority 0 on the networks that it still reaches.
//! * Priority 0 heard on one network shortens the wait on all to Skew_Time: a lost link costs no detection time.

mod config;
mod differences;
mod handle;
mod notices;
mod settle;
mod snapshot;
mod status;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use config::{
    AgentLoss, ConfigError, ConfigWarning, GroupConfig, InstanceConfig, MAX_PRIORITY, MAX_ROUTERS,
    MAX_TRACKERS, PREFERRED, Preempt, RouterId, STANDING_BY, Tracker, advertised,
};
pub use differences::{Difference, FORGOTTEN};
pub use snapshot::{RestoreError, Restored, Snapshot};
pub use status::{Counters, RouterStatus, Status};

use crate::authentication::{Senders, Sequence};
use crate::endpoint::Endpoint;
use crate::packet::{Datagram, Family};
use crate::resume::Record;
use crate::router::{Reason, Spoken, State, StateName, VirtualRouter};
use crate::time::{BootTime, Now, earliest};
use crate::timers::Interval;
use differences::Differences;
pub use notices::StalePeer;
use notices::{Limiter, StalePeers};

/// State of a group: that of all its virtual routers, and Fault, for which the RFC has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GroupState {
    /// Not started, stopped, or waiting to hear of its interfaces.
    Initialize,
    /// Something tracked has failed: it takes no part.
    Fault,
    /// Listening.
    Backup,
    /// Holding the addresses.
    Active,
}

/// What is known of the interface of a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// Not looked at yet.
    Unknown,
    /// It has carrier and an address to speak from.
    Up {
        /// The primary IPv4 address or the link-local IPv6 address (unicast: the member's own address).
        source: IpAddr,
    },
    /// Down, or without carrier.
    Down,
    /// Up, but nobody could be heard on it: there is no socket. That must not pass for silence.
    Deaf,
    /// Up, but what is sent on it keeps failing.
    Mute,
    /// Up, but the interface with the virtual MAC address, where the addresses belong, is not there.
    NoHome,
    /// Up, but without an address to speak from.
    NoAddress,
    /// There is no such interface.
    Missing,
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<'a> {
    /// Begin. The interfaces may be reported before or after.
    Start {
        /// The verdict of [`crate::resume::judge`] was to go on as Active. Needs all interfaces to be reported before.
        resume: bool,
    },
    /// Time has passed.
    Timer,
    /// An interface was looked at, or changed.
    Link {
        /// The virtual router on it.
        router: RouterId,
        /// How it is.
        link: Link,
    },
    /// A datagram of IP protocol 112 came in for a virtual router.
    Datagram {
        /// The virtual router, by interface, family and VRID.
        router: &'a RouterId,
        /// What came.
        datagram: Datagram<'a>,
    },
    /// Something tracked failed or recovered.
    Tracked {
        /// Its name.
        name: &'a str,
        /// Whether it fails.
        failing: bool,
    },
    /// Give the addresses to another member, and do not take them back by preemption. Answered by [`Action::Switchover`].
    Switchover,
    /// Give the addresses to another member that is to have them, such as one that is preferred now; nothing is held against
    /// preemption. Nobody took over: [`Switchover::NoSuccessor`], and it is active as before.
    GiveAway,
    /// This machine is to be out of service (true), or is in service again: while it stands by, its priority is [`STANDING_BY`]
    /// whatever is configured and tracked, so that it is active only while nobody else can be. An active one gives the addresses
    /// away as with [`Input::GiveAway`].
    StandBy(bool),
    /// Take back by preemption again, after a switch-over was commanded.
    Unhold,
    /// Stop: hand over, then go. Answered by [`Action::Stopped`].
    Stop,
    /// Stop at once: priority 0 is said, and the addresses go. Answered by [`Action::Stopped`].
    Halt,
    /// Another configuration. What it leaves as it was is not disturbed.
    Configure {
        /// It.
        config: Box<GroupConfig>,
        /// The interfaces of virtual routers that are new.
        links: Vec<(RouterId, Link)>,
    },
}

/// What a group wants done, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send an advertisement: TTL or hop limit 255, IP protocol 112, from `source`. An IPv6 socket may calculate the checksum
    /// again (`IPV6_CHECKSUM` 6); it comes out the same.
    Send {
        /// Whose it is.
        router: RouterId,
        /// Its source address.
        source: IpAddr,
        /// The multicast group, or a peer.
        destination: IpAddr,
        /// The IP payload.
        bytes: Vec<u8>,
    },
    /// The addresses of the virtual router, advertised or not, must be on its interface. May be said again while they are.
    HoldAddresses {
        /// The virtual router.
        router: RouterId,
        /// Their valid lifetime in the kernel; `None` is forever.
        lifetime: Option<Duration>,
    },
    /// Set the lifetime of all addresses of the group again.
    RenewAddresses {
        /// The lifetime.
        lifetime: Duration,
    },
    /// They must be gone.
    DropAddresses {
        /// The virtual router.
        router: RouterId,
    },
    /// Send gratuitous ARP or unsolicited neighbour advertisements for all addresses of the virtual router, so many times.
    Announce {
        /// The virtual router.
        router: RouterId,
        /// How often each.
        times: u32,
    },
    /// The state changed.
    Changed(Change),
    /// Worth a line in the log and an event; at a bounded rate.
    Warning(Warning),
    /// What became of a commanded switch-over.
    Switchover(Switchover),
    /// It has stopped.
    Stopped {
        /// Whether the addresses were left in the kernel (`onAgentLoss: Keep` and nobody took over).
        addresses_left: bool,
    },
    /// [`Group::hold`] changed: keep it over restarts, see [`Group::record`].
    Remember {
        /// Whether preemption is held.
        hold: bool,
    },
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From here.
    pub from: GroupState,
    /// To here.
    pub to: GroupState,
    /// Why, in at most 128 characters.
    pub reason: String,
}

/// Worth saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about, if not the whole group.
    pub router: Option<RouterId>,
    /// Its name in counters and events.
    pub kind: &'static str,
    /// In words.
    pub text: String,
    /// How many like it were kept back since the last one.
    pub suppressed: u64,
}

/// What became of a commanded switch-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switchover {
    /// A successor was heard.
    Done {
        /// Why it is Backup now; names the successor.
        reason: String,
    },
    /// Nobody took over, also after [`Input::GiveAway`]: it is active as before.
    NoSuccessor,
    /// It did not begin.
    Refused {
        /// Why.
        reason: &'static str,
    },
    /// It ended otherwise.
    Interrupted {
        /// How.
        reason: String,
    },
}

/// One virtual router of a group.
#[derive(Clone, Debug)]
struct Slot {
    id: RouterId,
    interface: Arc<str>,
    endpoint: Endpoint,
    router: VirtualRouter,
    link: Link,
    sequence: Sequence,
    senders: Senders,
    stale: StalePeers,
    counters: Counters,
    differences: Differences,
    /// Whether this silence was warned of.
    warned: bool,
    /// Whether it was said that only this network is silent.
    one_sided: bool,
}

/// A group, as one member carries it out.
#[derive(Clone, Debug)]
pub struct Group {
    config: GroupConfig,
    interval: Interval,
    slots: Vec<Slot>,
    state: GroupState,
    since: BootTime,
    reason: String,
    /// Between Start and Stop.
    running: bool,
    /// The startup grace was given.
    graced: bool,
    /// After a commanded switch-over: no preemption.
    hold: bool,
    /// The machine is out of service: active only while nobody else can be.
    stands_by: bool,
    /// Whether the hand-over under way was commanded.
    commanded: bool,
    /// Since when it is up, or the better one: where `preempt.delay` counts from.
    better_since: Option<BootTime>,
    /// No preemption before: it has just become preferred, and the active member hands over by itself.
    courteous_until: Option<BootTime>,
    /// Trackers that fail.
    failing: BTreeMap<Arc<str>, bool>,
    renewed_at: Option<BootTime>,
    /// When priority 0 is said once more after a fault.
    farewell_at: Option<BootTime>,
    /// When a former process, of which this one may resume what it was about, spoke last.
    spoken: Option<Spoken>,
    /// The virtual router that ceased to be Active first, in the call under way, and why.
    lost: Option<(usize, Reason)>,
    limiter: Limiter,
    out: Vec<Action>,
}

impl Group {
    /// One that has not started.
    pub fn new(config: GroupConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let interval = config.wire_interval()?;
        let mut group = Group {
            interval,
            slots: Vec::new(),
            state: GroupState::Initialize,
            since: BootTime::ZERO,
            reason: "not started".to_owned(),
            running: false,
            graced: false,
            hold: false,
            stands_by: false,
            commanded: false,
            better_since: None,
            courteous_until: None,
            failing: BTreeMap::new(),
            renewed_at: None,
            farewell_at: None,
            spoken: None,
            lost: None,
            limiter: Limiter::default(),
            out: Vec::new(),
            config,
        };
        group.slots = group.new_slots();
        Ok(group)
    }

    /// Takes over what a former process of this machine left: sequence numbers that must go on growing, a held switch-over, and when it
    /// spoke last, which is what peers go by should this one resume.
    pub fn remember(&mut self, record: &Record) {
        self.hold = record.hold;
        self.spoken = record.last_advertisement.map(|at| Spoken { at, patience: record.patience });
        for slot in &mut self.slots {
            let key = (slot.id.instance.to_string(), slot.id.family);
            if let Some((_, sequence)) = record.sequences.iter().find(|(id, _)| *id == key) {
                slot.sequence = *sequence;
            }
        }
    }

    /// What a process that comes after a crash of this one must know; to be kept (in /run) after each advertisement.
    pub fn record(&self, boot_id: &str) -> Record {
        // Who gave way a moment ago must not speak with full priority again: a successor is on its way.
        let last = self.last_sent().filter(|_| !self.is_releasing());
        Record {
            boot_id: boot_id.to_owned(),
            last_advertisement: last.map(|(last, _)| last),
            patience: last.map_or(Duration::ZERO, |(_, patience)| patience),
            hold: self.hold,
            sequences: self
                .slots
                .iter()
                .map(|slot| ((slot.id.instance.to_string(), slot.id.family), slot.sequence))
                .collect(),
        }
    }

    /// When it must be called with [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Option<BootTime> {
        let routers = self.slots.iter().filter_map(|slot| slot.router.next_deadline()).min();
        let warnings = self.slots.iter().filter_map(|slot| self.warning_deadline(slot)).min();
        let renewal = self.renewed_at.zip(self.config.address_lifetime());
        let others = earliest(self.farewell_at, warnings);
        earliest(earliest(routers, others), renewal.map(|(last, lifetime)| last + lifetime / 3))
    }

    /// The configuration.
    pub const fn config(&self) -> &GroupConfig {
        &self.config
    }

    /// The state.
    pub const fn state(&self) -> GroupState {
        self.state
    }

    /// Whether it is Active and hands over.
    pub fn is_releasing(&self) -> bool {
        self.slots.iter().any(|slot| slot.router.is_releasing())
    }

    /// Whether preemption is held after a commanded switch-over.
    pub const fn hold(&self) -> bool {
        self.hold
    }

    /// The virtual routers: id, interface, VRID.
    pub fn routers(&self) -> impl Iterator<Item = (&RouterId, &str, u8)> {
        self.slots.iter().map(|slot| (&slot.id, &*slot.interface, slot.endpoint.vrid))
    }

    /// The state of each virtual router. After any call of [`Group::handle`] all are in the state that the group's says, but for
    /// new ones whose interface is not known yet, or that wait for the end of a hand-over.
    pub fn router_states(&self) -> impl Iterator<Item = (&RouterId, StateName)> {
        self.slots.iter().map(|slot| (&slot.id, slot.router.state_name()))
    }

    /// Whether it is active only while nobody else can be ([`Input::StandBy`]).
    pub const fn stands_by(&self) -> bool {
        self.stands_by
    }

    /// The priority that it advertises now.
    pub fn priority(&self) -> u8 {
        if self.stands_by {
            return STANDING_BY;
        }
        self.config.effective_priority(|name| self.failing.get(name).copied().unwrap_or(false))
    }

    /// When peers take over unless it has spoken by then; `None` while it is not Active.
    pub fn must_speak_by(&self) -> Option<BootTime> {
        self.last_sent().map(|(last, patience)| last + patience)
    }

    /// Whether what it last wanted to be sent comes too late at `now`: peers, who have not heard it since the time before, may have
    /// taken over, as the process may have stood still since [`Group::handle`]. Ask before each [`Action::Send`] is carried out. What
    /// is too late must not be sent, and [`Group::unsent`] be told; else [`Group::sent`], once all is. False while it is not Active,
    /// and when it has no peers.
    pub fn overtaken(&self, now: BootTime) -> bool {
        self.slots.iter().any(|slot| slot.router.overtaken(now))
    }

    /// All that it wanted to be sent has left, or been tried.
    pub fn sent(&mut self) {
        for slot in &mut self.slots {
            slot.router.sent();
        }
    }

    /// What it last wanted to be sent was too late and not sent: with the next input it steps down.
    pub fn unsent(&mut self) {
        for slot in &mut self.slots {
            slot.router.unsent();
        }
    }

    fn new_slots(&self) -> Vec<Slot> {
        let priority = self.priority();
        self.config
            .endpoints(self.interval)
            .into_iter()
            .map(|(id, interface, endpoint)| Slot {
                router: VirtualRouter::new(self.config.parameters(self.interval, &id, priority)),
                id,
                interface,
                endpoint,
                link: Link::Unknown,
                sequence: Sequence::default(),
                senders: Senders::default(),
                stale: StalePeers::default(),
                counters: Counters::default(),
                differences: Differences::default(),
                warned: false,
                one_sided: false,
            })
            .collect()
    }

    /// When it last spoke as Active, and how long its peers wait after that; `None` while it is not.
    fn last_sent(&self) -> Option<(BootTime, Duration)> {
        self.slots
            .iter()
            .filter_map(|slot| match slot.router.state() {
                State::Active(active) => Some((active.last_sent, active.patience)),
                _ => None,
            })
            .min_by_key(|(last, patience)| *last + *patience)
    }

    /// Preempt_Mode at this moment, against an active member of that priority.
    fn may_preempt(&self, now: Now, heard: u8) -> bool {
        if self.config.relieves && heard == STANDING_BY {
            return true;
        }
        if self.courteous_until.is_some_and(|until| now.boot < until) {
            return false;
        }
        let Preempt { enabled, delay } = self.config.preempt;
        let waited = || self.better_since.is_some_and(|since| now.boot.since(since) >= delay);
        self.config.preferred || (enabled && !self.hold && (delay.is_zero() || waited()))
    }

    fn slot(&self, id: &RouterId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.id == *id)
    }
}

/// `instance (family)` where that is needed to tell virtual routers apart, with what is to be said.
fn about(slots: &[Slot], at: usize, text: &str) -> String {
    let id = &slots[at].id;
    let said = match slots.iter().filter(|slot| slot.id.instance == id.instance).count() {
        _ if slots.len() == 1 => text.to_owned(),
        1 => format!("{}: {text}", id.instance),
        _ => format!("{id}: {text}"),
    };
    shorten(said)
}

/// At most 128 characters, what status has room for.
fn shorten(text: String) -> String {
    match text.char_indices().nth(127) {
        Some((at, _)) if text.chars().count() > 128 => format!("{}…", &text[..at]),
        _ => text,
    }
}

impl Family {
    /// As in reasons of links.
    const fn address_name(self) -> &'static str {
        match self {
            Family::Ipv4 => "IPv4 address",
            Family::Ipv6 => "link-local IPv6 address",
        }
    }
}
