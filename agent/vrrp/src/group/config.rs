//! What a group is told by its configuration, and what is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::{AddressCheck, Authentication, Checksum, Endpoint, Peers};
use crate::packet::{Family, Version, derived_link_local};
use crate::router::{Announce, Parameters};
use crate::timers::{Interval, IntervalError, active_down_interval};

/// The priority of a member that is `preferred`.
pub const PREFERRED: u8 = 254;
/// The priority of a member that stands by ([`Input::StandBy`](super::Input::StandBy)).
pub const STANDING_BY: u8 = 1;
/// The highest priority that configuration and tracking can give.
pub const MAX_PRIORITY: u8 = 253;
/// Most virtual routers of a group, both families counted.
pub const MAX_ROUTERS: usize = 64;
/// Most things that a group tracks.
pub const MAX_TRACKERS: usize = 128;

/// A group as one member carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Its name, for messages.
    pub name: Arc<str>,
    /// Version of the protocol.
    pub version: Version,
    /// This member's priority, 1 to 253.
    pub priority: u8,
    /// This member is preferred: its priority is 254, which overrides `preempt`, its delay and a held switch-over, but no fault.
    pub preferred: bool,
    /// So long a Backup that becomes preferred waits for the active member to hand over by itself before it takes over from it
    /// ([`Input::GiveAway`](super::Input::GiveAway)): there is something to be ended first. Zero: not at all.
    pub courtesy: Duration,
    /// Another member stands by ([`Input::StandBy`](super::Input::StandBy)): from one that says [`STANDING_BY`] this one takes over,
    /// whatever `preempt`, its delay and a held switch-over say.
    pub relieves: bool,
    /// No member has a higher priority: no startup grace.
    pub highest: bool,
    /// Advertisement_Interval: see [`Interval::new`].
    pub interval: Duration,
    /// Missed advertisements until the active member is taken for dead, 1 to 100.
    pub down_intervals: u32,
    /// Silence after which to warn.
    pub warn_after: Option<Duration>,
    /// The first wait for an active member is at least so long, until a peer is heard.
    pub startup_grace: Duration,
    /// Whether and when to take over from a living one.
    pub preempt: Preempt,
    /// The virtual routers, 1 to 32.
    pub instances: Vec<InstanceConfig>,
    /// Things that can fail.
    pub trackers: Vec<Tracker>,
    /// Gratuitous ARP and unsolicited neighbour advertisements.
    pub announce: Announce,
    /// Authentication.
    pub authentication: Authentication,
    /// The checksum of version 3 over IPv4.
    pub checksum: Checksum,
    /// Advertisements for other addresses than ours.
    pub address_check: AddressCheck,
    /// What becomes of the addresses when nobody renews them.
    pub on_agent_loss: AgentLoss,
    /// Whether there are other members: without, nobody could take over while this one was late.
    pub alone: bool,
}

impl GroupConfig {
    /// A group with the defaults of version 3: an interval of a second, three intervals of silence, preemption at once.
    pub fn new(name: &str, priority: u8, instances: Vec<InstanceConfig>) -> Self {
        GroupConfig {
            name: name.into(),
            version: Version::V3,
            priority,
            preferred: false,
            courtesy: Duration::ZERO,
            relieves: false,
            highest: false,
            interval: Duration::from_secs(1),
            down_intervals: 3,
            warn_after: None,
            startup_grace: Duration::ZERO,
            preempt: Preempt::default(),
            instances,
            trackers: Vec::new(),
            announce: Announce::default(),
            authentication: Authentication::None,
            checksum: Checksum::default(),
            address_check: AddressCheck::default(),
            on_agent_loss: AgentLoss::Release,
            alone: false,
        }
    }
}

/// Whether a member with a higher priority takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempt {
    /// Whether it does.
    pub enabled: bool,
    /// How long it has been up, or has been the better one, before.
    pub delay: Duration,
}

impl Default for Preempt {
    fn default() -> Self {
        Preempt { enabled: true, delay: Duration::ZERO }
    }
}

/// Addresses on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Name, unique in the group.
    pub name: Arc<str>,
    /// Interface, for messages and to tell whether it changed.
    pub interface: Arc<str>,
    /// Virtual router id, 1 to 255.
    pub vrid: u8,
    /// Addresses that are advertised, of one family or both.
    pub addresses: Vec<IpAddr>,
    /// How the members reach each other on it.
    pub peers: Peers,
}

/// Something that can fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracker {
    /// Its name, unique in the group; it stands in the reason: `interface eth2`, `service postfix.service`.
    pub name: Arc<str>,
    /// Below zero it is added to the priority while it fails, above zero while it does not. Without, failing is a fault.
    pub weight: Option<i16>,
}

/// What becomes of the addresses when the agent is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentLoss {
    /// They have a lifetime in the kernel.
    #[default]
    Release,
    /// They stay.
    Keep,
}

/// A virtual router of a group: an instance's addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId {
    /// The instance's name.
    pub instance: Arc<str>,
    /// The family.
    pub family: Family,
}

impl std::fmt::Display for RouterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.instance, self.family)
    }
}

/// Why a group is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not 1 to 253.
    #[error("priority {0}: it is 1 to 253 (254 is kept for preferred, 255 for an owner of the addresses)")]
    Priority(u8),
    /// An interval that cannot be sent.
    #[error(transparent)]
    Interval(#[from] IntervalError),
    /// Not 1 to 100.
    #[error("downIntervals {0}: it is 1 to 100")]
    DownIntervals(u32),
    /// No instance, or too many.
    #[error("{0} virtual routers: a group has 1 to 64, both families counted")]
    Routers(usize),
    /// More than [`MAX_TRACKERS`].
    #[error("{0} things are tracked: at most 128 can be")]
    Trackers(usize),
    /// Two of one name.
    #[error("two {what} have the name {name:?}")]
    Twice {
        /// What.
        what: &'static str,
        /// The name.
        name: Arc<str>,
    },
    /// VRID 0.
    #[error("instance {0}: a virtual router id is 1 to 255")]
    Vrid(Arc<str>),
    /// Two instances of one interface and VRID.
    #[error("instances {0} and {1} have the same interface and virtual router id")]
    SameVrid(Arc<str>, Arc<str>),
    /// None, or too many of a family.
    #[error("instance {instance}: {count} {family} addresses, one advertisement holds 1 to {most}")]
    Addresses {
        /// The instance.
        instance: Arc<str>,
        /// The family.
        family: Family,
        /// How many.
        count: usize,
        /// The most.
        most: usize,
    },
    /// IPv6 in version 2.
    #[error("instance {0}: version 2 is for IPv4 only")]
    Version2Ipv6(Arc<str>),
    /// Unicast without any address of a peer.
    #[error("instance {instance}: unicast needs the other members' {family} addresses")]
    NoPeers {
        /// The instance.
        instance: Arc<str>,
        /// The family.
        family: Family,
    },
    /// A password in version 3.
    #[error("version 3 has no simple authentication: use hmac")]
    SimpleInV3,
}

/// Legal, but hardly meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigWarning {
    /// heartbeat's rule: initdead at least twice deadtime.
    #[error(
        "startupGrace {grace:?} is below twice the {down:?} after which the active member is taken for dead: after a common start both members may rise"
    )]
    StartupGrace {
        /// It.
        grace: Duration,
        /// Active_Down_Interval.
        down: Duration,
    },
    /// One lost advertisement is a takeover.
    #[error("with downIntervals 1 a single lost advertisement is a takeover")]
    DownIntervals,
    /// The warning would come after the takeover.
    #[error("warnAfter {warn:?} is not below the {down:?} after which the active member is taken for dead")]
    WarnAfter {
        /// It.
        warn: Duration,
        /// Active_Down_Interval.
        down: Duration,
    },
}

impl GroupConfig {
    /// The interval as it is sent.
    pub fn wire_interval(&self) -> Result<Interval, ConfigError> {
        Ok(Interval::new(self.version, self.interval)?)
    }

    /// Looks for what cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.wire_interval()?;
        if !(1..=MAX_PRIORITY).contains(&self.priority) {
            return Err(ConfigError::Priority(self.priority));
        }
        if !(1..=100).contains(&self.down_intervals) {
            return Err(ConfigError::DownIntervals(self.down_intervals));
        }
        if self.version == Version::V3 && matches!(self.authentication, Authentication::Simple(_)) {
            return Err(ConfigError::SimpleInV3);
        }
        if self.trackers.len() > MAX_TRACKERS {
            return Err(ConfigError::Trackers(self.trackers.len()));
        }
        unique("things that are tracked", self.trackers.iter().map(|tracker| &tracker.name))?;
        unique("instances", self.instances.iter().map(|instance| &instance.name))?;
        let routers: usize = self.instances.iter().map(|instance| families(instance).count().max(1)).sum();
        if !(1..=MAX_ROUTERS).contains(&routers) {
            return Err(ConfigError::Routers(routers));
        }
        for (at, instance) in self.instances.iter().enumerate() {
            self.validate_instance(instance)?;
            let same = |other: &&InstanceConfig| {
                other.vrid == instance.vrid && other.interface == instance.interface
            };
            if let Some(other) = self.instances[..at].iter().find(same) {
                return Err(ConfigError::SameVrid(other.name.clone(), instance.name.clone()));
            }
        }
        Ok(())
    }

    fn validate_instance(&self, instance: &InstanceConfig) -> Result<(), ConfigError> {
        let name = || instance.name.clone();
        if instance.vrid == 0 {
            return Err(ConfigError::Vrid(name()));
        }
        if instance.addresses.is_empty() {
            let (family, most) = (Family::Ipv4, Family::Ipv4.most_addresses());
            return Err(ConfigError::Addresses { instance: name(), family, count: 0, most });
        }
        for family in families(instance) {
            let (count, most) = (advertised(instance, family).len(), family.most_addresses());
            if count > most {
                return Err(ConfigError::Addresses { instance: name(), family, count, most });
            }
            if family == Family::Ipv6 && self.version == Version::V2 {
                return Err(ConfigError::Version2Ipv6(name()));
            }
            if let Peers::Unicast { addresses, .. } = &instance.peers
                && !addresses.iter().any(|address| Family::of(*address) == family)
            {
                return Err(ConfigError::NoPeers { instance: name(), family });
            }
        }
        Ok(())
    }

    /// What is legal and still hardly meant.
    pub fn warnings(&self) -> Vec<ConfigWarning> {
        let Ok(interval) = self.wire_interval() else { return Vec::new() };
        let down = active_down_interval(self.version, self.priority, interval, self.down_intervals);
        let mut warnings = Vec::new();
        if !self.startup_grace.is_zero() && self.startup_grace < down * 2 {
            warnings.push(ConfigWarning::StartupGrace { grace: self.startup_grace, down });
        }
        if self.down_intervals == 1 {
            warnings.push(ConfigWarning::DownIntervals);
        }
        if let Some(warn) = self.warn_after.filter(|warn| *warn >= down) {
            warnings.push(ConfigWarning::WarnAfter { warn, down });
        }
        warnings
    }

    /// The lifetime that addresses have in the kernel, with [`AgentLoss::Release`]: max(2 s, Active_Down_Interval) in whole
    /// seconds, which is what the kernel counts in.
    pub fn address_lifetime(&self) -> Option<Duration> {
        let interval = self.wire_interval().ok()?;
        let down = active_down_interval(self.version, self.priority, interval, self.down_intervals);
        let seconds = down.as_secs() + u64::from(down.subsec_nanos() > 0);
        (self.on_agent_loss == AgentLoss::Release).then(|| Duration::from_secs(seconds.max(2)))
    }

    /// The virtual routers and their ends of the wire.
    pub(super) fn endpoints(&self, interval: Interval) -> Vec<(RouterId, Arc<str>, Endpoint)> {
        let mut endpoints = Vec::new();
        for instance in &self.instances {
            for family in families(instance) {
                let endpoint = Endpoint {
                    version: self.version,
                    family,
                    vrid: instance.vrid,
                    interval,
                    addresses: advertised(instance, family),
                    authentication: self.authentication.clone(),
                    peers: instance.peers.clone(),
                    checksum: self.checksum,
                    address_check: self.address_check,
                };
                let id = RouterId { instance: instance.name.clone(), family };
                endpoints.push((id, instance.interface.clone(), endpoint));
            }
        }
        endpoints
    }

    /// The parameters of its virtual routers.
    pub(super) fn parameters(&self, interval: Interval, id: &RouterId, priority: u8) -> Parameters {
        let leading = self
            .instances
            .first()
            .is_some_and(|first| first.name == id.instance && families(first).next() == Some(id.family));
        Parameters {
            version: self.version,
            family: id.family,
            priority,
            interval,
            down_intervals: self.down_intervals,
            preempt: self.preempt.enabled,
            lock_step: true,
            leading,
            step_down_when_late: !self.alone,
            announce: self.announce,
        }
    }

    /// Priority while the trackers whose names `failing` names fail: within 1 to 253 whatever they add; 254 if preferred.
    pub fn effective_priority(&self, failing: impl Fn(&str) -> bool) -> u8 {
        if self.preferred {
            return PREFERRED;
        }
        let sum = self.trackers.iter().fold(i32::from(self.priority), |sum, tracker| match tracker.weight {
            Some(weight) if (weight < 0) == failing(&tracker.name) => sum + i32::from(weight),
            _ => sum,
        });
        u8::try_from(sum.clamp(1, i32::from(MAX_PRIORITY))).unwrap_or(MAX_PRIORITY)
    }
}

/// The families that an instance has addresses of.
fn families(instance: &InstanceConfig) -> impl Iterator<Item = Family> + '_ {
    [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter(|family| instance.addresses.iter().any(|address| Family::of(*address) == *family))
}

/// What is advertised: for IPv6 with a link-local address first (RFC 9568 section 5.2.9), derived from the VRID when none is
/// given.
pub fn advertised(instance: &InstanceConfig, family: Family) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> =
        instance.addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
    if family == Family::Ipv6 {
        let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let first = addresses
            .iter()
            .position(link_local)
            .map_or(IpAddr::V6(derived_link_local(instance.vrid)), |at| addresses.remove(at));
        addresses.insert(0, first);
    }
    addresses
}

fn unique<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a Arc<str>> + Clone,
) -> Result<(), ConfigError> {
    for (at, name) in names.clone().enumerate() {
        if names.clone().take(at).any(|other| other == name) {
            return Err(ConfigError::Twice { what, name: name.clone() });
        }
    }
    Ok(())
}
