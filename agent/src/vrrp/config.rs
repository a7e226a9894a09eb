//! A group of the configuration as the library and this machine need it. Pure: keys are read by whoever calls.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use bascule_crds::common::SecretSource;
use bascule_crds::director_config::DirectorVrrpGroup;
use bascule_crds::vrrp_group::{self as crds, HmacMode, Instance, OnAgentLoss};
use bascule_vrrp::authentication::{AntiReplay, Hmac, Key, KeyError, Keys, Mode, default_window};
use bascule_vrrp::group::{AgentLoss, ConfigError, Preempt, Tracker, advertised};
use bascule_vrrp::packet::{Authentication as Simple, Family, TTL, Version};
use bascule_vrrp::router::Announce;
use bascule_vrrp::timers::Interval;
use bascule_vrrp::{Authentication, GroupConfig, InstanceConfig, Peers, RouterId};

use super::mac::VirtualLink;
use super::yielding::STOPPING;
use crate::secrets::Usage;

/// Name under which the machine's services are tracked.
pub const SERVICES: &str = "services";

/// Announcements of virtual MAC addresses that say nothing else.
const REFRESH: Duration = Duration::from_secs(60);

/// A group as this director carries it out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupPlan {
    /// For the library.
    pub(crate) config: GroupConfig,
    /// Where each virtual router is, and its addresses.
    pub(crate) routers: BTreeMap<RouterId, RouterPlan>,
    /// Interfaces that are tracked besides those of the routers.
    pub(crate) interfaces: Vec<Arc<str>>,
    /// Names of what is tracked outside of VRRP: health checks and virtual services.
    pub(crate) outside: Vec<Arc<str>>,
    /// The group as it was configured, for those who carry out services and notifications.
    pub(crate) spec: DirectorVrrpGroup,
}

/// A virtual router on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouterPlan {
    /// Where it speaks, and where its addresses are unless it has an interface of its own.
    pub(crate) interface: Arc<str>,
    /// This member's own address on it, if the configuration says which.
    pub(crate) own: Option<IpAddr>,
    /// Its VRID.
    pub(crate) vrid: u8,
    /// Whether it listens to VRRP's multicast group.
    pub(crate) multicast: bool,
    /// The addresses, the advertised ones first.
    pub(crate) places: Vec<Placement>,
    /// With a virtual MAC address: the interface that has it.
    pub(crate) own_link: Option<VirtualLink>,
}

impl RouterPlan {
    /// Where its addresses are.
    pub(crate) fn home(&self) -> &Arc<str> {
        self.own_link.as_ref().map_or(&self.interface, |link| &link.name)
    }
}

/// An address of a group on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The address.
    pub(crate) address: IpAddr,
    /// The length of its prefix.
    pub(crate) prefix: u8,
    /// What `ip` shows beside it, such as `enp0s3:0`; IPv4 only.
    pub(crate) label: Option<Arc<str>>,
}

/// Why a group cannot be carried out as it is configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// The library refuses it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key that cannot be used.
    #[error("authentication: {0}")]
    Key(#[from] KeyError),
    /// A key that cannot be had.
    #[error("authentication: {0}")]
    Secret(String),
    /// What compile should have filled in.
    #[error("instance {0} has no virtualRouterId")]
    NoVrid(String),
}

impl GroupPlan {
    /// Turns the configuration into a plan. `secret` gives the bytes of a key that is for that.
    pub(crate) fn new(
        spec: &DirectorVrrpGroup,
        mut secret: impl FnMut(&SecretSource, Usage) -> Result<Vec<u8>, String>,
    ) -> Result<Self, PlanError> {
        let highest = spec.priority > bascule_vrrp::group::MAX_PRIORITY;
        let mut instances = Vec::new();
        let mut routers = BTreeMap::new();
        for instance in &spec.instances {
            let config = instance_config(spec, instance)?;
            for family in [Family::Ipv4, Family::Ipv6] {
                if config.addresses.iter().any(|address| Family::of(*address) == family) {
                    let id = RouterId { instance: config.name.clone(), family };
                    routers.insert(id, router_plan(spec, instance, &config, family));
                }
            }
            instances.push(config);
        }
        let config = GroupConfig {
            name: spec.name.as_str().into(),
            version: version(spec),
            priority: if highest { bascule_vrrp::group::MAX_PRIORITY } else { spec.priority },
            // A machine that is out of service has no say, also when somebody forgot that it is preferred.
            preferred: highest && !spec.stands_by,
            courtesy: if spec.services.is_empty() { Duration::ZERO } else { STOPPING },
            relieves: spec.relieves,
            highest: spec.highest,
            interval: spec.advertisement_interval.as_std(),
            down_intervals: spec.down_intervals,
            warn_after: spec.warn_after.map(|after| after.as_std()),
            startup_grace: spec.startup_grace.map_or(Duration::ZERO, |grace| grace.as_std()),
            preempt: Preempt { enabled: spec.preempt.enabled, delay: spec.preempt.delay.as_std() },
            instances,
            trackers: trackers(spec),
            announce: Announce {
                count: spec.gratuitous_arp.count,
                interval: spec.gratuitous_arp.interval.as_std(),
                repeat_after: spec.gratuitous_arp.repeat_after.as_std(),
                refresh: refresh(spec),
            },
            authentication: match &spec.authentication {
                None => Authentication::None,
                Some(authentication) => authenticate(authentication, spec, &mut secret)?,
            },
            checksum: bascule_vrrp::Checksum::default(),
            address_check: bascule_vrrp::AddressCheck::default(),
            on_agent_loss: match spec.on_agent_loss {
                OnAgentLoss::Release => AgentLoss::Release,
                OnAgentLoss::Keep => AgentLoss::Keep,
            },
            alone: spec.alone,
        };
        config.validate()?;
        let tracked = spec.track.iter().flat_map(|track| &track.interfaces);
        let interfaces = tracked.map(|tracked| tracked.name.as_str().into()).collect();
        let outside = outside(spec).map(|tracker| tracker.name).collect();
        Ok(GroupPlan { config, routers, interfaces, outside, spec: spec.clone() })
    }

    /// Whether both have an address, or a virtual router, on one interface.
    pub(crate) fn meets(&self, other: &GroupPlan) -> bool {
        self.routers.values().any(|one| {
            other.routers.values().filter(|other| other.interface == one.interface).any(|other| {
                let has = |address| other.places.iter().any(|place| place.address == address);
                one.vrid == other.vrid || one.places.iter().any(|place| has(place.address))
            })
        })
    }

    /// All its addresses, with their interfaces.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, &Placement)> {
        self.routers.values().flat_map(|router| router.places.iter().map(|place| (&**router.home(), place)))
    }
}

/// How often addresses are announced anew. Switches forget where a MAC address is when it is silent, 5 minutes by default (IEEE 802.1Q
/// section 8.8.3), and send what is for it everywhere; to peers by unicast nothing comes from a virtual MAC address by itself.
fn refresh(spec: &DirectorVrrpGroup) -> Option<Duration> {
    let silent = |one: &Instance| one.virtual_mac && spec.unicast_peers.contains_key(&one.name);
    match spec.gratuitous_arp.refresh {
        Some(refresh) => Some(refresh.as_std()),
        None => spec.instances.iter().any(silent).then_some(REFRESH),
    }
}

/// Name under which an interface is tracked; it stands in the reason of a fault.
pub(crate) fn interface_tracker(interface: &str) -> String {
    format!("interface {interface}")
}

/// Name under which a HealthCheck is tracked.
pub fn check_tracker(namespace: &str, name: &str) -> String {
    format!("health check {namespace}/{name}")
}

/// Name under which a virtual service is tracked.
pub fn service_tracker(namespace: &str, name: &str) -> String {
    format!("virtual service {namespace}/{name}")
}

/// What is tracked outside of VRRP.
fn outside(spec: &DirectorVrrpGroup) -> impl Iterator<Item = Tracker> {
    let tracker = |name: fn(&str, &str) -> String| {
        move |one: &crds::TrackedObject| Tracker {
            name: name(&one.namespace, &one.name).into(),
            weight: one.weight,
        }
    };
    let checks = spec.track.iter().flat_map(|track| &track.health_checks).map(tracker(check_tracker));
    let services = spec.track.iter().flat_map(|track| &track.virtual_services).map(tracker(service_tracker));
    checks.chain(services)
}

fn trackers(spec: &DirectorVrrpGroup) -> Vec<Tracker> {
    let interfaces = spec.track.iter().flat_map(|track| &track.interfaces);
    let mut trackers: Vec<Tracker> = interfaces
        .map(|tracked| Tracker { name: interface_tracker(&tracked.name).into(), weight: tracked.weight })
        .collect();
    trackers.extend(outside(spec));
    if !spec.services.is_empty() {
        trackers.push(Tracker { name: SERVICES.into(), weight: None });
    }
    trackers
}

fn instance_config(spec: &DirectorVrrpGroup, instance: &Instance) -> Result<InstanceConfig, PlanError> {
    Ok(InstanceConfig {
        name: instance.name.as_str().into(),
        interface: instance.interface.as_str().into(),
        vrid: instance.virtual_router_id.ok_or_else(|| PlanError::NoVrid(instance.name.clone()))?,
        addresses: instance.addresses.iter().map(|place| place.address).collect(),
        peers: match spec.unicast_peers.get(&instance.name) {
            None => Peers::Multicast,
            Some(peers) => Peers::Unicast { addresses: peers.clone(), min_ttl: spec.min_ttl.unwrap_or(TTL) },
        },
    })
}

fn router_plan(
    spec: &DirectorVrrpGroup,
    instance: &Instance,
    config: &InstanceConfig,
    family: Family,
) -> RouterPlan {
    let label = instance.label.as_ref().filter(|_| family == Family::Ipv4);
    let label: Option<Arc<str>> = label.map(|label| format!("{}:{label}", instance.interface).into());
    let mut places: Vec<Placement> = Vec::new();
    for address in advertised(config, family) {
        let given = instance.addresses.iter().find(|given| given.address == address);
        let prefix = given.map_or(128, |given| given.length);
        places.push(Placement { address, prefix, label: label.clone() });
    }
    for given in instance.excluded_addresses.iter().filter(|given| Family::of(given.address) == family) {
        places.push(Placement { address: given.address, prefix: given.length, label: label.clone() });
    }
    let multicast = config.peers == Peers::Multicast;
    let own = spec.own_addresses.get(&instance.name).copied().filter(|own| Family::of(*own) == family);
    RouterPlan {
        interface: config.interface.clone(),
        // RFC 9568 section 5.1.2.1: to the multicast group of IPv6 a router speaks from its link-local address; peers drop the rest.
        own: own.filter(|own| !multicast || own.is_ipv4() || is_link_local(*own)),
        vrid: config.vrid,
        multicast,
        places,
        own_link: instance.virtual_mac.then(|| VirtualLink::new(&config.interface, family, config.vrid)),
    }
}

/// fe80::/10.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn authenticate(
    authentication: &crds::Authentication,
    spec: &DirectorVrrpGroup,
    secret: &mut impl FnMut(&SecretSource, Usage) -> Result<Vec<u8>, String>,
) -> Result<Authentication, PlanError> {
    if let Some(simple) = &authentication.simple {
        let password = secret(simple, Usage::Simple).map_err(PlanError::Secret)?;
        return Ok(Authentication::Simple(Simple::simple(&password)));
    }
    let Some(hmac) = &authentication.hmac else { return Ok(Authentication::None) };
    let mut keys = Vec::new();
    for key in &hmac.keys {
        let source = SecretSource { secret_ref: key.secret_ref.clone(), file: key.file.clone() };
        keys.push(Key::new(key.id, &secret(&source, Usage::Hmac).map_err(PlanError::Secret)?)?);
    }
    let window = || match hmac.window {
        Some(window) => Ok(window.as_std()),
        None => Interval::new(version(spec), spec.advertisement_interval.as_std()).map(default_window),
    };
    Ok(Authentication::Hmac(Hmac {
        keys: Keys::new(keys, hmac.active_key)?,
        mode: match hmac.mode {
            HmacMode::Enforce => Mode::Enforce,
            HmacMode::Permissive => Mode::Permissive,
            HmacMode::ReceiveOnly => Mode::ReceiveOnly,
        },
        anti_replay: match hmac.anti_replay {
            crds::AntiReplay::Monotonic => AntiReplay::Monotonic,
            crds::AntiReplay::Time => AntiReplay::Time { window: window().map_err(ConfigError::Interval)? },
        },
    }))
}

fn version(spec: &DirectorVrrpGroup) -> Version {
    if spec.version == 2 { Version::V2 } else { Version::V3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_mac_address_that_nothing_is_sent_from_is_announced_anew() {
        let refresh = |mac: bool, unicast: bool, told: Option<&str>| {
            let mut spec = serde_json::json!({
                "name": "front", "priority": 100, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
                "preempt": {}, "onAgentLoss": "Keep",
                "instances": [{"name": "a", "interface": "eth0", "virtualRouterId": 1, "addresses": ["192.0.2.1/32"],
                    "virtualMac": mac}],
            });
            if unicast {
                spec["unicastPeers"] = serde_json::json!({"a": ["192.0.2.9"]});
            }
            if let Some(told) = told {
                spec["gratuitousArp"] = serde_json::json!({"refresh": told});
            }
            let spec = serde_json::from_value(spec).unwrap();
            GroupPlan::new(&spec, |_, _| Err(String::new())).unwrap().config.announce.refresh
        };
        assert_eq!(refresh(true, true, None), Some(REFRESH));
        assert_eq!(refresh(true, true, Some("5s")), Some(Duration::from_secs(5)));
        assert_eq!((refresh(true, false, None), refresh(false, true, None)), (None, None));
    }
}
