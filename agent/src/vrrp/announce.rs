//! Gratuitous ARP (RFC 5227 section 2.3) and unsolicited neighbour advertisements (RFC 4861 section 7.2.6): they tell a network
//! which machine has an address now. The frames are put together here and sent by a packet socket, so that an address can be
//! announced on the very interface where it is.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bascule_vrrp::packet::internet_checksum;

use super::packet_socket::PacketSocket;

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const BROADCAST: [u8; 6] = [0xff; 6];
/// Of the all-nodes group ff02::1 (RFC 2464 section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
/// ICMPv6 type of a neighbour advertisement.
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// R, and O: what is in the neighbour's cache is replaced (RFC 4861 section 4.4; RFC 9568 section 6.4.2 wants both).
const ROUTER_OVERRIDE: u8 = 0b1010_0000;
/// Option: the target's link-layer address.
const TARGET_MAC: u8 = 2;

/// An ARP request of `address` for itself, from `mac`: what RFC 5227 calls an ARP announcement.
pub(crate) fn arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend_from_slice(&mac);
    packet.extend_from_slice(&address.octets());
    packet.extend_from_slice(&[0; 6]);
    packet.extend_from_slice(&address.octets());
    packet
}

/// An IPv6 packet: the neighbour advertisement of `address` at `mac` to all nodes.
pub(crate) fn neighbour_advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, ROUTER_OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[TARGET_MAC, 1]);
    message.extend_from_slice(&mac);
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);

    // Pseudo-header of RFC 8200 section 8.1.
    let mut summed = address.octets().to_vec();
    summed.extend_from_slice(&ALL_NODES.octets());
    summed.extend_from_slice(&[0, 0, 0, length, 0, 0, 0, ICMPV6]);
    summed.extend_from_slice(&message);
    let checksum = internet_checksum(&[&summed]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = vec![0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    packet.extend_from_slice(&address.octets());
    packet.extend_from_slice(&ALL_NODES.octets());
    packet.extend_from_slice(&message);
    packet
}

/// Sends announcements.
#[derive(Debug)]
pub(crate) struct Announcements(PacketSocket);

impl Announcements {
    /// Opens a socket in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub(crate) fn open() -> io::Result<Self> {
        PacketSocket::open(libc::SOCK_DGRAM).map(Self)
    }

    /// Announces an address on an interface with the hardware address `mac`.
    pub(crate) fn send(&self, index: u32, mac: [u8; 6], address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.0.send(index, ETH_P_ARP, BROADCAST, &arp(mac, address)),
            IpAddr::V6(address) => {
                self.0.send(index, ETH_P_IPV6, ALL_NODES_MAC, &neighbour_advertisement(mac, address))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0x00, 0x00, 0x00, 0x00, 0x01];

    #[test]
    fn an_arp_announcement_names_the_address_twice() {
        let packet = arp(MAC, Ipv4Addr::new(192, 16, 193, 30));
        let expected = "0001 0800 06 04 0001 020000000001 c010c11e 000000000000 c010c11e".replace(' ', "");
        assert_eq!(packet.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }

    #[test]
    fn a_neighbour_advertisement_sums_to_nothing() {
        let address: Ipv6Addr = "2001:db8::30".parse().unwrap();
        let packet = neighbour_advertisement(MAC, address);
        assert_eq!(packet.len(), 40 + 32);
        assert_eq!((packet[0] >> 4, packet[5], packet[6], packet[7]), (6, 32, ICMPV6, 255));
        assert_eq!(packet[8..24], address.octets());
        assert_eq!(packet[40], NEIGHBOUR_ADVERTISEMENT);
        assert_eq!(packet[48..64], address.octets());
        assert_eq!(packet[66..72], MAC);
        let mut summed = packet[8..40].to_vec();
        summed.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, ICMPV6]);
        summed.extend_from_slice(&packet[40..]);
        assert_eq!(internet_checksum(&[&summed]), 0);
    }
}
