//! What the API says, in any order, with losses.

mod slices;

use serde_json::json;

use super::*;
use crate::api::heard;

const DIRECTOR: &str = "dir1";

fn place(namespace: &str, name: &str) -> Place {
    Place { namespace: namespace.into(), name: name.into() }
}

fn item(what: What, place: Place, raw: Value) -> Heard {
    let spec = heard::spec(what, DIRECTOR, raw);
    Heard::There(what, Box::new(Item { place, generation: Some(1), spec, status: Value::Null }))
}

fn raw(service: &str, weight: u32) -> Value {
    json!({
        "virtualService": service, "director": DIRECTOR, "addresses": ["192.16.193.30"],
        "ports": [{"protocol": "TCP", "port": 80}], "scheduler": {"name": "wrr"}, "sourceNat": "Auto",
        "realServers": [{"name": "s", "address": "172.16.193.10", "weight": weight, "targetPorts": [80],
            "forwarding": {"method": "Masquerade"}, "healthChecks": ["answers"]}],
    })
}

fn binding(service: &str, weight: u32) -> Heard {
    item(What::Bindings, place("tp", &format!("{service}-hash")), raw(service, weight))
}

/// A masquerading NatRule out of an interface.
fn rule(name: &str, out: &str) -> Heard {
    let raw = json!({"natRule": name, "director": DIRECTOR, "masquerade": {"outInterface": out}});
    item(What::Rules, place("tp", &format!("{name}-hash")), raw)
}

fn config() -> Heard {
    item(What::Config, place("", DIRECTOR), json!({"director": DIRECTOR}))
}

fn check(name: &str) -> Heard {
    item(What::Checks, place("tp", name), json!({"tcp": {}}))
}

fn list(source: &mut Source, what: What, objects: impl IntoIterator<Item = Heard>) {
    source.hear(Heard::Listing(what));
    objects.into_iter().for_each(|object| source.hear(object));
    source.hear(Heard::Listed(what));
}

fn listed() -> Source {
    let mut source = Source::new(DIRECTOR);
    list(&mut source, What::Checks, [check("answers"), check("other")]);
    list(&mut source, What::Config, [config()]);
    // Of the name of a service: a NatRule is another object.
    list(&mut source, What::Rules, [rule("a", "eth0")]);
    list(&mut source, What::Bindings, [binding("a", 1), binding("b", 1)]);
    source
}

fn started() -> Source {
    let mut source = listed();
    assert!(!source.step().is_empty());
    source
}

/// What a step changes in bindings: service and weight.
fn bindings(step: &Step) -> Vec<(String, Option<u32>)> {
    let weight = |spec: &Arc<VirtualServiceBindingSpec>| spec.real_servers[0].weight;
    match &step.change {
        None => Vec::new(),
        Some(ConfigChange::All(all)) => {
            all.bindings.iter().map(|(key, spec)| (key.name.to_string(), Some(weight(spec)))).collect()
        }
        Some(ConfigChange::Some { bindings, .. }) => {
            bindings.iter().map(|(key, spec)| (key.name.to_string(), spec.as_ref().map(weight))).collect()
        }
    }
}

/// What was to be kept, as the next start finds it.
fn kept(from: &mut BTreeMap<String, Saved>, step: &Step) {
    for (key, saved) in &step.saved {
        match saved {
            Some(saved) => drop(from.insert(key.clone(), saved.clone())),
            None => drop(from.remove(key)),
        }
    }
}

#[test]
fn nothing_is_told_before_every_kind_was_listed() {
    let mut source = Source::new(DIRECTOR);
    list(&mut source, What::Bindings, [binding("a", 1)]);
    assert!(source.step().is_empty());
    list(&mut source, What::Config, [config()]);
    assert!(source.step().is_empty());
    assert_eq!(source.lost().as_deref(), Some("not listed yet: NatRuleBinding, HealthCheck"));
    list(&mut source, What::Checks, [check("answers"), check("other")]);
    assert!(source.step().is_empty());
    list(&mut source, What::Rules, [rule("a", "eth0")]);
    let step = source.step();
    assert!(matches!(step.change, Some(ConfigChange::All(_))));
    assert_eq!(bindings(&step), [("a".to_owned(), Some(1))]);
    assert_eq!(step.checks.len(), 1, "those that are named");
    assert!(source.step().is_empty(), "once");
}

#[test]
fn what_changed_is_told_and_nothing_else() {
    let mut source = started();
    source.hear(binding("a", 7));
    let step = source.step();
    assert!(matches!(&step.change, Some(ConfigChange::Some { director: None, .. })));
    assert_eq!(bindings(&step), [("a".to_owned(), Some(7))]);
    assert!(step.checks.is_empty());
    // A status of ours that comes back, a list in which everything is as it was.
    source.hear(binding("a", 7));
    list(&mut source, What::Bindings, [binding("b", 1), binding("a", 7)]);
    assert!(source.step().is_empty());
    source.hear(Heard::Gone(What::Bindings, place("tp", "a-hash")));
    let step = source.step();
    assert_eq!(bindings(&step), [("a".to_owned(), None)]);
    assert!(step.checks.is_empty(), "b names it too");
    source.hear(Heard::Gone(What::Bindings, place("tp", "b-hash")));
    let step = source.step();
    assert_eq!(step.checks.into_values().collect::<Vec<_>>(), [None]);
}

/// What a step changes in NatRules: name and interface.
fn rules(step: &Step) -> Vec<(String, Option<String>)> {
    let out =
        |spec: &Arc<NatRuleBindingSpec>| spec.translation.masquerade.as_ref().unwrap().out_interface.clone();
    match &step.change {
        None => Vec::new(),
        Some(ConfigChange::All(all)) => {
            all.nat_rules.iter().map(|(key, spec)| (key.name.to_string(), Some(out(spec)))).collect()
        }
        Some(ConfigChange::Some { nat_rules, .. }) => {
            nat_rules.iter().map(|(key, spec)| (key.name.to_string(), spec.as_ref().map(out))).collect()
        }
    }
}

#[test]
fn nat_rules_are_told_as_services_are() {
    let mut source = listed();
    let some = |out: &str| Some(out.to_owned());
    assert_eq!(rules(&source.step()), [("a".to_owned(), some("eth0"))]);
    source.hear(rule("a", "eth1"));
    source.hear(rule("c", "eth0"));
    let step = source.step();
    assert_eq!(rules(&step), [("a".to_owned(), some("eth1")), ("c".to_owned(), some("eth0"))]);
    assert!(bindings(&step).is_empty());
    // One that this version cannot carry out leaves its last good form.
    let newer =
        json!({"natRule": "c", "director": DIRECTOR, "masquerade": {"outInterface": "eth0"}, "colour": 1});
    source.hear(item(What::Rules, place("tp", "c-hash"), newer));
    assert!(source.step().is_empty());
    assert!(source.rules().any(|one| one.unusable.is_some() && one.spec.is_some()));
    let view = source.view("s", String::new(), |what, _| u64::from(what == What::Rules));
    let of_rules =
        view.objects.iter().filter(|one| one.rule.is_some() && one.binding.is_none() && one.told == 1);
    assert_eq!((of_rules.count(), view.nat_rules.len()), (2, 2));
    source.hear(Heard::Gone(What::Rules, place("tp", "a-hash")));
    assert_eq!(rules(&source.step()), [("a".to_owned(), None)]);
    // The last one is not in a list: only if the director is still there.
    list(&mut source, What::Rules, []);
    assert!(source.step().is_empty());
    assert_eq!(source.again(), [What::Config].into());
    list(&mut source, What::Config, [config()]);
    let step = source.step();
    assert_eq!(rules(&step), [("c".to_owned(), None)]);
    assert!(bindings(&step).is_empty(), "services were not doubted");
}

#[test]
fn a_list_that_does_not_end_removes_nothing() {
    let mut source = started();
    let lost = heard::Trouble::Lost("500".into());
    source.hear(Heard::Listing(What::Bindings));
    source.hear(Heard::Failed(What::Bindings, lost.clone()));
    source.hear(Heard::Listing(What::Bindings));
    source.hear(binding("a", 1));
    source.hear(Heard::Failed(What::Bindings, lost));
    assert!(source.step().is_empty());
    // One that ends does.
    list(&mut source, What::Bindings, [binding("a", 1)]);
    assert_eq!(bindings(&source.step()), [("b".to_owned(), None)]);
}

#[test]
fn an_api_server_that_knows_nothing_of_this_director_is_not_believed() {
    let mut source = started();
    list(&mut source, What::Bindings, []);
    assert!(source.step().is_empty(), "is it so?");
    assert_eq!(source.again(), [What::Config].into(), "it is asked");
    list(&mut source, What::Config, []);
    assert!(source.step().is_empty());
    assert!(source.lost().is_some_and(|why| why.contains("has no DirectorConfig dir1 any more")));
    // Its data are back.
    list(&mut source, What::Config, [config()]);
    list(&mut source, What::Bindings, [binding("a", 1), binding("b", 2)]);
    assert_eq!(bindings(&source.step()), [("b".to_owned(), Some(2))]);
    assert_eq!(source.lost(), None);
    // All services were deleted while nobody looked: the director is still there.
    list(&mut source, What::Bindings, []);
    list(&mut source, What::Config, [config()]);
    assert_eq!(bindings(&source.step()).len(), 2);
    // Whoever deletes the DirectorConfig means it.
    source.hear(Heard::Gone(What::Config, place("", DIRECTOR)));
    source.step();
    assert_eq!(source.lost(), None);
}

#[test]
fn what_cannot_be_used_leaves_its_last_good_form_and_is_a_problem() {
    let mut source = started();
    let mut newer = raw("a", 9);
    newer["colour"] = json!("red");
    source.hear(item(What::Bindings, place("tp", "a-hash"), newer));
    assert!(source.step().is_empty());
    let problems = source.problems("s");
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "s: spec.colour: this version of the agent does not know this field (VirtualServiceBinding tp/a-hash; \
         its last good form stays in force)"
    );
    assert!(source.bindings().any(|one| one.unusable.is_some() && one.spec.is_some()));
    source.hear(binding("a", 9));
    assert_eq!(bindings(&source.step()), [("a".to_owned(), Some(9))]);
    assert!(source.problems("s").is_empty());
}

#[test]
fn the_last_good_configuration_is_in_force_until_everything_is_listed() {
    let mut disk = BTreeMap::new();
    let mut source = listed();
    kept(&mut disk, &source.step());
    source.hear(binding("a", 3));
    kept(&mut disk, &source.step());
    assert_eq!(
        disk.len(),
        5,
        "two bindings, a NatRule's, the DirectorConfig, the check that is named: {:?}",
        disk.keys()
    );

    let mut next = Source::new(DIRECTOR);
    assert_eq!(next.remember(&disk), Vec::<String>::new());
    let step = next.begin();
    assert!(matches!(step.change, Some(ConfigChange::All(_))));
    assert_eq!(bindings(&step), [("a".to_owned(), Some(3)), ("b".to_owned(), Some(1))]);
    assert_eq!((next.told(), step.checks.len()), (source.told(), 1));
    // Half of what there is now is no reason to change anything.
    list(&mut next, What::Bindings, [binding("a", 4), binding("c", 1)]);
    assert!(next.step().is_empty());
    list(&mut next, What::Config, [config()]);
    list(&mut next, What::Rules, [rule("a", "eth0")]);
    list(&mut next, What::Checks, [check("answers")]);
    let step = next.step();
    let changed = [("a".to_owned(), Some(4)), ("b".to_owned(), None), ("c".to_owned(), Some(1))];
    assert_eq!(bindings(&step), changed);
    kept(&mut disk, &step);
    assert_eq!(disk.len(), 5);
    // Nothing known is nothing told.
    assert!(Source::new(DIRECTOR).begin().is_empty());
}

#[test]
fn checks_that_nobody_names_are_held_up_to_a_bound() {
    let mut source = Source::new(DIRECTOR);
    list(&mut source, What::Config, [config()]);
    list(&mut source, What::Rules, []);
    list(&mut source, What::Bindings, [binding("a", 1)]);
    let others = (0..2 * MAX_UNNAMED).map(|n| check(&format!("other-{n}")));
    list(&mut source, What::Checks, others.chain([check("answers")]));
    assert_eq!(source.checks.objects.len(), MAX_UNNAMED);
    assert!(source.step().checks.is_empty());
    assert_eq!(source.again(), [What::Checks].into(), "the one that is named has to be heard again");
    list(&mut source, What::Checks, [check("answers")]);
    assert_eq!(source.step().checks.len(), 1);
    assert!(source.again().is_empty());
}

#[test]
fn a_flush_takes_everything_away_and_its_end_brings_it_back() {
    let mut source = listed();
    let group = json!({"name": "front", "priority": 100, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
        "preempt": {}, "onAgentLoss": "Release",
        "instances": [{"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"]}]});
    let config = |flush: Value| {
        let raw = json!({"director": DIRECTOR, "vrrp": [group], "flush": flush,
            "connectionSync": {"interface": "eth1", "syncId": 30}});
        item(What::Config, place("", DIRECTOR), raw)
    };
    source.hear(config(Value::Null));
    let mut disk = BTreeMap::new();
    kept(&mut disk, &source.step());
    assert_eq!(source.told().0.director.vrrp.len(), 1);

    source.hear(config(json!("flush-1-ab")));
    let step = source.step();
    kept(&mut disk, &step);
    let Some(ConfigChange::Some { director: Some(director), bindings: gone, nat_rules }) = &step.change
    else {
        panic!("{step:?}")
    };
    assert!(director.vrrp.is_empty() && director.connection_sync.is_none());
    assert_eq!((gone.len(), nat_rules.len()), (2, 1));
    assert!(gone.iter().all(|(_, spec)| spec.is_none()) && nat_rules[0].1.is_none());
    assert!(step.checks.values().all(Option::is_none) && !step.checks.is_empty(), "nobody names a check");
    // What comes meanwhile is not carried out, also by one that starts without an API server.
    source.hear(binding("c", 1));
    assert!(bindings(&source.step()).is_empty());
    let mut restarted = Source::new(DIRECTOR);
    assert!(restarted.remember(&disk).is_empty());
    let step = restarted.begin();
    assert!(
        matches!(&step.change, Some(ConfigChange::All(all)) if all.bindings.is_empty() && all.director.vrrp.is_empty())
    );

    source.hear(config(Value::Null));
    let step = source.step();
    assert_eq!(bindings(&step).len(), 3, "those that came meanwhile, too");
    assert_eq!(source.told().0.director.vrrp.len(), 1);
    assert_eq!(source.told().0.nat_rules.len(), 1);
}
