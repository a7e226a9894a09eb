//! `ping`: an ICMP echo request is answered.

use std::io;
use std::net::SocketAddr;

use socket2::{Protocol, Type};
use tokio::net::UdpSocket;

use crate::answer::icmp::{self, Kind, NotTheReply};
use crate::course::{Course, Phase};
use crate::{Invalid, Outcome, Ping, Target, socket, words};

/// Bytes of payload at most: what fits into an IPv4 packet of 65,535 with its headers.
const SIZE_MAX: u16 = 65_507;
/// Packets that are passed over at most.
const STRAYS_MAX: usize = 1000;

/// An echo request that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Echo {
    size: usize,
}

impl Echo {
    pub(crate) fn new(ping: Ping) -> Result<Self, Invalid> {
        if ping.size > SIZE_MAX {
            return Err(Invalid::new("ping.size", format!("must be at most {SIZE_MAX}")));
        }
        Ok(Self { size: usize::from(ping.size) })
    }

    pub(crate) async fn run(&self, target: &Target, course: &Course) -> Outcome {
        match course.within(self.ask(target, course)).await {
            Ok(Ok(())) => Outcome::passed("answered"),
            Ok(Err(words)) | Err(words) => Outcome::failed(words),
        }
    }

    async fn ask(&self, target: &Target, course: &Course) -> Result<(), String> {
        let (socket, kind) = open(target, course)?;
        course.enter(Phase::Answer);
        let nonce = socket::random().to_be_bytes();
        let [a, b, c, d, ..] = socket::random().to_be_bytes();
        let (id, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let payload: Vec<u8> = nonce.into_iter().cycle().take(self.size).collect();
        let request = icmp::request(kind, id, sequence, &payload);
        drop(payload);
        socket.send(&request).await.map_err(|error| words::io(course.note(&error)))?;
        let peer = socket::address(target).ip();
        for _ in 0..STRAYS_MAX {
            let mut found = Err(NotTheReply::Other);
            // One byte more than the reply has, so that a longer one is seen to be longer.
            let max = icmp::IPV4_HEADER_MAX + request.len() + 1;
            let received = socket::receive(&socket, max, |bytes, sender| {
                if sender == Some(peer) {
                    found = icmp::reply(kind, &request, bytes);
                }
            });
            received.await.map_err(|error| words::io(&error))?;
            match found {
                Err(NotTheReply::Other) => (),
                found => return found.map_err(|other| other.to_string()),
            }
        }
        Err(format!("more than {STRAYS_MAX} packets that are no reply"))
    }
}

/// A ping socket where the kernel allows one (net.ipv4.ping_group_range), else a raw one. Both are connected, so that they hear
/// of ICMP errors, and the raw one not of every packet of ICMP that comes to this machine.
fn open(target: &Target, course: &Course) -> Result<(UdpSocket, Kind), String> {
    let address = socket::address(target);
    let v6 = address.is_ipv6();
    let protocol = if v6 { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
    let denied = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM));
    let (opened, raw) = match socket::create(target, Type::DGRAM, protocol) {
        Err(error) if denied(&error) => (socket::create(target, Type::RAW, protocol), true),
        opened => (opened, false),
    };
    let opened = opened.map_err(|error| {
        if denied(&error) {
            "a ping needs the sysctl net.ipv4.ping_group_range or the capability CAP_NET_RAW".into()
        } else {
            words::io(course.note(&error))
        }
    })?;
    socket::configure(&opened, target, course)?;
    // The port of a raw socket would be its protocol, and a ping socket has none to send to.
    let socket = socket::connect(opened, SocketAddr::new(address.ip(), 0), course)?;
    Ok((socket, Kind { v6, raw }))
}
