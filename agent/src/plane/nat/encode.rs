//! The nf_tables messages of our table (linux/netfilter/nf_tables.h), and reading them back.
//!
//! Spoken directly, not through `nft`: starting that program costs ten times as long as the whole transaction (a repair has
//! 50 ms), and its older versions cannot say `ct original proto-dst` in a concatenation, which the kernel can.

use std::collections::BTreeMap;

use super::{
    refused,
    table::{By, Field, Key, Set, TABLE, Version},
};
use crate::plane::{
    attribute::{Attributes, Writer, find},
    netlink::{APPEND, CREATE, Message},
    nftables::{
        self, DATA_VALUE, DELETE_ELEMENTS, DELETE_TABLE, ELEMENTS, FIRST, HEADER, LIST_ELEMENT, LOCAL_IN,
        LOCAL_OUT, META_MARK, META_PROTOCOL, NETWORK, NEW_CHAIN, NEW_ELEMENTS, NEW_RULE, NEW_SET, NEW_TABLE,
        Unsent, about, destination_address, destination_port, expression, length, meta, payload, register,
    },
};

const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_CONCATENATION: u32 = 0x80;
/// NFTA_SET_USERDATA, which nft reads: NFTNL_UDATA_SET_DATABYTEORDER (type 1, 4 bytes), BYTEORDER_HOST_ENDIAN. Without it nft
/// prints marks byte by byte the wrong way round.
const MARKS_IN_HOST_ORDER: [u8; 6] = {
    let order = 1u32.to_ne_bytes();
    [1, 4, order[0], order[1], order[2], order[3]]
};
/// nft's number of the type of marks.
const TYPE_MARK: u32 = 19;

fn start() -> Writer {
    about(TABLE)
}

/// Whether a notification says that our table changed.
pub(super) fn concerns_us(message: &Message) -> bool {
    nftables::concerns(message, TABLE)
}

/// A request for what is in our table.
pub(super) fn question() -> Vec<u8> {
    start().finish()
}

/// A request for the elements of a set.
pub(super) fn elements_of(set: Set) -> Vec<u8> {
    start().string(2, set.name()).finish()
}

/// Elements to add or to remove.
pub(super) type Elements = BTreeMap<Set, BTreeMap<Key, u32>>;

/// One transaction under construction.
pub(super) struct Batch {
    messages: Vec<Unsent>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { messages: Vec::new() }
    }

    fn push(&mut self, kind: u16, flags: u16, message: Writer) {
        self.messages.push((kind, flags, message.finish()));
    }

    /// Removes the table, whether it is there or not.
    pub(super) fn delete_table(&mut self) {
        self.push(NEW_TABLE, CREATE, start());
        self.push(DELETE_TABLE, 0, start());
    }

    /// Makes the table with these sets, their elements, and a rule for each set.
    pub(super) fn create_table(&mut self, elements: &Elements) {
        self.push(NEW_TABLE, CREATE, start());
        for (id, set) in (1..).zip(elements.keys()) {
            self.push(NEW_SET, CREATE, declaration(*set, id));
        }
        self.add(elements);
        let marks = elements.keys().any(|set| set.maps());
        let sources = elements.keys().any(|set| matches!(set, Set::Source { .. }));
        if marks {
            // -150: mangle, before routing and before IPVS look at the mark. `route` looks for the way anew after a change.
            self.push(NEW_CHAIN, CREATE, chain("prerouting", "filter", 0, -150));
            self.push(NEW_CHAIN, CREATE, chain("output", "route", LOCAL_OUT, -150));
        }
        if sources {
            self.push(NEW_CHAIN, CREATE, chain("postrouting", "nat", 4, 100));
        }
        if elements.keys().any(|set| matches!(set, Set::Refused(_))) {
            self.push(NEW_CHAIN, CREATE, chain(refused::CHAIN, "filter", LOCAL_IN, refused::PRIORITY));
        }
        for set in elements.keys() {
            match *set {
                Set::Marks(version) => {
                    for name in ["prerouting", "output"] {
                        self.push(NEW_RULE, CREATE | APPEND, rule(name, mark_rule(version)));
                    }
                }
                Set::Source { version, by, auto } => {
                    self.push(NEW_RULE, CREATE | APPEND, rule("postrouting", source_rule(version, by, auto)));
                }
                Set::Refused(version) => {
                    for list in refused::rules(version) {
                        self.push(NEW_RULE, CREATE | APPEND, rule(refused::CHAIN, list));
                    }
                }
                Set::Connected(_) => {}
            }
        }
    }

    /// Adds elements.
    pub(super) fn add(&mut self, elements: &Elements) {
        self.change(NEW_ELEMENTS, CREATE, elements);
    }

    /// Removes elements, all of which must be there.
    pub(super) fn remove(&mut self, elements: &Elements) {
        self.change(DELETE_ELEMENTS, 0, elements);
    }

    fn change(&mut self, kind: u16, flags: u16, elements: &Elements) {
        for (set, entries) in elements {
            let mut entries = entries.iter().peekable();
            while entries.peek().is_some() {
                let message = start().string(2, set.name()).nest(3, |list| {
                    entries.by_ref().take(ELEMENTS).fold(list, |list, (key, data)| {
                        list.nest(LIST_ELEMENT, |one| element(*set, key, *data, one))
                    })
                });
                self.push(kind, flags, message);
            }
        }
    }

    /// The datagram; see [`crate::plane::netlink::Connection::transact`].
    pub(super) fn finish(self, sequence: u32) -> Vec<u8> {
        nftables::transaction(self.messages, sequence)
    }
}

fn element(set: Set, key: &[u8], data: u32, one: Writer) -> Writer {
    let (first, last) = key.split_at(set.key_length().min(key.len()));
    let mut one = one.nest(1, |value| value.bytes(DATA_VALUE, first));
    if set.maps() {
        one = one.nest(2, |value| value.bytes(DATA_VALUE, &data.to_ne_bytes()));
    }
    if set.ranges() {
        one = one.nest(10, |value| value.bytes(DATA_VALUE, last));
    }
    one
}

fn declaration(set: Set, id: u32) -> Writer {
    let key_type =
        set.fields().iter().fold(0, |number, field| number << 6 | field.type_number(set.version()));
    let mut flags = 0;
    if set.maps() {
        flags |= SET_MAP;
    }
    if set.ranges() {
        flags |= SET_INTERVAL | SET_CONCATENATION;
    }
    let mut message = start()
        .string(2, set.name())
        .network(3, flags)
        .network(4, key_type)
        .network(5, length(set.key_length()));
    if set.maps() {
        message = message.network(6, TYPE_MARK).network(7, 4);
    }
    if set.ranges() {
        message = message.nest(9, |description| {
            description.nest(2, |fields| {
                set.fields().iter().fold(fields, |fields, field| {
                    fields.nest(LIST_ELEMENT, |one| one.network(1, length(field.length(set.version()))))
                })
            })
        });
    }
    message = message.network(10, id);
    if set.maps() {
        message = message.bytes(13, &MARKS_IN_HOST_ORDER);
    }
    message
}

fn chain(name: &str, kind: &str, hook: u32, priority: i32) -> Writer {
    nftables::chain(TABLE, name, kind, hook, priority)
}

fn rule(chain: &str, expressions: Writer) -> Writer {
    nftables::rule(TABLE, chain, expressions)
}

/// NFT_CT_* of the original direction.
fn original(list: Writer, key: u32, into: u32) -> Writer {
    expression(list, "ct", |data| data.network(2, key).network(1, into).bytes(3, &[0]))
}

const CT_PORT: u32 = 12;

fn ct_address(version: Version) -> u32 {
    match version {
        Version::V4 => 20,
        Version::V6 => 22,
    }
}

fn source_address(list: Writer, version: Version, into: u32) -> Writer {
    payload(list, NETWORK, if version == Version::V4 { 12 } else { 8 }, version.length(), into)
}

fn of_family(list: Writer, version: Version) -> Writer {
    nftables::of_family(list, version == Version::V4)
}

fn lookup(list: Writer, set: Set, into: Option<u32>) -> Writer {
    expression(list, "lookup", |data| {
        let data = data.string(1, set.name()).network(2, FIRST);
        match into {
            Some(register) => data.network(3, register),
            None => data,
        }
    })
}

/// Loads the fields of a set's key one after another.
fn load(list: Writer, set: Set, mut one: impl FnMut(Writer, usize, Field, u32) -> Writer) -> Writer {
    let mut offset = 0;
    set.fields().iter().enumerate().fold(list, |list, (index, field)| {
        let list = one(list, index, *field, register(offset));
        offset += field.space(set.version());
        list
    })
}

/// `ip daddr . meta l4proto . th dport` gets the mark of the map.
fn mark_rule(version: Version) -> Writer {
    let set = Set::Marks(version);
    let list = load(of_family(Writer::default(), version), set, |list, _, field, into| match field {
        Field::Address => destination_address(list, version == Version::V4, into),
        Field::Protocol => meta(list, META_PROTOCOL, into),
        Field::Port | Field::Mark => destination_port(list, into),
    });
    let list = lookup(list, set, Some(FIRST));
    expression(list, "meta", |data| data.network(2, META_MARK).network(3, FIRST))
}

/// The virtual address, protocol and port that the client asked for, and the real server that it gets; with `auto` also the
/// client and the real server in one network: then the director's own address becomes the source.
fn source_rule(version: Version, by: By, auto: bool) -> Writer {
    let set = Set::Source { version, by, auto };
    let last = set.fields().len() - 1;
    let list = load(of_family(Writer::default(), version), set, |list, index, field, into| match field {
        Field::Address if index == last => destination_address(list, version == Version::V4, into),
        Field::Address => original(list, ct_address(version), into),
        Field::Protocol => meta(list, META_PROTOCOL, into),
        Field::Port => original(list, CT_PORT, into),
        Field::Mark => meta(list, META_MARK, into),
    });
    let mut list = lookup(list, set, None);
    if auto {
        let connected = Set::Connected(version);
        list = load(list, connected, |list, index, _, into| {
            if index == 0 {
                source_address(list, version, into)
            } else {
                destination_address(list, version == Version::V4, into)
            }
        });
        list = lookup(list, connected, None);
    }
    expression(list, "masq", |data| data)
}

/// The elements of a set in an answer.
pub(super) fn read_elements(set: Set, message: &Message, into: &mut BTreeMap<Key, u32>) {
    let Some(list) = message.payload.get(HEADER..).and_then(|attributes| find(attributes, 3)) else { return };
    for (_, one) in Attributes(list) {
        let value = |kind| find(one, kind).and_then(|value| find(value, DATA_VALUE));
        let Some(first) = value(1) else { continue };
        let mut key = first.to_vec();
        if set.ranges() {
            key.extend_from_slice(value(10).unwrap_or(first));
        }
        let data = value(2).and_then(crate::plane::attribute::number).unwrap_or_default();
        into.insert(key, data);
    }
}

/// See [`nftables::fingerprint`].
pub(super) fn fingerprint(chains: &[Message], rules: &[Message], sets: &[Message]) -> String {
    nftables::fingerprint(TABLE, chains, rules, sets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::{
        netlink::ACK,
        nftables::{INET, NEW_GENERATION, header},
    };

    #[test]
    fn a_batch_asks_for_one_acknowledgement() {
        let mut batch = Batch::new();
        batch.delete_table();
        batch.create_table(&Elements::from([(Set::Marks(Version::V4), BTreeMap::new())]));
        let bytes = batch.finish(41);
        let mut acknowledged = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            let flags = u16::from_ne_bytes(rest[6..8].try_into().unwrap());
            if flags & ACK != 0 {
                acknowledged.push(u32::from_ne_bytes(rest[8..12].try_into().unwrap()));
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        assert_eq!(acknowledged, [42]);
    }

    #[test]
    fn elements_read_back_as_written() {
        for (set, key) in [
            (Set::Marks(Version::V4), vec![1; 12]),
            (Set::Connected(Version::V6), [vec![1; 32], vec![2; 32]].concat()),
        ] {
            let elements = Elements::from([(set, BTreeMap::from([(key.clone(), 7)]))]);
            let mut batch = Batch::new();
            batch.add(&elements);
            let message = Message { kind: NEW_ELEMENTS, port: 0, payload: batch.messages[0].2.clone() };
            let mut read = BTreeMap::new();
            read_elements(set, &message, &mut read);
            assert_eq!(read, BTreeMap::from([(key, if set.maps() { 7 } else { 0 })]));
        }
    }

    #[test]
    fn big_sets_are_split() {
        let entries = (0..1000u32).map(|number| (number.to_be_bytes().repeat(4), 0)).collect();
        let mut batch = Batch::new();
        batch.add(&Elements::from([(
            Set::Source { version: Version::V4, by: By::Port, auto: false },
            entries,
        )]));
        assert_eq!(batch.messages.len(), 3);
    }

    #[test]
    fn only_our_table_concerns_us() {
        let message = |family: u8, name: &str| Message {
            kind: NEW_RULE,
            port: 9,
            payload: Writer::after(&header(family, 3)).string(1, name).finish(),
        };
        assert!(concerns_us(&message(INET, "bascule")));
        assert!(!concerns_us(&message(INET, "filter")));
        assert!(!concerns_us(&message(2, "bascule")), "ip bascule is somebody else's");
        assert!(!concerns_us(&Message { kind: NEW_GENERATION, port: 0, payload: vec![0; 4] }));
    }
}
