//! Why a state changed, in words: status and events repeat them.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::timers::Interval;

/// Why a virtual router's state changed. Displays in at most 128 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The Startup event.
    Started,
    /// The Startup event, and it owns the addresses.
    Owner,
    /// It was active a moment ago.
    Resumed,
    /// The Active_Down_Timer ran out.
    Silence {
        /// Whom it listened to, if anybody.
        active: Option<IpAddr>,
        /// For how long nothing was heard.
        silent: Duration,
        /// The active router's interval.
        interval: Interval,
    },
    /// The active router said priority 0 (or one that another one of the group listens to).
    Released {
        /// Who.
        by: IpAddr,
    },
    /// The active router has a lower priority.
    Preempted {
        /// Who.
        peer: IpAddr,
        /// Its priority.
        priority: u8,
        /// The own one.
        own: u8,
    },
    /// A router with a higher priority is active.
    Higher {
        /// Who.
        peer: IpAddr,
        /// Its priority.
        priority: u8,
        /// The own one.
        own: u8,
    },
    /// A router with the same priority and a higher address is active.
    HigherAddress {
        /// Who.
        peer: IpAddr,
        /// The priority of both.
        priority: u8,
    },
    /// It had not spoken for longer than its peers wait: suspended or starved.
    Late {
        /// For how long.
        silent: Duration,
    },
    /// It handed over.
    HandedOver {
        /// To whom.
        to: IpAddr,
    },
    /// It handed over and nobody took over.
    NoSuccessor {
        /// How long it waited.
        waited: Duration,
    },
    /// The Shutdown event.
    Shutdown,
    /// Another one of the group changed.
    Group,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Started => f.write_str("started"),
            Reason::Owner => f.write_str("started as the owner of the addresses"),
            Reason::Resumed => f.write_str("was active a moment ago"),
            Reason::Silence { active, silent, interval } => {
                f.write_str("heard nothing ")?;
                if let Some(active) = active {
                    write!(f, "from {active} ")?;
                }
                let intervals = silent.as_secs_f64() / interval.duration().as_secs_f64();
                write!(f, "for {intervals:.2} intervals ({silent:.2?})")
            }
            Reason::Released { by } => write!(f, "{by} released the addresses (priority 0)"),
            Reason::Preempted { peer, priority, own } => {
                write!(f, "own priority {own} is above {priority} of {peer}")
            }
            Reason::Higher { peer, priority, own } => {
                write!(f, "{peer} is active with priority {priority}, own is {own}")
            }
            Reason::HigherAddress { peer, priority } => {
                write!(f, "{peer} is active with the same priority {priority} and has the higher address")
            }
            Reason::Late { silent } => {
                write!(f, "had not run for {silent:.2?}, longer than the peers wait")
            }
            Reason::HandedOver { to } => write!(f, "handed over to {to}"),
            Reason::NoSuccessor { waited } => write!(f, "nobody took over within {waited:.2?}"),
            Reason::Shutdown => f.write_str("stopped"),
            Reason::Group => f.write_str("another instance of the group changed"),
        }
    }
}

/// Worth saying, though no state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The Active_Down_Timer came so late that the silence may be our own: the active router gets another chance.
    Doubt {
        /// How late.
        late: Duration,
    },
    /// A hand-over found no successor, the router is active as before.
    Resumed {
        /// How long it waited.
        waited: Duration,
    },
    /// A peer speaks as active with the same priority: give each member its own.
    SamePriority {
        /// Who.
        peer: IpAddr,
        /// The priority.
        priority: u8,
    },
    /// A peer that has a lower priority speaks as active, too.
    AlsoActive {
        /// Who.
        peer: IpAddr,
        /// Its priority.
        priority: u8,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Doubt { late } => {
                write!(f, "the timer came {late:.2?} late: the silence may be our own, listening on")
            }
            Notice::Resumed { waited } => write!(f, "nobody took over within {waited:.2?}: active as before"),
            Notice::SamePriority { peer, priority } => {
                write!(f, "{peer} has the same priority {priority}: give each member its own")
            }
            Notice::AlsoActive { peer, priority } => {
                write!(f, "{peer} is active too, with priority {priority}")
            }
        }
    }
}
