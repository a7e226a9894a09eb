//! The part of a Kubernetes structural schema that needs no CEL: types, unknown fields, bounds, patterns, list types,
//! and the defaults. Paths are those of the API server's answers.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use regex::Regex;
use serde_json::{Map, Value};

/// Something wrong at one place of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// As `spec.ports[0].port`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
    /// CEL rules cannot be evaluated on such a value; the API server does not evaluate them either.
    pub blocks_rules: bool,
}

/// Fills in the defaults of `schema` where `value` lacks fields, as the API server does before it validates.
pub fn apply_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = schema["properties"].as_object() {
                for (name, property) in properties {
                    if let (Some(default), None) = (property.get("default"), map.get(name)) {
                        map.insert(name.clone(), default.clone());
                    }
                    if let Some(field) = map.get_mut(name) {
                        // A null where null is not allowed means "not told": it is dropped, or replaced by the default.
                        if field.is_null() && !is_true(property, "nullable") {
                            match property.get("default") {
                                Some(default) => *field = default.clone(),
                                None => {
                                    map.remove(name);
                                    continue;
                                }
                            }
                        }
                        if let Some(field) = map.get_mut(name) {
                            apply_defaults(property, field);
                        }
                    }
                }
            }
            if let Some(every) = schema.get("additionalProperties").filter(|every| every.is_object()) {
                map.values_mut().for_each(|field| apply_defaults(every, field));
            }
        }
        Value::Array(items) => {
            if let Some(every) = schema.get("items") {
                items.iter_mut().for_each(|item| apply_defaults(every, item));
            }
        }
        _ => {}
    }
}

/// Everything in `value` that `schema` does not allow.
pub fn check(schema: &Value, value: &Value, path: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    Checker { findings: &mut findings }.value(schema, value, path);
    findings
}

struct Checker<'a> {
    findings: &'a mut Vec<Finding>,
}

impl Checker<'_> {
    fn find(&mut self, path: &str, blocks_rules: bool, message: impl Into<String>) {
        self.findings.push(Finding { path: path.to_owned(), message: message.into(), blocks_rules });
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        if value.is_null() && is_true(schema, "nullable") {
            return;
        }
        if is_true(schema, "x-kubernetes-int-or-string") {
            if !value.is_string() && !is_integer(value) {
                return self.find(
                    path,
                    true,
                    format!("must be a whole number or a string, not {}", name_of(value)),
                );
            }
        } else if let Some(wanted) = schema["type"].as_str()
            && !is_type(wanted, value)
        {
            return self.find(path, true, format!("must be {}, not {}", article(wanted), name_of(value)));
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            let list: Vec<String> = allowed.iter().map(plain).collect();
            self.find(path, true, format!("`{}` is not one of {}", plain(value), list.join(", ")));
        }
        match value {
            Value::Object(map) => self.object(schema, map, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::String(text) => self.string(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn object(&mut self, schema: &Value, map: &Map<String, Value>, path: &str) {
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let others =
            schema.get("additionalProperties").filter(|others| !matches!(others, Value::Bool(false)));
        let open = is_true(schema, "x-kubernetes-preserve-unknown-fields");
        for (name, field) in map {
            let below = child(path, name);
            if let Some(property) = properties.get(name) {
                self.value(property, field, &below);
            } else if let Some(others) = others {
                self.value(others, field, &below);
            } else if !open {
                self.find(&below, true, format!("unknown field `{name}`{}", suggestion(name, properties)));
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                self.find(&child(path, name), true, "is required");
            }
        }
        self.size(schema, ("minProperties", "maxProperties"), map.len(), "entries", path);
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        self.size(schema, ("minItems", "maxItems"), items.len(), "items", path);
        if let Some(every) = schema.get("items") {
            for (at, item) in items.iter().enumerate() {
                self.value(every, item, &format!("{path}[{at}]"));
            }
        }
        let keys: Vec<&str> = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Vec::new(),
            Some("map") => schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect(),
            _ => return,
        };
        let mut seen = HashMap::new();
        for (at, item) in items.iter().enumerate() {
            let identity = match keys.as_slice() {
                [] => plain(item),
                [one] => plain(&item[*one]),
                several => several.iter().map(|key| plain(&item[*key])).collect::<Vec<_>>().join(", "),
            };
            if let Some(first) = seen.insert(identity.clone(), at) {
                seen.insert(identity.clone(), first);
                self.find(
                    &format!("{path}[{at}]"),
                    true,
                    format!("`{identity}` stands twice, first in {path}[{first}]"),
                );
            }
        }
    }

    fn string(&mut self, schema: &Value, text: &str, path: &str) {
        let length = text.chars().count();
        self.size(schema, ("minLength", "maxLength"), length, "characters", path);
        if let Some(pattern) = schema["pattern"].as_str() {
            match compiled(pattern) {
                Ok(regex) if regex.is_match(text) => {}
                Ok(_) => self.find(path, false, format!("`{}` does not match {pattern}", shortened(text))),
                Err(error) => self.find(path, false, format!("the pattern of this field is wrong: {error}")),
            }
        }
    }

    fn number(&mut self, schema: &Value, value: &Value, path: &str) {
        let range = match schema["format"].as_str() {
            Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            Some("uint8") => Some((0.0, f64::from(u8::MAX))),
            Some("uint16") => Some((0.0, f64::from(u16::MAX))),
            Some("uint32") => Some((0.0, f64::from(u32::MAX))),
            _ => None,
        };
        let number = value.as_f64().unwrap_or(f64::NAN);
        let least = schema["minimum"].as_f64().or(range.map(|range| range.0));
        let most = schema["maximum"].as_f64().or(range.map(|range| range.1));
        match (least, most) {
            (Some(least), Some(most)) if number < least || number > most => {
                self.find(path, false, format!("{value} is not from {least} to {most}"));
            }
            (Some(least), None) if number < least => {
                self.find(path, false, format!("{value} is less than {least}"))
            }
            (None, Some(most)) if number > most => {
                self.find(path, false, format!("{value} is more than {most}"))
            }
            _ => {}
        }
    }

    fn size(&mut self, schema: &Value, (least, most): (&str, &str), size: usize, of: &str, path: &str) {
        let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
        if let Some(least) = bound(least).filter(|least| size < *least) {
            self.find(path, false, format!("{size} {of}, but at least {least} are needed"));
        }
        if let Some(most) = bound(most).filter(|most| size > *most) {
            self.find(path, true, format!("{size} {of} are more than the {most} that are allowed"));
        }
    }
}

fn is_true(schema: &Value, name: &str) -> bool {
    schema[name] == Value::Bool(true)
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn is_type(wanted: &str, value: &Value) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => is_integer(value),
        "number" => value.is_number(),
        _ => false,
    }
}

fn article(kind: &str) -> &'static str {
    match kind {
        "object" => "a map of fields",
        "array" => "a list",
        "string" => "a string",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
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
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shortened(text).into_owned(),
        other => shortened(&other.to_string()).into_owned(),
    }
}

fn shortened(text: &str) -> Cow<'_, str> {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        None => text.into(),
        Some((at, _)) => format!("{}…", &text[..at]).into(),
    }
}

/// `path.name`, or `path[name]` for a name that is no identifier, as field paths of Kubernetes are written.
fn child(path: &str, name: &str) -> String {
    let mut below = path.to_owned();
    if name.contains(['.', '/', '[']) {
        let _ = write!(below, "[{name}]");
    } else if path.is_empty() {
        below.push_str(name);
    } else {
        let _ = write!(below, ".{name}");
    }
    below
}

fn suggestion(name: &str, properties: &Map<String, Value>) -> String {
    let close =
        properties.keys().map(|known| (distance(&known.to_lowercase(), &name.to_lowercase()), known)).min();
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

/// Patterns come from the schemas, so there are few; each is compiled once.
fn compiled(pattern: &str) -> Result<Arc<Regex>, regex::Error> {
    static PATTERNS: LazyLock<Mutex<HashMap<String, Arc<Regex>>>> = LazyLock::new(Mutex::default);
    let mut patterns = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = patterns.get(pattern) {
        return Ok(Arc::clone(regex));
    }
    let regex = Arc::new(Regex::new(pattern)?);
    patterns.insert(pattern.to_owned(), Arc::clone(&regex));
    Ok(regex)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["port"], "properties": {
            "port": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 65535},
            "protocol": {"type": "string", "enum": ["TCP", "UDP"], "default": "TCP"},
            "name": {"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"},
            "target": {"x-kubernetes-int-or-string": true},
            "labels": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3, "items": {"type": "string"}},
            "servers": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 1}}}},
        }})
    }

    #[test]
    fn what_is_not_allowed_is_found_at_its_place() {
        for (value, path, message) in [
            (json!({"port": 70000}), "spec.port", "70000 is not from 0 to 65535"),
            (json!({"port": "80"}), "spec.port", "must be a whole number, not the string \"80\""),
            (json!({"port": 80.5}), "spec.port", "must be a whole number"),
            (json!({}), "spec.port", "is required"),
            (json!({"port": 80, "protocol": "tcp"}), "spec.protocol", "`tcp` is not one of TCP, UDP"),
            (json!({"port": 80, "protocl": "TCP"}), "spec.protocl", "did you mean `protocol`?"),
            (json!({"port": 80, "name": "abcdef"}), "spec.name", "6 characters are more than the 5"),
            (json!({"port": 80, "name": "A"}), "spec.name", "`A` does not match ^[a-z]+$"),
            (json!({"port": 80, "name": true}), "spec.name", "in quotes"),
            (json!({"port": 80, "target": [1]}), "spec.target", "a whole number or a string"),
            (json!({"port": 80, "labels": {"a.b/c": 1}}), "spec.labels[a.b/c]", "must be a string"),
            (json!({"port": 80, "labels": {"a": "", "b": "", "c": ""}}), "spec.labels", "3 entries"),
            (
                json!({"port": 80, "set": ["a", "b", "a"]}),
                "spec.set[2]",
                "`a` stands twice, first in spec.set[0]",
            ),
            (json!({"port": 80, "set": ["a", "b", "c", "d"]}), "spec.set", "4 items are more than the 3"),
            (
                json!({"port": 80, "servers": [{"name": "x"}, {"name": "x"}]}),
                "spec.servers[1]",
                "`x` stands twice",
            ),
            (json!([]), "spec", "must be a map of fields, not a list"),
        ] {
            let findings = check(&schema(), &value, "spec");
            assert!(
                findings.len() == 1 && findings[0].path == path && findings[0].message.contains(message),
                "{value}: {findings:?}"
            );
        }
        let all_good = json!({"port": 80, "target": "web", "servers": [{"name": "x"}, {"name": "y"}]});
        assert_eq!(check(&schema(), &all_good, "spec"), []);
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut value =
            json!({"port": 80, "name": null, "servers": [{"name": "x"}, {"name": "y", "weight": 3}]});
        apply_defaults(&schema(), &mut value);
        let wanted = json!({"port": 80, "protocol": "TCP",
            "servers": [{"name": "x", "weight": 1}, {"name": "y", "weight": 3}]});
        assert_eq!(value, wanted);
    }
}
