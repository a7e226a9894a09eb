//! Real networks of namespaces on this machine's kernel: built, broken, healed, rebooted and removed. Needs root, veth, bridges and
//! nftables' bridge family; not IPVS.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bascule_lab::fault::{self, Restart};
use bascule_lab::scenario::{Fault, Topology};
use bascule_lab::world::inventory::Inventory;
use bascule_lab::world::{Event, Exec, Exit, Node, Spawn, Watched, World, WorldDir, janitor, terminal};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

const TOPOLOGY: &str = r##"{
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
fn not_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: building networks needs root");
    }
    !root
}

fn dir(folder: &std::path::Path) -> WorldDir {
    WorldDir {
        label: "test".into(),
        logs: folder.join("logs"),
        program: PathBuf::from(env!("CARGO_BIN_EXE_bascule-lab")),
        programs: BTreeMap::from([("again".to_owned(), PathBuf::from("/bin/echo"))]),
    }
}

fn topology() -> Topology {
    serde_json::from_str(TOPOLOGY).unwrap()
}

fn build() -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let world = World::build(&topology(), &dir(folder.path()), &|_| {}).unwrap();
    (world, folder)
}

fn shell(node: &Node, line: &str) -> String {
    node.exec(&Exec::shell(line)).unwrap().checked().unwrap().text()
}

/// One ping, answered within two seconds or not. (A busy machine is slow, not broken.)
fn pings(node: &Node, target: &str) -> bool {
    node.exec(&Exec::new(["ping", "-n", "-c", "1", "-W", "2", target])).unwrap().success()
}

/// That nothing is answered, in a time in which everything would be.
fn is_deaf(node: &Node, target: &str) -> bool {
    !node.exec(&Exec::new(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", target])).unwrap().success()
}

fn a_fault(yaml: &str) -> Fault {
    serde_json::from_str(yaml).unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not seen within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_world_is_as_described() {
    if not_root() {
        return;
    }
    let (world, folder) = build();
    let mut events = world.watch().unwrap();
    assert!(world.watch().is_none(), "taken once");
    let (client, dir1, srv1) =
        (world.node("ClientA").unwrap(), world.node("dir1").unwrap(), world.node("srv1").unwrap());
    assert!(world.node("nobody").unwrap_err().to_string().contains("ClientA, dir1, dir2, srv1"));

    // Across both networks, both families.
    assert!(
        pings(&client, "172.16.193.10") && pings(&client, "2001:db8:2::10") && pings(&srv1, "192.16.193.100")
    );

    // As `ip` shows it.
    let addresses = shell(&dir1, "ip -4 -o addr show dev enp0s3");
    assert!(
        addresses.contains("inet 192.16.193.1/24 brd 192.16.193.255 scope global enp0s3\\"),
        "{addresses}"
    );
    assert!(addresses.contains("inet 192.16.193.30/32 scope global enp0s3:30\\"), "{addresses}");
    assert!(shell(&srv1, "ip link show enp0s3").contains("link/ether 02:00:00:aa:bb:cc"));
    assert!(shell(&srv1, "ip link show enp0s3").contains("mtu 1400"));
    assert!(shell(&dir1, "ip link show enp0s8").contains("link/ether 02:00:00:00:02:02"));
    assert!(shell(&srv1, "ip route").contains("default via 172.16.193.254 dev enp0s3"));
    assert!(!shell(&srv1, "ip -6 addr").contains("tentative"));
    assert_eq!(
        shell(&dir1, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/enp0s3/arp_ignore"),
        "1\n1\n"
    );
    assert_eq!(shell(&srv1, "cat /proc/sys/net/ipv4/ip_forward"), "0\n");

    // A machine of its own.
    assert_eq!(shell(&srv1, "uname -n; cat /etc/hostname"), "SRV1\nSRV1\n");
    let hosts = shell(&dir1, "cat /etc/hosts");
    assert!(hosts.contains("10.9.8.7\telsewhere") && hosts.contains("172.16.193.10\tSRV1 srv1"), "{hosts}");
    assert!(pings(&dir1, "SRV1"));
    assert_eq!(shell(&dir1, "ls -A /run/netns /tmp 2>/dev/null; ls /run"), "/tmp:\nbascule-lab\nlock\n");
    assert_eq!(shell(&srv1, "ls -A /var/log /var/lib"), "/var/lib:\n\n/var/log:\n");
    assert_eq!(
        shell(
            &dir1,
            "cat /etc/bascule/web.yaml /etc/ha.d/haresources /var/lib/boots; /usr/share/bascule-test/x"
        ),
        "kind: VirtualService\ndir1 172.16.193.30\nbooted\nmade\n"
    );
    assert!(!std::path::Path::new("/usr/share/bascule-test").exists(), "a node's file is on the machine");
    assert!(shell(&srv1, "ls /sys/class/net").split_whitespace().eq(["enp0s3", "lo"]));
    assert_eq!(shell(&srv1, "ls /proc | grep -c '^[0-9]'").trim().parse::<u32>().unwrap() < 8, true);
    for line in ["touch /usr/x", "touch /boot/x", "touch /x", "touch /dev/x", "echo 1 > /etc/../bin/x"] {
        assert!(!srv1.exec(&Exec::shell(line)).unwrap().success(), "{line}");
    }
    assert_eq!(
        shell(
            &srv1,
            "echo x > /dev/null; touch /dev/shm/x /tmp/x /run/x; echo changed > /etc/motd; cat /etc/motd"
        ),
        "changed\n"
    );
    assert_eq!(
        shell(&dir1, "again one two; bascule-lab --version >/dev/null 2>&1; command -v bascule-lab"),
        "one two\n/run/bascule-lab/bin/bascule-lab\n"
    );

    // Frames as on a wire.
    let traffic = shell(&srv1, "cat /sys/class/net/enp0s3/gro_flush_timeout; ip -d link show enp0s3");
    assert!(traffic.contains("veth"), "{traffic}");

    // Commands are bounded in time and output.
    let slow = dir1.exec(&Exec::shell("echo begun; sleep 60").timeout(Duration::from_millis(300))).unwrap();
    assert!(slow.timed_out && !slow.success() && slow.text() == "begun\n");
    let much = dir1.exec(&Exec::shell("yes | head -c 300000; echo late >&2; exit 3").limit(1000)).unwrap();
    assert!(
        much.truncated
            && much.stdout.len() == 1000
            && much.status == Exit::Code(3)
            && much.error_text() == "late\n"
    );
    let fed = dir1.exec(&Exec::new(["tr", "a-z", "A-Z"]).stdin("shout").env("A", "b")).unwrap();
    assert_eq!(fed.text(), "SHOUT");
    // What a command leaves behind does not hold it up.
    let began = Instant::now();
    assert_eq!(shell(&dir1, "sleep 30 & echo gone"), "gone\n");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(dir1.exec(&Exec::new(["no-such-program"])).unwrap_err().to_string().contains("no-such-program"));
    assert!(dir1.exec(&Exec::shell("kill -9 $$")).unwrap().status == Exit::Signal(9));

    // Files.
    dir1.write_file("/etc/bascule/deep/er.yaml", "x").unwrap();
    assert_eq!(dir1.read_file("/etc/bascule/deep/er.yaml").unwrap(), b"x");
    dir1.remove_file("/etc/bascule/deep/er.yaml").unwrap();
    assert!(dir1.read_file("/etc/bascule/deep/er.yaml").unwrap_err().to_string().contains("dir1"));
    assert!(dir1.write_file("etc/x", "x").is_err());

    // Processes that go on.
    let process = dir1
        .spawn(&Spawn::new(
            "talker",
            ["sh", "-c", "echo ready; trap 'echo bye; exit 4' TERM; while :; do sleep 0.05; done"],
        ))
        .unwrap();
    assert_eq!(process.wait_for_line("ready", Duration::from_secs(20)).unwrap(), "ready");
    assert!(process.alive() && process.pid() > 1 && process.wait(Duration::from_millis(20)).is_none());
    assert!(dir1.spawn(&Spawn::new("talker", ["true"])).unwrap_err().to_string().contains("already"));
    assert_eq!(process.stop(Duration::from_secs(10)).unwrap(), Exit::Code(4));
    assert_eq!(std::fs::read_to_string(folder.path().join("logs/dir1/talker.log")).unwrap(), "ready\nbye\n");
    let error = process.wait_for_line("never", Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("exit code 4") && error.contains("bye"), "{error}");

    // In its network, from here.
    let names = dir1
        .in_netns(|| nix::ifaddrs::getifaddrs().unwrap().map(|one| one.interface_name).collect::<Vec<_>>());
    assert!(names.unwrap().contains(&"enp0s8".to_owned()));

    // With a terminal, from another process: here, by the run's identifier.
    let run = janitor::runs().into_iter().find(|run| run.id == world.id()).unwrap();
    assert_eq!(run.nodes, ["ClientA", "dir1", "dir2", "srv1"]);
    let argv = ["sh", "-c", "test -t 0 && stty size && tty && read line && echo got $line && exit 7"]
        .map(String::from);
    let session = terminal::open(&run.id, "dir1", &argv, 100, 30).unwrap();
    let mut master = std::fs::File::from(session.master().try_clone_to_owned().unwrap());
    master.write_all(b"a word\n").unwrap();
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = master.read(&mut buffer) {
        said.extend_from_slice(&buffer[..length]);
    }
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("30 100") && said.contains("/dev/pts/") && said.contains("got a word"), "{said}");
    assert_eq!(session.process().wait(Duration::from_secs(10)), Some(Exit::Code(7)));
    assert!(terminal::open("no-run", "dir1", &argv, 80, 24).is_err());

    // Watched: what was there, what comes and goes.
    shell(&dir1, "ip addr add 10.0.0.1/8 dev enp0s8; ip addr del 10.0.0.1/8 dev enp0s8");
    let mut seen: Vec<Watched> = Vec::new();
    until("the address has gone", || true);
    let deadline = Instant::now() + Duration::from_secs(20);
    let ten: std::net::IpAddr = "10.0.0.1".parse().unwrap();
    loop {
        while let Ok(event) = events.try_recv() {
            seen.push(event);
        }
        let gone = |event: &Watched| {
            matches!(&event.event, Event::AddressRemoved { address, gone: false, interface, .. }
                if *address == ten && interface == "enp0s8")
        };
        if seen.iter().any(gone) {
            break;
        }
        assert!(Instant::now() < deadline, "{seen:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let labelled = |event: &Watched| {
        event.node == "dir1"
            && matches!(&event.event, Event::AddressAdded { label: Some(label), prefix: 32, .. } if label == "enp0s3:30")
    };
    assert!(seen.iter().any(labelled), "{seen:?}");
    assert!(seen.windows(2).all(|two| two[0].node != two[1].node || two[0].at <= two[1].at));
    world.tear_down().unwrap();
    world.tear_down().unwrap();
    assert!(!dir1.is_up() && dir1.exec(&Exec::shell("true")).unwrap_err().to_string().contains("is off"));
}

/// A server in a node that greets and then keeps the connection.
fn serve(node: &Node) -> bascule_lab::world::Process {
    let program = "use IO::Socket; $| = 1; my $s = IO::Socket::INET->new(Listen => 5, LocalPort => 80, ReuseAddr => 1) or die $@; \
                   print \"ready\\n\"; while (my $c = $s->accept) { print $c \"hello\\n\"; push @kept, $c }";
    let server = node.spawn(&Spawn::new("server", ["perl", "-e", program])).unwrap();
    server.wait_for_line("ready", Duration::from_secs(30)).unwrap();
    server
}

fn connect(node: &Node, address: &str) -> TcpStream {
    let target = SocketAddr::from((address.parse::<Ipv4Addr>().unwrap(), 80));
    let mut stream =
        node.in_netns(|| TcpStream::connect_timeout(&target, Duration::from_secs(20))).unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    stream
}

#[test]
fn every_fault_takes_effect_and_heals() {
    if not_root() {
        return;
    }
    let (world, _folder) = build();
    let (client, dir1, dir2, srv1) = (
        world.node("ClientA").unwrap(),
        world.node("dir1").unwrap(),
        world.node("dir2").unwrap(),
        world.node("srv1").unwrap(),
    );
    let check = |text: &str, broken: &dyn Fn(&str)| {
        let fault = a_fault(text);
        let injected = fault::inject(&world, &fault).unwrap();
        assert!(injected.at <= injected.done && !injected.proof.is_empty());
        broken(&injected.proof);
        // Twice is an error and changes nothing.
        assert!(fault::inject(&world, &fault).is_err(), "{text} twice");
        let healed = fault::heal(&world, &fault).unwrap();
        assert!(healed.at >= injected.done && healed.restart == Restart::Nothing);
        assert!(pings(&client, "172.16.193.10"), "after {text}");
        assert!(pings(&client, "192.16.193.2") && pings(&srv1, "172.16.193.2"), "after {text}");
        assert!(pings(&client, "2001:db8:2::10"), "after {text}");
    };
    check(r#"{"adminDown": {"node": "dir1", "interface": "enp0s8"}}"#, &|_| {
        assert!(!shell(&dir1, "ip link show enp0s8").contains("UP"));
        assert!(is_deaf(&client, "172.16.193.10"));
    });
    // What heals it brings back what the kernel threw away.
    assert!(shell(&dir1, "ip -6 addr show enp0s8").contains("2001:db8:2::254/64"));
    check(r#"{"adminDown": {"node": "srv1", "interface": "enp0s3"}}"#, &|_| {
        assert!(!shell(&srv1, "ip route").contains("default"));
    });
    check(r#"{"carrierLost": {"node": "srv1", "interface": "enp0s3"}}"#, &|_| {
        assert_eq!(shell(&srv1, "cat /sys/class/net/enp0s3/carrier"), "0\n");
        assert!(shell(&srv1, "ip link show enp0s3").contains("NO-CARRIER,BROADCAST,MULTICAST,UP"));
        assert!(is_deaf(&client, "172.16.193.10"));
    });
    let carrier = || shell(&srv1, "cat /sys/class/net/enp0s3/carrier");
    let count = |node: &Node, what: &str| -> u64 {
        shell(node, &format!("cat /sys/class/net/enp0s3/statistics/{what}")).trim().parse().unwrap()
    };
    check(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3"}}"#, &|_| {
        assert_eq!(carrier(), "1\n");
        assert!(is_deaf(&client, "172.16.193.10"));
    });
    check(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3", "direction": "in"}}"#, &|_| {
        let before = count(&srv1, "rx_packets");
        assert!(is_deaf(&client, "172.16.193.10"));
        assert_eq!(count(&srv1, "rx_packets"), before, "nothing comes in");
    });
    check(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3", "direction": "out"}}"#, &|_| {
        let before = count(&srv1, "rx_packets");
        assert!(is_deaf(&client, "172.16.193.10"));
        assert!(count(&srv1, "rx_packets") > before, "requests still come in");
    });
    check(r#"{"partition": {"network": "outside", "groups": [["ClientA", "dir1"], ["dir2"]]}}"#, &|proof| {
        assert!(proof.contains("4 of 4"), "{proof}");
        assert!(is_deaf(&client, "192.16.193.2") && is_deaf(&dir2, "192.16.193.1"));
        assert!(pings(&client, "192.16.193.1"), "inside a group frames pass");
        assert!(pings(&srv1, "172.16.193.2"), "another network is not touched");
    });
    check(r#"{"freezeNode": {"node": "srv1"}}"#, &|_| {
        assert!(is_deaf(&client, "172.16.193.10"));
        assert!(srv1.exec(&Exec::shell("true")).unwrap_err().to_string().contains("frozen"));
        let states: Vec<_> = srv1.processes().into_iter().map(|process| process.state).collect();
        assert!(!states.is_empty());
    });

    // The agent, here a clock: it stands still, and its node forwards on.
    let clock = "while :; do date +%s%N > /run/tick; sleep 0.02; done";
    let agent = dir1.spawn(&Spawn::new(fault::AGENT, ["sh", "-c", clock])).unwrap();
    let tick = || dir1.read_file("/run/tick").unwrap_or_default();
    until("the agent runs", || !tick().is_empty());
    check(r#"{"freezeAgent": {"node": "dir1"}}"#, &|_| {
        let before = tick();
        assert!(pings(&client, "172.16.193.10"), "the kernel lives on");
        assert_eq!(tick(), before);
    });
    let before = tick();
    until("the agent runs again", || tick() != before);
    let kill_agent = a_fault(r#"{"killAgent": {"node": "dir1"}}"#);
    fault::inject(&world, &kill_agent).unwrap();
    assert_eq!(agent.exit(), Some(Exit::Signal(9)));
    assert!(fault::inject(&world, &kill_agent).is_err());
    assert_eq!(fault::heal(&world, &kill_agent).unwrap().restart, Restart::Agent { node: "dir1".into() });
    dir1.spawn(&Spawn::new(fault::AGENT, ["sh", "-c", clock])).unwrap();
    assert!(fault::heal(&world, &kill_agent).is_err(), "it runs");

    serve(&srv1);
    let stop = a_fault(r#"{"stopService": {"node": "srv1", "service": "server"}}"#);
    fault::inject(&world, &stop).unwrap();
    assert!(fault::inject(&world, &stop).is_err());
    let restart = Restart::Service { node: "srv1".into(), service: "server".into() };
    assert_eq!(fault::heal(&world, &stop).unwrap().restart, restart);

    // Two at once: the first heal does not end the second.
    let both = [
        a_fault(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3"}}"#),
        a_fault(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3", "direction": "in"}}"#),
    ];
    for fault in &both {
        fault::inject(&world, fault).unwrap();
    }
    let healed = fault::heal(&world, &both[0]).unwrap();
    assert!(healed.proof.contains("another fault"), "{}", healed.proof);
    assert!(is_deaf(&client, "172.16.193.10"));
    fault::heal(&world, &both[1]).unwrap();
    assert!(pings(&client, "172.16.193.10"));
}

#[test]
fn a_fault_that_cannot_take_effect_is_an_error() {
    if not_root() {
        return;
    }
    let (world, _folder) = build();
    let refused = |text: &str, why: &str| {
        let error = fault::inject(&world, &a_fault(text)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("did not take effect"), "{text}: {error}");
    };
    refused(r#"{"adminDown": {"node": "nobody", "interface": "enp0s3"}}"#, "no node nobody");
    refused(r#"{"adminDown": {"node": "dir1", "interface": "eth9"}}"#, "it has enp0s3, enp0s8");
    refused(r#"{"carrierLost": {"node": "dir1", "interface": "eth9"}}"#, "no interface eth9");
    refused(r#"{"freezeAgent": {"node": "dir1"}}"#, "nothing called agent");
    refused(r#"{"killAgent": {"node": "dir1"}}"#, "nothing called agent");
    refused(r#"{"stopService": {"node": "srv1", "service": "apache2"}}"#, "nothing called apache2");
    refused(r#"{"partition": {"network": "outside", "groups": [["ClientA"], ["srv1"]]}}"#, "srv1 is not on");
    refused(r#"{"partition": {"network": "outside", "groups": [["ClientA"], ["ClientA"]]}}"#, "two groups");

    // An interface that is down already: nothing could be seen to change.
    let srv1 = world.node("srv1").unwrap();
    shell(&srv1, "ip link set enp0s3 down");
    refused(r#"{"adminDown": {"node": "srv1", "interface": "enp0s3"}}"#, "down already");
    refused(r#"{"carrierLost": {"node": "srv1", "interface": "enp0s3"}}"#, "is down");
    refused(r#"{"blackhole": {"node": "srv1", "interface": "enp0s3"}}"#, "no frame could be seen");
    refused(r#"{"partition": {"network": "inside", "groups": [["srv1"], ["dir2"]]}}"#, "no two nodes");
    // A program that ignores the signal.
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let process = srv1.spawn(&Spawn::new("deaf", ["sh", "-c", deaf])).unwrap();
    process.wait_for_line("ready", Duration::from_secs(20)).unwrap();
    refused(r#"{"stopService": {"node": "srv1", "service": "deaf"}}"#, "has not ended");
    shell(&srv1, "ip link set enp0s3 up");

    // Nothing to heal.
    for text in [
        r#"{"blackhole": {"node": "dir2", "interface": "enp0s3"}}"#,
        r#"{"carrierLost": {"node": "dir2", "interface": "enp0s3"}}"#,
        r#"{"partition": {"network": "outside", "groups": [["ClientA"], ["dir1"]]}}"#,
        r#"{"freezeNode": {"node": "dir2"}}"#,
        r#"{"crash": {"node": "dir2"}}"#,
        r#"{"reboot": {"node": "dir2"}}"#,
    ] {
        assert!(fault::heal(&world, &a_fault(text)).is_err(), "{text}");
    }
    fault::inject(&world, &a_fault(r#"{"crash": {"node": "dir2"}}"#)).unwrap();
    for kind in ["crash", "reboot", "freezeNode", "killAgent"] {
        refused(&format!(r#"{{"{kind}": {{"node": "dir2"}}}}"#), "is off");
    }
    refused(r#"{"adminDown": {"node": "dir2", "interface": "enp0s3"}}"#, "is off");
    refused(r#"{"blackhole": {"node": "dir2", "interface": "enp0s3"}}"#, "no frame could be seen");

    // A rule that somebody takes away from under a fault: it is not in effect, and says so.
    world
        .switch()
        .exec(&Exec::new(["nft", "flush", "chain", "bridge", "bascule", "entering"]))
        .unwrap()
        .checked()
        .unwrap();
    refused(
        r#"{"blackhole": {"node": "dir1", "interface": "enp0s3", "direction": "out"}}"#,
        "was not swallowed",
    );
}

#[test]
fn a_crash_is_silent_and_a_boot_brings_everything_back() {
    if not_root() {
        return;
    }
    let (world, _folder) = build();
    let mut events = world.watch().unwrap();
    let (client, dir1, srv1) =
        (world.node("ClientA").unwrap(), world.node("dir1").unwrap(), world.node("srv1").unwrap());

    // A process that is killed on a living machine ends its connections: this is what a crash must not do.
    let server = serve(&srv1);
    let mut stream = connect(&client, "172.16.193.10");
    server.signal(Signal::SIGKILL).unwrap();
    assert_eq!(server.wait(Duration::from_secs(20)), Some(Exit::Signal(9)));
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "a FIN or RST comes");

    serve(&srv1);
    let mut stream = connect(&client, "172.16.193.10");
    shell(
        &srv1,
        "echo kept > /var/lib/kept; echo volatile > /run/volatile; echo edited > /etc/motd; echo line > /var/log/line",
    );
    let (mac, before) =
        (srv1.mac("enp0s3"), shell(&srv1, "ip -o addr show dev enp0s3; ip route; ip -6 route"));
    let crash = a_fault(r#"{"crash": {"node": "srv1"}}"#);
    let injected = fault::inject(&world, &crash).unwrap();
    assert!(!srv1.is_up() && srv1.processes().is_empty() && srv1.process("server").is_none());
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "neither FIN nor RST: {error}");
    assert!(is_deaf(&client, "172.16.193.10"));
    assert!(pings(&client, "172.16.193.254"), "the others live");

    // The disk of a machine that is off.
    assert_eq!(srv1.read_file("/var/lib/kept").unwrap(), b"kept\n");
    assert!(srv1.read_file("/run/volatile").unwrap_err().to_string().contains("not on its disk"));
    srv1.write_file("/etc/bascule/offline.yaml", "written while off\n").unwrap();

    let healed = fault::heal(&world, &crash).unwrap();
    assert_eq!(healed.restart, Restart::Everything { node: "srv1".into() });
    assert!(pings(&client, "172.16.193.10") && pings(&client, "2001:db8:2::10"));
    assert_eq!(srv1.mac("enp0s3"), mac);
    let strip = |text: &str| -> Vec<String> {
        // Numbers of interfaces are the kernel's.
        text.lines().map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest).to_owned()).collect()
    };
    assert_eq!(strip(&shell(&srv1, "ip -o addr show dev enp0s3; ip route; ip -6 route")), strip(&before));
    assert_eq!(
        shell(
            &srv1,
            "cat /var/lib/kept /etc/motd /var/log/line /etc/bascule/offline.yaml; ls /run; uname -n"
        ),
        "kept\nedited\nline\nwritten while off\nbascule-lab\nlock\nSRV1\n"
    );
    // After the boot the old connection is unknown there, and that is said.
    stream.write_all(b"still there?").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    // A reboot at once, of a machine with start commands and a pulled cable.
    fault::inject(&world, &a_fault(r#"{"carrierLost": {"node": "dir1", "interface": "enp0s3"}}"#)).unwrap();
    let reboot = fault::inject(&world, &a_fault(r#"{"reboot": {"node": "dir1"}}"#)).unwrap();
    assert_eq!(reboot.restart, Restart::Everything { node: "dir1".into() });
    assert_eq!(
        shell(&dir1, "cat /var/lib/boots; ip -4 -o addr show lo | grep -c 127.0.0.99"),
        "booted\nbooted\n1\n"
    );
    assert_eq!(shell(&dir1, "cat /sys/class/net/enp0s3/carrier /proc/sys/net/ipv4/ip_forward"), "0\n1\n");
    fault::heal(&world, &a_fault(r#"{"carrierLost": {"node": "dir1", "interface": "enp0s3"}}"#)).unwrap();
    assert!(pings(&client, "172.16.193.10"));

    // Frozen when the power goes: nothing of it is left after the boot.
    fault::inject(&world, &a_fault(r#"{"freezeNode": {"node": "dir1"}}"#)).unwrap();
    fault::inject(&world, &a_fault(r#"{"reboot": {"node": "dir1"}}"#)).unwrap();
    assert!(pings(&client, "172.16.193.10"));

    // The watch saw the addresses go when the frames were cut, and come back.
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    let ten: std::net::IpAddr = "172.16.193.10".parse().unwrap();
    let about: Vec<_> = seen
        .iter()
        .filter_map(|watched| match &watched.event {
            Event::AddressAdded { address, .. } if *address == ten => Some((watched.at, true)),
            Event::AddressRemoved { address, gone: true, .. } if *address == ten => Some((watched.at, false)),
            _ => None,
        })
        .collect();
    assert_eq!(about.iter().map(|(_, added)| *added).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(about[1].0, injected.done);
    assert!(about[2].0 > healed.at && about[2].0 < healed.done);
}

#[test]
fn what_cannot_be_built_says_why_and_leaves_nothing() {
    if not_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = |path: &std::path::Path| WorldDir { label: "refused".into(), ..dir(path) };
    let refused = |change: &dyn Fn(&mut serde_json::Value), why: &str| {
        let mut value: serde_json::Value = serde_json::from_str(TOPOLOGY).unwrap();
        change(&mut value);
        let topology: Topology = serde_json::from_value(value).unwrap();
        let Err(error) = World::build(&topology, &dir(folder.path()), &|_| {}) else {
            panic!("{why} was built")
        };
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(
        &|value| value["nodes"][1]["exec"] = serde_json::json!(["echo out; echo wrong >&2; exit 5"]),
        "exit code 5: out / wrong",
    );
    refused(
        &|value| value["nodes"][1]["sysctls"]["kernel.panic"] = "1".into(),
        "kernel.panic is not a parameter of a network",
    );
    refused(&|value| value["nodes"][1]["sysctls"]["net.ipv4.nonsense"] = "1".into(), "net.ipv4.nonsense");
    refused(&|value| value["nodes"][0]["links"][0]["network"] = "nowhere".into(), "no network nowhere");
    refused(
        &|value| value["nodes"][0]["routes"][0]["via"] = "10.99.99.99".into(),
        "ClientA: adding the route",
    );
    refused(&|value| value["nodes"][1]["files"]["/top"] = "x".into(), "/top");
    let mut other = dir(folder.path());
    other.program = "/bin/true".into();
    let error = World::build(&topology(), &other, &|_| {}).err().unwrap().to_string();
    assert!(error.contains("/bin/true"), "{error}");
    let mine = format!("{}-", std::process::id());
    // Other tests of this process have runs of their own.
    let left: Vec<_> = janitor::runs()
        .into_iter()
        .filter(|run| run.id.starts_with(&mine) && run.label == "refused")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

// ---- Gone afterwards, however it ends ----

const ROLE: &str = "BASCULE_LAB_TEST_ROLE";
const THIS: &str = "nothing_is_left_however_it_ends";

/// Plays three parts, as three processes of this same test: the test; an inspector in namespaces of its own, where nobody else makes
/// namespaces, mounts or processes while it compares; and the holder of a world, which is ended.
#[test]
fn nothing_is_left_however_it_ends() {
    if not_root() {
        return;
    }
    match std::env::var(ROLE).as_deref() {
        Ok("inspector") => inspect(),
        Ok("holder") => hold(),
        _ => {
            // A group of its own too, where that is possible, and an empty /run.
            let script = r#"
                G=$(awk '/ - cgroup2 / {print $5; exit}' /proc/self/mountinfo)
                own="$G/bascule-test-$$"
                inside='mount -t tmpfs tmpfs /run && if [ -n "$0" ]; then mount --bind "$1" "$0"; fi && shift && exec "$@"'
                if [ -z "$G" ] || ! mkdir "$own" 2>/dev/null; then G= own=none; fi
                unshare --mount --net --pid --fork --mount-proc sh -c "$inside" "$G" "$own" "$@"
                status=$?
                [ -z "$G" ] || rmdir "$own"
                exit $status"#;
            let status = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", THIS, "--nocapture", "--test-threads=1"])
                .env(ROLE, "inspector")
                .status()
                .unwrap();
            assert!(status.success(), "the inspector found something");
        }
    }
}

struct Holder {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--nocapture", "--test-threads=1"])
            .env(ROLE, "holder")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Self { child, output };
        holder.line("built");
        holder
    }

    fn line(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "the holder ended without saying {wanted}"
            );
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

fn inspect() {
    let before = Inventory::take();
    assert!(before.runs.is_empty());
    let nothing_left = |how: &str| {
        // Processes that were killed are gone when their parent has collected them.
        until(how, || {
            reap();
            Inventory::take().beyond(&before).is_empty()
        });
        assert_eq!(Inventory::take(), before, "{how}");
    };
    let there = || {
        let more = Inventory::take().beyond(&before);
        for kind in
            ["namespace net:", "namespace mnt:", "namespace pid:", "namespace uts:", "process ", "run "]
        {
            assert!(more.iter().any(|line| line.starts_with(kind)), "{kind} among {more:?}");
        }
        assert!(!more.iter().any(|line| line.starts_with("link ") || line.starts_with("mount ")), "{more:?}");
    };

    for (how, signal) in [("Ctrl-C", Signal::SIGINT), ("SIGTERM", Signal::SIGTERM)] {
        let mut holder = Holder::start();
        there();
        // While it lives, a sweep leaves it alone.
        assert!(janitor::sweep().unwrap().is_empty());
        assert_eq!(janitor::runs().len(), 1);
        holder.signal(signal);
        holder.line("torn down");
        assert!(holder.child.wait().unwrap().success());
        nothing_left(how);
    }

    // Killed, in the middle of a frozen node and a process that will not listen.
    let mut holder = Holder::start();
    there();
    let run = janitor::runs().remove(0);
    holder.signal(Signal::SIGKILL);
    holder.child.wait().unwrap();
    // All processes die with it, without any sweep.
    until("the processes of a killed lab end", || {
        reap();
        !Inventory::take()
            .beyond(&before)
            .iter()
            .any(|line| line.starts_with("process ") || line.starts_with("namespace "))
    });
    assert!(!janitor::runs().remove(0).alive);
    assert_eq!(janitor::sweep().unwrap(), [run.id]);
    nothing_left("SIGKILL and a sweep");
    assert!(janitor::sweep().unwrap().is_empty(), "again is fine");

    // Killed while it builds.
    for milliseconds in [1, 20, 60, 150, 400] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--test-threads=1"])
            .env(ROLE, "holder")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        janitor::sweep().unwrap();
        nothing_left("SIGKILL while it builds");
    }
    // What is not a registered run is not touched, except what is left of a registration.
    std::fs::create_dir_all("/run/bascule-lab").unwrap();
    std::fs::write("/run/bascule-lab/somebody-elses-file", "x").unwrap();
    janitor::sweep().unwrap();
    assert!(std::fs::remove_file("/run/bascule-lab/somebody-elses-file").is_ok());
    std::fs::remove_dir("/run/bascule-lab").unwrap();
    println!("inspected");
}

/// Process 1 of these namespaces inherits every orphan; this process is it, or its child is collected by the shell that is.
fn reap() {
    while let Ok(status) = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
        if status == nix::sys::wait::WaitStatus::StillAlive {
            return;
        }
    }
}

static ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: i32) {
    ENDED.store(true, Ordering::SeqCst);
}

fn hold() {
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores into an atomic.
        unsafe { sigaction(signal, &action) }.unwrap();
    }
    let (world, _folder) = build();
    let srv1 = world.node("srv1").unwrap();
    srv1.spawn(&Spawn::new("deaf", ["sh", "-c", "trap '' TERM INT; sleep 1000 & while :; do sleep 1; done"]))
        .unwrap();
    fault::inject(&world, &a_fault(r#"{"freezeNode": {"node": "srv1"}}"#)).unwrap();
    fault::inject(&world, &a_fault(r#"{"crash": {"node": "dir2"}}"#)).unwrap();
    println!("built");
    while !ENDED.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    world.tear_down().unwrap();
    println!("torn down");
}
