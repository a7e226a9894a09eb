//! Judges manifests in-process by the schemas that a cluster uses: same verdict, same field path, and for CEL rules the
//! same words as the API server's.
//!
//! The order is the API server's, too: unknown fields and defaults ([`prepare`]), everything that a structural schema
//! says ([`structural`]), then the CEL rules ([`rules`]), which are skipped where a value is not of the shape that they
//! were written for.

mod metadata;
mod node;
mod prepare;
mod rules;
mod structural;

use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::node::Node;
use self::structural::Findings;
use crate::object::{Kind, Object};
use crate::schema;

/// Something in a manifest that its kind does not allow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Violation {
    /// As `spec.ports[0].port`.
    pub path: String,
    /// What is wrong; for a CEL rule, the rule's own words.
    pub message: String,
}

impl Violation {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Judges a manifest of a kind that users write.
///
/// # Errors
/// Every violation; never an empty list.
pub fn judge(manifest: &Value) -> Result<Object, Vec<Violation>> {
    let kind = kind_of(manifest)?;
    let value = judge_update(kind, manifest, None)?;
    match kind {
        Kind::VirtualService => decode(value).map(Object::VirtualService),
        Kind::HealthCheck => decode(value).map(Object::HealthCheck),
        Kind::VrrpGroup => decode(value).map(Object::VrrpGroup),
        Kind::NatRule => decode(value).map(Object::NatRule),
        Kind::Director => decode(value).map(Object::Director),
        Kind::EndpointSlice => decode(value).map(Object::EndpointSlice),
        Kind::VirtualServiceBinding | Kind::NatRuleBinding | Kind::DirectorConfig => {
            Err(vec![Violation::new("kind", format!("a {kind} is written by the operator, not by people"))])
        }
    }
}

/// Judges a manifest of any kind, the operator's included, as one that is new or (with `old`) as one that replaces
/// another, and gives it back with the defaults filled in.
///
/// # Errors
/// Every violation; never an empty list.
pub fn judge_update(kind: Kind, manifest: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
    let node = compiled(kind);
    let mut value = manifest.clone();
    // What the operator writes about an object does not matter in a manifest.
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    let mut unknown = Vec::new();
    prepare::unknown_fields(node, &value, "", &mut unknown);
    if !unknown.is_empty() {
        return Err(unknown);
    }
    prepare::defaults(node, &mut value);
    let mut findings = Findings::default();
    structural::check(node, &value, "", &mut findings);
    let Findings { mut violations, blocks_rules } = findings;
    for violation in metadata::check(kind, &value["metadata"]) {
        if !violations.iter().any(|known| known.path == violation.path) {
            violations.push(violation);
        }
    }
    if !blocks_rules {
        rules::evaluate(node, &value, old, "", &mut violations);
    }
    if violations.is_empty() { Ok(value) } else { Err(violations) }
}

fn kind_of(manifest: &Value) -> Result<Kind, Vec<Violation>> {
    let Some(map) = manifest.as_object() else {
        return Err(vec![Violation::new("", "a manifest is a map with apiVersion, kind, metadata and spec")]);
    };
    let text = |name: &str| match map.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(vec![Violation::new(name, "must be a string")]),
        None => Err(vec![Violation::new(name, "is required")]),
    };
    let (version, name) = (text("apiVersion")?, text("kind")?);
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == name) else {
        let known = Kind::ALL.into_iter().filter(|kind| kind.is_written_by_users()).map(Kind::as_str);
        let known = known.collect::<Vec<_>>().join(", ");
        return Err(vec![Violation::new(
            "kind",
            format!("`{name}` is not a kind that is known here: {known}"),
        )]);
    };
    if version != kind.api_version() {
        let message = format!("`{version}` should be `{}` for a {kind}", kind.api_version());
        return Err(vec![Violation::new("apiVersion", message)]);
    }
    Ok(kind)
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<Box<T>, Vec<Violation>> {
    // The schema is made from the types, so that this fails only where it says less than they do.
    serde_json::from_value(value).map(Box::new).map_err(|error| vec![Violation::new("", error.to_string())])
}

/// The schema of whole manifests of a kind, made ready once.
fn compiled(kind: Kind) -> &'static Node {
    static NODES: [OnceLock<Node>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
    NODES[kind as usize].get_or_init(|| {
        let mut schema = schema::schema(kind);
        schema["properties"]["metadata"] = schema::metadata();
        schema["properties"]["apiVersion"] = json!({"type": "string"});
        schema["properties"]["kind"] = json!({"type": "string"});
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("status");
        }
        match schema.get_mut("required").and_then(Value::as_array_mut) {
            Some(required) => required.push("metadata".into()),
            None => schema["required"] = json!(["metadata"]),
        }
        // A test compiles every kind: a schema of ours that does not compile never leaves the house.
        Node::compile(&schema)
            .unwrap_or_else(|error| panic!("the schema of {kind} does not compile: {error}"))
    })
}

#[cfg(test)]
mod tests;
