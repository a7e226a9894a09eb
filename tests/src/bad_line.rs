//! A bad line to a real API server: what goes through it comes late, is refused, or is said to have expired, as a test wants. It speaks
//! plain HTTP/1.1, to a `kubectl proxy` that has the credentials.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::api_server::ApiServer;
use crate::die_with_us;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is passed on.
    None,
    /// It is passed on after so long.
    Late(Duration),
    /// 429, with this wish of when to come again, in seconds.
    TooMany(u32),
    /// 409: the object has changed.
    Conflict,
    /// A watch that begins and says at once that it has expired.
    Expired,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, PATCH, …
    pub method: String,
    /// With its query.
    pub path: String,
    /// When it came.
    pub at: Instant,
}

impl Request {
    /// Whether it begins a watch.
    pub fn watches(&self) -> bool {
        self.method == "GET" && self.path.contains("watch=true")
    }
}

type Rule = Box<dyn FnMut(&Request) -> Fault + Send>;

/// The line. Its threads live as long as the test's process; `kubectl proxy` ends with this.
pub struct BadLine {
    proxy: Child,
    kubeconfig: PathBuf,
    rule: Arc<Mutex<Rule>>,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl BadLine {
    /// One for whom that kubeconfig is. At first it is a good one.
    pub fn start(server: &ApiServer, kubeconfig: &Path) -> Result<BadLine> {
        let mut command = server.kubectl();
        command.env("KUBECONFIG", kubeconfig).args(["proxy", "--port=0", "--address=127.0.0.1"]);
        let mut proxy = die_with_us(command.stdout(Stdio::piped())).spawn()?;
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let upstream = line.trim().rsplit(' ').next().context("kubectl proxy says nothing")?.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let own = server.dir().join("bad-line.kubeconfig");
        std::fs::write(
            &own,
            format!(
                "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
            ),
        )?;
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Fault::None)));
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (to_rule, to_seen) = (Arc::clone(&rule), Arc::clone(&seen));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (rule, seen, upstream) = (Arc::clone(&to_rule), Arc::clone(&to_seen), upstream.clone());
                // A line that breaks is what it is.
                std::thread::spawn(move || drop(serve(client, &upstream, &rule, &seen)));
            }
        });
        Ok(BadLine { proxy, kubeconfig: own, rule, seen })
    }

    /// Names the line in the place of the server.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// What becomes of each request from now on; forgets those that came.
    pub fn rule(&self, rule: impl FnMut(&Request) -> Fault + Send + 'static) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The requests that came since.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

/// One request a connection: the answer is passed on until the server has ended it.
fn serve(
    mut client: TcpStream,
    upstream: &str,
    rule: &Mutex<Rule>,
    seen: &Mutex<Vec<Request>>,
) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length, mut line) = (String::new(), 0, String::new());
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    head.push_str(&line);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "connection" => continue,
            _ => {}
        }
        head.push_str(&line);
    }
    head.push_str("Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = Request { method, path, at: Instant::now() };
    let fault = (rule.lock().unwrap_or_else(PoisonError::into_inner))(&request);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    match fault {
        Fault::None => {}
        Fault::Late(time) => std::thread::sleep(time),
        Fault::TooMany(seconds) => {
            let details = json!({"retryAfterSeconds": seconds});
            let more = format!("Retry-After: {seconds}\r\n");
            return refuse(&mut client, 429, "TooManyRequests", &more, &details);
        }
        Fault::Conflict => return refuse(&mut client, 409, "Conflict", "", &json!({})),
        Fault::Expired => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
                "message": "too old resource version: told by a test"});
            let event = format!("{}\n", json!({"type": "ERROR", "object": status}));
            write!(
                client,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{event}"
            )?;
            return Ok(client.shutdown(Shutdown::Both)?);
        }
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    // Who hangs up ends what the server would go on saying, such as a watch.
    let (mut client_reads, server_ends) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = client_reads.read(&mut [0]);
        let _ = server_ends.shutdown(Shutdown::Both);
    });
    std::io::copy(&mut server, &mut client)?;
    Ok(client.shutdown(Shutdown::Both)?)
}

fn refuse(
    client: &mut TcpStream,
    code: u16,
    reason: &str,
    head: &str,
    details: &serde_json::Value,
) -> Result<()> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "code": code,
        "message": format!("{reason}: told by a test"), "details": details})
    .to_string();
    write!(
        client,
        "HTTP/1.1 {code} {reason}\r\nContent-Type: application/json\r\n{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(client.shutdown(Shutdown::Write)?)
}
