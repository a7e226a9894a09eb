//! Crash, boot and reboot.

use std::io::{Read, Write};
use std::time::Duration;

use bascule_lab::fault::{self, Restart};
use bascule_lab::world::{Event, Exit};
use nix::sys::signal::Signal;

use crate::common::{a_fault, build, connect, is_deaf, not_root, pings, serve, shell};

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
