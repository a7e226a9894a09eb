//! Services and destinations, both ways.

use bascule_ipvs::{
    Client, Command, Destination, Family, Forwarding, NO_SCHEDULER, Netmask, Protocol, Scheduler, Service,
    ServiceFlags, ServiceId, Tunnel, TunnelFlags,
};

use super::namespace::{in_namespace, ip, ipvsadm, saved, try_run};

fn tcp(address: &str, port: u16) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: ip(address), port }
}

fn service(id: ServiceId, scheduler: impl Into<String>, flags: ServiceFlags) -> Service {
    Service { flags, ..Service::new(id, scheduler) }
}

/// Whether the running kernel was built with a scheduler; distributions leave some out (Debian 12: twos).
fn kernel_has(scheduler: Scheduler) -> bool {
    let there = try_run("modinfo", &["--field", "name", &scheduler.module()]).status.success();
    assert!(
        there || scheduler >= Scheduler::Fo || scheduler == Scheduler::Mh,
        "{scheduler} is as old as IPVS itself"
    );
    there
}

#[test]
fn a_scheduler_that_the_kernel_lacks_is_told() {
    in_namespace(|client| {
        for scheduler in Scheduler::ALL.into_iter().filter(|scheduler| !kernel_has(*scheduler)) {
            let error = client
                .execute(&Command::NewService(Service::new(tcp("192.0.2.1", 80), scheduler)))
                .unwrap_err();
            assert!(error.to_string().contains("no such scheduler"), "{error}");
        }
    });
}

/// Services, and the rule that `ipvsadm -Sn` prints for each.
fn services() -> Vec<(Service, String)> {
    let mut all = Vec::new();
    for scheduler in Scheduler::ALL.into_iter().filter(|scheduler| kernel_has(*scheduler)) {
        for address in ["192.0.2.1", "[2001:db8::1]"] {
            let id = tcp(address.trim_matches(['[', ']']), 80);
            let rule = format!("-A -t {address}:80 -s {scheduler}");
            all.push((Service::new(id, scheduler), rule.clone()));
            for known in scheduler.flags() {
                all.push((service(id, scheduler, known.flag), format!("{rule} -b {}", known.name)));
            }
        }
    }
    let v4 = tcp("192.0.2.1", 80);
    let v6 = tcp("2001:db8::1", 443);
    let udp = ServiceId::Address { protocol: Protocol::Udp, address: ip("192.0.2.1"), port: 53 };
    let sctp = ServiceId::Address { protocol: Protocol::Sctp, address: ip("2001:db8::1"), port: 36412 };
    let mark4 = ServiceId::Fwmark { mark: 0x7fff_ffff, family: Family::Ipv4 };
    let mark6 = ServiceId::Fwmark { mark: 1, family: Family::Ipv6 };
    let both = ServiceFlags::SCHED1 | ServiceFlags::SCHED2;
    let mut sip = Service::new(udp, "rr").persistent(60, 32);
    sip.pe_name = Some("sip".into());
    let table = [
        (service(v4, "sh", both), "-A -t 192.0.2.1:80 -s sh -b sh-fallback,sh-port"),
        (service(v4, "mh", both), "-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port"),
        (service(v4, "rr", both | ServiceFlags::SCHED3), "-A -t 192.0.2.1:80 -s rr -b flag-1,flag-2,flag-3"),
        (service(udp, "rr", ServiceFlags::ONE_PACKET), "-A -u 192.0.2.1:53 -s rr -o"),
        (Service::new(sctp, "wlc"), "-A --sctp-service [2001:db8::1]:36412 -s wlc"),
        (Service::new(v4, "rr").persistent(360, 32), "-A -t 192.0.2.1:80 -s rr -p 360"),
        (Service::new(v4, "rr").persistent(1, 24), "-A -t 192.0.2.1:80 -s rr -p 1 -M 255.255.255.0"),
        (Service::new(v6, "rr").persistent(2_678_400, 64), "-A -t [2001:db8::1]:443 -s rr -p 2678400 -M 64"),
        (Service::new(tcp("192.0.2.1", 0), "rr").persistent(300, 32), "-A -t 192.0.2.1:0 -s rr -p 300"),
        (Service::new(mark4, "wrr"), "-A -f 2147483647 -s wrr"),
        (Service::new(mark6, "wrr").persistent(600, 128), "-A -f 1 -6 -s wrr -p 600"),
        (sip, "-A -u 192.0.2.1:5060 -s rr -p 60 --pe sip"),
    ];
    all.extend(table.map(|(mut service, rule)| {
        if service.pe_name.is_some() {
            service.id = ServiceId::Address { protocol: Protocol::Udp, address: ip("192.0.2.1"), port: 5060 };
        }
        (service, rule.to_owned())
    }));
    all
}

/// Destinations of 192.0.2.1:80, and the end of the rule that `ipvsadm -Sn` prints for each.
fn destinations() -> Vec<(Destination, &'static str)> {
    let to = |forwarding| Destination::new(ip("198.51.100.10"), 80, forwarding);
    let tunnel = |tunnel| to(Forwarding::Tunnel(tunnel));
    let masquerade = to(Forwarding::Masquerade);
    let six = Destination::new(ip("2001:db8::10"), 80, Forwarding::Tunnel(Tunnel::gue(6080)));
    vec![
        (masquerade, "-r 198.51.100.10:80 -m -w 1"),
        (
            Destination::new(ip("198.51.100.10"), 8080, Forwarding::Masquerade),
            "-r 198.51.100.10:8080 -m -w 1",
        ),
        (to(Forwarding::DirectRouting), "-r 198.51.100.10:80 -g -w 1"),
        (masquerade.weight(0), "-r 198.51.100.10:80 -m -w 0"),
        (masquerade.weight(0x7fff_ffff), "-r 198.51.100.10:80 -m -w 2147483647"),
        (
            Destination { upper_threshold: 1000, lower_threshold: 500, ..masquerade },
            "-r 198.51.100.10:80 -m -w 1 -x 1000 -y 500",
        ),
        (tunnel(Tunnel::IPIP), "-r 198.51.100.10:80 -i -w 1 --tun-type ipip"),
        (
            tunnel(Tunnel::gue(6080)),
            "-r 198.51.100.10:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum",
        ),
        (
            tunnel(Tunnel::gue(1).with_flags(TunnelFlags::CHECKSUM)),
            "-r 198.51.100.10:80 -i -w 1 --tun-type gue --tun-port 1 --tun-csum",
        ),
        (
            tunnel(Tunnel::gue(65535).with_flags(TunnelFlags::REMOTE_CHECKSUM)),
            "-r 198.51.100.10:80 -i -w 1 --tun-type gue --tun-port 65535 --tun-remcsum",
        ),
        (tunnel(Tunnel::GRE), "-r 198.51.100.10:80 -i -w 1 --tun-type gre --tun-nocsum"),
        (
            tunnel(Tunnel::GRE.with_flags(TunnelFlags::CHECKSUM)),
            "-r 198.51.100.10:80 -i -w 1 --tun-type gre --tun-csum",
        ),
        (six, "-r [2001:db8::10]:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum"),
    ]
}

fn held(client: &mut Client) -> Vec<Service> {
    client.services().unwrap().into_iter().map(|entry| entry.service).collect()
}

fn held_destinations(client: &mut Client, id: &ServiceId) -> Vec<Destination> {
    client.destinations(id).unwrap().into_iter().map(|entry| entry.destination).collect()
}

#[test]
fn services_both_ways() {
    in_namespace(|client| {
        for (service, rule) in services() {
            client
                .execute(&Command::NewService(service.clone()))
                .unwrap_or_else(|error| panic!("{rule}: {error}"));
            assert_eq!(saved(), [rule.as_str()]);
            assert_eq!(held(client), std::slice::from_ref(&service), "{rule}");
            assert_eq!(client.service(&service.id).unwrap().unwrap().service, service);
            client.execute(&Command::DelService(service.id)).unwrap();
            assert!(saved().is_empty());
            assert_eq!(client.service(&service.id).unwrap(), None);

            ipvsadm(&rule);
            assert_eq!(held(client), [service], "{rule}");
            ipvsadm("-C");
            assert!(held(client).is_empty());
        }
    });
}

#[test]
fn a_service_is_changed_in_place() {
    in_namespace(|client| {
        let id = tcp("192.0.2.1", 80);
        let destination = Destination::new(ip("198.51.100.10"), 80, Forwarding::Masquerade);
        client.execute(&Command::NewService(Service::new(id, "rr"))).unwrap();
        client.execute(&Command::NewDestination(id, destination)).unwrap();
        for (service, rule) in services().into_iter().filter(|(service, _)| service.id == id) {
            client
                .execute(&Command::SetService(service.clone()))
                .unwrap_or_else(|error| panic!("{rule}: {error}"));
            assert_eq!(saved(), [rule.as_str(), "-a -t 192.0.2.1:80 -r 198.51.100.10:80 -m -w 1"]);
            assert_eq!(held(client), [service]);
            assert_eq!(held_destinations(client, &id), [destination]);
        }
    });
}

#[test]
fn destinations_both_ways() {
    in_namespace(|client| {
        let id = tcp("192.0.2.1", 80);
        client.execute(&Command::NewService(Service::new(id, "rr"))).unwrap();
        for (destination, rule) in destinations() {
            let rule = format!("-a -t 192.0.2.1:80 {rule}");
            client
                .execute(&Command::NewDestination(id, destination))
                .unwrap_or_else(|error| panic!("{rule}: {error}"));
            assert_eq!(saved().pop().unwrap(), as_saved(&rule));
            assert_eq!(thresholds(), [destination.upper_threshold, destination.lower_threshold]);
            assert_eq!(held_destinations(client, &id), [destination], "{rule}");
            client.execute(&Command::DelDestination(id, destination.id)).unwrap();
            assert_eq!(saved().len(), 1);

            ipvsadm(&rule);
            assert_eq!(held_destinations(client, &id), [destination], "{rule}");
            client.execute(&Command::DelDestination(id, destination.id)).unwrap();
        }
    });
}

/// `ipvsadm -S` forgets thresholds.
fn as_saved(rule: &str) -> &str {
    rule.split(" -x ").next().unwrap()
}

/// What `ipvsadm` prints as thresholds of the only destination.
fn thresholds() -> Vec<u32> {
    let printed = ipvsadm("-Ln --thresholds");
    let line = printed.lines().last().unwrap();
    // "  -> 198.51.100.10:80             1000       500        0          0"
    line.split_whitespace().skip(2).take(2).map(|word| word.parse().unwrap()).collect()
}

#[test]
fn a_destination_is_changed_in_place() {
    in_namespace(|client| {
        let id = tcp("192.0.2.1", 80);
        let first = Destination::new(ip("198.51.100.10"), 80, Forwarding::Masquerade);
        client.execute(&Command::NewService(Service::new(id, "rr"))).unwrap();
        client.execute(&Command::NewDestination(id, first)).unwrap();
        for (destination, rule) in
            destinations().into_iter().filter(|(destination, _)| destination.id == first.id)
        {
            client
                .execute(&Command::SetDestination(id, destination))
                .unwrap_or_else(|error| panic!("{rule}: {error}"));
            assert_eq!(saved().pop().unwrap(), as_saved(&format!("-a -t 192.0.2.1:80 {rule}")));
            assert_eq!(thresholds(), [destination.upper_threshold, destination.lower_threshold]);
            assert_eq!(held_destinations(client, &id), [destination]);
        }
    });
}

/// Forwarding methods for which `ipvsadm` has no option, and for one not even a name.
#[test]
fn local_and_bypass_are_kept() {
    in_namespace(|client| {
        let id = tcp("192.0.2.1", 80);
        client.execute(&Command::NewService(Service::new(id, "rr"))).unwrap();
        for (forwarding, name) in [(Forwarding::Local, "Local"), (Forwarding::Bypass, "(null)")] {
            let destination = Destination::new(ip("127.0.0.1"), 80, forwarding);
            client.execute(&Command::NewDestination(id, destination)).unwrap();
            let listed = ipvsadm("-Ln");
            assert!(
                listed.lines().any(|line| line.contains("127.0.0.1:80") && line.contains(name)),
                "{listed}"
            );
            assert_eq!(held_destinations(client, &id), [destination]);
            client.execute(&Command::DelDestination(id, destination.id)).unwrap();
        }
        let destination = Destination::new(ip("127.0.0.1"), 80, Forwarding::Other(6));
        client.execute(&Command::NewDestination(id, destination)).unwrap();
        assert_eq!(held_destinations(client, &id), [destination]);
    });
}

/// What `ipvsadm` cannot say, and the kernel takes all the same.
#[test]
fn odd_services_are_read() {
    in_namespace(|client| {
        let odd = ServiceId::Address { protocol: Protocol::Other(47), address: ip("192.0.2.9"), port: 1 };
        let holes = Service {
            netmask: Netmask::V4([255, 0, 255, 0].into()),
            ..Service::new(tcp("192.0.2.1", 80), "rr").persistent(5, 32)
        };
        let idle = Service::new(tcp("192.0.2.2", 80), NO_SCHEDULER);
        let unknown = service(tcp("192.0.2.3", 80), "rr", ServiceFlags::from_bits(0x4000_0000));
        // `ipvsadm` prints such a mark as a negative number.
        let mark = Service::new(ServiceId::Fwmark { mark: u32::MAX, family: Family::Ipv4 }, "rr");
        for service in [Service::new(odd, "rr"), holes, idle, unknown, mark] {
            client.execute(&Command::NewService(service.clone())).unwrap();
            assert_eq!(held(client), std::slice::from_ref(&service));
            client.execute(&Command::DelService(service.id)).unwrap();
        }
    });
}

#[test]
fn an_ipv6_service_takes_an_ipv4_real_server_by_tunnel_only() {
    in_namespace(|client| {
        let id = tcp("2001:db8::1", 80);
        client.execute(&Command::NewService(Service::new(id, "rr"))).unwrap();
        let four = Destination::new(ip("198.51.100.10"), 80, Forwarding::Tunnel(Tunnel::IPIP));
        client.execute(&Command::NewDestination(id, four)).unwrap();
        assert_eq!(
            saved().pop().unwrap(),
            "-a -t [2001:db8::1]:80 -r 198.51.100.10:80 -i -w 1 --tun-type ipip"
        );
        assert_eq!(held_destinations(client, &id), [four]);
        // The same address in another family is another real server.
        let mapped = Destination::new(ip("2001:db8::10"), 80, Forwarding::Masquerade);
        client.execute(&Command::NewDestination(id, mapped)).unwrap();
        assert_eq!(held_destinations(client, &id).len(), 2);
        let masquerade = Destination::new(ip("198.51.100.11"), 80, Forwarding::Masquerade);
        assert!(client.execute(&Command::NewDestination(id, masquerade)).is_err());
    });
}

#[test]
fn namespaces_are_apart() {
    in_namespace(|client| {
        client.execute(&Command::NewService(Service::new(tcp("192.0.2.1", 80), "rr"))).unwrap();
        in_namespace(|other| assert!(other.services().unwrap().is_empty()));
        assert_eq!(client.services().unwrap().len(), 1);
        client.execute(&Command::Flush).unwrap();
        assert!(client.dump().unwrap().is_empty());
    });
}
