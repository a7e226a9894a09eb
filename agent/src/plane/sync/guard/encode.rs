//! The nf_tables messages of the guard's table (linux/netfilter/nf_tables.h).

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{ARMED, Element, Elements, REMEMBERED, Set, TABLE};
use crate::plane::{
    attribute::{Attributes, Writer, find, octets},
    nat::Version,
    netlink::{APPEND, CREATE, Message},
    nftables::{
        DATA_VALUE, DELETE_ELEMENTS, DELETE_TABLE, ELEMENTS, FIRST, FORWARD, HEADER, LIST_ELEMENT, LOCAL_IN,
        META_PROTOCOL, NEW_CHAIN, NEW_ELEMENTS, NEW_RULE, NEW_SET, NEW_TABLE, SUBSYSTEM, TRANSPORT, Unsent,
        about, agrees, chain, destination_address, destination_port, differs, equals, expression, length,
        meta, of_family, payload, register, rule, source_address, source_port,
    },
};

/// NFT_MSG_NEWOBJ.
const NEW_OBJECT: u16 = SUBSYSTEM | 18;
/// NFT_MSG_GETOBJ.
pub(super) const GET_OBJECT: u16 = SUBSYSTEM | 19;
/// NFT_OBJECT_COUNTER.
const COUNTER: u32 = 1;
/// The counter's name: segments that were dropped.
const DROPPED: &str = "dropped";

/// The chain at the hook, the one for segments that IPVS does not know, and the one that remembers their connection and drops them.
const INPUT: &str = "input";
const UNKNOWN: &str = "unknown";
const SILENCE: &str = "silence";
/// The chain at the hook for what passes through, and the one that remembers the connection of a real server's reset and drops it.
const PASSING: &str = "forward";
const WITHHOLD: &str = "withhold";
/// Behind IPVS, which has its hooks at NF_IP_PRI_NAT_SRC and just before, that is 98 to 100: what a real server sends has the virtual
/// address by then.
const PRIORITY: i32 = 110;

/// The set whose one element, TCP, is there while any address is armed.
const RECENT: &str = "recent";
/// IPPROTO_TCP.
const TCP: u8 = 6;
/// The flags that tell what a segment is.
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// NFT_SET_TIMEOUT, and NFT_SET_EVAL: rules add elements.
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
/// Connections that are remembered at most, of each family. When there are more, the rule that remembers ends, and the next one drops.
const CONNECTIONS: u32 = 65536;
/// NFTA_SET_ELEM_TIMEOUT and NFTA_SET_ELEM_EXPIRATION, in milliseconds.
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;

/// nft's numbers of the types of addresses and ports.
fn type_number(set: Set) -> u32 {
    let address = if set.version() == Version::V4 { 7 } else { 8 };
    let end = address << 6 | 13;
    match set {
        Set::Whole(_) | Set::Armed(_) => address,
        Set::Ports(_) => end,
        Set::Silenced(_) => end << 12 | end,
    }
}

fn declaration(set: Set, id: u32) -> Writer {
    let flags = match set {
        Set::Ports(_) | Set::Whole(_) => 0,
        Set::Armed(_) => SET_TIMEOUT,
        Set::Silenced(_) => SET_TIMEOUT | SET_EVAL,
    };
    let declared = about(TABLE)
        .string(2, set.name())
        .network(3, flags)
        .network(4, type_number(set))
        .network(5, length(set.key_length()));
    let declared = match set {
        Set::Silenced(_) => declared.nest(9, |description| description.network(1, CONNECTIONS)),
        _ => declared,
    };
    declared.network(10, id)
}

fn declare_recent(id: u32) -> Writer {
    // nft's number of the type inet_proto.
    about(TABLE).string(2, RECENT).network(3, SET_TIMEOUT).network(4, 12).network(5, 1).network(10, id)
}

/// Loads both ends of a connection of this family, the client's first, from a segment of the client.
fn connection(list: Writer, version: Version) -> Writer {
    let is_ipv4 = version == Version::V4;
    let end = version.length() + 4;
    let list = source_address(of_family(list, is_ipv4), is_ipv4, FIRST);
    let list = source_port(list, register(version.length()));
    let list = destination_address(list, is_ipv4, register(end));
    destination_port(list, register(end + version.length()))
}

/// The same from an answer.
fn answered_connection(list: Writer, version: Version) -> Writer {
    let is_ipv4 = version == Version::V4;
    let end = version.length() + 4;
    let list = destination_address(of_family(list, is_ipv4), is_ipv4, FIRST);
    let list = destination_port(list, register(version.length()));
    let list = source_address(list, is_ipv4, register(end));
    source_port(list, register(end + version.length()))
}

/// Removes the table, whether it is there or not.
pub(super) fn delete_table() -> Vec<Unsent> {
    vec![(NEW_TABLE, CREATE, about(TABLE).finish()), (DELETE_TABLE, 0, about(TABLE).finish())]
}

/// Makes the table without elements.
pub(super) fn create_table() -> Vec<Unsent> {
    let mut messages: Vec<(u16, u16, Writer)> = vec![(NEW_TABLE, CREATE, about(TABLE))];
    for (id, set) in (1..).zip(Set::ALL) {
        messages.push((NEW_SET, CREATE, declaration(set, id)));
    }
    messages.push((NEW_SET, CREATE, declare_recent(200)));
    let counter = about(TABLE).string(2, DROPPED).network(3, COUNTER).nest(4, |data| data);
    messages.push((NEW_OBJECT, CREATE, counter));
    messages.push((NEW_CHAIN, CREATE, about(TABLE).string(3, SILENCE)));
    messages.push((NEW_CHAIN, CREATE, about(TABLE).string(3, UNKNOWN)));
    messages.push((NEW_CHAIN, CREATE, about(TABLE).string(3, WITHHOLD)));
    messages.push((NEW_CHAIN, CREATE, chain(TABLE, INPUT, "filter", LOCAL_IN, PRIORITY)));
    messages.push((NEW_CHAIN, CREATE, chain(TABLE, PASSING, "filter", FORWARD, PRIORITY)));
    for list in silence(connection) {
        messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, SILENCE, list)));
    }
    for list in silence(answered_connection) {
        messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, WITHHOLD, list)));
    }
    for list in unknown() {
        messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, UNKNOWN, list)));
    }
    for version in Version::ALL {
        for set in [Set::Ports(version), Set::Whole(version)] {
            messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, INPUT, input(set))));
        }
        messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, INPUT, silenced(version))));
    }
    for version in Version::ALL {
        for set in [Set::Ports(version), Set::Whole(version)] {
            messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, PASSING, passing(set))));
        }
        messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, PASSING, withheld(version))));
    }
    messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, PASSING, stray())));
    messages.into_iter().map(|(kind, flags, message)| (kind, flags, message.finish())).collect()
}

fn lookup(list: Writer, set: Set) -> Writer {
    expression(list, "lookup", |data| data.string(1, set.name()).network(2, FIRST))
}

/// Loads the flags of a TCP segment.
fn flags() -> Writer {
    let list = equals(meta(Writer::default(), META_PROTOCOL, FIRST), &[TCP]);
    payload(list, TRANSPORT, 13, 1, FIRST)
}

/// Everything of TCP but a plain SYN.
fn no_plain_syn() -> Writer {
    differs(flags(), FIN_SYN_RST_ACK, SYN)
}

/// A reset and nothing else: what a TCP without such a connection answers to a segment with ACK (RFC 9293, 3.10.7.1 and 3.10.7.2). Who
/// refuses a connection, or gives one up, says RST and ACK.
fn bare_reset() -> Writer {
    agrees(flags(), FIN_SYN_RST_ACK, RST)
}

/// Those to an armed address and a service of this set: `jump unknown`.
fn input(set: Set) -> Writer {
    let is_ipv4 = set.version() == Version::V4;
    let list = of_family(no_plain_syn(), is_ipv4);
    let list = lookup(destination_address(list, is_ipv4, FIRST), Set::Armed(set.version()));
    let list = destination_address(list, is_ipv4, FIRST);
    let list = match set {
        Set::Ports(_) => destination_port(list, register(set.version().length())),
        Set::Whole(_) | Set::Armed(_) | Set::Silenced(_) => list,
    };
    verdict(lookup(list, set), Verdict::Jump(UNKNOWN))
}

/// Those of a connection that was silenced before: `jump unknown`.
fn silenced(version: Version) -> Writer {
    let list = connection(no_plain_syn(), version);
    verdict(lookup(list, Set::Silenced(version)), Verdict::Jump(UNKNOWN))
}

/// A bare reset from an armed address and a service of this set, which IPVS has translated: `jump withhold`. IPVS holds an entry of
/// the client's port from an earlier connection, which went to this real server; that knows nothing of the one that lives.
fn passing(set: Set) -> Writer {
    let is_ipv4 = set.version() == Version::V4;
    let list = of_family(bare_reset(), is_ipv4);
    let list = lookup(source_address(list, is_ipv4, FIRST), Set::Armed(set.version()));
    let list = source_address(list, is_ipv4, FIRST);
    let list = match set {
        Set::Ports(_) => source_port(list, register(set.version().length())),
        Set::Whole(_) | Set::Armed(_) | Set::Silenced(_) => list,
    };
    verdict(lookup(list, set), Verdict::Jump(WITHHOLD))
}

/// One of a connection that was silenced before: `jump withhold`.
fn withheld(version: Version) -> Writer {
    let list = answered_connection(bare_reset(), version);
    verdict(lookup(list, Set::Silenced(version)), Verdict::Jump(WITHHOLD))
}

/// Any other one while an address is armed: what a real server sends on a connection that IPVS does not know yet goes on to the client
/// under the real server's own address, and its TCP answers that. Whoever else is not told now is told the next time that he asks.
fn stray() -> Writer {
    let list = meta(bare_reset(), META_PROTOCOL, FIRST);
    let list = expression(list, "lookup", |data| data.string(1, RECENT).network(2, FIRST));
    let list = expression(list, "objref", |data| data.network(1, COUNTER).string(2, DROPPED));
    verdict(list, Verdict::Drop)
}

/// Remembers the connection, counts and drops.
fn silence(connection: impl Fn(Writer, Version) -> Writer) -> [Writer; 3] {
    let [four, six] = Version::ALL.map(|version| {
        expression(connection(Writer::default(), version), "dynset", |data| {
            // NFTA_DYNSET_OP: NFT_DYNSET_OP_ADD; what is there already keeps its time.
            data.string(1, Set::Silenced(version).name())
                .network(3, 0)
                .network(4, FIRST)
                .bytes(6, &milliseconds(REMEMBERED).to_be_bytes())
        })
    });
    let counted = expression(Writer::default(), "objref", |data| data.network(1, COUNTER).string(2, DROPPED));
    [four, six, verdict(counted, Verdict::Drop)]
}

/// What IPVS hands on to this machine's own sockets, because the machine is one of its own real servers, comes by, too. So what
/// belongs to a connection of a socket here passes. A socket that only listens, on every address, does not: it is what would
/// answer with a reset. (One that listens on the virtual address alone looks like a connection, and passes.)
fn unknown() -> [Writer; 3] {
    // NFT_SOCKET_TRANSPARENT is there for sockets of every state, NFT_SOCKET_WILDCARD for those that listen or are established.
    let socket = |list, key: u32| expression(list, "socket", |data| data.network(1, key).network(2, FIRST));
    let listens = equals(socket(Writer::default(), 2), &[1]);
    let any = socket(Writer::default(), 0);
    let silence = |list| verdict(list, Verdict::Jump(SILENCE));
    [silence(listens), verdict(any, Verdict::Accept), silence(Writer::default())]
}

#[derive(Clone, Copy)]
enum Verdict {
    Drop,
    Accept,
    /// To another chain.
    Jump(&'static str),
}

fn verdict(list: Writer, verdict: Verdict) -> Writer {
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Jump(_) => -3,
    };
    // NFTA_IMMEDIATE_DREG: NFT_REG_VERDICT; NFTA_IMMEDIATE_DATA: NFTA_DATA_VERDICT.
    expression(list, "immediate", |data| {
        data.network(1, 0).nest(2, |data| {
            data.nest(2, |data| {
                let data = data.network(1, code.cast_unsigned());
                if let Verdict::Jump(chain) = verdict { data.string(2, chain) } else { data }
            })
        })
    })
}

fn list(
    kind: u16,
    flags: u16,
    set: &str,
    keys: impl Iterator<Item = (Vec<u8>, Option<Duration>)>,
    into: &mut Vec<Unsent>,
) {
    let mut keys = keys.peekable();
    while keys.peek().is_some() {
        let message = about(TABLE).string(2, set).nest(3, |list| {
            keys.by_ref().take(ELEMENTS).fold(list, |list, (key, timeout)| {
                list.nest(LIST_ELEMENT, |one| {
                    let one = one.nest(1, |value| value.bytes(DATA_VALUE, &key));
                    match timeout {
                        Some(timeout) => one.bytes(ELEMENT_TIMEOUT, &milliseconds(timeout).to_be_bytes()),
                        None => one,
                    }
                })
            })
        });
        into.push((kind, flags, message.finish()));
    }
}

/// 0 would be for ever.
fn milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Adds services.
pub(super) fn add(elements: &Elements, into: &mut Vec<Unsent>) {
    for (set, keys) in elements {
        list(NEW_ELEMENTS, CREATE, set.name(), keys.iter().map(|key| (key.clone(), None)), into);
    }
}

/// Removes services, all of which must be there.
pub(super) fn remove(elements: &Elements, into: &mut Vec<Unsent>) {
    for (set, keys) in elements {
        list(DELETE_ELEMENTS, 0, set.name(), keys.iter().map(|key| (key.clone(), None)), into);
    }
}

/// Keeps addresses armed, and connections silenced, for what is left of their time.
pub(super) fn keep(timed: &BTreeMap<Element, Duration>, into: &mut Vec<Unsent>) {
    for set in Set::ALL.into_iter().filter(|set| set.lasts().is_some()) {
        let keys = timed.iter().filter(|((of, _), _)| *of == set);
        list(NEW_ELEMENTS, CREATE, set.name(), keys.map(|((_, key), left)| (key.clone(), Some(*left))), into);
    }
    let armed = timed.iter().filter(|((set, _), _)| matches!(set, Set::Armed(_))).map(|(_, left)| *left);
    let recent = armed.max().map(|left| (vec![TCP], Some(left)));
    list(NEW_ELEMENTS, CREATE, RECENT, recent.into_iter(), into);
}

/// Arms addresses, anew where they are. Adding what is there leaves its time as it is, and removing what is not there fails: so
/// each is added, removed and added.
pub(super) fn arm(addresses: &[IpAddr]) -> Vec<Unsent> {
    let mut messages = Vec::new();
    for version in Version::ALL {
        let keys = addresses.iter().filter(|address| Version::of(**address) == version);
        again(Set::Armed(version).name(), keys.map(|address| octets(*address)), &mut messages);
    }
    again(RECENT, addresses.first().map(|_| vec![TCP]).into_iter(), &mut messages);
    messages
}

fn again(set: &str, keys: impl Iterator<Item = Vec<u8>> + Clone, into: &mut Vec<Unsent>) {
    list(NEW_ELEMENTS, CREATE, set, keys.clone().map(|key| (key, Some(ARMED))), into);
    list(DELETE_ELEMENTS, 0, set, keys.clone().map(|key| (key, None)), into);
    list(NEW_ELEMENTS, CREATE, set, keys.map(|key| (key, Some(ARMED))), into);
}

/// A request for what is in the table.
pub(super) fn question() -> Vec<u8> {
    about(TABLE).finish()
}

/// A request for the elements of a set.
pub(super) fn elements_of(set: Set) -> Vec<u8> {
    about(TABLE).string(2, set.name()).finish()
}

/// A request for the counter.
pub(super) fn counter() -> Vec<u8> {
    about(TABLE).string(2, DROPPED).network(3, COUNTER).finish()
}

/// The elements of a set in an answer, with the time that is left of those that have one.
pub(super) fn read_elements(set: Set, message: &Message) -> Vec<(Element, Duration)> {
    let list = message.payload.get(HEADER..).and_then(|attributes| find(attributes, 3)).unwrap_or_default();
    Attributes(list)
        .filter_map(|(_, one)| {
            let key = find(one, 1).and_then(|value| find(value, DATA_VALUE))?;
            let left = find(one, ELEMENT_EXPIRATION).and_then(wide).unwrap_or_default();
            Some(((set, key.to_vec()), Duration::from_millis(left)))
        })
        .collect()
}

/// Packets counted in an answer.
pub(super) fn read_counter(message: &Message) -> Option<u64> {
    // NFTA_OBJ_DATA, NFTA_COUNTER_PACKETS.
    find(find(message.payload.get(HEADER..)?, 4)?, 2).and_then(wide)
}

fn wide(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*value.first_chunk()?))
}
