//! `serve`: small web, mail, name, TCP and UDP servers that say who they are, count, and can be told to fail, slow down or hang.

mod dns;
mod orders;
mod smtp;
mod sockets;
mod tls;

use std::{
    convert::Infallible,
    fs::OpenOptions,
    io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
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
use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

pub use sockets::Bind;
use sockets::{canonical, listen, udp};

use super::{
    answer::{SERVER_HEADER, page, stream_line},
    behaviour::{Behaviour, Counts, Mode},
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
    /// Serve HTTP over TLS.
    #[arg(long, value_name = "[ADDR:]PORT", requires = "certificate")]
    pub https: Vec<Bind>,
    /// Greet as a mail server, which takes no mail.
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub smtp: Vec<Bind>,
    /// Answer questions of DNS, over UDP and TCP.
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub dns: Vec<Bind>,
    /// For TLS: certificate, those that signed it, and key, in PEM.
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Have pages for this host only; others get 404.
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Write a JSON line for each request.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// What is spoken on a TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http,
    Https,
    Lines,
    Smtp,
    Dns,
}

struct Server {
    name: String,
    /// Pages for this host only.
    host: Option<String>,
    /// What TLS is agreed with: at the start, and now.
    certificate: (Option<TlsAcceptor>, watch::Sender<Option<TlsAcceptor>>),
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
    let certificate = args.certificate.as_deref().map(tls::acceptor).transpose()?;
    let server = Arc::new(Server {
        name: args.name,
        host: args.host,
        certificate: (certificate.clone(), watch::Sender::new(certificate)),
        behaviour: watch::Sender::new(Behaviour::default()),
        counts: Mutex::default(),
        log,
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Everything is bound before `ready` is said, so that who waits for it cannot be refused.
    for (binds, speaks) in [
        (&args.http, Speaks::Http),
        (&args.https, Speaks::Https),
        (&args.tcp, Speaks::Lines),
        (&args.smtp, Speaks::Smtp),
        (&args.dns, Speaks::Dns),
    ] {
        for bind in binds {
            let listener = listen(bind.0).with_context(|| format!("cannot listen on {}", bind.0))?;
            tokio::spawn(Arc::clone(&server).accept(bind.0, listener, speaks));
        }
    }
    for (binds, names) in [(&args.udp, false), (&args.dns, true)] {
        for bind in binds {
            let socket = udp(bind.0).with_context(|| format!("cannot listen on UDP {}", bind.0))?;
            tokio::spawn(Arc::clone(&server).datagrams(bind.0, socket, names));
        }
    }
    let control = orders::socket(&args.control)?;
    tokio::spawn(Arc::clone(&server).control(control));
    println!("ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = std::fs::remove_file(&args.control);
    Ok(())
}

impl Server {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.borrow().clone()
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        self.certificate.1.borrow().clone()
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
    async fn accept(self: Arc<Self>, address: SocketAddr, first: TcpListener, speaks: Speaks) {
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
                        tokio::spawn(async move { server.connection(stream, client, speaks).await });
                    }
                    Err(error) => {
                        eprintln!("accept on {address}: {error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    async fn connection(&self, stream: TcpStream, client: SocketAddr, speaks: Speaks) {
        {
            let mut counts = self.counts();
            counts.connections += 1;
            counts.open += 1;
        }
        let local = stream.local_addr().ok();
        let _ = stream.set_nodelay(true);
        // A client that goes away in the middle is the client's affair.
        match speaks {
            Speaks::Http => self.http(stream, client, local).await,
            Speaks::Https => {
                if let Some(acceptor) = self.acceptor()
                    && let Some(stream) = tls::agree(&acceptor, stream).await
                {
                    self.http(stream, client, local).await;
                }
            }
            Speaks::Lines => drop(self.lines(stream, client, local).await),
            Speaks::Smtp => drop(smtp::session(self, stream, client, local).await),
            Speaks::Dns => drop(dns::connection(self, stream, client, local).await),
        }
        self.counts().open -= 1;
    }

    async fn http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        client: SocketAddr,
        local: Option<SocketAddr>,
    ) {
        let service = service_fn(|request: Request<Incoming>| self.page(request, client, local));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let _ = connection.await;
    }

    /// Whether there are pages for the host that was asked for.
    fn knows(&self, request: &Request<Incoming>) -> bool {
        let Some(wanted) = &self.host else { return true };
        let asked = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let name = asked.rsplit_once(':').map_or(asked, |(name, _)| name);
        name.eq_ignore_ascii_case(wanted)
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
        let body = if !self.knows(&request) {
            response = response.status(404);
            Full::new(Bytes::from_static(b"no such host here\n")).boxed_unsync()
        } else if request.uri().path() == STREAM {
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

    async fn datagrams(self: Arc<Self>, address: SocketAddr, first: UdpSocket, names: bool) {
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
            self.count(if names { "dns" } else { "udp" }, client, socket.local_addr().ok(), "");
            let told = self.behaviour();
            match told.mode {
                Mode::Hang | Mode::Refuse => continue,
                Mode::Error if !names => continue,
                Mode::Slow => tokio::time::sleep(told.delay()).await,
                Mode::Ok | Mode::Error => {}
            }
            let answer = if names {
                let Some(answer) = dns::answer(&buffer[..length], &told) else { continue };
                answer
            } else {
                [format!("{} ", self.name).as_bytes(), &buffer[..length]].concat()
            };
            let _ = socket.send_to(&answer, client).await;
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
