use super::*;

fn spec() -> Spec {
    let text = "\
summary: A director.
topology:
  networks: [{name: outside}, {name: inside}]
  nodes:
    - name: dir1
      links:
        - {network: outside, interface: enp0s3, addresses: [192.16.193.1/24]}
        - {network: inside, interface: enp0s8, addresses: [172.16.193.1/16]}
steps: [{name: a moment, wait: {for: 1s}}]
";
    crate::scenario::load("one", text).expect("a good scenario").topology.nodes.remove(0)
}

#[test]
fn addresses_that_the_scenario_did_not_give_are_told_apart() {
    let answer = r#"[{"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"addr_info":[]},
        {"ifname":"enp0s3","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"addr_info":[
            {"family":"inet","local":"192.16.193.1","prefixlen":24,"scope":"global"},
            {"family":"inet","local":"192.16.193.30","prefixlen":32,"scope":"global"},
            {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]},
        {"ifname":"enp0s8","flags":["NO-CARRIER","BROADCAST","MULTICAST","UP"],"addr_info":[]}]
    "#;
    let seen = interfaces(&spec(), answer);
    assert_eq!(seen[0].addresses, ["192.16.193.1/24", "192.16.193.30/32"]);
    assert_eq!(seen[0].added, ["192.16.193.30/32"]);
    assert!(seen[0].up && seen[0].carrier);
    assert!(seen[1].up && !seen[1].carrier, "{seen:?}");
    // What cannot be read is an interface that is down, and no crash.
    assert!(interfaces(&spec(), "junk").iter().all(|interface| !interface.up));
}

#[test]
fn agents_say_their_groups() {
    let status =
        r#"{"ready": true, "vrrp": {"groups": [{"group": "front", "state": "Active"}, {"group": 3}]}}"#;
    let seen = agent(status).expect("an answer");
    assert!(seen.ready);
    assert_eq!(seen.groups, BTreeMap::from([("front".to_owned(), "Active".to_owned())]));
    assert_eq!(agent("no agent"), None);
}

fn interface(name: &str, network: &str, addresses: &[&str], added: &[&str]) -> InterfaceSeen {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    InterfaceSeen {
        name: name.into(),
        network: network.into(),
        up: true,
        carrier: true,
        addresses: owned(addresses),
        added: owned(added),
    }
}

fn server(server: &str, weight: u32, active: u64, inactive: u64) -> RealServerSeen {
    RealServerSeen { server: server.into(), forward: "Masq".into(), weight, active, inactive }
}

fn example() -> Inspection {
    let agent =
        |state: &str| AgentSeen { ready: true, groups: BTreeMap::from([("front".into(), state.into())]) };
    let services = vec![ServiceSeen {
        service: "TCP 192.16.193.30:80".into(),
        scheduler: "rr".into(),
        real_servers: vec![server("172.16.193.10:80", 1, 3, 120), server("172.16.193.40:80", 1, 0, 0)],
    }];
    Inspection {
        scenario: "tp-two-directors".into(),
        networks: vec!["outside".into(), "inside".into()],
        nodes: vec![
            NodeSeen {
                name: "dir1".into(),
                interfaces: vec![
                    interface(
                        "enp0s3",
                        "outside",
                        &["192.16.193.1/24", "192.16.193.30/32"],
                        &["192.16.193.30/32"],
                    ),
                    InterfaceSeen {
                        carrier: false,
                        ..interface("enp0s8", "inside", &["172.16.193.1/16"], &[])
                    },
                ],
                services,
                agent: Some(agent("Active")),
                ..NodeSeen::default()
            },
            NodeSeen {
                name: "dir2".into(),
                interfaces: vec![interface(
                    "enp0s3",
                    "outside",
                    &["192.16.193.30/32"],
                    &["192.16.193.30/32"],
                )],
                services: vec![ServiceSeen {
                    service: "FWM 1".into(),
                    scheduler: "wlc".into(),
                    ..ServiceSeen::default()
                }],
                agent: Some(agent("Fault")),
                ..NodeSeen::default()
            },
            NodeSeen { name: "SRV1".into(), power: Power::Off, ..NodeSeen::default() },
        ],
    }
}

#[test]
fn it_is_drawn() {
    insta::assert_snapshot!(view(&example(), Paint::Plain));
}

#[test]
fn colours_are_for_terminals_only() {
    assert!(!view(&example(), Paint::Plain).contains('\x1b'));
    let painted = view(&example(), Paint::Colours);
    assert!(painted.contains("\x1b[31mno carrier\x1b[0m"), "{painted}");
    assert!(painted.contains("\x1b[31mdir1 and dir2\x1b[0m"), "two holders are said to be wrong");
}

#[test]
fn it_goes_through_json() {
    let text = serde_json::to_string(&example()).expect("JSON");
    assert_eq!(serde_json::from_str::<Inspection>(&text).expect("read"), example());
}
