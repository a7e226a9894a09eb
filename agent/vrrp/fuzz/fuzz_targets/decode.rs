//! Bytes from the network never make the decoder panic; what it reads as an advertisement it writes again, and reads the same.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bascule_vrrp::packet::{Path, decode, encode, internet_checksum, ipv4_datagram, peek};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(datagram) = ipv4_datagram(bytes) {
        payload(datagram.payload, datagram.source, datagram.destination);
    }
    let v4 = [Ipv4Addr::new(192, 16, 193, 9), Ipv4Addr::new(224, 0, 0, 18)].map(IpAddr::V4);
    let v6 = [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)]
        .map(IpAddr::V6);
    for [source, destination] in [v4, v6] {
        payload(bytes, source, destination);
    }
    // Random bytes seldom get past the checksum: once more with the right one, over IPv4 in the form without pseudo-header.
    let mut right = bytes.to_vec();
    let length = match bytes {
        [first, _, _, count, ..] => 8 + usize::from(*count) * 4 + if first >> 4 == 2 { 8 } else { 0 },
        _ => return,
    };
    if let Some(message) = right.get_mut(..length) {
        message[6..8].fill(0);
        let sum = internet_checksum(&[message]);
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        payload(&right, v4[0], v4[1]);
    }
});

fn payload(bytes: &[u8], source: IpAddr, destination: IpAddr) {
    let _ = peek(bytes);
    let Ok(decoded) = decode(bytes, source, destination) else { return };
    let path = Path { source, destination, checksum: decoded.checksum };
    // A count of addresses that does not fit into a frame can be read, and is not written.
    if let Ok(written) = encode(&decoded.advertisement, &path) {
        let again = decode(&written, source, destination);
        assert_eq!(again.map(|again| again.advertisement), Ok(decoded.advertisement));
    }
}
