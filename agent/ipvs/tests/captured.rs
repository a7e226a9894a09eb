//! What `ipvsadm` and Linux said to each other, read and, where both say the same thing, written.

use std::{collections::HashMap, net::IpAddr};

use bascule_ipvs::{
    Command, Daemon, DaemonRole, Destination, DestinationId, Family, Forwarding, Info, Netmask, Protocol,
    Scheduler, Service, ServiceFlags, ServiceId, Timeouts, Tunnel, TunnelFlags,
    codec::{Query, Reply, decode_command, decode_reply, encode_command, encode_query},
};

/// One invocation of `ipvsadm`: what it sent and what it received.
#[derive(Default)]
struct Capture {
    sent: Vec<Vec<u8>>,
    received: Vec<Vec<u8>>,
}

fn captures() -> HashMap<String, Capture> {
    let mut all: HashMap<String, Capture> = HashMap::new();
    let mut command = String::new();
    for line in include_str!("captures/ipvsadm.txt").lines() {
        let (mark, rest) = line.split_at(2);
        let bytes = || -> Vec<u8> {
            assert!(rest.len() % 2 == 0);
            (0..rest.len()).step_by(2).map(|at| u8::from_str_radix(&rest[at..at + 2], 16).unwrap()).collect()
        };
        match mark {
            "# " => rest.clone_into(&mut command),
            "> " => all.entry(command.clone()).or_default().sent.push(bytes()),
            "< " => all.entry(command.clone()).or_default().received.push(bytes()),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(protocol: Protocol, address: &str, port: u16) -> ServiceId {
    ServiceId::Address { protocol, address: ip(address), port }
}

fn web() -> ServiceId {
    address(Protocol::Tcp, "192.16.193.30", 80)
}

/// What each invocation of `ipvsadm` that changes something should be read as.
fn expected() -> Vec<(&'static str, Command)> {
    let new = |destination| Command::NewDestination(web(), destination);
    let mark = ServiceId::Fwmark { mark: 7, family: Family::Ipv6 };
    let mut dns = Service::new(address(Protocol::Udp, "2001:db8::30", 53), Scheduler::Sh);
    dns.flags = ServiceFlags::SH_FALLBACK | ServiceFlags::SH_PORT | ServiceFlags::ONE_PACKET;
    let mut sip = Service::new(address(Protocol::Udp, "192.16.193.32", 5060), "rr").persistent(60, 32);
    sip.pe_name = Some("sip".into());
    let mut mh = Service::new(web(), Scheduler::Mh);
    mh.flags = ServiceFlags::MH_PORT;
    let srv1 = Destination::new(ip("172.16.193.10"), 8080, Forwarding::Masquerade);
    let gue = Tunnel::gue(6080).with_flags(TunnelFlags::REMOTE_CHECKSUM);
    let gre = Tunnel::GRE.with_flags(TunnelFlags::CHECKSUM);
    vec![
        ("-A -t 192.16.193.30:80 -s wrr", Command::NewService(Service::new(web(), "wrr"))),
        ("-A -u [2001:db8::30]:53 -s sh -b sh-fallback,sh-port -o", Command::NewService(dns)),
        ("-A -f 7 -6 -s rr -p 300 -M 64", Command::NewService(Service::new(mark, "rr").persistent(300, 64))),
        (
            "-A -t 192.16.193.31:0 -s wlc -p 360 -M 255.255.255.0",
            Command::NewService(
                Service::new(address(Protocol::Tcp, "192.16.193.31", 0), Scheduler::Wlc).persistent(360, 24),
            ),
        ),
        ("-A -u 192.16.193.32:5060 -s rr -p 60 --pe sip", Command::NewService(sip)),
        ("-E -t 192.16.193.30:80 -s mh -b mh-port", Command::SetService(mh)),
        (
            "-a -t 192.16.193.30:80 -r 172.16.193.10:8080 -m -w 3 -x 100 -y 50",
            new(Destination { upper_threshold: 100, lower_threshold: 50, ..srv1.weight(3) }),
        ),
        (
            "-a -t 192.16.193.30:80 -r 172.16.193.40:80 -i --tun-type gue --tun-port 6080 --tun-remcsum",
            new(Destination::new(ip("172.16.193.40"), 80, Forwarding::Tunnel(gue))),
        ),
        (
            "-a -t 192.16.193.30:80 -r 172.16.193.41:80 -i --tun-type gre --tun-csum",
            new(Destination::new(ip("172.16.193.41"), 80, Forwarding::Tunnel(gre))),
        ),
        (
            "-a -t 192.16.193.30:80 -r [2001:db8::10]:80 -i",
            new(Destination::new(ip("2001:db8::10"), 80, Forwarding::Tunnel(Tunnel::IPIP))),
        ),
        (
            "-e -t 192.16.193.30:80 -r 172.16.193.10:8080 -m -w 0",
            Command::SetDestination(web(), srv1.weight(0)),
        ),
        ("-d -t 192.16.193.30:80 -r 172.16.193.10:8080", Command::DelDestination(web(), srv1.id)),
        ("-Z -t 192.16.193.30:80", Command::Zero(Some(web()))),
        ("-D -t 192.16.193.30:80", Command::DelService(web())),
        ("--set 900 120 300", Command::SetConfig(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 })),
        ("-C", Command::Flush),
        (
            "--start-daemon master --mcast-interface d0 --syncid 12 --sync-maxlen 1400 --mcast-group 224.0.0.90 --mcast-port 8900 --mcast-ttl 3",
            Command::NewDaemon(master()),
        ),
        (
            "--start-daemon backup --mcast-interface d0 --syncid 13 --mcast-group ff02::81",
            Command::NewDaemon(Daemon {
                group: Some(ip("ff02::81")),
                ..Daemon::new(DaemonRole::Backup, "d0", 13)
            }),
        ),
        ("--stop-daemon master", Command::DelDaemon(DaemonRole::Master)),
    ]
}

fn master() -> Daemon {
    Daemon {
        max_length: Some(1400),
        group: Some(ip("224.0.0.90")),
        port: Some(8900),
        ttl: Some(3),
        ..Daemon::new(DaemonRole::Master, "d0", 12)
    }
}

/// The attributes of type `kind` in a message of ours or of `ipvsadm`, with their headers.
fn attribute(payload: &[u8], kind: u16) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut at = 4;
    while at + 4 <= payload.len() {
        let length = usize::from(u16::from_ne_bytes([payload[at], payload[at + 1]]));
        if u16::from_ne_bytes([payload[at + 2], payload[at + 3]]) & 0x3fff == kind {
            found.push(payload[at..at + length].to_vec());
        }
        at += length.next_multiple_of(4);
    }
    found
}

#[test]
fn commands_of_ipvsadm_are_read() {
    let captures = captures();
    for (arguments, command) in expected() {
        let sent = &captures[&format!("ipvsadm {arguments}")].sent;
        assert_eq!(sent.len(), 1, "{arguments}");
        assert_eq!(decode_command(&sent[0]), Ok(command), "{arguments}");
    }
    let commands = captures.values().filter(|capture| capture.received.is_empty()).count();
    assert_eq!(commands, expected().len(), "every captured command is in the table");
}

/// Byte for byte, but that `ipvsadm` repeats the whole service where only its id counts, and tells of tunnels where there are none.
#[test]
fn commands_are_written_as_ipvsadm_writes_them() {
    let captures = captures();
    let mut compared = 0;
    for (arguments, command) in expected() {
        let theirs = &captures[&format!("ipvsadm {arguments}")].sent[0];
        let mut message = Vec::new();
        encode_command(&mut message, 0x20, 1, 4, &command).unwrap();
        assert_eq!(message.len(), u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize);
        let ours = &message[16..];
        let tunnel = matches!(
            command,
            Command::NewDestination(_, Destination { forwarding: Forwarding::Tunnel(_), .. })
        );
        match command {
            _ if tunnel => assert_eq!(attribute(ours, 2), attribute(theirs, 2), "{arguments}"),
            Command::NewDestination(..)
            | Command::SetDestination(..)
            | Command::DelDestination(..)
            | Command::DelService(_)
            | Command::Zero(_)
            | Command::DelDaemon(_) => continue,
            _ => assert_eq!(ours, &theirs[..], "{arguments}"),
        }
        compared += 1;
    }
    assert_eq!(compared, 13);
}

#[test]
fn questions_are_asked_as_ipvsadm_asks_them() {
    let captures = captures();
    let sent = &captures["ipvsadm -Ln"].sent;
    let mark = ServiceId::Fwmark { mark: 7, family: Family::Ipv6 };
    let questions = [
        (Query::Info, &sent[0]),
        (Query::Services, &sent[1]),
        (Query::Destinations(web()), &sent[2]),
        (Query::Destinations(address(Protocol::Udp, "2001:db8::30", 53)), &sent[5]),
        (Query::Destinations(mark), &sent[6]),
        (Query::Timeouts, &captures["ipvsadm -L --timeout"].sent[0]),
        (Query::Daemons, &captures["ipvsadm -L --daemon"].sent[0]),
    ];
    for (question, theirs) in questions {
        let mut message = Vec::new();
        encode_query(&mut message, 0x20, 1, question).unwrap();
        assert_eq!(&message[16..], &theirs[..], "{question:?}");
    }
}

#[test]
fn answers_of_linux_are_read() {
    let captures = captures();
    let replies = |arguments: &str| -> Vec<Reply> {
        captures[&format!("ipvsadm {arguments}")]
            .received
            .iter()
            .map(|payload| decode_reply(payload, Family::Ipv4).unwrap())
            .collect()
    };
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    assert_eq!(replies("-L --timeout"), [Reply::Timeouts(timeouts)]);
    let backup = Daemon {
        max_length: Some(1452),
        group: Some(ip("ff02::81")),
        port: Some(8848),
        ttl: Some(1),
        ..Daemon::new(DaemonRole::Backup, "d0", 13)
    };
    assert_eq!(replies("-L --daemon"), [Reply::Daemon(master()), Reply::Daemon(backup)]);

    let listed = replies("-Ln");
    assert_eq!(listed[0], Reply::Info(Info { version: (1, 2, 1), connection_table_size: 4096 }));
    let services: HashMap<ServiceId, Service> = listed
        .iter()
        .filter_map(|reply| match reply {
            Reply::Service(entry) => Some((entry.service.id, entry.service.clone())),
            _ => None,
        })
        .collect();
    // What was added, and for one of them changed.
    let mut wanted = HashMap::new();
    for (_, command) in expected() {
        if let Command::NewService(service) | Command::SetService(service) = command {
            wanted.insert(service.id, service);
        }
    }
    assert_eq!(services, wanted);
    assert_eq!(
        wanted[&address(Protocol::Tcp, "192.16.193.31", 0)].netmask,
        Netmask::V4([255, 255, 255, 0].into())
    );

    let destinations: HashMap<DestinationId, Destination> = listed
        .iter()
        .filter_map(|reply| match reply {
            Reply::Destination(entry) => Some((entry.destination.id, entry.destination)),
            _ => None,
        })
        .collect();
    let mut wanted = HashMap::new();
    for (_, command) in expected() {
        if let Command::NewDestination(_, destination) | Command::SetDestination(_, destination) = command {
            wanted.insert(destination.id, destination);
        }
    }
    assert_eq!(destinations, wanted);
}

/// Attributes that a newer kernel may add, at every level, change nothing.
#[test]
fn unknown_attributes_are_skipped() {
    const UNKNOWN: [u8; 8] = [7, 0, 0xff, 0x3f, 1, 2, 3, 0];
    for capture in captures().values() {
        for payload in &capture.received {
            let reply = decode_reply(payload, Family::Ipv4).unwrap();
            let mut outside = payload.clone();
            outside.extend_from_slice(&UNKNOWN);
            assert_eq!(decode_reply(&outside, Family::Ipv4), Ok(reply.clone()));
            if matches!(reply, Reply::Timeouts(_) | Reply::Info(_)) {
                continue;
            }
            let mut inside = outside;
            let length = u16::try_from(inside.len() - 4).unwrap();
            inside[4..6].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(decode_reply(&inside, Family::Ipv4), Ok(reply));
        }
    }
}

/// Cut anywhere, an answer is refused, or it is one whose last attributes are optional.
#[test]
fn answers_that_are_cut_are_refused() {
    for capture in captures().values() {
        for payload in &capture.received {
            for length in 0..payload.len() {
                let cut = decode_reply(&payload[..length], Family::Ipv4);
                assert!(cut.is_err() || matches!(cut, Ok(Reply::Timeouts(_))), "{length} of {payload:02x?}");
            }
        }
    }
}
