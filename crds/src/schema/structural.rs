//! What schemars derives, in the form that Kubernetes calls structural: no `anyOf` for what is optional, no `oneOf` for plain
//! enumerations, no `additionalProperties: false`, no formats that the API server does not know.

use serde_json::{Map, Value, json};

/// Formats that the API server checks and that the types use.
const FORMATS: [&str; 1] = ["date-time"];

/// Brings a schema, and all schemas in it, into structural form.
pub(super) fn restructure(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for keyword in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(branches)) = map.remove(keyword) {
            merge(map, keyword, branches);
        }
    }
    for keyword in ["$schema", "title", "nullable", "definitions", "components"] {
        map.remove(keyword);
    }
    if let Some(constant) = map.remove("const") {
        map.insert("enum".into(), json!([constant]));
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(types)) = map.get("type") {
        let mut types = types.iter().filter(|name| *name != "null").cloned();
        let only = types.next().expect("a type besides null");
        assert!(types.next().is_none(), "a structural schema has one type: {map:?}");
        map.insert("type".into(), only);
    }
    if map.get("additionalProperties") == Some(&Value::Bool(false)) {
        map.remove("additionalProperties");
    }
    // A list that is empty unless told, and an option that is absent, are left out.
    if map.get("default").is_some_and(|default| {
        default.is_null()
            || default.as_array().is_some_and(Vec::is_empty)
            || default.as_object().is_some_and(Map::is_empty)
    }) {
        map.remove("default");
    }
    format(map);
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = paragraphs(text);
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(restructure);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(keyword) {
            restructure(inner);
        }
    }
}

/// Removes the formats that only say which Rust type a number has, and writes their bounds out.
fn format(map: &mut Map<String, Value>) {
    let Some(format) = map.get("format").and_then(Value::as_str) else { return };
    if FORMATS.contains(&format) {
        return;
    }
    if format == "uint32" && !map.contains_key("maximum") {
        map.insert("maximum".into(), u32::MAX.into());
    }
    map.remove("format");
    for bound in ["minimum", "maximum"] {
        if let Some(number) = map.get(bound).and_then(Value::as_f64).filter(|number| number.fract() == 0.0) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "whole, and a bound of a field of at most 64 bits"
            )]
            map.insert(bound.into(), (number as i64).into());
        }
    }
}

fn merge(map: &mut Map<String, Value>, keyword: &str, branches: Vec<Value>) {
    let is_null = |branch: &Value| branch["type"] == "null" || branch["enum"] == json!([null]);
    let mut branches: Vec<Value> = branches.into_iter().filter(|branch| !is_null(branch)).collect();
    if branches.len() == 1 {
        // `Option<T>`, or a reference with siblings: what stands outside wins, as it speaks of the field.
        let Some(Value::Object(only)) = branches.pop() else { return };
        for (name, value) in only {
            map.entry(name).or_insert(value);
        }
        // The one that was merged may be a union itself.
        for keyword in ["anyOf", "oneOf", "allOf"] {
            if let Some(Value::Array(branches)) = map.remove(keyword) {
                merge(map, keyword, branches);
            }
        }
        return;
    }
    // An enumeration, whose documented values schemars writes as one schema each.
    let mut values = Vec::new();
    for branch in &branches {
        match (branch.get("const"), branch["enum"].as_array()) {
            (Some(constant), _) => values.push(constant.clone()),
            (None, Some(several)) => values.extend(several.iter().cloned()),
            (None, None) => panic!("{keyword} cannot be structural: {branches:?}"),
        }
    }
    map.insert("type".into(), "string".into());
    map.insert("enum".into(), values.into());
}

/// Lines of one paragraph become one line.
fn paragraphs(text: &str) -> String {
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join("\n\n")
}

/// Turns a structural schema into one for editors: unknown fields are refused, Kubernetes' own keywords are gone.
pub(super) fn for_editors(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if map.remove("x-kubernetes-int-or-string").is_some() {
        map.insert("type".into(), json!(["integer", "string"]));
    }
    // Also an object that has no field at all, as `tcp: {}`.
    let is_object = map.get("type").is_some_and(|type_| type_ == "object");
    let is_open = map.get("x-kubernetes-preserve-unknown-fields").is_some_and(|open| open == true);
    if is_object && !is_open && !map.contains_key("additionalProperties") {
        map.insert("additionalProperties".into(), false.into());
    }
    map.retain(|name, _| !name.starts_with("x-kubernetes-"));
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(for_editors);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(keyword) {
            for_editors(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_enumerations_become_structural_and_keep_the_words_of_the_field() {
        for (derived, wanted) in [
            (
                json!({"type": ["string", "null"], "description": "a\nb\n\nc"}),
                json!({"type": "string", "description": "a b\n\nc"}),
            ),
            (
                json!({"description": "of the field", "anyOf": [
                    {"description": "of the type", "oneOf": [{"const": "A", "type": "string", "description": "x"}, {"enum": ["B"], "type": "string"}]},
                    {"type": "null"}]}),
                json!({"description": "of the field", "type": "string", "enum": ["A", "B"]}),
            ),
            (
                json!({"type": "integer", "format": "uint32", "minimum": 0.0}),
                json!({"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32}),
            ),
            (
                json!({"type": "array", "default": [], "items": {"type": ["object", "null"], "additionalProperties": false}}),
                json!({"type": "array", "items": {"type": "object"}}),
            ),
            (
                json!({"type": "string", "format": "date-time", "nullable": true}),
                json!({"type": "string", "format": "date-time"}),
            ),
        ] {
            let mut schema = derived;
            restructure(&mut schema);
            assert_eq!(schema, wanted);
        }
    }
    #[test]
    fn editors_refuse_fields_that_nobody_knows_also_where_there_are_none() {
        let mut schema = json!({"type": "object", "properties": {
            "tcp": {"type": "object", "description": "no settings"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "fieldsV1": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }});
        for_editors(&mut schema);
        let wanted = json!({"type": "object", "additionalProperties": false, "properties": {
            "tcp": {"type": "object", "description": "no settings", "additionalProperties": false},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "fieldsV1": {"type": "object"},
        }});
        assert_eq!(schema, wanted);
    }
}
