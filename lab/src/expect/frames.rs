//! Recorded frames: just enough of Ethernet, ARP, IP, TCP, UDP and what goes through tunnels to tell frames apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Span;
use crate::scenario::expectation::{FrameFilter, FrameProtocol, TcpFlag};

/// What is known of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Where it comes from.
    pub source_mac: [u8; 6],
    /// Its protocol.
    pub protocol: Option<FrameProtocol>,
    /// Source; for ARP, the sender.
    pub source: Option<IpAddr>,
    /// Destination; for ARP, the target.
    pub destination: Option<IpAddr>,
    /// Of TCP and UDP.
    pub source_port: Option<u16>,
    /// Of TCP and UDP.
    pub destination_port: Option<u16>,
    /// Of TCP: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub tcp_flags: u8,
    /// ARP for the sender's own address, or an unsolicited neighbour advertisement.
    pub gratuitous: bool,
    /// Which address it says is where: the sender of ARP, the target of a neighbour advertisement.
    pub claim: Option<(IpAddr, [u8; 6])>,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// ICMPv6 type (RFC 4861 section 4.4).
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Reads a frame from its Ethernet header on; what is cut off or unknown is left out.
pub fn decode(bytes: &[u8]) -> Frame {
    let mut frame = Frame::default();
    read(bytes, &mut frame);
    frame
}

fn read(bytes: &[u8], frame: &mut Frame) -> Option<()> {
    frame.source_mac = bytes.get(6..12)?.try_into().ok()?;
    let mut kind = u16_at(bytes, 12)?;
    let mut rest = bytes.get(14..)?;
    if kind == 0x8100 {
        kind = u16_at(rest, 2)?;
        rest = rest.get(4..)?;
    }
    match kind {
        0x0806 => arp(rest, frame),
        0x0800 => ipv4(rest, frame),
        0x86dd => ipv6(rest, frame),
        _ => None,
    }
}

fn arp(bytes: &[u8], frame: &mut Frame) -> Option<()> {
    let address =
        |at: usize| Some(IpAddr::V4(Ipv4Addr::from_octets(bytes.get(at..at + 4)?.try_into().ok()?)));
    frame.protocol = Some(FrameProtocol::Arp);
    frame.source = Some(address(14)?);
    frame.destination = Some(address(24)?);
    frame.gratuitous = frame.source == frame.destination;
    // 0.0.0.0 asks whether somebody has the address, before it is taken (RFC 5227).
    frame.claim = frame
        .source
        .filter(|source| !source.is_unspecified())
        .zip(bytes.get(8..14).and_then(|mac| mac.try_into().ok()));
    Some(())
}

fn ipv4(bytes: &[u8], frame: &mut Frame) -> Option<()> {
    let header = usize::from(bytes.first()? & 15) * 4;
    let address =
        |at: usize| Some(IpAddr::V4(Ipv4Addr::from_octets(bytes.get(at..at + 4)?.try_into().ok()?)));
    frame.source = address(12);
    frame.destination = address(16);
    let fragment = u16_at(bytes, 6)? & 0x1fff;
    transport(*bytes.get(9)?, if fragment == 0 { bytes.get(header..)? } else { &[] }, frame)
}

fn ipv6(bytes: &[u8], frame: &mut Frame) -> Option<()> {
    let address =
        |at: usize| Some(IpAddr::V6(Ipv6Addr::from_octets(bytes.get(at..at + 16)?.try_into().ok()?)));
    frame.source = address(8);
    frame.destination = address(24);
    let mut next = *bytes.get(6)?;
    let mut rest = bytes.get(40..)?;
    // Hop-by-hop, routing and destination options.
    while matches!(next, 0 | 43 | 60) {
        let length = (usize::from(*rest.get(1)?) + 1) * 8;
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
    transport(next, rest, frame)
}

fn transport(protocol: u8, bytes: &[u8], frame: &mut Frame) -> Option<()> {
    match protocol {
        1 => frame.protocol = Some(FrameProtocol::Icmp),
        58 => {
            frame.protocol = Some(FrameProtocol::Icmp);
            // A neighbour advertisement without the solicited flag.
            let advertisement = *bytes.first()? == NEIGHBOUR_ADVERTISEMENT;
            frame.gratuitous = advertisement && *bytes.get(4)? & 0x40 == 0;
            if advertisement {
                let target = Ipv6Addr::from_octets(bytes.get(8..24)?.try_into().ok()?);
                frame.claim = Some((target.into(), frame.source_mac));
            }
        }
        4 | 41 => frame.protocol = Some(FrameProtocol::Ipip),
        47 => frame.protocol = Some(FrameProtocol::Gre),
        112 => frame.protocol = Some(FrameProtocol::Vrrp),
        6 => {
            frame.protocol = Some(FrameProtocol::Tcp);
            ports(bytes, frame)?;
            frame.tcp_flags = *bytes.get(13)?;
        }
        17 => {
            frame.protocol = Some(FrameProtocol::Udp);
            ports(bytes, frame)?;
        }
        _ => {}
    }
    Some(())
}

fn ports(bytes: &[u8], frame: &mut Frame) -> Option<()> {
    frame.source_port = Some(u16_at(bytes, 0)?);
    frame.destination_port = Some(u16_at(bytes, 2)?);
    Some(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A frame in words: `tcp syn 192.0.2.1:40000 > 192.0.2.30:80`.
pub fn describe(frame: &Frame) -> String {
    let Some(protocol) = frame.protocol else { return "a frame of another kind".into() };
    let mut text = format!("{protocol:?}").to_lowercase();
    if frame.gratuitous {
        text.insert_str(0, "gratuitous ");
    }
    for (bit, name) in [(SYN, " syn"), (FIN, " fin"), (RST, " rst"), (ACK, " ack")] {
        if protocol == FrameProtocol::Tcp && frame.tcp_flags & bit != 0 {
            text.push_str(name);
        }
    }
    let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
        (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".into(),
    };
    let (from, to) = (end(frame.source, frame.source_port), end(frame.destination, frame.destination_port));
    format!("{text} {from} > {to}")
}

/// Whether all that the filter says is true of the frame.
pub fn passes(filter: &FrameFilter, frame: &Frame) -> bool {
    fn is<T: PartialEq>(wanted: Option<&T>, seen: Option<&T>) -> bool {
        wanted.is_none() || wanted == seen
    }
    is(filter.protocol.as_ref(), frame.protocol.as_ref())
        && is(filter.source.as_ref(), frame.source.as_ref())
        && is(filter.destination.as_ref(), frame.destination.as_ref())
        && is(filter.source_port.as_ref(), frame.source_port.as_ref())
        && is(filter.destination_port.as_ref(), frame.destination_port.as_ref())
        && is(filter.source_mac.map(|mac| mac.0).as_ref(), Some(&frame.source_mac))
        && is(filter.gratuitous.as_ref(), Some(&frame.gratuitous))
        && filter.tcp_flags.iter().all(|flag| {
            let (bit, set) = match flag {
                TcpFlag::Syn => (SYN, true),
                TcpFlag::NoSyn => (SYN, false),
                TcpFlag::Ack => (ACK, true),
                TcpFlag::NoAck => (ACK, false),
                TcpFlag::Rst => (RST, true),
                TcpFlag::NoRst => (RST, false),
                TcpFlag::Fin => (FIN, true),
                TcpFlag::NoFin => (FIN, false),
            };
            frame.protocol == Some(FrameProtocol::Tcp) && (frame.tcp_flags & bit != 0) == set
        })
}

/// The filter in words.
pub fn words(filter: &FrameFilter) -> String {
    let mut words = Vec::new();
    if let Some(protocol) = filter.protocol {
        words.push(format!("{protocol:?}").to_lowercase());
    }
    for flag in &filter.tcp_flags {
        words.push(
            serde_json::to_value(flag)
                .ok()
                .and_then(|value| Some(value.as_str()?.to_owned()))
                .unwrap_or_default(),
        );
    }
    let mut add =
        |name: &str, value: Option<String>| words.extend(value.map(|value| format!("{name} {value}")));
    add("from", filter.source.map(|value| value.to_string()));
    add("to", filter.destination.map(|value| value.to_string()));
    add("from port", filter.source_port.map(|value| value.to_string()));
    add("to port", filter.destination_port.map(|value| value.to_string()));
    add("from", filter.source_mac.map(|value| value.to_string()));
    match filter.gratuitous {
        Some(true) => words.push("gratuitous".into()),
        Some(false) => words.push("not gratuitous".into()),
        None => {}
    }
    if words.is_empty() { "of any kind".into() } else { words.join(" ") }
}

/// The longest part of a window without any of these times, which are in order. It begins with a time before the window where there is
/// one, and else with the window.
pub fn longest_gap(times: &[u64], window: Span) -> Span {
    let before = times.iter().rev().find(|at| **at < window.since).copied();
    let mut from = before.unwrap_or(window.since);
    let mut longest = Span { since: from, until: from };
    let within = times.iter().copied().filter(|at| window.contains(*at));
    for at in within.chain([window.until]) {
        if at.saturating_sub(from) > longest.until - longest.since {
            longest = Span { since: from, until: at };
        }
        from = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_also_lies_at_the_ends() {
        let window = Span { since: 100, until: 200 };
        for (times, since, until) in [
            (&[90, 110, 130, 190][..], 130, 190),
            (&[50, 110, 150, 190], 50, 110),
            (&[90, 110, 120], 120, 200),
            (&[], 100, 200),
            (&[10, 300], 10, 200),
            (&[110, 160, 210], 110, 160),
        ] {
            assert_eq!(longest_gap(times, window), Span { since, until }, "{times:?}");
        }
    }

    /// Bytes in hex, spaces ignored.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    const ETHERNET: &str = "ffffffffffff 020000000001";

    fn frame(rest: &str) -> Frame {
        decode(&hex(&format!("{ETHERNET} {rest}")))
    }

    #[test]
    fn arp_of_a_takeover_is_gratuitous() {
        let own = frame("0806 0001 0800 06 04 0001 020000000001 c010c11e 000000000000 c010c11e");
        assert_eq!(own.protocol, Some(FrameProtocol::Arp));
        assert_eq!(own.source, Some("192.16.193.30".parse().unwrap()));
        assert!(own.gratuitous);
        assert_eq!(own.claim, Some(("192.16.193.30".parse().unwrap(), [2, 0, 0, 0, 0, 1])));
        assert_eq!(describe(&own), "gratuitous arp 192.16.193.30 > 192.16.193.30");
        let probe = frame("0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c010c11e");
        assert_eq!(probe.claim, None, "who asks for an address does not claim it");
        let asked = frame("0806 0001 0800 06 04 0001 020000000001 c010c101 000000000000 c010c11e");
        assert!(!asked.gratuitous);
        let filter = FrameFilter { gratuitous: Some(true), ..FrameFilter::default() };
        assert!(passes(&filter, &own) && !passes(&filter, &asked));
    }

    #[test]
    fn tcp_flags_and_ports() {
        let ip = "0800 45000028 00000000 40 06 0000 c010c164 c010c11e";
        let syn = frame(&format!("{ip} c350 0050 00000000 00000000 50 02 0000 0000 0000"));
        let reset = frame(&format!("{ip} c350 0050 00000000 00000000 50 14 0000 0000 0000"));
        assert_eq!(describe(&syn), "tcp syn 192.16.193.100:50000 > 192.16.193.30:80");
        assert_eq!(describe(&reset), "tcp rst ack 192.16.193.100:50000 > 192.16.193.30:80");
        assert_eq!(describe(&frame("88b5 00")), "a frame of another kind");
        let filter = |flags: &[TcpFlag]| FrameFilter { tcp_flags: flags.to_vec(), ..FrameFilter::default() };
        assert_eq!(syn.destination_port, Some(80));
        assert_eq!(syn.source_port, Some(50000));
        assert!(passes(&filter(&[TcpFlag::Syn, TcpFlag::NoAck]), &syn));
        assert!(!passes(&filter(&[TcpFlag::Syn]), &reset));
        assert!(passes(&filter(&[TcpFlag::Rst, TcpFlag::Ack]), &reset));
        assert!(passes(
            &FrameFilter { destination: Some("192.16.193.30".parse().unwrap()), ..filter(&[]) },
            &syn
        ));
        assert!(!passes(&FrameFilter { destination_port: Some(81), ..filter(&[]) }, &syn));
        let mac = FrameFilter { source_mac: Some("02:00:00:00:00:02".parse().unwrap()), ..filter(&[]) };
        assert!(!passes(&mac, &syn));
        // No flag is true of what is not TCP.
        assert!(!passes(&filter(&[TcpFlag::NoSyn]), &frame("0806")));
    }

    #[test]
    fn other_protocols() {
        let ip = |protocol: &str| {
            frame(&format!("0800 45000028 00000000 40 {protocol} 0000 c010c164 e0000012")).protocol
        };
        assert_eq!(ip("70"), Some(FrameProtocol::Vrrp));
        assert_eq!(ip("04"), Some(FrameProtocol::Ipip));
        assert_eq!(ip("2f"), Some(FrameProtocol::Gre));
        assert_eq!(ip("01"), Some(FrameProtocol::Icmp));
        let vlan = frame("8100 0005 0800 45000028 00000000 40 70 0000 c010c164 e0000012");
        assert_eq!(vlan.protocol, Some(FrameProtocol::Vrrp));
        let six = "20010db8000000000000000000000001 ff020000000000000000000000000001";
        let advertisement = frame(&format!("86dd 60000000 0018 3a ff {six} 88 00 0000 20000000"));
        assert!(advertisement.gratuitous && advertisement.protocol == Some(FrameProtocol::Icmp));
        let target = "20010db8000000000000000000000030";
        let whole = frame(&format!("86dd 60000000 0018 3a ff {six} 88 00 0000 20000000 {target}"));
        assert_eq!(whole.claim, Some(("2001:db8::30".parse().unwrap(), [2, 0, 0, 0, 0, 1])));
        let hop = frame(&format!("86dd 60000000 0018 00 ff {six} 11 00 000000000000 0035 0036 0000 0000"));
        assert_eq!((hop.protocol, hop.destination_port), (Some(FrameProtocol::Udp), Some(0x36)));
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = hex(&format!("{ETHERNET} 0800 45000028 00000000 40 06 0000 c010c164 c010c11e c350 0050"));
        for end in 0..whole.len() {
            decode(&whole[..end]);
        }
        assert_eq!(decode(&[]), Frame::default());
    }
}
