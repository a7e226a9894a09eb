//! Counters and connections, with datagrams through a service of this very machine.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use bascule_ipvs::{
    Client, Command, Destination, DestinationEntry, Forwarding, Protocol, Service, ServiceFlags, ServiceId,
    Stats64,
};

use super::namespace::{in_namespace, ip, ipvsadm, run};

const SERVICE: ServiceId = ServiceId::Address {
    protocol: Protocol::Udp,
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    port: 53,
};

/// A service on this machine whose real server is an address of it, and that server.
fn set_up(client: &mut Client) -> (Destination, UdpSocket) {
    for address in ["192.0.2.1/32", "198.51.100.10/32"] {
        run("ip", &["address", "add", address, "dev", "lo"]);
    }
    let destination = Destination::new(ip("198.51.100.10"), 5353, Forwarding::Masquerade);
    client.execute(&Command::NewService(Service::new(SERVICE, "rr"))).unwrap();
    client.execute(&Command::NewDestination(SERVICE, destination)).unwrap();
    let server = UdpSocket::bind("198.51.100.10:5353").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (destination, server)
}

/// Sends from a port of its own for each request, and waits until the server has all.
fn send(server: &UdpSocket, count: usize, payload: &[u8]) {
    let target: SocketAddr = "192.0.2.1:53".parse().unwrap();
    for _ in 0..count {
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.send_to(payload, target).unwrap();
        let mut buffer = [0; 2000];
        let (length, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], payload);
    }
}

fn entry(client: &mut Client) -> DestinationEntry {
    let all = client.destinations(&SERVICE).unwrap();
    assert_eq!(all.len(), 1);
    all[0]
}

/// Waits until the kernel has added up that many connections of the service; it does every 2 s.
fn counted(client: &mut Client, connections: u64) -> Stats64 {
    let begun = Instant::now();
    loop {
        let stats = client.service(&SERVICE).unwrap().unwrap().stats;
        if stats.connections >= connections && entry(client).stats.connections >= connections {
            return stats;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "{stats:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Counters without the rates, which go up and down.
fn totals(stats: Stats64) -> [u64; 5] {
    [stats.connections, stats.packets_in, stats.packets_out, stats.bytes_in, stats.bytes_out]
}

#[test]
fn counters_are_those_that_ipvsadm_prints_and_can_be_zeroed() {
    in_namespace(|client| {
        let (_, server) = set_up(client);
        send(&server, 7, &[1; 100]);
        let service = counted(client, 7);
        // 20 bytes of IP, 8 of UDP.
        assert_eq!(totals(service), [7, 7, 0, 7 * 128, 0]);
        assert!(!service.narrow);
        assert_eq!(totals(entry(client).stats), totals(service));
        assert_eq!(totals(client.services().unwrap()[0].stats), totals(service));
        let printed = ipvsadm("-Ln --stats --exact");
        for name in ["192.0.2.1:53", "198.51.100.10:5353"] {
            let line = printed.lines().find(|line| line.contains(name)).unwrap();
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            assert_eq!(numbers, totals(service), "{printed}");
        }
        assert_eq!(entry(client).inactive_connections, 7);

        for zero in [Command::Zero(Some(SERVICE)), Command::Zero(None)] {
            client.execute(&zero).unwrap();
            assert_eq!(totals(client.service(&SERVICE).unwrap().unwrap().stats), [0; 5]);
            assert_eq!(totals(entry(client).stats), [0; 5]);
            send(&server, 1, b"again");
            assert_eq!(totals(counted(client, 1)), [1, 1, 0, 33, 0]);
        }
    });
}

#[test]
fn rates_are_read() {
    in_namespace(|client| {
        let (_, server) = set_up(client);
        let begun = Instant::now();
        // The estimator looks every 2 s.
        loop {
            send(&server, 20, &[1; 100]);
            let stats = client.service(&SERVICE).unwrap().unwrap().stats;
            if stats.connections_per_second > 0 {
                assert!(stats.packets_in_per_second > 0);
                assert!(stats.bytes_in_per_second >= 100 * stats.packets_in_per_second);
                assert_eq!(stats.packets_out_per_second, 0);
                break;
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "no rate within a minute");
        }
    });
}

#[test]
fn connections_survive_every_change() {
    in_namespace(|client| {
        let (destination, server) = set_up(client);
        send(&server, 5, b"hello");
        assert_eq!(counted(client, 5).connections, 5);
        assert_eq!(entry(client).inactive_connections, 5);
        let flags = ServiceFlags::SH_PORT;
        for command in [
            Command::SetService(Service { flags, ..Service::new(SERVICE, "sh") }),
            Command::SetService(Service::new(SERVICE, "wlc").persistent(60, 24)),
            Command::SetDestination(SERVICE, destination.weight(0)),
            Command::SetDestination(
                SERVICE,
                Destination { forwarding: Forwarding::DirectRouting, ..destination },
            ),
            Command::SetDestination(SERVICE, Destination { upper_threshold: 9, ..destination.weight(7) }),
        ] {
            client.execute(&command).unwrap();
            assert_eq!(entry(client).inactive_connections, 5, "{command}");
            assert_eq!(totals(entry(client).stats)[0], 5, "counters, too");
        }
    });
}

#[test]
fn persistence_templates_are_counted() {
    in_namespace(|client| {
        let (_, server) = set_up(client);
        client.execute(&Command::SetService(Service::new(SERVICE, "rr").persistent(60, 32))).unwrap();
        send(&server, 3, b"hello");
        assert_eq!(entry(client).persistent_connections, 1, "one client");
        assert_eq!(entry(client).inactive_connections, 3);
    });
}
