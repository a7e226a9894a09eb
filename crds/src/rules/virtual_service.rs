//! Rules of VirtualService.

use serde_json::Value;

use crate::common::{exactly_one, rule, rule_at};

/// The forwarding method that is in force for the real server or sorry server of this name.
fn method_of(server: &str) -> String {
    format!("(has({server}.forwarding) ? {server}.forwarding.method : self.forwarding.method)")
}

/// All ports, those of the firewall mark included, are UDP.
const ALL_UDP: &str = "(!has(self.ports) || self.ports.all(p, p.protocol == 'UDP')) \
    && (!has(self.fwmark) || !has(self.fwmark.match) || self.fwmark.match.ports.all(p, p.protocol == 'UDP'))";

/// Rules of the spec as a whole.
pub(crate) fn spec() -> Vec<Value> {
    let (real, sorry) = (method_of("r"), method_of("s"));
    vec![
        exactly_one(&["vrrpGroup", "director"]),
        exactly_one(&["addresses", "fwmark"]),
        rule_at(".ports", "!has(self.addresses) || has(self.ports)", "ports are required with addresses"),
        rule_at(".ports", "!has(self.fwmark) || !has(self.ports)", "a firewall mark has no ports"),
        rule_at(
            ".ports",
            "has(self.persistence) || !has(self.ports) || self.ports.all(p, p.port != 0)",
            "port 0 (every port) needs persistence",
        ),
        rule_at(
            ".ports",
            "self.forwarding.method == 'Masquerade' || !has(self.ports) \
             || self.ports.all(p, !has(p.targetPort) || p.targetPort == p.port)",
            "targetPort must equal port with DirectRouting and Tunnel: only Masquerade can change the port",
        ),
        rule_at(
            ".ports",
            "has(self.realServersFrom) || !has(self.ports) \
             || self.ports.all(p, !has(p.targetPort) || !string(p.targetPort).matches('[a-z]'))",
            "targetPort can be a name only with realServersFrom",
        ),
        rule_at(
            ".realServers",
            "!has(self.realServersFrom) || !has(self.realServers) || self.realServers.size() == 0",
            "realServers and realServersFrom exclude each other",
        ),
        rule_at(
            ".realServers",
            "!has(self.realServers) || [has(self.ports) ? self.ports.filter(p, has(p.name) && p.port != 0).map(p, p.name) : []].all(names, \
             self.realServers.all(r, !has(r.targetPorts) || r.targetPorts.all(n, n in names)))",
            "targetPorts must name ports of this service, other than port 0",
        ),
        rule_at(
            ".realServers",
            &format!(
                "!has(self.realServers) || !has(self.ports) || self.realServers.all(r, {real} == 'Masquerade' \
                 || self.ports.all(p, has(r.targetPorts) && has(p.name) && p.name in r.targetPorts ? r.targetPorts[p.name] == p.port \
                 : !has(r.forwarding) || !has(p.targetPort) || p.targetPort == p.port))"
            ),
            "a real server reached by DirectRouting or Tunnel must have the service's port: only Masquerade can change it",
        ),
        family(
            "IPv4",
            &format!("self.realServers.exists(r, !r.address.contains(':') || {real} == 'Tunnel')"),
            &format!("self.sorryServers.exists(s, !s.address.contains(':') || {sorry} == 'Tunnel')"),
            "!a.contains(':')",
        ),
        family(
            "IPv6",
            &format!("self.realServers.exists(r, r.address.contains(':') || {real} == 'Tunnel')"),
            &format!("self.sorryServers.exists(s, s.address.contains(':') || {sorry} == 'Tunnel')"),
            "a.contains(':')",
        ),
        rule_at(
            ".sorryServers",
            &format!(
                "!has(self.sorryServers) || self.sorryServers.all(s, !has(s.port) || {sorry} == 'Masquerade' \
                 || (has(self.ports) && self.ports.all(p, p.port == s.port)))"
            ),
            "a sorry server reached by DirectRouting or Tunnel must have the service's port: only Masquerade can change it",
        ),
        rule_at(
            ".sorryServers",
            "!has(self.sorryServers) || (has(self.ports) && self.ports.all(p, p.port != 0)) || self.sorryServers.all(s, !has(s.port))",
            "with a firewall mark or port 0 each connection keeps its port: a sorry server must have none of its own",
        ),
        rule_at(".onePacket", &format!("!self.onePacket || ({ALL_UDP})"), "onePacket is for UDP only"),
        rule_at(
            ".persistence",
            &format!("!has(self.persistence) || !has(self.persistence.engine) || ({ALL_UDP})"),
            "the persistence engine sip is for UDP only",
        ),
        rule_at(
            ".sourceNat",
            &format!(
                "!has(self.sourceNat) || self.sourceNat == 'Never' || (has(self.realServersFrom) && self.forwarding.method == 'Masquerade') \
                 || (has(self.realServers) && self.realServers.exists(r, {real} == 'Masquerade')) \
                 || (has(self.sorryServers) && self.sorryServers.exists(s, {sorry} == 'Masquerade'))"
            ),
            "sourceNat needs the forwarding method Masquerade: with the others real servers answer the client themselves",
        ),
        rule_at(
            ".director",
            "!has(self.fwmark) || has(self.fwmark.match) || !has(self.director) || !has(self.director.interface)",
            "a firewall mark without match has no address that could be added to an interface",
        ),
    ]
}

/// An address family that clients use has somebody to serve it.
fn family(name: &str, real: &str, sorry: &str, of_address: &str) -> Value {
    rule_at(
        ".realServers",
        &format!(
            "has(self.realServersFrom) \
             || !((has(self.addresses) && self.addresses.exists(a, {of_address})) || (has(self.fwmark) && self.fwmark.family == '{name}')) \
             || (has(self.realServers) && {real}) || (has(self.sorryServers) && {sorry})"
        ),
        &format!(
            "nobody serves {name}: a real server or a sorry server of that family is needed (Tunnel may cross families)"
        ),
    )
}

/// Rules of `spec.ports`.
pub(crate) fn ports() -> Vec<Value> {
    vec![
        rule(
            "self.all(p, !has(p.name) || self.exists_one(q, has(q.name) && q.name == p.name))",
            "the names of ports must be unique",
        ),
        rule(
            "self.all(p, p.port != 0 || !has(p.targetPort))",
            "port 0 keeps each connection's own port: targetPort must be absent",
        ),
    ]
}

/// Rules of `spec.fwmark`.
pub(crate) fn fwmark() -> Vec<Value> {
    vec![rule_at(
        ".match",
        "!has(self.match) || self.match.addresses.all(a, a.contains(':') == (self.family == 'IPv6'))",
        "the addresses of match must be of the mark's family",
    )]
}

/// Rules of an encapsulation.
pub(crate) fn tunnel() -> Vec<Value> {
    vec![
        rule_at(
            ".port",
            "(self.type == 'GUE') == has(self.port)",
            "GUE needs a port, the other types have none",
        ),
        rule_at(
            ".checksum",
            "!has(self.checksum) || self.checksum == 'None' || self.type == 'GUE' || (self.type == 'GRE' && self.checksum == 'Full')",
            "IPIP has no checksum, and GRE knows None and Full",
        ),
    ]
}
