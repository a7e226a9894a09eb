//! Frames taken apart: Ethernet, ARP, IP, TCP, UDP, ICMP, VRRP, and what goes through an IP-in-IP tunnel. What is cut off or unknown
//! is left out; nothing here fails.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// FIN, SYN, RST and ACK of TCP (RFC 9293 section 3.1).
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) to: [u8; 6],
    pub(super) from: [u8; 6],
    pub(super) body: Body<'a>,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    Arp(Arp),
    Ip(Ip<'a>),
    Other(u16),
}

/// ARP for IPv4 (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub(super) reply: bool,
    pub(super) sender_mac: [u8; 6],
    pub(super) sender: Ipv4Addr,
    pub(super) target: Ipv4Addr,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Time to live, or hop limit.
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    /// Behind the header and what extends it; empty in all but the first fragment.
    pub(super) payload: &'a [u8],
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport<'a> {
    Tcp { ports: (u16, u16), seq: u32, ack: u32, flags: u8, data: &'a [u8] },
    Udp { ports: (u16, u16), data: &'a [u8] },
    Icmp { kind: u8, code: u8, rest: &'a [u8] },
    Vrrp(&'a [u8]),
    Tunnel(Ip<'a>),
    Other,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn v4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    array::<4>(bytes, at).map(Ipv4Addr::from)
}

fn v6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    array::<16>(bytes, at).map(Ipv6Addr::from)
}

/// An IPv4 or IPv6 address.
pub(super) fn address(bytes: &[u8], at: usize, six: bool) -> Option<IpAddr> {
    if six { v6(bytes, at).map(IpAddr::V6) } else { v4(bytes, at).map(IpAddr::V4) }
}

impl<'a> Frame<'a> {
    /// Reads a frame from its Ethernet header on, behind at most two VLAN tags.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (to, from) = (array(bytes, 0)?, array(bytes, 6)?);
        let (mut kind, mut at) = (u16_at(bytes, 12)?, 14);
        for _ in 0..2 {
            if matches!(kind, 0x8100 | 0x88a8) {
                kind = u16_at(bytes, at + 2)?;
                at += 4;
            }
        }
        let rest = bytes.get(at..)?;
        let body = match kind {
            0x0806 => Arp::read(rest).map(Body::Arp),
            0x0800 => Ip::v4(rest).map(Body::Ip),
            0x86dd => Ip::v6(rest).map(Body::Ip),
            _ => None,
        };
        Some(Self { to, from, body: body.unwrap_or(Body::Other(kind)) })
    }

    /// The packet in it.
    pub(super) fn ip(&self) -> Option<Ip<'a>> {
        if let Body::Ip(ip) = self.body { Some(ip) } else { None }
    }

    /// Whether it is for one machine only.
    pub(super) fn is_unicast(&self) -> bool {
        self.to[0] & 1 == 0
    }

    /// The address that it claims for its sender, and whether nobody had asked: gratuitous ARP (RFC 5944 section 4.6), or a neighbour
    /// advertisement without the solicited flag (RFC 4861 section 7.2.6).
    pub(super) fn claim(&self) -> Option<(IpAddr, bool)> {
        match self.body {
            // 0.0.0.0 only asks whether somebody has the address (RFC 5227).
            Body::Arp(arp) if !arp.sender.is_unspecified() => {
                Some((arp.sender.into(), arp.sender == arp.target))
            }
            Body::Ip(ip) => match ip.transport() {
                Transport::Icmp { kind: 136, rest, .. } if ip.source.is_ipv6() => {
                    Some((v6(rest, 4)?.into(), rest.first()? & 0x40 == 0))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

impl Arp {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            reply: u16_at(bytes, 6)? == 2,
            sender_mac: array(bytes, 8)?,
            sender: v4(bytes, 14)?,
            target: v4(bytes, 24)?,
        })
    }
}

impl<'a> Ip<'a> {
    fn v4(bytes: &'a [u8]) -> Option<Self> {
        let header = usize::from(bytes.first()? & 15) * 4;
        // What follows the packet pads the frame.
        let length = usize::from(u16_at(bytes, 2)?).clamp(header, bytes.len().max(header));
        let offset = u16_at(bytes, 6)? & 0x1fff;
        Some(Self {
            source: v4(bytes, 12)?.into(),
            destination: v4(bytes, 16)?.into(),
            ttl: *bytes.get(8)?,
            protocol: *bytes.get(9)?,
            payload: if offset == 0 { bytes.get(header..length).unwrap_or_default() } else { &[] },
        })
    }

    fn v6(bytes: &'a [u8]) -> Option<Self> {
        let (source, destination) = (v6(bytes, 8)?.into(), v6(bytes, 24)?.into());
        let (mut protocol, ttl) = (*bytes.get(6)?, *bytes.get(7)?);
        let end = 40 + usize::from(u16_at(bytes, 4)?);
        let mut payload = bytes.get(40..end.min(bytes.len()))?;
        // Hop-by-hop, routing and destination options.
        while matches!(protocol, 0 | 43 | 60) {
            let Some((next, length)) = payload.first().zip(payload.get(1)) else { break };
            let length = (usize::from(*length) + 1) * 8;
            protocol = *next;
            payload = payload.get(length..).unwrap_or_default();
        }
        Some(Self { source, destination, ttl, protocol, payload })
    }

    /// What it carries.
    pub(super) fn transport(&self) -> Transport<'a> {
        self.known().unwrap_or(Transport::Other)
    }

    fn known(&self) -> Option<Transport<'a>> {
        let bytes = self.payload;
        let ports = || Some((u16_at(bytes, 0)?, u16_at(bytes, 2)?));
        Some(match self.protocol {
            6 => {
                let header = usize::from(bytes.get(12)? >> 4) * 4;
                Transport::Tcp {
                    ports: ports()?,
                    seq: u32_at(bytes, 4)?,
                    ack: u32_at(bytes, 8)?,
                    flags: *bytes.get(13)?,
                    data: bytes.get(header..).unwrap_or_default(),
                }
            }
            17 => Transport::Udp { ports: ports()?, data: bytes.get(8..)? },
            1 | 58 => Transport::Icmp { kind: *bytes.first()?, code: *bytes.get(1)?, rest: bytes.get(4..)? },
            112 => Transport::Vrrp(bytes),
            4 => Transport::Tunnel(Ip::v4(bytes)?),
            41 => Transport::Tunnel(Ip::v6(bytes)?),
            _ => return None,
        })
    }

    /// What stays the same of a packet when a machine forwards it, whatever it rewrites: not addresses, ports, identifiers, checksums and
    /// time to live. None of packets that machines do not forward.
    pub(super) fn essence(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        match self.transport() {
            Transport::Tcp { seq, ack, flags, data, .. } => (6, seq, ack, flags, data).hash(&mut hasher),
            Transport::Udp { data, .. } if !self.destination.is_multicast() => (17, data).hash(&mut hasher),
            // Echoes: behind the identifier come the number and the data.
            Transport::Icmp { kind: kind @ (0 | 8 | 128 | 129), rest, .. } => {
                (1, kind, rest.get(2..)?).hash(&mut hasher);
            }
            Transport::Tunnel(inner) => return inner.essence(),
            _ => return None,
        }
        Some(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotate::tests::hex;

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = hex(
            "ffffffffffff020000000001 0800 45000028000000004006 0000 c010c164 c010c11e c3500050 00000001 00000000 5002 0000 0000 0000",
        );
        for end in 0..whole.len() {
            if let Some(frame) = Frame::read(&whole[..end]) {
                let _ = (frame.claim(), frame.ip().map(|ip| (ip.transport(), ip.essence())));
            }
        }
        let frame = Frame::read(&whole).unwrap();
        let Transport::Tcp { ports, seq, flags, .. } = frame.ip().unwrap().transport() else { panic!() };
        assert_eq!((ports, seq, flags), ((50000, 80), 1, SYN));
    }

    #[test]
    fn padding_is_no_payload() {
        let bytes = hex(
            "ffffffffffff020000000001 0800 45000020000000004011 0000 c010c164 c010c11e 00350036000c0000 61626364 0000000000000000",
        );
        let Transport::Udp { data, .. } = Frame::read(&bytes).unwrap().ip().unwrap().transport() else {
            panic!()
        };
        assert_eq!(data, b"abcd");
    }

    #[test]
    fn a_packet_is_known_again_behind_a_tunnel_and_a_rewriting() {
        let tcp = |ports: &str| format!("{ports} 00000001 00000000 5002 0000 0000 0000");
        let ip = |to: &str, ports: &str| {
            hex(&format!(
                "ffffffffffff020000000001 0800 45000028000000004006 0000 c010c164 {to} {}",
                tcp(ports)
            ))
        };
        let plain = ip("c010c11e", "c3500050");
        let rewritten = ip("ac10c10a", "c3501f90");
        let tunnel = hex(&format!(
            "ffffffffffff020000000001 0800 4500003c000000004004 0000 c010c11e ac10c10a 45000028000000004006 0000 c010c164 c010c11e {}",
            tcp("c3500050")
        ));
        let essence = |bytes: &[u8]| Frame::read(bytes).unwrap().ip().unwrap().essence().unwrap();
        assert_eq!(essence(&plain), essence(&rewritten));
        assert_eq!(essence(&plain), essence(&tunnel));
        let another = hex(
            "ffffffffffff020000000001 0800 45000028000000004006 0000 c010c164 c010c11e c3500050 00000002 00000000 5002 0000 0000 0000",
        );
        assert_ne!(essence(&plain), essence(&another));
    }
}
