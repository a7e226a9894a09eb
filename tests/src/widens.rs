//! Whether a definition takes everything that an older one took, and means the same by it: a published version of an API only widens.

use std::collections::BTreeSet;

use serde_json::Value;

/// What cannot be changed without another version: another value is another meaning.
const SAME: [&str; 17] = [
    "type",
    "format",
    "default",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-map-type",
    "x-kubernetes-embedded-resource",
    // Which of two of these takes more nobody can say in general. Ours have none.
    "oneOf",
    "anyOf",
    "allOf",
    "not",
    "multipleOf",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "uniqueItems",
];
const AT_MOST: [&str; 4] = ["maxLength", "maxItems", "maxProperties", "maximum"];
const AT_LEAST: [&str; 4] = ["minLength", "minItems", "minProperties", "minimum"];

/// What `newer`, a CustomResourceDefinition, refuses, drops or reads otherwise of what `older` took, a line each with the field's path.
pub fn narrowed(older: &Value, newer: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let name = older["metadata"]["name"].as_str().unwrap_or_default();
    for field in ["/spec/scope", "/spec/group", "/spec/names/kind", "/spec/names/plural"] {
        if older.pointer(field) != newer.pointer(field) {
            found.push(format!("{name}: {field} is another one"));
        }
    }
    for version in list(&older["spec"]["versions"]).filter(|one| one["served"] == true) {
        let same = |one: &&Value| one["name"] == version["name"] && one["served"] == true;
        let at = format!("{name}: {}", version["name"].as_str().unwrap_or_default());
        let Some(now) = list(&newer["spec"]["versions"]).find(same) else {
            found.push(format!("{at} is no longer served"));
            continue;
        };
        if version["subresources"] != now["subresources"] {
            found.push(format!(
                "{at}: subresources were {}, are {}",
                version["subresources"], now["subresources"]
            ));
        }
        // Agents of the older version ask by them.
        for field in list(&version["selectableFields"]) {
            if !list(&now["selectableFields"]).any(|one| one == field) {
                found.push(format!("{at}: {} can no longer be selected by", field["jsonPath"]));
            }
        }
        let [before, now] = [version, now].map(|one| &one["schema"]["openAPIV3Schema"]);
        schema(&at, before, now, &mut found);
    }
    found
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The strings of a list.
fn words(value: &Value) -> BTreeSet<&str> {
    list(value).filter_map(Value::as_str).collect()
}

fn schema(at: &str, older: &Value, newer: &Value, found: &mut Vec<String>) {
    for keyword in SAME {
        if older[keyword] != newer[keyword] {
            found.push(format!("{at}: {keyword} was {}, is {}", older[keyword], newer[keyword]));
        }
    }
    if older["nullable"] == true && newer["nullable"] != true {
        found.push(format!("{at}: null is refused"));
    }
    for (keywords, narrower) in [(AT_MOST, -1.0), (AT_LEAST, 1.0)] {
        for keyword in keywords {
            let Some(now) = newer[keyword].as_f64() else { continue };
            if older[keyword].as_f64().is_none_or(|before| (now - before) * narrower > 0.0) {
                found.push(format!("{at}: {keyword} was {}, is {now}", older[keyword]));
            }
        }
    }
    // Which of two patterns takes more nobody can say in general.
    if !newer["pattern"].is_null() && older["pattern"] != newer["pattern"] {
        found.push(format!("{at}: pattern was {}, is {}", older["pattern"], newer["pattern"]));
    }
    if newer["enum"].is_array() {
        for value in list(&older["enum"]).filter(|value| !list(&newer["enum"]).any(|one| one == *value)) {
            found.push(format!("{at}: {value} is refused"));
        }
        if older["enum"].is_null() {
            found.push(format!("{at}: only {} are taken", newer["enum"]));
        }
    }
    for name in words(&newer["required"]).difference(&words(&older["required"])) {
        if newer["properties"][name]["default"].is_null() {
            found.push(format!("{at}.{name} is required"));
        }
    }
    let rule = |one: &Value| one["rule"].as_str().unwrap_or_default().to_owned();
    let rules: BTreeSet<String> = list(&older["x-kubernetes-validations"]).map(rule).collect();
    for new in list(&newer["x-kubernetes-validations"]).map(rule).filter(|one| !rules.contains(one)) {
        found.push(format!("{at}: a rule that was not there: {new}"));
    }
    for (name, before) in older["properties"].as_object().into_iter().flatten() {
        match &newer["properties"][name] {
            Value::Null => found.push(format!("{at}.{name} is gone")),
            now => schema(&format!("{at}.{name}"), before, now, found),
        }
    }
    for (keyword, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if older[keyword].is_object() {
            schema(&format!("{at}{mark}"), &older[keyword], &newer[keyword], found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(schema: Value) -> Value {
        json!({
            "metadata": {"name": "things.bascule.dev"},
            "spec": {
                "group": "bascule.dev", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"},
                "versions": [{"name": "v1alpha1", "served": true, "schema": {"openAPIV3Schema": schema}}],
            },
        })
    }

    fn thing() -> Value {
        json!({
            "type": "object", "required": ["name"],
            "properties": {
                "name": {"type": "string", "maxLength": 63, "pattern": "^[a-z]+$"},
                "mode": {"type": "string", "enum": ["A", "B"], "default": "A"},
                "weight": {"type": "integer", "minimum": 0, "maximum": 10},
                "ports": {"type": "array", "maxItems": 4, "items": {"type": "integer", "maximum": 65535}},
            },
            "x-kubernetes-validations": [{"rule": "self.weight > 1"}],
        })
    }

    /// What is found when the schema is changed at a place, or something there is taken away.
    fn found(pointer: &str, key: &str, value: Option<Value>) -> Vec<String> {
        let older = definition(thing());
        let mut newer = thing();
        let place = newer.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object");
        match value {
            Some(value) => place.insert(key.into(), value),
            None => place.remove(key),
        };
        narrowed(&older, &definition(newer))
    }

    #[test]
    fn what_widens_is_let_pass() {
        for (pointer, key, value) in [
            ("/properties/name", "maxLength", Some(json!(64))),
            ("/properties/name", "maxLength", None),
            ("/properties/name", "pattern", None),
            ("/properties/name", "description", Some(json!("other words"))),
            ("/properties/mode", "enum", Some(json!(["A", "B", "C"]))),
            ("/properties/mode", "enum", None),
            ("/properties/weight", "maximum", Some(json!(11))),
            ("/properties/ports/items", "minimum", None),
            ("/properties", "more", Some(json!({"type": "string"}))),
            ("", "required", Some(json!([]))),
            ("", "required", Some(json!(["name", "mode"]))),
            ("", "x-kubernetes-validations", None),
        ] {
            let found = found(pointer, key, value);
            assert!(found.is_empty(), "{pointer} {key}: {found:?}");
        }
    }

    #[test]
    fn what_narrows_is_found_at_its_place() {
        for (pointer, key, value, said) in [
            ("/properties/name", "maxLength", Some(json!(62)), ".name: maxLength was 63, is 62"),
            ("/properties/name", "minLength", Some(json!(1)), ".name: minLength was null, is 1"),
            ("/properties/name", "pattern", Some(json!("^[a-y]+$")), ".name: pattern was"),
            ("/properties/name", "enum", Some(json!(["a"])), ".name: only [\"a\"] are taken"),
            ("/properties/mode", "enum", Some(json!(["A"])), ".mode: \"B\" is refused"),
            ("/properties/mode", "default", Some(json!("B")), ".mode: default was \"A\", is \"B\""),
            ("/properties/weight", "type", Some(json!("number")), ".weight: type was"),
            ("/properties/weight", "minimum", Some(json!(1)), ".weight: minimum was 0, is 1"),
            ("/properties/ports", "maxItems", Some(json!(3)), ".ports: maxItems was 4, is 3"),
            ("/properties/ports/items", "maximum", Some(json!(1023)), ".ports[]: maximum was 65535, is 1023"),
            ("/properties", "weight", None, ".weight is gone"),
            ("", "required", Some(json!(["name", "weight"])), ".weight is required"),
            (
                "",
                "x-kubernetes-validations",
                Some(json!([{"rule": "self.weight > 2"}])),
                ": a rule that was not there: self.weight > 2",
            ),
        ] {
            let found = found(pointer, key, value);
            let [only] = &found[..] else { panic!("{pointer} {key}: {found:?}") };
            assert!(only.starts_with(&format!("things.bascule.dev: v1alpha1{said}")), "{only}");
        }
    }

    #[test]
    fn a_version_that_goes_is_found() {
        let older = definition(thing());
        let mut newer = older.clone();
        newer["spec"]["versions"][0]["served"] = json!(false);
        assert_eq!(narrowed(&older, &newer), ["things.bascule.dev: v1alpha1 is no longer served"]);
        let mut older = older;
        older["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.director"}]);
        let mut newer = older.clone();
        newer["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.other"}]);
        assert_eq!(
            narrowed(&older, &newer),
            ["things.bascule.dev: v1alpha1: \".spec.director\" can no longer be selected by"]
        );
        let mut newer = older.clone();
        newer["spec"]["scope"] = json!("Cluster");
        assert_eq!(narrowed(&older, &newer), ["things.bascule.dev: /spec/scope is another one"]);
    }
}
