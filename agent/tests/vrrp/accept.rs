//! Addresses that take nothing themselves; what this means for services is played where there is IPVS (agent/tests/kernel).

use std::{collections::BTreeMap, process::Command, sync::Arc, time::Instant};

use bascule_agent::reconcile::{self, ConfigChange, ConfigUpdate};
use bascule_compile::NodeConfig;
use bascule_crds::DirectorConfigSpec;

use crate::mac::pings;
use crate::net::{Machine, Net, can_run, eventually, group, in_namespace};

fn more(accept: bool) -> String {
    serde_json::json!({"instances": [{
        "name": "outside", "interface": "eth0", "virtualRouterId": 30, "accept": accept,
        "addresses": ["192.16.193.30/32", "2001:db8::30/128"],
    }]})
    .to_string()
}

fn table(machine: &Machine) -> String {
    let arguments = ["netns", "exec", &machine.namespace, "nft", "list", "table", "inet", "bascule"];
    let output = Command::new("ip").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_ping_is_answered_or_not_as_it_is_configured_and_neighbours_always_are() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let (director, client) = (net.machine(1), net.machine(9));
    for (machine, host) in [(&director, 1), (&client, 9)] {
        machine.ip(&format!("address add 2001:db8::{host}/64 dev eth0 nodad"));
    }
    let directory = tempfile::tempdir().unwrap();
    let options = reconcile::Options::new(directory.path());
    let planes = in_namespace(&director.namespace, || reconcile::spawn(options).unwrap());
    let speaker = director.start();
    let mut serial = 0;
    let mut configure = |accept: bool| {
        serial += 1;
        let spec = DirectorConfigSpec {
            director: "dir1".into(),
            vrrp: vec![group(200, &more(accept))],
            ..DirectorConfigSpec::default()
        };
        let config = NodeConfig::new(spec.clone());
        let change = ConfigChange::All(Arc::new(config));
        let update =
            ConfigUpdate { serial, seen: Instant::now(), change, checks: Vec::new(), live: BTreeMap::new() };
        planes.updates().send(&update);
        speaker.handle.configure(&spec.vrrp);
        speaker.wait_for("front", "Active");
    };
    configure(true);
    for address in ["192.16.193.30", "2001:db8::30"] {
        eventually(&format!("{address} answers"), || pings(&client, address).then_some(()));
    }
    assert_eq!(table(&director), "");

    configure(false);
    let listed = eventually("the rules are there", || {
        let listed = table(&director);
        listed.contains("ip6 daddr @refused6 drop").then_some(listed)
    });
    assert!(listed.contains("hook input priority 120"), "{listed}");
    client.ip("neighbour flush all");
    for (address, own) in [("192.16.193.30", "192.16.193.1"), ("2001:db8::30", "2001:db8::1")] {
        assert!(!pings(&client, address), "{address} answers");
        // It was asked for, and told where it is.
        let neighbour = client.ip(&format!("neighbour show to {address}"));
        assert!(neighbour.contains("02:00:00:00:00:01"), "{neighbour}");
        eventually(&format!("{own} answers"), || pings(&client, own).then_some(()));
    }
    let status = speaker.status();
    assert!(status.groups[0].instances.iter().all(|one| one.services_only), "{status:?}");

    configure(true);
    for address in ["192.16.193.30", "2001:db8::30"] {
        eventually(&format!("{address} answers again"), || pings(&client, address).then_some(()));
    }
}
