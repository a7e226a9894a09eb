//! CEL rules, evaluated as the API server evaluates them: `self` is the value where the rule stands, `oldSelf` the one before.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::KubeCelExt as _;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Value as Cel};
use serde_json::Value;

use super::Violation;
use super::node::{Kind, Node, Rule};

thread_local! {
    /// The functions of Kubernetes' CEL. Filling it in costs more than judging an object, and it cannot be shared.
    static FUNCTIONS: Context<'static> = Context::default().with_all();
}

/// Everything that the rules object to.
pub(super) fn evaluate(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    found: &mut Vec<Violation>,
) {
    FUNCTIONS.with(|functions| walk(functions, node, value, old, path, found));
}

fn walk(
    functions: &Context<'_>,
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    found: &mut Vec<Violation>,
) {
    if !node.has_rules {
        return;
    }
    if !node.rules.is_empty() {
        let mut scope = functions.new_inner_scope();
        scope.add_variable_from_value("self", cel(node, value));
        if let Some(old) = old {
            scope.add_variable_from_value("oldSelf", cel(node, old));
        }
        // A rule that compares is not evaluated when there is nothing to compare with.
        for rule in node.rules.iter().filter(|rule| old.is_some() || !rule.is_transition) {
            judge(rule, &scope, path, found);
        }
    }
    match (&node.kind, value) {
        (Kind::Object { properties, others, .. }, Value::Object(map)) => {
            for (name, field) in map {
                let old = old.and_then(|old| old.get(name));
                match (properties.get(name), others) {
                    (Some(property), _) if property.node.has_rules => {
                        walk(
                            functions,
                            &property.node,
                            field,
                            old,
                            &super::structural::child(path, name),
                            found,
                        );
                    }
                    // Here the API server writes the key of a map in brackets.
                    (None, Some(others)) => {
                        walk(functions, others, field, old, &format!("{path}[{name}]"), found)
                    }
                    _ => {}
                }
            }
        }
        // Items are not compared with those before: no rule of ours asks for it.
        (Kind::Array { items: Some(items), .. }, Value::Array(values)) if items.has_rules => {
            for (at, value) in values.iter().enumerate() {
                walk(functions, items, value, None, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

fn judge(rule: &Rule, scope: &Context<'_>, path: &str, found: &mut Vec<Violation>) {
    let message = match rule.program.execute(scope) {
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

/// The value as a rule sees it.
fn cel(node: &Node, value: &Value) -> Cel {
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
            Cel::List(Arc::new(values.iter().map(|value| cel(items, value)).collect()))
        }
        Value::Object(map) => {
            let any = Node::default();
            let fields: HashMap<Key, Cel> = map
                .iter()
                .map(|(name, field)| match &node.kind {
                    Kind::Object { properties, others, .. } => match properties.get(name) {
                        Some(property) => {
                            (Key::String(Arc::clone(&property.key)), cel(&property.node, field))
                        }
                        None => (
                            Key::String(Arc::new(name.clone())),
                            cel(others.as_deref().unwrap_or(&any), field),
                        ),
                    },
                    _ => (Key::String(Arc::new(name.clone())), cel(&any, field)),
                })
                .collect();
            Cel::Map(Map { map: Arc::new(fields) })
        }
    }
}
