//! Prints the reference of all kinds as Markdown, from the types: `make generate` writes it to docs/reference/manifests.md.

use std::fmt::Write as _;

use bascule_crds::object::Kind;
use bascule_crds::schema::crd;
use serde_json::Value;

fn main() {
    print!("{}", render());
}

/// What works in a cluster only. A test of compile holds it against what is refused elsewhere.
const CLUSTER_ONLY: [&str; 2] =
    ["VrrpGroup spec.authentication.hmac.keys[].secretRef", "VrrpGroup spec.authentication.simple.secretRef"];

/// The whole page.
pub(crate) fn render() -> String {
    let mut page = String::from(
        "# Manifests, field by field\n\n\
         Generated from the types by `make generate`; do not edit. Group `bascule.dev`, version `v1alpha1`. In a cluster\n\
         `kubectl explain virtualservice.spec` shows the same text.\n\n\
         A default in the table is filled in by the schema; one in the text by Bascule, because it depends on other fields.\n\
         Required fields are marked \\*.\n\n",
    );
    let cluster_only = CLUSTER_ONLY.map(|name| format!("`{name}`")).join(", ");
    let _ = writeln!(
        page,
        "In a cluster only, and refused with the reason `Unsupported` in a directory of manifests: {cluster_only}."
    );
    for one in [Kind::VirtualService, Kind::Director, Kind::VrrpGroup, Kind::HealthCheck, Kind::NatRule] {
        kind(&mut page, &crd(one).expect("a kind of Bascule's own"));
    }
    page
}

fn kind(page: &mut String, crd: &Value) {
    let names = &crd["spec"]["names"];
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let (name, short) =
        (names["kind"].as_str().unwrap_or_default(), names["shortNames"][0].as_str().unwrap_or_default());
    let scope = crd["spec"]["scope"].as_str().unwrap_or_default().to_lowercase();
    let _ = write!(page, "\n## {name}\n\n{} (`{short}`, {scope}", line(&schema["description"]));
    page.push_str(")\n");
    let mut todo = vec![("spec".to_owned(), schema["properties"]["spec"].clone())];
    while let Some((path, object)) = todo.pop() {
        let rules = rules(&object);
        let Some(fields) = object["properties"].as_object() else { continue };
        let _ = writeln!(page, "\n### {name}: `{path}`\n");
        for rule in rules {
            let _ = writeln!(page, "- {rule}");
        }
        page.push_str("\n| field | type | default | meaning |\n| --- | --- | --- | --- |\n");
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut below = Vec::new();
        for (name, field) in fields {
            let star = if required.contains(&name.as_str()) { " \\*" } else { "" };
            let default = field.get("default").map_or(String::new(), |default| format!("`{default}`"));
            let (shape, inner) = shape(field);
            let mut text = line(&field["description"]);
            for rule in self::rules(field) {
                let _ = write!(text, " ({rule})");
            }
            let _ = writeln!(page, "| `{name}`{star} | {shape} | {default} | {text} |");
            if let Some((suffix, inner)) = inner {
                below.push((format!("{path}.{name}{suffix}"), inner.clone()));
            }
        }
        below.reverse();
        todo.extend(below);
    }
}

/// A type for people, and the object inside it that needs a table of its own.
fn shape(field: &Value) -> (String, Option<(&'static str, &Value)>) {
    let bound = |least: &str, most: &str| match (field[least].as_u64(), field[most].as_u64()) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (None, Some(most)) => format!(", at most {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, None) => String::new(),
    };
    if field["x-kubernetes-int-or-string"] == true {
        return ("number or string".to_owned(), None);
    }
    match field["type"].as_str() {
        Some("array") => {
            let (of, inner) = shape(&field["items"]);
            (format!("list of {of}{}", bound("minItems", "maxItems")), inner.map(|(_, inner)| ("[]", inner)))
        }
        Some("object") if field["additionalProperties"].is_object() => {
            let (of, inner) = shape(&field["additionalProperties"]);
            (
                format!("map to {of}{}", bound("minProperties", "maxProperties")),
                inner.map(|(_, inner)| ("[KEY]", inner)),
            )
        }
        Some("object") => ("object".to_owned(), Some(("", field))),
        Some("integer") => {
            let number = |name: &str| field[name].as_f64().map(|bound| bound.to_string());
            let range = match (number("minimum"), number("maximum")) {
                (Some(least), Some(most)) => format!(", {least} to {most}"),
                (Some(least), None) => format!(", at least {least}"),
                (None, Some(most)) => format!(", at most {most}"),
                (None, None) => String::new(),
            };
            (format!("number{range}"), None)
        }
        Some("string") => match field["enum"].as_array() {
            Some(values) => {
                let values: Vec<String> =
                    values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
                (values.join(" "), None)
            }
            None => (format!("string{}", bound("minLength", "maxLength")), None),
        },
        Some("boolean") => ("`true` `false`".to_owned(), None),
        other => (other.unwrap_or("any").to_owned(), None),
    }
}

fn rules(schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array();
    rules.into_iter().flatten().filter_map(|rule| rule["message"].as_str()).map(escape).collect()
}

/// A description on one line of a table.
fn line(text: &Value) -> String {
    escape(&text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "))
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
