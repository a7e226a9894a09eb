//! Addresses that are for services only: `accept: false`.

use std::{io::ErrorKind, net::TcpListener, process::Command, thread};

use bascule_agent::reconcile::{Options, PlaneName};
use bascule_crds::DirectorConfigSpec;
use serde_json::json;

use crate::{
    agent::{Agent, binding},
    world::{Host, in_namespace, ip, run, try_run, wait_until},
};

fn director(accept: bool) -> DirectorConfigSpec {
    serde_json::from_value(json!({"director": "dir1", "vrrp": [{
        "name": "front", "priority": 100, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
        "preempt": {"enabled": true, "delay": "0s"}, "onAgentLoss": "Keep",
        "instances": [{"name": "outside", "interface": "outside", "virtualRouterId": 30, "accept": accept,
                       "addresses": ["192.16.193.30/32", "2001:db8::30/128"]}],
    }]}))
    .unwrap()
}

fn pings(host: &Host, target: &'static str) -> bool {
    host.on(move || {
        let arguments = ["-n", "-c", "1", "-W", "2", target];
        Command::new("ping").args(arguments).output().unwrap().status.success()
    })
}

#[test]
fn services_and_neighbour_discovery_go_on_and_everything_else_is_dropped() {
    in_namespace(|| {
        let client = Host::new("ClientA", "outside", "192.16.193.100/24", Some("192.16.193.1"));
        client.on(|| ip("address add 2001:db8::100/64 dev eth0 nodad"));
        ip("address add 192.16.193.1/24 dev outside");
        ip("address add 2001:db8::1/64 dev outside nodad");
        let server = Host::new("SRV1", "inside", "172.16.193.10/16", Some("172.16.193.254"));
        server.on(|| {
            ip("address add 2001:db8:1::10/64 dev eth0 nodad");
            ip("-6 route add default via 2001:db8:1::fe");
        });
        ip("address add 172.16.193.254/16 dev inside");
        ip("address add 2001:db8:1::fe/64 dev inside nodad");
        // A server of the director itself, on every address.
        let own = TcpListener::bind("[::]:81").unwrap();
        thread::spawn(move || own.incoming().for_each(drop));

        let service =
            |address: &str, server: &str| binding(&[address], 80, &[server], json!({"interface": "outside"}));
        let bindings = || {
            [
                ("four", service("192.16.193.30", "172.16.193.10")),
                ("six", service("2001:db8::30", "2001:db8:1::10")),
            ]
        };
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path());
        let agent = Agent::start_with(options.clone(), director(true), bindings());
        for target in ["192.16.193.30", "2001:db8::30"] {
            wait_until(&format!("{target} answers"), || pings(&client, target));
        }
        assert!(!try_run("nft", "list table inet bascule").status.success());
        agent.stop();

        let agent = Agent::start_with(options, director(false), bindings());
        agent.has_nothing_to_do();
        let table = run("nft", "list table inet bascule");
        for part in
            ["type filter hook input priority 120", "ip daddr @refused4 drop", "ip6 daddr @refused6 drop"]
        {
            assert!(table.contains(part), "{part}: {table}");
        }
        // Forgotten, so that they must be found again.
        client.on(|| ip("neighbour flush all"));
        for (address, service, other, director) in [
            ("192.16.193.30", "192.16.193.30:80", "192.16.193.30:81", "192.16.193.1"),
            ("2001:db8::30", "[2001:db8::30]:80", "[2001:db8::30]:81", "2001:db8::1"),
        ] {
            let answer = client.ask(service).unwrap();
            assert!(answer.starts_with("SRV1 "), "{answer}");
            assert!(!pings(&client, address), "{address} answers");
            assert!(pings(&client, director), "{director} does not answer");
            // Dropped, not refused: the client hears nothing at all.
            let error = client.on(move || crate::world::connect(other).map(drop)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
        // The virtual router's own link-local address, too.
        assert!(table.contains("fe80::200:5eff:fe00:21e"), "{table}");
        run("nft", "flush chain inet bascule refused");
        wait_until("the rules are put back", || run("nft", "list table inet bascule") == table);
        assert!(agent.repaired(PlaneName::Nat) >= 1);
        drop(server);
    });
}
