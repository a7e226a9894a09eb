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
    let impair = |what: &str, field: &str, words: &str| {
        let step = format!("fault: {{impair: {{node: SRV1, interface: enp0s3{what}}}}}");
        refuses_step(&step, &format!("steps[0].fault.impair{field}"), words);
    };
    impair("", "", "does nothing");
    impair(", loss: 30", ".loss", "a string");
    impair(", loss: 130%", ".loss", "not a part of a hundred");
    impair(", lost: 30%", ".lost", "did you mean `loss`?");
    impair(", rate: 10mbps", ".rate", "`10mbit`");
    impair(", loss: 1%, jitter: 10ms", ".jitter", "belongs to `delay`");
    impair(", loss: 1%, reorder: 10%", ".reorder", "belongs to `delay`");
    impair(", delay: 10ms, jitter: 20ms", ".jitter", "the delay, 10ms");
    impair(", delay: 1m", ".delay", "10s");
    refuses_step(
        "fault: {packetFilter: {node: SRV1, protocol: icmp, port: 80}}",
        "steps[0].fault.packetFilter.protocol",
        "`tcp`",
    );
    refuses_step(
        "fault: {packetFilter: {node: SRV1, protocol: tcp, port: 0}}",
        "steps[0].fault.packetFilter.port",
        "at least 1",
    );
    refuses_step("fault: {diskFull: {node: SRV2}}", "steps[0].fault.diskFull.node", "did you mean `SRV1`?");
    refuses_step("fault: {clockStep: {forward: 1m}}", "steps[0].fault.clockStep.forward", "1h");
    refuses_step("fault: {clockStep: {}}", "steps[0].fault.clockStep", "one of `forward` and `back`");
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
fn expectations_that_cannot_be_decided() {
    let refuses = |expectation: &str, field: &str, words: &str| {
        refuses_step(&format!("expect: [{expectation}]"), &format!("steps[0].expect[0]{field}"), words);
    };
    refuses("{within: 1s, always: 1s, rest: {quietFor: 1s}}", "", "at most one of");
    refuses("{always: 0s, rest: {quietFor: 1s}}", ".always", "between 1ms");
    refuses("{never: 2h, rest: {quietFor: 1s}}", ".never", "30m");
    refuses("{within: 1s, rest: {quietFor: 2s}}", ".rest.quietFor", "could not be seen in time");
    refuses("{rest: {quietFor: 2s, nodes: [SRV2]}}", ".rest.nodes[0]", "did you mean `SRV1`?");
    refuses("{metric: {node: SRV1, name: x, equals: 1}}", ".metric.node", "has no agent");
    refuses("{event: {node: SRV1, group: front}}", ".event.node", "has no agent");
    refuses(
        "{frames: {node: SRV1, interface: enp0s3, count: {atLeast: 3, atMost: 2}}}",
        ".frames.count",
        "nothing could be that",
    );
    refuses_step(
        "wait: {until: [{always: 1s, rest: {quietFor: 1s}}]}",
        "steps[0].wait.until[0].always",
        "an `expect` step",
    );
}

#[test]
fn events_are_of_what_an_agent_is_told_and_asked_for() {
    let manifests = "\
        agent: {manifests: {a.yaml: \"kind: VrrpGroup\\nmetadata: {name: front}\\nspec: {NOTIFY}\\n---\\nkind: VirtualService\\n\
        metadata: {name: web, namespace: tp}\\nspec: {realServers: [{name: srv1}]}\\n\"}}";
    let with = |notify: &str, event: &str| {
        let server = "      servers:\n        - {name: apache2, http: [80]}\n";
        let agent = manifests.replace("NOTIFY", notify);
        let text = GOOD.replacen(server, &format!("{server}      {}\n", agent.trim_start()), 1);
        let text =
            text.replacen("requests: {load: pages, ok: 10}", &format!("event: {{node: SRV1, {event}}}"), 1);
        load("plain.yaml", &text).err().unwrap_or_default()
    };
    let stream = "notify: {eventStream: true}";
    for good in [
        "group: front",
        "group: front, from: Backup, to: Active, reason: heard, count: {atMost: 2}, window: {since: ClientB asks}",
        "virtualService: tp/web, realServer: srv1, to: Down",
        "virtualService: tp/web, quorum: Lost",
    ] {
        let problems = with(stream, good);
        assert!(problems.is_empty(), "{good}: {problems:?}");
    }
    let refuses = |notify: &str, event: &str, field: &str, words: &str| {
        let problems = with(notify, event);
        let [problem] = problems.as_slice() else { panic!("`{event}` gives {problems:?}") };
        let place = format!("steps[1].expect[0].event{field}");
        assert!(problem.field == place && problem.message.contains(words), "`{event}` gives {problem:?}");
    };
    refuses("", "group: front", ".node", "eventStream: true");
    refuses(stream, "group: frnt", ".group", "did you mean `front`?");
    refuses(stream, "virtualService: tp/wob", ".virtualService", "did you mean `tp/web`?");
    refuses(stream, "virtualService: tp/web, realServer: srv2", ".realServer", "did you mean `srv1`?");
    refuses(stream, "to: Active", "", "give it `group` or `virtualService`");
    refuses(stream, "group: front, virtualService: tp/web", "", "only one of them");
    refuses(stream, "group: front, realServer: srv1", ".realServer", "belongs to `virtualService`");
    refuses(stream, "virtualService: tp/web, quorum: Met, to: Up", ".quorum", "leave them out");
    refuses(stream, "group: front, to: Down", ".to", "a state of a real server");
    refuses(stream, "virtualService: tp/web, from: Active", ".from", "a state of a group");
    refuses(stream, "group: front, to: Master", ".to", "Active");
    refuses(stream, "group: front, window: {since: later}", ".window.since", "there is no step");
}

#[test]
fn bonds() {
    let link = "- {network: lan, interface: enp0s3, addresses: [172.16.193.10/16]}";
    let bonded = |bond: &str, step: &str| {
        let two =
            format!("- {{network: lan, interface: bond0, addresses: [172.16.193.10/16], bond: {{{bond}}}}}");
        let steps = format!("steps:\n  - name: before\n    {step}\n");
        load("plain.yaml", &GOOD.replacen(link, &two, 1).replacen("steps:\n", &steps, 1))
    };
    let wait = "wait: {for: 1s}";
    let refuses = |bond: &str, step: &str, field: &str, words: &str| {
        let problems = bonded(bond, step).unwrap_err();
        let [problem] = problems.as_slice() else { panic!("{bond} {step} gives {problems:?}") };
        assert!(problem.field.ends_with(field) && problem.message.contains(words), "{problem:?}");
    };
    let legs = "legs: [enp0s3, enp0s8]";
    let scenario = bonded(legs, "fault: {carrierLost: {node: SRV1, interface: enp0s8}}").unwrap();
    assert!(scenario.features().contains(&super::Feature::Bonding));
    bonded(&format!("{legs}, mode: lacp, hash: layer3+4"), wait).unwrap();
    refuses("legs: []", wait, "bond.legs", "at least 1");
    refuses("legs: [enp0s3, enp0s3]", wait, "bond.legs[1]", "two interfaces");
    refuses("legs: [enp0s3, bond0]", wait, "bond.legs[1]", "two interfaces");
    refuses(&format!("{legs}, hash: layer3+4"), wait, "bond.hash", "one cable carries all");
    refuses(&format!("{legs}, mode: lcap"), wait, "bond.mode", "did you mean `lacp`?");
    refuses(&format!("{legs}, monitor: 1m"), wait, "bond.monitor", "10s");
    let lost = "fault: {carrierLost: {node: SRV1, interface: bond0}}";
    refuses(legs, lost, "carrierLost.interface", "name one of its cables: `enp0s3` and `enp0s8`");
    let hole = "fault: {blackhole: {node: SRV1, interface: enp0s3}}";
    refuses(legs, hole, "blackhole.interface", "can only be lost");
    let late = "fault: {impair: {node: SRV1, interface: enp0s3, delay: 1ms}}";
    refuses(legs, late, "impair.interface", "can only be lost");
    let parted = "fault: {partition: {network: lan, groups: [[SRV1], [ClientB]]}}";
    refuses(legs, parted, "groups[0][0]", "bonded cables");
}

#[test]
fn faults_that_exclude_each_other() {
    let twice = |first: &str, second: &str| {
        let steps = format!(
            "steps:\n  - {{name: one, fault: {{{first}}}}}\n  - {{name: two, fault: {{{second}}}}}\n"
        );
        load("plain.yaml", &GOOD.replacen("steps:\n", &steps, 1))
    };
    let end = |rest: &str| format!("impair: {{node: SRV1, interface: enp0s3, {rest}}}");
    for (first, second) in [
        ("clockStep: {forward: 1h}".to_owned(), "clockStep: {back: 1h}".to_owned()),
        (end("loss: 1%"), end("direction: in, delay: 1ms")),
        (end("direction: out, loss: 1%"), end("direction: out, delay: 1ms")),
    ] {
        let problems = twice(&first, &second).unwrap_err();
        assert!(problems.len() == 1 && problems[0].message.contains("heal it first"), "{problems:?}");
    }
    let scenario = twice(&end("direction: in, loss: 1%"), &end("direction: out, delay: 1ms")).unwrap();
    assert!(scenario.features().contains(&super::Feature::Netem) && !scenario.moves_the_clock());
    assert!(twice("clockStep: {back: 1h}", "diskFull: {node: SRV1}").unwrap().moves_the_clock());
}

#[test]
fn what_would_take_forever_and_networks_that_overlap() {
    refuses("count: 10", "count: 1000000", 18, "steps[0].requests.count", "longer than 30m");
    refuses_step("exec: {node: SRV1, command: 'true', timeout: 1h}", "steps[0].exec.timeout", "30m");
    let two = GOOD.replace("    - name: lan\n", "    - name: lan\n    - name: wan\n").replace(
        "      servers:\n",
        "        - {network: wan, interface: enp0s8, addresses: [172.16.7.1/24, 172.17.0.1/16]}\n      servers:\n",
    );
    let problems = load("plain.yaml", &two).unwrap_err();
    assert!(
        problems.len() == 1
            && problems[0].line == 10
            && problems[0].message.contains("overlaps with 172.16.193.10/16 of `enp0s3` on network `lan`"),
        "{problems:?}"
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
