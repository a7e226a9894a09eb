//! A structural schema made ready for judging many values: looked up once, patterns and rules compiled once, when they are first
//! needed. Of the rules of a kind most objects need few, and a start of the agent should not pay for the others.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use kube_cel::cel::Program;
use regex::Regex;
use serde_json::Value;

/// One place of a schema, and all places below it.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub kind: Kind,
    pub default: Option<Value>,
    pub nullable: bool,
    pub allowed: Vec<Value>,
    /// Bounds of the length, the number of items or of properties.
    pub least: Option<usize>,
    pub most: Option<usize>,
    pub rules: Vec<Rule>,
    /// Whether a rule stands here or below.
    pub has_rules: bool,
}

/// What a value must be.
#[derive(Debug, Default)]
pub(super) enum Kind {
    /// Anything: nothing below is known.
    #[default]
    Any,
    Object {
        /// In alphabetical order, as rules see it under `key`.
        properties: BTreeMap<String, Property>,
        required: Vec<String>,
        others: Option<Box<Node>>,
        /// Unknown fields are kept.
        open: bool,
    },
    Array {
        items: Option<Box<Node>>,
        list: List,
    },
    String {
        pattern: Option<Pattern>,
        date_time: bool,
    },
    Boolean,
    Integer(Range),
    Number(Range),
    /// A number or a string.
    IntOrString {
        range: Range,
        pattern: Option<Pattern>,
    },
}

/// A declared field.
#[derive(Debug)]
pub(super) struct Property {
    /// Its name in a rule: escaped where CEL needs it.
    pub key: std::sync::Arc<String>,
    pub node: Node,
}

/// Bounds of a number, both allowed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    pub least: Option<f64>,
    pub most: Option<f64>,
}

/// What tells the items of a list apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum List {
    Atomic,
    Set,
    Map(Vec<String>),
}

/// A regular expression.
#[derive(Debug)]
pub(super) struct Pattern {
    source: String,
    made: OnceLock<Regex>,
}

impl Pattern {
    fn new(source: &str) -> Pattern {
        Pattern { source: source.to_owned(), made: OnceLock::new() }
    }

    /// What matches it. A test makes those of every kind: a pattern of ours that does not compile never leaves the house.
    pub(super) fn regex(&self) -> &Regex {
        self.made.get_or_init(|| {
            Regex::new(&self.source).unwrap_or_else(|error| panic!("the pattern {}: {error}", self.source))
        })
    }
}

/// A CEL rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub source: String,
    program: OnceLock<Program>,
    pub message: String,
    /// Path below the place of the rule, with its leading dot; empty for the place itself.
    pub field_path: String,
    /// Whether it compares with the object as it was.
    pub is_transition: bool,
    /// The fields of `self` that it reads; none when it may read anything.
    pub reads: Option<Vec<String>>,
    /// All words in it, in alphabetical order: declared fields of other names it does not see, at whatever depth.
    pub words: Vec<String>,
}

impl Node {
    /// The place of a declared field.
    pub(super) fn property(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Object { properties, .. } => properties.get(name).map(|property| &property.node),
            _ => None,
        }
    }

    /// Compiles a schema.
    ///
    /// # Errors
    /// Says which keyword is not understood.
    pub(super) fn compile(schema: &Value) -> Result<Node, String> {
        let size = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
        let range = Range { least: schema["minimum"].as_f64(), most: schema["maximum"].as_f64() };
        let pattern = || schema["pattern"].as_str().map(Pattern::new);
        let (kind, least, most) = match schema["type"].as_str() {
            _ if schema["x-kubernetes-int-or-string"] == true => {
                (Kind::IntOrString { range, pattern: pattern() }, size("minLength"), size("maxLength"))
            }
            Some("object") => (object(schema)?, size("minProperties"), size("maxProperties")),
            Some("array") => (array(schema)?, size("minItems"), size("maxItems")),
            Some("string") => {
                let date_time = schema["format"] == "date-time";
                (Kind::String { pattern: pattern(), date_time }, size("minLength"), size("maxLength"))
            }
            Some("boolean") => (Kind::Boolean, None, None),
            Some("integer") => (Kind::Integer(range), None, None),
            Some("number") => (Kind::Number(range), None, None),
            None => (Kind::Any, None, None),
            Some(other) => return Err(format!("unknown type {other}")),
        };
        let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rules = rules.iter().map(|rule| Rule::new(rule, &kind)).collect::<Vec<_>>();
        let below = |test: fn(&Node) -> bool| match &kind {
            Kind::Object { properties, others, .. } => {
                properties.values().any(|property| test(&property.node))
                    || others.as_deref().is_some_and(test)
            }
            Kind::Array { items, .. } => items.as_deref().is_some_and(test),
            _ => false,
        };
        Ok(Node {
            has_rules: !rules.is_empty() || below(|node| node.has_rules),
            kind,
            default: schema.get("default").cloned(),
            nullable: schema["nullable"] == true,
            allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
            least,
            most,
            rules,
        })
    }
}

fn object(schema: &Value) -> Result<Kind, String> {
    let mut properties = BTreeMap::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let node = Node::compile(property).map_err(|error| format!("{name}: {error}"))?;
        properties.insert(name.clone(), Property { key: std::sync::Arc::new(escape(name)), node });
    }
    let required = schema["required"].as_array().into_iter().flatten();
    let required = required.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    let others = match schema.get("additionalProperties") {
        Some(others) if others.is_object() => Some(Box::new(Node::compile(others)?)),
        Some(Value::Bool(true)) => Some(Box::default()),
        _ => None,
    };
    // A type that names no field at all has none: the API server prunes whatever stands there.
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    Ok(Kind::Object { properties, required, others, open })
}

fn array(schema: &Value) -> Result<Kind, String> {
    let items = schema.get("items").map(Node::compile).transpose()?.map(Box::new);
    let list = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => List::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            List::Map(keys.filter_map(Value::as_str).map(ToOwned::to_owned).collect())
        }
        _ => List::Atomic,
    };
    Ok(Kind::Array { items, list })
}

impl Rule {
    /// Whether what it reads is as it was in a value that it found nothing wrong with.
    pub(super) fn passed(&self, node: &Node, value: &Value, passed: Option<&Value>) -> bool {
        let (Some(passed), Some(reads)) = (passed, &self.reads) else { return false };
        reads.iter().all(|name| match (value.get(name), passed.get(name), node.property(name)) {
            (Some(value), Some(passed), Some(node)) => self.sees_the_same(node, value, passed),
            (value, passed, _) => value == passed,
        })
    }

    /// Whether a declared field of that name may be looked at.
    pub(super) fn names(&self, key: &str) -> bool {
        self.words.binary_search_by(|word| word.as_str().cmp(key)).is_ok()
    }

    /// Whether two values differ in nothing that it looks at.
    fn sees_the_same(&self, node: &Node, one: &Value, other: &Value) -> bool {
        match (&node.kind, one, other) {
            (Kind::Array { items: Some(items), .. }, Value::Array(ones), Value::Array(others)) => {
                ones.len() == others.len()
                    && ones.iter().zip(others).all(|(one, other)| self.sees_the_same(items, one, other))
            }
            // With a field that is not declared, or with free keys, it is compared as a whole.
            (
                Kind::Object { properties, others: None, open: false, .. },
                Value::Object(ones),
                Value::Object(others),
            ) => {
                properties.iter().filter(|(_, property)| self.names(&property.key)).all(|(name, property)| {
                    match (ones.get(name), others.get(name)) {
                        (Some(one), Some(other)) => self.sees_the_same(&property.node, one, other),
                        (one, other) => one == other,
                    }
                })
            }
            _ => one == other,
        }
    }

    fn new(rule: &Value, of: &Kind) -> Rule {
        let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        let source = text("rule");
        // Known without compiling it; a test of every kind compares it with what the program says.
        let is_transition = source.contains("oldSelf");
        let reads = match of {
            Kind::Object { properties, .. } => reads(&source, properties),
            _ => None,
        };
        let (message, field_path) = (text("message"), text("fieldPath"));
        let words = words(&source);
        Rule { source, program: OnceLock::new(), message, field_path, is_transition, reads, words }
    }

    /// What evaluates it. A test makes those of every kind: a rule of ours that does not compile never leaves the house.
    pub(super) fn program(&self) -> &Program {
        self.program.get_or_init(|| {
            Program::compile(&self.source).unwrap_or_else(|error| panic!("the rule {}: {error}", self.source))
        })
    }
}

/// The fields of `self` that a rule reads, if it reads nothing but declared fields: every `self` in it is followed by a dot and
/// the name of one. Words in quotes count as if they stood outside, which finds too many fields, never too few.
fn reads(rule: &str, properties: &BTreeMap<String, Property>) -> Option<Vec<String>> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut names = Vec::new();
    for (at, found) in rule.match_indices("self") {
        let before = rule.as_bytes()[..at].last().copied();
        let after = &rule[at + found.len()..];
        if before.is_some_and(is_word) || after.bytes().next().is_some_and(is_word) {
            continue;
        }
        let after = after.strip_prefix('.').filter(|_| before != Some(b'.'))?;
        let word = &after[..after.bytes().position(|byte| !is_word(byte)).unwrap_or(after.len())];
        names.push(properties.iter().find(|(_, property)| *property.key == word)?.0.clone());
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// All words of a rule. Those in quotes count, too.
fn words(rule: &str) -> Vec<String> {
    let words = rule.split(|one: char| !one.is_ascii_alphanumeric() && one != '_');
    let mut words: Vec<_> = words.filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Names that are words of CEL's grammar (cel-spec, "Reserved words").
const RESERVED: [&str; 19] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
];

/// The name of a field in a rule, as the API server escapes it.
fn escape(name: &str) -> String {
    if RESERVED.contains(&name) || ["void", "while"].contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind as ObjectKind;

    /// Where a mistake would go unnoticed, because anything may stand there.
    fn open(node: &Node, path: &str, found: &mut Vec<String>) {
        match &node.kind {
            Kind::Any => found.push(path.to_owned()),
            Kind::Object { properties, others, open: is_open, .. } => {
                if *is_open {
                    found.push(path.to_owned());
                }
                for (name, property) in properties {
                    open(&property.node, &format!("{path}.{name}"), found);
                }
                others.iter().for_each(|others| open(others, &format!("{path}.*"), found));
            }
            Kind::Array { items, .. } => match items {
                Some(items) => open(items, &format!("{path}[]"), found),
                None => found.push(format!("{path}[]")),
            },
            _ => {}
        }
    }

    #[test]
    fn nothing_is_open_but_the_fields_that_others_manage() {
        for kind in ObjectKind::ALL {
            let mut found = Vec::new();
            open(&super::super::compiled(kind).root, "", &mut found);
            assert_eq!(found, [".metadata.managedFields[].fieldsV1"], "{kind}");
        }
    }
}
