//! Bindings for tests.

use std::{collections::BTreeMap, sync::Arc};

use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, NatRuleBindingSpec, VirtualServiceBindingSpec};
use serde_json::{Value, json};

use crate::reconcile::inbox::Merged;

pub(crate) fn key(name: &str) -> BindingKey {
    BindingKey::new("tp", name)
}

/// TCP port 80 of 192.16.193.30 over two real servers by masquerading; `changes` replaces fields.
#[expect(clippy::needless_pass_by_value, reason = "json!() at the caller's")]
pub(crate) fn web(changes: Value) -> Arc<VirtualServiceBindingSpec> {
    let mut spec = json!({
        "virtualService": "web", "director": "dir1", "addresses": ["192.16.193.30"],
        "ports": [{"protocol": "TCP", "port": 80}], "scheduler": {"name": "rr"}, "sourceNat": "Never",
        "realServers": [server("srv1", "172.16.193.10", json!({})), server("srv2", "172.16.193.40", json!({}))],
    });
    for (field, value) in changes.as_object().unwrap() {
        spec[field] = value.clone();
    }
    Arc::new(serde_json::from_value(spec).unwrap())
}

/// A real server by masquerading to port 80; `changes` replaces fields.
#[expect(clippy::needless_pass_by_value, reason = "json!() at the caller's")]
pub(crate) fn server(name: &str, address: &str, changes: Value) -> Value {
    let mut server = json!({"name": name, "address": address, "weight": 1, "forwarding": {"method": "Masquerade"}, "targetPorts": [80]});
    for (field, value) in changes.as_object().unwrap() {
        server[field] = value.clone();
    }
    server
}

pub(crate) fn config<'a>(
    bindings: impl IntoIterator<Item = (&'a str, Arc<VirtualServiceBindingSpec>)>,
) -> NodeConfig {
    let bindings: BTreeMap<_, _> = bindings.into_iter().map(|(name, spec)| (key(name), spec)).collect();
    NodeConfig { bindings, ..NodeConfig::new(DirectorConfigSpec::default()) }
}

/// A configuration as a change of everything.
pub(crate) fn all(config: &NodeConfig) -> Merged {
    Merged {
        serial: 1,
        all: true,
        director: Some(config.director.clone()),
        bindings: config.bindings.iter().map(|(key, spec)| (key.clone(), Some(Arc::clone(spec)))).collect(),
        nat_rules: config.nat_rules.iter().map(|(key, spec)| (key.clone(), Some(Arc::clone(spec)))).collect(),
        ..Merged::default()
    }
}

/// A NatRule of this kind on dir1; of a group, if one is given.
#[expect(clippy::needless_pass_by_value, reason = "json!() at the caller's")]
pub(crate) fn rule(translation: Value, group: Option<&str>) -> Arc<NatRuleBindingSpec> {
    let mut spec = json!({"natRule": "nat", "director": "dir1"});
    for (field, value) in translation.as_object().unwrap() {
        spec[field] = value.clone();
    }
    if let Some(group) = group {
        spec["vrrpGroup"] = group.into();
    }
    Arc::new(serde_json::from_value(spec).unwrap())
}

/// A change of one NatRule.
pub(crate) fn one_rule(name: &str, spec: Option<Arc<NatRuleBindingSpec>>) -> Merged {
    Merged { serial: 2, nat_rules: BTreeMap::from([(key(name), spec)]), ..Merged::default() }
}

/// A change of one binding.
pub(crate) fn one(name: &str, spec: Option<Arc<VirtualServiceBindingSpec>>) -> Merged {
    Merged {
        serial: 2,
        all: false,
        director: None,
        bindings: BTreeMap::from([(key(name), spec)]),
        ..Merged::default()
    }
}
