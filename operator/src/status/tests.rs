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
