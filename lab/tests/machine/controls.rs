//! Negative controls of what is expected of the kernel's IPVS.

use std::fs;

use super::{Lab, stdout, text};

/// A director with rules written by hand, as all scenarios here begin.
const DIRECTOR: &str = r"
summary: Rules written by hand.
requires: {kernel: [ipvs], programs: [ipvsadm]}
topology:
  networks: [{name: inside}]
  nodes:
    - name: Load-Balancer
      links: [{network: inside, interface: enp0s8, addresses: [172.16.193.254/16]}]
      exec:
        - ipvsadm -A -t 172.16.193.30:80 -s rr
        - ipvsadm -a -t 172.16.193.30:80 -r 172.16.193.10:80 -m -w 2
        - ipvsadm -a -t 172.16.193.30:80 -r 172.16.193.40:80 -m -w 1
";

/// Negative controls of what is expected of the kernel's IPVS: with the same rules a true expectation passes and each false one fails,
/// because of what is false in it.
pub(super) fn of_ipvs(lab: &Lab) {
    const STEPS: &str = r"steps:
  - name: it is judged
    expect: [{kernel: {node: Load-Balancer, WANTED}}]
";
    let (service, one, other) =
        ("'TCP 172.16.193.30:80 rr'", "'-> 172.16.193.10:80 Masq 2 0 0'", "'-> 172.16.193.40:80 Masq 1 0 0'");
    let destination =
        |weight: u32| format!("{{server: '172.16.193.10:80', forward: Masq, weight: {weight}}}");
    let services = |fields: &str| format!("services: [{{service: 'TCP 172.16.193.30:80', {fields}}}]");
    let both = |weight| format!("destinations: [{}, {{server: '172.16.193.40:80'}}]", destination(weight));
    let cases = [
        ("true-listing", format!("ipvsadm: [{service}, {one}, {other}]"), None),
        ("true-services", services(&format!("scheduler: rr, {}", both(2))), None),
        ("true-absence", "noServices: ['TCP 172.16.193.31:80']".to_owned(), None),
        ("listing-lacks-one", format!("ipvsadm: [{service}, {one}]"), Some("`ipvsadm -Ln` lists")),
        (
            "listing-other-weight",
            format!("ipvsadm: [{service}, {one}, '-> 172.16.193.40:80 Masq 9 0 0']"),
            Some("Masq 9"),
        ),
        ("listing-of-none", "ipvsadm: []".to_owned(), Some("ipvsadm -Ln")),
        ("services-other-scheduler", services("scheduler: wlc"), Some("has the scheduler wlc")),
        ("services-other-weight", services(&both(3)), Some("weight 3")),
        (
            "services-one-too-many",
            services(&format!("destinations: [{}]", destination(2))),
            Some("has no server 172.16.193.40:80"),
        ),
        (
            "services-absent",
            "services: [{service: 'UDP 172.16.193.30:80'}]".to_owned(),
            Some("a service UDP"),
        ),
        (
            "no-services-but-there",
            "noServices: ['TCP 172.16.193.30:80']".to_owned(),
            Some("no service TCP 172.16.193.30:80"),
        ),
    ];
    let cases: Vec<_> = cases
        .into_iter()
        .map(|(name, wanted, because)| {
            (name, [DIRECTOR, &STEPS.replace("WANTED", &wanted)].concat(), because)
        })
        .collect();
    play_controls(lab, &cases);
}

/// The same of when real servers leave and come back: one leaves by hand half a second after a step began.
pub(super) fn of_real_servers(lab: &Lab) {
    const STEPS: &str = r"steps:
  - name: both are there
    wait: {within: 60s, until: [{realServers: {node: Load-Balancer, service: 'TCP 172.16.193.30:80', servers: ['172.16.193.10:80', '172.16.193.40:80'], are: in}}]}
  - name: one leaves
    exec: {node: Load-Balancer, command: 'sleep 0.5; ipvsadm -d -t 172.16.193.30:80 -r 172.16.193.10:80'}
  - name: it has left
    wait: {within: 60s, until: [{realServers: {node: Load-Balancer, service: 'TCP 172.16.193.30:80', servers: ['172.16.193.10:80'], are: out}}]}
  - name: it is put back
    exec: {node: Load-Balancer, command: ipvsadm -a -t 172.16.193.30:80 -r 172.16.193.10:80 -m -w 0}
  - name: it is back
    wait: {within: 60s, until: [{realServers: {node: Load-Balancer, service: 'TCP 172.16.193.30:80', servers: ['172.16.193.10:80'], are: quiesced}}]}
  - name: it is judged
    expect: [{realServers: {node: Load-Balancer, service: 'TCP 172.16.193.30:80', WANTED}}]
";
    let left = "window: {since: one leaves, until: it is put back}";
    let one = "servers: ['172.16.193.10:80']";
    let both = "servers: ['172.16.193.10:80', '172.16.193.40:80']";
    let case = |name, wanted: String, because| {
        (name, [DIRECTOR, &STEPS.replace("WANTED", &wanted)].concat(), because)
    };
    play_controls(
        lab,
        &[
            case("true-out", format!("{one}, {left}, are: out, took: {{atMost: 60s}}, changes: 1"), None),
            case(
                "true-in",
                "servers: ['172.16.193.40:80'], are: in, weight: 1, changes: {atMost: 1}".into(),
                None,
            ),
            case("true-quiesced", format!("{one}, window: {{since: it is put back}}, are: quiesced"), None),
            case(
                "out-too-late",
                format!("{one}, {left}, are: out, took: {{atMost: 100ms}}"),
                Some("out: the time"),
            ),
            case("both-out", format!("{both}, {left}, are: out"), Some("2 servers out")),
            case("in-but-quiesced", format!("{one}, are: in"), Some("172.16.193.10:80 in")),
            case(
                "other-weight",
                "servers: ['172.16.193.40:80'], are: in, weight: 2".into(),
                Some("with weight 2"),
            ),
            case(
                "changed",
                format!("{one}, window: {{since: one leaves}}, changes: 0"),
                Some("exactly 0 changes"),
            ),
        ],
    );
}

/// The same of faults that need netem or a clock of the lab's own: without the fault each expectation holds, with it each fails.
pub(super) fn of_faults(lab: &Lab) {
    const SCENARIO: &str = r"
summary: A bad cable, and a clock that jumps.
topology:
  networks: [{name: lan}]
  nodes:
    - name: SRV1
      links: [{network: lan, interface: enp0s3, addresses: [172.16.193.10/16]}]
    - name: ClientB
      links: [{network: lan, interface: enp0s3, addresses: [172.16.193.50/16]}]
steps:
  - name: the time before
    exec: {node: SRV1, command: date +%s >/run/before}
FAULT
  - name: pings
    requests: {load: pings, from: ClientB, target: 'ping://172.16.193.10', rate: 100, count: 100, timeout: 1s}
  - name: it is judged
    expect: [EXPECT]
";
    let well = "{requests: {load: pings, ok: 100}}";
    let replies = "{frames: {node: ClientB, interface: enp0s3, filter: {protocol: icmp, source: 172.16.193.10}, count: {atMost: 100}}}";
    let steady = "{command: {node: SRV1, command: 'test $(( $(date +%s) - $(cat /run/before) )) -lt 1800 -a $(( $(date +%s) - $(cat /run/before) )) -ge 0'}}";
    let cable = |what: &str| format!("impair: {{node: SRV1, interface: enp0s3, {what}}}");
    let cases = [
        ("loss", cable("loss: 60%"), well, "exactly 100 ok"),
        ("delay", cable("direction: in, delay: 2s, jitter: 10ms"), well, "exactly 100 ok"),
        ("duplicate", cable("direction: out, duplicate: 100%"), replies, "at most 100 frames"),
        // 1000 bytes a second: 100 pings take four seconds at least, and not one.
        ("rate", cable("direction: out, rate: 8kbit"), well, "exactly 100 ok"),
        ("clock-forward", "clockStep: {forward: 1h}".into(), steady, "exits with 0"),
        ("clock-back", "clockStep: {back: 2h}".into(), steady, "exits with 0"),
    ];
    let mut all = Vec::new();
    for (name, fault, expect, because) in &cases {
        let scenario = |fault: &str| SCENARIO.replace("FAULT", fault).replace("EXPECT", expect);
        let step = format!("  - name: it breaks\n    fault: {{{fault}}}");
        all.push((format!("with-{name}"), scenario(&step), Some(*because)));
        all.push((format!("without-{name}"), scenario(""), None));
    }
    let cases: Vec<_> =
        all.iter().map(|(name, text, because)| (name.as_str(), text.clone(), *because)).collect();
    let before = stdout(&lab.shell("date +%s")).trim().parse::<u64>().expect("a number");
    play_controls(lab, &cases);
    // What the scenarios did not heal, their ends did.
    let after = stdout(&lab.shell("date +%s")).trim().parse::<u64>().expect("a number");
    assert!((before..before + 1800).contains(&after), "the clock went from {before} to {after}");
}

/// Plays scenarios: each has to pass, or to fail because of what is said beside it.
fn play_controls(lab: &Lab, cases: &[(&str, String, Option<&str>)]) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let results = folder.path().join("results");
    let mut arguments: Vec<String> =
        ["run", "--kernel", "vm", "--out", results.to_str().expect("UTF-8")].map(str::to_owned).into();
    for (name, scenario, _) in cases {
        let file = folder.path().join(format!("{name}.yaml"));
        fs::write(&file, scenario).expect("writable");
        arguments.push(file.to_str().expect("UTF-8").to_owned());
    }
    let output = lab.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), text(&output.stderr));
    for (name, _, because) in cases {
        let result = fs::read(results.join(name).join("result.json")).expect("it was fetched");
        let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
        let (verdict, reason) = (&result["verdict"], result["reason"].as_str().expect("a text"));
        match because {
            None => assert_eq!(verdict, "passed", "{name}: {reason}"),
            Some(because) => {
                assert_eq!(verdict, "failed", "{name}: {reason}");
                assert!(reason.contains(because), "{name} failed, but because of: {reason}");
            }
        }
    }
}
