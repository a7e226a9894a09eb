//! Where a server listens.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Where to listen: a port on all addresses of both families, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind(pub SocketAddr);

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self((Ipv6Addr::UNSPECIFIED, port).into()));
        }
        text.parse().map(Self).map_err(|_| format!("`{text}` is neither a port nor ADDRESS:PORT"))
    }
}

/// A listening socket; `::` takes IPv4 too.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    ready(&socket, address)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

pub(super) fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    ready(&socket, address)?;
    UdpSocket::from_std(socket.into())
}

fn ready(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

/// An IPv4 client of a socket that takes both families, as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_ports_or_addresses() {
        assert_eq!("80".parse::<Bind>().unwrap().0.to_string(), "[::]:80");
        assert_eq!("172.16.193.10:80".parse::<Bind>().unwrap().0.to_string(), "172.16.193.10:80");
        assert!("http".parse::<Bind>().is_err());
        assert!("70000".parse::<Bind>().is_err());
    }
}
