//! Raw sockets of IP protocol 112, one for each interface and family: what groups send and hear.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bascule_vrrp::packet::{Datagram, Family, IP_PROTOCOL, MULTICAST_V4, MULTICAST_V6, TTL, ipv4_datagram};
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};

/// Received bytes that are kept while this process does something else: some thousand advertisements.
const RECEIVE_BUFFER: usize = 1 << 20;
/// No advertisement is longer: an IPv4 header with all options, 255 addresses, a trailer. What is longer is cut, and malformed.
const LONGEST: usize = 2048;
/// Datagrams that are taken from one socket at a time. A flood must not keep the timers from their turn.
const AT_A_TIME: usize = 128;
/// IPTOS_PREC_INTERNETCONTROL: where queues are full, advertisements go first.
const INTERNET_CONTROL: u32 = 0xc0;
/// TC_PRIO_CONTROL (include/uapi/linux/pkt_sched.h).
const PRIORITY: i32 = 7;

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Index of the interface.
    pub(crate) index: u32,
    /// IPv4 or IPv6.
    pub(crate) family: Family,
}

/// A socket.
pub(crate) struct Wire {
    socket: Socket,
    interface: Arc<str>,
    /// Whether it listens to VRRP's multicast group.
    joined: bool,
}

impl Wire {
    /// Opens one in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub(crate) fn open(place: &Place, interface: &Arc<str>) -> io::Result<Self> {
        let domain = match place.family {
            Family::Ipv4 => Domain::IPV4,
            Family::Ipv6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(IP_PROTOCOL))))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        let _ = setsockopt(&socket, sockopt::Priority, &PRIORITY);
        match place.family {
            Family::Ipv4 => {
                socket.set_ttl_v4(u32::from(TTL))?;
                socket.set_multicast_ttl_v4(u32::from(TTL))?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_tos_v4(INTERNET_CONTROL)?;
            }
            Family::Ipv6 => {
                socket.set_unicast_hops_v6(u32::from(TTL))?;
                socket.set_multicast_hops_v6(u32::from(TTL))?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_tclass_v6(INTERNET_CONTROL)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            }
        }
        Ok(Self { socket, interface: interface.clone(), joined: false })
    }

    /// Goes on with a socket of another process.
    pub(crate) fn adopt(descriptor: OwnedFd, interface: &Arc<str>, joined: bool) -> Self {
        Self { socket: Socket::from(descriptor), interface: interface.clone(), joined }
    }

    /// Listens to VRRP's multicast group, or no longer.
    fn join(&mut self, place: &Place, wanted: bool) -> io::Result<()> {
        use socket2::InterfaceIndexOrAddress::Index;
        if self.joined == wanted {
            return Ok(());
        }
        match (place.family, wanted) {
            (Family::Ipv4, true) => self.socket.join_multicast_v4_n(&MULTICAST_V4, &Index(place.index))?,
            (Family::Ipv4, false) => self.socket.leave_multicast_v4_n(&MULTICAST_V4, &Index(place.index))?,
            (Family::Ipv6, true) => self.socket.join_multicast_v6(&MULTICAST_V6, place.index)?,
            (Family::Ipv6, false) => self.socket.leave_multicast_v6(&MULTICAST_V6, place.index)?,
        }
        self.joined = wanted;
        Ok(())
    }

    /// Sends an IP payload from an address of this machine.
    fn send(&self, place: &Place, source: IpAddr, destination: IpAddr, bytes: &[u8]) -> io::Result<()> {
        let payload = [IoSlice::new(bytes)];
        let descriptor = self.socket.as_raw_fd();
        let sent = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let index = i32::try_from(place.index).map_err(io::Error::other)?;
                let info = libc::in_pktinfo {
                    ipi_ifindex: index,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(descriptor, &payload, &control, MsgFlags::empty(), Some(&to))?
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: place.index,
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, place.index));
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(descriptor, &payload, &control, MsgFlags::empty(), Some(&to))?
            }
            _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }

    /// Takes one datagram; false when there is none.
    fn receive(&self, each: &mut impl FnMut(Datagram<'_>)) -> io::Result<bool> {
        let mut buffer = [0_u8; LONGEST];
        let mut control = cmsg_space!(libc::in6_pktinfo, libc::c_int);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let descriptor = self.socket.as_raw_fd();
        let received = recvmsg::<SockaddrIn6>(descriptor, &mut slices, Some(&mut control), MsgFlags::empty());
        let message = match received {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let (mut destination, mut ttl) = (None, None);
        for one in message.cmsgs()? {
            match one {
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
                }
                ControlMessageOwned::Ipv6HopLimit(limit) => ttl = u8::try_from(limit).ok(),
                _ => {}
            }
        }
        let source = message.address.map(|address| address.ip());
        let length = message.bytes;
        if let (Some(source), Some(destination), Some(ttl)) = (source, destination, ttl) {
            let (source, destination) = (IpAddr::V6(source), IpAddr::V6(destination));
            each(Datagram { source, destination, ttl, payload: &buffer[..length] });
        } else if let Ok(datagram) = ipv4_datagram(&buffer[..length]) {
            // What is no whole IPv4 packet the kernel does not hand out.
            each(datagram);
        }
        Ok(true)
    }
}

/// What became of a socket that was wanted.
#[derive(Debug)]
pub(crate) struct WireError {
    /// The interface.
    pub(crate) interface: Arc<str>,
    /// The family.
    pub(crate) family: Family,
    /// Why.
    pub(crate) error: io::Error,
}

/// All sockets.
#[derive(Default)]
pub(crate) struct Wires {
    open: BTreeMap<Place, Wire>,
}

impl Wires {
    /// Makes the sockets those that are wanted: interface and whether multicast is to be heard. Returns what could not be had.
    pub(crate) fn set(&mut self, wanted: &BTreeMap<Place, (Arc<str>, bool)>) -> Vec<WireError> {
        // A renamed interface keeps its index: the socket is bound to that, not to the name.
        self.open.retain(|place, _| wanted.contains_key(place));
        let mut errors = Vec::new();
        for (place, (interface, multicast)) in wanted {
            let result = match self.open.get_mut(place) {
                Some(wire) => wire.join(place, *multicast),
                None => Wire::open(place, interface).and_then(|mut wire| {
                    wire.join(place, *multicast)?;
                    self.open.insert(place.clone(), wire);
                    Ok(())
                }),
            };
            if let Err(error) = result {
                errors.push(WireError { interface: interface.clone(), family: place.family, error });
            }
        }
        errors
    }

    /// Takes in a socket of another process.
    pub(crate) fn adopt(&mut self, place: Place, wire: Wire) {
        self.open.insert(place, wire);
    }

    /// Whether there is a socket.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.open.contains_key(place)
    }

    /// What becomes readable with a datagram.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.values().map(|wire| wire.socket.as_fd())
    }

    /// All, for another process: place, interface, whether it hears multicast, descriptor.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Place, &Arc<str>, bool, BorrowedFd<'_>)> {
        self.open.iter().map(|(place, wire)| (place, &wire.interface, wire.joined, wire.socket.as_fd()))
    }

    /// Sends an IP payload.
    pub(crate) fn send(&self, place: &Place, from: IpAddr, to: IpAddr, bytes: &[u8]) -> io::Result<()> {
        match self.open.get(place) {
            Some(wire) => wire.send(place, from, to, bytes),
            None => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }

    /// Hands out what the sockets hold, a bounded number of each. An error of one is no reason not to hear the others.
    pub(crate) fn receive(&self, mut each: impl FnMut(&Place, &Arc<str>, Datagram<'_>)) -> Vec<WireError> {
        let mut errors = Vec::new();
        for (place, wire) in &self.open {
            for _ in 0..AT_A_TIME {
                match wire.receive(&mut |datagram| each(place, &wire.interface, datagram)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        // ENETDOWN and the like: said once by the socket, then it goes on.
                        let (interface, family) = (wire.interface.clone(), place.family);
                        errors.push(WireError { interface, family, error });
                        break;
                    }
                }
            }
        }
        errors
    }
}
