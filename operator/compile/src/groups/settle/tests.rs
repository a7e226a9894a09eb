use serde_json::{Value, json};

use super::*;
use crate::groups::form;

/// A group with a member on each director and one instance on eth0; `more` replaces fields of the spec.
fn forms(name: &str, directors: &[&str], id: u8, addresses: &[&str], more: &Value) -> Forms {
    let members: Vec<_> = directors.iter().map(|director| json!({"director": director})).collect();
    let mut spec = json!({
        "members": members,
        "instances": [{"name": "a", "interface": "eth0", "virtualRouterId": id, "addresses": addresses}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let spec: bascule_crds::VrrpGroupSpec = serde_json::from_value(spec).unwrap();
    let form = |member: &bascule_crds::vrrp_group::Member| {
        (member.director.as_str().into(), Arc::new(form::form(name, &spec, member, None)))
    };
    spec.members.iter().map(form).collect()
}

fn at(id: u8, address: &str) -> Forms {
    forms("g", &["dir1", "dir2"], id, &[address], &json!({}))
}

fn contender(name: &str, created: i128, wanted: Forms, had: Forms) -> Contender {
    Contender { name: name.into(), created: Some(created), wanted: Some(wanted), had }
}

/// Which form each has, and who is in its way.
fn verdicts(precedence: Precedence, contenders: Vec<Contender>) -> Vec<(String, Form, Option<String>)> {
    let outcomes = settle(precedence, contenders.clone());
    // What came of it comes of it again.
    let again = contenders.into_iter().map(|one| Contender { had: outcomes[&one.name].has.clone(), ..one });
    assert_eq!(settle(precedence, again.collect()), outcomes);
    let winner = |lost: Lost| match lost {
        Lost::Taken { winner, .. } => winner.to_string(),
        Lost::Full { winners, what, .. } => format!("{} {what}", winners.len()),
    };
    outcomes.into_iter().map(|(name, one)| (name.to_string(), one.form, one.lost.map(winner))).collect()
}

fn row(name: &str, form: Form, lost: Option<&str>) -> (String, Form, Option<String>) {
    (name.into(), form, lost.map(Into::into))
}

#[test]
fn the_first_comes_first_by_name_by_having_or_by_age() {
    let none = Forms::new;
    let two = |had_by_b: Forms| {
        vec![
            contender("a", 2, at(1, "10.0.0.1/32"), none()),
            contender("b", 1, at(1, "10.0.0.2/32"), had_by_b),
        ]
    };
    let a = [row("a", Form::Wanted, None), row("b", Form::Nothing, Some("a"))];
    let b = [row("a", Form::Nothing, Some("b")), row("b", Form::Wanted, None)];
    assert_eq!(verdicts(Precedence::Holding, two(none())), a);
    assert_eq!(verdicts(Precedence::Holding, two(at(1, "10.0.0.2/32"))), b);
    assert_eq!(verdicts(Precedence::Age, two(none())), b);
    // One address is as much of a reason as one id; one director in common is enough.
    let apart = |other: &[&str]| {
        let other = forms("b", other, 2, &["10.0.0.1/24"], &json!({}));
        vec![contender("a", 1, at(1, "10.0.0.1/32"), none()), contender("b", 2, other, none())]
    };
    assert_eq!(verdicts(Precedence::Age, apart(&["dir2", "dir3"])), a);
    assert_eq!(verdicts(Precedence::Age, apart(&["dir3"]))[1], row("b", Form::Wanted, None));
}

#[test]
fn a_change_that_collides_leaves_what_there_was() {
    let collides = || {
        vec![
            contender("a", 2, at(2, "10.0.0.1/32"), at(1, "10.0.0.1/32")),
            contender("b", 1, at(2, "10.0.0.2/32"), at(2, "10.0.0.2/32")),
        ]
    };
    for precedence in [Precedence::Holding, Precedence::Age] {
        let expected = [row("a", Form::LastGood, Some("b")), row("b", Form::Wanted, None)];
        assert_eq!(verdicts(precedence, collides()), expected, "{precedence:?}");
        // As does one that is refused for what is wrong with it alone.
        let mut refused = collides();
        refused[0].wanted = None;
        assert_eq!(verdicts(precedence, refused)[0], row("a", Form::LastGood, None), "{precedence:?}");
    }
}

#[test]
fn who_holds_can_exchange() {
    let exchange = |c: Option<Contender>| {
        let mut all = vec![
            contender("a", 1, at(2, "10.0.0.1/32"), at(1, "10.0.0.1/32")),
            contender("b", 1, at(1, "10.0.0.2/32"), at(2, "10.0.0.2/32")),
        ];
        all.extend(c);
        verdicts(Precedence::Holding, all)
    };
    assert_eq!(exchange(None), [row("a", Form::Wanted, None), row("b", Form::Wanted, None)]);
    // Who wants what neither gives up waits on.
    let third = contender("c", 1, at(3, "10.0.0.2/32"), at(3, "10.0.0.9/32"));
    let all = exchange(Some(third));
    assert_eq!(all[2], row("c", Form::LastGood, Some("b")));
    assert_eq!(all[0], row("a", Form::Wanted, None));
}

#[test]
fn a_director_has_room_for_so_many() {
    let many: Vec<_> = (1..=9u8)
        .map(|n| contender(&format!("g{n}"), 1, at(n, &format!("10.0.0.{n}/32")), Forms::new()))
        .collect();
    for precedence in [Precedence::Holding, Precedence::Age] {
        let all = verdicts(precedence, many.clone());
        assert!(all[..8].iter().all(|(_, form, _)| *form == Form::Wanted), "{all:?}");
        assert_eq!(all[8], row("g9", Form::Nothing, Some("8 groups")), "{precedence:?}");
    }
    let services: Vec<_> = (0..9).map(|n| json!({"systemd": format!("s{n}.service")})).collect();
    let more = json!({"services": services});
    let with = |name: &str, id: u8| {
        let address = format!("10.0.0.{id}/32");
        contender(name, 1, forms(name, &["dir1"], id, &[&address], &more), Forms::new())
    };
    let all = verdicts(Precedence::Age, vec![with("a", 1), with("b", 2)]);
    assert_eq!(all[1], row("b", Form::Nothing, Some("1 services")));
    // One that has its place and grows beyond what there is room for stays as it is.
    let grown = vec![
        contender("a", 1, with("a", 1).wanted.unwrap(), at(1, "10.0.0.1/32")),
        contender("b", 1, with("b", 2).wanted.unwrap(), with("b", 2).wanted.unwrap()),
    ];
    assert_eq!(verdicts(Precedence::Holding, grown)[0], row("a", Form::LastGood, Some("1 services")));
}
