//! A machine: a network namespace with two interfaces, whose loopback reaches the host's API server through a relay.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_tests::operator::{NAMESPACE, PATIENCE};
use serde_json::Value;

/// Whether machines can be made here; says so if not.
pub(crate) fn can_run() -> bool {
    // SAFETY: it has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let can = root
        && Command::new("ip").args(["netns", "list"]).output().is_ok_and(|output| output.status.success());
    let required = std::env::var_os("BASCULE_KERNEL_TESTS").is_some_and(|value| value == "require");
    assert!(can || !required, "BASCULE_KERNEL_TESTS=require, but these tests need root and ip");
    if !can {
        eprintln!("not run here: needs root and ip");
    }
    can
}

fn ip(arguments: &str) -> Result<String> {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).stdin(Stdio::null()).output().context("ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What comes in by an interface, IPv4, without the frame's header; waits 5 s at most for each.
fn packet_socket(interface: &CStr) -> io::Result<OwnedFd> {
    let protocol = u16::try_from(libc::ETH_P_IP).map_err(io::Error::other)?.to_be();
    // SAFETY: it has no preconditions.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened above, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the string ends with a zero.
    let index = unsafe { libc::if_nametoindex(interface.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zero is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let patience = libc::timeval { tv_sec: 5, tv_usec: 0 };
    let [of_address, of_patience] =
        [size_of_val(&address), size_of_val(&patience)].map(|size| u32::try_from(size).unwrap_or(0));
    // SAFETY: both are as long as is said, and live until the calls have ended.
    let failed = unsafe {
        let (option, value) = (libc::SO_RCVTIMEO, (&raw const patience).cast());
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, of_patience) != 0
            || libc::bind(socket.as_raw_fd(), (&raw const address).cast(), of_address) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// The namespace; it goes when this is dropped.
pub(crate) struct Machine {
    namespace: String,
}

impl Machine {
    /// Makes one with eth0 and eth1, and has port `port` of its loopback lead to the host's.
    pub(crate) fn new(port: u16) -> Result<Self> {
        let machine = Self { namespace: format!("bapi{}", std::process::id()) };
        let name = &machine.namespace;
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        for (interface, address) in [("eth0", "192.16.193.2/24"), ("eth1", "172.16.193.2/16")] {
            // The other end is in the same namespace: nobody is on this network.
            ip(&format!("-n {name} link add {interface} type veth peer name far-{interface}"))?;
            ip(&format!("-n {name} link set far-{interface} up"))?;
            ip(&format!("-n {name} link set {interface} up"))?;
            ip(&format!("-n {name} addr add {address} dev {interface}"))?;
        }
        machine.relay(port)?;
        Ok(machine)
    }

    /// Takes connections in the namespace and makes them outside of it. Its threads live as long as the process.
    fn relay(&self, port: u16) -> Result<()> {
        let file = File::open(Path::new("/run/netns").join(&self.namespace))?;
        let (listening, heard) = mpsc::channel::<io::Result<()>>();
        let (accepted, connections) = mpsc::channel::<TcpStream>();
        thread::spawn(move || {
            // SAFETY: the descriptor is that of a namespace, and only this thread changes over.
            let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            let listener = if entered == 0 {
                TcpListener::bind(("127.0.0.1", port))
            } else {
                Err(io::Error::last_os_error())
            };
            match listener {
                Ok(listener) => {
                    let _ = listening.send(Ok(()));
                    for stream in listener.incoming().map_while(Result::ok) {
                        if accepted.send(stream).is_err() {
                            return;
                        }
                    }
                }
                Err(error) => drop(listening.send(Err(error))),
            }
        });
        thread::spawn(move || {
            for near in connections {
                // Nobody there: the other end finds its connection closed.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                    let (Ok(mut from), Ok(mut to)) = (from, to) else { continue };
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        heard.recv().context("the relay's thread ended")?.context("the relay cannot listen")
    }

    /// What the agent answers to `GET path`.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    /// What it answers to who shows a token.
    pub(crate) fn get_as(&self, path: &str, token: &str) -> Result<String> {
        self.ask(format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        ))
    }

    fn ask(&self, request: String) -> Result<String> {
        let file = File::open(Path::new("/run/netns").join(&self.namespace))?;
        let asking = thread::spawn(move || {
            // SAFETY: the descriptor is that of a namespace, and only this thread changes over.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut stream = TcpStream::connect("127.0.0.1:9740")?;
            stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        Ok(asking.join().map_err(|_| anyhow::anyhow!("the thread that asks panicked"))??)
    }

    /// The next VRRP advertisement that leaves by an interface, from its IPv4 header on.
    pub(crate) fn advertisement(&self, interface: &str) -> Result<Vec<u8>> {
        let file = File::open(Path::new("/run/netns").join(&self.namespace))?;
        // The other end, where it comes in.
        let interface = CString::new(format!("far-{interface}"))?;
        let listening = thread::spawn(move || -> io::Result<Vec<u8>> {
            // SAFETY: the descriptor is that of a namespace, and only this thread changes over.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let socket = packet_socket(&interface)?;
            let begin = Instant::now();
            let mut frame = vec![0; 2048];
            loop {
                // SAFETY: the buffer is as long as is said.
                let length =
                    unsafe { libc::read(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
                let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
                // VRRP is protocol 112.
                if length > 20 && frame[0] >> 4 == 4 && frame[9] == 112 {
                    frame.truncate(length);
                    return Ok(frame);
                }
                if begin.elapsed() > PATIENCE {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        });
        Ok(listening.join().map_err(|_| anyhow::anyhow!("the thread that listens panicked"))??)
    }

    /// The addresses of an interface.
    pub(crate) fn addresses(&self, interface: &str) -> Result<String> {
        ip(&format!("-n {} -brief addr show dev {interface}", self.namespace))
    }

    fn command(&self) -> Result<Command> {
        let own = std::env::current_exe()?;
        let folder = own.parent().and_then(Path::parent).context("no folder of programs")?;
        let program = folder.join("bascule-agent");
        ensure!(program.exists(), "{} is not there: cargo build -p bascule-agent", program.display());
        let mut command = Command::new("ip");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(["netns", "exec", &self.namespace]).arg(program).stdin(Stdio::null());
        Ok(command)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.namespace));
    }
}

/// The agent as a program; killed when dropped.
pub(crate) struct Agent {
    child: Child,
    directory: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts one, with its state in `directory`, the name of its log and more arguments.
    pub(crate) fn start(
        machine: &Machine,
        kubeconfig: &Path,
        director: &str,
        directory: &Path,
        (name, more): (&str, &[&str]),
    ) -> Result<Self> {
        std::fs::create_dir_all(directory.join("files"))?;
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let mut command = machine.command()?;
        command.arg("--kubeconfig").arg(kubeconfig);
        command.args(["--namespace", NAMESPACE, "--director", director, "--listen", "127.0.0.1:9740"]);
        command.args(["--run-dir", "run", "--state-dir", "state", "--allow-file", "files"]);
        command.args(more).current_dir(directory).stdout(file.try_clone()?).stderr(file);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        Ok(Self { child, directory: directory.to_owned(), log })
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `bascule-agent status -o json`.
    pub(crate) fn status(&self, machine: &Machine) -> Result<Value> {
        let mut command = machine.command()?;
        command.args(["status", "-o", "json", "--run-dir", "run"]).current_dir(&self.directory);
        let Output { status, stdout, stderr } = command.output()?;
        ensure!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        Ok(serde_json::from_slice(&stdout)?)
    }

    /// Another call of the program, beside it; its output.
    pub(crate) fn call(&self, machine: &Machine, arguments: &[&str]) -> Result<Output> {
        let mut command = machine.command()?;
        Ok(command.args(arguments).current_dir(&self.directory).output()?)
    }

    /// Its process id, which is that of `ip` until that has become the agent.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for it to end by itself; returns its exit code.
    pub(crate) fn ended(mut self) -> Result<i32> {
        self.wait()
    }

    fn wait(&mut self) -> Result<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return status.code().context("it was killed by a signal");
            }
            if begin.elapsed() > PATIENCE {
                bail!("it has not ended for {PATIENCE:?}\n{}", self.log());
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Tells it to end and waits for that; returns its exit code.
    pub(crate) fn terminate(mut self) -> Result<i32> {
        let pid = libc::pid_t::try_from(self.child.id())?;
        // SAFETY: it is our child and not waited for yet, so that nobody else has its id.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        self.wait()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
