//! Judges a value by the language's own JSON Schema, with the path of each mistake and the way out of it.
//!
//! It knows the keywords that [`super::schema`] generates, `x-exactly-one`, `x-at-most-one` and `x-ordered`. The decoder that comes after it sees only
//! values that passed, so that every mistake has a path.

use serde_json::{Map, Value};

use super::suggest;

/// A mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Where, as `steps[3].requests.rate`; empty for the whole.
    pub(crate) path: String,
    /// What, and the way out.
    pub(crate) message: String,
}

/// All mistakes of `value`.
pub(crate) fn check(schema: &Value, value: &Value) -> Vec<Violation> {
    check_part(schema, schema, value)
}

/// All mistakes of a `value` that is only a part of what the schema `root` describes.
pub(crate) fn check_part(root: &Value, part: &Value, value: &Value) -> Vec<Violation> {
    let mut checker = Checker { root, violations: Vec::new() };
    checker.walk(part, value, "");
    checker.violations
}

/// As many are reported; more would not be read.
const MAX_VIOLATIONS: usize = 100;

struct Checker<'a> {
    root: &'a Value,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn report(&mut self, path: &str, message: String) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { path: path.to_owned(), message });
        }
    }

    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            match reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    fn walk(&mut self, schema: &'a Value, value: &Value, path: &str) {
        let schema = self.resolve(schema);
        if let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) {
            return self.one_of(alternatives, value, path);
        }
        if let Some(alternatives) = schema.get("anyOf").and_then(Value::as_array) {
            return self.any_of(alternatives, value, path);
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            return self.word(words.iter().filter_map(Value::as_str).collect(), value, path);
        }
        if let Some(kind) = schema.get("type").and_then(Value::as_str)
            && !is_of(value, kind)
        {
            let example = match schema.get("format").and_then(Value::as_str) {
                Some("duration") if value.is_number() => "; write it with its unit, such as `60s` or `500ms`",
                _ => "",
            };
            return self
                .report(path, format!("is {}, but has to be {}{example}", name_of(value), article(kind)));
        }
        match value {
            Value::Object(members) => self.object(schema, members, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::String(text) => self.string(schema, text, path),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                for (keyword, wrong, words) in [
                    ("minimum", (|number, limit| number < limit) as fn(f64, f64) -> bool, "at least"),
                    ("maximum", |number, limit| number > limit, "at most"),
                ] {
                    if let Some(limit) = schema.get(keyword).and_then(Value::as_f64)
                        && wrong(number, limit)
                    {
                        self.report(path, format!("is {number}, but has to be {words} {limit}"));
                    }
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: &'a Value, members: &Map<String, Value>, path: &str) {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if let Some(name) = required.as_str()
                && !members.contains_key(name)
            {
                let field = properties.and_then(|properties| properties.get(name));
                let meaning = field.and_then(|field| field.get("description")).and_then(Value::as_str);
                // Its first sentence says what to write there.
                let meaning =
                    meaning.and_then(|text| text.split(". ").next()).map(|text| text.trim_end_matches('.'));
                let meaning = meaning.map_or_else(String::new, |text| format!(": {text}"));
                self.report(path, format!("`{name}` is missing{meaning}"));
            }
        }
        if let Some(names) = schema.get("x-exactly-one").and_then(Value::as_array) {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            let there: Vec<&str> = names.iter().copied().filter(|name| members.contains_key(*name)).collect();
            // A misspelt one is reported as unknown: that says more than "none of them is there".
            let unknown = members.keys().any(|name| properties.unwrap_or(&none).get(name).is_none());
            if there.len() > 1 {
                self.report(path, format!("has {}, but exactly one of them can be", suggest::list(&there)));
            } else if there.is_empty() && !unknown {
                self.report(path, format!("one of {} is missing", suggest::list(&names)));
            }
        }
        self.at_most_one(schema, members, path);
        self.ordered(schema, members, path);
        for (name, member) in members {
            let below = join(path, name);
            if let Some(property) = properties.and_then(|properties| properties.get(name)) {
                if member.is_null() {
                    self.report(&below, "is empty; give it a value or leave it out".into());
                } else {
                    self.walk(property, member, &below);
                }
                continue;
            }
            match schema.get("additionalProperties") {
                Some(Value::Bool(false)) => {
                    let known = properties.unwrap_or(&none).keys().map(String::as_str);
                    self.report(&below, format!("unknown field `{name}`{}", suggest::field(name, known)));
                }
                Some(other @ Value::Object(_)) => self.walk(other, member, &below),
                _ => {}
            }
        }
    }

    /// `x-at-most-one`: fields that exclude each other.
    fn at_most_one(&mut self, schema: &Value, members: &Map<String, Value>, path: &str) {
        let names = schema.get("x-at-most-one").and_then(Value::as_array);
        let names = names.into_iter().flatten().filter_map(Value::as_str);
        let there: Vec<&str> = names.filter(|name| members.contains_key(*name)).collect();
        if there.len() > 1 {
            self.report(path, format!("has {}, but at most one of them can be", suggest::list(&there)));
        }
    }

    /// `x-ordered`: two limits, of which the first is not above the second.
    fn ordered(&mut self, schema: &Value, members: &Map<String, Value>, path: &str) {
        let Some([least, most]) = schema.get("x-ordered").and_then(Value::as_array).map(Vec::as_slice) else {
            return;
        };
        let limit = |name: &Value| members.get(name.as_str()?)?.as_f64();
        if limit(least).zip(limit(most)).is_some_and(|(least, most)| least > most) {
            let words = [least, most].map(|name| name.as_str().unwrap_or_default());
            let message = format!("`{}` is above `{}`, so that nothing could be that", words[0], words[1]);
            self.report(path, message);
        }
    }

    fn array(&mut self, schema: &'a Value, items: &[Value], path: &str) {
        let count = items.len() as u64;
        if let Some(least) = schema.get("minItems").and_then(Value::as_u64)
            && count < least
        {
            self.report(path, format!("has {count} entries, but has to have at least {least}"));
        }
        if let Some(most) = schema.get("maxItems").and_then(Value::as_u64)
            && count > most
        {
            return self.report(path, format!("has {count} entries, but can have at most {most}"));
        }
        if let Some(schema) = schema.get("items") {
            for (index, item) in items.iter().enumerate() {
                self.walk(schema, item, &format!("{path}[{index}]"));
            }
        }
    }

    fn string(&mut self, schema: &Value, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(least) = schema.get("minLength").and_then(Value::as_u64)
            && length < least
        {
            return self.report(
                path,
                if length == 0 {
                    "is empty".into()
                } else {
                    format!("has {length} characters, but has to have at least {least}")
                },
            );
        }
        if let Some(most) = schema.get("maxLength").and_then(Value::as_u64)
            && length > most
        {
            return self.report(path, format!("has {length} characters, but can have at most {most}"));
        }
        if let Some(format) = schema.get("format").and_then(Value::as_str)
            && let Err(message) = format_of(format, text)
        {
            self.report(path, message);
        }
    }

    /// An externally tagged enum: words, or objects with exactly one key.
    fn one_of(&mut self, alternatives: &'a [Value], value: &Value, path: &str) {
        let words: Option<Vec<&str>> =
            alternatives.iter().map(|schema| schema.get("const").and_then(Value::as_str)).collect();
        if let Some(words) = words {
            return self.word(words, value, path);
        }
        let tags: Vec<(&str, &'a Value)> = alternatives
            .iter()
            .filter_map(|schema| {
                let (tag, below) = schema.get("properties")?.as_object()?.iter().next()?;
                Some((tag.as_str(), below))
            })
            .collect();
        let names: Vec<&str> = tags.iter().map(|(tag, _)| *tag).collect();
        let Some(members) = value.as_object() else {
            return self.report(
                path,
                format!(
                    "is {}, but has to be an object with one of {}",
                    name_of(value),
                    suggest::list(&names)
                ),
            );
        };
        let mut keys = members.iter();
        match (keys.next(), keys.next()) {
            (Some((key, member)), None) => {
                let below = join(path, key);
                match tags.iter().find(|(tag, _)| tag == key) {
                    Some((_, schema)) => self.walk(schema, member, &below),
                    None => self.report(&below, format!("unknown kind `{key}`{}", suggest::hint(key, names))),
                }
            }
            _ => self.report(
                path,
                format!(
                    "has {} keys, but has to have exactly one of {}",
                    members.len(),
                    suggest::list(&names)
                ),
            ),
        }
    }

    /// An untagged enum: forms that differ in type.
    fn any_of(&mut self, alternatives: &'a [Value], value: &Value, path: &str) {
        let mut named = Vec::new();
        for alternative in alternatives {
            let alternative = self.resolve(alternative);
            let kind = alternative.get("type").and_then(Value::as_str).unwrap_or("object");
            if is_of(value, kind) {
                return self.walk(alternative, value, path);
            }
            named.push(article(kind));
        }
        self.report(path, format!("is {}, but has to be {}", name_of(value), named.join(" or ")));
    }

    fn word(&mut self, words: Vec<&str>, value: &Value, path: &str) {
        match value.as_str() {
            Some(word) if words.contains(&word) => {}
            Some(word) => {
                let hint = suggest::hint(word, words.iter().copied());
                self.report(path, format!("unknown value `{word}`{hint}"));
            }
            None => self.report(
                path,
                format!("is {}, but has to be one of {}", name_of(value), suggest::list(&words)),
            ),
        }
    }
}

/// The path of a member; a name with a dot or a bracket in it stands in brackets, as `manifests[web.yaml]`.
pub(crate) fn join(path: &str, name: &str) -> String {
    if name.contains(['.', '[', ']']) {
        format!("{path}[{name}]")
    } else if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    }
}

fn article(kind: &str) -> &'static str {
    match kind {
        "object" => "an object",
        "array" => "a list",
        "string" => "a string",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        _ => "something else",
    }
}

fn name_of(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() <= 40 => format!("the string `{text}`"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

fn format_of(format: &str, text: &str) -> Result<(), String> {
    use super::value::{BitRate, Destination, Listen, Mac, Percent, Prefix, Span};
    match format {
        "duration" => text.parse::<Span>().map(drop),
        "prefix" => text.parse::<Prefix>().map(drop),
        "destination" => text.parse::<Destination>().map(drop),
        "mac" => text.parse::<Mac>().map(drop),
        "percent" => text.parse::<Percent>().map(drop),
        "bitrate" => text.parse::<BitRate>().map(drop),
        "listen" => text.parse::<Listen>().map(drop),
        "ip" => {
            text.parse::<std::net::IpAddr>().map(drop).map_err(|_| format!("`{text}` is not an IP address"))
        }
        "name" => super::topology::Name::check(text),
        _ => Ok(()),
    }
}
