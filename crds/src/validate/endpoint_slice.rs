//! What the API server asks of an EndpointSlice in code (pkg/apis/discovery/validation), for those in a directory of manifests.

use std::net::IpAddr;

use serde_json::Value;

use super::structural::{Findings, shortened};
use crate::common::Family;

/// Checks the addresses and the names of the ports, their types being right.
pub(super) fn check(slice: &Value, findings: &mut Findings) {
    let wanted = match slice["addressType"].as_str() {
        Some("IPv4") => Some(Family::IPv4),
        Some("IPv6") => Some(Family::IPv6),
        _ => None,
    };
    for (at, endpoint) in slice["endpoints"].as_array().into_iter().flatten().enumerate() {
        let path = format!("endpoints[{at}].addresses");
        for (at, address) in endpoint["addresses"].as_array().into_iter().flatten().enumerate() {
            if let (Some(wanted), Some(address)) = (wanted, address.as_str()) {
                self::address(wanted, address, &path, at, findings);
            }
        }
    }
    let mut names = Vec::new();
    for (at, port) in slice["ports"].as_array().into_iter().flatten().enumerate() {
        let name = port["name"].as_str().unwrap_or_default();
        if names.contains(&name) {
            findings.add(&format!("ports[{at}].name"), format!("`{name}` stands twice"));
        }
        names.push(name);
    }
}

fn address(wanted: Family, text: &str, path: &str, at: usize, findings: &mut Findings) {
    let Ok(address) = text.parse::<IpAddr>() else {
        return findings.add(&format!("{path}[{at}]"), format!("`{}` is not an address", shortened(text)));
    };
    if Family::of(address) != wanted {
        findings.add(path, format!("{address} is not {wanted}, which the addressType says"));
    }
    let special = match address {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(v4) if v4.is_link_local() => "link-local",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
        IpAddr::V4(v4) if v4.octets()[..3] == [224, 0, 0] => "link-local multicast",
        IpAddr::V6(v6) if v6.octets()[..2] == [0xff, 0x02] => "link-local multicast",
        _ => return,
    };
    findings.add(&format!("{path}[{at}]"), format!("{address} is {special}: no endpoint can have it"));
}
