//! The nf_tables messages (linux/netfilter/nf_tables.h) that more than one plane speaks: tables, chains, rules, and the
//! expressions that rules are made of.

use sha2::{Digest, Sha256};

use super::{
    attribute::{Attributes, Writer, find, text},
    netlink::{ACK, Message, REQUEST, append},
};

/// NFNLGRP_NFTABLES.
pub(super) const GROUP: u32 = 7;

/// NETLINK_NETFILTER.
pub(super) const PROTOCOL: isize = 12;
/// NFNL_SUBSYS_NFTABLES, where the type of a message has it.
pub(super) const SUBSYSTEM: u16 = 10 << 8;
/// NFT_MSG_NEWTABLE.
pub(super) const NEW_TABLE: u16 = SUBSYSTEM;
/// NFT_MSG_GETTABLE.
pub(super) const GET_TABLE: u16 = SUBSYSTEM | 1;
/// NFT_MSG_DELTABLE.
pub(super) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
/// NFT_MSG_NEWCHAIN.
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
/// NFT_MSG_GETCHAIN.
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | 4;
/// NFT_MSG_NEWRULE.
pub(super) const NEW_RULE: u16 = SUBSYSTEM | 6;
/// NFT_MSG_GETRULE.
pub(super) const GET_RULE: u16 = SUBSYSTEM | 7;
/// NFT_MSG_DELRULE.
pub(super) const DELETE_RULE: u16 = SUBSYSTEM | 8;
/// NFT_MSG_NEWSET.
pub(super) const NEW_SET: u16 = SUBSYSTEM | 9;
/// NFT_MSG_GETSET.
pub(super) const GET_SET: u16 = SUBSYSTEM | 10;
/// NFT_MSG_NEWSETELEM.
pub(super) const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
/// NFT_MSG_GETSETELEM.
pub(super) const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// NFT_MSG_DELSETELEM.
pub(super) const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
/// NFT_MSG_NEWOBJ.
pub(super) const NEW_OBJECT: u16 = SUBSYSTEM | 18;
/// NFT_MSG_GETOBJ.
pub(super) const GET_OBJECT: u16 = SUBSYSTEM | 19;
/// NFT_MSG_NEWGEN.
pub(super) const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// NFPROTO_INET.
pub(super) const INET: u8 = 1;
/// struct nfgenmsg: family, version, resource id.
pub(super) const HEADER: usize = 4;

/// Elements in one message: its list is one attribute, which has at most 65,535 bytes.
pub(super) const ELEMENTS: usize = 400;

/// NFTA_LIST_ELEM.
pub(super) const LIST_ELEMENT: u16 = 1;
/// NFTA_DATA_VALUE.
pub(super) const DATA_VALUE: u16 = 1;

/// NF_INET_PRE_ROUTING.
pub(super) const PREROUTING: u32 = 0;
/// NF_INET_LOCAL_IN.
pub(super) const LOCAL_IN: u32 = 1;
/// NF_INET_FORWARD.
pub(super) const FORWARD: u32 = 2;
/// NF_INET_LOCAL_OUT.
pub(super) const LOCAL_OUT: u32 = 3;

/// NF_INET_POST_ROUTING.
pub(super) const POSTROUTING: u32 = 4;

/// NF_ACCEPT.
pub(super) const ACCEPT: i32 = 1;

/// The register that a rule uses first, of 16 bytes (NFT_REG_1).
pub(super) const FIRST: u32 = 1;
/// NFT_PAYLOAD_NETWORK_HEADER.
pub(super) const NETWORK: u32 = 1;
/// NFT_PAYLOAD_TRANSPORT_HEADER.
pub(super) const TRANSPORT: u32 = 2;
/// NFT_META_MARK.
pub(super) const META_MARK: u32 = 3;
/// NFT_META_IIFNAME.
pub(super) const META_IN_INTERFACE: u32 = 6;
/// NFT_META_OIFNAME.
pub(super) const META_OUT_INTERFACE: u32 = 7;
/// NFT_META_NFPROTO.
pub(super) const META_FAMILY: u32 = 15;
/// NFT_META_L4PROTO.
pub(super) const META_PROTOCOL: u32 = 16;

/// NFT_CMP_EQ.
const EQUAL: u32 = 0;
/// NFT_CMP_NEQ.
const UNEQUAL: u32 = 1;

/// A message without its netlink header: type, flags besides NLM_F_REQUEST, payload.
pub(super) type Unsent = (u16, u16, Vec<u8>);

/// struct nfgenmsg.
pub(super) fn header(family: u8, resource: u16) -> [u8; HEADER] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

/// Starts a message about a table of the family `inet`: all objects name their table in attribute 1.
pub(super) fn about(table: &str) -> Writer {
    Writer::after(&header(INET, 0)).string(1, table)
}

/// One transaction; see [`super::netlink::Connection::transact`].
pub(super) fn transaction(messages: Vec<Unsent>, sequence: u32) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(messages.iter().map(|(_, _, bytes)| bytes.len() + 20).sum());
    let envelope = header(0, SUBSYSTEM >> 8);
    append(&mut buffer, BATCH_BEGIN, REQUEST, sequence, &envelope);
    let last = messages.len().saturating_sub(1);
    for (index, (kind, flags, message)) in messages.into_iter().enumerate() {
        let (flags, sequence) =
            if index == last { (flags | ACK, sequence.wrapping_add(1).max(1)) } else { (flags, sequence) };
        append(&mut buffer, kind, REQUEST | flags, sequence, &message);
    }
    append(&mut buffer, BATCH_END, REQUEST, sequence, &envelope);
    buffer
}

/// A number of bytes as the kernel takes it.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A base chain that accepts what its rules leave.
pub(super) fn chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Writer {
    let accept = 1;
    about(table)
        .string(3, name)
        .nest(4, |place| place.network(1, hook).network(2, priority.cast_unsigned()))
        .network(5, accept)
        .string(7, kind)
}

/// A rule of these expressions.
pub(super) fn rule(table: &str, chain: &str, expressions: Writer) -> Writer {
    about(table).string(2, chain).nest(4, |_| expressions)
}

/// Adds an expression to a list.
pub(super) fn expression(list: Writer, name: &str, write: impl FnOnce(Writer) -> Writer) -> Writer {
    list.nest(LIST_ELEMENT, |one| one.string(1, name).nest(2, write))
}

/// Loads NFT_META_*.
pub(super) fn meta(list: Writer, key: u32, into: u32) -> Writer {
    expression(list, "meta", |data| data.network(2, key).network(1, into))
}

/// Loads bytes of the packet; `base` is NFT_PAYLOAD_*_HEADER.
pub(super) fn payload(list: Writer, base: u32, offset: u32, bytes: usize, into: u32) -> Writer {
    expression(list, "payload", |data| {
        data.network(1, into).network(2, base).network(3, offset).network(4, length(bytes))
    })
}

/// The first register holds something else, or the rule ends.
pub(super) fn equals_not(list: Writer, value: &[u8]) -> Writer {
    compare(list, UNEQUAL, value)
}

fn compare(list: Writer, how: u32, with: &[u8]) -> Writer {
    expression(list, "cmp", |data| {
        data.network(1, FIRST).network(2, how).nest(3, |value| value.bytes(DATA_VALUE, with))
    })
}

/// The first register holds this, or the rule ends.
pub(super) fn equals(list: Writer, value: &[u8]) -> Writer {
    compare(list, EQUAL, value)
}

/// One of these bits is set in the byte of the first register, or the rule ends.
pub(super) fn has_bit(list: Writer, mask: u8) -> Writer {
    differs(list, mask, 0)
}

/// Of these bits in the byte of the first register others are set than these, or the rule ends.
pub(super) fn differs(list: Writer, mask: u8, from: u8) -> Writer {
    compare(masked(list, &[mask]), UNEQUAL, &[from])
}

/// Of these bits in the byte of the first register exactly these are set, or the rule ends.
pub(super) fn agrees(list: Writer, mask: u8, with: u8) -> Writer {
    compare(masked(list, &[mask]), EQUAL, &[with])
}

/// Keeps these bits of the bytes in the first register.
pub(super) fn masked(list: Writer, mask: &[u8]) -> Writer {
    expression(list, "bitwise", |data| {
        data.network(1, FIRST)
            .network(2, FIRST)
            .network(3, length(mask.len()))
            .nest(4, |value| value.bytes(DATA_VALUE, mask))
            .nest(5, |value| value.bytes(DATA_VALUE, &vec![0; mask.len()]))
    })
}

/// The packet is IPv4 or IPv6, or the rule ends.
pub(super) fn of_family(list: Writer, is_ipv4: bool) -> Writer {
    equals(meta(list, META_FAMILY, FIRST), &[if is_ipv4 { 2 } else { 10 }])
}

/// Loads the destination address.
pub(super) fn destination_address(list: Writer, is_ipv4: bool, into: u32) -> Writer {
    if is_ipv4 { payload(list, NETWORK, 16, 4, into) } else { payload(list, NETWORK, 24, 16, into) }
}

/// Loads the destination port, which stands at the same place in TCP, UDP and SCTP.
pub(super) fn destination_port(list: Writer, into: u32) -> Writer {
    payload(list, TRANSPORT, 2, 2, into)
}

/// Loads the source address.
pub(super) fn source_address(list: Writer, is_ipv4: bool, into: u32) -> Writer {
    if is_ipv4 { payload(list, NETWORK, 12, 4, into) } else { payload(list, NETWORK, 8, 16, into) }
}

/// Loads the source port.
pub(super) fn source_port(list: Writer, into: u32) -> Writer {
    payload(list, TRANSPORT, 0, 2, into)
}

/// The register at an offset in the space that a key takes.
pub(super) fn register(offset: usize) -> u32 {
    // Registers of 16 bytes where aligned so, as nft does.
    if offset.is_multiple_of(16) { FIRST + length(offset / 16) } else { 8 + length(offset / 4) }
}

/// Ends the chain with NF_DROP or NF_ACCEPT.
pub(super) fn verdict(list: Writer, code: i32) -> Writer {
    // NFTA_IMMEDIATE_DREG: NFT_REG_VERDICT; NFTA_IMMEDIATE_DATA: NFTA_DATA_VERDICT.
    expression(list, "immediate", |data| {
        data.network(1, 0).nest(2, |data| data.nest(2, |data| data.network(1, code.cast_unsigned())))
    })
}

/// Whether an attribute list that begins with a table's name names this table of the family `inet`.
fn names(payload: &[u8], table: &str) -> bool {
    payload.first() == Some(&INET)
        && payload
            .get(HEADER..)
            .and_then(|attributes| find(attributes, 1))
            .is_some_and(|name| text(name) == table)
}

/// Whether a notification says that a table changed. All objects name their table in attribute 1.
pub(super) fn concerns(message: &Message, table: &str) -> bool {
    message.kind & 0xff00 == SUBSYSTEM && message.kind != NEW_GENERATION && names(&message.payload, table)
}

/// What makes up a table besides elements: chains, rules and sets as the kernel lists them, without what the kernel counts or
/// numbers. A listing is not what was written, so it is compared with one that was read right after a commit.
pub(super) fn fingerprint(table: &str, chains: &[Message], rules: &[Message], sets: &[Message]) -> String {
    // NFTA_CHAIN_NAME, HOOK, POLICY, TYPE, FLAGS; NFTA_RULE_CHAIN, EXPRESSIONS; NFTA_SET_NAME, FLAGS, KEY_TYPE, KEY_LEN, DATA_TYPE,
    // DATA_LEN.
    let listings: [(&[Message], &[u16]); 3] =
        [(chains, &[3, 4, 5, 7, 10]), (rules, &[2, 4]), (sets, &[2, 3, 4, 5, 6, 7])];
    let mut hash = Sha256::new();
    for (messages, kinds) in listings {
        for message in messages.iter().filter(|message| names(&message.payload, table)) {
            for (kind, value) in
                Attributes(&message.payload[HEADER..]).filter(|(kind, _)| kinds.contains(kind))
            {
                hash.update(kind.to_ne_bytes());
                hash.update(length(value.len()).to_ne_bytes());
                hash.update(value);
            }
            hash.update(u16::MAX.to_ne_bytes());
        }
        hash.update(0u16.to_ne_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::register;

    #[test]
    fn registers_are_nfts() {
        // As `nft --debug=netlink` shows them for keys of these lengths.
        assert_eq!([0, 4, 8, 12, 16, 20, 24].map(register), [1, 9, 10, 11, 2, 13, 14]);
    }
}
