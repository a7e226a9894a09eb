//! What is built is as described; what cannot be built says why.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bascule_lab::scenario::Topology;
use bascule_lab::world::{Event, Exec, Exit, Spawn, Watched, World, WorldDir, janitor, terminal};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::common::{TOPOLOGY, build, dir, not_root, pings, shell, topology, until};

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
    assert!(shell(&srv1, "ls /proc | grep -c '^[0-9]'").trim().parse::<u32>().unwrap() < 8);
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

    // What was there before the kernel's defaults were set has them too: `lo` has -1 otherwise.
    assert_eq!(
        shell(&srv1, "cat /proc/sys/net/ipv6/conf/lo/accept_dad /proc/sys/net/ipv4/conf/lo/rp_filter"),
        "0\n0\n"
    );
    // Everybody can ask for IPv6 neighbours from the first moment on.
    for node in world.nodes() {
        for interface in node.interfaces() {
            let line = format!("ip -6 -o address show dev {interface} scope link -tentative | grep -c fe80:");
            assert_eq!(shell(&node, &line), "1\n", "{} {interface}", node.name());
        }
    }

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

const EXEC: &str = "BASCULE_LAB_TEST_EXEC";

/// `bascule-lab exec` is another process than the one that owns the world: here, this test again.
#[test]
fn a_command_comes_from_another_process() {
    const THIS: &str = "built::a_command_comes_from_another_process";
    if not_root() {
        return;
    }
    if let Ok(run) = std::env::var(EXEC) {
        let argv: Vec<String> =
            std::env::var("BASCULE_LAB_TEST_ARGV").unwrap().split('|').map(Into::into).collect();
        std::process::exit(terminal::exec(&run, "srv1", &argv).unwrap());
    }
    // What the lab's caller ignores (in the background of a script: Ctrl-C) commands of a node do not. Nobody here waits for this one.
    // SAFETY: no handler is set.
    unsafe { signal(Signal::SIGUSR2, SigHandler::SigIgn) }.unwrap();
    let (world, _folder) = build();
    let srv1 = world.node("srv1").unwrap();
    let ignored = shell(&srv1, "sed -n 's/^SigIgn:[[:space:]]*//p' /proc/self/status");
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored & 1 << (Signal::SIGUSR2 as i32 - 1), 0, "{ignored:x}");
    let command = |argv: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", THIS, "--nocapture", "--quiet"]);
        command.env(EXEC, world.id()).env("BASCULE_LAB_TEST_ARGV", argv);
        command
    };
    // Without a terminal: files as they are, its exit code, a signal as a shell says it.
    let mut child = command("sh|-c|tr a-z A-Z; uname -n; echo wrong >&2; exit 7")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"shout\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("SHOUT\nSRV1\n"), "{output:?}");
    assert_eq!((output.stderr.as_slice(), output.status.code()), (&b"wrong\n"[..], Some(7)));
    assert_eq!(command("sh|-c|kill -15 $$").status().unwrap().code(), Some(143));

    // With one: what is typed arrives, Ctrl-C is the command's, the terminal is put back.
    let pty = nix::pty::openpty(None, None).unwrap();
    let before = nix::sys::termios::tcgetattr(&pty.slave).unwrap();
    let copy = |fd: &OwnedFd| Stdio::from(fd.as_fd().try_clone_to_owned().unwrap());
    let mut child =
        command("sh|-c|trap 'echo interrupted; exit 9' INT; echo begun; while :; do sleep 0.05; done")
            .stdin(copy(&pty.slave))
            .stdout(copy(&pty.slave))
            .stderr(copy(&pty.slave))
            .spawn()
            .unwrap();
    let mut master = std::fs::File::from(pty.master);
    let mut said = String::new();
    let mut buffer = [0; 1024];
    let mut hear = |master: &mut std::fs::File, wanted: &str| {
        let until = Instant::now() + Duration::from_secs(60);
        while !said.contains(wanted) {
            let left = u16::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap();
            let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
            assert_ne!(poll(&mut fds, left).unwrap(), 0, "no `{wanted}`: {said}");
            let length = master.read(&mut buffer).unwrap();
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    };
    hear(&mut master, "begun");
    master.write_all(b"\x03").unwrap();
    hear(&mut master, "interrupted");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_eq!(nix::sys::termios::tcgetattr(&pty.slave).unwrap(), before);

    // Whoever goes takes his command with him.
    let mut child = command("sleep|4242").stdout(Stdio::null()).spawn().unwrap();
    let sleeps =
        || shell(&srv1, "grep -al '^sleep.4242' /proc/[0-9]*/cmdline 2>/dev/null | wc -l").trim() == "1";
    until("the command runs", sleeps);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the command ends", || !sleeps());
}

#[test]
fn duplicates_are_looked_for_only_if_wanted() {
    if not_root() {
        return;
    }
    let mut value: serde_json::Value = serde_json::from_str(TOPOLOGY).unwrap();
    // Sixty solicitations, one a second: it lasts longer than any boot.
    value["nodes"][3]["sysctls"] = serde_json::json!({"net.ipv6.conf.enp0s3.accept_dad": "1", "net.ipv6.conf.enp0s3.dad_transmits": "60"});
    let topology: Topology = serde_json::from_value(value).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let world = World::build(&topology, &dir(folder.path()), &|_| {}).unwrap();
    let tentative = |name: &str| shell(&world.node(name).unwrap(), "ip -6 -o addr show tentative");
    assert!(tentative("srv1").contains("2001:db8:2::10/64"), "{}", tentative("srv1"));
    assert_eq!(tentative("dir1"), "");
}
