//! CEL rules, evaluated as the API server evaluates them: `self` is the value where the rule stands, `oldSelf` the one before.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::KubeCelExt as _;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Value as Cel};
use serde_json::Value;

use super::Violation;
use super::node::{Kind, Node, Property, Rule};

thread_local! {
    /// The functions of Kubernetes' CEL. Filling it in costs more than judging an object, and it cannot be shared.
    static FUNCTIONS: Context<'static> = Context::default().with_all();
}

/// What a value is judged beside.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside<'a> {
    /// What it replaces: `oldSelf`.
    pub old: Option<&'a Value>,
    /// What the same rules found nothing wrong with: they need not look again at what is equal.
    pub passed: Option<&'a Value>,
}

impl Beside<'_> {
    fn field(self, name: &str) -> Self {
        Self {
            old: self.old.and_then(|old| old.get(name)),
            passed: self.passed.and_then(|passed| passed.get(name)),
        }
    }

    /// Items are not compared with those before: no rule of ours asks for it.
    fn item(self, at: usize) -> Self {
        Self { old: None, passed: self.passed.and_then(|passed| passed.get(at)) }
    }
}

/// Everything that the rules object to.
pub(super) fn evaluate(
    node: &Node,
    value: &Value,
    beside: Beside<'_>,
    path: &str,
    found: &mut Vec<Violation>,
) {
    FUNCTIONS.with(|functions| walk(functions, node, value, beside, path, found));
}

fn walk(
    functions: &Context<'_>,
    node: &Node,
    value: &Value,
    beside: Beside<'_>,
    path: &str,
    found: &mut Vec<Violation>,
) {
    // With an `oldSelf` a rule may say something else of the same value.
    if !node.has_rules || (beside.old.is_none() && beside.passed == Some(value)) {
        return;
    }
    // A rule that compares is not evaluated when there is nothing to compare with.
    let rules = node.rules.iter().filter(|rule| {
        if rule.is_transition { beside.old.is_some() } else { !rule.passed(node, value, beside.passed) }
    });
    let rules: Vec<&Rule> = rules.collect();
    if !rules.is_empty() {
        let mut scope = functions.new_inner_scope();
        scope.add_variable_from_value("self", seen_by(&rules, node, value));
        if let Some(old) = beside.old {
            scope.add_variable_from_value("oldSelf", cel(node, old, &all));
        }
        for rule in rules {
            judge(rule, &scope, path, found);
        }
    }
    match (&node.kind, value) {
        (Kind::Object { properties, others, .. }, Value::Object(map)) => {
            for (name, field) in map {
                let beside = beside.field(name);
                match (properties.get(name), others) {
                    (Some(property), _) if property.node.has_rules => {
                        let path = super::structural::child(path, name);
                        walk(functions, &property.node, field, beside, &path, found);
                    }
                    // Here the API server writes the key of a map in brackets.
                    (None, Some(others)) => {
                        walk(functions, others, field, beside, &format!("{path}[{name}]"), found)
                    }
                    _ => {}
                }
            }
        }
        (Kind::Array { items: Some(items), .. }, Value::Array(values)) if items.has_rules => {
            for (at, value) in values.iter().enumerate() {
                walk(functions, items, value, beside.item(at), &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

/// Sees every field.
fn all(_: &str) -> bool {
    true
}

/// `self` for some rules: where all of them say which fields they read, only those, and below them only fields whose names stand in a
/// rule. So a rule that compares objects as a whole would not see all of them, and what may be left unjudged in [`Rule::passed`]
/// would depend on it: none of ours does.
fn seen_by(rules: &[&Rule], node: &Node, value: &Value) -> Cel {
    let (Kind::Object { properties, .. }, Value::Object(map)) = (&node.kind, value) else {
        return cel(node, value, &all);
    };
    let mut names: Vec<&String> = Vec::new();
    for rule in rules {
        // Those that compare with what was before do compare whole objects.
        let Some(reads) = rule.reads.as_ref().filter(|_| !rule.is_transition) else {
            return cel(node, value, &all);
        };
        names.extend(reads);
    }
    let seen = |key: &str| rules.iter().any(|rule| rule.names(key));
    names.sort_unstable();
    names.dedup();
    let fields = names.into_iter().filter_map(|name| {
        let (property, field) = (properties.get(name)?, map.get(name)?);
        Some((Key::String(Arc::clone(&property.key)), cel(&property.node, field, &seen)))
    });
    Cel::Map(Map { map: Arc::new(fields.collect()) })
}

fn judge(rule: &Rule, scope: &Context<'_>, path: &str, found: &mut Vec<Violation>) {
    let message = match rule.program().execute(scope) {
        Ok(Cel::Bool(true)) => return,
        Ok(Cel::Bool(false)) => rule.message.clone(),
        Ok(other) => format!("the rule {} is {other:?} instead of true or false", rule.source),
        // Something else is wrong with the value, which was found already, or the value is one that the rule cannot take.
        Err(error) => {
            let told = found.iter().any(|known| {
                known
                    .path
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            });
            if told {
                return;
            }
            format!("{} ({error})", rule.message)
        }
    };
    found.push(Violation {
        path: format!("{path}{}", rule.field_path).trim_start_matches('.').to_owned(),
        message,
    });
}

/// The value as rules see it: of declared fields only those that are `seen`.
fn cel(node: &Node, value: &Value, seen: &impl Fn(&str) -> bool) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Cel::Int(number),
            (None, Some(number), _) => Cel::UInt(number),
            (None, None, float) => Cel::Float(float.unwrap_or(f64::NAN)),
        },
        Value::Array(values) => {
            let any = Node::default();
            let items = match &node.kind {
                Kind::Array { items: Some(items), .. } => items,
                _ => &any,
            };
            Cel::List(Arc::new(values.iter().map(|value| cel(items, value, seen)).collect()))
        }
        Value::Object(map) => {
            let any = Node::default();
            let fields: HashMap<Key, Cel> = map
                .iter()
                .filter_map(|(name, field)| {
                    let (declared, others) = match &node.kind {
                        Kind::Object { properties, others, .. } => (properties.get(name), others.as_deref()),
                        _ => (None, None),
                    };
                    Some(match declared {
                        Some(property) if !seen(&property.key) => return None,
                        Some(Property { key, node }) => {
                            (Key::String(Arc::clone(key)), cel(node, field, seen))
                        }
                        None => {
                            let others = others.unwrap_or(&any);
                            (Key::String(Arc::new(name.clone())), cel(others, field, seen))
                        }
                    })
                })
                .collect();
            Cel::Map(Map { map: Arc::new(fields) })
        }
    }
}
