//! Network namespaces and what runs in them.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{Once, mpsc},
    thread,
    time::{Duration, Instant},
};

use bascule_ipvs::{Client, Error};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Pid, gettid},
};

/// How long a condition may take to come true: generous, for emulated machines under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` on a thread in a fresh network namespace.
///
/// Without rights or without IPVS the test does not run, and says so; with BASCULE_KERNEL_TESTS=require it fails then.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    in_plain_namespace(|| match Client::connect() {
        Err(error @ Error::Missing { .. }) => not_run(&format!("kernel has no IPVS ({error})")),
        Err(error) => panic!("{error}"),
        Ok(_) => test(),
    });
}

/// The same for what needs no IPVS.
pub(crate) fn in_plain_namespace(test: impl FnOnce() + Send + 'static) {
    static LOG: Once = Once::new();
    LOG.call_once(|| tracing_subscriber::fmt().with_env_filter("info").with_test_writer().init());
    let thread = thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            return not_run(&format!("cannot make a network namespace ({errno}), run as root"));
        }
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn not_run(why: &str) {
    static SAID: Once = Once::new();
    assert!(
        std::env::var_os("BASCULE_KERNEL_TESTS").is_none_or(|value| value != "require"),
        "BASCULE_KERNEL_TESTS=require, but {why}"
    );
    // Not eprintln, which the test harness hides of a test that passes.
    SAID.call_once(|| {
        let _ = writeln!(std::io::stderr(), "not run here: {why}");
    });
}

/// Runs a program in this thread's namespace and returns what it printed; it must succeed.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = try_run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn try_run(program: &str, arguments: &str) -> Output {
    Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs `ipvsadm`.
pub(crate) fn ipvsadm(arguments: &str) -> String {
    run("ipvsadm", arguments)
}

/// The rules that `ipvsadm -Sn` prints, sorted.
pub(crate) fn rules() -> Vec<String> {
    let mut lines: Vec<String> = ipvsadm("-Sn").lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

/// A setting of this thread's namespace.
pub(crate) fn sysctl(path: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{path}"))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .trim()
        .to_owned()
}

pub(crate) fn set_sysctl(path: &str, value: &str) {
    fs::write(format!("/proc/sys/{path}"), value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// The connections that IPVS knows, a line each.
pub(crate) fn connections() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/ip_vs_conn").unwrap();
    text.lines().skip(1).map(ToOwned::to_owned).collect()
}

/// Waits until something is so, and says how long that took.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "in {PATIENCE:?} it did not become true that {what}");
        thread::sleep(Duration::from_millis(2));
    }
    started.elapsed()
}

/// A host in a namespace of its own, connected to this one, with a small TCP server on port 80.
pub(crate) struct Host {
    thread: Pid,
    stop: Option<mpsc::Sender<()>>,
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Host {
    /// `link` is the name of the link on this side, `own` the host's address with its prefix, `gateway` its default route.
    pub(crate) fn new(name: &'static str, link: &str, own: &str, gateway: Option<&str>) -> Self {
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let (jobs, work) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            ready.send(gettid()).unwrap();
            let listener = TcpListener::bind("[::]:80").unwrap();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || serve(name, stream));
                }
            });
            for job in work {
                job();
            }
            drop(stopped);
        });
        let host = Self { thread: is_ready.recv().unwrap(), stop: Some(stop), jobs };
        ip(&format!("link add {link} type veth peer name eth0 netns {}", host.thread));
        ip(&format!("link set {link} up"));
        let (own, gateway) = (own.to_owned(), gateway.map(ToOwned::to_owned));
        host.on(move || {
            let family = if own.contains(':') { "-6" } else { "-4" };
            let nodad = if own.contains(':') { "nodad" } else { "" };
            ip(&format!("{family} address add {own} dev eth0 {nodad}"));
            ip("link set eth0 up");
            if let Some(gateway) = gateway {
                ip(&format!("{family} route add default via {gateway}"));
            }
        });
        host
    }

    /// Does something in the host's namespace.
    pub(crate) fn on<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                let _ = sender.send(job());
            }))
            .unwrap();
        receiver.recv().expect("the job panicked, see above")
    }

    /// Asks the server at an address who it is.
    pub(crate) fn ask(&self, target: &'static str) -> std::io::Result<String> {
        self.on(move || ask(&mut connect(target)?))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

pub(crate) fn connect(target: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.parse().unwrap(), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(stream)
}

/// As [`connect`], from an address of one's own.
pub(crate) fn connect_from(own: &str, target: &str) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::net::SocketAddr;
    use std::os::fd::AsRawFd as _;
    let (own, target): (SocketAddr, SocketAddr) = (own.parse().unwrap(), target.parse().unwrap());
    let family = if own.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(own))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(stream)
}

/// One question and its answer: the server's name and the client's address as it saw it.
pub(crate) fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"?")?;
    let mut answer = [0; 64];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}

fn serve(name: &str, mut stream: TcpStream) {
    let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
    let answer = format!("{:<64}", format!("{name} {peer}"));
    let mut question = [0; 1];
    while stream.read_exact(&mut question).is_ok() {
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
