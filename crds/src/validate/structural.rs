//! The part of a Kubernetes structural schema that needs no CEL: types, enumerations, bounds, patterns, list types. Paths are
//! those of the API server's answers.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Violation;
use super::node::{Kind, List, Node, Pattern, Range};

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub violations: Vec<Violation>,
    /// CEL rules cannot be evaluated on such a value; the API server does not evaluate them either.
    pub blocks_rules: bool,
}

impl Findings {
    /// Something that the rules can be evaluated beside.
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.violations.push(Violation { path: path.to_owned(), message: message.into() });
    }

    /// Something beside which the rules cannot be evaluated.
    pub(super) fn block(&mut self, path: &str, message: impl Into<String>) {
        self.add(path, message);
        self.blocks_rules = true;
    }
}

/// Everything in `value` that the schema does not allow. `passed` is a value with which nothing was wrong: what is equal there is
/// not looked at again.
pub(super) fn check(node: &Node, value: &Value, passed: Option<&Value>, path: &str, findings: &mut Findings) {
    if (value.is_null() && node.nullable) || passed == Some(value) {
        return;
    }
    if let Some(wanted) = mismatch(&node.kind, value) {
        return findings.block(path, format!("must be {wanted}, not {}", name_of(value)));
    }
    if !node.allowed.is_empty() && !node.allowed.contains(value) {
        let list: Vec<Cow<'_, str>> = node.allowed.iter().map(plain).collect();
        findings.block(path, format!("`{}` is not one of {}", plain(value), list.join(", ")));
    }
    match (&node.kind, value) {
        (Kind::Object { .. }, Value::Object(map)) => object(node, map, passed, path, findings),
        (Kind::Array { items, list }, Value::Array(values)) => {
            size(node, values.len(), "items", path, findings);
            if let Some(items) = items {
                for (at, value) in values.iter().enumerate() {
                    let passed = passed.and_then(|passed| passed.get(at));
                    check(items, value, passed, &format!("{path}[{at}]"), findings);
                }
            }
            duplicates(list, values, path, findings);
        }
        (Kind::String { pattern, date_time }, Value::String(text)) => {
            string(node, pattern.as_ref(), text, path, findings);
            if *date_time && !is_date_time(text) {
                findings
                    .add(path, format!("`{}` is not a time such as 2026-01-31T12:00:00Z", shortened(text)));
            }
        }
        (Kind::IntOrString { pattern, .. }, Value::String(text)) => {
            string(node, pattern.as_ref(), text, path, findings);
        }
        (Kind::Integer(range) | Kind::Number(range) | Kind::IntOrString { range, .. }, Value::Number(_)) => {
            number(*range, value, path, findings);
        }
        _ => {}
    }
}

/// What the value should have been, if it is of another type.
fn mismatch(kind: &Kind, value: &Value) -> Option<&'static str> {
    let (fits, wanted) = match kind {
        Kind::Any => (true, ""),
        Kind::Object { .. } => (value.is_object(), "a map of fields"),
        Kind::Array { .. } => (value.is_array(), "a list"),
        Kind::String { .. } => (value.is_string(), "a string"),
        Kind::Boolean => (value.is_boolean(), "true or false"),
        Kind::Integer(_) => (is_integer(value), "a whole number"),
        Kind::Number(_) => (value.is_number(), "a number"),
        Kind::IntOrString { .. } => (value.is_string() || is_integer(value), "a whole number or a string"),
    };
    (!fits).then_some(wanted)
}

fn object(
    node: &Node,
    map: &Map<String, Value>,
    passed: Option<&Value>,
    path: &str,
    findings: &mut Findings,
) {
    let Kind::Object { properties, required, others, .. } = &node.kind else { return };
    for (name, field) in map {
        // Unknown fields were refused before.
        if let Some(below) = properties.get(name).map(|property| &property.node).or(others.as_deref()) {
            let passed = passed.and_then(|passed| passed.get(name));
            check(below, field, passed, &child(path, name), findings);
        }
    }
    for name in required.iter().filter(|name| !map.contains_key(*name)) {
        findings.block(&child(path, name), "is required");
    }
    size(node, map.len(), "entries", path, findings);
}

fn duplicates(list: &List, values: &[Value], path: &str, findings: &mut Findings) {
    if *list == List::Atomic || values.len() < 2 {
        return;
    }
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        // As JSON: the string "1" is not the number 1.
        let identity = match list {
            List::Map(keys) if !value.is_object() || keys.is_empty() => return,
            List::Map(keys) => keys.iter().map(|key| value[key].to_string()).collect::<Vec<_>>().join(", "),
            List::Atomic | List::Set => value.to_string(),
        };
        match seen.get(&identity).copied() {
            // The third one is not told again, as the API server does not.
            Some(usize::MAX) => {}
            Some(first) => {
                let message = format!("{identity} stands twice, first in {path}[{first}]");
                findings.add(&format!("{path}[{at}]"), message);
                seen.insert(identity, usize::MAX);
            }
            None => {
                seen.insert(identity, at);
            }
        }
    }
}

fn string(node: &Node, pattern: Option<&Pattern>, text: &str, path: &str, findings: &mut Findings) {
    size(node, text.chars().count(), "characters", path, findings);
    if let Some(pattern) = pattern.map(Pattern::regex)
        && !pattern.is_match(text)
    {
        findings.add(path, format!("`{}` does not match {pattern}", shortened(text)));
    }
}

fn number(range: Range, value: &Value, path: &str, findings: &mut Findings) {
    let number = value.as_f64().unwrap_or(f64::NAN);
    let outside =
        range.least.is_some_and(|least| number < least) || range.most.is_some_and(|most| number > most);
    if outside {
        let bounds = match (range.least, range.most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => return,
        };
        findings.add(path, format!("must be {bounds}, not {value}"));
    }
}

fn size(node: &Node, size: usize, of: &str, path: &str, findings: &mut Findings) {
    if let Some(least) = node.least.filter(|least| size < *least) {
        findings.add(path, format!("{size} {of}, but at least {least} are needed"));
    }
    if let Some(most) = node.most.filter(|most| size > *most) {
        findings.block(path, format!("{size} {of} are more than the {most} that are allowed"));
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// RFC 3339, as far as a mistake can be told without a calendar.
fn is_date_time(text: &str) -> bool {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    serde_json::from_value::<Time>(Value::from(text)).is_ok()
}

fn name_of(value: &Value) -> Cow<'static, str> {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => format!("{value} (write \"{value}\" in quotes if a string is meant)").into(),
        Value::Number(number) => format!("the number {number}").into(),
        Value::String(text) => format!("the string \"{}\"", shortened(text)).into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map of fields".into(),
    }
}

/// A value as a person would write it in a message.
fn plain(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => shortened(text),
        other => shortened(&other.to_string()).into_owned().into(),
    }
}

pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        None => text.into(),
        Some((at, _)) => format!("{}…", &text[..at]).into(),
    }
}

/// `path.name`, as the API server writes it, whatever the name.
pub(super) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::validate) fn schema() -> Node {
        Node::compile(&json!({"type": "object", "required": ["port"], "properties": {
            "port": {"type": "integer", "minimum": 0, "maximum": 65535},
            "protocol": {"type": "string", "enum": ["TCP", "UDP"], "default": "TCP"},
            "name": {"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"},
            "since": {"type": "string", "format": "date-time"},
            "target": {"x-kubernetes-int-or-string": true, "maximum": 9, "pattern": "^[a-z]+$"},
            "labels": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 4, "items": {"type": "string"}},
            "servers": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 1}}}},
        }}))
        .expect("a schema")
    }

    #[test]
    fn what_is_not_allowed_is_found_at_its_place() {
        let schema = schema();
        for (value, path, message, blocks) in [
            (json!({"port": 70000}), "spec.port", "must be from 0 to 65535, not 70000", false),
            (json!({"port": "80"}), "spec.port", "must be a whole number, not the string \"80\"", true),
            (json!({"port": 80.5}), "spec.port", "must be a whole number", true),
            (json!({}), "spec.port", "is required", true),
            (json!({"port": 80, "protocol": "tcp"}), "spec.protocol", "`tcp` is not one of TCP, UDP", true),
            (json!({"port": 80, "name": "abcdef"}), "spec.name", "6 characters are more than the 5", true),
            (json!({"port": 80, "name": "A"}), "spec.name", "`A` does not match ^[a-z]+$", false),
            (json!({"port": 80, "name": true}), "spec.name", "in quotes", true),
            (json!({"port": 80, "since": "today"}), "spec.since", "`today` is not a time", false),
            (json!({"port": 80, "target": [1]}), "spec.target", "a whole number or a string", true),
            (json!({"port": 80, "target": 10}), "spec.target", "at most 9", false),
            (json!({"port": 80, "target": "10"}), "spec.target", "does not match", false),
            (json!({"port": 80, "labels": {"a.b/c": 1}}), "spec.labels.a.b/c", "must be a string", true),
            (json!({"port": 80, "labels": {"a": "", "b": "", "c": ""}}), "spec.labels", "3 entries", true),
            (
                json!({"port": 80, "set": ["a", "b", "a", "a"]}),
                "spec.set[2]",
                "\"a\" stands twice, first in spec.set[0]",
                false,
            ),
            (
                json!({"port": 80, "set": ["a", "b", "c", "d", "e"]}),
                "spec.set",
                "5 items are more than the 4",
                true,
            ),
            (
                json!({"port": 80, "servers": [{"name": "x"}, {"name": "x"}]}),
                "spec.servers[1]",
                "\"x\" stands twice",
                false,
            ),
            (json!({"port": 80, "servers": [null]}), "spec.servers[0]", "not nothing", true),
            (json!([]), "spec", "must be a map of fields, not a list", true),
        ] {
            let mut findings = Findings::default();
            check(&schema, &value, None, "spec", &mut findings);
            let found = &findings.violations;
            assert!(
                found.len() == 1
                    && found[0].path == path
                    && found[0].message.contains(message)
                    && findings.blocks_rules == blocks,
                "{value}: {findings:?}"
            );
        }
        let all_good = json!({"port": 80.0, "target": "web", "since": "2026-11-22T04:00:00Z", "servers": [{"name": "x"}, {"name": "y"}]});
        let mut findings = Findings::default();
        check(&schema, &all_good, None, "spec", &mut findings);
        assert!(findings.violations.is_empty(), "{findings:?}");
    }
}
