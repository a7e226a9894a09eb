//! Sockets of probes: source address, mark, and how a connection ends.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::TcpStreamExt as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, recvfrom, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::course::{Course, Phase};
use crate::{Target, words};

/// How long a server that has answered may take to end the connection itself.
const CLOSING: Duration = Duration::from_millis(10);

/// A TCP connection to a target.
///
/// How it ends: after an answer the server is given [`CLOSING`] to close first, as it was asked to, so that TIME_WAIT (60 s) is
/// the server's. If it does not, or nothing is asked (`tcp`), this side closes in order (FIN) and has the TIME_WAIT: a
/// reset would be cheaper here and would show as an error in the logs and counters of servers. A probe that fails or is given up
/// ends with a reset: nobody waits for the rest of a broken conversation, and a server that hangs leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    orderly: bool,
}

impl Connection {
    /// Connects, to be spoken to by the server.
    pub(crate) async fn open(target: &Target, course: &Course) -> Result<Self, String> {
        course.enter(Phase::Connect);
        let socket = open(target, Type::STREAM, Protocol::TCP, course)?;
        Self::connect(socket.into(), target, course).await
    }

    /// Connects, to speak first, or to say nothing. The acknowledgement of the server's SYN then goes with what is said or with the end
    /// of the connection instead of in a segment of its own (`tcp_rcv_synsent_state_process` in net/ipv4/tcp_input.c). A server that
    /// is to speak first would be kept waiting by it.
    pub(crate) async fn open_to_speak(target: &Target, course: &Course) -> Result<Self, String> {
        course.enter(Phase::Connect);
        let socket = open(target, Type::STREAM, Protocol::TCP, course)?;
        let socket = std::net::TcpStream::from(socket);
        socket.set_quickack(false).map_err(|error| words::io(&error))?;
        Self::connect(socket, target, course).await
    }

    async fn connect(socket: std::net::TcpStream, target: &Target, course: &Course) -> Result<Self, String> {
        let connecting = TcpSocket::from_std_stream(socket).connect(address(target));
        let stream = connecting.await.map_err(|error| words::io(course.note(&error)))?;
        let itself = stream.local_addr().is_ok_and(|local| local == address(target));
        let connection = Self { stream, orderly: false };
        // On a port of this machine where nobody listens, the kernel may choose that very port for this side, and connects the
        // socket to itself (simultaneous open, RFC 9293, section 3.5).
        if itself { Err(words::io(&io::ErrorKind::ConnectionRefused.into())) } else { Ok(connection) }
    }

    /// Has each write sent at once: for what is more than one question and one answer.
    pub(crate) fn no_delay(&self) -> Result<(), String> {
        self.stream.set_nodelay(true).map_err(|error| words::io(&error))
    }

    /// Ends the connection in order, now.
    pub(crate) fn close(mut self) {
        self.orderly = true;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.orderly {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A stream whose end can be in order.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// The connection below.
    fn into_connection(self) -> Connection;
}

impl Stream for Connection {
    fn into_connection(self) -> Connection {
        self
    }
}

impl Stream for tokio_rustls::client::TlsStream<Connection> {
    fn into_connection(self) -> Connection {
        self.into_inner().0
    }
}

/// Waits a moment for the server to close first, then ends the connection in order.
pub(crate) async fn finish<S: Stream>(mut stream: S, course: &Course) {
    let until = course.at_most(CLOSING);
    let ended = async { while matches!(read(&mut stream, |_| ()).await, Ok(length) if length > 0) {} };
    if tokio::time::timeout_at(until, ended).await.is_err() {
        // Says close_notify on TLS. It is one small write: it does not wait.
        let _ = tokio::time::timeout_at(until, tokio::io::AsyncWriteExt::shutdown(&mut stream)).await;
    }
    stream.into_connection().close();
}

/// Bytes that are read at once: what a server sends in a round trip or two, small enough for a cache.
const READ: usize = 16 * 1024;

thread_local! {
    /// Where all probes of a thread read into, so that none needs a buffer of its own.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Reads once and hands what came to `take`; 0 is the end of the stream.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut take: impl FnMut(&[u8]),
) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[..READ]);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            take(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

/// Receives one datagram of at most `max` bytes, or of 16 KiB if that is more, and hands it to `take` with its sender. What
/// is longer is cut.
pub(crate) async fn receive(
    socket: &UdpSocket,
    max: usize,
    mut take: impl FnMut(&[u8], Option<IpAddr>),
) -> io::Result<()> {
    // An ICMP error makes a socket not readable but erroneous: to wait for reading alone would be to miss it.
    let wait = Interest::READABLE | Interest::ERROR;
    let received = socket.async_io(wait, || {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < max {
                scratch.resize(max, 0);
            }
            let (length, sender) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), scratch)?;
            take(&scratch[..length], sender.as_ref().and_then(ip));
            Ok(())
        })
    });
    received.await
}

/// The IP address of a socket's address.
fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    let ip: Option<IpAddr> = v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()));
    ip.map(|ip| ip.to_canonical())
}

/// An error of a socket for datagrams: what a connection calls refused is an ICMP message that says that nobody listens.
pub(crate) fn datagram_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "port unreachable (ICMP)".into(),
        _ => words::io(error),
    }
}

/// A number that nobody outside can foresee.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

/// A UDP socket that is connected to a target, so that it hears of ICMP errors and of nobody else.
pub(crate) fn udp(target: &Target, course: &Course) -> Result<UdpSocket, String> {
    let socket = open(target, Type::DGRAM, Protocol::UDP, course)?;
    connect(socket, address(target), course)
}

/// Connects a socket for datagrams, and has it hear of every ICMP error. Without RECVERR the kernel keeps to itself that a host or a
/// network is unreachable, which it takes for transient (`icmp_err_convert` in net/ipv4/icmp.c): also that nobody answers its own
/// questions for a neighbour. (keepalived: `udp_bind_connect` in keepalived/core/layer4.c.)
pub(crate) fn connect(socket: Socket, peer: SocketAddr, course: &Course) -> Result<UdpSocket, String> {
    let hears = if peer.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
    };
    let connected = hears.map_err(io::Error::from).and_then(|()| socket.connect(&peer.into()));
    let socket = connected.and_then(|()| UdpSocket::from_std(socket.into()));
    socket.map_err(|error| words::io(course.note(&error)))
}

/// A socket with a target's source address and mark, without a peer.
fn open(target: &Target, kind: Type, protocol: Protocol, course: &Course) -> Result<Socket, String> {
    let socket = create(target, kind, protocol).map_err(|error| words::io(course.note(&error)))?;
    configure(&socket, target, course)?;
    Ok(socket)
}

/// A socket of a target's family.
pub(crate) fn create(target: &Target, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address(target)), kind.nonblocking(), Some(protocol))
}

/// Gives a socket a target's source address and mark.
pub(crate) fn configure(socket: &Socket, target: &Target, course: &Course) -> Result<(), String> {
    if let Some(mark) = target.mark {
        socket.set_mark(mark).map_err(|error| match course.note(&error).raw_os_error() {
            Some(libc::EPERM) => format!("mark {mark} needs the capability CAP_NET_ADMIN"),
            _ => words::io(&error),
        })?;
    }
    if let Some(source) = target.source {
        // The port is chosen at connect, by what is free towards that peer: bind alone would take one of some 28,000 for all. ICMP
        // has no ports, and a raw socket of IPv6 does not know the option.
        let protocol = socket.protocol().map_err(|error| words::io(&error))?;
        if [Some(Protocol::TCP), Some(Protocol::UDP)].contains(&protocol) {
            setsockopt(socket, sockopt::IpBindAddressNoPort, &true)
                .map_err(|error| words::io(&error.into()))?;
        }
        let bound = socket.bind(&SocketAddr::new(source, 0).into());
        bound.map_err(|error| match course.note(&error).raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => format!("this machine has no address {source} to probe from"),
            _ => words::io(&error),
        })?;
    }
    Ok(())
}

/// Address and port of a target.
pub(crate) fn address(target: &Target) -> SocketAddr {
    SocketAddr::new(canonical(target.address), target.port)
}

/// An IPv4 address in IPv6 clothes is an IPv4 address.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
