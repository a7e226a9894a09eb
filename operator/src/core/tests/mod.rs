mod fake;
mod maintenance;
mod rules;

use bascule_compile::{Snapshot, Trust, compile};
use bascule_crds::{Kind, manifest, validate};
use serde_json::json;

use super::*;
use fake::World;

const TP: &str = include_str!("../../../../tests/tests/operator/tp.yaml");

fn at(namespace: &str, name: &str) -> Place {
    Place { namespace: namespace.into(), name: name.into() }
}

fn web() -> Place {
    at("tp", "web")
}

fn binding(service: &str, director: &str) -> Place {
    at("tp", &crate::names::binding(service, director))
}

/// A world in which everything is as it should be, and the agents of all directors have said so.
fn settled() -> World {
    let mut world = World::new(TP);
    world.list(&[]);
    world.pass(1.0);
    for director in ["dir1", "dir2", "router"] {
        world.live(director);
        world.report(director);
    }
    world.pass(10.0);
    for director in ["dir1", "dir2", "router"] {
        world.live(director);
    }
    world.pass(1.0);
    world.written.clear();
    world
}

#[test]
fn nothing_is_written_before_everything_is_listed() {
    for missing in Source::ALL {
        let mut world = World::new(TP);
        world.list(&[missing]);
        assert_eq!(world.pass(60.0), Vec::<String>::new(), "{missing}");
        world.hear(Heard::Listed(missing));
        // A listing that named nothing: that is what there is, then.
        assert_ne!(world.pass(1.0), Vec::<String>::new(), "{missing}");
    }
}

#[test]
fn what_is_written_is_what_was_compiled() {
    let mut world = World::new(TP);
    world.list(&[]);
    world.pass(1.0);
    let mut snapshot = Snapshot::new(Trust::Files);
    for document in manifest::parse(TP).unwrap() {
        snapshot.objects.push(validate::judge(&document.value).unwrap());
    }
    let (mut configs, mut bindings) = (0, 0);
    for (director, node) in compile(&snapshot).nodes {
        let config = &world.objects[&(Kind::DirectorConfig, Place::cluster(&director))];
        assert_eq!(config["spec"], serde_json::to_value(node.director).unwrap());
        configs += 1;
        for (key, spec) in node.bindings {
            let there = &world.objects[&(Kind::VirtualServiceBinding, binding(&key.name, &director))];
            assert_eq!(there["spec"], serde_json::to_value(&*spec).unwrap());
            bindings += 1;
        }
    }
    assert_eq!((configs, world.names(Kind::DirectorConfig).len()), (3, 3));
    assert_eq!((bindings, world.names(Kind::VirtualServiceBinding).len()), (3, 3));
}

#[test]
fn who_begins_anew_writes_nothing_that_is_there() {
    let mut world = settled();
    world.begin_anew();
    world.list(&[]);
    for director in ["dir1", "dir2", "router"] {
        world.live(director);
    }
    assert_eq!(world.pass(20.0), Vec::<String>::new());
}

#[test]
fn one_change_is_one_write_a_director_and_two_statuses() {
    let mut world = settled();
    world.change(Kind::VirtualService, &web(), |web| web["spec"]["realServers"][0]["weight"] = json!(7));
    world.pass(1.0);
    world.report("dir1");
    world.pass(1.0);
    world.report("dir2");
    world.pass(10.0);
    let mut written = std::mem::take(&mut world.written);
    written.sort();
    let names = ["dir1", "dir2"].map(|director| binding("web", director).name);
    let mut wanted: Vec<_> = names.iter().map(|name| format!("apply VirtualServiceBinding {name}")).collect();
    wanted.sort();
    wanted.extend(["status VirtualService web".to_owned(), "status VirtualService web".to_owned()]);
    assert_eq!(written, wanted);
    assert_eq!(world.condition(Kind::VirtualService, &web(), "Ready"), ("True".into(), "Ready".into()));
    // A status of a user's object that comes back, and a label, are nothing.
    world.change(Kind::VirtualService, &web(), |web| web["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!(world.pass(10.0), Vec::<String>::new());
}

#[test]
fn an_agent_that_says_nothing_is_told_of_after_a_while() {
    let mut world = settled();
    world.change(Kind::VirtualService, &web(), |web| web["spec"]["realServers"][0]["weight"] = json!(7));
    world.pass(1.0);
    world.report("dir1");
    // In between nothing is written: an answer of both is waited for.
    assert_eq!(world.pass(1.0), Vec::<String>::new());
    let (status, reason) = world.condition(Kind::VirtualService, &web(), "Programmed");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Pending"));
    assert_eq!(world.pass(10.0), ["status VirtualService web"]);
    let message = world.status(Kind::VirtualService, &web())["conditions"].to_string();
    assert!(message.contains("dir2") && !message.contains("dir1: its agent"), "{message}");
}

#[test]
fn what_others_undo_is_done_again() {
    let mut world = settled();
    let place = binding("web", "dir1");
    let name = place.name.clone();
    let kind = Kind::VirtualServiceBinding;
    let before = world.objects[&(kind, place.clone())]["spec"].clone();
    world.change(kind, &place, |one| one["spec"]["onFailure"] = json!("Remove"));
    assert_eq!(world.settle(), [format!("apply {kind} {name}")]);
    world.change(kind, &place, |one| one["spec"]["checkHost"] = json!("www.example"));
    assert_eq!(world.settle(), [format!("strip {kind} {name}")]);
    world.change(kind, &place, |one| {
        one["spec"]["onFailure"] = json!("Remove");
        one["spec"]["checkHost"] = json!("www.example");
    });
    assert_eq!(world.settle(), [format!("apply {kind} {name}"), format!("strip {kind} {name}")]);
    world.change(kind, &place, |one| one["metadata"]["ownerReferences"] = json!(null));
    assert_eq!(world.settle(), [format!("apply {kind} {name}")]);
    world.delete(kind, &place);
    assert_eq!(world.settle(), [format!("apply {kind} {name}")]);
    assert_eq!(world.objects[&(kind, place)]["spec"], before);
}

#[test]
fn what_nobody_wants_goes() {
    let mut world = settled();
    let kind = Kind::VirtualServiceBinding;
    world.delete(Kind::VirtualService, &web());
    let mut gone = world.settle();
    gone.sort();
    let mut wanted: Vec<_> =
        ["dir1", "dir2"].map(|on| format!("delete {kind} {}", binding("web", on).name)).into();
    wanted.sort();
    assert_eq!(gone, wanted);
    // A director that goes takes its bindings along.
    world.delete(Kind::Director, &Place::cluster("router"));
    let gone = world.settle();
    assert!(gone.contains(&format!("delete {kind} {}", binding("on-the-router", "router").name)), "{gone:?}");
    assert!(gone.contains(&"delete DirectorConfig router".to_owned()), "{gone:?}");
}

#[test]
fn what_waits_for_a_finalizer_is_gone() {
    let mut world = settled();
    world.change(Kind::VirtualService, &web(), |one| {
        one["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        one["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    });
    let written = world.pass(20.0);
    let gone = written.iter().filter(|one| one.starts_with("delete VirtualServiceBinding web-"));
    assert_eq!(gone.count(), 2, "{written:?}");
    assert!(
        !written.iter().any(|one| one.contains("VirtualService web")),
        "its status is nobody's matter: {written:?}"
    );
    world.delete(Kind::VirtualService, &web());
    assert_eq!(world.pass(1.0), Vec::<String>::new());
}

#[test]
fn orphans_of_an_earlier_life_go() {
    let mut world = settled();
    let kind = Kind::VirtualServiceBinding;
    // While nobody watched: a service went, and somebody made a binding under a name of his own.
    let foreign = world.objects[&(kind, binding("on-the-router", "router"))].clone();
    let by_hand = at("tp", "by-hand");
    world.objects.insert((kind, by_hand), foreign);
    world.objects.remove(&(Kind::VirtualService, web()));
    world.begin_anew();
    world.list(&[]);
    world.pass(1.0);
    assert_eq!(world.names(kind), [binding("on-the-router", "router").name.as_str()]);
}

#[test]
fn a_name_that_is_taken_is_freed_first() {
    let mut world = World::new(TP);
    let kind = Kind::VirtualServiceBinding;
    let mut squatter = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualServiceBinding",
        "spec": {"virtualService": "else", "director": "dir9", "scheduler": {"name": "rr"}, "sourceNat": "Never"},
    });
    let place = binding("web", "dir1");
    squatter["metadata"] = json!({"name": place.name, "namespace": "tp", "uid": "squatter", "generation": 1, "resourceVersion": "1"});
    world.objects.insert((kind, place.clone()), squatter);
    world.list(&[]);
    world.pass(1.0);
    assert_eq!(world.objects[&(kind, place)]["spec"]["virtualService"], "web");
}

#[test]
fn what_cannot_be_read_stays_as_it_is() {
    let unreadable = |source, place| Heard::Unreadable(source, place, None, "odd".into());
    // Of a service its bindings, of a group or director everything: who knows what it would decide.
    for (source, place) in [
        (Source::VirtualService, web()),
        (Source::VrrpGroup, Place::cluster("front")),
        (Source::Director, Place::cluster("dir1")),
    ] {
        let mut world = settled();
        let kind = source.kind().unwrap();
        let object = world.objects.remove(&(kind, place.clone())).unwrap();
        world.begin_anew();
        world.list(&[source]);
        world.hear(Heard::Listing(source));
        let others: Vec<_> = world
            .objects
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|((of, at), one)| fake::there(*of, at.clone(), one))
            .collect();
        for other in others {
            world.hear(other);
        }
        world.hear(unreadable(source, place.clone()));
        world.hear(Heard::Listed(source));
        let specs = |written: Vec<String>| {
            written.into_iter().filter(|one| !one.starts_with("status")).collect::<Vec<_>>()
        };
        assert_eq!(specs(world.pass(20.0)), Vec::<String>::new(), "{source}");
        // It can be read again.
        world.objects.insert((kind, place.clone()), object);
        let heard = fake::there(kind, place.clone(), &world.objects[&(kind, place)]);
        world.hear(heard);
        assert_eq!(specs(world.pass(20.0)), Vec::<String>::new(), "{source}");
        assert_eq!(world.names(Kind::VirtualServiceBinding).len(), 3);
    }
}

#[test]
fn a_refusal_is_told_and_hinders_nobody() {
    let mut world = World::new(TP);
    world.refuse = vec![binding("web", "dir1").name];
    world.list(&[]);
    world.live("dir1");
    world.live("dir2");
    world.pass(1.0);
    let (status, reason) = world.condition(Kind::VirtualService, &web(), "Programmed");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Rejected"));
    assert_eq!(world.names(Kind::VirtualServiceBinding).len(), 2);
    // It is tried again, by itself, and it is not said any more when it is not so any more.
    world.refuse.clear();
    world.pass(30.0);
    assert_eq!(world.names(Kind::VirtualServiceBinding).len(), 3);
    let (_, reason) = world.condition(Kind::VirtualService, &web(), "Programmed");
    assert_ne!(reason, "Rejected");
}

#[test]
fn a_change_of_what_was_refused_is_tried_at_once() {
    let mut world = World::new(TP);
    world.refuse = vec![binding("on-the-router", "router").name];
    world.list(&[]);
    world.pass(100.0);
    world.refuse.clear();
    world.change(Kind::VirtualService, &at("tp", "on-the-router"), |one| {
        one["spec"]["realServers"][0]["weight"] = json!(3);
    });
    let name = binding("on-the-router", "router").name;
    assert!(world.settle().contains(&format!("apply VirtualServiceBinding {name}")));
}

#[test]
fn a_director_that_is_lost_is_told_of_where_it_matters() {
    let mut world = settled();
    // dir2 lives on.
    for _ in 0..10 {
        world.live("dir2");
        world.live("router");
        world.pass(5.0);
    }
    let written = std::mem::take(&mut world.written);
    assert!(written.contains(&"status VrrpGroup front".to_owned()), "{written:?}");
    assert!(written.contains(&"status Director dir1".to_owned()), "{written:?}");
    assert!(!written.iter().any(|one| one.contains("VirtualService")), "{written:?}");
    let (status, _) = world.condition(Kind::Director, &Place::cluster("dir1"), "Ready");
    assert_eq!(status, "Unknown");
    // The last one.
    for _ in 0..10 {
        world.live("router");
        world.pass(5.0);
    }
    assert_eq!(
        world.condition(Kind::VirtualService, &web(), "Ready"),
        ("Unknown".into(), "DirectorUnknown".into())
    );
}

#[test]
fn labelled_nodes_are_directors() {
    let mut world = settled();
    world.node("worker", true);
    world.node("dir1", true);
    world.node("other", false);
    let written = world.settle();
    assert!(written.contains(&"apply Director worker".to_owned()), "{written:?}");
    assert!(written.contains(&"apply DirectorConfig worker".to_owned()), "{written:?}");
    assert!(!world.names(Kind::Director).contains(&"other"));
    // The label goes: what was made for it goes, what a user wrote stays.
    world.node("worker", false);
    world.node("dir1", false);
    let written = world.settle();
    assert!(written.contains(&"delete Director worker".to_owned()), "{written:?}");
    assert!(world.names(Kind::Director).contains(&"dir1"));
    // What somebody changed is his.
    world.node("worker", true);
    world.settle();
    world.change(Kind::Director, &Place::cluster("worker"), |one| {
        one["spec"]["failureDomain"] = json!("rack")
    });
    world.node("worker", false);
    world.pass(1.0);
    assert!(world.names(Kind::Director).contains(&"worker"));
}

#[test]
fn a_conflict_is_told_at_once() {
    let mut world = settled();
    world.create(
        "apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: z-too-late, namespace: tp}
spec:
  vrrpGroup: front
  addresses: [192.16.193.30]
  ports: [{port: 80, protocol: TCP}]
  realServers: [{name: srv1, address: 172.16.193.10}]
",
    );
    assert_eq!(world.settle(), ["status VirtualService z-too-late"]);
    let late = at("tp", "z-too-late");
    assert_eq!(
        world.condition(Kind::VirtualService, &late, "Accepted"),
        ("False".into(), "Conflicted".into())
    );
    assert_eq!(
        world.condition(Kind::VirtualService, &late, "Programmed"),
        ("False".into(), "NotInForce".into())
    );
    // It gets what it wants when the other one is gone.
    world.delete(Kind::VirtualService, &web());
    world.settle();
    assert_eq!(world.condition(Kind::VirtualService, &late, "Accepted").0, "True");
    assert!(world.names(Kind::VirtualServiceBinding).contains(&&*binding("z-too-late", "dir1").name));
}

fn beside(port: u16) -> String {
    format!(
        "apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {{name: z-beside, namespace: tp}}
spec:
  vrrpGroup: front
  addresses: [192.16.193.30]
  ports: [{{port: {port}, protocol: TCP}}]
  realServers: [{{name: srv1, address: 172.16.193.10}}]
"
    )
}

#[test]
fn the_last_good_form_outlives_the_operator() {
    let mut world = settled();
    world.create(&beside(81));
    world.pass(1.0);
    let place = at("tp", "z-beside");
    let port = |world: &World| {
        let key = (Kind::VirtualServiceBinding, binding("z-beside", "dir1"));
        world.objects.get(&key).map(|one| one["spec"]["ports"][0]["port"].clone())
    };
    assert_eq!(port(&world), Some(json!(81)));
    // What it wants now the older one has: it keeps what it had.
    world.change(Kind::VirtualService, &place, |one| one["spec"]["ports"][0]["port"] = json!(80));
    world.pass(1.0);
    assert_eq!(world.condition(Kind::VirtualService, &place, "Accepted").1, "Conflicted");
    assert_eq!(port(&world), Some(json!(81)));
    world.begin_anew();
    world.list(&[]);
    world.pass(10.0);
    assert_eq!(world.condition(Kind::VirtualService, &place, "Accepted").1, "Conflicted");
    assert_eq!(port(&world), Some(json!(81)));
}

#[test]
fn what_users_did_not_change_is_not_compiled_again() {
    let mut world = settled();
    let before = world.core.compiler.evaluated();
    // Labels, statuses of others and of ourselves.
    world.change(Kind::VirtualService, &web(), |web| web["metadata"]["labels"] = json!({"a": "b"}));
    world.change(Kind::VirtualServiceBinding, &binding("web", "dir2"), |one| {
        one["status"]["realServersUp"] = json!(0)
    });
    assert_eq!(world.pass(10.0), ["status VirtualService web"]);
    assert_eq!(world.core.compiler.evaluated(), before);
    world.change(Kind::VirtualService, &web(), |web| web["spec"]["onFailure"] = json!("Remove"));
    world.pass(1.0);
    assert_eq!(world.core.compiler.evaluated(), before + 1);
}

#[test]
fn the_lowest_count_of_a_living_director_counts() {
    let mut world = settled();
    let counts = |world: &World| world.status(Kind::VirtualService, &web())["realServers"].clone();
    assert_eq!(counts(&world), json!({"up": 2, "total": 2}));
    world.change(Kind::VirtualServiceBinding, &binding("web", "dir2"), |one| {
        one["status"]["realServersUp"] = json!(0)
    });
    world.pass(10.0);
    assert_eq!(counts(&world), json!({"up": 0, "total": 2}));
    // A director that is not known has no say.
    for _ in 0..10 {
        world.live("dir1");
        world.pass(5.0);
    }
    assert_eq!(counts(&world), json!({"up": 2, "total": 2}));
}
