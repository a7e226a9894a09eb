//! What keepalived says is read as it was configured, and written byte for byte; what is damaged is refused by name.

use std::net::{IpAddr, Ipv6Addr};

use bascule_vrrp::packet::{
    Advertisement, Authentication, ChecksumForm, Datagram, DecodeError, Path, Version, decode, encode,
    ipv4_datagram, peek,
};
use bascule_vrrp::timers::Interval;

fn captures() -> Vec<(String, Vec<u8>)> {
    include_str!("captures/keepalived.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut columns = line.split(" | ");
            let name = columns.next().unwrap().to_owned();
            (name, hex(columns.nth(1).unwrap()))
        })
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn capture(name: &str) -> Vec<u8> {
    captures().into_iter().find(|(of, _)| of == name).unwrap().1
}

/// The IPv6 header is taken off as the kernel does.
fn datagram(packet: &[u8]) -> Datagram<'_> {
    if packet[0] >> 4 == 4 {
        return ipv4_datagram(packet).unwrap();
    }
    let address = |at: usize| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap()));
    Datagram { source: address(8), destination: address(24), ttl: packet[7], payload: &packet[40..] }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn advertisement(version: Version, vrid: u8, priority: u8, millis: u64, addresses: &[&str]) -> Advertisement {
    Advertisement {
        version,
        vrid,
        priority,
        interval: Interval::new(version, std::time::Duration::from_millis(millis)).unwrap(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        authentication: Authentication::None,
    }
}

fn expected() -> Vec<(&'static str, Advertisement, ChecksumForm)> {
    use ChecksumForm::{MessageOnly, PseudoHeader};
    let two = advertisement(Version::V2, 30, 200, 1000, &["192.16.193.30", "192.16.193.31"]);
    let password = Advertisement {
        authentication: Authentication::simple(b"s3cret"),
        ..advertisement(Version::V2, 31, 150, 3000, &["192.16.193.32"])
    };
    let six = advertisement(Version::V3, 35, 254, 500, &["fe80::30", "2001:db8::30", "2001:db8::31"]);
    let mut all = vec![
        ("v2", two, MessageOnly),
        ("v2 password", password, MessageOnly),
        ("v3", advertisement(Version::V3, 32, 100, 100, &["192.16.193.30"]), PseudoHeader),
        ("v3 slow", advertisement(Version::V3, 33, 1, 40_950, &["192.16.193.30"]), PseudoHeader),
        ("v3 unicast", advertisement(Version::V3, 34, 253, 250, &["192.16.193.30"]), PseudoHeader),
        ("v6", six, PseudoHeader),
    ];
    for (name, advertisement, form) in all.clone() {
        let name = Box::leak(format!("{name} release").into_boxed_str());
        all.push((name, Advertisement { priority: 0, ..advertisement }, form));
    }
    all
}

#[test]
fn keepalived_is_read_and_written_byte_for_byte() {
    assert_eq!(captures().len(), expected().len(), "every capture is looked at");
    for (name, advertisement, form) in expected() {
        let packet = capture(name);
        let datagram = datagram(&packet);
        assert_eq!(datagram.ttl, 255, "{name}");
        let (source, destination) = (datagram.source, datagram.destination);
        let decoded = decode(datagram.payload, source, destination).unwrap();
        assert_eq!(decoded.advertisement, advertisement, "{name}");
        assert_eq!((decoded.checksum, decoded.trailer), (form, None), "{name}");
        let path = Path { source, destination, checksum: ChecksumForm::PseudoHeader };
        assert_eq!(encode(&advertisement, &path).unwrap(), datagram.payload, "{name}");
        assert_eq!(peek(datagram.payload), Some((advertisement.version.number(), advertisement.vrid)));
    }
}

/// RFC 9568 section 5.2.8: over IPv4 the message alone. The bytes are those of `v3`; the checksum was calculated by hand:
/// 3120 + 6401 + 000a + c010 + c11e = 21659, folded 165b, complement e9a4.
#[test]
fn the_form_of_rfc_9568_is_read_and_written() {
    let packet = capture("v3");
    let datagram = datagram(&packet);
    let mut payload = datagram.payload.to_vec();
    payload[6..8].copy_from_slice(&[0xe9, 0xa4]);
    let decoded = decode(&payload, datagram.source, datagram.destination).unwrap();
    assert_eq!(decoded.checksum, ChecksumForm::MessageOnly);
    let path = Path {
        source: datagram.source,
        destination: datagram.destination,
        checksum: ChecksumForm::MessageOnly,
    };
    assert_eq!(encode(&decoded.advertisement, &path).unwrap(), payload);
}

#[test]
fn every_flipped_bit_is_noticed() {
    for (name, packet) in captures() {
        let datagram = datagram(&packet);
        for bit in 0..datagram.payload.len() * 8 {
            let mut payload = datagram.payload.to_vec();
            payload[bit / 8] ^= 1 << (bit % 8);
            let read = decode(&payload, datagram.source, datagram.destination);
            assert!(read.is_err(), "{name}, bit {bit}: {read:?}");
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for (name, packet) in captures() {
        let datagram = datagram(&packet);
        for length in 0..datagram.payload.len() {
            let error =
                decode(&datagram.payload[..length], datagram.source, datagram.destination).unwrap_err();
            let named = matches!(error, DecodeError::Truncated { .. } | DecodeError::Incomplete { .. });
            assert!(named, "{name} cut to {length}: {error}");
        }
        if packet[0] >> 4 == 4 {
            for length in 0..packet.len() {
                assert_eq!(ipv4_datagram(&packet[..length]), Err(DecodeError::IpHeader { length }), "{name}");
            }
        }
    }
}

/// Each thing that is wrong has its name and its section. The checksum is made right again, so that it is not what is found.
#[test]
fn what_is_wrong_is_named() {
    type Damage = fn(&mut Vec<u8>);
    let table: &[(&str, Damage, DecodeError, &str)] = &[
        (
            "v3",
            |b| b[0] = 0x41,
            DecodeError::Version { version: 4, family: bascule_vrrp::packet::Family::Ipv4 },
            "5.2.1",
        ),
        (
            "v6",
            |b| b[0] = 0x21,
            DecodeError::Version { version: 2, family: bascule_vrrp::packet::Family::Ipv6 },
            "5.2.1",
        ),
        ("v3", |b| b[0] = 0x32, DecodeError::Type { kind: 2 }, "5.2.2"),
        ("v3", |b| b[1] = 0, DecodeError::Vrid, "5.2.3"),
        (
            "v3",
            |b| {
                b[3] = 0;
                b.truncate(8);
            },
            DecodeError::NoAddress,
            "5.2.5",
        ),
        ("v3", |b| b[3] = 2, DecodeError::Incomplete { count: 2, needed: 16, length: 12 }, "7.1"),
        ("v3", |b| b[4..6].fill(0), DecodeError::Interval, "5.2.7"),
        ("v2", |b| b[5] = 0, DecodeError::Interval, "5.2.7"),
        ("v2", |b| b[4] = 2, DecodeError::AuthenticationType { kind: 2 }, "5.3.6"),
        ("v3", |b| b.push(0), DecodeError::Extra { extra: 1 }, "draft-cassen"),
        ("v3", |b| b.extend([0; 27]), DecodeError::Extra { extra: 27 }, "draft-cassen"),
        ("v3", |b| b.extend([0; 29]), DecodeError::Extra { extra: 29 }, "draft-cassen"),
    ];
    for (name, damage, error, section) in table {
        let packet = capture(name);
        let datagram = datagram(&packet);
        let mut payload = datagram.payload.to_vec();
        damage(&mut payload);
        if *error != (DecodeError::Incomplete { count: 2, needed: 16, length: 12 }) {
            payload[6..8].fill(0);
            let sum = bascule_vrrp::packet::internet_checksum(&[&payload]);
            payload[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        let found = decode(&payload, datagram.source, datagram.destination).unwrap_err();
        assert_eq!(found, *error, "{name}");
        assert!(found.section().contains(section), "{found}: {}", found.section());
    }
}

#[test]
fn reserved_bits_are_ignored() {
    // RFC 9568 section 5.2.6. Over IPv4 the form without pseudo-header, which is easily made right again.
    let packet = capture("v3");
    let datagram = datagram(&packet);
    let mut payload = datagram.payload.to_vec();
    payload[4] |= 0xf0;
    payload[6..8].fill(0);
    let sum = bascule_vrrp::packet::internet_checksum(&[&payload]);
    payload[6..8].copy_from_slice(&sum.to_be_bytes());
    let decoded = decode(&payload, datagram.source, datagram.destination).unwrap();
    assert_eq!(decoded.advertisement.interval.centiseconds(), 10);
}

#[test]
fn headers_of_ip_are_looked_at() {
    let good = capture("v3");
    let mut udp = good.clone();
    udp[9] = 17;
    assert_eq!(ipv4_datagram(&udp), Err(DecodeError::Protocol { protocol: 17 }));
    let mut fragment = good.clone();
    fragment[6] = 0x20;
    assert_eq!(ipv4_datagram(&fragment), Err(DecodeError::Fragment));
    let mut options = good.clone();
    options[0] = 0x46;
    options[3] += 4;
    options.splice(20..20, [1, 1, 1, 0]);
    assert_eq!(ipv4_datagram(&options).unwrap().payload, ipv4_datagram(&good).unwrap().payload);
    let mut padded = good.clone();
    padded.extend([0; 14]);
    assert_eq!(ipv4_datagram(&padded).unwrap().payload, ipv4_datagram(&good).unwrap().payload);
    let mixed = decode(&good[20..], ip("192.16.193.1"), ip("ff02::12")).unwrap_err();
    assert!(matches!(mixed, DecodeError::MixedFamilies { .. }), "{mixed}");
}
