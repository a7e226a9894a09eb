use super::reports::{degraded, programmed, ready, settled};
use super::*;

/// A director: its name, whether it lives, whether it speaks of what is to be there now, and what it says of a condition.
fn report<'a>(director: &'a str, alive: bool, current: bool, says: &'a [Condition]) -> Report<'a> {
    let life = if alive { Life::Alive } else { Life::Unknown("gone".into()) };
    Report { director, life, current, conditions: says, refused: None }
}

fn says(type_: &str, status: &str, reason: &str) -> Vec<Condition> {
    vec![Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: "so".into(),
        observed_generation: None,
        last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
    }]
}

fn told(verdict: &Verdict) -> (Truth, &str, &str) {
    (verdict.truth, verdict.reason.as_str(), verdict.message.as_str())
}

#[test]
fn programmed_is_what_all_living_directors_have_taken_up() {
    let (yes, no, nothing) = (says("Programmed", "True", "P"), says("Programmed", "False", "NoIpvs"), vec![]);
    for (reports, verdict) in [
        (vec![report("a", true, true, &yes)], (Truth::True, "Programmed", "")),
        (vec![report("a", true, true, &yes), report("b", false, true, &no)], (Truth::True, "Programmed", "")),
        (
            vec![report("a", true, true, &yes), report("b", true, true, &no)],
            (Truth::False, "NoIpvs", "b: so"),
        ),
        (
            vec![report("a", true, true, &yes), report("b", true, false, &yes)],
            (Truth::False, "Pending", "b: its agent has yet to carry it out"),
        ),
        // It has taken it up and says nothing of it.
        (
            vec![report("a", true, true, &nothing)],
            (Truth::False, "Pending", "a: its agent has yet to carry it out"),
        ),
        (vec![report("a", false, true, &yes)], (Truth::Unknown, "DirectorUnknown", "a: gone")),
    ] {
        assert_eq!(told(&programmed(&reports)), verdict, "{reports:?}");
    }
    let mut refused = vec![report("a", true, true, &yes), report("b", true, true, &yes)];
    refused[1].refused = Some("too long".into());
    assert_eq!(told(&programmed(&refused)), (Truth::False, "Rejected", "b: too long"));
    assert!(settled(&refused));
}

#[test]
fn ready_is_the_last_word_of_all_living_directors() {
    let (yes, no, dunno) =
        (says("Ready", "True", "R"), says("Ready", "False", "NoQuorum"), says("Ready", "Unknown", "U"));
    for (reports, verdict, earlier) in [
        (vec![report("a", true, true, &yes)], (Truth::True, "Ready", ""), false),
        // It goes on serving while a change is carried out.
        (vec![report("a", true, false, &yes)], (Truth::True, "Ready", ""), true),
        (
            vec![report("a", true, true, &yes), report("b", true, true, &no)],
            (Truth::False, "NoQuorum", "b: so"),
            false,
        ),
        (
            vec![report("a", true, true, &yes), report("b", false, false, &no)],
            (Truth::True, "Ready", ""),
            false,
        ),
        (
            vec![report("a", true, true, &dunno)],
            (Truth::Unknown, "Pending", "a: its agent has yet to say"),
            false,
        ),
        (
            vec![report("a", true, false, &[])],
            (Truth::Unknown, "Pending", "a: its agent has yet to say"),
            true,
        ),
        (vec![report("a", false, true, &yes)], (Truth::Unknown, "DirectorUnknown", "a: gone"), false),
    ] {
        let verdict_is = ready(&reports);
        assert_eq!((told(&verdict_is), verdict_is.earlier), (verdict, earlier), "{reports:?}");
    }
}

#[test]
fn degraded_is_told_only_while_it_is_so() {
    let (yes, no) = (says("Degraded", "True", "OneLink"), says("Degraded", "False", "Fine"));
    assert_eq!(degraded(&[report("a", true, true, &no)]), None);
    let some = degraded(&[report("a", true, true, &yes), report("b", true, true, &no)]).unwrap();
    assert_eq!(told(&some), (Truth::True, "OneLink", "a: so"));
    let lost = degraded(&[report("a", true, true, &no), report("b", false, true, &no)]).unwrap();
    assert_eq!(told(&lost), (Truth::True, "DirectorUnknown", "b: gone"));
}

#[test]
fn many_directors_are_named_in_few_words() {
    let no = says("Ready", "False", "NoQuorum");
    let names: Vec<String> = (0..16).map(|n| format!("dir{n:02}")).collect();
    let reports: Vec<_> = names.iter().map(|name| report(name, true, true, &no)).collect();
    let verdict = ready(&reports);
    assert_eq!(verdict.message, "dir00: so; dir01: so; dir02: so; dir03: so; and 12 more");
}

#[test]
fn what_turned_bad_is_news_and_what_was_bad_is_not() {
    let (bad, good) = (says("Ready", "False", "NoQuorum"), says("Ready", "True", "Ready"));
    let unknown = says("Ready", "Unknown", "Pending");
    let reasons = |before: &[Condition], after: &[Condition]| -> Vec<(bool, String)> {
        news(before, after).into_iter().map(|one| (one.warning, one.reason)).collect()
    };
    assert_eq!(reasons(&[], &bad), [(true, "NoQuorum".to_owned())]);
    assert_eq!(reasons(&bad, &bad), []);
    assert_eq!(reasons(&bad, &good), [(false, "Ready".to_owned())]);
    assert_eq!(reasons(&[], &good), []);
    assert_eq!(reasons(&unknown, &good), []);
    assert_eq!(reasons(&good, &unknown), []);
    assert_eq!(reasons(&[], &says("Degraded", "True", "OneLink")), [(true, "OneLink".to_owned())]);
    assert_eq!(reasons(&[], &says("Programmed", "False", "Pending")), []);
}

#[test]
fn conditions_of_others_are_none_of_our_business() {
    let (ours, theirs) = (says("Ready", "True", "Ready"), says("Approved", "True", "ByHand"));
    let both = [theirs.clone(), ours.clone()].concat();
    assert!(same_conditions(&both, &ours));
    assert!(!same_conditions(&theirs, &ours));
    // One of ours that should not be there any more is.
    assert!(!same_conditions(&[ours.clone(), says("Degraded", "True", "OneLink")].concat(), &ours));
    assert!(!same_conditions(&ours, &says("Ready", "False", "Ready")));
}

const RULE: &str = "
apiVersion: bascule.dev/v1alpha1
kind: Director
metadata: {name: dir1, uid: uid-dir1}
spec: {allow: [{namespaces: [tp], kinds: [NatRule]}]}
---
apiVersion: bascule.dev/v1alpha1
kind: NatRule
metadata: {name: out, namespace: tp, uid: uid-out, generation: 3}
spec: {director: dir1, masquerade: {outInterface: eth0}}
";

/// What a rule's status says for what the agent says of its binding: `Programmed`, `Ready` and how soon that is written once the user has
/// his first answer.
#[test]
fn a_rule_says_what_its_agent_says() {
    let both = |status: &str, reason: &str| {
        [says("Programmed", status, reason), says("Ready", status, reason)].concat()
    };
    let (yes, no) = (both("True", "Programmed"), both("False", "NoNftables"));
    let pending = ("False Pending", "Unknown Pending");
    // Lives, speaks of this generation, says; and what comes of it.
    for (alive, current, says, (programmed, ready), haste) in [
        (true, true, Some(&yes), ("True Programmed", "True Ready"), Haste::Soon),
        (true, true, Some(&no), ("False NoNftables", "False NoNftables"), Haste::Soon),
        (true, false, Some(&yes), ("False Pending", "True Ready"), Haste::Settling),
        (true, false, None, pending, Haste::Settling),
        (false, true, Some(&yes), ("Unknown DirectorUnknown", "Unknown DirectorUnknown"), Haste::Soon),
    ] {
        let told = rule(alive, current, says.map(Vec::as_slice), None);
        assert_eq!(
            told,
            (vec![programmed.to_owned(), ready.to_owned()], haste),
            "{alive} {current} {says:?}"
        );
    }
    let refused = rule(true, true, Some(&yes), Some("too long"));
    assert_eq!(refused, (vec!["False Rejected".to_owned(), "True Ready".to_owned()], Haste::Soon));
}

fn rule(
    alive: bool,
    current: bool,
    says: Option<&[Condition]>,
    refused: Option<&str>,
) -> (Vec<String>, Haste) {
    use crate::index::{Heard, Item, Source};
    let (mut index, mut snapshot) =
        (Index::default(), bascule_compile::Snapshot::new(bascule_compile::Trust::Cluster));
    for document in bascule_crds::manifest::parse(RULE).unwrap() {
        let object = bascule_crds::validate::judge(&document.value).unwrap();
        snapshot.objects.push(object);
    }
    let compiled = bascule_compile::compile(&snapshot);
    let reference = ObjectRef::new(Kind::NatRule, Some("tp"), "out");
    // The user has been told that it is accepted.
    let judged = conditions::conditions(
        compiled.conditions[&reference].iter().map(Verdict::judged).collect(),
        Some(3),
        &[],
        &Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
    );
    for object in &mut snapshot.objects {
        if let Object::NatRule(rule) = object {
            let status = bascule_crds::nat_rule::NatRuleStatus {
                observed_generation: Some(3),
                conditions: judged.clone(),
            };
            rule.status = Some(status);
        }
        let (source, place) = (Source::of(object.kind()).unwrap(), Place::from(&object.reference()));
        index.take_in(Heard::There(source, place, None, Box::new(Item::User(object.clone()))));
    }
    let key = bascule_compile::BindingKey::new("tp", "out");
    let place = Place { namespace: "tp".into(), name: crate::names::binding("out", "dir1") };
    let mut binding = json!({
        "apiVersion": API_VERSION, "kind": "NatRuleBinding",
        "metadata": {"name": place.name, "namespace": "tp", "generation": 2},
        "spec": *compiled.nodes["dir1"].nat_rules[&key],
    });
    if let Some(says) = says {
        binding["status"] = json!({"observedGeneration": if current { 2 } else { 1 }, "conditions": says});
    }
    let binding: bascule_crds::NatRuleBinding = serde_json::from_value(binding).unwrap();
    index.take_in(Heard::There(Source::NatRuleBinding, place, None, Box::new(Item::Binding(binding.into()))));
    let around = Surroundings {
        index: &index,
        compiled: &compiled,
        life: &|_| if alive { Life::Alive } else { Life::Unknown("gone".into()) },
        refused: &|kind, _| refused.filter(|_| kind == Kind::NatRuleBinding).map(str::to_owned),
        now: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
    };
    let due = due(&around, &reference).expect("there is something to say");
    let Action::Apply(body) = due.write.action else { panic!("a status is applied") };
    let told = |type_: &str| {
        let all = body["status"]["conditions"].as_array().unwrap();
        let one = all.iter().find(|one| one["type"] == type_).unwrap();
        format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
    };
    (vec![told("Programmed"), told("Ready")], due.haste)
}

#[test]
fn what_somebody_else_wrote_into_a_status_is_removed() {
    let condition = |type_: &str| json!({"type": type_, "status": "True"});
    let wanted = json!({"up": 1, "conditions": [condition("Ready")]});
    for (there, pointers) in [
        (wanted.clone(), None),
        (json!({"up": 1, "conditions": [condition("Approved"), condition("Ready")]}), None),
        // An apply mends it.
        (json!({"up": 2, "more": 1, "conditions": [condition("Ready")]}), None),
        (json!({"up": 1, "conditions": [condition("Degraded")]}), None),
        (json!({"up": 1, "more": {"a": 1}, "conditions": [condition("Ready")]}), Some(vec!["/status/more"])),
        (
            json!({"up": 1, "more": 1, "conditions": [condition("Degraded"), condition("Approved"), condition("Ready"), condition("Maintenance")]}),
            Some(vec!["/status/more", "/status/conditions/3", "/status/conditions/0"]),
        ),
    ] {
        let pointers = pointers.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(only_surplus(&there, &wanted), pointers, "{there}");
    }
}
