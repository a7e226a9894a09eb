//! What is heard of the API, and whether this version can use it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bascule_compile::SERVICE_LABEL;
use bascule_crds::{
    DirectorConfigSpec, HealthCheckSpec, Kind, NatRuleBindingSpec, VirtualServiceBindingSpec,
};
use kube::api::DynamicObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::endpoints::{self, Service, Slice};

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// This director's VirtualServiceBindings, of all namespaces.
    Bindings,
    /// This director's NatRuleBindings, of all namespaces.
    Rules,
    /// This director's DirectorConfig. Behind the bindings: it decides whether they are believed to be gone.
    Config,
    /// HealthChecks, of all namespaces.
    Checks,
    /// EndpointSlices, of all namespaces; those of Services that no binding here names are dropped as they are read.
    Slices,
}

impl What {
    /// All.
    pub const ALL: [Self; 5] = [Self::Bindings, Self::Rules, Self::Config, Self::Checks, Self::Slices];

    /// The kind of its objects.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Bindings => Kind::VirtualServiceBinding,
            Self::Rules => Kind::NatRuleBinding,
            Self::Config => Kind::DirectorConfig,
            Self::Checks => Kind::HealthCheck,
            Self::Slices => Kind::EndpointSlice,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().as_str())
    }
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Empty for kinds without namespaces.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A spec that this version can carry out.
#[derive(Clone, Debug)]
pub enum Spec {
    /// Of a VirtualServiceBinding.
    Binding(Arc<VirtualServiceBindingSpec>),
    /// Of a NatRuleBinding.
    Rule(Arc<NatRuleBindingSpec>),
    /// Of a DirectorConfig.
    Config(Arc<DirectorConfigSpec>),
    /// Of a HealthCheck.
    Check(Arc<HealthCheckSpec>),
    /// Of an EndpointSlice, what is needed of it.
    Slice(Arc<Slice>),
}

/// An object as the API server has it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where it is.
    pub place: Place,
    /// `metadata.generation`: counts the changes of the spec.
    pub generation: Option<i64>,
    /// Its spec, or why this version cannot use it.
    pub spec: Result<Spec, String>,
    /// Its status; null where there is none.
    pub status: Value,
}

/// Something heard.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A list begins.
    Listing(What),
    /// The list that began is read for the slices of these Services; others were dropped.
    Asked(BTreeSet<Service>),
    /// An object is there, or has changed.
    There(What, Box<Item>),
    /// An object was deleted.
    Gone(What, Place),
    /// All that there is has been told since [`Heard::Listing`].
    Listed(What),
    /// Nothing can be heard, and why.
    Failed(What, Trouble),
}

/// Why a request was not answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The API server refuses it for want of a right, in its words.
    Denied(String),
    /// The API server does not know who asks.
    Unknown(String),
    /// What is to be followed has to be listed anew; nothing is wrong.
    Expired,
    /// The API server cannot be reached or cannot answer.
    Lost(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) | Self::Unknown(why) | Self::Lost(why) => f.write_str(why),
            Self::Expired => f.write_str("the watch has expired"),
        }
    }
}

/// Takes an object in. `director` is this machine's name: what is another one's cannot be used here.
pub fn read(what: What, director: &str, object: DynamicObject) -> Item {
    let place = Place {
        namespace: object.metadata.namespace.unwrap_or_default(),
        name: object.metadata.name.unwrap_or_default(),
    };
    if what == What::Slices {
        let service = endpoints::service_of(object.metadata.labels.as_ref());
        let service = service.ok_or_else(|| format!("metadata.labels: {SERVICE_LABEL} names no Service"));
        let spec = service.and_then(|service| Slice::read(service, object.data));
        let spec = spec.map(|slice| Spec::Slice(Arc::new(slice)));
        return Item { place, generation: object.metadata.generation, spec, status: Value::Null };
    }
    let raw = object.data.get("spec").cloned().unwrap_or_default();
    let status = object.data.get("status").cloned().unwrap_or_default();
    Item { place, generation: object.metadata.generation, spec: spec(what, director, raw), status }
}

/// A spec, or why this version cannot use it: a value that it does not know, a field that it does not know, or one whose behaviour it
/// does not have.
pub fn spec(what: What, director: &str, raw: Value) -> Result<Spec, String> {
    match what {
        What::Bindings => {
            let spec: VirtualServiceBindingSpec = typed(raw)?;
            whose(director, &spec.director)?;
            Ok(Spec::Binding(Arc::new(spec)))
        }
        What::Rules => {
            let spec: NatRuleBindingSpec = typed(raw)?;
            whose(director, &spec.director)?;
            Ok(Spec::Rule(Arc::new(spec)))
        }
        What::Config => {
            let spec: DirectorConfigSpec = typed(raw)?;
            whose(director, &spec.director)?;
            unsupported(&spec)?;
            Ok(Spec::Config(Arc::new(spec)))
        }
        What::Checks => Ok(Spec::Check(Arc::new(typed(raw)?))),
        // As it is kept on the disk; the API's form is read apart.
        What::Slices => Ok(Spec::Slice(Arc::new(typed(raw)?))),
    }
}

fn whose(director: &str, named: &str) -> Result<(), String> {
    if named == director {
        return Ok(());
    }
    Err(format!("spec.director: is {named}, and this is {director}"))
}

fn unsupported(spec: &DirectorConfigSpec) -> Result<(), String> {
    for (at, group) in spec.vrrp.iter().enumerate() {
        if group.instances.iter().any(|instance| instance.virtual_router_id.is_none()) {
            return Err(format!("spec.vrrp[{at}].instances: one has no virtualRouterId"));
        }
    }
    Ok(())
}

/// The typed form; an error where that would lose something. A field that is silently ignored is worse than one that is refused.
fn typed<S: Serialize + DeserializeOwned>(raw: Value) -> Result<S, String> {
    let spec: S = serde_json::from_value(raw.clone()).map_err(|error| format!("spec: {error}"))?;
    let understood = serde_json::to_value(&spec).map_err(|error| format!("spec: {error}"))?;
    match lost(&raw, &understood, "spec") {
        Some(field) => Err(format!("{field}: this version of the agent does not know this field")),
        None => Ok(spec),
    }
}

/// The first field that is in `raw` and not in `understood`. One that says nothing (false, null, empty) is not missed.
fn lost(raw: &Value, understood: &Value, at: &str) -> Option<String> {
    match (raw, understood) {
        (Value::Object(raw), Value::Object(understood)) => raw.iter().find_map(|(key, value)| {
            let at = format!("{at}.{key}");
            match understood.get(key) {
                Some(understood) => lost(value, understood, &at),
                None => (!says_nothing(value)).then_some(at),
            }
        }),
        (Value::Array(raw), Value::Array(understood)) => raw
            .iter()
            .zip(understood)
            .enumerate()
            .find_map(|(n, (raw, understood))| lost(raw, understood, &format!("{at}[{n}]"))),
        _ => None,
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.values().all(says_nothing),
        Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding() -> Value {
        json!({
            "virtualService": "web", "director": "dir1", "addresses": ["192.16.193.30"],
            "ports": [{"protocol": "TCP", "port": 80}], "scheduler": {"name": "wrr"}, "sourceNat": "Auto",
            "drainTimeout": "1m", "onePacket": false,
            "realServers": [{"name": "s", "address": "172.16.193.10", "weight": 1, "targetPorts": [80],
                "forwarding": {"method": "Masquerade"}, "drain": false}],
        })
    }

    #[test]
    fn what_this_version_does_not_know_is_refused_with_its_field() {
        let refused = |what, raw| spec(what, "dir1", raw).expect_err("refused");
        let with = |pointer: &str, key: &str, value: Value| {
            let mut raw = binding();
            raw.pointer_mut(pointer).unwrap()[key] = value;
            raw
        };
        assert!(
            spec(What::Bindings, "dir1", binding()).is_ok(),
            "{:?}",
            spec(What::Bindings, "dir1", binding())
        );
        let unknown = "this version of the agent does not know this field";
        assert_eq!(
            refused(What::Bindings, with("", "colour", json!("red"))),
            format!("spec.colour: {unknown}")
        );
        let inner = with("/realServers/0", "colour", json!(1));
        assert_eq!(refused(What::Bindings, inner), format!("spec.realServers[0].colour: {unknown}"));
        // It says nothing: whoever knows the field means the same by its absence.
        assert!(spec(What::Bindings, "dir1", with("", "colour", json!({"a": [], "b": false}))).is_ok());
        let value = refused(What::Bindings, with("/scheduler", "name", json!("newest")));
        assert!(value.contains("newest"), "{value}");
        let other = refused(What::Bindings, with("", "director", json!("dir2")));
        assert_eq!(other, "spec.director: is dir2, and this is dir1");
        let from = |more: Value| {
            let mut from =
                json!({"service": "s", "forwarding": {"method": "Masquerade"}, "targetPorts": ["http", 0]});
            from.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec(What::Bindings, "dir1", with("", "realServersFrom", from))
        };
        assert!(from(json!({})).is_ok(), "{:?}", from(json!({})));
        let inner = from(json!({"colour": 1})).expect_err("refused");
        assert_eq!(inner, format!("spec.realServersFrom.colour: {unknown}"));
        let rule = |more: Value| {
            let mut raw =
                json!({"natRule": "nat", "director": "dir1", "masquerade": {"outInterface": "eth0"}});
            raw.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec(What::Rules, "dir1", raw)
        };
        assert!(rule(json!({})).is_ok(), "{:?}", rule(json!({})));
        let colour = rule(json!({"colour": 1})).expect_err("refused");
        assert_eq!(colour, format!("spec.colour: {unknown}"));
        let inner = rule(json!({"masquerade": {"outInterface": "eth0", "colour": 1}})).expect_err("refused");
        assert_eq!(inner, format!("spec.masquerade.colour: {unknown}"));
        let maintenance = json!({"director": "dir1", "maintenance": {"enabled": true}});
        assert!(spec(What::Config, "dir1", maintenance).is_ok());
        // Keys of Secrets are read here.
        let keys = json!([{"id": 1, "secretRef": {"name": "vrrp", "key": "front"}}]);
        let group = json!({
            "name": "front", "priority": 100, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
            "preempt": {}, "onAgentLoss": "Keep", "authentication": {"hmac": {"activeKey": 1, "keys": keys}},
            "instances": [{"name": "a", "interface": "eth0", "virtualRouterId": 1, "addresses": ["192.0.2.1/32"]}],
        });
        let config = spec(What::Config, "dir1", json!({"director": "dir1", "vrrp": [group]}));
        assert!(config.is_ok(), "{config:?}");
    }
}
