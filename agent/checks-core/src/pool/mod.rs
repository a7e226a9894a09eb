//! From verdicts to what the kernel shall hold for one virtual service.
//!
//! What happens where follows keepalived (`perform_svr_state`, `update_quorum_state` and `perform_quorum_state` in
//! keepalived/check/ipwrapper.c, `ipvs_cmd` in keepalived/check/ipvswrapper.c):
//!
//! * A real server is alive when all its checks pass; without checks it always is.
//! * The weights of those alive are summed up; a weight of 0 adds nothing, also one that a check asked for.
//! * Without quorum and with a sorry server, the real servers that are alive leave (with `Quiesce`: get weight 0) and the sorry
//!   server comes. Without a sorry server, nothing but the message changes: those alive go on.
//!
//! Where this is not what keepalived does:
//!
//! * Several checks that ask for a weight: the smallest counts. In keepalived the one that spoke last does.
//! * A live real server of weight 0 stays in the table with weight 0 while a sorry server serves: it was told to drain, and its
//!   connections are to end in peace. keepalived removes it.
//! * A service of both families is one pool with one sum. A family in which nothing is alive is without quorum all the same,
//!   else half of the clients would meet an empty table. In keepalived, each family is a virtual server of its own.

mod quorum;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::{Health, Verdict};

pub use quorum::{Quorum, Standing};

/// What happens without quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Below {
    /// The sorry server serves, where there is one.
    #[default]
    SorryServer,
    /// The service leaves the kernel.
    Withdraw,
    /// What is alive goes on.
    Keep,
}

/// What becomes of a real server that is not alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// It leaves the kernel.
    #[default]
    Remove,
    /// It stays with weight 0, but for services of datagrams (keepalived: inhibit_on_failure).
    Quiesce,
}

/// Whether a real server of which nothing is known is alive before its checks have spoken. (Of one of which something is known, what
/// it was goes in as what its checks say.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InitialState {
    /// It is.
    #[default]
    Up,
    /// It is not (keepalived: alpha).
    Down,
}

/// IPv4, IPv6 or both: of the virtual addresses behind which a real server or a sorry server can stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Families {
    /// IPv4 only.
    pub const IPV4: Self = Self { ipv4: true, ipv6: false };
    /// IPv6 only.
    pub const IPV6: Self = Self { ipv4: false, ipv6: true };
    /// Both.
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };
}

/// What a check says of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Up, down, or nothing yet.
    pub health: Health,
    /// The weight that it asks for.
    pub weight: Option<u16>,
}

impl From<&Verdict> for Reading {
    fn from(verdict: &Verdict) -> Self {
        Self { health: verdict.health, weight: verdict.weight }
    }
}

/// A real server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// The weight that it was given, at most 65535.
    pub weight: u16,
    /// Whether it was told to drain: it counts as one of weight 0, whatever its checks ask for.
    pub drain: bool,
    /// Where it can stand.
    pub families: Families,
    /// What each of its checks says.
    pub checks: Vec<Reading>,
}

/// One virtual service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// How much must be alive.
    pub quorum: Quorum,
    /// What happens without quorum.
    pub below: Below,
    /// What becomes of a real server that is not alive.
    pub on_failure: OnFailure,
    /// Whether a real server is alive before its checks have spoken.
    pub initial_state: InitialState,
    /// Where there is a sorry server.
    pub sorry: Families,
    /// The real servers.
    pub servers: Vec<Server>,
}

/// State of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// No check fails, but not all have spoken.
    Starting,
    /// All checks pass.
    Up,
    /// A check fails.
    Down,
    /// All checks pass, but it is to get no new connections: its weight is 0.
    Draining,
}

/// What the kernel shall hold of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// It stands there with this weight.
    Weight(u16),
    /// Weight 0 in a service of connections. In one of datagrams it is absent: there, a flow never leaves a real server for its
    /// weight, and would go on to a dead one.
    Quiesced,
    /// It does not stand there.
    Absent,
}

impl Held {
    /// The weight in a service of connections (TCP, SCTP) or of datagrams (UDP); none where it does not stand.
    pub fn weight(self, datagrams: bool) -> Option<u16> {
        match self {
            Self::Weight(weight) => Some(weight),
            Self::Quiesced => (!datagrams).then_some(0),
            Self::Absent => None,
        }
    }
}

/// A real server, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its state.
    pub state: State,
    /// Whether it counts as alive.
    pub alive: bool,
    /// What it weighs as long as it is alive.
    pub weight: u16,
    /// What the services of IPv4 shall hold of it.
    pub ipv4: Held,
    /// What the services of IPv6 shall hold of it.
    pub ipv6: Held,
}

/// Who serves one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Serving {
    /// The real servers.
    RealServers,
    /// The sorry server.
    SorryServer,
    /// Nobody: the service leaves the kernel.
    Withdrawn,
}

/// What a pool comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the quorum is met: to be handed in the next time.
    pub standing: Standing,
    /// The sum of the weights of those alive.
    pub alive: u64,
    /// Who serves IPv4.
    pub ipv4: Serving,
    /// Who serves IPv6.
    pub ipv6: Serving,
    /// The real servers, in their order.
    pub servers: Vec<Judged>,
}

impl Pool {
    /// What the kernel shall hold, when the quorum was met or not before. Judging again with the same verdicts changes nothing.
    pub fn judge(&self, before: Standing) -> Judgement {
        let weighed: Vec<_> = self.servers.iter().map(|server| self.weigh(server)).collect();
        let sum = |stands: fn(&Families) -> bool| -> u64 {
            let members = self.servers.iter().zip(&weighed);
            members
                .filter(|(server, (_, alive, _))| *alive && stands(&server.families))
                .map(|(_, (.., weight))| u64::from(*weight))
                .sum()
        };
        let alive = sum(|_| true);
        let standing = self.quorum.judge(before, alive);
        let ipv4 = self.serving(standing, sum(|families| families.ipv4), self.sorry.ipv4);
        let ipv6 = self.serving(standing, sum(|families| families.ipv6), self.sorry.ipv6);
        let servers = self.servers.iter().zip(weighed).map(|(server, (state, alive, weight))| Judged {
            state,
            alive,
            weight,
            ipv4: self.held(ipv4, server.families.ipv4, alive, weight),
            ipv6: self.held(ipv6, server.families.ipv6, alive, weight),
        });
        Judgement { standing, alive, ipv4, ipv6, servers: servers.collect() }
    }

    /// State of a real server, whether it is alive, and what it weighs then.
    fn weigh(&self, server: &Server) -> (State, bool, u16) {
        let asked = server.checks.iter().filter_map(|check| check.weight).min();
        let weight = if server.drain || server.weight == 0 { 0 } else { asked.unwrap_or(server.weight) };
        if server.checks.iter().any(|check| check.health == Health::Down) {
            (State::Down, false, weight)
        } else if server.checks.iter().any(|check| check.health == Health::Unknown) {
            (State::Starting, self.initial_state == InitialState::Up, weight)
        } else if weight == 0 {
            (State::Draining, true, weight)
        } else {
            (State::Up, true, weight)
        }
    }

    fn serving(&self, standing: Standing, alive: u64, sorry: bool) -> Serving {
        if standing == Standing::Met && alive > 0 {
            return Serving::RealServers;
        }
        match self.below {
            Below::SorryServer if sorry => Serving::SorryServer,
            Below::SorryServer | Below::Keep => Serving::RealServers,
            Below::Withdraw => Serving::Withdrawn,
        }
    }

    fn held(&self, serving: Serving, stands: bool, alive: bool, weight: u16) -> Held {
        match serving {
            _ if !stands => Held::Absent,
            Serving::Withdrawn => Held::Absent,
            Serving::RealServers if alive => Held::Weight(weight),
            Serving::SorryServer if alive && weight == 0 => Held::Weight(0),
            Serving::RealServers | Serving::SorryServer => match self.on_failure {
                OnFailure::Remove => Held::Absent,
                OnFailure::Quiesce => Held::Quiesced,
            },
        }
    }
}
