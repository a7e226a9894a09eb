//! `serve`: small web, TCP and UDP servers that say who they are, count, and can be told to fail, slow down or hang.

use std::{
    convert::Infallible,
    fs::OpenOptions,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{
    answer::{SERVER_HEADER, page, stream_line},
    behaviour::{Behaviour, Counts, Mode, Order, Subject},
    clock::monotonic_ns,
    record::write_line,
};

/// No line from a client or a controller is longer.
const LINE_MAX: usize = 64 * 1024;
/// The path of a download that does not end.
const STREAM: &str = "/stream";
/// Time between two lines of it.
const STREAM_PERIOD: Duration = Duration::from_millis(50);
/// Distinct client addresses that are counted; later ones are counted as "others".
const CLIENTS_MAX: usize = 10_000;

/// A small server of the lab, which runs inside a node.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// The name that it gives in every answer.
    #[arg(long)]
    pub name: String,
    /// Unix socket on which it takes orders, one JSON object a line.
    #[arg(long, value_name = "SOCKET")]
    pub control: PathBuf,
    /// Serve HTTP on this port or address and port (may be repeated).
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub http: Vec<Bind>,
    /// Serve lines over TCP.
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub tcp: Vec<Bind>,
    /// Answer datagrams.
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub udp: Vec<Bind>,
    /// Write a JSON line for each request.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

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

#[derive(Debug)]
struct Server {
    name: String,
    behaviour: watch::Sender<Behaviour>,
    counts: Mutex<Counts>,
    log: Option<Mutex<std::fs::File>>,
}

#[derive(Serialize)]
struct LogLine<'a> {
    t: u64,
    protocol: &'a str,
    client: String,
    local: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When an address cannot be listened on, or the control socket or log cannot be made.
pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let log = match &args.log {
        None => None,
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Some(Mutex::new(file.with_context(|| format!("cannot open the log {}", path.display()))?))
        }
    };
    let server = Arc::new(Server {
        name: args.name,
        behaviour: watch::Sender::new(Behaviour::default()),
        counts: Mutex::default(),
        log,
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Everything is bound before `ready` is said, so that who waits for it cannot be refused.
    for (binds, http) in [(&args.http, true), (&args.tcp, false)] {
        for bind in binds {
            let listener = listen(bind.0).with_context(|| format!("cannot listen on {}", bind.0))?;
            tokio::spawn(Arc::clone(&server).accept(bind.0, listener, http));
        }
    }
    for bind in &args.udp {
        let socket = udp(bind.0).with_context(|| format!("cannot listen on UDP {}", bind.0))?;
        tokio::spawn(Arc::clone(&server).datagrams(bind.0, socket));
    }
    let control = control_socket(&args.control)?;
    tokio::spawn(Arc::clone(&server).control(control));
    println!("ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = std::fs::remove_file(&args.control);
    Ok(())
}

fn control_socket(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

/// A listening socket; `::` takes IPv4 too.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    ready(&socket, address)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
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

impl Server {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.borrow().clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, protocol: &str, client: SocketAddr, local: Option<SocketAddr>, path: &str) {
        let client_ip = client.ip().to_canonical();
        {
            let mut counts = self.counts();
            counts.requests += 1;
            let mut key = client_ip.to_string();
            if counts.clients.len() >= CLIENTS_MAX && !counts.clients.contains_key(&key) {
                "others".clone_into(&mut key);
            }
            *counts.clients.entry(key).or_default() += 1;
        }
        if let Some(log) = &self.log {
            let line = LogLine {
                t: monotonic_ns(),
                protocol,
                client: canonical(client).to_string(),
                local: local.map(|local| canonical(local).to_string()).unwrap_or_default(),
                path,
            };
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not stop the page: the count above stays right.
            let _ = write_line(&mut *log, &line);
        }
    }

    /// Accepts until told to refuse, then closes the listener until told otherwise.
    async fn accept(self: Arc<Self>, address: SocketAddr, first: TcpListener, http: bool) {
        let mut behaviour = self.behaviour.subscribe();
        let mut listener = Some(first);
        loop {
            if behaviour.borrow_and_update().mode == Mode::Refuse {
                listener = None;
            } else if listener.is_none() {
                // The port may be taken for a moment by a connection in its last state.
                match listen(address) {
                    Ok(again) => listener = Some(again),
                    Err(error) => {
                        eprintln!("cannot listen again on {address}: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                }
            }
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = behaviour.changed() => if changed.is_err() { return },
                accepted = accepted => match accepted {
                    Ok((stream, client)) => {
                        let server = Arc::clone(&self);
                        tokio::spawn(async move { server.connection(stream, client, http).await });
                    }
                    Err(error) => {
                        eprintln!("accept on {address}: {error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    async fn connection(&self, stream: TcpStream, client: SocketAddr, http: bool) {
        {
            let mut counts = self.counts();
            counts.connections += 1;
            counts.open += 1;
        }
        let local = stream.local_addr().ok();
        let _ = stream.set_nodelay(true);
        if http {
            let service = service_fn(|request: Request<Incoming>| self.page(request, client, local));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away in the middle is the client's affair.
            let _ = connection.await;
        } else {
            let _ = self.lines(stream, client, local).await;
        }
        self.counts().open -= 1;
    }

    async fn page(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
        self.count("http", client, local, request.uri().path());
        let behaviour = self.behaviour();
        let mut response = Response::builder()
            .header(SERVER_HEADER, &self.name)
            .header("content-type", "text/html; charset=utf-8");
        match behaviour.mode {
            Mode::Ok | Mode::Refuse => {}
            Mode::Slow => tokio::time::sleep(behaviour.delay()).await,
            Mode::Hang => std::future::pending().await,
            Mode::Error => response = response.status(behaviour.status.unwrap_or(500)),
        }
        let body = if request.uri().path() == STREAM {
            self.stream()
        } else {
            Full::new(Bytes::from(behaviour.body.unwrap_or_else(|| page(&self.name)))).boxed_unsync()
        };
        Ok(response.body(body).unwrap_or_else(|_| Response::default()))
    }

    /// A download that does not end: numbered lines.
    fn stream(&self) -> UnsyncBoxBody<Bytes, Infallible> {
        let name = self.name.clone();
        let lines = stream::unfold((0u64, name), |(number, name)| async move {
            if number > 0 {
                tokio::time::sleep(STREAM_PERIOD).await;
            }
            let line = stream_line(&name, number);
            Some((Ok(Frame::data(Bytes::from(line))), (number + 1, name)))
        });
        StreamBody::new(lines).boxed_unsync()
    }

    /// Greets, then repeats each line with its name before it.
    async fn lines(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = canonical(client).to_string();
        loop {
            self.count("tcp", client, local, "");
            let behaviour = self.behaviour();
            match behaviour.mode {
                Mode::Ok | Mode::Refuse => {}
                Mode::Slow => tokio::time::sleep(behaviour.delay()).await,
                Mode::Hang => std::future::pending().await,
                Mode::Error => return Ok(()),
            }
            writer.write_all(format!("{} {line}\n", self.name).as_bytes()).await?;
            match next_line(&mut reader).await? {
                Some(next) => line = next,
                None => return Ok(()),
            }
        }
    }

    async fn datagrams(self: Arc<Self>, address: SocketAddr, first: UdpSocket) {
        let mut behaviour = self.behaviour.subscribe();
        let mut socket = Some(first);
        let mut buffer = vec![0; 65_535];
        loop {
            if behaviour.borrow_and_update().mode == Mode::Refuse {
                socket = None;
            } else if socket.is_none() {
                socket = udp(address).inspect_err(|error| eprintln!("UDP {address}: {error}")).ok();
                if socket.is_none() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            }
            let received = async {
                match &socket {
                    Some(socket) => socket.recv_from(&mut buffer).await,
                    None => std::future::pending().await,
                }
            };
            let (length, client) = tokio::select! {
                changed = behaviour.changed() => { if changed.is_err() { return } continue }
                received = received => match received {
                    Ok(received) => received,
                    // An ICMP error of an earlier answer comes back here; it belongs to no datagram of ours.
                    Err(_) => continue,
                },
            };
            let Some(socket) = &socket else { continue };
            self.count("udp", client, socket.local_addr().ok(), "");
            let told = self.behaviour();
            match told.mode {
                Mode::Hang | Mode::Error | Mode::Refuse => continue,
                Mode::Slow => tokio::time::sleep(told.delay()).await,
                Mode::Ok => {}
            }
            let mut answer = format!("{} ", self.name).into_bytes();
            answer.extend(&buffer[..length]);
            let _ = socket.send_to(&answer, client).await;
        }
    }

    async fn control(self: Arc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move { server.orders(stream).await });
                }
                Err(error) => {
                    eprintln!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn orders(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        while let Some(line) = next_line(&mut reader).await? {
            let mut answer = self.order(&line).to_string();
            answer.push('\n');
            writer.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn order(&self, line: &str) -> serde_json::Value {
        match serde_json::from_str(line) {
            Ok(Order::Set(behaviour)) => {
                if behaviour.status.is_some_and(|status| !(100..=999).contains(&status)) {
                    return serde_json::json!({"ok": false, "error": "status is not between 100 and 999"});
                }
                self.behaviour.send_replace(behaviour);
                serde_json::json!({"ok": true})
            }
            Ok(Order::Get(Subject::Counts)) => {
                serde_json::to_value(self.counts().clone()).unwrap_or_default()
            }
            Ok(Order::Get(Subject::Behaviour)) => serde_json::to_value(self.behaviour()).unwrap_or_default(),
            Err(error) => serde_json::json!({"ok": false, "error": error.to_string()}),
        }
    }
}

/// The next line without its end, `None` at the end of the stream; a line that is too long ends it.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    (&mut *reader).take(LINE_MAX as u64).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()))
}

/// An IPv4 client of a socket that takes both families, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
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

    #[test]
    fn orders_are_judged() {
        let server = Server {
            name: "SRV1".into(),
            behaviour: watch::Sender::new(Behaviour::default()),
            counts: Mutex::default(),
            log: None,
        };
        assert_eq!(server.order(r#"{"set":{"mode":"slow","delayMs":20}}"#)["ok"], true);
        assert_eq!(server.behaviour().mode, Mode::Slow);
        assert_eq!(server.order(r#"{"get":"counts"}"#)["requests"], 0);
        for wrong in
            [r#"{"set":{"mode":"dance"}}"#, r#"{"set":{"status":7}}"#, "junk", r#"{"set":{"colour":1}}"#]
        {
            assert_eq!(server.order(wrong)["ok"], false, "{wrong}");
        }
        assert_eq!(server.behaviour().mode, Mode::Slow, "a refused order changes nothing");
    }
}
