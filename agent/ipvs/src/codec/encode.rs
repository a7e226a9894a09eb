//! Commands and questions as bytes.

use std::net::IpAddr;

use super::{
    CONTROLLER, FAMILY_NAME, cmd, daemon, dest,
    framing::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST},
    svc, top,
    wire::{close, finish, open, put, put_be16, put_text, put_u8, put_u16, put_u32, start},
};
use crate::{
    Command, Daemon, DaemonRole, Destination, DestinationId, Family, Forwarding, InvalidCommand, Netmask,
    Protocol, Service, ServiceId, TunnelKind,
};

/// IPVS_GENL_VERSION.
const VERSION: u8 = 1;
/// IP_VS_SCHEDNAME_MAXLEN, IP_VS_PENAME_MAXLEN and IP_VS_IFNAME_MAXLEN without the NUL.
const NAME_LENGTH: usize = 15;

/// What the kernel can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// All services (a dump).
    Services,
    /// One service.
    Service(ServiceId),
    /// All destinations of a service (a dump).
    Destinations(ServiceId),
    /// The sync daemons that run (a dump).
    Daemons,
    /// The timeouts.
    Timeouts,
    /// The version.
    Info,
}

impl Query {
    /// Whether the answer is a dump: any number of messages and an end.
    pub fn is_dump(self) -> bool {
        matches!(self, Self::Services | Self::Destinations(_) | Self::Daemons)
    }
}

/// Appends the question for the id of the family `IPVS`; asking makes the kernel load `ip_vs`.
pub fn encode_family_query(buffer: &mut Vec<u8>, sequence: u32) {
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    let message = start(buffer, CONTROLLER, NLM_F_REQUEST, sequence, CTRL_CMD_GETFAMILY, 1);
    put_text(buffer, CTRL_ATTR_FAMILY_NAME, FAMILY_NAME);
    finish(buffer, message);
}

/// Appends a question to the family with id `family`.
///
/// # Errors
/// The service of the question is none that the kernel would understand; nothing is appended then.
pub fn encode_query(
    buffer: &mut Vec<u8>,
    family: u16,
    sequence: u32,
    query: Query,
) -> Result<(), InvalidCommand> {
    let (command, service) = match query {
        Query::Services => (cmd::GET_SERVICE, None),
        Query::Service(id) => (cmd::GET_SERVICE, Some(id)),
        Query::Destinations(id) => (cmd::GET_DEST, Some(id)),
        Query::Daemons => (cmd::GET_DAEMON, None),
        Query::Timeouts => (cmd::GET_CONFIG, None),
        Query::Info => (cmd::GET_INFO, None),
    };
    if let Some(id) = service {
        check_id(&id)?;
    }
    let flags = if query.is_dump() { NLM_F_REQUEST | NLM_F_DUMP } else { NLM_F_REQUEST };
    let message = start(buffer, family, flags, sequence, command, VERSION);
    if let Some(id) = service {
        let nest = open(buffer, top::SERVICE);
        put_id(buffer, &id);
        close(buffer, nest);
    }
    finish(buffer, message);
    Ok(())
}

/// Appends what makes the kernel load the module of a scheduler and has no other effect: a service that it refuses (EINVAL, for
/// an IPv6 service has a prefix length of 1 to 128) after looking for the scheduler (`ip_vs_add_service`,
/// net/netfilter/ipvs/ip_vs_ctl.c). The answer is asked for.
///
/// # Errors
/// The name cannot be that of a scheduler; nothing is appended then.
pub fn encode_scheduler_query(
    buffer: &mut Vec<u8>,
    family: u16,
    sequence: u32,
    scheduler: &str,
) -> Result<(), InvalidCommand> {
    check_name(scheduler, "scheduler's name")?;
    let id = ServiceId::Fwmark { mark: u32::MAX, family: Family::Ipv6 };
    let refused = Service { netmask: Netmask::V6(0), ..Service::new(id, scheduler) };
    let message = start(buffer, family, NLM_F_REQUEST | NLM_F_ACK, sequence, cmd::NEW_SERVICE, VERSION);
    put_service(buffer, &refused);
    finish(buffer, message);
    Ok(())
}

/// Appends a command to the family with id `family`; `flags` (NLM_F_ACK, or 0) are added to NLM_F_REQUEST.
///
/// Without NLM_F_ACK the kernel answers only when the command fails.
///
/// # Errors
/// The command cannot be said to the kernel; nothing is appended then.
pub fn encode_command(
    buffer: &mut Vec<u8>,
    family: u16,
    sequence: u32,
    flags: u16,
    command: &Command,
) -> Result<(), InvalidCommand> {
    check(command)?;
    let number = match command {
        Command::NewService(_) => cmd::NEW_SERVICE,
        Command::SetService(_) => cmd::SET_SERVICE,
        Command::DelService(_) => cmd::DEL_SERVICE,
        Command::NewDestination(..) => cmd::NEW_DEST,
        Command::SetDestination(..) => cmd::SET_DEST,
        Command::DelDestination(..) => cmd::DEL_DEST,
        Command::NewDaemon(_) => cmd::NEW_DAEMON,
        Command::DelDaemon(_) => cmd::DEL_DAEMON,
        Command::SetConfig(_) => cmd::SET_CONFIG,
        Command::Zero(_) => cmd::ZERO,
        Command::Flush => cmd::FLUSH,
    };
    let message = start(buffer, family, NLM_F_REQUEST | flags, sequence, number, VERSION);
    match command {
        Command::NewService(service) | Command::SetService(service) => put_service(buffer, service),
        Command::DelService(id) | Command::Zero(Some(id)) => put_service_id(buffer, id),
        Command::NewDestination(id, destination) | Command::SetDestination(id, destination) => {
            put_service_id(buffer, id);
            put_destination(buffer, destination);
        }
        Command::DelDestination(id, destination) => {
            put_service_id(buffer, id);
            let nest = open(buffer, top::DEST);
            put_destination_id(buffer, destination);
            close(buffer, nest);
        }
        Command::NewDaemon(daemon) => put_daemon(buffer, daemon),
        Command::DelDaemon(role) => put_daemon_role(buffer, *role),
        Command::SetConfig(timeouts) => {
            for (kind, seconds) in [
                (top::TIMEOUT_TCP, timeouts.tcp),
                (top::TIMEOUT_TCP_FIN, timeouts.tcp_fin),
                (top::TIMEOUT_UDP, timeouts.udp),
            ] {
                put_u32(buffer, kind, seconds);
            }
        }
        Command::Zero(None) | Command::Flush => {}
    }
    finish(buffer, message);
    Ok(())
}

fn check(command: &Command) -> Result<(), InvalidCommand> {
    match command {
        Command::NewService(service) | Command::SetService(service) => {
            check_id(&service.id)?;
            check_name(&service.scheduler, "scheduler's name")?;
            if let Some(name) = &service.pe_name {
                check_name(name, "persistence engine's name")?;
            }
            if service.netmask.family() != service.id.family() {
                return Err(InvalidCommand::NetmaskFamily);
            }
            if matches!(service.netmask, Netmask::V6(length) if !(1..=128).contains(&length)) {
                return Err(InvalidCommand::PrefixLength);
            }
            Ok(())
        }
        Command::DelService(id) | Command::Zero(Some(id)) | Command::DelDestination(id, _) => check_id(id),
        Command::NewDestination(id, destination) | Command::SetDestination(id, destination) => {
            check_id(id)?;
            check_destination(destination)
        }
        Command::NewDaemon(daemon) => check_name(&daemon.interface, "interface's name"),
        Command::DelDaemon(_) | Command::SetConfig(_) | Command::Zero(None) | Command::Flush => Ok(()),
    }
}

fn check_id(id: &ServiceId) -> Result<(), InvalidCommand> {
    match id {
        ServiceId::Fwmark { mark: 0, .. } => Err(InvalidCommand::MarkZero),
        ServiceId::Address { protocol: Protocol::Other(6 | 17 | 132), .. } => {
            Err(InvalidCommand::OtherNumber { what: "the protocol's number" })
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str, what: &'static str) -> Result<(), InvalidCommand> {
    if (1..=NAME_LENGTH).contains(&name.len()) && !name.contains('\0') {
        Ok(())
    } else {
        Err(InvalidCommand::Name { what })
    }
}

fn check_destination(destination: &Destination) -> Result<(), InvalidCommand> {
    if i32::try_from(destination.weight).is_err() {
        return Err(InvalidCommand::Weight);
    }
    match destination.forwarding {
        Forwarding::Other(0..=4 | 8..) => {
            Err(InvalidCommand::OtherNumber { what: "the forwarding method's number" })
        }
        Forwarding::Tunnel(tunnel) if matches!(tunnel.kind, TunnelKind::Other { number: 0..=2, .. }) => {
            Err(InvalidCommand::OtherNumber { what: "the tunnel type's number" })
        }
        _ => Ok(()),
    }
}

/// An address as `union nf_inet_addr`: 16 bytes, IPv4 in the first four.
fn union(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn put_id(buffer: &mut Vec<u8>, id: &ServiceId) {
    put_u16(buffer, svc::AF, id.family().number());
    match id {
        ServiceId::Fwmark { mark, .. } => put_u32(buffer, svc::FWMARK, *mark),
        ServiceId::Address { protocol, address, port } => {
            put_u16(buffer, svc::PROTOCOL, protocol.number());
            put(buffer, svc::ADDR, &union(*address));
            put_be16(buffer, svc::PORT, *port);
        }
    }
}

fn put_service_id(buffer: &mut Vec<u8>, id: &ServiceId) {
    let nest = open(buffer, top::SERVICE);
    put_id(buffer, id);
    close(buffer, nest);
}

fn put_service(buffer: &mut Vec<u8>, service: &Service) {
    let nest = open(buffer, top::SERVICE);
    put_id(buffer, &service.id);
    put_text(buffer, svc::SCHED_NAME, &service.scheduler);
    if let Some(name) = &service.pe_name {
        put_text(buffer, svc::PE_NAME, name);
    }
    // struct ip_vs_flags: the flags and which of them to set; all, so that a change of service leaves none of the old.
    let mut flags = [0xff; 8];
    flags[..4].copy_from_slice(&service.flags.bits().to_ne_bytes());
    put(buffer, svc::FLAGS, &flags);
    put_u32(buffer, svc::TIMEOUT, service.timeout);
    match service.netmask {
        Netmask::V4(mask) => put(buffer, svc::NETMASK, &mask.octets()),
        Netmask::V6(length) => put_u32(buffer, svc::NETMASK, u32::from(length)),
    }
    close(buffer, nest);
}

fn put_destination_id(buffer: &mut Vec<u8>, id: &DestinationId) {
    put_u16(buffer, dest::ADDR_FAMILY, id.family().number());
    put(buffer, dest::ADDR, &union(id.address));
    put_be16(buffer, dest::PORT, id.port);
}

fn put_destination(buffer: &mut Vec<u8>, destination: &Destination) {
    let nest = open(buffer, top::DEST);
    put_destination_id(buffer, &destination.id);
    put_u32(buffer, dest::FWD_METHOD, u32::from(destination.forwarding.number()));
    put_u32(buffer, dest::WEIGHT, destination.weight);
    if let Forwarding::Tunnel(tunnel) = destination.forwarding {
        let (kind, port) = match tunnel.kind {
            TunnelKind::Ipip => (0, 0),
            TunnelKind::Gue { port } => (1, port),
            TunnelKind::Gre => (2, 0),
            TunnelKind::Other { number, port } => (number, port),
        };
        put_u8(buffer, dest::TUN_TYPE, kind);
        put_be16(buffer, dest::TUN_PORT, port);
        put_u16(buffer, dest::TUN_FLAGS, tunnel.flags.bits());
    }
    put_u32(buffer, dest::U_THRESH, destination.upper_threshold);
    put_u32(buffer, dest::L_THRESH, destination.lower_threshold);
    close(buffer, nest);
}

fn put_daemon(buffer: &mut Vec<u8>, daemon: &Daemon) {
    let nest = open(buffer, top::DAEMON);
    put_u32(buffer, daemon::STATE, daemon.role.number());
    put_text(buffer, daemon::MCAST_IFN, &daemon.interface);
    put_u32(buffer, daemon::SYNC_ID, u32::from(daemon.sync_id));
    if let Some(length) = daemon.max_length {
        put_u16(buffer, daemon::SYNC_MAXLEN, length);
    }
    if let Some(port) = daemon.port {
        put_u16(buffer, daemon::MCAST_PORT, port);
    }
    if let Some(ttl) = daemon.ttl {
        put_u8(buffer, daemon::MCAST_TTL, ttl);
    }
    match daemon.group {
        Some(IpAddr::V4(group)) => put(buffer, daemon::MCAST_GROUP, &group.octets()),
        Some(IpAddr::V6(group)) => put(buffer, daemon::MCAST_GROUP6, &group.octets()),
        None => {}
    }
    close(buffer, nest);
}

fn put_daemon_role(buffer: &mut Vec<u8>, role: DaemonRole) {
    let nest = open(buffer, top::DAEMON);
    put_u32(buffer, daemon::STATE, role.number());
    close(buffer, nest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_for_a_scheduler_is_a_service_but_for_its_prefix_length() {
        let (mut question, mut command) = (Vec::new(), Vec::new());
        encode_scheduler_query(&mut question, 30, 7, "wlc").unwrap();
        let id = ServiceId::Fwmark { mark: u32::MAX, family: Family::Ipv6 };
        let service = Service { netmask: Netmask::V6(1), ..Service::new(id, "wlc") };
        encode_command(&mut command, 30, 7, NLM_F_ACK, &Command::NewService(service)).unwrap();
        assert_eq!(question.len(), command.len());
        let different: Vec<_> = question.iter().zip(&command).filter(|(one, other)| one != other).collect();
        assert_eq!(different, [(&0, &1)]);
        assert!(encode_scheduler_query(&mut Vec::new(), 30, 7, "").is_err());
    }
}
