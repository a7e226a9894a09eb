//! Rules as `ipvsadm` writes and reads them (`ipvsadm -Sn`, `ipvsadm -R`).

use std::net::{IpAddr, SocketAddr};

use bascule_ipvs::{
    Command, Destination, DestinationId, Family, Forwarding, Netmask, Protocol, Scheduler, Service,
    ServiceFlags, ServiceId, Tunnel, TunnelFlags, TunnelKind,
};

/// What one rule says, option by option.
struct Rule {
    action: Option<char>,
    service: Option<ServiceId>,
    scheduler: String,
    flags: ServiceFlags,
    timeout: u32,
    mask: Option<String>,
    pe_name: Option<String>,
    destination: Option<DestinationId>,
    method: char,
    tunnel_type: String,
    tunnel_port: u16,
    tunnel_flags: TunnelFlags,
    weight: u32,
    upper: u32,
    lower: u32,
}

/// Reads one rule; none if the line is empty or a comment.
pub(crate) fn parse(line: &str) -> Result<Option<Command>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.first() {
        None => Ok(None),
        Some(word) if word.starts_with('#') => Ok(None),
        Some(_) => Rule::read(&words)?.command().map(Some),
    }
}

impl Rule {
    fn read(words: &[&str]) -> Result<Self, String> {
        let mut rule = Self {
            action: None,
            service: None,
            scheduler: "wlc".into(),
            flags: ServiceFlags::NONE,
            timeout: 0,
            mask: None,
            pe_name: None,
            destination: None,
            method: 'g',
            tunnel_type: "ipip".into(),
            tunnel_port: 0,
            tunnel_flags: TunnelFlags::NONE,
            weight: 1,
            upper: 0,
            lower: 0,
        };
        let mut words = words.iter().copied().peekable();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} lacks a value"));
            match word {
                "-A" | "-E" | "-D" | "-a" | "-e" | "-d" | "-C" | "-Z" => rule.action = word.chars().nth(1),
                "-t" => rule.service = Some(address(Protocol::Tcp, value()?)?),
                "-u" => rule.service = Some(address(Protocol::Udp, value()?)?),
                "--sctp-service" => rule.service = Some(address(Protocol::Sctp, value()?)?),
                "-f" => {
                    rule.service = Some(ServiceId::Fwmark { mark: number(value()?)?, family: Family::Ipv4 });
                }
                "-6" => match &mut rule.service {
                    Some(ServiceId::Fwmark { family, .. }) => *family = Family::Ipv6,
                    _ => return Err("-6 goes with -f".into()),
                },
                "-s" => rule.scheduler = value()?.into(),
                "-b" => {
                    for name in value()?.split(',') {
                        rule.flags |= Scheduler::flag_named(name).ok_or(format!("unknown flag {name}"))?;
                    }
                }
                "-o" => rule.flags |= ServiceFlags::ONE_PACKET,
                "-p" => {
                    rule.flags |= ServiceFlags::PERSISTENT;
                    let given = words.next_if(|word| !word.starts_with('-'));
                    rule.timeout = given.map_or(Ok(360), number)?;
                }
                "-M" => rule.mask = Some(value()?.into()),
                "--pe" => rule.pe_name = Some(value()?.into()),
                "-r" => {
                    let text = value()?;
                    let socket: SocketAddr =
                        text.parse().map_err(|_| format!("{text} is no address and port"))?;
                    rule.destination = Some(DestinationId { address: socket.ip(), port: socket.port() });
                }
                "-m" | "-g" | "-i" => rule.method = word.chars().nth(1).unwrap_or('g'),
                "--tun-type" => rule.tunnel_type = value()?.into(),
                "--tun-port" => rule.tunnel_port = number(value()?)?,
                "--tun-nocsum" => rule.tunnel_flags = TunnelFlags::NONE,
                "--tun-csum" => rule.tunnel_flags = TunnelFlags::CHECKSUM,
                "--tun-remcsum" => rule.tunnel_flags = TunnelFlags::REMOTE_CHECKSUM,
                "-w" => rule.weight = number(value()?)?,
                "-x" => rule.upper = number(value()?)?,
                "-y" => rule.lower = number(value()?)?,
                other => return Err(format!("unknown word {other}")),
            }
        }
        Ok(rule)
    }

    fn command(self) -> Result<Command, String> {
        let id = || self.service.ok_or("no virtual service (-t, -u, --sctp-service or -f)".to_owned());
        let target = || self.destination.ok_or("no real server (-r)".to_owned());
        Ok(match self.action {
            Some('A') => Command::NewService(self.service(id()?)?),
            Some('E') => Command::SetService(self.service(id()?)?),
            Some('D') => Command::DelService(id()?),
            Some('a') => Command::NewDestination(id()?, self.destination(target()?)?),
            Some('e') => Command::SetDestination(id()?, self.destination(target()?)?),
            Some('d') => Command::DelDestination(id()?, target()?),
            Some('C') => Command::Flush,
            Some('Z') => Command::Zero(self.service),
            _ => return Err("no command (-A, -E, -D, -a, -e, -d, -C or -Z)".into()),
        })
    }

    fn service(&self, id: ServiceId) -> Result<Service, String> {
        let netmask = match &self.mask {
            None => Netmask::host(id.family()),
            Some(text) => match (id.family(), text.parse(), text.parse()) {
                (Family::Ipv4, Ok(mask), _) => Netmask::V4(mask),
                (Family::Ipv6, _, Ok(length)) => Netmask::V6(length),
                _ => return Err(format!("{text} is no netmask")),
            },
        };
        Ok(Service {
            id,
            scheduler: self.scheduler.clone(),
            flags: self.flags,
            timeout: self.timeout,
            netmask,
            pe_name: self.pe_name.clone(),
        })
    }

    fn destination(&self, id: DestinationId) -> Result<Destination, String> {
        let kind = match self.tunnel_type.as_str() {
            "ipip" => TunnelKind::Ipip,
            "gue" => TunnelKind::Gue { port: self.tunnel_port },
            "gre" => TunnelKind::Gre,
            other => return Err(format!("unknown tunnel type {other}")),
        };
        let forwarding = match self.method {
            'm' => Forwarding::Masquerade,
            'i' => Forwarding::Tunnel(Tunnel { kind, flags: self.tunnel_flags }),
            _ => Forwarding::DirectRouting,
        };
        Ok(Destination {
            id,
            forwarding,
            weight: self.weight,
            upper_threshold: self.upper,
            lower_threshold: self.lower,
        })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number, or out of range"))
}

/// `ADDRESS:PORT`, or an address alone, which is every port.
fn address(protocol: Protocol, text: &str) -> Result<ServiceId, String> {
    let (address, port) = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(socket), _) => (socket.ip(), socket.port()),
        (_, Ok(address)) => (address, 0),
        _ => return Err(format!("{text} is no address and port")),
    };
    Ok(ServiceId::Address { protocol, address, port })
}

/// How `ipvsadm -Sn` names a service.
fn name(id: &ServiceId) -> String {
    match id {
        ServiceId::Address { protocol, address, port } => {
            let option = match protocol {
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
                Protocol::Tcp | Protocol::Other(_) => "-t",
            };
            format!("{option} {}", SocketAddr::new(*address, *port))
        }
        ServiceId::Fwmark { mark, family: Family::Ipv4 } => format!("-f {mark}"),
        ServiceId::Fwmark { mark, family: Family::Ipv6 } => format!("-f {mark} -6"),
    }
}

/// The rule that makes a service.
pub(crate) fn service(service: &Service) -> String {
    let mut words = vec!["-A".to_owned(), name(&service.id), format!("-s {}", service.scheduler)];
    if service.flags.contains(ServiceFlags::PERSISTENT) {
        words.push(format!("-p {}", service.timeout));
        if service.netmask != Netmask::host(service.id.family()) {
            words.push(format!("-M {}", service.netmask));
        }
    }
    words.extend(service.pe_name.as_ref().map(|engine| format!("--pe {engine}")));
    if service.flags.contains(ServiceFlags::ONE_PACKET) {
        words.push("-o".into());
    }
    let known = service.scheduler.parse().map_or(&[][..], Scheduler::flags);
    let flags: Vec<&str> = [
        ("flag-1", ServiceFlags::SCHED1),
        ("flag-2", ServiceFlags::SCHED2),
        ("flag-3", ServiceFlags::SCHED3),
    ]
    .into_iter()
    .filter(|(_, flag)| service.flags.contains(*flag))
    .map(|(name, flag)| known.iter().find(|known| known.flag == flag).map_or(name, |known| known.name))
    .collect();
    if !flags.is_empty() {
        words.push(format!("-b {}", flags.join(",")));
    }
    words.join(" ")
}

/// The rule that makes a destination.
pub(crate) fn destination(id: &ServiceId, destination: &Destination) -> String {
    let method = match destination.forwarding {
        Forwarding::Masquerade => "-m",
        Forwarding::Tunnel(_) => "-i",
        _ => "-g",
    };
    let mut words = vec![format!("-a {} -r {} {method} -w {}", name(id), destination.id, destination.weight)];
    if destination.upper_threshold != 0 || destination.lower_threshold != 0 {
        words.push(format!("-x {} -y {}", destination.upper_threshold, destination.lower_threshold));
    }
    if let Forwarding::Tunnel(tunnel) = destination.forwarding {
        words.push(match tunnel.kind {
            TunnelKind::Ipip => "--tun-type ipip".into(),
            TunnelKind::Gue { port } => format!("--tun-type gue --tun-port {port} --tun-{}", tunnel.flags),
            TunnelKind::Gre => format!("--tun-type gre --tun-{}", tunnel.flags),
            TunnelKind::Other { number, .. } => format!("--tun-type {number}"),
        });
    }
    words.join(" ")
}
