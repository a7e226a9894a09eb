//! The kernel's messages, and for tests and tools also commands, from bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    DecodeError, cmd, daemon, dest, info, stats, svc, top,
    wire::{
        Attribute, GENERIC_HEADER, attributes, get_be16, get_bytes, get_text, get_u8, get_u16, get_u32,
        get_u64,
    },
};
use crate::{
    Command, Daemon, DaemonRole, Destination, DestinationEntry, DestinationId, Family, Forwarding, Info,
    Netmask, Protocol, Service, ServiceEntry, ServiceFlags, ServiceId, Stats64, Timeouts, Tunnel,
    TunnelFlags, TunnelKind,
};

/// What the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A service, by itself or as part of a dump.
    Service(ServiceEntry),
    /// A destination, as part of a dump.
    Destination(DestinationEntry),
    /// A sync daemon, as part of a dump.
    Daemon(Daemon),
    /// The timeouts.
    Timeouts(Timeouts),
    /// The version.
    Info(Info),
}

/// Decodes the payload of an IPVS message from the kernel (generic netlink header and attributes).
///
/// `service` is the family of the service whose destinations were asked for: a kernel before 3.18 does not say of which family
/// a destination is, it is the service's.
pub fn decode_reply(payload: &[u8], service: Family) -> Result<Reply, DecodeError> {
    let (command, body) = generic(payload)?;
    match command {
        cmd::NEW_SERVICE => {
            let attributes = Top::read(body)?;
            ServiceAttributes::read(attributes.service()?)?.entry().map(Reply::Service)
        }
        cmd::NEW_DEST => {
            let attributes = Top::read(body)?;
            DestinationAttributes::read(attributes.destination()?)?.entry(service).map(Reply::Destination)
        }
        cmd::NEW_DAEMON => {
            let attributes = Top::read(body)?;
            DaemonAttributes::read(attributes.daemon()?)?.daemon().map(Reply::Daemon)
        }
        cmd::SET_CONFIG => Top::read(body).map(|attributes| Reply::Timeouts(attributes.timeouts)),
        cmd::SET_INFO => read_info(body).map(Reply::Info),
        other => Err(DecodeError::UnexpectedCommand(other)),
    }
}

/// Decodes the payload of a command to the kernel: what a monitor of netlink sees, or what [`super::encode_command`] wrote.
pub fn decode_command(payload: &[u8]) -> Result<Command, DecodeError> {
    let (command, body) = generic(payload)?;
    let attributes = Top::read(body)?;
    let id = || ServiceAttributes::read(attributes.service()?)?.id();
    Ok(match command {
        cmd::NEW_SERVICE => Command::NewService(ServiceAttributes::read(attributes.service()?)?.service()?),
        cmd::SET_SERVICE => Command::SetService(ServiceAttributes::read(attributes.service()?)?.service()?),
        cmd::DEL_SERVICE => Command::DelService(id()?),
        cmd::NEW_DEST | cmd::SET_DEST => {
            let id = id()?;
            let destination =
                DestinationAttributes::read(attributes.destination()?)?.destination(id.family())?;
            if command == cmd::NEW_DEST {
                Command::NewDestination(id, destination)
            } else {
                Command::SetDestination(id, destination)
            }
        }
        cmd::DEL_DEST => {
            let id = id()?;
            let destination = DestinationAttributes::read(attributes.destination()?)?.id(id.family())?;
            Command::DelDestination(id, destination)
        }
        cmd::NEW_DAEMON => Command::NewDaemon(DaemonAttributes::read(attributes.daemon()?)?.daemon()?),
        cmd::DEL_DAEMON => Command::DelDaemon(DaemonAttributes::read(attributes.daemon()?)?.role()?),
        cmd::SET_CONFIG => Command::SetConfig(attributes.timeouts),
        cmd::ZERO if attributes.service.is_none() => Command::Zero(None),
        cmd::ZERO => Command::Zero(Some(id()?)),
        cmd::FLUSH => Command::Flush,
        other => return Err(DecodeError::UnexpectedCommand(other)),
    })
}

/// Decodes the controller's answer to [`super::encode_family_query`]: the id of the family.
pub fn decode_family(payload: &[u8]) -> Result<u16, DecodeError> {
    const CTRL_CMD_NEWFAMILY: u8 = 1;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    let (command, body) = generic(payload)?;
    if command != CTRL_CMD_NEWFAMILY {
        return Err(DecodeError::UnexpectedCommand(command));
    }
    let mut id = None;
    for attribute in attributes(body) {
        let Attribute { kind, value } = attribute?;
        if kind == CTRL_ATTR_FAMILY_ID {
            id = Some(get_u16(value, "CTRL_ATTR_FAMILY_ID")?);
        }
    }
    id.ok_or(DecodeError::Missing { attribute: "CTRL_ATTR_FAMILY_ID" })
}

/// The command and the attributes of a generic netlink payload.
fn generic(payload: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    match (payload.first(), payload.get(GENERIC_HEADER..)) {
        (Some(&command), Some(body)) => Ok((command, body)),
        _ => Err(DecodeError::Truncated { what: "a generic netlink header" }),
    }
}

fn require<T>(value: Option<T>, attribute: &'static str) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing { attribute })
}

/// The outermost attributes.
#[derive(Default)]
struct Top<'a> {
    service: Option<&'a [u8]>,
    destination: Option<&'a [u8]>,
    daemon: Option<&'a [u8]>,
    timeouts: Timeouts,
}

impl<'a> Top<'a> {
    fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        for attribute in attributes(body) {
            let Attribute { kind, value } = attribute?;
            match kind {
                top::SERVICE => all.service = Some(value),
                top::DEST => all.destination = Some(value),
                top::DAEMON => all.daemon = Some(value),
                top::TIMEOUT_TCP => all.timeouts.tcp = get_u32(value, "IPVS_CMD_ATTR_TIMEOUT_TCP")?,
                top::TIMEOUT_TCP_FIN => {
                    all.timeouts.tcp_fin = get_u32(value, "IPVS_CMD_ATTR_TIMEOUT_TCP_FIN")?;
                }
                top::TIMEOUT_UDP => all.timeouts.udp = get_u32(value, "IPVS_CMD_ATTR_TIMEOUT_UDP")?,
                _ => {}
            }
        }
        Ok(all)
    }

    fn service(&self) -> Result<&'a [u8], DecodeError> {
        require(self.service, "IPVS_CMD_ATTR_SERVICE")
    }

    fn destination(&self) -> Result<&'a [u8], DecodeError> {
        require(self.destination, "IPVS_CMD_ATTR_DEST")
    }

    fn daemon(&self) -> Result<&'a [u8], DecodeError> {
        require(self.daemon, "IPVS_CMD_ATTR_DAEMON")
    }
}

fn family(value: &[u8], attribute: &'static str) -> Result<Family, DecodeError> {
    let number = get_u16(value, attribute)?;
    Family::from_number(number).ok_or(DecodeError::Value { attribute, value: u32::from(number) })
}

/// `union nf_inet_addr`, or only as many bytes as the family needs.
fn address(value: &[u8], family: Family, attribute: &'static str) -> Result<IpAddr, DecodeError> {
    let wrong = DecodeError::Length { attribute, length: value.len() };
    match (family, value.len()) {
        (Family::Ipv4, 4 | 16) => {
            value.first_chunk::<4>().map(|&octets| Ipv4Addr::from(octets).into()).ok_or(wrong)
        }
        (Family::Ipv6, 16) => {
            value.first_chunk::<16>().map(|&octets| Ipv6Addr::from(octets).into()).ok_or(wrong)
        }
        _ => Err(wrong),
    }
}

#[derive(Default)]
struct ServiceAttributes<'a> {
    family: Option<Family>,
    protocol: Option<u16>,
    address: Option<&'a [u8]>,
    port: Option<u16>,
    fwmark: Option<u32>,
    scheduler: Option<String>,
    flags: Option<[u8; 8]>,
    timeout: Option<u32>,
    netmask: Option<[u8; 4]>,
    pe_name: Option<String>,
    stats: Option<Stats64>,
    stats64: Option<Stats64>,
}

impl<'a> ServiceAttributes<'a> {
    fn read(nest: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        for attribute in attributes(nest) {
            let Attribute { kind, value } = attribute?;
            match kind {
                svc::AF => all.family = Some(family(value, "IPVS_SVC_ATTR_AF")?),
                svc::PROTOCOL => all.protocol = Some(get_u16(value, "IPVS_SVC_ATTR_PROTOCOL")?),
                svc::ADDR => all.address = Some(value),
                svc::PORT => all.port = Some(get_be16(value, "IPVS_SVC_ATTR_PORT")?),
                svc::FWMARK => all.fwmark = Some(get_u32(value, "IPVS_SVC_ATTR_FWMARK")?),
                svc::SCHED_NAME => all.scheduler = get_text(value),
                svc::FLAGS => all.flags = Some(get_bytes(value, "IPVS_SVC_ATTR_FLAGS")?),
                svc::TIMEOUT => all.timeout = Some(get_u32(value, "IPVS_SVC_ATTR_TIMEOUT")?),
                svc::NETMASK => all.netmask = Some(get_bytes(value, "IPVS_SVC_ATTR_NETMASK")?),
                svc::PE_NAME => all.pe_name = get_text(value),
                svc::STATS => all.stats = Some(read_stats(value, true)?),
                svc::STATS64 => all.stats64 = Some(read_stats(value, false)?),
                _ => {}
            }
        }
        Ok(all)
    }

    fn id(&self) -> Result<ServiceId, DecodeError> {
        let family = require(self.family, "IPVS_SVC_ATTR_AF")?;
        if let Some(mark) = self.fwmark {
            return match mark {
                0 => Err(DecodeError::Value { attribute: "IPVS_SVC_ATTR_FWMARK", value: 0 }),
                mark => Ok(ServiceId::Fwmark { mark, family }),
            };
        }
        Ok(ServiceId::Address {
            protocol: Protocol::from_number(require(self.protocol, "IPVS_SVC_ATTR_PROTOCOL")?),
            address: address(require(self.address, "IPVS_SVC_ATTR_ADDR")?, family, "IPVS_SVC_ATTR_ADDR")?,
            port: require(self.port, "IPVS_SVC_ATTR_PORT")?,
        })
    }

    fn service(&self) -> Result<Service, DecodeError> {
        let id = self.id()?;
        let [f0, f1, f2, f3, ..] = require(self.flags, "IPVS_SVC_ATTR_FLAGS")?;
        let mask = require(self.netmask, "IPVS_SVC_ATTR_NETMASK")?;
        let netmask = match id.family() {
            Family::Ipv4 => Netmask::V4(mask.into()),
            Family::Ipv6 => {
                let length = u32::from_ne_bytes(mask);
                let wrong = DecodeError::Value { attribute: "IPVS_SVC_ATTR_NETMASK", value: length };
                Netmask::V6(u8::try_from(length).ok().filter(|length| *length <= 128).ok_or(wrong)?)
            }
        };
        Ok(Service {
            id,
            scheduler: require(self.scheduler.clone(), "IPVS_SVC_ATTR_SCHED_NAME")?,
            flags: ServiceFlags::from_bits(u32::from_ne_bytes([f0, f1, f2, f3])),
            timeout: require(self.timeout, "IPVS_SVC_ATTR_TIMEOUT")?,
            netmask,
            pe_name: self.pe_name.clone(),
        })
    }

    fn entry(&self) -> Result<ServiceEntry, DecodeError> {
        Ok(ServiceEntry {
            service: self.service()?,
            stats: require(self.stats64.or(self.stats), "IPVS_SVC_ATTR_STATS")?,
        })
    }
}

#[derive(Default)]
struct DestinationAttributes<'a> {
    address: Option<&'a [u8]>,
    port: Option<u16>,
    family: Option<Family>,
    method: Option<u32>,
    weight: Option<u32>,
    upper: Option<u32>,
    lower: Option<u32>,
    active: Option<u32>,
    inactive: Option<u32>,
    persistent: Option<u32>,
    tunnel_type: u8,
    tunnel_port: u16,
    tunnel_flags: u16,
    stats: Option<Stats64>,
    stats64: Option<Stats64>,
}

impl<'a> DestinationAttributes<'a> {
    fn read(nest: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        for attribute in attributes(nest) {
            let Attribute { kind, value } = attribute?;
            match kind {
                dest::ADDR => all.address = Some(value),
                dest::PORT => all.port = Some(get_be16(value, "IPVS_DEST_ATTR_PORT")?),
                dest::FWD_METHOD => all.method = Some(get_u32(value, "IPVS_DEST_ATTR_FWD_METHOD")?),
                dest::WEIGHT => all.weight = Some(get_u32(value, "IPVS_DEST_ATTR_WEIGHT")?),
                dest::U_THRESH => all.upper = Some(get_u32(value, "IPVS_DEST_ATTR_U_THRESH")?),
                dest::L_THRESH => all.lower = Some(get_u32(value, "IPVS_DEST_ATTR_L_THRESH")?),
                dest::ACTIVE_CONNS => all.active = Some(get_u32(value, "IPVS_DEST_ATTR_ACTIVE_CONNS")?),
                dest::INACT_CONNS => all.inactive = Some(get_u32(value, "IPVS_DEST_ATTR_INACT_CONNS")?),
                dest::PERSIST_CONNS => all.persistent = Some(get_u32(value, "IPVS_DEST_ATTR_PERSIST_CONNS")?),
                // 0, as a request may say, is the service's family.
                dest::ADDR_FAMILY if value != [0, 0] => {
                    all.family = Some(family(value, "IPVS_DEST_ATTR_ADDR_FAMILY")?);
                }
                dest::TUN_TYPE => all.tunnel_type = get_u8(value, "IPVS_DEST_ATTR_TUN_TYPE")?,
                dest::TUN_PORT => all.tunnel_port = get_be16(value, "IPVS_DEST_ATTR_TUN_PORT")?,
                dest::TUN_FLAGS => all.tunnel_flags = get_u16(value, "IPVS_DEST_ATTR_TUN_FLAGS")?,
                dest::STATS => all.stats = Some(read_stats(value, true)?),
                dest::STATS64 => all.stats64 = Some(read_stats(value, false)?),
                _ => {}
            }
        }
        Ok(all)
    }

    fn id(&self, service: Family) -> Result<DestinationId, DecodeError> {
        let bytes = require(self.address, "IPVS_DEST_ATTR_ADDR")?;
        Ok(DestinationId {
            address: address(bytes, self.family.unwrap_or(service), "IPVS_DEST_ATTR_ADDR")?,
            port: require(self.port, "IPVS_DEST_ATTR_PORT")?,
        })
    }

    /// The kernel keeps tunnel attributes of destinations without tunnel, too; they mean nothing there, nor does a port without GUE.
    fn forwarding(&self) -> Result<Forwarding, DecodeError> {
        const ATTRIBUTE: &str = "IPVS_DEST_ATTR_FWD_METHOD";
        let method = require(self.method, ATTRIBUTE)?;
        Ok(match u8::try_from(method) {
            Ok(0) => Forwarding::Masquerade,
            Ok(1) => Forwarding::Local,
            Ok(2) => {
                let port = self.tunnel_port;
                let kind = match self.tunnel_type {
                    0 => TunnelKind::Ipip,
                    1 => TunnelKind::Gue { port },
                    2 => TunnelKind::Gre,
                    number => TunnelKind::Other { number, port },
                };
                Forwarding::Tunnel(Tunnel { kind, flags: TunnelFlags::from_bits(self.tunnel_flags) })
            }
            Ok(3) => Forwarding::DirectRouting,
            Ok(4) => Forwarding::Bypass,
            Ok(number @ 5..=7) => Forwarding::Other(number),
            _ => return Err(DecodeError::Value { attribute: ATTRIBUTE, value: method }),
        })
    }

    fn destination(&self, service: Family) -> Result<Destination, DecodeError> {
        Ok(Destination {
            id: self.id(service)?,
            forwarding: self.forwarding()?,
            weight: require(self.weight, "IPVS_DEST_ATTR_WEIGHT")?,
            upper_threshold: require(self.upper, "IPVS_DEST_ATTR_U_THRESH")?,
            lower_threshold: require(self.lower, "IPVS_DEST_ATTR_L_THRESH")?,
        })
    }

    fn entry(&self, service: Family) -> Result<DestinationEntry, DecodeError> {
        Ok(DestinationEntry {
            destination: self.destination(service)?,
            active_connections: require(self.active, "IPVS_DEST_ATTR_ACTIVE_CONNS")?,
            inactive_connections: require(self.inactive, "IPVS_DEST_ATTR_INACT_CONNS")?,
            persistent_connections: require(self.persistent, "IPVS_DEST_ATTR_PERSIST_CONNS")?,
            stats: require(self.stats64.or(self.stats), "IPVS_DEST_ATTR_STATS")?,
        })
    }
}

#[derive(Default)]
struct DaemonAttributes {
    state: Option<u32>,
    interface: Option<String>,
    sync_id: Option<u32>,
    max_length: Option<u16>,
    group: Option<IpAddr>,
    port: Option<u16>,
    ttl: Option<u8>,
}

impl DaemonAttributes {
    fn read(nest: &[u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        for attribute in attributes(nest) {
            let Attribute { kind, value } = attribute?;
            match kind {
                daemon::STATE => all.state = Some(get_u32(value, "IPVS_DAEMON_ATTR_STATE")?),
                daemon::MCAST_IFN => all.interface = get_text(value),
                daemon::SYNC_ID => all.sync_id = Some(get_u32(value, "IPVS_DAEMON_ATTR_SYNC_ID")?),
                daemon::SYNC_MAXLEN => all.max_length = Some(get_u16(value, "IPVS_DAEMON_ATTR_SYNC_MAXLEN")?),
                daemon::MCAST_GROUP => {
                    all.group = Some(get_bytes::<4>(value, "IPVS_DAEMON_ATTR_MCAST_GROUP")?.into());
                }
                daemon::MCAST_GROUP6 => {
                    all.group = Some(get_bytes::<16>(value, "IPVS_DAEMON_ATTR_MCAST_GROUP6")?.into());
                }
                daemon::MCAST_PORT => all.port = Some(get_u16(value, "IPVS_DAEMON_ATTR_MCAST_PORT")?),
                daemon::MCAST_TTL => all.ttl = Some(get_u8(value, "IPVS_DAEMON_ATTR_MCAST_TTL")?),
                _ => {}
            }
        }
        Ok(all)
    }

    fn role(&self) -> Result<DaemonRole, DecodeError> {
        const ATTRIBUTE: &str = "IPVS_DAEMON_ATTR_STATE";
        match require(self.state, ATTRIBUTE)? {
            1 => Ok(DaemonRole::Master),
            2 => Ok(DaemonRole::Backup),
            value => Err(DecodeError::Value { attribute: ATTRIBUTE, value }),
        }
    }

    fn daemon(self) -> Result<Daemon, DecodeError> {
        const SYNC_ID: &str = "IPVS_DAEMON_ATTR_SYNC_ID";
        let sync_id = require(self.sync_id, SYNC_ID)?;
        Ok(Daemon {
            role: self.role()?,
            interface: require(self.interface, "IPVS_DAEMON_ATTR_MCAST_IFN")?,
            sync_id: u8::try_from(sync_id)
                .map_err(|_| DecodeError::Value { attribute: SYNC_ID, value: sync_id })?,
            max_length: self.max_length,
            group: self.group,
            port: self.port,
            ttl: self.ttl,
        })
    }
}

/// Counters; `narrow` is IPVS_*_ATTR_STATS, where all but bytes have 32 bits.
fn read_stats(nest: &[u8], narrow: bool) -> Result<Stats64, DecodeError> {
    let mut all = Stats64 { narrow, ..Stats64::default() };
    for attribute in attributes(nest) {
        let Attribute { kind, value } = attribute?;
        let field = match kind {
            stats::CONNS => &mut all.connections,
            stats::INPKTS => &mut all.packets_in,
            stats::OUTPKTS => &mut all.packets_out,
            stats::INBYTES => &mut all.bytes_in,
            stats::OUTBYTES => &mut all.bytes_out,
            stats::CPS => &mut all.connections_per_second,
            stats::INPPS => &mut all.packets_in_per_second,
            stats::OUTPPS => &mut all.packets_out_per_second,
            stats::INBPS => &mut all.bytes_in_per_second,
            stats::OUTBPS => &mut all.bytes_out_per_second,
            _ => continue,
        };
        *field = if narrow && !matches!(kind, stats::INBYTES | stats::OUTBYTES) {
            u64::from(get_u32(value, "IPVS_STATS_ATTR_*")?)
        } else {
            get_u64(value, "IPVS_STATS_ATTR_*")?
        };
    }
    Ok(all)
}

fn read_info(body: &[u8]) -> Result<Info, DecodeError> {
    let (mut version, mut size) = (None, None);
    for attribute in attributes(body) {
        let Attribute { kind, value } = attribute?;
        match kind {
            info::VERSION => version = Some(get_u32(value, "IPVS_INFO_ATTR_VERSION")?),
            info::CONN_TAB_SIZE => size = Some(get_u32(value, "IPVS_INFO_ATTR_CONN_TAB_SIZE")?),
            _ => {}
        }
    }
    let [_, major, minor, patch] = require(version, "IPVS_INFO_ATTR_VERSION")?.to_be_bytes();
    Ok(Info {
        version: (major, minor, patch),
        connection_table_size: require(size, "IPVS_INFO_ATTR_CONN_TAB_SIZE")?,
    })
}
