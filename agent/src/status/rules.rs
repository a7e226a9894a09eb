//! What is said of a NatRule that this director carries out.

use bascule_compile::BindingKey;

use super::{ObjectStatus, assemble::refused};
use crate::manifests::{Condition, ObjectView, View};
use crate::reconcile::{Failure, PlaneName, Report};

/// The object with what became of it.
pub(super) fn object_status(
    object: &ObjectView,
    key: &BindingKey,
    view: &View,
    report: &Report,
    failures: &[&Failure],
) -> ObjectStatus {
    let group = view.nat_rules.get(key).and_then(|spec| spec.vrrp_group.as_deref());
    let programmed = programmed(key, group, object.told, report, failures);
    let is_well = programmed.status == "True";
    let ready = Condition {
        type_: "Ready".into(),
        status: programmed.status.clone(),
        reason: if is_well { "Ready" } else { "NotProgrammed" }.into(),
        message: if is_well { String::new() } else { "see Programmed".into() },
    };
    let mut conditions = object.conditions.clone();
    let known = (programmed.status != "Unknown").then_some(is_well);
    conditions.extend([programmed, ready]);
    ObjectStatus {
        object: object.object.clone(),
        file: object.file.clone(),
        line: object.line,
        last_good: object.last_good,
        ours: object.ours,
        ready: known,
        conditions,
        services: Vec::new(),
        real_servers: Vec::new(),
    }
}

fn programmed(
    key: &BindingKey,
    group: Option<&str>,
    told: u64,
    report: &Report,
    failures: &[&Failure],
) -> Condition {
    let condition = |status: &str, reason: &str, message: String| Condition {
        type_: "Programmed".into(),
        status: status.into(),
        reason: reason.into(),
        message,
    };
    if let Some(condition) = refused(failures) {
        return condition;
    }
    let plane = report.planes.get(&PlaneName::NatRules);
    let rests = plane.is_some_and(|plane| plane.resting.contains(key));
    if !plane.is_some_and(|plane| plane.settled && plane.serial >= told) {
        return condition("Unknown", "Pending", "not carried out yet".into());
    }
    match group {
        Some(group) if rests => condition(
            "True",
            "Standby",
            format!("VrrpGroup {group} is not active here: it is not in the kernel until that is"),
        ),
        Some(group) => condition(
            "True",
            "Programmed",
            format!(
                "its connections are not synchronised between directors: they may end when VrrpGroup {group} moves"
            ),
        ),
        None => condition("True", "Programmed", String::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::plane::fixture::{key, rule};
    use crate::reconcile::{FailureReason, PlaneReport};

    #[test]
    fn programmed_says_what_the_kernel_holds_and_what_the_group_does() {
        let rule = rule(serde_json::json!({"masquerade": {"outInterface": "eth0"}}), Some("front"));
        let view = View { nat_rules: BTreeMap::from([(key("nat"), rule)]), ..View::default() };
        let alone = View {
            nat_rules: BTreeMap::from([(
                key("nat"),
                crate::plane::fixture::rule(
                    serde_json::json!({"masquerade": {"outInterface": "eth0"}}),
                    None,
                ),
            )]),
            ..View::default()
        };
        let object = ObjectView {
            object: "NatRule tp/nat".into(),
            file: "m/nat.yaml".into(),
            line: 1,
            last_good: false,
            binding: None,
            rule: Some(key("nat")),
            ours: true,
            told: 3,
            conditions: Vec::new(),
        };
        let failure = Failure {
            object: "table inet bascule_nat".into(),
            reason: FailureReason::Missing,
            message: "load nft_nat".into(),
            bindings: [].into(),
            nat_rules: [key("nat")].into(),
        };
        let plane = |serial, settled| PlaneReport { serial, settled, ..PlaneReport::default() };
        let resting = PlaneReport { resting: Arc::new([key("nat")].into()), ..plane(3, true) };
        let table = [
            ("there", &alone, plane(3, true), None, "True Programmed", Some(true), ""),
            ("of a group", &view, plane(3, true), None, "True Programmed", Some(true), "not synchronised"),
            (
                "on standby",
                &view,
                resting,
                None,
                "True Standby",
                Some(true),
                "VrrpGroup front is not active here",
            ),
            (
                "newer change not done",
                &view,
                plane(2, true),
                None,
                "Unknown Pending",
                None,
                "not carried out",
            ),
            ("nothing done", &view, plane(3, false), None, "Unknown Pending", None, "not carried out"),
            ("refused", &view, plane(3, true), Some(&failure), "False Missing", Some(false), "load nft_nat"),
        ];
        for (what, view, plane, failure, programmed, ready, words) in table {
            let report = Report {
                planes: BTreeMap::from([(PlaneName::NatRules, Arc::new(plane))]),
                ..Report::default()
            };
            let failures: Vec<_> = failure.into_iter().collect();
            let status = object_status(&object, &key("nat"), view, &report, &failures);
            let told = |name: &str| status.conditions.iter().find(|one| one.type_ == name).unwrap();
            let one = told("Programmed");
            assert_eq!(
                (format!("{} {}", one.status, one.reason), status.ready),
                (programmed.into(), ready),
                "{what}"
            );
            assert!(one.message.contains(words), "{what}: {}", one.message);
            assert_eq!(told("Ready").status, one.status, "{what}");
        }
    }
}
