//! The kernel's settings that virtual services and NatRules need.
//!
//! Only what is needed is set, and nothing is set back when it is no longer needed: somebody else may rely on it by then.

mod kernel;
mod root;
mod rules;
mod synchronisation;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::{
    DirectorConfigSpec, ForwardingMethod, SourceNat, VirtualServiceBindingSpec, common::AddressOrRange,
    vrrp_group::Instance,
};

pub(crate) use kernel::{Io, Kernel};
pub(crate) use root::path;
pub use root::set_root;
pub(crate) use worker::{SysctlPlane, absent, unmanaged};

/// net.ipv4.ip_forward: the same as net.ipv4.conf.all.forwarding.
pub const FORWARD_IPV4: &str = "net/ipv4/ip_forward";
/// net.ipv6.conf.all.forwarding.
pub const FORWARD_IPV6: &str = "net/ipv6/conf/all/forwarding";
/// net.ipv4.vs.conntrack: IPVS's connections are known to netfilter, so that it can rewrite their source.
pub const CONNTRACK: &str = "net/ipv4/vs/conntrack";
/// net.ipv4.vs.expire_nodest_conn.
pub const EXPIRE_NO_DESTINATION: &str = "net/ipv4/vs/expire_nodest_conn";
/// net.ipv4.vs.expire_quiescent_template.
pub const EXPIRE_QUIESCENT: &str = "net/ipv4/vs/expire_quiescent_template";
/// net.ipv4.vs.sync_threshold: packets until a connection is first sent, and after how many again.
pub const SYNC_THRESHOLD: &str = "net/ipv4/vs/sync_threshold";
/// net.ipv4.vs.sync_refresh_period, in seconds.
pub const SYNC_REFRESH_PERIOD: &str = "net/ipv4/vs/sync_refresh_period";
/// net.ipv4.vs.sync_retries.
pub const SYNC_RETRIES: &str = "net/ipv4/vs/sync_retries";
/// Directory of the IPv6 settings of interfaces.
pub const INTERFACES_IPV6: &str = "net/ipv6/conf";

/// The path below /proc/sys of net.ipv4.conf.INTERFACE.promote_secondaries: with it, deleting an address does not delete those
/// of the same network that came after it.
fn promote_secondaries(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/promote_secondaries")
}

/// net.ipv6.conf.INTERFACE.accept_ra.
fn accept_ra(interface: &str) -> String {
    format!("{INTERFACES_IPV6}/{interface}/accept_ra")
}

/// A path below /proc/sys as `sysctl` writes it.
pub fn name(path: &str) -> String {
    path.chars()
        .map(|character| match character {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

/// What one binding needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Needs {
    paths: BTreeSet<String>,
    /// Its addresses, to which a NatRule may lead.
    addresses: Vec<AddressOrRange>,
}

/// The wanted settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    director: BTreeMap<&'static str, &'static str>,
    /// Wanted with connectionSync, with or without bindings.
    synchronisation: BTreeMap<&'static str, String>,
    /// Wanted on the interfaces of groups with IPv4 addresses; see [`interfaces`].
    interfaces: BTreeMap<String, &'static str>,
    /// Whether to set what differs, or only to say so.
    pub manage: bool,
    needed: BTreeMap<String, BTreeSet<BindingKey>>,
    bindings: BTreeMap<BindingKey, Needs>,
    rules: rules::Rules,
}

/// Everything that a configuration wants.
pub fn desired(config: &NodeConfig) -> Desired {
    let mut desired = Desired::default();
    desired.set_director(&config.director);
    for (key, spec) in &config.bindings {
        desired.set(key, Some(spec));
    }
    for (key, spec) in &config.nat_rules {
        desired.set_rule(key, Some(spec));
    }
    desired
}

impl Desired {
    /// The bindings that need anything.
    pub fn keys(&self) -> impl Iterator<Item = &BindingKey> {
        self.bindings.keys()
    }

    /// The paths whose values matter, with the values.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        // Without any binding there is no IPVS in use whose connections could expire.
        let director = self.director.iter().filter(|_| !self.bindings.is_empty());
        let director = director.map(|(path, value)| (*path, *value));
        let synchronisation = self.synchronisation.iter().map(|(path, value)| (*path, value.as_str()));
        let interfaces = self.interfaces.iter().filter(|(path, _)| !self.needed.contains_key(*path));
        let interfaces = interfaces.map(|(path, value)| (path.as_str(), *value));
        let needed = self.needed.keys().map(|path| (path.as_str(), "1"));
        let by_rules = self.rules.paths().filter(|path| !self.needed.contains_key(*path));
        let by_rules = by_rules.map(|path| (path, "1"));
        director.chain(synchronisation).chain(needed).chain(by_rules).chain(interfaces)
    }

    /// The bindings and the NatRules that need a value; none when it is the director's.
    pub fn who_needs(&self, path: &str) -> (BTreeSet<BindingKey>, BTreeSet<BindingKey>) {
        (self.needed.get(path).cloned().unwrap_or_default(), self.rules.who_needs(path))
    }

    /// Takes the director's settings; true when something changed.
    pub fn set_director(&mut self, director: &DirectorConfigSpec) -> bool {
        let (manage, values) = super::director_sysctls(director);
        let synchronisation =
            director.connection_sync.as_ref().map(synchronisation::values).unwrap_or_default();
        let interfaces = interfaces(director);
        let changed = self.manage != manage
            || self.director != values
            || self.synchronisation != synchronisation
            || self.interfaces != interfaces;
        self.interfaces = interfaces;
        self.synchronisation = synchronisation;
        self.manage = manage;
        self.director = values;
        changed
    }

    /// Takes a changed binding, none when it is gone; true when the wanted values may have changed.
    pub fn set(&mut self, key: &BindingKey, spec: Option<&Arc<VirtualServiceBindingSpec>>) -> bool {
        let new = spec.map(|spec| needs(spec));
        let old = self.bindings.get(key);
        if old == new.as_ref() {
            return false;
        }
        let before = self.bindings.is_empty();
        let old = self.bindings.remove(key).unwrap_or_default();
        let mut changed = self.rules.service(&old.addresses, new.as_ref().map(|new| &new.addresses[..]));
        if let Some(new) = &new {
            for path in new.paths.difference(&old.paths) {
                let keys = self.needed.entry(path.clone()).or_default();
                changed |= keys.is_empty();
                keys.insert(key.clone());
            }
        }
        let kept = new.as_ref().map(|new| &new.paths);
        for path in old.paths.iter().filter(|path| kept.is_none_or(|kept| !kept.contains(*path))) {
            if let Some(keys) = self.needed.get_mut(path) {
                keys.remove(key);
                if keys.is_empty() {
                    self.needed.remove(path);
                    changed = true;
                }
            }
        }
        self.bindings.extend(new.map(|new| (key.clone(), new)));
        changed || before != self.bindings.is_empty()
    }
}

/// What groups with IPv4 addresses need of their interfaces. A group's address may have become the first of its network, and must
/// not take the machine's own with it. Beside an interface with a virtual MAC address, the one below must not answer ARP for what is
/// not on it, and not ask in the name of an address of the group: either way its own MAC address would become known for that.
fn interfaces(director: &DirectorConfigSpec) -> BTreeMap<String, &'static str> {
    let instances = director.vrrp.iter().flat_map(|group| &group.instances);
    let ipv4 = instances.filter(|instance| {
        instance.addresses.iter().chain(&instance.excluded_addresses).any(|one| one.address.is_ipv4())
    });
    let settings = |instance: &Instance| {
        let interface = &instance.interface;
        let mac = instance.virtual_mac.then(|| {
            [
                (format!("net/ipv4/conf/{interface}/arp_ignore"), "1"),
                (format!("net/ipv4/conf/{interface}/arp_announce"), "2"),
            ]
        });
        let promoted = (promote_secondaries(interface), "1");
        std::iter::once(promoted).chain(mac.into_iter().flatten())
    };
    ipv4.flat_map(settings).collect()
}

fn needs(spec: &VirtualServiceBindingSpec) -> Needs {
    let mut paths = BTreeSet::new();
    let masquerade = super::forwardings(spec).any(|method| method == ForwardingMethod::Masquerade);
    let (ipv4, ipv6) = super::families(spec);
    if masquerade {
        if ipv4 {
            paths.insert(FORWARD_IPV4.to_owned());
        }
        if ipv6 {
            paths.insert(FORWARD_IPV6.to_owned());
        }
        if spec.source_nat != SourceNat::Never {
            paths.insert(CONNTRACK.to_owned());
        }
    }
    if let (Some(interface), true) = (&spec.interface, ipv4) {
        paths.insert(promote_secondaries(interface));
    }
    let marked = spec.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
    let marked = marked.into_iter().flat_map(|matched| matched.addresses.iter());
    Needs { paths, addresses: spec.addresses.iter().chain(marked).copied().collect() }
}

/// What the kernel holds; none where there is no such setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Values by path.
    pub values: BTreeMap<String, Option<String>>,
    /// Interfaces (and `default`) that take router advertisements now and would stop to when IPv6 forwarding is switched on:
    /// accept_ra is 1 and forwarding is 0. Read only when that is about to happen.
    pub advertised: BTreeSet<String>,
}

/// Writes a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The path below /proc/sys.
    pub path: String,
    /// The value.
    pub value: String,
    /// What it is now.
    pub was: String,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} from {} to {}", name(&self.path), self.was, self.value)
    }
}

/// What to do, and what is not there to be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Op>,
    /// Wanted settings that this kernel does not have (yet).
    pub missing: BTreeSet<String>,
}

/// Plans all settings. Switching IPv6 forwarding on makes interfaces with accept_ra = 1 deaf to router advertisements, and a
/// default route that came from one would expire: they get 2 first.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    for (path, wanted) in desired.values() {
        match observed.values.get(path) {
            Some(Some(value)) if value == wanted => {}
            Some(Some(value)) => {
                if path == FORWARD_IPV6 {
                    plan.ops.extend(observed.advertised.iter().map(|interface| Op {
                        path: accept_ra(interface),
                        value: "2".to_owned(),
                        was: "1".to_owned(),
                    }));
                }
                plan.ops.push(Op { path: path.to_owned(), value: wanted.to_owned(), was: value.clone() });
            }
            Some(None) | None => {
                plan.missing.insert(path.to_owned());
            }
        }
    }
    plan
}
