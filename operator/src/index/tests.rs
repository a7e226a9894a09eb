use bascule_crds::{HealthCheck, NatRuleBinding, VirtualServiceBinding};
use serde_json::json;

use super::*;

fn check(name: &str, version: u64, interval: &str) -> Heard {
    let mut check: HealthCheck = serde_json::from_value(json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "HealthCheck", "metadata": {"name": name, "namespace": "tp"},
        "spec": {"tcp": {}, "interval": interval},
    }))
    .unwrap();
    check.metadata.resource_version = Some(version.to_string());
    let item = Item::User(Object::HealthCheck(Box::new(check)));
    Heard::There(Source::HealthCheck, place(name), Some(version), Box::new(item))
}

fn written(name: &str, version: u64, interval: &str) -> Heard {
    let Heard::There(source, place, version, item) = check(name, version, interval) else { unreachable!() };
    Heard::Written(source, place, version, item)
}

fn place(name: &str) -> Place {
    Place { namespace: "tp".into(), name: name.into() }
}

fn gone(name: &str, version: u64) -> Heard {
    Heard::Gone(Source::HealthCheck, place(name), Some(version))
}

fn take_in(index: &mut Index, heard: Vec<Heard>) -> Vec<String> {
    heard.into_iter().flat_map(|one| index.take_in(one)).map(|change| change.place.name).collect()
}

fn names(index: &Index) -> Vec<&str> {
    index.users().keys().map(|reference| reference.name.as_str()).collect()
}

#[test]
fn a_list_that_comes_again_tells_of_what_is_gone() {
    let mut index = Index::default();
    let source = Source::HealthCheck;
    assert_eq!(index.missing().count(), Source::ALL.len());
    let first = vec![Heard::Listing(source), check("a", 1, "1s"), check("b", 2, "1s"), Heard::Listed(source)];
    assert_eq!(take_in(&mut index, first), ["a", "b"]);
    assert!(!index.complete() && !index.missing().any(|one| one == source));
    // While it is listed anew nothing is gone; then what was not named is. The one that cannot be read was.
    let unreadable = Heard::Unreadable(source, place("c"), Some(9), "odd".into());
    let again = vec![Heard::Listing(source), check("b", 2, "1s"), unreadable];
    assert_eq!(take_in(&mut index, again), ["c"]);
    assert_eq!(names(&index), ["a", "b"]);
    assert_eq!(take_in(&mut index, vec![Heard::Listed(source)]), ["a"]);
    assert_eq!((names(&index), index.why_unreadable(source, &place("c"))), (vec!["b"], Some("odd")));
    assert_eq!(take_in(&mut index, vec![Heard::Listing(source), Heard::Listed(source)]), ["b", "c"]);
    assert_eq!(index.count(source), 0);
}

#[test]
fn what_cannot_be_read_any_more_stays_what_it_was() {
    let mut index = Index::default();
    let source = Source::HealthCheck;
    take_in(&mut index, vec![check("a", 1, "1s")]);
    take_in(&mut index, vec![Heard::Unreadable(source, place("a"), Some(2), "odd".into())]);
    assert_eq!(names(&index), ["a"]);
    take_in(&mut index, vec![check("a", 3, "2s")]);
    assert_eq!(index.unreadable().count(), 0);
    assert_eq!(take_in(&mut index, vec![gone("a", 4)]), ["a"]);
    assert_eq!(names(&index), Vec::<&str>::new());
}

#[test]
fn an_answer_that_is_older_than_the_watch_brings_nothing_back() {
    let mut index = Index::default();
    take_in(&mut index, vec![check("a", 1, "1s")]);
    // Our write is told by its answer before the watch tells of it, and the watch tells nothing new then.
    assert_eq!(take_in(&mut index, vec![written("a", 5, "2s"), check("a", 5, "2s")]), ["a"]);
    // Somebody deleted it, and the watch was faster than the answer to the write before.
    assert_eq!(take_in(&mut index, vec![gone("a", 8), written("a", 7, "3s")]), ["a"]);
    assert_eq!(names(&index), Vec::<&str>::new());
    // Nor does a watch that is behind the answer, unless it lists: a server that was set back counts from there.
    assert_eq!(take_in(&mut index, vec![written("b", 12, "2s"), check("b", 11, "1s")]), ["b"]);
    let listing =
        vec![Heard::Listing(Source::HealthCheck), check("b", 3, "1s"), Heard::Listed(Source::HealthCheck)];
    assert_eq!(take_in(&mut index, listing), ["b"]);
    assert_eq!(take_in(&mut index, vec![written("b", 4, "2s"), gone("b", 5)]), ["b", "b"]);
    // A version that nobody can compare counts for nothing.
    let Heard::Written(source, place, _, item) = written("a", 9, "3s") else { unreachable!() };
    assert_eq!(take_in(&mut index, vec![Heard::Written(source, place, None, item)]), Vec::<String>::new());
}

#[test]
fn only_what_was_deleted_goes() {
    let mut index = Index::default();
    let Heard::There(source, at, version, mut item) = check("a", 1, "1s") else { unreachable!() };
    if let Item::User(Object::HealthCheck(check)) = &mut *item {
        check.metadata.uid = Some("new".into());
    }
    index.take_in(Heard::There(source, at.clone(), version, item));
    // It has been made anew since.
    assert_eq!(
        take_in(&mut index, vec![Heard::Deleted(source, at.clone(), Some("old".into()))]),
        Vec::<String>::new()
    );
    assert_eq!(take_in(&mut index, vec![Heard::Deleted(source, at, Some("new".into()))]), ["a"]);
}

#[test]
fn bindings_of_two_kinds_may_have_one_place() {
    let meta = json!({"name": "one", "namespace": "tp"});
    let rule: NatRuleBinding = serde_json::from_value(json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "NatRuleBinding", "metadata": meta,
        "spec": {"natRule": "web", "director": "dir1", "masquerade": {"outInterface": "eth0"}},
    }))
    .unwrap();
    let service: VirtualServiceBinding = serde_json::from_value(json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualServiceBinding", "metadata": meta,
        "spec": {"virtualService": "web", "director": "dir1", "scheduler": {"name": "rr"}, "sourceNat": "Never"},
    }))
    .unwrap();
    let mut index = Index::default();
    let (rules, services) = (Source::NatRuleBinding, Source::VirtualServiceBinding);
    let there = |source, binding: Binding| {
        Heard::There(source, place("one"), Some(1), Box::new(Item::Binding(binding)))
    };
    assert_eq!(
        take_in(&mut index, vec![there(rules, rule.into()), there(services, service.into())]).len(),
        2
    );
    let on = |index: &Index, binds| {
        index.bound_on(binds, &BindingKey::new("tp", "web")).map(str::to_owned).collect::<Vec<_>>()
    };
    for binds in Binds::ALL {
        assert_eq!(on(&index, binds), ["dir1"]);
        let bound = Bound::new(binds, BindingKey::new("tp", "web"), "dir1");
        assert_eq!(index.bound(&bound).map(|(_, one)| one.binds()).collect::<Vec<_>>(), [binds]);
    }
    // A list of one kind ends what it does not name of that kind only.
    take_in(&mut index, vec![Heard::Listing(rules), Heard::Listed(rules)]);
    assert_eq!((index.count(rules), index.count(services)), (0, 1));
    assert_eq!((on(&index, Binds::NatRule).len(), on(&index, Binds::VirtualService).len()), (0, 1));
}
