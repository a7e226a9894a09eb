use bascule_crds::common::Protocol;
use proptest::prelude::*;

use super::*;
use crate::claims::What;

type Wanted = (Vec<Claim>, Option<i128>);

/// What each was granted: its form, and the claims of it.
type Outcome = BTreeMap<u8, (Form, Vec<Claim>)>;

fn key(n: u8) -> BindingKey {
    BindingKey::new("ns", &format!("vs{n}"))
}

fn claim() -> impl Strategy<Value = Claim> {
    let what = prop_oneof![
        4 => (80u16..82).prop_map(|port| What::Port { protocol: Protocol::Tcp, port }),
        1 => Just(What::Interface),
    ];
    (what, 0u8..10, 0u8..4, any::<bool>()).prop_map(|(what, first, more, tag)| Claim {
        director: "dir1".into(),
        tag: (what == What::Interface).then(|| if tag { "eth0".into() } else { "eth1".into() }),
        what,
        addresses: format!("10.0.0.{first}-10.0.0.{}", first + more).parse().unwrap(),
    })
}

fn steps() -> impl Strategy<Value = Vec<Vec<(u8, Option<Wanted>)>>> {
    let wanted = proptest::option::weighted(
        0.85,
        (proptest::collection::vec(claim(), 1..4), proptest::option::weighted(0.9, 0i128..5)),
    );
    proptest::collection::vec(proptest::collection::vec((0u8..8, wanted), 1..4), 1..12)
}

fn exclude(a: &[Claim], b: &[Claim]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.excludes(b)))
}

/// The rules of `holding`, at their word: all objects, each against all.
fn by_holding(objects: &BTreeMap<u8, Wanted>, held: &BTreeMap<u8, Vec<Claim>>) -> Outcome {
    let mut outcome = Outcome::new();
    for (n, (wanted, _)) in objects {
        if let Some(had) = held.get(n) {
            let form =
                if wanted.iter().all(|claim| had.contains(claim)) { Form::Wanted } else { Form::LastGood };
            outcome.insert(*n, (form, if form == Form::Wanted { wanted.clone() } else { had.clone() }));
        }
    }
    loop {
        let mut moved = false;
        for n in objects.keys() {
            if outcome.get(n).is_none_or(|(form, _)| *form != Form::LastGood) {
                continue;
            }
            // Those in the way, those in the way of these, and so on.
            let mut together = BTreeSet::from([*n]);
            loop {
                let in_the_way =
                    |m: &u8| together.iter().any(|n| n != m && exclude(&objects[n].0, &outcome[m].1));
                let more: BTreeSet<u8> = outcome.keys().copied().filter(|m| in_the_way(m)).collect();
                let before = together.len();
                together.extend(more);
                if together.len() == before {
                    break;
                }
            }
            let all_can_move = together.iter().all(|n| outcome[n].0 == Form::LastGood);
            let apart = |a: &u8| together.iter().all(|b| a == b || !exclude(&objects[a].0, &objects[b].0));
            if all_can_move && together.iter().all(apart) {
                for n in together {
                    outcome.insert(n, (Form::Wanted, objects[&n].0.clone()));
                }
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    for (n, (wanted, _)) in objects {
        if !outcome.contains_key(n) {
            let free = outcome.values().all(|(_, has)| !exclude(wanted, has));
            let granted = if free { (Form::Wanted, wanted.clone()) } else { (Form::Nothing, Vec::new()) };
            outcome.insert(*n, granted);
        }
    }
    outcome
}

/// The rule of `age`, at its word.
fn by_age(objects: &BTreeMap<u8, Wanted>, held: &BTreeMap<u8, Vec<Claim>>) -> Outcome {
    let mut order: Vec<_> = objects.iter().map(|(n, (_, age))| (age.unwrap_or(i128::MAX), *n)).collect();
    order.sort_unstable();
    let mut outcome = Outcome::new();
    for (_, n) in order {
        let free = |claims: &Vec<Claim>| outcome.values().all(|(_, has)| !exclude(claims, has));
        let wanted = &objects[&n].0;
        let granted = match held.get(&n) {
            _ if free(wanted) => (Form::Wanted, wanted.clone()),
            Some(had) if free(had) => (Form::LastGood, had.clone()),
            _ => (Form::Nothing, Vec::new()),
        };
        outcome.insert(n, granted);
    }
    outcome
}

fn wishes(list: impl IntoIterator<Item = (u8, Option<Wanted>)>) -> BTreeMap<BindingKey, Option<Wish>> {
    let wish = |(claims, created)| Wish { claims, created, keeps: BTreeSet::from(["dir1".into()]) };
    list.into_iter().map(|(n, wanted)| (key(n), wanted.map(wish))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn step_by_step_is_as_all_at_once(steps in steps(), by_age_of in any::<bool>()) {
        let precedence = if by_age_of { Precedence::Age } else { Precedence::Holding };
        let mut contest = Contest::new(precedence);
        let mut objects: BTreeMap<u8, Wanted> = BTreeMap::new();
        let mut held: BTreeMap<u8, Vec<Claim>> = BTreeMap::new();
        let mut told: BTreeMap<u8, (Form, Option<(Claim, BindingKey)>)> = BTreeMap::new();
        for step in steps {
            // One change an object and step, as the compiler does.
            let step: BTreeMap<u8, Option<Wanted>> = step.into_iter().collect();
            let affected = contest.settle(wishes(step.clone()));
            for (n, wanted) in step {
                match wanted {
                    Some(wanted) => objects.insert(n, wanted),
                    None => objects.remove(&n),
                };
            }

            let expected = if by_age_of { by_age(&objects, &held) } else { by_holding(&objects, &held) };
            let outcome: Outcome = objects
                .keys()
                .map(|n| (*n, (contest.form(&key(*n)), contest.contenders[&key(*n)].has().to_vec())))
                .collect();
            prop_assert_eq!(&outcome, &expected);

            let mut fresh = Contest::new(precedence);
            for (n, claims) in &held {
                fresh.remember(key(*n), claims.clone());
            }
            fresh.settle(wishes(objects.clone().into_iter().map(|(n, wanted)| (n, Some(wanted)))));
            for n in 0..8 {
                let verdict = |contest: &Contest| {
                    let lost = contest.lost_to(&key(n)).map(|(claim, winner)| (claim.clone(), winner.clone()));
                    (contest.form(&key(n)), lost)
                };
                let now = verdict(&contest);
                prop_assert_eq!(&now, &verdict(&fresh));
                // Whoever was not named as affected can still believe what it was told.
                let before = told.insert(n, now.clone()).unwrap_or_default();
                prop_assert!(affected.contains(&key(n)) || before == now, "vs{} was not told", n);
                // Nobody is refused without being told by whom.
                prop_assert_eq!(now.1.is_some(), objects.contains_key(&n) && now.0 != Form::Wanted);
            }
            if !by_age_of {
                for n in held.keys().filter(|n| objects.contains_key(n)) {
                    prop_assert!(contest.form(&key(*n)) != Form::Nothing, "vs{} lost what it had", n);
                }
            }
            held = outcome.into_iter().filter(|(_, (form, _))| *form != Form::Nothing).map(|(n, (_, has))| (n, has)).collect();
        }
    }
}

fn at(last: u8) -> Claim {
    Claim {
        director: "dir1".into(),
        what: What::Port { protocol: Protocol::Tcp, port: 80 },
        addresses: format!("10.0.0.{last}").parse().unwrap(),
        tag: None,
    }
}

/// Has each want these addresses, in one settlement; then what each has.
fn settle(contest: &mut Contest, wants: &[(u8, &[u8])]) -> BTreeMap<u8, Vec<u8>> {
    contest.settle(wishes(
        wants.iter().map(|(n, wanted)| (*n, Some((wanted.iter().copied().map(at).collect(), None)))),
    ));
    let last = |claim: &Claim| claim.addresses.to_string().rsplit('.').next().unwrap().parse::<u8>().unwrap();
    (0..10)
        .filter_map(|n| Some((n, contest.contenders.get(&key(n))?.has().iter().map(last).collect())))
        .collect()
}

#[test]
fn what_is_held_before_the_start_is_kept_although_a_name_comes_first() {
    let mut contest = Contest::new(Precedence::Holding);
    contest.remember(key(2), vec![at(1)]);
    assert_eq!(settle(&mut contest, &[(1, &[1]), (2, &[1])]), [(1, vec![]), (2, vec![1])].into());
    assert_eq!(contest.lost_to(&key(1)), Some((&at(1), &key(2))));
    // Nor is it lost by wanting more.
    assert_eq!(settle(&mut contest, &[(2, &[1, 2])])[&2], [1, 2]);
    contest.settle(wishes([(2, None)]));
    assert_eq!(contest.form(&key(1)), Form::Wanted);
}

#[test]
fn nobody_gets_what_a_colliding_change_did_not_give_up() {
    let mut contest = Contest::new(Precedence::Holding);
    settle(&mut contest, &[(1, &[1]), (3, &[3])]);
    // 2 waits for what 1 has.
    settle(&mut contest, &[(2, &[1])]);
    // 1 wants what 3 has, and keeps what it has.
    assert_eq!(settle(&mut contest, &[(1, &[3])]), [(1, vec![1]), (2, vec![]), (3, vec![3])].into());
    assert_eq!(contest.form(&key(1)), Form::LastGood);
    assert_eq!(contest.lost_to(&key(2)), Some((&at(1), &key(1))));
    // A newcomer whose name comes first gets it neither.
    assert!(settle(&mut contest, &[(0, &[1])])[&0].is_empty());
    // When 3 goes, 1 moves, and the first of those who wait comes after it.
    contest.settle(wishes([(3, None)]));
    assert_eq!(settle(&mut contest, &[]), [(0, vec![1]), (1, vec![3]), (2, vec![])].into());
}

#[test]
fn addresses_are_exchanged_at_once_and_one_after_the_other() {
    let mut contest = Contest::new(Precedence::Holding);
    settle(&mut contest, &[(1, &[1]), (2, &[2]), (3, &[3])]);
    assert_eq!(
        settle(&mut contest, &[(1, &[2]), (2, &[1])]),
        [(1, vec![2]), (2, vec![1]), (3, vec![3])].into()
    );
    // Around three, each said in a step of its own.
    assert_eq!(settle(&mut contest, &[(1, &[1])])[&1], [2]);
    assert_eq!(settle(&mut contest, &[(2, &[3])])[&2], [1]);
    assert_eq!(settle(&mut contest, &[(3, &[2])]), [(1, vec![1]), (2, vec![3]), (3, vec![2])].into());
}

#[test]
fn the_older_one_wins_and_the_younger_one_keeps_what_it_had() {
    let mut contest = Contest::new(Precedence::Age);
    let wish = |last: &[u8], created| Some((last.iter().copied().map(at).collect(), Some(created)));
    contest.settle(wishes([(1, wish(&[1], 10)), (2, wish(&[2], 20)), (3, wish(&[3], 30))]));
    // The younger one wants more and keeps what it had.
    contest.settle(wishes([(3, wish(&[3, 1], 30))]));
    assert_eq!((contest.form(&key(3)), contest.form(&key(1))), (Form::LastGood, Form::Wanted));
    // The older one wants that and has it.
    contest.settle(wishes([(2, wish(&[3], 20))]));
    assert_eq!((contest.form(&key(3)), contest.form(&key(2))), (Form::Nothing, Form::Wanted));
    assert_eq!(contest.lost_to(&key(3)), Some((&at(3), &key(2))));
}
