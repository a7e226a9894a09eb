//! The agent as a service of systemd, and services of systemd that follow a group: with a real systemd as process 1 of namespaces of
//! its own. IPVS is not needed. Where such a machine cannot be made the test says so and passes, or fails when
//! BASCULE_KERNEL_TESTS=require.

mod machine;

use std::path::Path;

use machine::Machine;

const AGENT: &str = "bascule-agent.service";

const MANIFESTS: &str = r"
apiVersion: bascule.dev/v1alpha1
kind: VrrpGroup
metadata: {name: front}
spec:
  members: [{director: dir1, priority: 200}]
  advertisementInterval: 100ms
  instances:
  - {name: outside, interface: eth0, virtualRouterId: 30, addresses: [192.16.193.30/32]}
  services:
  - systemd: web.service
";

/// Is heartbeat's Apache: something that runs until it is stopped.
const WEB: &str = "[Unit]\nDescription=A web server\n[Service]\nExecStart=/bin/sleep infinity\nRestart=no\n";

fn boot() -> Option<Machine> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/bascule-agent.service");
    match Machine::boot(Path::new(env!("CARGO_BIN_EXE_bascule-agent")), &unit) {
        Ok(machine) => Some(machine),
        Err(why) => {
            let required = std::env::var_os("BASCULE_KERNEL_TESTS").is_some_and(|value| value == "require");
            assert!(!required, "BASCULE_KERNEL_TESTS=require, but {why}");
            eprintln!("not run here: {why}");
            None
        }
    }
}

fn state(machine: &Machine) -> String {
    let status = machine.ask("bascule-agent status -o json");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
    status["vrrp"]["groups"][0]["state"].as_str().unwrap_or("none").to_owned()
}

fn has_address(machine: &Machine) -> bool {
    machine.ask("ip -o address show dev eth0").contains(" 192.16.193.30/32 ")
}

fn is_active(machine: &Machine, unit: &str) -> bool {
    machine.systemctl(&format!("is-active {unit}")).status.success()
}

/// From the start to the end, with an upgrade, an agent that hangs, and a service that dies: in one test, because a machine takes
/// seconds to boot.
#[test]
fn a_service_of_systemd_follows_its_group() {
    let Some(machine) = boot() else { return };
    machine.write("/etc/bascule/manifests/front.yaml", MANIFESTS);
    machine.write("/etc/bascule/agent.env", "BASCULE_DIRECTOR=dir1\n");
    machine.write("/run/systemd/system/web.service", WEB);
    // So that the test need not wait half a minute for a hung agent to be noticed.
    machine.write("/run/systemd/system/bascule-agent.service.d/fast.conf", "[Service]\nWatchdogSec=4s\n");
    assert!(machine.systemctl("daemon-reload").status.success());

    let started = machine.systemctl(&format!("start {AGENT}"));
    assert!(started.status.success(), "{}", machine.story());
    machine.wait("the group is active and its service runs", |machine| {
        state(machine) == "Active" && has_address(machine) && is_active(machine, "web")
    });

    upgraded_in_place(&machine);
    replaced_when_it_hangs(&machine);
    restarted_once_and_then_a_fault(&machine);

    // The service had failed; the end of the agent must not leave it, or an address, behind.
    assert!(machine.systemctl(&format!("stop {AGENT}")).status.success(), "{}", machine.story());
    assert!(!is_active(&machine, "web") && !has_address(&machine), "{}", machine.story());
    assert_eq!(machine.property(AGENT, "Result"), "success", "{}", machine.story());
}

/// The unit's own words: `systemctl kill --kill-whom=main --signal=USR2 bascule-agent`.
fn upgraded_in_place(machine: &Machine) {
    let (before, web) = (machine.property(AGENT, "MainPID"), machine.property("web", "MainPID"));
    let upgrade = machine.systemctl(&format!("kill --kill-whom=main --signal=USR2 {AGENT}"));
    assert!(upgrade.status.success(), "{}", machine.story());
    machine.wait("another process is the service's main one", |machine| {
        let now = machine.property(AGENT, "MainPID");
        now != before && now != "0" && is_active(machine, AGENT) && state(machine) == "Active"
    });
    assert!(has_address(machine), "{}", machine.story());
    assert_eq!(machine.property("web", "MainPID"), web, "it was not touched: {}", machine.story());
    assert_eq!(machine.property(AGENT, "NRestarts"), "0", "{}", machine.story());
}

/// The watchdog. By then the addresses have gone by their lifetime, so that the next process begins as any other member would.
fn replaced_when_it_hangs(machine: &Machine) {
    let before = machine.property(AGENT, "MainPID");
    assert!(machine.run(&format!("kill -STOP {before}")).status.success());
    machine.wait("the kernel drops the address of an agent that does not renew it", |machine| {
        !has_address(machine)
    });
    machine.wait("systemd starts another process", |machine| {
        machine.property(AGENT, "NRestarts") == "1" && is_active(machine, AGENT)
    });
    machine.wait("the group is active again, with its service", |machine| {
        state(machine) == "Active" && has_address(machine) && is_active(machine, "web")
    });
}

fn restarted_once_and_then_a_fault(machine: &Machine) {
    let kill = |machine: &Machine| {
        let before = machine.property("web", "MainPID");
        assert!(machine.systemctl("kill --signal=KILL web").status.success());
        before
    };
    let before = kill(machine);
    machine.wait("it is started once more", |machine| {
        let now = machine.property("web", "MainPID");
        now != before && now != "0"
    });
    machine.wait("which the agent has seen", |machine| {
        machine.ask("bascule-agent status -o json").contains("\"Running\"")
    });
    assert_eq!(state(machine), "Active", "{}", machine.story());
    kill(machine);
    machine.wait("the group is given up", |machine| state(machine) == "Fault" && !has_address(machine));
}
