//! The networks that the tests play with, and what they do to them.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bascule_lab::run::Cancel;
use bascule_lab::scenario::{Fault, Topology};
use bascule_lab::world::{Exec, Node, Process, Spawn, World, WorldDir};

pub(crate) const TOPOLOGY: &str = r##"{
  "networks": [{"name": "outside"}, {"name": "inside", "mtu": 1400}],
  "nodes": [
    {"name": "ClientA", "links": [{"network": "outside", "interface": "enp0s3",
        "addresses": ["192.16.193.100/24", "2001:db8:1::100/64"]}],
     "routes": [{"to": "172.16.0.0/16", "via": "192.16.193.1"}, {"to": "2001:db8:2::/64", "via": "2001:db8:1::1"}]},
    {"name": "dir1", "links": [
        {"network": "outside", "interface": "enp0s3", "addresses": ["192.16.193.1/24",
            {"address": "192.16.193.30/32", "label": "enp0s3:30"}, "2001:db8:1::1/64"]},
        {"network": "inside", "interface": "enp0s8", "addresses": ["172.16.193.254/16", "2001:db8:2::254/64"]}],
     "sysctls": {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv4.conf.enp0s3.arp_ignore": "1"},
     "hosts": {"10.9.8.7": ["elsewhere"]},
     "files": {"/etc/ha.d/haresources": "dir1 172.16.193.30\n", "/usr/share/bascule-test/x": "#!/bin/sh\necho made\n"},
     "exec": ["echo booted >> /var/lib/boots", "ip -4 addr add 127.0.0.99/32 dev lo"],
     "agent": {"manifests": {"web.yaml": "kind: VirtualService\n"}}},
    {"name": "dir2", "links": [
        {"network": "outside", "interface": "enp0s3", "addresses": ["192.16.193.2/24"]},
        {"network": "inside", "interface": "enp0s8", "addresses": ["172.16.193.2/16"]}]},
    {"name": "srv1", "hostname": "SRV1", "links": [{"network": "inside", "interface": "enp0s3",
        "mac": "02:00:00:aa:bb:cc", "addresses": ["172.16.193.10/16", "2001:db8:2::10/64"]}],
     "routes": [{"to": "default", "via": "172.16.193.254"}, {"to": "default", "via": "2001:db8:2::254"}]}
  ]
}"##;

/// Why nothing can be tested here, said once.
pub(crate) fn not_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: building networks needs root");
    }
    !root
}

pub(crate) fn dir(folder: &std::path::Path) -> WorldDir {
    WorldDir {
        label: "test".into(),
        logs: folder.join("logs"),
        program: PathBuf::from(env!("CARGO_BIN_EXE_bascule-lab")),
        programs: BTreeMap::from([("again".to_owned(), PathBuf::from("/bin/echo"))]),
        cancel: Cancel::default(),
    }
}

pub(crate) fn topology() -> Topology {
    serde_json::from_str(TOPOLOGY).unwrap()
}

pub(crate) fn build() -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let world = World::build(&topology(), &dir(folder.path()), &|_| {}).unwrap();
    (world, folder)
}

pub(crate) fn shell(node: &Node, line: &str) -> String {
    node.exec(&Exec::shell(line)).unwrap().checked().unwrap().text()
}

/// One ping, answered within two seconds or not. (A busy machine is slow, not broken.)
pub(crate) fn pings(node: &Node, target: &str) -> bool {
    node.exec(&Exec::new(["ping", "-n", "-c", "1", "-W", "2", target])).unwrap().success()
}

/// That nothing is answered, in a time in which everything would be.
pub(crate) fn is_deaf(node: &Node, target: &str) -> bool {
    !node.exec(&Exec::new(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", target])).unwrap().success()
}

pub(crate) fn a_fault(yaml: &str) -> Fault {
    serde_json::from_str(yaml).unwrap()
}

pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not seen within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server in a node that greets and then keeps the connection.
pub(crate) fn serve(node: &Node) -> Process {
    let program = "use IO::Socket; $| = 1; my $s = IO::Socket::INET->new(Listen => 5, LocalPort => 80, ReuseAddr => 1) or die $@; \
                   print \"ready\\n\"; while (my $c = $s->accept) { print $c \"hello\\n\"; push @kept, $c }";
    let server = node.spawn(&Spawn::new("server", ["perl", "-e", program])).unwrap();
    server.wait_for_line("ready", Duration::from_secs(30)).unwrap();
    server
}

pub(crate) fn connect(node: &Node, address: &str) -> TcpStream {
    let target = SocketAddr::from((address.parse::<Ipv4Addr>().unwrap(), 80));
    let mut stream =
        node.in_netns(|| TcpStream::connect_timeout(&target, Duration::from_secs(20))).unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    stream
}
