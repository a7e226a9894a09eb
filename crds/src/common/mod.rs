//! Types that several kinds share: durations, addresses, names, references, programs.
//!
//! The types in [`shape`] exist only for the schema.

mod address;
mod duration;
pub mod shape;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use address::{AddressOrRange, AddressPrefix, Family};
pub use duration::Duration;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The API group of every kind.
pub const GROUP: &str = "bascule.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every manifest.
pub const API_VERSION: &str = "bascule.dev/v1alpha1";

/// Longest message of a condition in any status, in characters; whoever writes one cuts it.
pub const MAX_CONDITION_MESSAGE: usize = 1024;

/// One CEL rule of a schema: the words are what a person reads when it is violated.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// A CEL rule whose violation is reported at a field below the place where the rule stands.
pub(crate) fn rule_at(field_path: &str, rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message, "fieldPath": field_path})
}

/// Bounds of a duration field, as a CEL rule on the string itself.
pub(crate) fn between(low: &str, high: &str) -> Vec<Value> {
    vec![rule(
        &format!("duration(self) >= duration('{low}') && duration(self) <= duration('{high}')"),
        &format!("must be from {low} to {high}"),
    )]
}

/// Exactly one of some optional fields of the object is set.
pub(crate) fn exactly_one(fields: &[&str]) -> Value {
    let has: Vec<String> = fields.iter().map(|field| format!("has(self.{field})")).collect();
    let (last, others) = fields.split_last().expect("a union has fields");
    rule(
        &format!("[{}].filter(x, x).size() == 1", has.join(", ")),
        &format!("exactly one of {} and {last} must be set", others.join(", ")),
    )
}

/// Serde by [`fmt::Display`] and [`FromStr`].
macro_rules! string_serde {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
use string_serde;

/// A transport protocol that IPVS balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// A program that the agent runs: only from the directory of its `--allow-exec`, as a user of its own, without capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgramCall {
    /// Base name of the program, in the directory given to the agent by `--allow-exec`. It is run without a shell.
    #[schemars(with = "shape::FileName")]
    pub program: String,
    /// Its arguments, handed over as they are: at most 8 of 128 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Argument>", length(max = 8))]
    pub args: Vec<String>,
}

/// A secret kept in the cluster or in a file of the director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["secretRef", "file"])]))]
pub struct SecretSource {
    /// A key of a Secret in the release's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Absolute path of a file on the director. A file that others can read is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::AbsolutePath>")]
    pub file: Option<String>,
}

/// One key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(with = "shape::LongName")]
    pub name: String,
    /// Key in its data.
    #[schemars(with = "shape::SecretKey")]
    pub key: String,
}

/// Who else may use this object, and for what. Without an entry, VirtualServices of any namespace may use the addresses that
/// a group's instances have, and nothing else is allowed. A directory of files is one trust domain: there all is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allow {
    /// Namespaces that this entry is for, at most 32; `*` is every namespace.
    #[schemars(with = "Vec<shape::NamespaceOrAll>", length(min = 1, max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,
    /// Kinds that this entry is for.
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub kinds: Vec<AllowedKind>,
    /// Networks whose addresses they may use, at most 32, such as `192.0.2.0/24`. Absent: no address beyond those of the
    /// group's instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Network>", length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<AddressPrefix>,
    /// Whether their checks and hooks may run programs. Default: false.
    #[serde(default)]
    pub exec: bool,
}

/// A kind that can be allowed to use a director or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AllowedKind {
    /// VirtualService.
    VirtualService,
    /// HealthCheck.
    HealthCheck,
    /// NatRule.
    NatRule,
}

/// Serde's default for fields that are true unless told.
pub(crate) const fn yes() -> bool {
    true
}

/// Schema of `status.conditions`: as everywhere in Kubernetes, bounded so that the object stays small.
pub(crate) fn conditions(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 63, "pattern": "^[A-Za-z]+$", "description": "What the condition is about."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "True, False or Unknown."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "description": "One word for why."},
                "message": {"type": "string", "maxLength": MAX_CONDITION_MESSAGE, "description": "The same for people."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the object that this was said of."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When the status last changed."}
            }
        }
    })
}
