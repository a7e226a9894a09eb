//! Services and real servers: what is programmed, what a change costs, what comes back.

use std::time::Duration;

use bascule_agent::reconcile::{PlaneName, Programmed};
use bascule_crds::VirtualServiceBindingSpec;
use serde_json::{Value, json};

use crate::{
    agent::{Agent, binding, key},
    world::{in_namespace, ipvsadm, rules, wait_until},
};

fn web(weight: u32) -> VirtualServiceBindingSpec {
    binding(&["192.16.193.30"], 80, &["172.16.193.10", &format!("172.16.193.40*{weight}")], json!({}))
}

#[test]
fn the_rules_of_the_tp() {
    in_namespace(|| {
        let agent = Agent::start([("web", web(1))]);
        assert_eq!(
            rules(),
            [
                "-A -t 192.16.193.30:80 -s rr",
                "-a -t 192.16.193.30:80 -r 172.16.193.10:80 -m -w 1",
                "-a -t 192.16.193.30:80 -r 172.16.193.40:80 -m -w 1",
            ]
        );
        agent.has_nothing_to_do();
        assert_eq!(agent.programmed("web"), Programmed::Yes);
    });
}

#[test]
fn every_kind_of_service_is_programmed_and_then_nothing_is_left_to_do() {
    in_namespace(|| {
        let all = [
            (
                "ranges",
                binding(
                    &["10.0.0.1-10.0.0.3", "2001:db8::1"],
                    443,
                    &["10.1.0.1", "2001:db8:1::1"],
                    json!({"scheduler": {"name": "wlc"}}),
                ),
            ),
            (
                "persistent",
                binding(
                    &["10.0.1.1", "2001:db8::2"],
                    80,
                    &["10.1.0.1", "2001:db8:1::1"],
                    json!({"persistence": {"timeoutSeconds": 60, "ipv4Prefix": 24, "ipv6Prefix": 64}}),
                ),
            ),
            (
                "any-port",
                binding(
                    &["10.0.1.2"],
                    0,
                    &[],
                    json!({"persistence": {"timeoutSeconds": 60, "ipv4Prefix": 32, "ipv6Prefix": 128},
                    "realServers": [{"name": "a", "address": "10.1.0.1", "weight": 1, "forwarding": {"method": "Masquerade"}, "targetPorts": [0]}]}),
                ),
            ),
            (
                "udp",
                binding(
                    &["10.0.2.1"],
                    53,
                    &["10.1.0.1"],
                    json!({"ports": [{"protocol": "UDP", "port": 53}], "onePacket": true}),
                ),
            ),
            (
                "sctp",
                binding(
                    &["10.0.2.2"],
                    99,
                    &["10.1.0.1"],
                    json!({"ports": [{"protocol": "SCTP", "port": 99}]}),
                ),
            ),
            (
                "hash",
                binding(
                    &["10.0.3.1"],
                    80,
                    &["10.1.0.1"],
                    json!({"scheduler": {"name": "sh", "fallback": true, "hashPort": true}}),
                ),
            ),
            (
                "maglev",
                binding(
                    &["10.0.3.2"],
                    80,
                    &["10.1.0.1"],
                    json!({"scheduler": {"name": "mh", "hashPort": true}}),
                ),
            ),
            (
                "direct",
                binding(&["10.0.4.1"], 80, &["10.1.0.1*0", "10.1.0.2*7"], json!({"method": "DirectRouting"})),
            ),
            (
                "tunnel",
                binding(
                    &["10.0.5.1", "2001:db8::5"],
                    80,
                    &[],
                    json!({"realServers": [
                {"name": "ipip", "address": "10.1.0.1", "weight": 1, "forwarding": {"method": "Tunnel"}, "targetPorts": [80]},
                {"name": "gue", "address": "10.1.0.2", "weight": 1, "forwarding": {"method": "Tunnel", "tunnel": {"type": "GUE", "port": 6080, "checksum": "Remote"}}, "targetPorts": [80]},
                {"name": "gre", "address": "10.1.0.3", "weight": 1, "forwarding": {"method": "Tunnel", "tunnel": {"type": "GRE", "checksum": "Full"}}, "targetPorts": [80]},
                {"name": "six", "address": "2001:db8:1::1", "weight": 1, "forwarding": {"method": "Tunnel"}, "targetPorts": [80]}]}),
                ),
            ),
            (
                "limits",
                binding(
                    &["10.0.6.1"],
                    80,
                    &[],
                    json!({"realServers": [
                {"name": "a", "address": "10.1.0.1", "weight": 1, "forwarding": {"method": "Masquerade"}, "targetPorts": [8080], "limits": {"upper": 100, "lower": 50}}]}),
                ),
            ),
            ("local", binding(&["10.0.7.1"], 80, &["127.0.0.1"], json!({}))),
            (
                "mark",
                binding(
                    &[],
                    0,
                    &["10.1.0.1", "2001:db8:1::1"],
                    json!({"ports": [], "addresses": [], "fwmark": {"mark": 7, "families": ["IPv4", "IPv6"]}}),
                ),
            ),
            (
                "sip",
                binding(
                    &["10.0.8.1"],
                    5060,
                    &["10.1.0.1"],
                    json!({"ports": [{"protocol": "UDP", "port": 5060}],
                "persistence": {"timeoutSeconds": 60, "ipv4Prefix": 32, "ipv6Prefix": 128, "engine": "sip"}}),
                ),
            ),
        ];
        let mut agent = Agent::start(all);
        assert_eq!(agent.failures(), []);
        agent.has_nothing_to_do();
        let rules = rules();
        for expected in [
            "-A -t 10.0.0.2:443 -s wlc",
            "-a -t [2001:db8::1]:443 -r [2001:db8:1::1]:443 -m -w 1",
            "-A -t 10.0.1.1:80 -s rr -p 60 -M 255.255.255.0",
            "-A -t [2001:db8::2]:80 -s rr -p 60 -M 64",
            "-A -t 10.0.1.2:0 -s rr -p 60",
            "-A -u 10.0.2.1:53 -s rr -o",
            "-A --sctp-service 10.0.2.2:99 -s rr",
            "-A -t 10.0.3.1:80 -s sh -b sh-fallback,sh-port",
            "-A -t 10.0.3.2:80 -s mh -b mh-port",
            "-a -t 10.0.4.1:80 -r 10.1.0.1:80 -g -w 0",
            "-a -t 10.0.6.1:80 -r 10.1.0.1:8080 -m -w 1",
            "-A -f 7 -s rr",
            "-A -f 7 -6 -s rr",
            "-a -f 7 -r 10.1.0.1:0 -m -w 1",
            "-A -u 10.0.8.1:5060 -s rr -p 60 --pe sip",
        ] {
            assert!(
                rules.iter().any(|rule| rule == expected),
                "{expected} is not among\n{}",
                rules.join("\n")
            );
        }
        assert_eq!(
            rules
                .iter()
                .filter(|rule| rule.contains("10.0.5.1:80") || rule.contains("[2001:db8::5]:80"))
                .count(),
            10
        );
        let limits = ipvsadm("-Ln --thresholds -t 10.0.6.1:80");
        let line: Vec<_> = limits.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(line[..4], ["->", "10.1.0.1:8080", "100", "50"]);
        for name in ["ranges", "tunnel", "mark", "local"] {
            agent.put(name, None);
        }
        assert!(!crate::world::rules().iter().any(|rule| rule.contains("10.0.0.") || rule.contains("-f 7")));
        agent.has_nothing_to_do();
    });
}

#[test]
fn a_changed_field_costs_one_command_and_removes_nothing() {
    in_namespace(|| {
        let server = |more: Value| {
            let mut server = json!({"name": "a", "address": "10.1.0.1", "weight": 1,
                "forwarding": {"method": "Tunnel"}, "targetPorts": [80]});
            for (field, value) in more.as_object().unwrap() {
                server[field] = value.clone();
            }
            server
        };
        let other = server(json!({"name": "b", "address": "10.1.0.2"}));
        let spec = |fields: Value, changed: Value| {
            let mut more = fields;
            more["realServers"] = json!([server(changed), other]);
            binding(&["10.0.0.1"], 80, &[], more)
        };
        let plain = || spec(json!({}), json!({}));
        let mut agent = Agent::start([("web", plain())]);
        let persistence = json!({"timeoutSeconds": 60, "ipv4Prefix": 24, "ipv6Prefix": 64});
        let services = [
            json!({"scheduler": {"name": "wrr"}}),
            json!({"scheduler": {"name": "sh", "fallback": true}}),
            json!({"scheduler": {"name": "sh", "hashPort": true}}),
            json!({ "persistence": persistence }),
            json!({"persistence": {"timeoutSeconds": 61, "ipv4Prefix": 24, "ipv6Prefix": 64}}),
            json!({"persistence": {"timeoutSeconds": 61, "ipv4Prefix": 25, "ipv6Prefix": 64}}),
        ];
        let servers = [
            json!({"weight": 0}),
            json!({"weight": 5}),
            json!({"limits": {"upper": 10}}),
            json!({"limits": {"upper": 10, "lower": 5}}),
            json!({"forwarding": {"method": "Masquerade"}}),
            json!({"forwarding": {"method": "DirectRouting"}}),
            json!({"forwarding": {"method": "Tunnel", "tunnel": {"type": "GRE"}}}),
            json!({"forwarding": {"method": "Tunnel", "tunnel": {"type": "GRE", "checksum": "Full"}}}),
            json!({"forwarding": {"method": "Tunnel", "tunnel": {"type": "GUE", "port": 6080}}}),
            json!({"forwarding": {"method": "Tunnel", "tunnel": {"type": "GUE", "port": 6081}}}),
        ];
        let changes = services
            .into_iter()
            .map(|change| (spec(change.clone(), json!({})), change, "set-service"))
            .chain(
                servers
                    .into_iter()
                    .map(|change| (spec(json!({}), change.clone()), change, "set-real-server")),
            );
        for (changed, what, kind) in changes {
            let before = agent.operations(PlaneName::Ipvs);
            agent.put("web", Some(changed));
            let mut expected = before;
            *expected.entry(kind).or_default() += 1;
            // Back from a changed service costs one as well.
            assert_eq!(agent.operations(PlaneName::Ipvs), expected, "{what}");
            agent.has_nothing_to_do();
            agent.put("web", Some(plain()));
            *expected.entry(kind).or_default() += 1;
            assert_eq!(agent.operations(PlaneName::Ipvs), expected, "back from {what}");
        }
        // What is not changed in place: the address and the port of a real server are what it is told apart by.
        let before = agent.operations(PlaneName::Ipvs);
        agent.put("web", Some(spec(json!({}), json!({"targetPorts": [8080]}))));
        let after = agent.operations(PlaneName::Ipvs);
        assert_eq!(after["add-real-server"], before["add-real-server"] + 1);
        assert_eq!(after["remove-real-server"], before.get("remove-real-server").copied().unwrap_or(0) + 1);
    });
}

#[test]
fn what_somebody_changes_by_hand_comes_back() {
    in_namespace(|| {
        let other =
            binding(&["10.0.0.1"], 53, &["10.1.0.1"], json!({"ports": [{"protocol": "UDP", "port": 53}]}));
        let agent = Agent::start([("web", web(3)), ("dns", other)]);
        let wanted = rules();
        let mut repaired = agent.repaired(PlaneName::Ipvs);
        for (drift, commands) in [
            ("-C", 5),
            ("-D -t 192.16.193.30:80", 3),
            ("-d -t 192.16.193.30:80 -r 172.16.193.40:80", 1),
            ("-e -t 192.16.193.30:80 -r 172.16.193.40:80 -m -w 9", 1),
            ("-e -t 192.16.193.30:80 -r 172.16.193.40:80 -g -w 3", 1),
            ("-a -t 192.16.193.30:80 -r 172.16.193.41:80 -m -w 1", 1),
            ("-E -t 192.16.193.30:80 -s wlc", 1),
            ("-E -u 10.0.0.1:53 -s rr -p 9", 1),
        ] {
            ipvsadm(drift);
            repaired += commands;
            let took = wait_until(&format!("ipvsadm {drift} is put back"), || {
                agent.repaired(PlaneName::Ipvs) == repaired
            });
            eprintln!("ipvsadm {drift}: put back after {took:?}");
            assert_eq!(rules(), wanted, "{drift}");
        }
        agent.has_nothing_to_do();
    });
}

#[test]
fn timeouts_are_set_kept_and_left_alone_when_not_given() {
    in_namespace(|| {
        let timeouts = || ipvsadm("-L --timeout").trim().to_owned();
        ipvsadm("--set 901 121 301");
        let mut agent = Agent::start([("web", web(1))]);
        assert_eq!(timeouts(), "Timeout (tcp tcpfin udp): 901 121 301");
        let director =
            serde_json::from_value(json!({"director": "dir1", "timeouts": {"tcp": "15m", "udp": "10s"}}))
                .unwrap();
        agent.director(director);
        assert_eq!(timeouts(), "Timeout (tcp tcpfin udp): 900 121 10");
        agent.has_nothing_to_do();
        ipvsadm("--set 77 0 0");
        wait_until("the timeout is put back", || timeouts() == "Timeout (tcp tcpfin udp): 900 121 10");
    });
}

#[test]
fn counters_name_bindings_and_real_servers() {
    in_namespace(|| {
        let agent = Agent::start([("web", web(3))]);
        let counters = agent.counters();
        assert_eq!(counters.services.len(), 1);
        let service = &counters.services[0];
        assert_eq!((service.binding.clone(), service.scheduler.as_str()), (key("web"), "rr"));
        let servers: Vec<_> =
            service.destinations.iter().map(|server| (server.name.as_str(), server.weight)).collect();
        assert_eq!(servers, [("srv1", 1), ("srv2", 3)]);
        assert!(counters.age < Duration::from_secs(5));
    });
}

#[test]
fn what_the_kernel_refuses_is_said_and_spares_the_rest() {
    in_namespace(|| {
        // The kernel takes no multicast address for a real server.
        let bad = binding(&["10.0.0.9"], 80, &["224.0.0.9", "10.1.0.1"], json!({}));
        let mut agent = Agent::start([("bad", bad), ("web", web(1))]);
        assert!(rules().contains(&"-a -t 10.0.0.9:80 -r 10.1.0.1:80 -m -w 1".to_owned()));
        assert_eq!(agent.programmed("web"), Programmed::Yes);
        let Programmed::No(failures) = agent.programmed("bad") else {
            panic!("{:?}", agent.programmed("bad"))
        };
        assert_eq!(failures[0].object, "TCP 10.0.0.9:80");
        assert!(failures[0].message.contains("224.0.0.9:80"), "{}", failures[0].message);
        agent.put("bad", Some(binding(&["10.0.0.9"], 80, &["10.1.0.1"], json!({}))));
        assert_eq!(agent.programmed("bad"), Programmed::Yes);
        agent.has_nothing_to_do();
    });
}
