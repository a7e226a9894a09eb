//! What NatRules need of the kernel's settings: forwarding in their families and, where one leads to a virtual address of this
//! machine, that the kernel keeps track of IPVS's connections; else their answers would not be translated back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use bascule_compile::BindingKey;
use bascule_crds::{NatRuleBindingSpec, common::AddressOrRange, nat_rule::Translation};

use super::{CONNTRACK, Desired, FORWARD_IPV4, FORWARD_IPV6};
use crate::plane::nat_rules::families;

/// What the NatRules of a configuration need.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules {
    known: BTreeMap<BindingKey, Arc<NatRuleBindingSpec>>,
    forwarding: BTreeMap<&'static str, BTreeSet<BindingKey>>,
    /// Where rules lead: which, and how many virtual services have the address.
    targets: BTreeMap<IpAddr, (BTreeSet<BindingKey>, usize)>,
}

/// Where a rule leads.
fn target(translation: &Translation) -> Option<IpAddr> {
    let forward = translation.port_forward.as_ref().map(|forward| forward.to);
    forward.or_else(|| translation.static_nat.map(|one| one.inside))
}

fn forwarding(translation: &Translation) -> impl Iterator<Item = &'static str> {
    let (ipv4, ipv6) = families(translation);
    [(FORWARD_IPV4, ipv4), (FORWARD_IPV6, ipv6)]
        .into_iter()
        .filter(|(_, needed)| *needed)
        .map(|(path, _)| path)
}

impl Rules {
    /// The paths that must be 1.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let tracked = self.targets.values().any(|(_, services)| *services > 0);
        self.forwarding.keys().copied().chain(tracked.then_some(CONNTRACK))
    }

    /// The rules that need a path.
    pub(super) fn who_needs(&self, path: &str) -> BTreeSet<BindingKey> {
        if path == CONNTRACK {
            let met = self.targets.values().filter(|(_, services)| *services > 0);
            return met.flat_map(|(keys, _)| keys.iter().cloned()).collect();
        }
        self.forwarding.get(path).cloned().unwrap_or_default()
    }

    /// A virtual service has other addresses now, or none; true when the needs may be others.
    pub(super) fn service(&mut self, old: &[AddressOrRange], new: Option<&[AddressOrRange]>) -> bool {
        if self.targets.is_empty() {
            return false;
        }
        let before: Vec<String> = self.paths().map(str::to_owned).collect();
        let mut count = |ranges: &[AddressOrRange], comes: bool| {
            for range in ranges {
                for (_, (_, services)) in self.targets.range_mut(range.first..=range.last) {
                    *services = if comes { *services + 1 } else { services.saturating_sub(1) };
                }
            }
        };
        count(old, false);
        count(new.unwrap_or_default(), true);
        !self.paths().eq(before.iter().map(String::as_str))
    }
}

impl Desired {
    /// The NatRules of the configuration.
    pub fn rules(&self) -> impl Iterator<Item = &BindingKey> {
        self.rules.known.keys()
    }

    /// Takes a changed NatRule, none when it is gone; true when the wanted values may have changed.
    pub fn set_rule(&mut self, key: &BindingKey, spec: Option<&Arc<NatRuleBindingSpec>>) -> bool {
        let rules = &mut self.rules;
        if rules.known.get(key) == spec {
            return false;
        }
        let before: Vec<String> = rules.paths().map(str::to_owned).collect();
        if let Some(old) = rules.known.remove(key) {
            for path in forwarding(&old.translation) {
                if let Some(keys) = rules.forwarding.get_mut(path) {
                    keys.remove(key);
                }
            }
            rules.forwarding.retain(|_, keys| !keys.is_empty());
            if let Some(target) = target(&old.translation)
                && let Some((keys, _)) = rules.targets.get_mut(&target)
            {
                keys.remove(key);
                if keys.is_empty() {
                    rules.targets.remove(&target);
                }
            }
        }
        if let Some(spec) = spec {
            for path in forwarding(&spec.translation) {
                rules.forwarding.entry(path).or_default().insert(key.clone());
            }
            if let Some(target) = target(&spec.translation) {
                let services = || {
                    let ranges = self.bindings.values().flat_map(|needs| &needs.addresses);
                    ranges.filter(|range| range.contains(target)).count()
                };
                rules
                    .targets
                    .entry(target)
                    .or_insert_with(|| (BTreeSet::new(), services()))
                    .0
                    .insert(key.clone());
            }
            rules.known.insert(key.clone(), Arc::clone(spec));
        }
        !rules.paths().eq(before.iter().map(String::as_str))
    }
}
