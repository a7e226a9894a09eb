//! A change of scheduler loses no connection.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{Client, Command, Protocol, Service, ServiceId};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, binding},
    world::{Host, in_namespace, ip, rules, run, wait_until},
};

/// The queues of this thread's namespace.
const QUEUES: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

/// What happened to connections.
#[derive(Debug, Default)]
struct Tally {
    well: usize,
    refused: usize,
    /// Other errors: no answer in time.
    failed: Vec<String>,
    longest: Duration,
}

/// Opens connections one after another until told to stop.
struct Opener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

impl Opener {
    /// In the network namespace of the calling thread.
    fn start(mut open: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut tally = Tally::default();
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                match open() {
                    Ok(()) => tally.well += 1,
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => tally.refused += 1,
                    Err(error) => tally.failed.push(error.to_string()),
                }
                tally.longest = tally.longest.max(started.elapsed());
                // The machine may be emulated, and the agent has work to do.
                thread::sleep(Duration::from_millis(1));
            }
            tally
        });
        Self { stop, thread }
    }

    fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// One connection, ended with RST, so that ports do not run out.
fn tcp(target: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

/// One datagram and its answer, each from a port of its own.
fn udp(target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 8]).map(drop)
}

fn echo() {
    let socket = UdpSocket::bind("[::]:80").unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], peer);
        }
    });
}

/// A client outside, a server inside, both families.
fn network() -> (Host, Host) {
    let client = Host::new("client", "outside", "192.16.193.100/24", Some("192.16.193.1"));
    ip("address add 192.16.193.1/24 dev outside");
    ip("address add 192.16.193.30/32 dev lo");
    let server = Host::new("server", "inside", "172.16.193.10/16", Some("172.16.193.254"));
    ip("address add 172.16.193.254/16 dev inside");
    let v6 = |host: &Host, link: &str, own: &'static str, gateway: &'static str| {
        ip(&format!("address add {gateway}/64 dev {link} nodad"));
        host.on(move || {
            ip(&format!("address add {own}/64 dev eth0 nodad"));
            ip(&format!("-6 route add default via {gateway}"));
        });
    };
    v6(&client, "outside", "2001:db8::100", "2001:db8::1");
    v6(&server, "inside", "2001:db8:1::10", "2001:db8:1::fe");
    // Not on lo: IPv6 answers for an address only where it stands.
    ip("address add 2001:db8::30/128 dev outside nodad");
    server.on(echo);
    (client, server)
}

fn scheduled(spec: &VirtualServiceBindingSpec, scheduler: &str) -> VirtualServiceBindingSpec {
    let mut spec = spec.clone();
    spec.scheduler = serde_json::from_value(json!({"name": scheduler})).unwrap();
    spec
}

/// Changes the scheduler so often while connections are opened.
fn flip(agent: &mut Agent, spec: &VirtualServiceBindingSpec, times: usize, opener: Opener) -> Tally {
    for scheduler in ["wlc", "rr"].into_iter().cycle().take(times) {
        agent.put("web", Some(scheduled(spec, scheduler)));
        thread::sleep(Duration::from_millis(20));
    }
    opener.end()
}

fn assert_none_lost(what: &str, tally: &Tally) {
    eprintln!("{what}: {} connections, {} refused, longest {:?}", tally.well, tally.refused, tally.longest);
    assert_eq!((tally.refused, &tally.failed[..]), (0, &[][..]), "{what}: {tally:?}");
    assert!(tally.well > 0, "{what}: {tally:?}");
}

fn nothing_is_left() {
    assert!(!run("nft", "list tables").contains("bascule-pause"));
    let queues = fs::read_to_string(QUEUES).unwrap();
    assert_eq!(queues, "", "no queue");
}

/// The control: the same changes with nobody to hold anything back. How many are lost is the kernel's and the machine's to say.
fn flip_bare(id: ServiceId, times: usize, opener: Opener) -> Tally {
    let mut kernel = Client::connect().unwrap();
    for scheduler in ["wlc", "rr"].into_iter().cycle().take(times) {
        kernel.execute(&Command::SetService(Service::new(id, scheduler))).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    opener.end()
}

#[test]
fn no_connection_is_refused_while_the_scheduler_changes() {
    in_namespace(|| {
        let (client, _server) = network();
        let spec = binding(&["192.16.193.30"], 80, &["172.16.193.10"], json!({}));
        let mut agent = Agent::start([("web", spec.clone())]);
        let target: SocketAddr = "192.16.193.30:80".parse().unwrap();
        let opener = move || client.on(move || Opener::start(move || tcp(target)));
        let tally = flip(&mut agent, &spec, 20, opener());
        assert_none_lost("TCP, 20 changes", &tally);
        nothing_is_left();

        agent.stop();
        let id = ServiceId::Address { protocol: Protocol::Tcp, address: target.ip(), port: 80 };
        let tally = flip_bare(id, 20, opener());
        eprintln!(
            "the same without a pause: {} connections, {} refused, {} other failures, longest {:?}",
            tally.well,
            tally.refused,
            tally.failed.len(),
            tally.longest
        );
    });
}

/// Name, virtual address and real server, port, fields of the binding, how to open a connection, how many changes.
type Case = (&'static str, (&'static str, &'static str), u16, Value, fn(SocketAddr) -> io::Result<()>, usize);

#[test]
fn every_kind_of_service_is_held() {
    in_namespace(|| {
        let (client, server) = network();
        let client = Arc::new(client);
        let marked = |family: &str, address: &str| {
            let matched = json!({"addresses": [address], "ports": [{"protocol": "TCP", "port": 80}]});
            json!({"addresses": [], "ports": [], "fwmark": {"mark": 7, "families": [family], "match": matched}})
        };
        let datagrams = json!({"ports": [{"protocol": "UDP", "port": 80}]});
        let any_port = json!({"persistence": {"timeoutSeconds": 1, "ipv4Prefix": 32, "ipv6Prefix": 128},
            "realServers": [{"name": "srv1", "address": "172.16.193.10", "weight": 1,
                "forwarding": {"method": "Masquerade"}, "targetPorts": [0]}]});
        let (v4, v6) = (("192.16.193.30", "172.16.193.10"), ("2001:db8::30", "2001:db8:1::10"));
        let cases: [Case; 5] = [
            ("TCP over IPv6", v6, 80, json!({}), tcp, 6),
            // A datagram that is dropped is not sent again: none may be.
            ("UDP", v4, 80, datagrams, udp, 20),
            ("a mark", v4, 0, marked("IPv4", v4.0), tcp, 6),
            ("a mark over IPv6", v6, 0, marked("IPv6", v6.0), tcp, 6),
            ("every port", v4, 0, any_port, tcp, 6),
        ];
        for (what, (address, real), port, more, open, times) in cases {
            let spec = binding(&[address], port, &[real], more);
            let mut agent = Agent::start([("web", spec.clone())]);
            let target = SocketAddr::new(address.parse().unwrap(), 80);
            let answer = client.on(move || open(target));
            assert!(answer.is_ok(), "{what}: {answer:?} of {:?}, {:?}", rules(), agent.failures());
            let opener = client.on(move || Opener::start(move || open(target)));
            assert_none_lost(what, &flip(&mut agent, &spec, times, opener));
            nothing_is_left();
            agent.put("web", None);
            agent.stop();
        }
        drop(server);
    });
}

#[test]
fn the_directors_own_connections_are_held() {
    in_namespace(|| {
        let (_client, server) = network();
        let spec = binding(&["192.16.193.30"], 80, &["172.16.193.10"], json!({}));
        let mut agent = Agent::start([("web", spec.clone())]);
        // From an address that the server reaches through this machine.
        let target: SocketAddr = "192.16.193.30:80".parse().unwrap();
        wait_until("the service answers", || tcp(target).is_ok());
        let tally = flip(&mut agent, &spec, 6, Opener::start(move || tcp(target)));
        assert_none_lost("the director's own", &tally);
        nothing_is_left();
        drop(server);
    });
}

/// Another program's queue.
struct Queue(netlink_sys::Socket);

impl Queue {
    /// Binds queue 5.
    fn bind() -> Self {
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        let queue = Self(socket);
        // NFQNL_MSG_CONFIG with NFQA_CFG_CMD (bind) and NFQA_CFG_PARAMS (NFQNL_COPY_META).
        queue.send(2, &[(1, &[1, 0, 0, 0]), (2, &[0, 0, 0, 0, 1])]);
        queue
    }

    /// Lets the first packet go.
    fn accept(&self) {
        // NFQNL_MSG_VERDICT with NFQA_VERDICT_HDR: NF_ACCEPT, number 1.
        self.send(1, &[(2, &[0, 0, 0, 1, 0, 0, 0, 1])]);
    }

    /// How many packets wait in it.
    fn waiting() -> usize {
        let text = fs::read_to_string(QUEUES).unwrap();
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|words| words[0] == "5").unwrap()[2].parse().unwrap()
    }

    fn send(&self, kind: u16, attributes: &[(u16, &[u8])]) {
        let mut body = vec![0, 0, 0, 5];
        for (kind, value) in attributes {
            body.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend((3 << 8 | kind).to_ne_bytes());
        // NLM_F_REQUEST.
        message.extend(1u16.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        self.0.send_to(&message, &netlink_sys::SocketAddr::new(0, 0), 0).unwrap();
    }
}

#[test]
fn what_waits_in_somebody_elses_queue_stays_there() {
    in_namespace(|| {
        let spec = binding(&["192.16.193.30"], 80, &["172.16.193.10"], json!({}));
        let mut agent = Agent::start([("web", spec.clone())]);
        let other = Queue::bind();
        run("nft", "add table inet other");
        run("nft", "add chain inet other input { type filter hook input priority 0 ; }");
        run("nft", "add rule inet other input udp dport 9999 queue num 5");
        let receiver = UdpSocket::bind("127.0.0.1:9999").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"?", "127.0.0.1:9999").unwrap();
        wait_until("the datagram waits", || Queue::waiting() == 1);
        for scheduler in ["wlc", "rr"] {
            agent.put("web", Some(scheduled(&spec, scheduler)));
            assert_eq!(Queue::waiting(), 1, "it waits as before");
        }
        other.accept();
        receiver.recv(&mut [0; 8]).expect("it goes on");
        drop(other);
        run("nft", "delete table inet other");
        agent.put("web", Some(scheduled(&spec, "wlc")));
        nothing_is_left();
    });
}

#[test]
fn without_a_pause_the_change_is_made_all_the_same() {
    in_namespace(|| {
        // The table's name is taken: nothing can be held.
        run("nft", "add table inet bascule-pause");
        let spec = binding(&["192.16.193.30"], 80, &["172.16.193.10"], json!({}));
        let mut agent = Agent::start([("web", spec.clone())]);
        let changed = |agent: &mut Agent, scheduler: &str| {
            agent.put("web", Some(scheduled(&spec, scheduler)));
            assert!(rules().contains(&format!("-A -t 192.16.193.30:80 -s {scheduler}")));
            agent.has_nothing_to_do();
        };
        changed(&mut agent, "wlc");
        assert!(run("nft", "list tables").contains("bascule-pause"), "it is not ours to remove");
        run("nft", "delete table inet bascule-pause");
        changed(&mut agent, "rr");
        nothing_is_left();
    });
}
