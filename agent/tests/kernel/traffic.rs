//! Real connections through what the planes program.

use std::{net::TcpStream, thread, time::Duration};

use bascule_crds::VirtualServiceBindingSpec;
use serde_json::{Value, json};

use crate::{
    agent::{Agent, binding},
    world::{Host, ask, connect, connections, in_namespace, ip},
};

/// The TP: a client outside, two servers inside, the director between.
struct Tp {
    client: Host,
    inside: Host,
    _servers: [Host; 2],
}

fn tp() -> Tp {
    ip("link add name inside type bridge");
    ip("address add 172.16.193.254/16 dev inside");
    ip("link set inside up");
    let client = Host::new("ClientA", "outside", "192.16.193.100/24", Some("192.16.193.1"));
    ip("address add 192.16.193.1/24 dev outside");
    let server = |name, link, address| {
        let host = Host::new(name, link, address, Some("172.16.193.254"));
        ip(&format!("link set {link} master inside"));
        host
    };
    let servers = [server("SRV1", "port1", "172.16.193.10/16"), server("SRV2", "port2", "172.16.193.40/16")];
    let inside = server("ClientB", "port3", "172.16.193.50/16");
    Tp { client, inside, _servers: servers }
}

fn web(weights: [u32; 2], more: Value) -> VirtualServiceBindingSpec {
    let servers = [format!("172.16.193.10*{}", weights[0]), format!("172.16.193.40*{}", weights[1])];
    let mut fields = json!({"interface": "outside"});
    for (field, value) in more.as_object().unwrap() {
        fields[field] = value.clone();
    }
    binding(&["192.16.193.30"], 80, &servers.each_ref().map(String::as_str), fields)
}

const TARGET: &str = "192.16.193.30:80";

#[test]
fn pages_alternate_and_a_client_inside_needs_source_nat() {
    in_namespace(|| {
        let tp = tp();
        let mut agent = Agent::start([("web", web([1, 1], json!({})))]);
        let answers: Vec<_> = (0..4).map(|_| tp.client.ask(TARGET).unwrap()).collect();
        assert_eq!(answers[0], answers[2]);
        assert_eq!(answers[1], answers[3]);
        assert_ne!(answers[0], answers[1]);
        assert!(answers.iter().all(|answer| answer.ends_with("192.16.193.100")), "{answers:?}");
        // The server answers a client of its own network directly, and the client does not know that connection.
        assert!(tp.inside.ask(TARGET).is_err());
        agent.put("web", Some(web([1, 1], json!({"sourceNat": "Auto"}))));
        let answer = tp.inside.ask(TARGET).unwrap();
        assert!(answer.ends_with("172.16.193.254"), "{answer}: rewritten");
        let answer = tp.client.ask(TARGET).unwrap();
        assert!(answer.ends_with("192.16.193.100"), "{answer}: only where needed");
        agent.put("web", Some(web([1, 1], json!({"sourceNat": "Always"}))));
        let answer = tp.client.ask(TARGET).unwrap();
        assert!(answer.ends_with("172.16.193.254"), "{answer}: always");
    });
}

#[test]
fn connections_survive_every_change_in_place() {
    in_namespace(|| {
        let tp = tp();
        let mut agent = Agent::start([("web", web([1, 1], json!({})))]);
        let mut held: Vec<TcpStream> = tp.client.on(|| (0..4).map(|_| connect(TARGET).unwrap()).collect());
        let mut before: Vec<String> = held.iter_mut().map(|stream| ask(stream).unwrap()).collect();
        assert_eq!(connections().len(), 4);
        for change in [
            web([5, 1], json!({})),
            web([0, 0], json!({})),
            web([1, 1], json!({"scheduler": {"name": "wlc"}})),
            web([1, 1], json!({"scheduler": {"name": "sh", "hashPort": true}})),
            web([1, 1], json!({"persistence": {"timeoutSeconds": 10, "ipv4Prefix": 32, "ipv6Prefix": 128}})),
            web([1, 1], json!({"method": "DirectRouting"})),
            web([2, 1], json!({})),
        ] {
            agent.put("web", Some(change));
            let mut now: Vec<String> = held.iter_mut().map(|stream| ask(stream).unwrap()).collect();
            assert_eq!(now, before, "each goes on with its server");
            std::mem::swap(&mut now, &mut before);
            assert_eq!(connections().iter().filter(|line| line.contains("ESTABLISHED")).count(), 4);
        }
        // And a restart of the agent does not touch them.
        agent.stop();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(held.iter_mut().map(|stream| ask(stream).unwrap()).collect::<Vec<_>>(), before);
    });
}

#[test]
fn a_mark_holds_persistence_across_ports_and_is_source_natted() {
    in_namespace(|| {
        let tp = tp();
        let servers = ["172.16.193.10", "172.16.193.40"];
        let matched = json!({"addresses": ["192.16.193.30"], "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 443}]});
        let spec = |source_nat: &str| {
            binding(
                &[],
                0,
                &servers,
                json!({"interface": "outside", "addresses": [], "ports": [], "sourceNat": source_nat,
                "fwmark": {"mark": 7, "families": ["IPv4"], "match": matched},
                "persistence": {"timeoutSeconds": 60, "ipv4Prefix": 32, "ipv6Prefix": 128}}),
            )
        };
        let mut agent = Agent::start([("web", spec("Never"))]);
        let first = tp.client.ask(TARGET).unwrap();
        for _ in 0..3 {
            assert_eq!(tp.client.ask(TARGET).unwrap(), first, "persistent");
        }
        agent.put("web", Some(spec("Always")));
        let answer = tp.inside.ask(TARGET).unwrap();
        assert!(answer.ends_with("172.16.193.254"), "{answer}");
    });
}

#[test]
fn ipv6_is_masqueraded_and_source_natted() {
    in_namespace(|| {
        ip("link add name inside type bridge");
        ip("address add 2001:db8:1::fe/64 dev inside nodad");
        ip("link set inside up");
        let client = Host::new("ClientA", "outside", "2001:db8::100/64", Some("2001:db8::1"));
        ip("address add 2001:db8::1/64 dev outside nodad");
        let server = Host::new("SRV1", "port1", "2001:db8:1::10/64", Some("2001:db8:1::fe"));
        ip("link set port1 master inside");
        let neighbour = Host::new("ClientB", "port2", "2001:db8:1::50/64", Some("2001:db8:1::fe"));
        ip("link set port2 master inside");
        let spec = binding(
            &["2001:db8::30"],
            80,
            &["2001:db8:1::10"],
            json!({"interface": "outside", "sourceNat": "Auto"}),
        );
        let agent = Agent::start([("web", spec)]);
        let target = "[2001:db8::30]:80";
        assert_eq!(client.ask(target).unwrap(), "SRV1 2001:db8::100");
        assert_eq!(neighbour.ask(target).unwrap(), "SRV1 2001:db8:1::fe");
        drop((agent, server));
    });
}
