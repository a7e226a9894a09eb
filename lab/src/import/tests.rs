use super::*;
use crate::scenario::Problem;

macro_rules! topology {
    ($name:literal) => {
        (concat!($name, ".clab.yml"), include_str!(concat!("../../tests/data/clab/", $name, ".clab.yml")))
    };
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn good((file, text): (&str, &str), lenient: bool) -> Imported {
    import(file, text, "mine", lenient).unwrap_or_else(|problems| panic!("{}", told(&problems)))
}

fn bad(text: &str) -> String {
    match import("x.clab.yml", text, "mine", false) {
        Ok(imported) => panic!("this was taken:\n{}", imported.text),
        Err(problems) => told(&problems),
    }
}

#[test]
fn two_hosts() {
    insta::assert_snapshot!(good(topology!("two-hosts"), false).text);
}

#[test]
fn routers_with_what_they_inherit() {
    insta::assert_snapshot!(good(topology!("routed"), false).text);
}

#[test]
fn bridges_and_links_to_the_outside() {
    insta::assert_snapshot!(good(topology!("bridged"), false).text);
}

#[test]
fn what_cannot_be_translated_is_left_out_when_that_is_wanted() {
    let (file, text) = topology!("lenient");
    insta::assert_snapshot!("lenient", good((file, text), true).text);
    let problems = import(file, text, "mine", false).expect_err("a mistake without --lenient");
    insta::assert_snapshot!("strict", told(&problems));
}

#[test]
fn other_kinds_are_refused_all_at_once() {
    let (_, text) = topology!("other-kinds");
    insta::assert_snapshot!(bad(text));
}

#[test]
fn each_mistake_has_its_line() {
    let (_, text) = topology!("wrong");
    insta::assert_snapshot!(bad(text));
}

#[test]
fn what_is_no_topology_is_told() {
    for (text, because) in [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("name: a\n---\nname: b\n", "here begins another"),
        ("name: [a\n", "x.clab.yml:"),
        ("- a\n", "has to be a map"),
        ("name: a\n", "`topology` is missing"),
        ("name: a\ntopology: {}\n", "has no `nodes`"),
        ("name: a\ntopology: {nodes: {}}\n", "at least one node"),
        ("name: a\ntopology: {nodes: [b]}\n", "has to be a map"),
        ("topology: {nodes: {a: {kind: linux}}}\n", "the name of the lab"),
        (
            "name: a\ntopology:\n  nodes:\n    b: {kind: linux}\n    b: {kind: linux}\n",
            "duplicate key `b`, first on line 4",
        ),
        ("name: a\ntopology:\n  nodes:\n    b: {kind: linux}\n    c: {<<: {kind: linux}}\n", "merge keys"),
        ("name: a\ntopology:\n  nodes:\n    -b: {kind: linux}\n", "cannot be a name"),
        (
            "name: a\ntopology: {nodes: {b: {kind: linux}}, links: [{endpoints: ['b:eth1', 'b:eth1']}]}",
            "already, on line 2",
        ),
    ] {
        let told = bad(text);
        assert!(told.contains(because), "{told}\nlacks {because}");
    }
}

/// Which interfaces and networks a node has is known where all its links are.
#[test]
fn what_commands_are_about_has_to_be_there() {
    let told = |command: &str| {
        bad(&format!(
            "name: a\ntopology:\n  nodes:\n    b:\n      kind: linux\n      exec: ['{command}']\n    c: {{kind: linux, exec: [bird]}}\n  links: [{{endpoints: ['b:eth1', 'c:eth1']}}]\n"
        ))
    };
    for (command, because) in [
        ("ip addr add 10.0.0.1/24 dev eth2", "`eth2`; did you mean `eth1`?"),
        ("ip link set eth7 up", "no link gives the node an interface `eth7`"),
        ("ip link set eth7 mtu 1400", "no link gives the node an interface `eth7`"),
        ("ip addr add 10.0.0.1/24 dev eth0", "management network"),
        ("ip route add default via 172.20.20.1", "the gateway 172.20.20.1 is in no network of the node"),
        ("ip route add 10.0.0.0/8 dev dummy0", "no link gives the node an interface `dummy0`"),
    ] {
        let told = told(command);
        assert!(told.starts_with("x.clab.yml:6: topology.nodes.b.exec[0]: "), "{told}");
        // That of the other node as well.
        assert!(told.contains(because) && told.lines().count() == 2, "{told}\nlacks {because}");
    }
}

/// Commands in the order in which they stand, as one node has them.
fn node(commands: &[&str]) -> crate::scenario::topology::Node {
    let exec = commands.iter().map(|one| format!("        - {one}\n")).collect::<String>();
    let text = format!(
        "name: a\ntopology:\n  nodes:\n    b:\n      kind: linux\n      sysctls: {{net.ipv4.conf.all.forwarding: 0, net.ipv4.conf.eth0.rp_filter: 0}}\n      exec:\n{exec}    c: {{kind: linux}}\n    d: {{kind: linux}}\n  links: [{{endpoints: ['b:eth1', 'c:eth1']}}, {{endpoints: ['b:eth2', 'd:eth1']}}]\n"
    );
    good(("a.clab.yml", &text), false).scenario.topology.nodes.swap_remove(0)
}

#[test]
fn what_commands_come_to_together() {
    // The usual way to change an address of hardware: the link is up at the end.
    let one = node(&[
        "ip link set eth1 down",
        "ip link set eth1 address 02:00:00:00:00:07",
        "ip link set eth1 up",
        "ip link set eth2 down",
    ]);
    assert_eq!(one.exec, ["ip link set eth2 down"]);
    assert_eq!(one.links[0].mac, "02:00:00:00:00:07".parse().ok());
    // What the topology says of forwarding counts, and a parameter of an interface that is not there is left out.
    let names: Vec<&str> = one.sysctls.keys().map(String::as_str).collect();
    assert_eq!(names, ["net.ipv4.conf.all.forwarding"]);

    // What needs what a command makes is a command, too.
    let one = node(&[
        "ip addr add 10.0.0.1/24 dev eth1",
        "ip addr add 10.255.0.1/32 dev lo",
        "ip route add 10.8.0.0/16 via 10.0.0.2 src 10.255.0.1",
        "ip link add br0 type bridge",
        "sysctl -w net.ipv4.conf.br0.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0",
    ]);
    assert!(one.routes.is_empty(), "{:?}", one.routes);
    let wanted = [
        "ip addr add 10.255.0.1/32 dev lo",
        "ip link add br0 type bridge",
        "sysctl -w net.ipv4.conf.br0.rp_filter=0",
        "ip route add 10.8.0.0/16 via 10.0.0.2 src 10.255.0.1",
    ];
    assert_eq!(one.exec, wanted);
    assert!(one.sysctls.contains_key("net.ipv4.conf.eth1.rp_filter"));

    // A route that is replaced has gone, one of the other family has not.
    let one = node(&[
        "ip addr add 10.0.0.1/24 dev eth1",
        "ip addr add 2001:db8::1/64 dev eth1",
        "ip route add default via 10.0.0.2",
        "ip -6 route add default via 2001:db8::2",
        "ip route replace default via 10.0.0.3",
    ]);
    let gateways: Vec<_> =
        one.routes.iter().filter_map(|route| route.via).map(|via| via.to_string()).collect();
    assert_eq!(gateways, ["2001:db8::2", "10.0.0.3"]);
}

/// What only the scenario's own rules know is told with the node that it is about.
#[test]
fn what_makes_no_scenario_is_told_with_its_node() {
    let text = "\
name: a
topology:
  nodes:
    one: {kind: linux, exec: [ip addr add 10.0.0.1/24 dev eth1]}
    two: {kind: linux, exec: [ip addr add 10.0.0.1/24 dev eth1]}
  links: [{endpoints: ['one:eth1', 'two:eth1']}]
";
    let told = bad(text);
    assert!(told.starts_with("x.clab.yml:5: topology.nodes.two: `two`:"), "{told}");
    assert!(told.contains("`one` has 10.0.0.1 on network"), "{told}");
}

/// Whatever was made of a topology says the same when it is read again.
#[test]
fn what_is_written_is_what_was_meant() {
    for topology in [topology!("two-hosts"), topology!("routed"), topology!("bridged"), topology!("lenient")]
    {
        let imported = good(topology, true);
        let mut read =
            load("mine.yaml", &imported.text).unwrap_or_else(|problems| panic!("{}", told(&problems)));
        read.name.clone_from(&imported.scenario.name);
        assert_eq!(read, imported.scenario);
        assert!(!imported.scenario.steps.is_empty());
    }
}

#[test]
fn a_node_that_has_only_some_of_a_group_s_fields_inherits_the_others() {
    let text = "\
name: a
topology:
  defaults: {group: all, sysctls: {net.ipv4.ip_forward: 0}}
  groups:
    all: {kind: linux, sysctls: {net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1}}
  nodes:
    one: {sysctls: {net.ipv6.conf.all.forwarding: 0}}
    two:
";
    let imported = good(("a.clab.yml", text), false);
    let values = |at: usize| {
        let node = &imported.scenario.topology.nodes[at];
        node.sysctls.values().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((values(0), values(1)), ("1 0".to_owned(), "1 1".to_owned()));
}
