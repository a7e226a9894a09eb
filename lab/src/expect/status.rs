//! What an agent says about itself.

use serde_json::Value;

use super::Finding;
use super::text::excerpt;
use crate::scenario::expectation::AgentStatusExpectation;

/// Judges the JSON that `bascule-agent status -o json` printed.
pub fn judge(expected: &AgentStatusExpectation, text: &str) -> Vec<Finding> {
    let status: Value = match serde_json::from_str(text) {
        Ok(status) => status,
        Err(error) => {
            return vec![Finding::of(
                false,
                "the agent's status in JSON",
                format!("{error}: {}", excerpt(text)),
            )];
        }
    };
    let mut findings = Vec::new();
    for (pointer, wanted) in &expected.values {
        let found = at(&status, pointer);
        let good = found.contains(&wanted);
        let seen = match found.as_slice() {
            [] => format!("nothing there; the status is {}", excerpt(text)),
            values => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        findings.push(Finding::of(good, format!("{pointer} is {wanted}"), excerpt(&seen)));
    }
    for words in &expected.contains {
        findings.push(Finding::of(text.contains(words), format!("`{words}` in the status"), excerpt(text)));
    }
    findings
}

/// The values at a JSON pointer in which `*` stands for any element.
fn at<'a>(value: &'a Value, pointer: &str) -> Vec<&'a Value> {
    let mut values = vec![value];
    for part in pointer.split('/').skip(1) {
        let name = part.replace("~1", "/").replace("~0", "~");
        values = values
            .into_iter()
            .flat_map(|value| match value {
                Value::Array(items) if part == "*" => items.iter().collect(),
                Value::Object(members) if part == "*" => members.values().collect(),
                Value::Array(items) => {
                    part.parse().ok().and_then(|at: usize| items.get(at)).into_iter().collect()
                }
                Value::Object(members) => members.get(&name).into_iter().collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    values
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, worst};
    use super::*;
    use crate::scenario::topology::Name;

    #[test]
    fn pointers_with_stars() {
        let text = r#"{"ready": true, "objects": [{"name": "a"}, {"name": "b"}]}"#;
        let wants = |pointer: &str, value: Value| AgentStatusExpectation {
            node: Name::from("dir1"),
            values: [(pointer.to_owned(), value)].into(),
            contains: Vec::new(),
        };
        assert_eq!(worst(&judge(&wants("/ready", Value::Bool(true)), text)), Verdict::Passed);
        assert_eq!(worst(&judge(&wants("/ready", Value::Bool(false)), text)), Verdict::Failed);
        assert_eq!(worst(&judge(&wants("/objects/*/name", "b".into()), text)), Verdict::Passed);
        assert_eq!(worst(&judge(&wants("/objects/0/name", "b".into()), text)), Verdict::Failed);
        assert_eq!(worst(&judge(&wants("/nothing", "b".into()), text)), Verdict::Failed);
        assert_eq!(worst(&judge(&wants("/ready", Value::Bool(true)), "not JSON")), Verdict::Failed);
    }
}
