//! Mistakes in scenario files: each with its line, its field and a way out.

use super::load;

const GOOD: &str = "\
summary: one client, one server
topology:
  networks:
    - name: lan
  nodes:
    - name: SRV1
      links:
        - {network: lan, interface: enp0s3, addresses: [172.16.193.10/16]}
      servers:
        - {name: apache2, http: [80]}
    - name: ClientB
      links:
        - {network: lan, interface: enp0s3, addresses: [172.16.193.50/16]}
      routes:
        - {to: default, via: 172.16.193.254}
steps:
  - name: ClientB asks
    requests: {load: pages, from: ClientB, target: 'http://172.16.193.10/', rate: 50, count: 10}
  - name: all pages came
    expect:
      - requests: {load: pages, ok: 10}
";

#[test]
fn a_good_scenario_loads_and_survives_a_round_trip() {
    let scenario = load("folder/plain.yaml", GOOD).unwrap();
    assert_eq!(scenario.name, "plain");
    assert_eq!(scenario.steps.len(), 2);
    let value = serde_json::to_value(&scenario).unwrap();
    let violations = super::check::check(super::schema::schema(), &value);
    assert!(violations.is_empty(), "{violations:?}");
    let mut back: super::Scenario = serde_json::from_value(value).unwrap();
    back.name.clone_from(&scenario.name);
    assert_eq!(back, scenario);
}

/// Replaces `old` by `new` in the good scenario and wants exactly one problem: line, field, words.
fn refuses(old: &str, new: &str, line: usize, field: &str, words: &str) {
    assert!(GOOD.contains(old), "`{old}` is not in the scenario");
    let text = GOOD.replacen(old, new, 1);
    let Err(problems) = load("plain.yaml", &text) else { panic!("`{new}` is accepted") };
    let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let [problem] = problems.as_slice() else { panic!("`{new}` gives\n{all}") };
    assert!(
        problem.line == line && problem.field == field && problem.message.contains(words),
        "`{new}` gives\n{all}instead of line {line}, {field}, {words}"
    );
}

#[test]
fn structure() {
    refuses(
        "name: SRV1\n",
        "nome: SRV1\n      name: SRV1\n",
        6,
        "topology.nodes[0].nome",
        "did you mean `name`?",
    );
    refuses("rate: 50", "rat: 50", 18, "steps[0].requests.rat", "did you mean `rate`?");
    refuses("rate: 50", "rate: fast", 18, "steps[0].requests.rate", "a whole number");
    refuses("rate: 50", "rate: 0", 18, "steps[0].requests.rate", "at least 1");
    refuses("rate: 50", "rate:", 18, "steps[0].requests.rate", "is empty");
    refuses("    requests: {", "    reqests: {", 18, "steps[0].reqests", "did you mean `requests`?");
    refuses("    expect:\n", "    wait: {for: 1s}\n    expect:\n", 19, "steps[1]", "exactly one of them");
    refuses("ok: 10", "ok: ten", 21, "steps[1].expect[0].requests.ok", "a whole number or an object");
    refuses(
        "ok: 10",
        "ok: {atLeast: 9, atMots: 10}",
        21,
        "steps[1].expect[0].requests.ok.atMots",
        "`atMost`",
    );
}

#[test]
fn values() {
    refuses("172.16.193.50/16", "172.16.193.50/33", 13, "topology.nodes[1].links[0].addresses[0]", "prefix");
    refuses("to: default", "to: everywhere", 15, "topology.nodes[1].routes[0].to", "`default`");
    refuses("name: SRV1", "name: SRV 1", 6, "topology.nodes[0].name", "cannot be a name");
    refuses("http: [80]", "http: [0]", 10, "topology.nodes[0].servers[0].http[0]", "at least 1");
    refuses("count: 10", "duration: 1.5s", 18, "steps[0].requests.duration", "is not a duration");
    refuses(
        "interface: enp0s3, ",
        "interface: enp0s3enp0s3enp0s3, ",
        8,
        "topology.nodes[0].links[0].interface",
        "at most 15",
    );
}

#[test]
fn references() {
    refuses("from: ClientB", "from: ClientA", 18, "steps[0].requests.from", "did you mean `ClientB`?");
    refuses("network: lan", "network: wan", 8, "topology.nodes[0].links[0].network", "did you mean `lan`?");
    refuses(
        "{load: pages, ok",
        "{load: page, ok",
        21,
        "steps[1].expect[0].requests.load",
        "did you mean `pages`?",
    );
    refuses(
        "- name: SRV1
      links:",
        "- name: ClientB
      links:",
        11,
        "topology.nodes[1].name",
        "two nodes",
    );
    refuses(
        "172.16.193.50/16",
        "172.16.193.10/16",
        13,
        "topology.nodes[1].links[0].addresses[0]",
        "`SRV1` has 172.16.193.10",
    );
    refuses(
        "via: 172.16.193.254",
        "via: 10.0.0.1",
        15,
        "topology.nodes[1].routes[0].via",
        "is in no network",
    );
    refuses("http: [80]", "http: []", 10, "topology.nodes[0].servers[0]", "listens nowhere");
    refuses("all pages came", "ClientB asks", 19, "steps[1].name", "two steps");
    refuses("count: 10", "count: 10, duration: 1s", 18, "steps[0].requests", "at most one");
    refuses(", count: 10", "", 18, "steps[0].requests", "never end");
    refuses(
        "http://172.16.193.10/",
        "ftp://172.16.193.10/",
        18,
        "steps[0].requests.target",
        "`http`, `tcp`, `udp` and `ping`",
    );
    refuses("http://172.16.193.10/", "http://srv1/", 18, "steps[0].requests.target", "neither an address");
    refuses(
        "ok: 10",
        "ok: 10, window: {since: never}",
        21,
        "steps[1].expect[0].requests.window.since",
        "no step `never`",
    );
    refuses("load: pages, ok: 10", "load: pages", 21, "steps[1].expect[0].requests", "expects nothing");
}

/// The first step replaced by one that cannot be.
fn refuses_step(step: &str, field: &str, words: &str) {
    let begin = GOOD.find("    requests: {load").unwrap();
    let end = GOOD.find("  - name: all pages").unwrap();
    let text = format!("{}    {step}\n", &GOOD[..begin]);
    assert!(end > begin);
    let problems = load("plain.yaml", &text).err().unwrap_or_default();
    assert!(
        problems.len() == 1
            && problems[0].line == 18
            && problems[0].field == field
            && problems[0].message.contains(words),
        "`{step}` gives {problems:?}"
    );
}

#[test]
fn steps_and_faults() {
    refuses_step(
        "fault: {adminDwn: {node: SRV1, interface: enp0s3}}",
        "steps[0].fault.adminDwn",
        "did you mean `adminDown`?",
    );
    refuses_step(
        "fault: {adminDown: {node: SRV1, interface: enp0s8}}",
        "steps[0].fault.adminDown.interface",
        "`enp0s3`",
    );
    refuses_step(
        "fault: {adminDown: {node: SRV11, interface: enp0s3}}",
        "steps[0].fault.adminDown.node",
        "`SRV1`",
    );
    refuses_step(
        "inject: {adminDown: {node: SRV1, interface: enp0s3}}",
        "steps[0].inject",
        "did you mean `fault`?",
    );
    refuses_step("wait: {for: 60}", "steps[0].wait.for", "such as `60s`");
    refuses_step(
        "fault: {adminDown: {node: SRV1, interface: enp0s3, xyzzy: 1}}",
        "steps[0].fault.adminDown.xyzzy",
        "fields here: interface, node",
    );
    refuses_step("fault: {killAgent: {node: SRV1}}", "steps[0].fault.killAgent.node", "has no agent");
    refuses_step(
        "fault: {stopService: {node: SRV1, service: apache}}",
        "steps[0].fault.stopService.service",
        "`apache2`",
    );
    refuses_step(
        "fault: {partition: {network: lan, groups: [[SRV1]]}}",
        "steps[0].fault.partition.groups",
        "at least 2",
    );
    refuses_step(
        "fault: {partition: {network: lan, groups: [[SRV1], [SRV1]]}}",
        "steps[0].fault.partition.groups[1][0]",
        "twice",
    );
    refuses_step("heal: {crash: {node: SRV1}}", "steps[0].heal", "nothing to heal");
    refuses_step("wait: {}", "steps[0].wait", "one of `for` and `until` is missing");
    refuses_step("wait: {for: 2h}", "steps[0].wait.for", "between");
    refuses_step("apply: {node: SRV1, delete: [a]}", "steps[0].apply.node", "has no agent");
    refuses_step(
        "server: {node: SRV1, server: apache2, mode: slwo}",
        "steps[0].server.mode",
        "did you mean `slow`?",
    );
    refuses_step(
        "capture: {node: SRV1, interface: eth0}",
        "steps[0].capture.interface",
        "no interface `eth0`",
    );
    refuses_step("stop: {load: x}", "steps[0].stop.load", "no earlier step");
    refuses_step("expect: [{plan: {node: SRV1}}]", "steps[0].expect[0].plan.node", "has no agent");
    refuses_step("expect: [{holders: {address: 1.2.3.4}}]", "steps[0].expect[0].holders", "expects nothing");
    refuses_step(
        "expect: [{log: {node: SRV1, program: nginx, contains: x}}]",
        "steps[0].expect[0].log.program",
        "`apache2`",
    );
}

#[test]
fn files_that_are_no_scenarios() {
    for (text, words) in [("", "is empty"), ("---\na: 1\n---\nb: 2\n", "one document"), ("a: 1\na: 2\n", "a")]
    {
        let problems = load("x.yaml", text).unwrap_err();
        assert!(problems[0].message.contains(words), "{text:?} gives {problems:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("junk.yaml");
    std::fs::write(&path, b"summary: x\n\xff\xfe\x00").unwrap();
    assert_eq!(super::load_file(&path).unwrap_err()[0].line, 2);
    assert!(super::load_file(folder.path()).unwrap_err()[0].message.contains("not a file"));
    assert!(
        super::load_file(&folder.path().join("none.yaml")).unwrap_err()[0].message.contains("cannot be read")
    );
}
