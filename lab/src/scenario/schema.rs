//! The JSON Schema of the language: what editors use and what [`super::load()`] judges by.

use std::sync::OnceLock;

use serde_json::Value;

use super::Scenario;

/// The schema, as it is committed in `lab/schema/scenario.schema.json`.
pub fn schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let mut schema = schemars::schema_for!(Scenario).to_value();
        without_null(&mut schema);
        exactly_one(&mut schema);
        schema
    })
}

/// The schema as text. `make generate` writes it.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(schema()).unwrap_or_default();
    text.push('\n');
    text
}

/// `Option` lets a value be null; in a file a null is an empty field, and a slip. So no schema admits it.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Array(kinds)) = members.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [kind] = kinds.as_slice() {
                    let kind = kind.clone();
                    members.insert("type".into(), kind);
                }
            }
            if let Some(Value::Array(forms)) = members.get_mut("anyOf") {
                forms.retain(|form| form.get("type").is_none_or(|kind| kind != "null"));
                if let [form] = forms.as_slice() {
                    let Value::Object(form) = form.clone() else { return };
                    members.remove("anyOf");
                    for (name, value) in form {
                        members.entry(name).or_insert(value);
                    }
                }
            }
            members.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Says `x-exactly-one` also in words that other programs know.
fn exactly_one(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Array(names)) = members.get("x-exactly-one") {
                let each = names.iter().map(|name| serde_json::json!({"required": [name]})).collect();
                // Under `allOf`, because a bare `oneOf` is how the generator writes enums, and the two are read differently.
                members.insert("allOf".into(), serde_json::json!([{"oneOf": Value::Array(each)}]));
            }
            members.values_mut().for_each(exactly_one);
        }
        Value::Array(items) => items.iter_mut().for_each(exactly_one),
        _ => {}
    }
}
