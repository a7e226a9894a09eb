//! What the API server does to an object before it validates it: refuse unknown fields, drop nulls, fill in defaults.

use serde_json::{Map, Value};

use super::Violation;
use super::node::{Kind, Node};
use super::structural::child;

/// Fields that the schema does not know. The API server looks at nothing else while there are any.
pub(super) fn unknown_fields(node: &Node, value: &Value, path: &str, found: &mut Vec<Violation>) {
    match (&node.kind, value) {
        (Kind::Object { properties, others, open, .. }, Value::Object(map)) => {
            for (name, field) in map {
                if let Some(property) = properties.get(name) {
                    // The path is built only where there is more to look at.
                    if matches!(field, Value::Object(_) | Value::Array(_)) {
                        unknown_fields(&property.node, field, &child(path, name), found);
                    }
                } else if let Some(others) = others {
                    unknown_fields(others, field, &child(path, name), found);
                } else if !open {
                    let message = format!("unknown field `{name}`{}", suggestion(name, properties.keys()));
                    found.push(Violation { path: child(path, name), message });
                }
            }
        }
        (Kind::Array { items: Some(items), .. }, Value::Array(values)) => {
            for (at, value) in values.iter().enumerate() {
                if matches!(value, Value::Object(_) | Value::Array(_)) {
                    unknown_fields(items, value, &format!("{path}[{at}]"), found);
                }
            }
        }
        _ => {}
    }
}

/// Whole numbers below this are exact as floating-point numbers: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Drops nulls where null is not allowed, fills in the defaults, and writes whole numbers as such.
pub(super) fn defaults(node: &Node, value: &mut Value) {
    match (&node.kind, value) {
        (Kind::Object { properties, others, .. }, Value::Object(map)) => {
            drop_nulls(properties, map);
            for (name, property) in properties {
                if let Some(default) = &property.node.default
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(field) = map.get_mut(name) {
                    defaults(&property.node, field);
                }
            }
            if let Some(others) = others {
                map.values_mut().for_each(|field| defaults(others, field));
            }
        }
        (Kind::Array { items: Some(items), .. }, Value::Array(values)) => {
            values.iter_mut().for_each(|value| defaults(items, value));
        }
        // `80.0` is a whole number, in JSON as in YAML.
        (Kind::Integer(_) | Kind::IntOrString { .. }, value @ Value::Number(_)) => {
            if let Some(float) =
                value.as_f64().filter(|float| value.is_f64() && float.fract() == 0.0 && float.abs() < EXACT)
            {
                #[expect(clippy::cast_possible_truncation, reason = "whole and exact")]
                let whole = float as i64;
                *value = whole.into();
            }
        }
        _ => {}
    }
}

fn drop_nulls(
    properties: &std::collections::BTreeMap<String, super::node::Property>,
    map: &mut Map<String, Value>,
) {
    if map.values().any(Value::is_null) {
        map.retain(|name, field| {
            !field.is_null() || properties.get(name).is_none_or(|property| property.node.nullable)
        });
    }
}

/// A known name that was probably meant.
fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let close = known.map(|known| (distance(&known.to_lowercase(), &name.to_lowercase()), known)).min();
    match close {
        Some((away, known)) if away <= 1 + name.len() / 5 => format!(": did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// Levenshtein distance; names are short (an unknown one is cut).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::structural::tests::schema;
    use super::*;

    #[test]
    fn unknown_fields_are_found_with_what_was_probably_meant() {
        let schema = schema();
        for (value, path, message) in [
            (json!({"port": 80, "protocl": "TCP"}), "spec.protocl", "did you mean `protocol`?"),
            (json!({"prt": null}), "spec.prt", "did you mean `port`?"),
            (
                json!({"servers": [{"name": "x"}, {"nme": "y"}]}),
                "spec.servers[1].nme",
                "did you mean `name`?",
            ),
            (json!({"something": 1}), "spec.something", "unknown field `something`"),
        ] {
            let mut found = Vec::new();
            unknown_fields(&schema, &value, "spec", &mut found);
            assert!(
                found.len() == 1 && found[0].path == path && found[0].message.contains(message),
                "{found:?}"
            );
        }
    }

    #[test]
    fn defaults_are_filled_in_and_nulls_dropped() {
        let mut value = json!({"port": 80, "name": null, "protocol": null, "servers": [{"name": "x"}, {"name": "y", "weight": 3}, null]});
        defaults(&schema(), &mut value);
        let wanted = json!({"port": 80, "protocol": "TCP",
            "servers": [{"name": "x", "weight": 1}, {"name": "y", "weight": 3}, null]});
        assert_eq!(value, wanted);
    }
}
