//! Others in Bascule's place: what the scenario becomes, and mistakes with line, field and a way out.

use super::step::Action;
use super::topology::Peer;
use super::{Scenario, load};

const GOOD: &str = "\
summary: one director
topology:
  networks: [{name: lan}]
  nodes:
    - name: dir1
      links: [{network: lan, interface: enp0s3, addresses: [192.16.193.1/24]}]
      files: {/etc/motd: hello}
      exec: ['true']
      agent: {manifests: {web.yaml: 'kind: VirtualService'}}
    - name: ClientA
      links: [{network: lan, interface: enp0s3, addresses: [192.16.193.100/24]}]
steps:
  - name: it is ready
    wait: {until: [{agentStatus: {node: dir1, values: {/ready: true}}}]}
  - name: the agent is killed
    fault: {killAgent: {node: dir1}}
  - name: it says why
    expect: [{agentStatus: {node: dir1, contains: [killed]}}]
peers:
  keepalived:
    summary: in its own words
    nodes:
      dir1:
        peer: {keepalived: {config: vrrp_instance a}}
        files: {/etc/issue: other}
        exec: ['date']
        sysctls: {net.ipv4.ip_forward: '1'}
    steps:
      - step: it is ready
        because: it has no status
        play:
          - {name: a moment, wait: {for: 1s}}
          - {name: it is ready, wait: {for: 2s}}
      - {step: it says why, because: it has no status}
";

fn good() -> Scenario {
    load("one.yaml", GOOD).unwrap_or_else(|problems| panic!("{}", problems[0]))
}

#[test]
fn the_peer_takes_the_place_of_the_agent_and_its_steps_those_of_the_scenario() {
    let scenario = good();
    let with = scenario.with_peer("keepalived").unwrap();
    assert_eq!(with.name, "one-with-keepalived");
    assert!(with.summary.contains("in its own words") && with.summary.contains("one director"));
    let node = with.topology.node("dir1").unwrap();
    assert!(node.agent.is_none() && matches!(node.peer, Some(Peer::Keepalived(_))));
    assert_eq!(node.files.len(), 2);
    assert_eq!(node.exec, ["true", "date"]);
    assert_eq!(node.sysctls.len(), 1);
    assert_eq!(with.topology.node("ClientA"), scenario.topology.node("ClientA"));
    let names: Vec<&str> = with.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["a moment", "it is ready", "the agent is killed"]);
    assert!(matches!(with.steps[1].action, Action::Wait(_)));
    assert!(with.peers.is_empty(), "it can be played as it is");
    let text = serde_json::to_string(&with).unwrap();
    assert!(
        load("one-with-keepalived.yaml", &text).is_ok_and(|again| again == with),
        "and is a file like others"
    );
}

#[test]
fn an_unknown_peer_is_told_with_those_that_there_are() {
    let told = good().with_peer("keepalive").unwrap_err();
    assert!(told.contains("did you mean `keepalived`?"), "{told}");
    let told = good().with_peer("heartbeat").unwrap_err();
    assert!(
        told.contains("one does not say how `heartbeat` is played") && told.contains("there is `keepalived`"),
        "{told}"
    );
    let alone = Scenario { peers: super::Peers::default(), ..good() };
    let told = alone.with_peer("keepalived").unwrap_err();
    assert!(told.contains("under `peers`"), "{told}");
}

/// Replaces `old` by `new` and wants exactly one problem: line, field, words.
fn refuses(old: &str, new: &str, line: usize, field: &str, words: &str) {
    assert!(GOOD.contains(old), "`{old}` is not in the scenario");
    let Err(problems) = load("one.yaml", &GOOD.replacen(old, new, 1)) else { panic!("`{new}` is accepted") };
    let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let [problem] = problems.as_slice() else { panic!("`{new}` gives\n{all}") };
    assert!(
        problem.line == line && problem.field == field && problem.message.contains(words),
        "`{new}` gives\n{all}\ninstead of line {line}, {field}, {words}"
    );
}

#[test]
fn mistakes_have_a_line_a_field_and_a_way_out() {
    let keepalived = "peer: {keepalived: {config: vrrp_instance a}}";
    refuses("  keepalived:\n", "  keepalivd:\n", 20, "peers.keepalivd", "did you mean `keepalived`?");
    refuses(
        keepalived,
        "peer: {keepalived: {}}",
        24,
        "peers.keepalived.nodes.dir1.peer.keepalived",
        "`config` is missing: `/etc/keepalived/keepalived.conf`",
    );
    refuses(
        keepalived,
        "peer: {keepalived: {config: ''}}",
        24,
        "peers.keepalived.nodes.dir1.peer.keepalived.config",
        "is empty",
    );
    refuses(
        keepalived,
        "peer: {heartbeat: {ha.cf: a, haresources: b}}",
        24,
        "peers.keepalived.nodes.dir1.peer.heartbeat",
        "`authkeys` is missing",
    );
    refuses(
        keepalived,
        "peer: {ipvsadm: {commands: date}}",
        24,
        "peers.keepalived.nodes.dir1.peer",
        "is `ipvsadm`, but stands under `peers.keepalived`",
    );
    refuses(
        "- step: it is ready",
        "- step: it is redy",
        29,
        "peers.keepalived.steps[0].step",
        "did you mean `it is ready`?",
    );
    refuses(
        "step: it says why",
        "step: it is ready",
        34,
        "peers.keepalived.steps[1].step",
        "otherwise twice",
    );
}

#[test]
fn every_agent_and_nobody_else_has_somebody_in_its_place() {
    let problems = load("one.yaml", &GOOD.replacen("      dir1:\n", "      ClientA:\n", 1)).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "one.yaml:22: peers.keepalived.nodes: does not say what `dir1` runs in place of its agent",
            "one.yaml:23: peers.keepalived.nodes.ClientA: `ClientA` has no agent, in whose place something could run",
        ]
    );
}

#[test]
fn what_is_left_of_the_scenario_has_to_fit_the_peer() {
    // A step that asks the agent, and of which nothing is said.
    refuses(
        "      - {step: it says why, because: it has no status}\n",
        "",
        18,
        "steps[2].expect[0].agentStatus.node",
        "say under `peers.keepalived.steps` what is played instead",
    );
    // What is played instead is judged like everything.
    refuses(
        "{name: a moment, wait: {for: 1s}}",
        "{name: a moment, exec: {node: dir2, command: date}}",
        32,
        "peers.keepalived.steps[0].play[0].exec.node",
        "with keepalived in Bascule's place: there is no node `dir2`",
    );
    refuses(
        "files: {/etc/issue: other}",
        "files: {etc/issue: other}",
        25,
        "peers.keepalived.nodes.dir1.files.etc/issue",
        "is not the absolute path of a file",
    );
}
