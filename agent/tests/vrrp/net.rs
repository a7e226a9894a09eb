//! Machines: network namespaces on one or two common networks (bridges in a namespace of their own).

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bascule_agent::vrrp::{Handle, Options, Transition, VrrpStatus};
use bascule_crds::director_config::DirectorVrrpGroup;
use nix::sched::{CloneFlags, setns};

/// How long a condition may take to come true: generous, for emulated machines under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether these tests can run here; says so if not.
pub(crate) fn can_run() -> bool {
    let can = nix::unistd::geteuid().is_root()
        && Command::new("ip").args(["netns", "list"]).output().is_ok_and(|output| output.status.success());
    let required = std::env::var_os("BASCULE_KERNEL_TESTS").is_some_and(|value| value == "require");
    assert!(can || !required, "BASCULE_KERNEL_TESTS=require, but these tests need root and ip");
    if !can {
        eprintln!("not run here: needs root and ip");
    }
    can
}

/// Waits until it is so.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "within {} s it did not come true: {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A number that no other test has.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The networks `outside` (eth0) and `inside` (eth1).
pub(crate) struct Net {
    switch: String,
}

impl Net {
    pub(crate) fn new() -> Self {
        let switch = format!("bsw{}", number());
        ip(&format!("netns add {switch}"));
        for bridge in ["br0", "br1"] {
            ip(&format!("-n {switch} link add {bridge} type bridge mcast_snooping 0"));
            ip(&format!("-n {switch} link set {bridge} up"));
        }
        Self { switch }
    }

    /// The namespace of the switches br0 (outside) and br1 (inside).
    pub(crate) fn switch(&self) -> &str {
        &self.switch
    }

    /// A machine with an address on each network.
    pub(crate) fn machine(&self, host: u8) -> Machine {
        let namespace = format!("bma{}", number());
        ip(&format!("netns add {namespace}"));
        ip(&format!("-n {namespace} link set lo up"));
        for network in 0..2 {
            let port = format!("p{host}-{network}");
            ip(&format!(
                "-n {} link add {port} type veth peer name eth{network} netns {namespace}",
                self.switch
            ));
            ip(&format!("-n {} link set {port} master br{network} up", self.switch));
            let mac = format!("02:00:00:00:0{network}:{host:02x}");
            ip(&format!("-n {namespace} link set eth{network} address {mac} addrgenmode eui64"));
        }
        // No duplicate address detection: the link-local address must not keep a test waiting.
        in_namespace(&namespace, || {
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0");
            for network in 0..2 {
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/eth{network}/accept_dad"), "0");
            }
        });
        for (network, address) in [(0, format!("192.16.193.{host}/24")), (1, format!("172.16.193.{host}/16"))]
        {
            ip(&format!("-n {namespace} link set eth{network} up"));
            ip(&format!("-n {namespace} address add {address} dev eth{network}"));
        }
        let directory = tempfile::tempdir().unwrap();
        Machine { namespace, switch: self.switch.clone(), host, directory, stall: Arc::default() }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.switch]).status();
    }
}

/// Runs something in a network namespace, on a thread of its own.
pub(crate) fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(File::open(Path::new("/run/netns").join(namespace)).unwrap(), CloneFlags::CLONE_NEWNET)
                .unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// How long arming the guard takes.
const ARMING: Duration = Duration::from_millis(40);

/// A director.
pub(crate) struct Machine {
    pub(crate) namespace: String,
    switch: String,
    host: u8,
    directory: tempfile::TempDir,
    stall: Arc<Mutex<Duration>>,
}

impl Machine {
    /// The next take-over stands still for so long between its decision and what it does.
    pub(crate) fn stall_once(&self, time: Duration) {
        *self.stall.lock().unwrap() = time;
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Starts what speaks VRRP, without any group.
    pub(crate) fn start(&self) -> Speaker {
        self.start_with(None)
    }

    pub(crate) fn start_with(&self, heritage: Option<std::os::unix::net::UnixStream>) -> Speaker {
        let transitions: Arc<Mutex<Vec<Transition>>> = Arc::default();
        let noted = Arc::clone(&transitions);
        let armed: Arc<AtomicU32> = Arc::default();
        let counted = Arc::clone(&armed);
        let stall = Arc::clone(&self.stall);
        let options = Options {
            run_dir: self.run_dir(),
            state_dir: self.directory.path().join("state"),
            observer: Box::new(move |transition| noted.lock().unwrap().push(transition.clone())),
            yielding: None,
            // As long as a busy nf_tables takes: for that time nothing may depend on it that must not.
            arm: Some(Box::new(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                let stall = std::mem::take(&mut *stall.lock().unwrap());
                std::thread::sleep(ARMING.max(stall));
                Ok(())
            })),
            heritage,
            secrets: Arc::default(),
        };
        let handle = in_namespace(&self.namespace, || Handle::spawn(options).unwrap());
        Speaker { handle, transitions, armed }
    }

    /// Whether an address is on this machine.
    pub(crate) fn has(&self, address: &str) -> bool {
        ip(&format!("-n {} -o address show", self.namespace)).contains(&format!(" {address}/"))
    }

    /// Cuts or mends the cable of a network, on the switch's side.
    pub(crate) fn cable(&self, network: u32, up: bool) {
        let state = if up { "up" } else { "down" };
        ip(&format!("-n {} link set p{}-{network} {state}", self.switch, self.host));
    }

    /// Lets the switch swallow, without a word, what this machine sends and gets outside.
    pub(crate) fn silence(&self, silent: bool) {
        let state = if silent { "disabled" } else { "forwarding" };
        let port = format!("p{}-0", self.host);
        let output = Command::new("bridge")
            .args(["-n", &self.switch, "link", "set", "dev", &port, "state", state])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a program on this machine, which must succeed.
    pub(crate) fn run(&self, program: &[&str]) {
        let mut command = Command::new("ip");
        let output = command.args(["netns", "exec", &self.namespace]).args(program).output().unwrap();
        assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.namespace))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

/// What speaks VRRP on a machine.
pub(crate) struct Speaker {
    pub(crate) handle: Handle,
    pub(crate) transitions: Arc<Mutex<Vec<Transition>>>,
    /// How often the guard of young connections was armed.
    pub(crate) armed: Arc<AtomicU32>,
}

impl Speaker {
    pub(crate) fn status(&self) -> VrrpStatus {
        block(self.handle.status()).expect("the thread answers")
    }

    /// The state of a group, as a word.
    pub(crate) fn state(&self, group: &str) -> String {
        let status = self.status();
        let found = status.groups.iter().find(|one| one.group == group);
        found.map_or_else(|| "none".to_owned(), |found| format!("{:?}", found.state))
    }

    pub(crate) fn wait_for(&self, group: &str, state: &str) {
        eventually(&format!("{group} is {state}"), || (self.state(group) == state).then_some(()));
    }

    /// Waits until these are its transitions: they are told on another thread than the one that makes them.
    pub(crate) fn expect_history(&self, expected: &[&str]) {
        let until = Instant::now() + PATIENCE;
        while self.history() != expected && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.history(), expected);
    }

    /// The transitions so far, such as `Backup -> Active`.
    pub(crate) fn history(&self) -> Vec<String> {
        let transitions = self.transitions.lock().unwrap();
        transitions.iter().map(|one| format!("{:?} -> {:?}", one.from, one.to)).collect()
    }
}

pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A group over both networks: 192.16.193.30 outside, 172.16.193.253 inside, at 100 ms.
pub(crate) fn group(priority: u8, more: &str) -> DirectorVrrpGroup {
    let mut value: serde_json::Value = serde_json::json!({
        "name": "front",
        "priority": priority,
        "version": 3,
        "advertisementInterval": "100ms",
        "downIntervals": 3,
        "preempt": {"enabled": true, "delay": "0s"},
        "onAgentLoss": "Release",
        "gratuitousArp": {"repeatAfter": "0s"},
        "instances": [
            {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"]},
            {"name": "inside", "interface": "eth1", "virtualRouterId": 31, "addresses": ["172.16.193.253/16"]},
        ],
    });
    let more: serde_json::Value = serde_json::from_str(if more.is_empty() { "{}" } else { more }).unwrap();
    for (key, part) in more.as_object().unwrap() {
        value[key] = part.clone();
    }
    serde_json::from_value(value).unwrap()
}
