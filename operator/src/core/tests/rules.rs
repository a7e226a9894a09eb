//! NatRules are carried as VirtualServices are.

use super::*;

const KIND: Kind = Kind::NatRuleBinding;

const RULES: &str = "
apiVersion: bascule.dev/v1alpha1
kind: Director
metadata: {name: r1}
spec: {allow: [{namespaces: [tp], kinds: [NatRule]}]}
---
apiVersion: bascule.dev/v1alpha1
kind: NatRule
metadata: {name: out, namespace: tp}
spec: {director: r1, masquerade: {outInterface: eth0}}
";

fn rule() -> Place {
    at("tp", "out")
}

/// The place of the rule's binding.
fn bound() -> Place {
    binding("out", "r1")
}

fn conditions(world: &mut World) -> Vec<String> {
    let told = world.status(Kind::NatRule, &rule())["conditions"].clone();
    let mut told: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {} {}", one["type"], one["status"], one["reason"]).replace('"', ""))
        .collect();
    told.sort();
    told
}

fn ready() -> World {
    let mut world = World::new(RULES);
    world.list(&[]);
    world.pass(1.0);
    world.live("r1");
    world.report("r1");
    world.pass(10.0);
    world.live("r1");
    world.pass(1.0);
    world.written.clear();
    world
}

#[test]
fn a_rule_is_bound_as_it_was_compiled_and_belongs_to_it() {
    let world = ready();
    let mut snapshot = Snapshot::new(Trust::Cluster);
    for document in manifest::parse(RULES).unwrap() {
        snapshot.objects.push(validate::judge(&document.value).unwrap());
    }
    let compiled = compile(&snapshot);
    let wanted = &compiled.nodes["r1"].nat_rules;
    assert_eq!(wanted.len(), 1, "{:?}", compiled.conditions);
    let there = &world.objects[&(KIND, bound())];
    assert_eq!(there["spec"], serde_json::to_value(&**wanted.values().next().unwrap()).unwrap());
    let owner = &there["metadata"]["ownerReferences"][0];
    let uid = &world.objects[&(Kind::NatRule, rule())]["metadata"]["uid"];
    assert_eq!((&owner["kind"], &owner["name"], &owner["uid"]), (&json!("NatRule"), &json!("out"), uid));
    assert_eq!(world.names(Kind::VirtualServiceBinding), Vec::<&str>::new());
}

#[test]
fn an_edit_is_one_write_and_what_others_undo_is_done_again() {
    let mut world = ready();
    let name = bound().name;
    world.change(Kind::NatRule, &rule(), |one| one["spec"]["masquerade"]["outInterface"] = json!("eth1"));
    let written = world.settle();
    let specs: Vec<_> = written.iter().filter(|one| one.contains("Binding")).collect();
    assert_eq!(specs, [&format!("apply {KIND} {name}")], "{written:?}");
    let before = world.objects[&(KIND, bound())]["spec"].clone();
    assert_eq!(before["masquerade"]["outInterface"], "eth1");
    world.change(KIND, &bound(), |one| one["spec"]["masquerade"]["outInterface"] = json!("eth2"));
    assert_eq!(world.settle(), [format!("apply {KIND} {name}")]);
    world.change(KIND, &bound(), |one| one["spec"]["vrrpGroup"] = json!("front"));
    assert_eq!(world.settle(), [format!("strip {KIND} {name}")]);
    world.delete(KIND, &bound());
    assert_eq!(world.settle(), [format!("apply {KIND} {name}")]);
    assert_eq!(world.objects[&(KIND, bound())]["spec"], before);
    world.delete(Kind::NatRule, &rule());
    assert_eq!(world.settle(), [format!("delete {KIND} {name}")]);
}

#[test]
fn orphans_go_and_an_owner_made_anew_is_another() {
    let mut world = ready();
    world.change(Kind::NatRule, &rule(), |one| one["metadata"]["uid"] = json!("another"));
    world.pass(1.0);
    assert_eq!(world.objects[&(KIND, bound())]["metadata"]["ownerReferences"][0]["uid"], "another");
    world.objects.remove(&(Kind::NatRule, rule()));
    world.begin_anew();
    world.list(&[]);
    world.pass(1.0);
    assert_eq!(world.names(KIND), Vec::<&str>::new());
}

#[test]
fn its_status_is_what_its_agents_say() {
    let mut world = World::new(RULES);
    world.list(&[]);
    world.pass(1.0);
    world.live("r1");
    world.pass(10.0);
    let waiting = conditions(&mut world);
    assert!(waiting.contains(&"Programmed False Pending".to_owned()), "{waiting:?}");
    let mut world = ready();
    let well = [
        "Accepted True Accepted",
        "Programmed True Programmed",
        "Ready True Ready",
        "ResolvedRefs True ResolvedRefs",
    ];
    assert_eq!(conditions(&mut world), well);
    world.change(KIND, &bound(), |one| {
        for condition in one["status"]["conditions"].as_array_mut().unwrap() {
            condition["status"] = json!("False");
            condition["reason"] = json!("Missing");
        }
    });
    world.pass(1.0);
    let bad = conditions(&mut world);
    assert_eq!((bad[1].as_str(), bad[2].as_str()), ("Programmed False Missing", "Ready False Missing"));
    // A director that allows it no more: nobody has it.
    world.change(Kind::Director, &Place::cluster("r1"), |one| one["spec"]["allow"] = json!([]));
    world.pass(1.0);
    let gone = conditions(&mut world);
    assert!(gone.contains(&"Ready False NotInForce".to_owned()), "{gone:?}");
    assert_eq!(world.names(KIND), Vec::<&str>::new());
}

#[test]
fn a_refused_rule_is_told_and_its_namesake_is_not_touched() {
    // A VirtualService of the same name: its binding has the same name too, and is another object.
    let service = "
---
apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: out, namespace: tp}
spec:
  director: {name: r1}
  addresses: [192.0.2.1]
  ports: [{port: 80, protocol: TCP}]
  realServers: [{name: srv1, address: 172.16.193.10}]
";
    let allowed =
        RULES.replace("kinds: [NatRule]", "kinds: [NatRule, VirtualService], addresses: [192.0.2.0/24]");
    let mut world = World::new(&format!("{allowed}{service}"));
    world.list(&[]);
    world.pass(1.0);
    for kind in [KIND, Kind::VirtualServiceBinding] {
        assert_eq!(world.names(kind), [bound().name.as_str()]);
    }
    world.delete(Kind::NatRule, &rule());
    assert!(world.settle().contains(&format!("delete {KIND} {}", bound().name)));
    assert_eq!(world.names(Kind::VirtualServiceBinding), [bound().name.as_str()]);

    let mut world = World::new(RULES);
    world.refuse = vec![bound().name];
    world.list(&[]);
    world.live("r1");
    world.pass(5.0);
    assert_eq!(world.condition(Kind::NatRule, &rule(), "Programmed"), ("False".into(), "Rejected".into()));
    world.refuse.clear();
    world.change(Kind::NatRule, &rule(), |one| one["spec"]["masquerade"]["outInterface"] = json!("eth1"));
    assert!(world.settle().contains(&format!("apply {KIND} {}", bound().name)));
}
