//! Judges manifests in-process by the schemas that a cluster uses: same verdict, same field path, and for CEL rules the
//! same words as the API server's.
//!
//! The order is the API server's, too: unknown fields and defaults ([`prepare`]), everything that a structural schema
//! says ([`structural`]), then the CEL rules ([`rules`]), which are skipped where a value is not of the shape that they
//! were written for.

mod endpoint_slice;
mod metadata;
mod node;
mod prepare;
mod rules;
mod structural;

use std::fmt;
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::node::Node;
use self::rules::Beside;
use self::structural::Findings;
use crate::object::{Kind, Object};
use crate::schema;

/// Something in a manifest that its kind does not allow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// As `spec.ports[0].port`; empty for the document as a whole.
    pub path: String,
    /// What is wrong; for a CEL rule, the rule's own words.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl Violation {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// A manifest that was judged good.
#[derive(Debug, Clone)]
pub struct Judged {
    /// What it says.
    pub object: Object,
    /// The manifest with its defaults, without a status.
    pub value: Value,
}

/// Judges a manifest of a kind that users write.
///
/// # Errors
/// Every violation; never an empty list.
pub fn judge(manifest: &Value) -> Result<Object, Vec<Violation>> {
    judge_beside(manifest.clone(), None).map(|judged| judged.object)
}

/// The same; of a manifest that is much like one that this program judged good before, in a fraction of the time: what is equal
/// to [`Judged::value`] of that one is not judged again. The verdict and the words are those of [`judge`].
///
/// # Errors
/// Every violation; never an empty list.
pub fn judge_beside(manifest: Value, passed: Option<&Value>) -> Result<Judged, Vec<Violation>> {
    let kind = kind_of(&manifest)?;
    if !kind.is_written_by_users() {
        return Err(vec![Violation::new(
            "kind",
            format!("a {kind} is written by the operator, not by people"),
        )]);
    }
    let passed = passed.filter(|passed| passed["kind"] == manifest["kind"]);
    let value = judge_value(kind, manifest, Beside { old: None, passed })?;
    let object = match kind {
        Kind::VirtualService => Object::VirtualService(decode(&value)?),
        Kind::HealthCheck => Object::HealthCheck(decode(&value)?),
        Kind::VrrpGroup => Object::VrrpGroup(decode(&value)?),
        Kind::NatRule => Object::NatRule(decode(&value)?),
        Kind::Director => Object::Director(decode(&value)?),
        Kind::EndpointSlice => Object::EndpointSlice(decode(&value)?),
        Kind::VirtualServiceBinding | Kind::NatRuleBinding | Kind::DirectorConfig => {
            unreachable!("refused above: nobody but the operator writes a {kind}")
        }
    };
    Ok(Judged { object, value })
}

/// Judges a manifest of any kind, the operator's included, as one that is new or (with `old`) as one that replaces
/// another, and gives it back with the defaults filled in.
///
/// # Errors
/// Every violation; never an empty list.
pub fn judge_update(kind: Kind, manifest: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
    judge_value(kind, manifest.clone(), Beside { old, passed: None })
}

fn judge_value(kind: Kind, mut value: Value, beside: Beside<'_>) -> Result<Value, Vec<Violation>> {
    let compiled = compiled(kind);
    let mut unknown = Vec::new();
    prepare::unknown_fields(&compiled.root, &value, "", &mut unknown);
    if !unknown.is_empty() {
        return Err(unknown);
    }
    // A status in a manifest is ignored: it has its own way in. Only its fields must be known.
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    prepare::defaults(&compiled.root, &mut value);
    let mut findings = Findings::default();
    structural::check(&compiled.root, &value, beside.passed, "", &mut findings);
    let metadata_passed = beside.passed.is_some_and(|passed| passed["metadata"] == value["metadata"]);
    if value["metadata"].is_object() && !metadata_passed {
        metadata::check(&value["metadata"], kind.is_namespaced(), &mut findings);
    }
    if kind == Kind::EndpointSlice {
        endpoint_slice::check(&value, &mut findings);
    }
    if !findings.blocks_rules {
        rules::evaluate(&compiled.root, &value, beside, "", &mut findings.violations);
    }
    if findings.violations.is_empty() { Ok(value) } else { Err(findings.violations) }
}

/// Judges the status of an object of any kind, as the operator or an agent writes it: types, bounds and lists.
///
/// # Errors
/// Every violation; never an empty list.
pub fn judge_status(kind: Kind, status: &Value) -> Result<(), Vec<Violation>> {
    let Some(node) = compiled(kind).root.property("status") else {
        return Err(vec![Violation::new("status", format!("a {kind} has none"))]);
    };
    let mut unknown = Vec::new();
    prepare::unknown_fields(node, status, "status", &mut unknown);
    let mut findings = Findings::default();
    structural::check(node, status, None, "status", &mut findings);
    unknown.append(&mut findings.violations);
    if unknown.is_empty() { Ok(()) } else { Err(unknown) }
}

/// Which kind a manifest says it is of.
///
/// # Errors
/// When it says none, or one that is not known.
pub fn kind_of(manifest: &Value) -> Result<Kind, Vec<Violation>> {
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

fn decode<T: DeserializeOwned>(value: &Value) -> Result<Box<T>, Vec<Violation>> {
    // The schema is made from the types, so that this fails only where it says less than they do.
    T::deserialize(value).map(Box::new).map_err(|error| vec![Violation::new("", error.to_string())])
}

/// A kind's schema made ready.
struct Compiled {
    root: Node,
}

/// The schema of whole manifests of a kind, made ready once.
fn compiled(kind: Kind) -> &'static Compiled {
    static KINDS: [OnceLock<Compiled>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
    KINDS[kind as usize].get_or_init(|| {
        let mut schema = schema::for_judging(kind);
        let mut metadata = schema::metadata();
        if let Some(name) = schema["properties"]["metadata"]["properties"].get("name") {
            metadata["properties"]["name"] = name.clone();
        }
        schema["properties"]["metadata"] = metadata;
        schema["properties"]["apiVersion"] = json!({"type": "string"});
        schema["properties"]["kind"] = json!({"type": "string"});
        if let Some(required) = schema["required"].as_array_mut() {
            required.push("metadata".into());
        }
        // A test compiles every kind: a schema of ours that does not compile never leaves the house.
        let root = Node::compile(&schema)
            .unwrap_or_else(|error| panic!("the schema of {kind} does not compile: {error}"));
        Compiled { root }
    })
}

#[cfg(test)]
mod tests;
