//! What an agent's status says of a flush: pure.

use bascule_crds::DirectorConfig;
use kube::ResourceExt as _;

/// What a director's agent says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is carried out.
    Flushed,
    /// No agent has ever written a status.
    Silent,
    /// It is not, and why.
    Not(String),
}

/// Reads the status of a DirectorConfig.
pub(super) fn answer(config: &DirectorConfig, flush: &str) -> Answer {
    let Some(status) = &config.status else { return Answer::Silent };
    // Before the flush is named there is nothing to be heard of it; afterwards the newest generation has it. What was said of an earlier
    // one does not count: an operator that did not know yet may have taken the flush away between the two.
    let named = config.spec.flush.as_deref() == Some(flush);
    let (heard, now) = (status.observed_generation, config.metadata.generation);
    if !named || heard < now {
        let words =
            |generation: Option<i64>| generation.map_or_else(|| "none".to_owned(), |one| one.to_string());
        return Answer::Not(format!(
            "its agent has not answered: it last spoke of generation {} of DirectorConfig {}, which is {} now; does it run?",
            words(heard),
            config.name_any(),
            words(now)
        ));
    }
    if status.flushed.as_deref() == Some(flush) {
        return Answer::Flushed;
    }
    let failing = status.conditions.iter().find(|one| one.type_ == "Programmed" && one.status != "True");
    let groups: Vec<&str> = status.vrrp.iter().map(|group| group.group.as_str()).collect();
    Answer::Not(match failing {
        Some(condition) => format!("{}: {}", condition.reason, condition.message),
        None if !groups.is_empty() => format!("it hands over: {}", groups.join(", ")),
        None => "its agent has heard of it and is not done, or is older than this program and does not know of flushes".into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(flush: Option<&str>, status: Value) -> DirectorConfig {
        let object = json!({
            "apiVersion": "bascule.dev/v1alpha1", "kind": "DirectorConfig",
            "metadata": {"name": "lb1", "generation": 3},
            "spec": {"director": "lb1", "flush": flush}, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn every_status_has_a_meaning() {
        let condition = |status: &str, reason: &str, message: &str| {
            json!([{"type": "Programmed", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-11-29T00:00:00Z"}])
        };
        let group = json!([{"group": "front", "state": "Active", "priority": 100}]);
        let table = [
            ("no status", Some("f"), Value::Null, "silent"),
            ("flushed", Some("f"), json!({"observedGeneration": 3, "flushed": "f"}), "flushed"),
            ("another flush", Some("f"), json!({"observedGeneration": 3, "flushed": "e"}), "not done"),
            (
                "of an earlier generation",
                Some("f"),
                json!({"observedGeneration": 2, "flushed": "f"}),
                "has not answered",
            ),
            (
                "taken away meanwhile",
                None,
                json!({"observedGeneration": 3, "flushed": "f"}),
                "has not answered",
            ),
            (
                "older word",
                Some("f"),
                json!({"observedGeneration": 2}),
                "generation 2 of DirectorConfig lb1, which is 3",
            ),
            ("not named yet", None, json!({"observedGeneration": 3}), "has not answered"),
            ("no generation", Some("f"), json!({}), "generation none"),
            (
                "a failure",
                Some("f"),
                json!({"observedGeneration": 3, "conditions": condition("False", "Refused", "ipvs: TCP 1: busy")}),
                "Refused: ipvs: TCP 1: busy",
            ),
            (
                "handing over",
                Some("f"),
                json!({"observedGeneration": 3, "conditions": condition("True", "Programmed", ""), "vrrp": group}),
                "it hands over: front",
            ),
        ];
        for (case, flush, status, wanted) in table {
            let said = match answer(&config(flush, status), "f") {
                Answer::Flushed => "flushed".to_owned(),
                Answer::Silent => "silent".to_owned(),
                Answer::Not(why) => why,
            };
            assert!(said.contains(wanted), "{case}: {said}");
        }
    }
}
