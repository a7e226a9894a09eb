//! NatRules as chains, rules and counters of nf_tables (linux/netfilter/nf_tables.h), and reading the counters back.
//!
//! Where the chains stand, and why there:
//!
//! - prerouting and output at -100 (NF_IP_PRI_NAT_DST): before the way is looked for, and long before IPVS, which takes packets
//!   at LOCAL_IN. What is forwarded to another machine never gets there; what is forwarded to a virtual address of this one does.
//! - postrouting at 105: after 100 (NF_IP_PRI_NAT_SRC), where the `sourceNat` of virtual services stands. Of the chains that
//!   could translate a connection the first that does has it, so that a wide `masquerade` does not take what belongs to a service.
//!
//! The kernel asks these chains about the first packet of a connection only; so that is what the counters count.

use std::{collections::BTreeMap, net::IpAddr};

use bascule_compile::BindingKey;
use bascule_crds::{
    common::{AddressPrefix, Family},
    nat_rule::{PortForward, Translation},
};
use sha2::{Digest as _, Sha256};

use super::{Count, TABLE, Table, normal};
use crate::plane::{
    attribute::{Writer, find, octets, text},
    nat::number,
    netlink::{APPEND, CREATE, Message},
    nftables::{
        self, ACCEPT, DATA_VALUE, DELETE_TABLE, FIRST, HEADER, LOCAL_OUT, META_IN_INTERFACE,
        META_OUT_INTERFACE, META_PROTOCOL, NEW_CHAIN, NEW_OBJECT, NEW_RULE, NEW_TABLE, POSTROUTING,
        PREROUTING, Unsent, about, chain, destination_address, destination_port, equals, equals_not,
        expression, masked, meta, of_family, rule, source_address, verdict,
    },
};

/// NF_IP_PRI_NAT_DST.
const BEFORE_ROUTING: i32 = -100;
/// After NF_IP_PRI_NAT_SRC, 100.
const AFTER_ROUTING: i32 = 105;
/// The second register of 16 bytes (NFT_REG_2).
const SECOND: u32 = 2;
/// NFT_OBJECT_COUNTER.
const COUNTER: u32 = 1;
/// NFT_NAT_SNAT and NFT_NAT_DNAT.
const SOURCE: u32 = 0;
const DESTINATION: u32 = 1;
/// IPPROTO_VRRP: advertisements are never translated.
const VRRP: u8 = 112;
/// RTN_LOCAL.
const LOCAL: u32 = 2;
/// NFTA_FIB_F_SADDR and NFTA_FIB_F_DADDR.
const OF_SOURCE: u32 = 1;
const OF_DESTINATION: u32 = 2;
/// NFT_FIB_RESULT_ADDRTYPE.
const ADDRESS_TYPE: u32 = 3;
/// IFNAMSIZ.
const NAME: usize = 16;
/// Longest name of a counter that tells its rule as it is; NFT_OBJ_MAXNAMELEN is 256.
const LONGEST: usize = 200;

/// A chain of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chain {
    /// What comes in.
    Prerouting,
    /// What the machine sends itself.
    Output,
    /// What leaves.
    Postrouting,
}

impl Chain {
    pub(super) const ALL: [Self; 3] = [Self::Prerouting, Self::Output, Self::Postrouting];

    fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    fn hook(self) -> (u32, i32) {
        match self {
            Self::Prerouting => (PREROUTING, BEFORE_ROUTING),
            Self::Output => (LOCAL_OUT, BEFORE_ROUTING),
            Self::Postrouting => (POSTROUTING, AFTER_ROUTING),
        }
    }
}

/// A rule of the kernel before it has a place.
struct Line {
    chain: Chain,
    /// The narrower the network that it is for, the earlier.
    width: u8,
    counter: String,
    matches: Writer,
    statement: Statement,
}

enum Statement {
    To(IpAddr, Option<u16>),
    From(IpAddr),
    Masquerade,
}

/// The messages that make the table anew, as it is with these rules, whether it is there or not.
pub(super) fn replace(rules: &Table, counts: &BTreeMap<BindingKey, Count>) -> Vec<Unsent> {
    let mut messages = remove();
    messages.push((NEW_TABLE, CREATE, about(TABLE).finish()));
    for key in rules.keys() {
        let count = counts.get(key).copied().unwrap_or_default();
        let object = about(TABLE)
            .string(2, &counter(key))
            .network(3, COUNTER)
            .nest(4, |data| data.bytes(1, &count.bytes.to_be_bytes()).bytes(2, &count.packets.to_be_bytes()));
        messages.push((NEW_OBJECT, CREATE, object.finish()));
    }
    let mut lines: Vec<Line> = rules.iter().flat_map(|(key, translation)| lines(key, translation)).collect();
    // Stable: those of one width stay in the order of their keys.
    lines.sort_by_key(|line| (line.chain, line.width));
    let mut lines = lines.into_iter().peekable();
    for place in Chain::ALL {
        if lines.peek().is_none_or(|line| line.chain != place) {
            continue;
        }
        let (hook, priority) = place.hook();
        messages.push((NEW_CHAIN, CREATE, chain(TABLE, place.name(), "nat", hook, priority).finish()));
        let advertisements = equals(meta(Writer::default(), META_PROTOCOL, FIRST), &[VRRP]);
        let mut put = |list: Writer| {
            messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, place.name(), list).finish()));
        };
        put(verdict(advertisements, ACCEPT));
        while let Some(line) = lines.next_if(|line| line.chain == place) {
            put(finish(line));
        }
    }
    messages
}

/// The messages that remove the table, whether it is there or not.
pub(super) fn remove() -> Vec<Unsent> {
    vec![(NEW_TABLE, CREATE, about(TABLE).finish()), (DELETE_TABLE, 0, about(TABLE).finish())]
}

/// The name of a rule's counter.
pub(super) fn counter(key: &BindingKey) -> String {
    let name = format!("rule/{key}");
    if name.len() <= LONGEST {
        return name;
    }
    let digest = Sha256::digest(name.as_bytes());
    digest
        .iter()
        .take(8)
        .fold(format!("{}-", &name[..LONGEST - 20]), |name, byte| format!("{name}{byte:02x}"))
}

fn lines(key: &BindingKey, translation: &Translation) -> Vec<Line> {
    let Translation { port_forward, masquerade, source_nat, static_nat } = translation;
    let line =
        |chain, width, matches, statement| Line { chain, width, counter: counter(key), matches, statement };
    let mut lines = Vec::new();
    if let Some(forward) = port_forward {
        for chain in [Chain::Prerouting, Chain::Output] {
            // What the machine sends itself comes in nowhere.
            if chain == Chain::Prerouting || forward.in_interface.is_none() {
                let to = Statement::To(forward.to, forward.to_port.or(Some(forward.port)));
                lines.push(line(chain, 0, to_port(forward), to));
            }
        }
    }
    if let Some(one) = static_nat {
        let is_ipv4 = one.outside.is_ipv4();
        for chain in [Chain::Prerouting, Chain::Output] {
            let list = destination_address(of_family(Writer::default(), is_ipv4), is_ipv4, FIRST);
            // Behind the ports that are forwarded.
            lines.push(line(chain, 1, equals(list, &octets(one.outside)), Statement::To(one.inside, None)));
        }
        let list = source_address(of_family(Writer::default(), is_ipv4), is_ipv4, FIRST);
        let from = Statement::From(one.outside);
        lines.push(line(Chain::Postrouting, 0, equals(list, &octets(one.inside)), from));
    }
    if let Some(one) = masquerade {
        for (width, list) in leaving(&one.out_interface, &one.sources, Family::IPv4) {
            lines.push(line(Chain::Postrouting, width, list, Statement::Masquerade));
        }
    }
    if let Some(one) = source_nat {
        for (width, list) in leaving(&one.out_interface, &one.sources, Family::of(one.address)) {
            lines.push(line(Chain::Postrouting, width, list, Statement::From(one.address)));
        }
    }
    lines
}

/// To a port of an address of this machine.
fn to_port(forward: &PortForward) -> Writer {
    let is_ipv4 = forward.to.is_ipv4();
    let mut list = of_family(Writer::default(), is_ipv4);
    if let Some(interface) = &forward.in_interface {
        list = equals(meta(list, META_IN_INTERFACE, FIRST), &padded(interface));
    }
    list = equals(address_type(list, OF_DESTINATION), &LOCAL.to_ne_bytes());
    if let Some(address) = forward.address {
        list = equals(destination_address(list, is_ipv4, FIRST), &octets(address));
    }
    list = equals(meta(list, META_PROTOCOL, FIRST), &[number(forward.protocol)]);
    equals(destination_port(list, FIRST), &forward.port.to_be_bytes())
}

/// Out of an interface: one for each network, with its place; without networks for whatever comes from other machines.
fn leaving(interface: &str, sources: &[AddressPrefix], family: Family) -> Vec<(u8, Writer)> {
    let out = |family: Family| {
        let list = equals(meta(Writer::default(), META_OUT_INTERFACE, FIRST), &padded(interface));
        of_family(list, family == Family::IPv4)
    };
    if sources.is_empty() {
        let list = equals_not(address_type(out(family), OF_SOURCE), &LOCAL.to_ne_bytes());
        return vec![(u8::MAX, list)];
    }
    let one = |source: AddressPrefix| {
        let (family, length) = (source.family(), source.length);
        let mut list = out(family);
        if length > 0 {
            list = source_address(list, family == Family::IPv4, FIRST);
            if length < family.width() {
                list = masked(list, &mask(length, family));
            }
            list = equals(list, &octets(source.address));
        }
        // 1 for one address: behind addresses that are exchanged as a whole.
        (1 + family.width() - length, list)
    };
    normal(sources).into_iter().map(one).collect()
}

fn mask(length: u8, family: Family) -> Vec<u8> {
    let bits = u128::MAX.checked_shl(u32::from(128 - length)).unwrap_or(0).to_be_bytes();
    bits[..usize::from(family.width() / 8)].to_vec()
}

/// As the kernel compares names of interfaces.
fn padded(interface: &str) -> Vec<u8> {
    let mut name = interface.as_bytes().to_vec();
    name.resize(NAME, 0);
    name
}

fn address_type(list: Writer, of: u32) -> Writer {
    expression(list, "fib", |data| data.network(1, FIRST).network(2, ADDRESS_TYPE).network(3, of))
}

fn immediate(list: Writer, into: u32, value: &[u8]) -> Writer {
    expression(list, "immediate", |data| data.network(1, into).nest(2, |data| data.bytes(DATA_VALUE, value)))
}

fn translate(list: Writer, kind: u32, address: IpAddr, port: Option<u16>) -> Writer {
    let mut list = immediate(list, FIRST, &octets(address));
    if let Some(port) = port {
        list = immediate(list, SECOND, &port.to_be_bytes());
    }
    expression(list, "nat", |data| {
        let family = if address.is_ipv4() { 2 } else { 10 };
        let data = data.network(1, kind).network(2, family).network(3, FIRST);
        if port.is_some() { data.network(5, SECOND) } else { data }
    })
}

fn finish(line: Line) -> Writer {
    let list = expression(line.matches, "objref", |data| data.network(1, COUNTER).string(2, &line.counter));
    match line.statement {
        Statement::To(address, port) => translate(list, DESTINATION, address, port),
        Statement::From(address) => translate(list, SOURCE, address, None),
        Statement::Masquerade => expression(list, "masq", |data| data),
    }
}

/// A counter in an answer: its name and what it counted.
pub(super) fn read_counter(message: &Message) -> Option<(String, Count)> {
    let attributes = message.payload.get(HEADER..)?;
    if find(attributes, 1).map(text).as_deref() != Some(TABLE) {
        return None;
    }
    let data = find(attributes, 4)?;
    let value = |kind| Some(u64::from_be_bytes(find(data, kind)?.try_into().ok()?));
    Some((text(find(attributes, 2)?), Count { bytes: value(1)?, packets: value(2)? }))
}

/// Whether a notification says that our table changed.
pub(super) fn concerns_us(message: &Message) -> bool {
    nftables::concerns(message, TABLE)
}

/// For those who read a table by eye.
#[cfg(test)]
pub(super) fn expressions(message: &[u8]) -> Vec<String> {
    let list = message.get(HEADER..).and_then(|attributes| find(attributes, 4)).unwrap_or_default();
    crate::plane::attribute::Attributes(list).filter_map(|(_, one)| find(one, 1).map(text)).collect()
}
