//! The nftables table that sends packets into the queue.

use std::io;

use bascule_ipvs::{Family, Protocol, ServiceId};

use crate::plane::{
    attribute::{Writer, octets},
    netlink::{APPEND, CREATE, Connection, EXCLUSIVE},
    nftables::{
        DELETE_RULE, DELETE_TABLE, FIRST, LOCAL_IN, LOCAL_OUT, META_MARK, META_PROTOCOL, NEW_CHAIN, NEW_RULE,
        NEW_TABLE, PROTOCOL, TRANSPORT, Unsent, about, chain, destination_address, destination_port, equals,
        expression, has_bit, meta, of_family, payload, rule, transaction,
    },
};

/// Of the family `inet`; there only while packets are held.
const TABLE: &str = "bascule-pause";
/// NFT_TABLE_F_OWNER (Linux 5.12): nobody else changes the table, and it goes with our socket, however we end.
const OWNED: u32 = 0x2;
/// NFT_QUEUE_FLAG_BYPASS: where nobody listens to the queue, packets go on.
const BYPASS: u16 = 0x1;

/// Name, hook and priority. IPVS schedules packets from outside at NF_IP_PRI_NAT_SRC - 1 = 99 and has a hook at 98 before that;
/// packets of this machine at NF_IP_PRI_NAT_DST + 2 = -98, after the translation of destinations at -100
/// (net/netfilter/ipvs/ip_vs_core.c).
const CHAINS: [(&str, u32, i32); 2] = [("input", LOCAL_IN, 97), ("output", LOCAL_OUT, -99)];

/// The table, which lives as long as the socket.
pub(super) struct Rules {
    socket: Connection,
}

impl Rules {
    /// Makes the table: what these services would schedule goes into the queue.
    pub(super) fn open(services: &[ServiceId], queue: u16) -> io::Result<Self> {
        let mut socket = Connection::open(PROTOCOL)?;
        let mut messages = table();
        messages.extend(rules(services, queue));
        socket.transact(|sequence| transaction(messages, sequence))?;
        Ok(Self { socket })
    }

    /// These services from now on; none leaves the chains empty.
    ///
    /// The chains stay until nothing is in the queue: when the kernel removes a chain from its hook, it drops what any queue of
    /// the network namespace holds (`nf_queue_nf_hook_drop`, net/netfilter/core.c).
    pub(super) fn replace(&mut self, services: &[ServiceId], queue: u16) -> io::Result<()> {
        let mut messages: Vec<Unsent> = CHAINS
            .iter()
            .map(|(chain, ..)| (DELETE_RULE, 0, about(TABLE).string(2, chain).finish()))
            .collect();
        messages.extend(rules(services, queue));
        self.socket.transact(|sequence| transaction(messages, sequence))
    }

    /// Removes the table.
    pub(super) fn remove(mut self) -> io::Result<()> {
        let messages = vec![(DELETE_TABLE, 0, about(TABLE).finish())];
        self.socket.transact(|sequence| transaction(messages, sequence))
    }
}

fn table() -> Vec<Unsent> {
    let mut messages = vec![(NEW_TABLE, CREATE | EXCLUSIVE, about(TABLE).network(2, OWNED).finish())];
    messages.extend(CHAINS.iter().map(|(name, hook, priority)| {
        (NEW_CHAIN, CREATE, chain(TABLE, name, "filter", *hook, *priority).finish())
    }));
    messages
}

fn rules(services: &[ServiceId], queue: u16) -> Vec<Unsent> {
    let mut messages = Vec::new();
    for (chain, ..) in CHAINS {
        for matched in services.iter().flat_map(|id| matches(*id)) {
            let expressions = expression(matched, "queue", |data| {
                // NFTA_QUEUE_NUM, TOTAL, FLAGS.
                data.bytes(1, &queue.to_be_bytes())
                    .bytes(2, &1u16.to_be_bytes())
                    .bytes(3, &BYPASS.to_be_bytes())
            });
            messages.push((NEW_RULE, CREATE | APPEND, rule(TABLE, chain, expressions).finish()));
        }
    }
    messages
}

/// What a service would schedule, as the beginnings of rules.
fn matches(id: ServiceId) -> Vec<Writer> {
    match id {
        ServiceId::Address { protocol, address, port } => opens(protocol)
            .map(|opens| {
                let list = of_protocol(address.is_ipv4(), protocol);
                let list = destination_address(list, address.is_ipv4(), FIRST);
                let list = equals(list, &octets(address));
                // 0 is every port.
                let list =
                    if port == 0 { list } else { equals(destination_port(list, FIRST), &port.to_be_bytes()) };
                opens(list)
            })
            .into_iter()
            .collect(),
        ServiceId::Fwmark { mark, family } => [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .filter_map(|protocol| {
                let list = of_protocol(family == Family::Ipv4, protocol);
                let list = equals(meta(list, META_MARK, FIRST), &mark.to_ne_bytes());
                Some(opens(protocol)?(list))
            })
            .collect(),
    }
}

fn of_protocol(is_ipv4: bool, protocol: Protocol) -> Writer {
    let list = of_family(Writer::default(), is_ipv4);
    let number = u8::try_from(protocol.number()).unwrap_or_default();
    equals(meta(list, META_PROTOCOL, FIRST), &[number])
}

/// What the packets have in common that IPVS schedules (`tcp_conn_schedule`, `udp_conn_schedule`, `sctp_conn_schedule` in
/// net/netfilter/ipvs/): TCP with SYN, any datagram, SCTP that begins with INIT. None for a protocol that it does not balance.
fn opens(protocol: Protocol) -> Option<fn(Writer) -> Writer> {
    const SYN: u8 = 0x02;
    const INIT: u8 = 1;
    match protocol {
        Protocol::Tcp => Some(|list| has_bit(payload(list, TRANSPORT, 13, 1, FIRST), SYN)),
        Protocol::Udp => Some(|list| list),
        Protocol::Sctp => Some(|list| equals(payload(list, TRANSPORT, 12, 1, FIRST), &[INIT])),
        Protocol::Other(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::plane::attribute::{Attributes, find, number, text};

    fn address(protocol: Protocol, address: &str, port: u16) -> ServiceId {
        ServiceId::Address { protocol, address: address.parse::<IpAddr>().unwrap(), port }
    }

    /// The rules of a service in words: what is loaded, and the bytes that it is compared with.
    fn read(id: ServiceId) -> Vec<String> {
        let big_endian = |value: &[u8]| number(value).unwrap().to_be();
        let rule = |list: Writer| {
            let bytes = list.finish();
            let words = Attributes(&bytes).map(|(kind, one)| {
                assert_eq!(kind, 1, "NFTA_LIST_ELEM");
                let data = find(one, 2).unwrap();
                let field = |kind| big_endian(find(data, kind).unwrap());
                let value = |kind| find(find(data, kind).unwrap(), 1).unwrap();
                match text(find(one, 1).unwrap()).as_str() {
                    "meta" => format!("meta {}", field(2)),
                    "payload" => format!("payload {}+{}:{}", field(2), field(3), field(4)),
                    "bitwise" => format!("& {:?} ^ {:?}", value(4), value(5)),
                    "cmp" => format!("{} {:?}", if field(2) == 0 { "==" } else { "!=" }, value(3)),
                    other => panic!("{other}"),
                }
            });
            words.collect::<Vec<_>>().join(" ")
        };
        matches(id).into_iter().map(rule).collect()
    }

    #[test]
    fn only_what_is_scheduled_is_matched() {
        const HTTP: &str = "meta 15 == [2] meta 16 == [6] payload 1+16:4 == [192, 16, 193, 30] payload 2+2:2 == [0, 80] \
             payload 2+13:1 & [2] ^ [0] != [0]";
        assert_eq!(read(address(Protocol::Tcp, "192.16.193.30", 80)), [HTTP]);
        assert_eq!(
            read(address(Protocol::Udp, "2001:db8::1", 0)),
            [
                "meta 15 == [10] meta 16 == [17] payload 1+24:16 == [32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]"
            ],
            "port 0 is every port"
        );
        assert_eq!(
            read(address(Protocol::Sctp, "10.0.0.1", 258)),
            [
                "meta 15 == [2] meta 16 == [132] payload 1+16:4 == [10, 0, 0, 1] payload 2+2:2 == [1, 2] payload 2+12:1 == [1]"
            ]
        );
        assert_eq!(read(address(Protocol::Other(50), "10.0.0.1", 0)), Vec::<String>::new());
        let mark = 7u32.to_ne_bytes();
        assert_eq!(
            read(ServiceId::Fwmark { mark: 7, family: Family::Ipv6 }),
            [
                format!(
                    "meta 15 == [10] meta 16 == [6] meta 3 == {mark:?} payload 2+13:1 & [2] ^ [0] != [0]"
                ),
                format!("meta 15 == [10] meta 16 == [17] meta 3 == {mark:?}"),
                format!("meta 15 == [10] meta 16 == [132] meta 3 == {mark:?} payload 2+12:1 == [1]"),
            ]
        );
    }

    #[test]
    fn a_rule_ends_in_the_queue() {
        let messages = rules(&[address(Protocol::Udp, "10.0.0.1", 53)], 0xba54);
        assert_eq!(messages.len(), 2, "one a chain");
        let half = |value: u16| value.to_ne_bytes().to_vec();
        let attribute =
            |kind: u16, length: u16, value: &[u8]| [half(length), half(kind), value.to_vec()].concat();
        // NFTA_EXPR_NAME "queue" with its NUL and padding; NFTA_EXPR_DATA (nested): number, total, flags, each padded.
        let queue = [
            attribute(1, 10, b"queue\0\0\0"),
            attribute(0x8002, 28, &[]),
            attribute(1, 6, &[0xba, 0x54, 0, 0]),
            attribute(2, 6, &[0, 1, 0, 0]),
            attribute(3, 6, &[0, 1, 0, 0]),
        ]
        .concat();
        for (kind, flags, message) in messages {
            assert_eq!((kind, flags), (10 << 8 | 6, CREATE | APPEND));
            assert!(message.ends_with(&queue), "{message:?}");
        }
    }

    #[test]
    fn the_table_is_owned_and_before_ipvs() {
        let messages = table();
        let flags = |message: &[u8], kind| find(&message[4..], kind).map(<[u8]>::to_vec);
        assert_eq!(flags(&messages[0].2, 2), Some(vec![0, 0, 0, 2]));
        assert_eq!(messages[0].1 & EXCLUSIVE, EXCLUSIVE, "never somebody else's table");
        let places: Vec<_> = messages[1..]
            .iter()
            .map(|(_, _, message)| {
                let place = flags(message, 4).unwrap();
                (find(&place, 1).unwrap().to_vec(), find(&place, 2).unwrap().to_vec())
            })
            .collect();
        assert_eq!(
            places,
            [(vec![0, 0, 0, 1], vec![0, 0, 0, 97]), (vec![0, 0, 0, 3], (-99i32).to_be_bytes().to_vec())]
        );
    }
}
