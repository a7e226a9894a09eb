//! Connections that a rule translated, in the kernel's table of connections (linux/netfilter/nfnetlink_conntrack.h).
//!
//! The kernel notes that a connection is translated, not by whom. A connection is a rule's if the rule would translate it so; what
//! a rule that stands would translate in the same way stays.

use std::net::IpAddr;

use bascule_crds::{
    common::AddressPrefix,
    nat_rule::{PortForward, StaticNat, Translation},
};

use super::Table;
use crate::plane::{
    attribute::{Writer, address, find},
    nat::number,
    nftables::{HEADER, Unsent, header},
};

/// NFNL_SUBSYS_CTNETLINK, where the type of a message has it.
const SUBSYSTEM: u16 = 1 << 8;
/// IPCTNL_MSG_CT_GET.
pub(super) const GET: u16 = SUBSYSTEM | 1;
/// IPCTNL_MSG_CT_DELETE.
const DELETE: u16 = SUBSYSTEM | 2;

/// IPS_SRC_NAT and IPS_DST_NAT.
const SOURCE: u32 = 0x10;
const DESTINATION: u32 = 0x20;

/// CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_ID and CTA_ZONE.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;

/// AF_INET and AF_INET6.
pub(super) const FAMILIES: [u8; 2] = [2, 10];

/// A request for the connections of a family.
pub(super) fn question(family: u8) -> Vec<u8> {
    header(family, 0).to_vec()
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// 0 where the protocol has no ports.
    source_port: u16,
    destination_port: u16,
}

impl Tuple {
    fn read(nest: &[u8]) -> Option<Self> {
        // CTA_TUPLE_IP: CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST; CTA_TUPLE_PROTO: CTA_PROTO_NUM, SRC_PORT, DST_PORT.
        let (ip, proto) = (find(nest, 1)?, find(nest, 2)?);
        let end = |v4, v6| find(ip, v4).or_else(|| find(ip, v6)).and_then(address);
        let port =
            |kind| find(proto, kind).and_then(|value| value.try_into().ok()).map_or(0, u16::from_be_bytes);
        Some(Self {
            source: end(1, 3)?,
            destination: end(2, 4)?,
            protocol: *find(proto, 1)?.first()?,
            source_port: port(2),
            destination_port: port(3),
        })
    }
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    original: Tuple,
    reply: Tuple,
    status: u32,
}

impl Flow {
    /// From a message; none for what is not translated.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let attributes = payload.get(HEADER..)?;
        let status = u32::from_be_bytes(find(attributes, STATUS)?.try_into().ok()?);
        if status & (SOURCE | DESTINATION) == 0 {
            return None;
        }
        let tuple = |kind| Tuple::read(find(attributes, kind)?);
        Some(Self { original: tuple(ORIGINAL)?, reply: tuple(REPLY)?, status })
    }

    fn is_source_translated(&self) -> bool {
        self.status & SOURCE != 0
    }

    fn is_destination_translated(&self) -> bool {
        self.status & DESTINATION != 0
    }
}

/// The request that ends a connection, of the message that told of it.
pub(super) fn end(payload: &[u8]) -> Option<Unsent> {
    let family = *payload.first()?;
    let attributes = payload.get(HEADER..)?;
    let mut request = Writer::after(&header(family, 0)).bytes(ORIGINAL | NESTED, find(attributes, ORIGINAL)?);
    for kind in [ID, ZONE] {
        // Its number, so that another one between the same ends is not taken for it.
        if let Some(value) = find(attributes, kind) {
            request = request.bytes(kind, value);
        }
    }
    Some((DELETE, 0, request.finish()))
}

/// Decides which connections end.
pub(super) struct Ending<'a, A> {
    /// The rules that have gone.
    pub(super) gone: &'a Table,
    /// The rules that are in force.
    pub(super) standing: &'a Table,
    /// Whether an address is one of an interface.
    pub(super) is_on: A,
}

impl<A: Fn(&str, IpAddr) -> bool> Ending<'_, A> {
    /// Whether this one ends.
    pub(super) fn ends(&self, flow: &Flow) -> bool {
        let made_by = |rules: &Table| rules.values().any(|rule| self.would_make(rule, flow));
        made_by(self.gone) && !made_by(self.standing)
    }

    fn would_make(&self, rule: &Translation, flow: &Flow) -> bool {
        let Translation { port_forward, masquerade, source_nat, static_nat } = rule;
        port_forward.as_ref().is_some_and(|one| forwards(one, flow))
            || static_nat.is_some_and(|one| exchanges(one, flow))
            || source_nat
                .as_ref()
                .is_some_and(|one| rewrites(&one.sources, flow) && flow.reply.destination == one.address)
            || masquerade.as_ref().is_some_and(|one| {
                rewrites(&one.sources, flow) && (self.is_on)(&one.out_interface, flow.reply.destination)
            })
    }
}

/// The interface by which it came is nowhere to be read.
fn forwards(rule: &PortForward, flow: &Flow) -> bool {
    let Flow { original, reply, .. } = flow;
    flow.is_destination_translated()
        && original.protocol == number(rule.protocol)
        && original.destination_port == rule.port
        && rule.address.is_none_or(|address| original.destination == address)
        && reply.source == rule.to
        && reply.source_port == rule.to_port.unwrap_or(rule.port)
}

fn exchanges(rule: StaticNat, flow: &Flow) -> bool {
    let Flow { original, reply, .. } = flow;
    let inwards = flow.is_destination_translated()
        && original.destination == rule.outside
        && reply.source == rule.inside;
    let outwards =
        flow.is_source_translated() && original.source == rule.inside && reply.destination == rule.outside;
    inwards || outwards
}

/// What a virtual service sends to a real server has another end than the client asked for, without that the kernel calls its
/// destination translated: IPVS did it. That is not ours.
fn rewrites(sources: &[AddressPrefix], flow: &Flow) -> bool {
    let Flow { original, reply, .. } = flow;
    let by_service = original.destination != reply.source && !flow.is_destination_translated();
    flow.is_source_translated()
        && !by_service
        && (sources.is_empty() || sources.iter().any(|source| source.contains(original.source)))
}

/// The families in which rules translate.
pub(super) fn families(rules: &Table) -> Vec<u8> {
    let both = rules.values().map(super::families);
    let (ipv4, ipv6) = both.fold((false, false), |(v4, v6), one| (v4 || one.0, v6 || one.1));
    FAMILIES.into_iter().zip([ipv4, ipv6]).filter(|(_, wanted)| *wanted).map(|(family, _)| family).collect()
}

/// For tests: the attributes of a connection as the kernel tells them.
#[cfg(test)]
pub(super) fn told(original: &str, reply: &str, status: u32) -> Vec<u8> {
    fn tuple(list: Writer, kind: u16, text: &str) -> Writer {
        let parts: Vec<&str> = text.split(' ').collect();
        let [protocol, source, source_port, destination, destination_port] = parts[..] else {
            panic!("{text}")
        };
        let end = |list: Writer, v4, address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let kind = if address.is_ipv4() { v4 } else { v4 + 2 };
            list.bytes(kind, &crate::plane::attribute::octets(address))
        };
        let port = |port: &str| port.parse::<u16>().unwrap().to_be_bytes();
        list.nest(kind, |nest| {
            nest.nest(1, |ip| end(end(ip, 1, source), 2, destination)).nest(2, |proto| {
                proto
                    .bytes(1, &[protocol.parse().unwrap()])
                    .bytes(2, &port(source_port))
                    .bytes(3, &port(destination_port))
            })
        })
    }
    let family = if original.contains("::") { 10 } else { 2 };
    let list = tuple(Writer::after(&header(family, 0)), ORIGINAL, original);
    tuple(list, REPLY, reply).network(STATUS, status).network(ID, 7).finish()
}

/// For tests: what a request to end a connection names.
#[cfg(test)]
pub(super) fn named(request: &Unsent) -> Vec<u16> {
    assert_eq!(request.0, DELETE);
    crate::plane::attribute::Attributes(&request.2[HEADER..]).map(|(kind, _)| kind).collect()
}
