//! Whatever is written is read back; whatever is read does not panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bascule_ipvs::{
    Command, Daemon, DaemonRole, Destination, DestinationId, Family, Forwarding, InvalidCommand, Netmask,
    Protocol, Service, ServiceFlags, ServiceId, Timeouts, Tunnel, TunnelFlags, TunnelKind,
    codec::{
        NLM_F_ACK, NLM_F_REQUEST, Payload, Query, decode_command, decode_family, decode_reply,
        encode_command, encode_query, messages,
    },
};
use proptest::{collection::vec, option, prelude::*};

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9:_.-]{1,15}"
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn service_id() -> impl Strategy<Value = ServiceId> {
    prop_oneof![
        (any::<u16>(), ip(), any::<u16>()).prop_map(|(protocol, address, port)| ServiceId::Address {
            protocol: Protocol::from_number(protocol),
            address,
            port
        }),
        (1_u16..300, ip(), any::<u16>()).prop_map(|(protocol, address, port)| ServiceId::Address {
            protocol: Protocol::from_number(protocol),
            address,
            port
        }),
        (1..=u32::MAX, family()).prop_map(|(mark, family)| ServiceId::Fwmark { mark, family }),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    (service_id(), name(), any::<u32>(), any::<u32>(), any::<u32>(), 1_u8..=128, option::of(name())).prop_map(
        |(id, scheduler, flags, timeout, mask, prefix, pe_name)| Service {
            id,
            scheduler,
            flags: ServiceFlags::from_bits(flags),
            timeout,
            netmask: match id.family() {
                Family::Ipv4 => Netmask::V4(mask.into()),
                Family::Ipv6 => Netmask::V6(prefix),
            },
            pe_name,
        },
    )
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    let kind = prop_oneof![
        Just(TunnelKind::Ipip),
        any::<u16>().prop_map(|port| TunnelKind::Gue { port }),
        Just(TunnelKind::Gre),
        (3..=u8::MAX, any::<u16>()).prop_map(|(number, port)| TunnelKind::Other { number, port }),
    ];
    prop_oneof![
        Just(Forwarding::Masquerade),
        Just(Forwarding::Local),
        Just(Forwarding::DirectRouting),
        Just(Forwarding::Bypass),
        (5_u8..=7).prop_map(Forwarding::Other),
        (kind, any::<u16>()).prop_map(|(kind, flags)| Forwarding::Tunnel(Tunnel {
            kind,
            flags: TunnelFlags::from_bits(flags)
        })),
    ]
}

fn destination() -> impl Strategy<Value = Destination> {
    (ip(), any::<u16>(), forwarding(), 0..=0x7fff_ffff_u32, any::<u32>(), any::<u32>()).prop_map(
        |(address, port, forwarding, weight, upper_threshold, lower_threshold)| Destination {
            id: DestinationId { address, port },
            forwarding,
            weight,
            upper_threshold,
            lower_threshold,
        },
    )
}

fn role() -> impl Strategy<Value = DaemonRole> {
    prop_oneof![Just(DaemonRole::Master), Just(DaemonRole::Backup)]
}

fn command() -> impl Strategy<Value = Command> {
    let daemon = (
        role(),
        name(),
        any::<u8>(),
        any::<Option<u16>>(),
        option::of(ip()),
        any::<Option<u16>>(),
        any::<Option<u8>>(),
    )
        .prop_map(|(role, interface, sync_id, max_length, group, port, ttl)| Daemon {
            role,
            interface,
            sync_id,
            max_length,
            group,
            port,
            ttl,
        });
    prop_oneof![
        service().prop_map(Command::NewService),
        service().prop_map(Command::SetService),
        service_id().prop_map(Command::DelService),
        (service_id(), destination()).prop_map(|(id, destination)| Command::NewDestination(id, destination)),
        (service_id(), destination()).prop_map(|(id, destination)| Command::SetDestination(id, destination)),
        (service_id(), destination())
            .prop_map(|(id, destination)| Command::DelDestination(id, destination.id)),
        daemon.prop_map(Command::NewDaemon),
        role().prop_map(Command::DelDaemon),
        (any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(tcp, tcp_fin, udp)| Command::SetConfig(Timeouts { tcp, tcp_fin, udp })),
        option::of(service_id()).prop_map(Command::Zero),
        Just(Command::Flush),
    ]
}

/// Reads bytes as everything that the crate can read.
fn read_as_everything(bytes: &[u8]) {
    for message in messages(bytes).flatten() {
        if let Payload::Family { bytes, .. } = message.payload {
            let _ = decode_family(bytes);
            let _ = decode_command(bytes);
            let _ = decode_reply(bytes, Family::Ipv4);
        }
    }
    let _ = decode_family(bytes);
    let _ = decode_command(bytes);
    let _ = decode_reply(bytes, Family::Ipv6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn commands_survive_a_round_trip(commands in vec(command(), 1..5), family in 0x10..0x400_u16, sequence: u32) {
        let mut datagram = Vec::new();
        for command in &commands {
            encode_command(&mut datagram, family, sequence, NLM_F_ACK, command).unwrap();
        }
        let read: Vec<_> = messages(&datagram)
            .map(|message| {
                let message = message.unwrap();
                assert_eq!(message.flags, NLM_F_REQUEST | NLM_F_ACK);
                assert_eq!(message.sequence, sequence);
                let Payload::Family { id, bytes } = message.payload else { panic!() };
                assert_eq!(id, family);
                decode_command(bytes).unwrap()
            })
            .collect();
        prop_assert_eq!(read, commands);
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    /// Random bytes seldom get past the first header; a command with some bytes changed gets deep.
    #[test]
    fn damaged_messages_do_no_harm(
        command in command(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, 0x20, 1, 0, &command).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_as_everything(&bytes);
        read_as_everything(&bytes[16..]);
        bytes.truncate(length.index(bytes.len() + 1));
        read_as_everything(&bytes);
    }

    #[test]
    fn names_that_do_not_fit_are_refused(name in "(|[a-z]{16,40}|[a-z]{0,5}\0[a-z]{0,5}|é{8})", service in service()) {
        let mut buffer = vec![1, 2, 3];
        let wrong = Service { scheduler: name, ..service };
        let result = encode_command(&mut buffer, 0x20, 1, 0, &Command::NewService(wrong));
        let refused = matches!(result, Err(InvalidCommand::Name { .. }));
        prop_assert!(refused);
        prop_assert_eq!(buffer, [1, 2, 3], "nothing was appended");
    }
}

#[test]
fn what_the_kernel_would_misunderstand_is_refused() {
    let mark = ServiceId::Fwmark { mark: 0, family: Family::Ipv4 };
    let tcp = ServiceId::Address { protocol: Protocol::Tcp, address: Ipv4Addr::LOCALHOST.into(), port: 80 };
    let six = ServiceId::Address { protocol: Protocol::Tcp, address: Ipv6Addr::LOCALHOST.into(), port: 80 };
    let hidden =
        ServiceId::Address { protocol: Protocol::Other(6), address: Ipv4Addr::LOCALHOST.into(), port: 80 };
    let to = |forwarding| Destination::new(Ipv4Addr::LOCALHOST.into(), 80, forwarding);
    let masked = |id, netmask| Command::NewService(Service { netmask, ..Service::new(id, "rr") });
    let kind = TunnelKind::Other { number: 1, port: 1 };
    let hidden_tunnel = Forwarding::Tunnel(Tunnel { kind, flags: TunnelFlags::NONE });
    let table = [
        (Command::NewService(Service::new(mark, "rr")), InvalidCommand::MarkZero),
        (Command::DelService(mark), InvalidCommand::MarkZero),
        (Command::Zero(Some(mark)), InvalidCommand::MarkZero),
        (Command::NewDestination(mark, to(Forwarding::Masquerade)), InvalidCommand::MarkZero),
        (masked(tcp, Netmask::V6(64)), InvalidCommand::NetmaskFamily),
        (masked(six, Netmask::host(Family::Ipv4)), InvalidCommand::NetmaskFamily),
        (masked(six, Netmask::V6(0)), InvalidCommand::PrefixLength),
        (masked(six, Netmask::V6(129)), InvalidCommand::PrefixLength),
        (
            Command::SetDestination(tcp, to(Forwarding::DirectRouting).weight(0x8000_0000)),
            InvalidCommand::Weight,
        ),
        (
            Command::NewDestination(tcp, to(Forwarding::Other(3))),
            InvalidCommand::OtherNumber { what: "the forwarding method's number" },
        ),
        (
            Command::NewDestination(tcp, to(Forwarding::Other(8))),
            InvalidCommand::OtherNumber { what: "the forwarding method's number" },
        ),
        (
            Command::NewDestination(tcp, to(hidden_tunnel)),
            InvalidCommand::OtherNumber { what: "the tunnel type's number" },
        ),
        (Command::DelService(hidden), InvalidCommand::OtherNumber { what: "the protocol's number" }),
        (
            Command::NewDaemon(Daemon::new(DaemonRole::Master, "", 1)),
            InvalidCommand::Name { what: "interface's name" },
        ),
    ];
    for (command, expected) in table {
        let mut buffer = Vec::new();
        assert_eq!(encode_command(&mut buffer, 0x20, 1, 0, &command), Err(expected), "{command:?}");
        assert!(buffer.is_empty());
    }
    assert!(encode_query(&mut Vec::new(), 0x20, 1, Query::Destinations(mark)).is_err());
}

#[test]
fn masks_and_prefixes() {
    for (family, prefix) in (0..=32).map(|p| (Family::Ipv4, p)).chain((1..=128).map(|p| (Family::Ipv6, p))) {
        assert_eq!(Netmask::from_prefix(family, prefix).prefix(), Some(prefix));
    }
    assert_eq!(Netmask::from_prefix(Family::Ipv4, 24), Netmask::V4(Ipv4Addr::new(255, 255, 255, 0)));
    assert_eq!(Netmask::from_prefix(Family::Ipv4, 77), Netmask::host(Family::Ipv4));
    assert_eq!(Netmask::V4(Ipv4Addr::new(255, 0, 255, 0)).prefix(), None);
}
