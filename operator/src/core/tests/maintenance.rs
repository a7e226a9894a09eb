//! Machines that are out of service.

use bascule_compile::{Machine, OutOfService};

use super::*;

fn director(name: &str) -> Place {
    Place::cluster(name)
}

fn standing(world: &World, director: &str) -> (bool, bool) {
    let form = &world.objects[&(Kind::DirectorConfig, Place::cluster(director))]["spec"]["vrrp"][0];
    (form["standsBy"] == true, form["relieves"] == true)
}

fn cordoned() -> Machine {
    Machine { out: Some(OutOfService::Cordoned), failure_domain: None }
}

fn alive(world: &mut World) {
    for director in ["dir1", "dir2", "router"] {
        world.live(director);
    }
}

#[test]
fn a_cordoned_node_is_one_write_a_member_and_one_status() {
    let mut world = settled();
    world.machine("dir1", false, cordoned());
    world.pass(1.0);
    world.report("dir1");
    world.report("dir2");
    alive(&mut world);
    world.pass(10.0);
    let mut specs = std::mem::take(&mut world.written);
    specs.retain(|one| !one.starts_with("status"));
    assert_eq!(specs, ["apply DirectorConfig dir1", "apply DirectorConfig dir2"]);
    assert_eq!((standing(&world, "dir1"), standing(&world, "dir2")), ((true, false), (false, true)));
    let told = ("True".to_owned(), "Cordoned".to_owned());
    assert_eq!(world.condition(Kind::Director, &director("dir1"), "Maintenance"), told);
    // What is on a group goes on serving.
    assert_eq!(world.condition(Kind::VirtualService, &web(), "Ready").0, "True");
    // Cordoned and not, again and again, within less than it takes to be back.
    for _ in 0..5 {
        world.machine("dir1", false, Machine::default());
        world.pass(4.0);
        world.machine("dir1", false, cordoned());
        alive(&mut world);
        world.pass(1.0);
    }
    let specs: Vec<_> = world.written.iter().filter(|one| !one.starts_with("status")).collect();
    assert!(specs.is_empty(), "{specs:?}");
    // And back for good; another operator finds it so.
    world.machine("dir1", false, Machine::default());
    world.pass(4.0);
    assert_eq!(standing(&world, "dir1"), (true, false));
    alive(&mut world);
    world.pass(10.0);
    assert_eq!((standing(&world, "dir1"), standing(&world, "dir2")), ((false, false), (false, false)));
    world.report("dir1");
    world.report("dir2");
    world.pass(1.0);
    let conditions = world.status(Kind::Director, &director("dir1"))["conditions"].to_string();
    assert!(!conditions.contains("Maintenance"), "{conditions}");
}

#[test]
fn who_begins_anew_finds_a_cordoned_node_as_it_is() {
    let mut world = settled();
    world.machine("dir1", false, cordoned());
    world.pass(1.0);
    world.report("dir1");
    world.report("dir2");
    alive(&mut world);
    world.pass(10.0);
    world.begin_anew();
    world.list(&[Source::Node]);
    world.hear(Heard::Listing(Source::Node));
    world.machine("dir1", false, cordoned());
    world.hear(Heard::Listed(Source::Node));
    alive(&mut world);
    assert_eq!(world.pass(10.0), Vec::<String>::new());
    // The Node went while nobody watched: nothing stands by for it.
    world.begin_anew();
    world.list(&[]);
    alive(&mut world);
    world.pass(10.0);
    assert_eq!((standing(&world, "dir1"), standing(&world, "dir2")), ((false, false), (false, false)));
}

#[test]
fn maintenance_says_so_of_what_is_on_the_director_alone() {
    let mut world = settled();
    let alone = at("tp", "on-the-router");
    assert_eq!(world.condition(Kind::VirtualService, &alone, "Ready").0, "True");
    world.change(Kind::Director, &director("router"), |router| {
        router["spec"]["maintenance"] = json!({"enabled": true, "drainTimeout": "5m"});
    });
    world.pass(1.0);
    world.report("router");
    alive(&mut world);
    world.pass(10.0);
    let config = &world.objects[&(Kind::DirectorConfig, director("router"))]["spec"];
    assert_eq!(config["maintenance"], json!({"enabled": true, "drainTimeout": "5m"}));
    let told = ("False".to_owned(), "Maintenance".to_owned());
    assert_eq!(world.condition(Kind::VirtualService, &alone, "Ready"), told);
    let told = ("True".to_owned(), "Maintenance".to_owned());
    assert_eq!(world.condition(Kind::Director, &director("router"), "Maintenance"), told);
    world.change(Kind::Director, &director("router"), |router| router["spec"]["maintenance"] = json!(null));
    world.pass(1.0);
    world.report("router");
    alive(&mut world);
    world.pass(10.0);
    assert_eq!(world.condition(Kind::VirtualService, &alone, "Ready").0, "True");
}

#[test]
fn a_director_says_what_it_has_and_where_it_is() {
    let mut world = settled();
    let status = world.status(Kind::Director, &director("router"));
    assert_eq!((&status["virtualServices"], &status["natRules"]), (&json!(1), &json!(0)));
    assert!(status["failureDomain"].is_null(), "{status}");
    let zone = |zone: &str| Machine { out: None, failure_domain: Some(zone.to_owned()) };
    world.machine("router", false, zone("north"));
    world.change(Kind::Director, &director("router"), |router| {
        router["spec"]["allow"][0]["kinds"] = json!(["VirtualService", "NatRule"]);
    });
    world.pass(1.0);
    world.report("router");
    alive(&mut world);
    world.pass(10.0);
    let status = world.status(Kind::Director, &director("router"));
    assert_eq!((&status["natRules"], &status["failureDomain"]), (&json!(1), &json!("north")));
    // What the manifest says comes first.
    world.change(Kind::Director, &director("router"), |router| {
        router["spec"]["failureDomain"] = json!("rack1")
    });
    alive(&mut world);
    world.pass(10.0);
    assert_eq!(world.status(Kind::Director, &director("router"))["failureDomain"], "rack1");
    assert_eq!(world.objects[&(Kind::DirectorConfig, director("router"))]["spec"]["failureDomain"], "rack1");
}
