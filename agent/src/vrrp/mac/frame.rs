//! Advertisements as whole frames, with the virtual MAC address as their source (RFC 9568 section 7.2; RFC 1112 section 6.4 and
//! RFC 2464 section 7 for the destination).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bascule_vrrp::packet::{IP_PROTOCOL, TTL, internet_checksum};
use nix::sys::socket::{setsockopt, sockopt};

use crate::vrrp::packet_socket::PacketSocket;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// IPTOS_PREC_INTERNETCONTROL.
const INTERNET_CONTROL: u8 = 0xc0;
/// TC_PRIO_CONTROL.
const PRIORITY: i32 = 7;

/// The frame of an advertisement to a multicast group; none when source and group are of different families.
fn advertisement(mac: [u8; 6], source: IpAddr, group: IpAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let (destination, kind, packet) = match (source, group) {
        (IpAddr::V4(source), IpAddr::V4(group)) => {
            let [_, second, third, fourth] = group.octets();
            ([1, 0, 0x5e, second & 0x7f, third, fourth], ETH_P_IP, ipv4(source, group, payload)?)
        }
        (IpAddr::V6(source), IpAddr::V6(group)) => {
            let last = *group.octets().last_chunk::<4>()?;
            let [a, b, c, d] = last;
            ([0x33, 0x33, a, b, c, d], ETH_P_IPV6, ipv6(source, group, payload)?)
        }
        _ => return None,
    };
    let mut frame = Vec::with_capacity(14 + packet.len());
    frame.extend_from_slice(&destination);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&packet);
    Some(frame)
}

fn ipv4(source: Ipv4Addr, group: Ipv4Addr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(20 + payload.len()).ok()?.to_be_bytes();
    let mut packet = vec![0x45, INTERNET_CONTROL, length[0], length[1], 0, 0, 0, 0, TTL, IP_PROTOCOL, 0, 0];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&group.octets());
    let checksum = internet_checksum(&[&packet]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(payload);
    Some(packet)
}

fn ipv6(source: Ipv6Addr, group: Ipv6Addr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?.to_be_bytes();
    let class = INTERNET_CONTROL;
    let mut packet = vec![0x60 | class >> 4, class << 4, 0, 0, length[0], length[1], IP_PROTOCOL, TTL];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&group.octets());
    packet.extend_from_slice(payload);
    Some(packet)
}

/// Sends whole frames.
#[derive(Debug)]
pub(crate) struct Frames(PacketSocket);

impl Frames {
    /// Opens a socket in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = PacketSocket::open(libc::SOCK_RAW)?;
        let _ = setsockopt(&socket, sockopt::Priority, &PRIORITY);
        Ok(Self(socket))
    }

    /// Sends an advertisement through an interface.
    pub(crate) fn advertise(
        &self,
        index: u32,
        mac: [u8; 6],
        source: IpAddr,
        group: IpAddr,
        payload: &[u8],
    ) -> io::Result<()> {
        let frame = advertisement(mac, source, group, payload)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let protocol = u16::from_be_bytes([frame[12], frame[13]]);
        self.0.send(index, protocol, [frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]], &frame)
    }
}

#[cfg(test)]
mod tests {
    use bascule_vrrp::packet::{MULTICAST_V4, MULTICAST_V6, ipv4_datagram};

    use super::*;

    const MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 30];

    #[test]
    fn a_frame_of_ipv4_is_one_that_the_receiver_takes() {
        let source = "192.16.193.1".parse().unwrap();
        let frame = advertisement(MAC, source, MULTICAST_V4.into(), &[0x31, 30, 100]).unwrap();
        assert_eq!(frame[..14], [1, 0, 0x5e, 0, 0, 18, 0, 0, 0x5e, 0, 1, 30, 8, 0]);
        assert_eq!(internet_checksum(&[&frame[14..34]]), 0);
        let datagram = ipv4_datagram(&frame[14..]).unwrap();
        assert_eq!((datagram.source, datagram.destination), (source, MULTICAST_V4.into()));
        assert_eq!((datagram.ttl, datagram.payload), (255, &[0x31, 30, 100][..]));
    }

    #[test]
    fn a_frame_of_ipv6() {
        let source = "fe80::1".parse().unwrap();
        let frame = advertisement(MAC, source, MULTICAST_V6.into(), &[0x31; 40]).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 0x12]);
        assert_eq!(frame[12..22], [0x86, 0xdd, 0x6c, 0, 0, 0, 0, 40, 112, 255]);
        assert_eq!(frame.len(), 14 + 40 + 40);
        assert_eq!(advertisement(MAC, source, MULTICAST_V4.into(), &[]), None);
    }
}
