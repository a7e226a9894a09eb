//! The lab's servers with TLS, mail and names, as processes on loopback.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Patience; nothing here is timed.
const PATIENCE: Duration = Duration::from_secs(60);
/// `tp.example SOA`.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02tp\x07example\x00\x00\x06\x00\x01";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

struct Server {
    child: Child,
    control: PathBuf,
    https: SocketAddr,
    smtp: SocketAddr,
    dns: SocketAddr,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let control = folder.join("serve.sock");
        let [https, smtp, dns] =
            [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let mut child = Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
            .args(["serve", "--name", "SRV1", "--host", "www.tp.example", "--control"])
            .arg(&control)
            .arg("--certificate")
            .arg(data("www.pem"))
            .args(["--https", &https.to_string(), "--smtp", &smtp.to_string(), "--dns", &dns.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("bascule-lab starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, control, https, smtp, dns }
    }

    fn set(&self, behaviour: &serde_json::Value) {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        writeln!(stream, "{}", serde_json::json!({ "set": behaviour })).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"ok\":true}\n");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn tls(stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data("authority.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "www.tp.example".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// What comes back; an error is that of TLS.
fn get(server: &Server, host: &str) -> std::io::Result<String> {
    let mut stream = tls(connect(server.https));
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn pages_over_tls_for_one_host_with_a_certificate_that_changes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let page = get(&server, "www.tp.example:443").unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("It Works! SRV1"), "{page}");
    let other = get(&server, "other.tp.example").unwrap();
    assert!(other.starts_with("HTTP/1.1 404"), "{other}");
    server.set(&serde_json::json!({"certificate": data("expired.pem")}));
    let error = get(&server, "www.tp.example").unwrap_err().to_string();
    assert!(error.to_lowercase().contains("expired"), "{error}");
    server.set(&serde_json::json!({}));
    assert!(get(&server, "www.tp.example").is_ok(), "the first certificate again");
}

fn line(reader: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn mail_with_start_tls() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let stream = connect(server.smtp);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(line(&mut reader), "220 SRV1 ESMTP\r\n");
    (&stream).write_all(b"EHLO dir1\r\n").unwrap();
    assert_eq!((line(&mut reader), line(&mut reader)), ("250-SRV1\r\n".into(), "250 STARTTLS\r\n".into()));
    (&stream).write_all(b"STARTTLS\r\n").unwrap();
    assert!(line(&mut reader).starts_with("220 "));
    let mut secure = BufReader::new(tls(stream));
    secure.get_mut().write_all(b"EHLO dir1\r\n").unwrap();
    assert_eq!(line(&mut secure), "250 SRV1\r\n");
    server.set(&serde_json::json!({"mode": "error"}));
    assert_eq!(line(&mut BufReader::new(connect(server.smtp))), "421 SRV1 Service not available\r\n");
}

#[test]
fn names_over_udp_and_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let ask = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(QUERY, server.dns).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    };
    let answer = ask();
    assert_eq!((&answer[..2], answer[3] & 15, answer[7]), (&QUERY[..2], 0, 1));
    let mut stream = connect(server.dns);
    stream.write_all(&[&[0, u8::try_from(QUERY.len()).unwrap()][..], QUERY].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut over_tcp = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut over_tcp).unwrap();
    assert_eq!(over_tcp, answer);
    server.set(&serde_json::json!({"mode": "error"}));
    assert_eq!(ask()[3] & 15, 2, "a server failure");
}
