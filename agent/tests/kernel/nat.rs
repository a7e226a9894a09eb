//! Our nftables table.

use std::process::{Command, Stdio};

use bascule_agent::reconcile::{Options, PlaneName, Programmed};
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, binding},
    world::{in_namespace, ip, run, try_run, wait_until},
};

fn web(source_nat: &str, servers: &[&str]) -> VirtualServiceBindingSpec {
    binding(&["10.0.0.1"], 80, servers, json!({ "sourceNat": source_nat }))
}

fn nft(text: &str) {
    use std::io::Write as _;
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

/// Our table as `nft` lists it; empty without it.
fn table() -> String {
    let output = try_run("nft", "list table inet bascule");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn there_is_no_table_until_something_needs_it() {
    in_namespace(|| {
        let mut agent = Agent::start([("web", web("Never", &["10.1.0.1"]))]);
        assert_eq!(table(), "");
        agent.put("web", Some(web("Always", &["10.1.0.1", "10.1.0.2"])));
        let text = table();
        assert!(text.contains("masquerade"), "{text}");
        for element in ["10.0.0.1 . tcp . 80 . 10.1.0.1", "10.0.0.1 . tcp . 80 . 10.1.0.2"] {
            assert!(text.contains(element), "{element}: {text}");
        }
        agent.has_nothing_to_do();
        // One more real server is one more element, nothing else.
        agent.put("web", Some(web("Always", &["10.1.0.1", "10.1.0.3"])));
        let text = table();
        assert!(text.contains("10.1.0.3") && !text.contains("10.1.0.2"), "{text}");
        let operations: Vec<_> = agent.operations(PlaneName::Nat).into_iter().collect();
        assert_eq!(operations, [("change-elements", 1), ("replace-table", 1)]);
        agent.has_nothing_to_do();
        agent.put("web", Some(web("Never", &["10.1.0.1"])));
        assert_eq!(table(), "");
        agent.has_nothing_to_do();
    });
}

#[test]
fn every_kind_of_rule_is_taken_by_the_kernel_and_readable() {
    in_namespace(|| {
        ip("link add inside type dummy");
        ip("link set inside up");
        ip("address add 10.1.0.254/16 dev inside");
        ip("address add 2001:db8:1::fe/64 dev inside nodad");
        let both = ["10.1.0.1", "2001:db8:1::1"];
        let any_port = |source_nat: &str, address: &str| {
            let servers: Vec<_> = both
                .iter()
                .enumerate()
                .map(|(index, server)| {
                    json!({"name": format!("s{index}"), "address": server,
                "weight": 1, "forwarding": {"method": "Masquerade"}, "targetPorts": [0]})
                })
                .collect();
            binding(
                &[address],
                0,
                &[],
                json!({"sourceNat": source_nat, "realServers": servers,
                "persistence": {"timeoutSeconds": 60, "ipv4Prefix": 32, "ipv6Prefix": 128}}),
            )
        };
        let mark = |mark: u32, source_nat: &str, matched: Value| {
            binding(
                &[],
                0,
                &both,
                json!({"addresses": [], "ports": [], "sourceNat": source_nat,
                "fwmark": {"mark": mark, "families": ["IPv4", "IPv6"], "match": matched}}),
            )
        };
        let match4 = json!({"addresses": ["10.0.3.1-10.0.3.3"], "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 443}]});
        let match6 = json!({"addresses": ["2001:db8::3"], "ports": [{"protocol": "TCP", "port": 80}]});
        let addresses = ["10.0.0.1", "2001:db8::1"];
        let agent = Agent::start([
            ("always", binding(&addresses, 80, &both, json!({"sourceNat": "Always"}))),
            ("auto", binding(&addresses, 81, &both, json!({"sourceNat": "Auto"}))),
            ("any-always", any_port("Always", "10.0.1.1")),
            ("any-auto", any_port("Auto", "10.0.1.2")),
            ("any-always6", any_port("Always", "2001:db8::11")),
            ("any-auto6", any_port("Auto", "2001:db8::12")),
            ("mark-always", mark(7, "Always", match4)),
            ("mark-auto", mark(8, "Auto", match6)),
        ]);
        assert_eq!(agent.failures(), []);
        agent.has_nothing_to_do();
        let text = table();
        eprintln!("{text}");
        assert_eq!(text.matches("masquerade").count(), 12, "{text}");
        for part in [
            "10.0.0.1 . tcp . 80 . 10.1.0.1",
            "2001:db8::1 . tcp . 80 . 2001:db8:1::1",
            "10.0.3.2 . udp . 443 : 0x00000007",
            "2001:db8::3 . tcp . 80 : 0x00000008",
            "10.1.0.0/16 . 10.1.0.1",
            "2001:db8:1::/64 . 2001:db8:1::1",
            "type nat hook postrouting",
            "type route hook output",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        run("nft", "list ruleset");
    });
}

#[test]
fn what_somebody_does_to_it_is_put_back_and_other_tables_are_left_alone() {
    in_namespace(|| {
        nft(
            "add table inet other; add chain inet other input { type filter hook input priority 0; }; add rule inet other input counter accept",
        );
        let agent = Agent::start([("web", web("Always", &["10.1.0.1"]))]);
        let wanted = table();
        let others = run("nft", "-s list table inet other");
        let mut repaired = 0;
        for drift in [
            "flush table inet bascule",
            "delete table inet bascule",
            "flush set inet bascule source_always4",
            "add rule inet bascule postrouting counter drop",
            "insert rule inet bascule postrouting accept",
            "add chain inet bascule mine { type filter hook forward priority 0; policy drop; }",
            "add element inet bascule source_always4 { 10.0.0.9 . tcp . 80 . 10.1.0.1 }",
        ] {
            nft(drift);
            let took = wait_until(&format!("{drift} is put back"), || table() == wanted);
            eprintln!("{drift}: put back after {took:?}");
            repaired += 1;
            wait_until("the repair is counted", || agent.repaired(PlaneName::Nat) >= repaired);
        }
        assert_eq!(
            agent.repaired(PlaneName::Nat),
            repaired,
            "our own changes are not taken for somebody else's"
        );
        nft("add table inet third");
        agent.has_nothing_to_do();
        assert_eq!(run("nft", "-s list table inet other"), others);
        nft("flush ruleset");
        wait_until("all of it is put back", || table() == wanted);
    });
}

#[test]
fn a_restart_keeps_it_and_notices_what_was_changed_meanwhile() {
    in_namespace(|| {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path().join("run"));
        let start = || {
            Agent::start_with(
                options.clone(),
                DirectorConfigSpec::default(),
                [("web", web("Always", &["10.1.0.1"]))],
            )
        };
        start().stop();
        let wanted = table();
        let second = start();
        second.has_nothing_to_do();
        assert_eq!(second.operations(PlaneName::Nat).len(), 0);
        second.stop();
        nft("add rule inet bascule postrouting counter");
        assert_ne!(table(), wanted);
        let third = start();
        assert_eq!(table(), wanted);
        assert_eq!(third.programmed("web"), Programmed::Yes);
        assert!(third.run_dir().join("nftables.seal").exists());
    });
}

#[test]
fn auto_follows_the_networks() {
    in_namespace(|| {
        let agent = Agent::start([("web", web("Auto", &["172.16.193.10"]))]);
        assert!(!table().contains("172.16.0.0/16"));
        ip("link add inside type dummy");
        ip("link set inside up");
        ip("address add 172.16.193.254/16 dev inside");
        wait_until("the network is known", || table().contains("172.16.0.0/16 . 172.16.193.10"));
        ip("address del 172.16.193.254/16 dev inside");
        wait_until("it has gone", || !table().contains("172.16.0.0/16"));
        // Through a router, it is the router's network.
        ip("address add 10.5.0.1/24 dev inside");
        ip("route add 172.16.0.0/16 via 10.5.0.254");
        wait_until("the router's network counts", || table().contains("10.5.0.0/24 . 172.16.193.10"));
        wait_until("nothing is left to do", || agent.plan() == Ok(Vec::new()));
    });
}
