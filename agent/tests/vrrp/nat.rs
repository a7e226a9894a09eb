//! NatRules that follow a group, with the agent as a program.

use std::fs;

use crate::agent::Agent;
use crate::net::{Machine, Net, can_run, eventually};
use crate::pair::OUTSIDE;

const MANIFESTS: &str = "
apiVersion: bascule.dev/v1alpha1
kind: VrrpGroup
metadata: {name: front}
spec:
  members: [{director: dir1}]
  advertisementInterval: 100ms
  preempt: {enabled: true}
  instances: [{name: outside, interface: eth0, virtualRouterId: 30, addresses: [192.16.193.30/32]}]
---
apiVersion: bascule.dev/v1alpha1
kind: NatRule
metadata: {name: of-the-group, namespace: tp}
spec:
  vrrpGroup: front
  portForward: {address: 192.16.193.30, protocol: TCP, port: 80, to: 172.16.193.10}
---
apiVersion: bascule.dev/v1alpha1
kind: NatRule
metadata: {name: of-the-director, namespace: tp}
spec:
  director: dir1
  portForward: {inInterface: eth0, protocol: TCP, port: 81, to: 172.16.193.10}
";

/// Which of the two rules the kernel has.
fn rules(machine: &Machine) -> (bool, bool) {
    let arguments = ["netns", "exec", &machine.namespace, "nft", "list", "table", "inet", "bascule_nat"];
    let output = std::process::Command::new("ip").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (text.contains("tcp dport 80 "), text.contains("tcp dport 81 "))
}

#[test]
fn rules_of_a_group_go_with_its_addresses_and_others_stay() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let machine = net.machine(1);
    let directory = tempfile::tempdir().unwrap();
    for folder in ["m", "f"] {
        fs::create_dir(directory.path().join(folder)).unwrap();
    }
    fs::write(directory.path().join("m/nat.yaml"), MANIFESTS).unwrap();
    let is = |what: &str, address: bool, expected: (bool, bool)| {
        eventually(what, || (machine.has(OUTSIDE) == address && rules(&machine) == expected).then_some(()));
    };

    let agent = Agent::start(&machine, directory.path());
    is("it is active, and both are there", true, (true, true));
    machine.cable(0, false);
    is("without its network it is not", false, (false, true));
    machine.cable(0, true);
    is("it is again", true, (true, true));
    // Killed, it leaves its rules; who comes at once goes on.
    drop(agent);
    assert_eq!(rules(&machine), (true, true));
    let agent = Agent::start(&machine, directory.path());
    let status = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bascule-agent"));
        let output =
            command.args(["status", "--run-dir", "run"]).current_dir(directory.path()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually("it goes on", || status().contains("group front: Active").then_some(()));
    is("with both", true, (true, true));
    // A group of one leaves its addresses when the agent ends, and so the rules.
    agent.terminate();
    is("both are left", true, (true, true));
    // One that gives them up takes along what is its own.
    let release = MANIFESTS.replace("[{director: dir1}]", "[{director: dir1}, {director: dir2}]");
    fs::write(directory.path().join("m/nat.yaml"), release).unwrap();
    let agent = Agent::start(&machine, directory.path());
    eventually("it is active again", || status().contains("group front: Active").then_some(()));
    is("with both", true, (true, true));
    agent.terminate();
    is("only the director's is left", false, (false, true));
}
