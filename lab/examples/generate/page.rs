//! The schema of the scenario language as a page of Markdown.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// What stands above the generated sections; `%EXAMPLE%` is where the example goes.
const HEAD: &str = include_str!("head.md");
const EXAMPLE: &str = include_str!("example.yaml");

/// The headings, and the types below each. What a type refers to follows it, unless it has a heading of its own.
const CHAPTERS: &[(&str, &[&str])] = &[
    ("Topology", &["Topology"]),
    ("Steps", &["Step"]),
    ("Faults", &["Fault"]),
    ("Expectations", &["Expectation"]),
    ("Others in Bascule's place", &["Peers", "InPlace", "InPlaceNode", "Otherwise"]),
    ("What the machine must have, and controls", &["Requirements", "Record", "Control"]),
];

/// The whole page.
pub(crate) fn render(schema: &Value) -> String {
    let types = schema["$defs"].as_object().expect("the schema has definitions");
    let mut page = Page { types, text: HEAD.replace("%EXAMPLE%", EXAMPLE.trim_end()), done: BTreeSet::new() };
    page.text.push_str("\n## The file\n\n");
    page.fields(schema);
    let headed: BTreeSet<&str> = CHAPTERS.iter().flat_map(|(_, types)| types.iter().copied()).collect();
    for (heading, roots) in CHAPTERS {
        let _ = write!(page.text, "\n## {heading}\n");
        for root in *roots {
            page.section(root, &headed);
        }
    }
    page.values();
    page.text
}

struct Page<'a> {
    types: &'a Map<String, Value>,
    text: String,
    done: BTreeSet<String>,
}

impl Page<'_> {
    /// A type, and then those that it refers to and that are not `headed`.
    fn section(&mut self, name: &str, headed: &BTreeSet<&str>) {
        let Some(definition) = self.types.get(name) else {
            panic!("the page names {name}, which the language does not have");
        };
        if !self.done.insert(name.to_owned()) {
            return;
        }
        if !is_value(definition) {
            self.table(name, definition);
        }
        for reference in references(definition) {
            if !headed.contains(reference) {
                self.section(reference, headed);
            }
        }
    }

    /// A type's own table.
    fn table(&mut self, name: &str, definition: &Value) {
        let _ = write!(self.text, "\n### {name}\n\n{}\n\n", line(&definition["description"]));
        if definition["properties"].is_object() {
            self.fields(definition);
        } else if let Some(words) = words(definition) {
            self.text.push_str("| word | meaning |\n| --- | --- |\n");
            for (word, meaning) in words {
                let _ = writeln!(self.text, "| `{word}` | {meaning} |");
            }
        } else {
            self.kinds(definition);
        }
    }

    /// The fields of an object, those that must be there first.
    fn fields(&mut self, object: &Value) {
        let required: Vec<&str> = list(&object["required"]).filter_map(Value::as_str).collect();
        let exactly_one: Vec<&str> = list(&object["x-exactly-one"]).filter_map(Value::as_str).collect();
        self.text.push_str("| field | type | default | meaning |\n| --- | --- | --- | --- |\n");
        let fields = object["properties"].as_object().into_iter().flatten();
        let mut fields: Vec<_> =
            fields.map(|(name, field)| (!required.contains(&name.as_str()), name, field)).collect();
        // The kinds of a step or an expectation after what all have.
        fields.sort_by_key(|(optional, name, _)| (*optional, exactly_one.contains(&name.as_str()), *name));
        for (optional, name, field) in fields {
            let star = if optional { "" } else { " \\*" };
            let default = match field.get("default") {
                None | Some(Value::Null) => String::new(),
                Some(Value::Array(items)) if items.is_empty() => String::new(),
                Some(Value::Object(members)) if members.is_empty() => String::new(),
                Some(value) => format!("`{value}`"),
            };
            let shape = shape(field);
            let _ = writeln!(
                self.text,
                "| `{name}`{star} | {shape} | {default} | {} |",
                line(&field["description"])
            );
        }
        if !exactly_one.is_empty() {
            let names: Vec<String> = exactly_one.iter().map(|name| format!("`{name}`")).collect();
            let _ = writeln!(self.text, "\nExactly one of {}.", names.join(", "));
        }
    }

    /// A type of which there are kinds, each an object with one key.
    fn kinds(&mut self, definition: &Value) {
        self.text.push_str("| key | value | meaning |\n| --- | --- | --- |\n");
        for form in list(&definition["oneOf"]) {
            for (key, value) in form["properties"].as_object().into_iter().flatten() {
                let _ =
                    writeln!(self.text, "| `{key}` | {} | {} |", shape(value), line(&form["description"]));
            }
        }
    }

    /// Numbers and texts that several types share.
    fn values(&mut self) {
        self.text.push_str("\n## Values\n\n| type | what is written |\n| --- | --- |\n");
        for (name, definition) in self.types {
            if is_value(definition) {
                let limits = limits(definition, "minLength", "maxLength", " characters");
                let _ = writeln!(
                    self.text,
                    "| <a id=\"{}\"></a>{name} | {}{} |",
                    name.to_lowercase(),
                    line(&definition["description"]),
                    if limits.is_empty() { limits } else { format!(" {}.", capital(&limits)) },
                );
            }
        }
        for name in self.types.keys() {
            assert!(self.done.contains(name), "{name} is on no chapter's path");
        }
    }
}

/// Whether a type is written as one number or text, so that it needs no table.
fn is_value(definition: &Value) -> bool {
    definition["properties"].is_null() && definition["oneOf"].is_null()
}

/// The words of an enumeration, with their meanings.
fn words(definition: &Value) -> Option<Vec<(&str, String)>> {
    list(&definition["oneOf"])
        .map(|form| Some((form["const"].as_str()?, line(&form["description"]))))
        .collect()
}

/// The types that a definition refers to, in its order.
fn references(definition: &Value) -> Vec<&str> {
    match definition {
        Value::Object(members) => {
            let own = members.get("$ref").and_then(Value::as_str).map(type_name);
            own.into_iter().chain(members.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn type_name(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

/// A type for people.
fn shape(field: &Value) -> String {
    if let Some(reference) = field["$ref"].as_str() {
        let name = type_name(reference);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if field["anyOf"].is_array() {
        return list(&field["anyOf"]).map(shape).collect::<Vec<_>>().join(" or ");
    }
    match field["type"].as_str() {
        Some("array") => {
            let limits = limits(field, "minItems", "maxItems", "");
            let limits = if limits.is_empty() { limits } else { format!(" ({limits})") };
            format!("list{limits} of {}", shape(&field["items"]))
        }
        Some("object") if field["additionalProperties"].is_object() => {
            format!("map to {}", shape(&field["additionalProperties"]))
        }
        Some("object") => "map to any value".to_owned(),
        Some("integer") => format!("number{}", limits_after(field, "minimum", "maximum", "")),
        Some("string") => format!("text{}", limits_after(field, "minLength", "maxLength", " characters")),
        Some("boolean") => "`true` `false`".to_owned(),
        other => other.unwrap_or("any value").to_owned(),
    }
}

fn limits_after(field: &Value, least: &str, most: &str, unit: &str) -> String {
    let limits = limits(field, least, most, unit);
    if limits.is_empty() { limits } else { format!(", {limits}") }
}

/// `1 to 64`, `at most 64`; nothing where the only limit is at least 0 or 1.
fn limits(field: &Value, least: &str, most: &str, unit: &str) -> String {
    match (field[least].as_u64().filter(|least| *least > 0), field[most].as_u64()) {
        (Some(least), Some(most)) => format!("{least} to {most}{unit}"),
        (None, Some(most)) => format!("at most {most}{unit}"),
        (Some(least), None) if least > 1 => format!("at least {least}{unit}"),
        _ => String::new(),
    }
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A description on one line of a table.
fn line(text: &Value) -> String {
    let words = text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    words.replace('|', "\\|").replace('<', "&lt;")
}
