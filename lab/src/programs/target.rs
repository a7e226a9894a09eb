//! Where a client's requests go, and connections there.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request as HttpRequest, Response, Uri, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use super::{
    answer::{SERVER_HEADER, answerer_in_page},
    load::{LoadArgs, Protocol},
};

/// A page larger than this is a failure.
const BODY_MAX: usize = 1 << 20;
/// Time between two keepalives on a held connection.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// So many unanswered keepalives end a connection: more than any failover takes.
const KEEPALIVES_MAX: u32 = 60;

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    pub(super) source: Option<IpAddr>,
    /// Keepalives that TCP sends on a connection that says nothing.
    keepalive: Option<Duration>,
    /// The first SYN has to be answered.
    at_once: bool,
    uri: Option<Uri>,
}

/// The connection came about, by another SYN than the first.
#[derive(Debug, thiserror::Error)]
#[error("the first SYN was not answered")]
struct Again;

impl Target {
    pub(super) fn parse(args: &LoadArgs) -> anyhow::Result<Self> {
        let (address, uri) = if args.protocol == Protocol::Http {
            let uri: Uri = args.target.parse().with_context(|| format!("`{}` is not a URL", args.target))?;
            if uri.scheme_str() != Some("http") {
                bail!("`{}` does not begin with http://", args.target);
            }
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let ip = match host {
                // Names are the nodes' own business; this one means the machine itself everywhere.
                "localhost" => IpAddr::from([127, 0, 0, 1]),
                host => host.parse().with_context(|| format!("`{host}` in the target is not an address"))?,
            };
            (SocketAddr::new(ip, uri.port_u16().unwrap_or(80)), Some(uri))
        } else if args.protocol == Protocol::Ping {
            let ip: IpAddr =
                args.target.parse().with_context(|| format!("`{}` is not an address", args.target))?;
            (SocketAddr::new(ip, 0), None)
        } else {
            let address = args.target.parse();
            (address.with_context(|| format!("`{}` is not ADDRESS:PORT", args.target))?, None)
        };
        let keepalive = args.hold.map(|_| KEEPALIVE);
        let at_once = args.hold.is_none();
        Ok(Self { protocol: args.protocol, address, source: args.source, keepalive, at_once, uri })
    }

    pub(super) async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(self.address).await?;
        // What is hidden by sending once more is a loss all the same.
        if self.at_once && sent_again(&stream)? {
            return Err(std::io::Error::other(Again));
        }
        stream.set_nodelay(true)?;
        if let Some(period) = self.keepalive {
            let keepalive =
                TcpKeepalive::new().with_time(period).with_interval(period).with_retries(KEEPALIVES_MAX);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        }
        Ok(stream)
    }

    pub(super) fn http_request(&self, close: bool) -> anyhow::Result<HttpRequest<Empty<Bytes>>> {
        let uri = self.uri.as_ref().context("no URL")?;
        let mut request = HttpRequest::get(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header("host", uri.authority().map_or("", |authority| authority.as_str()));
        if close {
            request = request.header("connection", "close");
        }
        Ok(request.body(Empty::new())?)
    }
}

/// Whether TCP had to send anything of a connection twice: before anything was said on it, its SYN.
fn sent_again(stream: &TcpStream) -> std::io::Result<bool> {
    // SAFETY: plain integers, for which 0 is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(std::io::Error::other)?;
    // SAFETY: the kernel writes `length` bytes at most, and says how many.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(info.tcpi_total_retrans > 0)
}

/// Whether this is why a connection did not count.
pub(super) fn is_again(error: &anyhow::Error) -> bool {
    let of = |error: &std::io::Error| error.get_ref().is_some_and(|inner| inner.is::<Again>());
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(of))
}

/// A connection that speaks HTTP, driven by a task of its own.
#[derive(Debug)]
pub(super) struct HttpConnection {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// Reads and writes; ends with the connection.
    task: JoinHandle<hyper::Result<()>>,
}

impl HttpConnection {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    async fn ask(&mut self, request: HttpRequest<Empty<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let error = match self.sender.ready().await {
            Ok(()) => match self.sender.send_request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            },
            Err(error) => error,
        };
        // It ended while nothing was asked: then only the one who read knows why.
        if error.is_closed() || error.is_canceled() {
            return match (&mut self.task).await {
                Ok(Err(reason)) => Err(reason).context("while nothing was asked"),
                Ok(Ok(())) => Err(error).context("the other side closed the connection"),
                Err(_) => Err(error.into()),
            };
        }
        Err(error.into())
    }
}

pub(super) async fn http_connect(target: &Target) -> anyhow::Result<HttpConnection> {
    let stream = target.connect().await.context("connect")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    Ok(HttpConnection { sender, task: tokio::spawn(connection) })
}

pub(super) async fn http_exchange(
    connection: &mut HttpConnection,
    request: HttpRequest<Empty<Bytes>>,
) -> anyhow::Result<Answer> {
    let response = connection.ask(request).await?;
    let status = response.status();
    let header = response.headers().get(SERVER_HEADER).and_then(|name| name.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("body: {error}"))?.to_bytes();
    let answerer = answerer_in_page(&String::from_utf8_lossy(&body)).or(header);
    let error = (!status.is_success()).then(|| format!("status {}", status.as_u16()));
    Ok(Answer { answerer, status: Some(status.as_u16()), error })
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) answerer: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener that has as many connections as it takes does not answer a SYN; it answers the next one, when it has room.
    #[tokio::test]
    async fn a_connection_by_the_second_syn_is_told_apart() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = socket.listen(0).unwrap();
        let target = |at_once| Target {
            protocol: Protocol::Tcp,
            address,
            source: None,
            keepalive: None,
            at_once,
            uri: None,
        };
        let first = target(true).connect().await.expect("there is room for one");
        let room = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut taken = Vec::new();
            for _ in 0..3 {
                taken.push(listener.accept().await.unwrap());
            }
            taken
        };
        let (strict, lenient) = (target(true), target(false));
        let (strict, lenient, _taken) = tokio::join!(strict.connect(), lenient.connect(), room);
        let error = anyhow::Error::from(strict.unwrap_err()).context("connect");
        assert!(is_again(&error), "{error:#}");
        assert_eq!(format!("{error:#}"), "connect: the first SYN was not answered");
        assert!(sent_again(&lenient.unwrap()).unwrap());
        assert!(!sent_again(&first).unwrap());
    }
}
