//! Which connections end with which rule.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{forward, table};
use crate::plane::nat_rules::{
    Table,
    flows::{self, Ending, Flow},
};

const SOURCE: u32 = 0x10;
const DESTINATION: u32 = 0x20;

/// Connections and the rules that would make them. TCP is 6.
fn cases() -> Vec<(&'static str, Value, Vec<u8>)> {
    let client = "6 192.16.193.100 40000 192.16.193.20 80";
    let inside = "6 172.16.193.10 40000 192.16.193.100 80";
    vec![
        (
            "forwarded",
            forward(80, &json!({})),
            flows::told(client, "6 172.16.193.30 80 192.16.193.100 40000", DESTINATION),
        ),
        (
            "forwarded to another port",
            forward(80, &json!({"toPort": 8080, "address": "192.16.193.20"})),
            flows::told(client, "6 172.16.193.30 8080 192.16.193.100 40000", DESTINATION),
        ),
        (
            "masqueraded",
            json!({"masquerade": {"outInterface": "eth0", "sources": ["172.16.0.0/16"]}}),
            flows::told(inside, "6 192.16.193.100 80 192.16.193.20 40000", SOURCE),
        ),
        (
            "with a certain source",
            json!({"sourceNat": {"outInterface": "eth0", "address": "192.16.193.21"}}),
            flows::told(inside, "6 192.16.193.100 80 192.16.193.21 40000", SOURCE),
        ),
        (
            "exchanged inwards",
            json!({"staticNat": {"outside": "192.16.193.20", "inside": "172.16.193.11"}}),
            flows::told(client, "6 172.16.193.11 80 192.16.193.100 40000", DESTINATION),
        ),
        (
            "exchanged outwards",
            json!({"staticNat": {"outside": "192.16.193.22", "inside": "172.16.193.10"}}),
            flows::told(inside, "6 192.16.193.100 80 192.16.193.22 40000", SOURCE),
        ),
        (
            "forwarded by IPv6",
            json!({"portForward": {"address": "2001:db8::20", "protocol": "UDP", "port": 53, "to": "fd00::1"}}),
            flows::told(
                "17 2001:db8::100 40000 2001:db8::20 53",
                "17 fd00::1 53 2001:db8::100 40000",
                DESTINATION,
            ),
        ),
    ]
}

/// eth0 has .20.
fn is_on(interface: &str, address: IpAddr) -> bool {
    interface == "eth0" && address == "192.16.193.20".parse::<IpAddr>().unwrap()
}

#[test]
fn a_connection_ends_with_the_rule_that_made_it() {
    let cases = cases();
    for (what, value, told) in &cases {
        let flow = Flow::read(told).unwrap_or_else(|| panic!("{what}: not read"));
        let gone = table([("gone", value.clone())]);
        let ends = |gone: &Table, standing: &Table| Ending { gone, standing, is_on }.ends(&flow);
        assert!(ends(&gone, &Table::new()), "{what}");
        assert!(!ends(&gone, &gone), "{what}: another rule does the same");
        assert!(!ends(&Table::new(), &gone), "{what}: nothing has gone");
        for (other, value, _) in cases.iter().filter(|(other, ..)| other != what) {
            let gone = table([("gone", value.clone())]);
            assert!(!ends(&gone, &Table::new()), "{what} ended by what made the one that is {other}");
        }
        assert_eq!(flows::named(&flows::end(told).unwrap()), [1, 12], "its ends and its number");
        assert!(flows::families(&gone).contains(&told[0]), "{what}");
    }
}

#[test]
fn what_is_not_translated_or_by_somebody_else_is_left_alone() {
    let read = |original: &str, reply: &str, status| Flow::read(&flows::told(original, reply, status));
    assert_eq!(read("6 10.0.0.1 1 10.0.0.2 2", "6 10.0.0.2 2 10.0.0.1 1", 0), None);
    // A virtual service with sourceNat: IPVS chose the other end, and the kernel does not call that translated.
    let service =
        read("6 172.16.193.100 1 172.16.193.30 80", "6 172.16.193.10 80 192.16.193.20 1", SOURCE).unwrap();
    let gone = table([("gone", json!({"masquerade": {"outInterface": "eth0"}}))]);
    assert!(!Ending { gone: &gone, standing: &Table::new(), is_on }.ends(&service));
    assert_eq!(Flow::read(&[2, 0, 0, 0, 1, 2, 3]), None, "nonsense");
}
